"""The command ``uda``, also as ``python -m uda``: it answers signals while the command line is still imported."""

import os
import signal
from types import FrameType


def main() -> None:
    """Run ``uda``; a signal that comes before any work ends the process at once."""
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from uda.cli.main import main as run

    run()


def _stop(number: int, frame: FrameType | None) -> None:
    line = f"stopped by {signal.Signals(number).name}; the same command goes on from there\n"
    try:
        os.write(2, line.encode())
    finally:
        os._exit(128 + number)


if __name__ == "__main__":
    main()
