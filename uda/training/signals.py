"""SIGTERM and SIGINT: a training ends with its step and its checkpoint, anything else at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from uda.devices.distributed import any_of

SIGNALS = (signal.SIGTERM, signal.SIGINT)
AGAIN = 1.0
"""Seconds within which a second signal is the same request: launchers pass on what their children got too."""


class Stopped(BaseException):
    """The process was asked to end. ``exit_code`` is that of a shell for this signal.

    Args:
        saved: what was saved on the way out, in a few words.
    """

    def __init__(self, number: int, saved: str = "") -> None:
        self.exit_code = 128 + number
        said = f"stopped by {signal.Signals(number).name}{saved and ', '}{saved}"
        super().__init__(f"{said}; the same command goes on from there")


@dataclass
class _Asked:
    number: int = 0
    """of the signal; 0: nobody asked"""
    when: float = 0.0
    patient: bool = False
    """whether somebody looks after each step"""


_asked = _Asked()


@contextlib.contextmanager
def heeded() -> Iterator[None]:
    """Inside, the signals raise :class:`Stopped` in the main thread, as :func:`after_step` says; a second one kills."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [n for n in SIGNALS if signal.getsignal(n) != signal.SIG_IGN]  # as nohup leaves them
    before = {number: signal.signal(number, _note) for number in taken}
    try:
        yield
    except Exception as error:
        if _asked.number:  # a library took what the handler raised for an error of its own
            raise stopped() from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked.number, _asked.patient = 0, False


def _note(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if not _asked.number:
        _asked.number, _asked.when = number, now
        if not _asked.patient:
            raise Stopped(number)
    elif now - _asked.when > AGAIN:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


@contextlib.contextmanager
def after_step() -> Iterator[None]:
    """Inside, a signal waits until somebody asks :func:`is_asked` and raises :func:`stopped`."""
    _asked.patient = True
    try:
        yield
    finally:
        _asked.patient = False
    if _asked.number:
        raise stopped()


def is_asked() -> bool:
    """Whether any of the processes was asked to end; all get the same answer at the same step."""
    return any_of(bool(_asked.number))


def stopped(saved: str = "") -> Stopped:
    """What to raise then. A process that was not asked itself ends with the others."""
    return Stopped(_asked.number or signal.SIGTERM, saved)
