"""`uda check`: every fault and every remark of a data set before any training."""
