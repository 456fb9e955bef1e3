"""Handling of SIGTERM and SIGINT: a training ends after its step and checkpoint, other work at once.

SIGHUP is ignored: a terminal that vanishes does not end the work.
"""

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
REPEAT = 2.0
"""Seconds after which :class:`Stopped` is raised again where something caught it, such as a library's callback."""
AGAIN = 1.0
"""Seconds within which a second signal counts as the same request; launchers forward signals to their children."""


class Stopped(BaseException):
    """A signal asked the process to end. ``exit_code`` is the one that a shell gives for this signal.

    Args:
        number: of the signal.
        saved: what was saved, in a few words.
    """

    def __init__(self, number: int, saved: str = "") -> None:
        self.exit_code = 128 + number
        message = f"stopped by {signal.Signals(number).name}{saved and ', '}{saved}"
        super().__init__(f"{message}; the same command goes on from there")


@dataclass
class _Asked:
    number: int = 0
    """of the signal; 0: no signal"""
    when: float = 0.0
    patient: bool = False
    """whether the training checks :func:`is_asked` after each step"""


_asked = _Asked()


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Inside the block the signals raise :class:`Stopped` in the main thread; a second signal kills the process.

    Once a training has begun its first step (:func:`begin_step`), the exception waits for the end of the step.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [
        n for n in SIGNALS if signal.getsignal(n) != signal.SIG_IGN
    ]  # ignored signals stay ignored
    before = {number: signal.signal(number, _note) for number in taken}
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, _remind)
    try:
        yield
    except Exception as error:
        if _asked.number:  # a library turned the handler's exception into its own
            raise stopped() from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked.number, _asked.patient = 0, False


def _note(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if not _asked.number:
        _asked.number, _asked.when = number, now
        if not _asked.patient:
            signal.setitimer(signal.ITIMER_REAL, REPEAT, REPEAT)
            raise Stopped(number)
    elif now - _asked.when > AGAIN:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _remind(number: int, frame: FrameType | None) -> None:
    raise Stopped(_asked.number)


def begin_step() -> None:
    """From here to the end of :func:`after_step` a signal only sets a flag.

    The caller checks :func:`is_asked` and raises :func:`stopped`.
    """
    _asked.patient = True


@contextlib.contextmanager
def after_step() -> Iterator[None]:
    """The block of a training, whose steps begin with :func:`begin_step`."""
    try:
        yield
    finally:
        _asked.patient = False
    if _asked.number:
        raise stopped()


def is_asked() -> bool:
    """Whether any process got a signal; all processes get the same answer at the same step."""
    return any_of(bool(_asked.number))


def stopped(saved: str = "") -> Stopped:
    """The exception to raise; a process that got no signal itself ends as by SIGTERM."""
    return Stopped(_asked.number or signal.SIGTERM, saved)
