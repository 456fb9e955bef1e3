"""Devices and precision; several processes that give the result of one."""
