"""Devices, precision and distributed training whose result is that of one process."""
