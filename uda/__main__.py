"""``python -m uda``."""

from uda.cli import main

main()
