"""Synthetic images for tests and demos."""
