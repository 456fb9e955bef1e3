"""``python -m uda``."""

from uda.cli.main import main

main()
