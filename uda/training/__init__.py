"""The training loop, its state and its batches, and the terms of an objective at work."""
