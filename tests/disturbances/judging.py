"""What became of a command, and when something can come in between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from fault_injection import Fault
from verbs import (
    Verb,
    World,
    cleared,
    ended_as,
    expected,
    live,
    touched,
)

Verdicts = Iterator[tuple[str, str]]
LATE = 120.0
"""Seconds after which a command hangs."""


def again(world: World, verb: Verb, first: str) -> str:
    """What the same command ends with once the cause is gone, which may have left unfinished work."""
    if first not in ("refused", "exact") and not first.startswith("left "):
        return first
    code = live(world, verb.typed(world))
    verdict = ended_as(world, code, expected(world, verb))
    return verdict if verdict == "exact" else f"then {verdict}"


def guarded(world: World, verdict: str, before: dict[Path, Any], but: Path | None = None) -> str:
    """The verdict, unless something foreign was touched."""
    foreign = touched(before, but)
    return f"touched {foreign[0].relative_to(world.home)}" if foreign else verdict


def moments(world: World, verb: Verb, reads: bool = False) -> int:
    """How many there are: operations that change files and, on request, openings of inputs."""
    counter = world.home / "count"

    cleared(world)
    fault = Fault(world.disk, 1 << 30, Counting(counter), world.given if reads else None)
    live(world, verb.typed(world), fault)
    cleared(world)
    return int(counter.read_text())


@dataclass(frozen=True)
class Counting:
    """A disturbance that never comes, and is told at the end how many moments there were."""

    path: Path

    def __call__(self) -> None:
        raise AssertionError

    def counted(self, count: int) -> None:
        self.path.write_text(str(count))


def taken(last: int, every: int, draw: Random) -> range:
    """Every n-th moment, and one at least."""
    return range(draw.randint(1, min(every, last)), last + 1, every)


def waited(child: Any) -> int:
    child.join(LATE)
    if child.exitcode is None:
        child.kill()
        child.join()
        return 999
    return int(child.exitcode)
