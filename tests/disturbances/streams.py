"""Signals after which the work goes on, and streams that nobody reads."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from fault_injection import Fault
from verbs import (
    Verb,
    World,
    begin,
    cleared,
    ended_as,
    expected,
    held,
    live,
)

from disturbances.judging import Verdicts, guarded, moments, waited


@dataclass(frozen=True)
class Hearing:
    """The process is told this signal at a moment; after SIGSTOP it goes on."""

    number: int

    def __call__(self) -> None:
        if self.number == signal.SIGSTOP:
            wake = f"sleep 0.1; kill -CONT {os.getpid()}"
            subprocess.Popen(["sh", "-c", wake], stdin=subprocess.DEVNULL)
        os.kill(os.getpid(), self.number)


def signals(world: World, verb: Verb, draw: Random) -> Verdicts:
    """Signals after which the work goes on."""
    right = expected(world, verb)
    last = moments(world, verb, reads=True)
    for name, number in (("SIGSTOP, SIGCONT", signal.SIGSTOP), ("SIGHUP", signal.SIGHUP)):
        cleared(world)
        before = held(world.given)
        fault = Fault(world.disk, draw.randint(1, last), Hearing(number), world.given)
        verdict = ended_as(world, live(world, verb.typed(world), fault), right)
        yield name, guarded(world, went_on(verdict), before)


def went_on(verdict: str) -> str:
    return verdict if verdict != "refused" else "was ended"


@dataclass(frozen=True)
class Closing:
    """The streams as an interpreter finds them that was started without them."""

    numbers: tuple[int, ...]

    def __call__(self) -> None:
        for number in self.numbers:
            os.close(number)
            name = ("stdin", "stdout", "stderr")[number]
            setattr(sys, name, None)
            setattr(sys, f"__{name}__", None)


@dataclass(frozen=True)
class Into:
    """Output goes to this pipe or terminal, opened anew."""

    path: str
    numbers: tuple[int, ...]

    def __call__(self) -> None:
        if self.path.startswith("/dev/"):
            os.setsid()
        opened = os.open(self.path, os.O_RDWR if self.path.startswith("/dev/") else os.O_WRONLY)
        for number in self.numbers:
            os.dup2(opened, number)
            stream = os.fdopen(number, "w", closefd=False)
            setattr(sys, ("", "stdout", "stderr")[number], stream)
            setattr(sys, ("", "__stdout__", "__stderr__")[number], stream)


def closed(world: World, verb: Verb) -> Verdicts:
    """Closed from the start, closed by the reader in the midst, a terminal that vanishes."""
    right = expected(world, verb)
    for numbers in ((0,), (1,), (2,), (0, 1, 2)):
        cleared(world)
        before = held(world.given)
        code = live(world, verb.typed(world), None, Closing(numbers))
        yield "closed stream", guarded(world, went_on(ended_as(world, code, right)), before)
    readers: dict[str, Callable[[], int]] = {
        "standard output is read to its first line": lambda: piped(world, verb, 1),
        "standard error is read to its first line": lambda: piped(world, verb, 2),
        "terminal vanishes": lambda: on_a_terminal(world, verb),
    }
    for name, reading in readers.items():
        cleared(world)
        before = held(world.given)
        code = reading()
        yield name, guarded(world, went_on(ended_as(world, code, right)), before)


def piped(world: World, verb: Verb, number: int) -> int:
    """Standard output or error is read up to its first line."""
    path = world.home / "pipe"
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    child = begin(world, verb.typed(world), world.errors, Into(str(path), (number,)))
    with path.open("rb") as reader:
        reader.readline()
    return waited(child)


def on_a_terminal(world: World, verb: Verb) -> int:
    """A terminal that vanishes after the first bytes."""
    master, slave = pty.openpty()
    child = begin(world, verb.typed(world), world.errors, Into(os.ttyname(slave), (1, 2)))
    with contextlib.suppress(OSError):
        os.read(master, 1)
    os.close(master)
    os.close(slave)
    return waited(child)
