"""Inputs that somebody edits, during a run and between two."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fault_injection import Fault
from verbs import (
    Verb,
    World,
    cleared,
    ended_as,
    expected,
    held,
    live,
    other_content,
)

from disturbances.judging import Verdicts, guarded, moments, taken


@dataclass(frozen=True)
class Editing:
    """Somebody saves another content of the same size, with the old time or with a new one."""

    path: Path
    content: bytes
    hidden: bool

    def __call__(self) -> None:
        status = self.path.stat()
        self.path.write_bytes(self.content)
        if self.hidden:
            os.utime(self.path, ns=(status.st_atime_ns, status.st_mtime_ns))


@contextlib.contextmanager
def restored(path: Path) -> Iterator[None]:
    content, status = path.read_bytes(), path.stat()
    try:
        yield
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def after_edit(world: World, verb: Verb, name: str) -> dict[str, bytes]:
    """The result of an input's other content; nothing where it is refused."""
    if verb.sealed:
        return {}
    path = world.given / name
    with restored(path):
        path.write_bytes(other_content(world, name))
        return expected(world, verb, key=name)


def edits(world: World, verb: Verb, draw: Random, every: int) -> Verdicts:
    """An input is edited at a moment of the run; then the same command is given again."""
    before_edit = expected(world, verb)
    last = moments(world, verb, reads=True)
    for name in verb.reads:
        path, content = world.given / name, other_content(world, name)
        right = after_edit(world, verb, name)
        for number, at in enumerate(taken(last, every, draw)):
            with restored(path):
                cleared(world)
                before = held(world.given)
                edit = Editing(path, content, hidden=bool(number % 2))
                code = live(world, verb.typed(world), Fault(world.disk, at, edit, world.given))
                hidden = ", same size and time" if edit.hidden else ""
                kind = f"edit of an input during the run{hidden}"
                verdict = one_of(world, code, before_edit, right)
                if verdict in ("exact", "refused"):
                    verdict = noticed(world, verb, right)
                yield kind, guarded(world, f"{verdict}{_where(verdict, name, at)}", before, path)


def _where(verdict: str, name: str, at: int) -> str:
    return "" if verdict in ("exact", "refused") else f" ({name} edited at moment {at})"


def one_of(world: World, code: int, *rights: dict[str, bytes]) -> str:
    """Whether it ended as one of them, not as a mixture."""
    verdicts = [ended_as(world, code, right) for right in rights]
    return "exact" if "exact" in verdicts else verdicts[-1]


def noticed(world: World, verb: Verb, right: dict[str, bytes]) -> str:
    """The same command again: the result of what the input is now, or a refusal to replace the earlier one."""
    code = live(world, verb.typed(world))
    verdict = ended_as(world, code, right)
    return verdict if verdict in ("exact", "refused") else f"then {verdict}"


def edits_between(world: World, verb: Verb) -> Verdicts:
    """An input is edited between two runs, with and without a new time."""
    for name in verb.reads:
        path, content = world.given / name, other_content(world, name)
        right = after_edit(world, verb, name)
        for hidden in (False, True):
            with restored(path):
                cleared(world)
                live(world, verb.typed(world))
                Editing(path, content, hidden)()
                before = held(world.given)
                verdict = noticed(world, verb, right)
                kind = "edit of an input between runs" + (", same size and time" if hidden else "")
                yield kind, guarded(world, f"{verdict}{_where(verdict, name, 0)}", before)
