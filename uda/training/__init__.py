"""The training loop, its state, batches and logs, and the objective with the parts of its terms."""
