"""`uda check`: find the faults of a data set before any training."""
