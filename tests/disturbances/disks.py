"""Disks that are full, refuse a call, or become read-only."""

from __future__ import annotations

import contextlib
import errno
import resource
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fault_injection import Fault
from refusing_kernel import Refusing
from verbs import (
    Verb,
    World,
    cleared,
    ended_as,
    expected,
    held,
    live,
)

from disturbances.judging import Verdicts, again, guarded, moments, taken

MESSAGE = 2000
"""Bytes that a message on a small disk takes at most."""


@contextlib.contextmanager
def small_disk(world: World, options: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", world.disk], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", world.disk], check=True)


def may_mount(folder: Path) -> bool:
    """Whether this process may mount disks of its own."""
    folder.mkdir(exist_ok=True)
    given = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    try:
        if subprocess.run(given, check=False, capture_output=True).returncode:
            return False
    except OSError:
        return False
    subprocess.run(["umount", folder], check=True)
    return True


def full(world: World, verb: Verb, draw: Random) -> Verdicts:
    """A disk without room: of bytes, of files, and room afterwards."""
    right = expected(world, verb)
    size = sum(4096 + len(content) for content in right.values())
    pages = draw.randint(1, max(2, 2 * size // 4096))
    inodes = draw.randint(2, 2 * len(right) + 8)
    for name, options in (
        ("full disk", f"size={4096 * pages}"),
        ("no file left", f"nr_inodes={inodes}"),
    ):
        with small_disk(world, options):
            before = held(world.given)
            first = ended_as(world, live(world, verb.typed(world)), right)
            more = "remount,size=1g,nr_inodes=0"
            subprocess.run(["mount", "-o", more, world.disk], check=True)
            yield name, guarded(world, again(world, verb, first), before)


@dataclass(frozen=True)
class Quota:
    """No file larger than this: what a quota does in the midst of a file. A message fits."""

    most: int

    def __call__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.most, self.most))


def quota(world: World, verb: Verb, draw: Random) -> Verdicts:
    right = expected(world, verb)
    largest = max(map(len, right.values()))
    before = held(world.given)
    first = live(
        world, verb.typed(world), None, Quota(draw.randint(MESSAGE, max(MESSAGE, largest)))
    )
    verdict = again(world, verb, ended_as(world, first, right))
    yield "file over a quota", guarded(world, verdict, before)


@dataclass(frozen=True)
class Remounting:
    """The disk becomes read-only: by the kernel where no file is open for writing, else call by call."""

    disk: Path

    def __call__(self) -> None:
        given = ["mount", "-o", "remount,ro", str(self.disk)]
        if subprocess.run(given, check=False, capture_output=True).returncode:
            Refusing("change", errno.EROFS)()


def failing(world: World, verb: Verb, draw: Random, every: int) -> Verdicts:
    """System calls that fail from a moment on."""
    right = expected(world, verb)
    last = moments(world, verb)
    kinds: dict[str, Callable[[], None]] = {
        "EIO at writing": Refusing("write"),
        "EIO at fsync": Refusing("fsync"),
        "EIO at renaming": Refusing("rename"),
        "read-only in the midst": Refusing("change", errno.EROFS),
    }
    for name, kind in kinds.items():
        for at in taken(last, every, draw):
            cleared(world)
            before = held(world.given)
            fault = Fault(world.disk, at, kind)
            first = ended_as(world, live(world, verb.typed(world), fault), right)
            yield name, guarded(world, again(world, verb, first), before)


def remounted(world: World, verb: Verb, draw: Random, every: int) -> Verdicts:
    right = expected(world, verb)
    last = moments(world, verb)
    for at in taken(last, every, draw):
        with small_disk(world, "size=1g"):
            before = held(world.given)
            fault = Fault(world.disk, at, Remounting(world.disk))
            first = ended_as(world, live(world, verb.typed(world), fault), right)
            subprocess.run(["mount", "-o", "remount,rw", world.disk], check=True)
            yield "remounted read-only", guarded(world, again(world, verb, first), before)
