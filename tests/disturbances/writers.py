"""Two processes at once in one folder."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from random import Random

from verbs import (
    VERBS,
    Verb,
    World,
    begin,
    cleared,
    ended_as,
    expected,
    held,
    live,
    refusal,
    result,
)

from disturbances.judging import guarded, waited


def both(world: World, verb: Verb, draw: Random, *, other: bool, killed: bool) -> str:
    """Two at once in one new folder: whatever each is told, what stands is the whole result of one."""
    rights = [expected(world, verb)]
    if other:
        rights.append(expected(world, verb, other=True))
    cleared(world)
    before = held(world.given)
    notes = [world.home / "one.txt", world.home / "two.txt"]
    children = []
    for number, errors in enumerate(notes):
        children.append(begin(world, verb.typed(world, other=other and number == 1), errors))
        time.sleep(draw.choice((0, 0, 0.02, 0.1)))
    for child in children[: draw.choice((1, 2)) if killed else 0]:
        time.sleep(draw.uniform(0, 0.5))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
    codes = [waited(child) for child in children]
    verdict = _of_two(world, verb, codes, notes, rights, killed)
    return guarded(world, verdict, before)


def _of_two(
    world: World,
    verb: Verb,
    codes: list[int],
    notes: list[Path],
    rights: list[dict[str, bytes]],
    killed: bool,
) -> str:
    for code, told in zip(codes, notes, strict=True):
        if code not in (0, -signal.SIGKILL):
            refused = refusal(world, code, told)
            if refused != "refused":
                return refused
    done = [number for number, code in enumerate(codes) if code == 0]
    if not done and not killed:
        return f"both were refused: {notes[0].read_text()[:200]} {notes[1].read_text()[:200]}"
    if done:
        verdicts = [one_above(world, *rights), one_above(world, *rights[::-1])]
        # The next command sweeps what a killed process left unfinished.
        if not any(v == "exact" or (killed and v.startswith("left ")) for v in verdicts):
            return f"a mixture: {verdicts}"
        if len(done) == 2 and len(rights) == 2 and not verb.stages and verb.name == "predict":
            return "two models in one folder"
    code = live(world, verb.typed(world))
    verdict = ended_as(world, code, {}) if code else one_above(world, *rights)
    if verdict == "refused" and (len(rights) == 1 or verb.stages):
        return f"then refused: {world.errors.read_text()[:300]}"
    return verdict


def one_above(world: World, right: dict[str, bytes], other: dict[str, bytes] | None = None) -> str:
    """Whether the result of one stands whole, perhaps beside what else the other wrote before."""
    found = result(world.out)
    rest = {name: content for name, content in found.items() if name not in right}
    above = {**rest, **right} == found and rest.items() <= (other or {}).items()
    return ended_as(world, 0, found if above else right)


def run_and_report(world: World, draw: Random) -> str:
    """A run, and a report of it while it is made."""
    verb = VERBS["run"]
    right = expected(world, verb)
    cleared(world)
    before = held(world.given)
    child = begin(world, verb.typed(world), world.home / "one.txt")
    time.sleep(draw.uniform(0, 2))
    told = world.home / "two.txt"
    reporting = begin(world, ["report", str(world.out)], told)
    code, other = waited(child), waited(reporting)
    if code:
        return refusal(world, code, world.home / "one.txt")
    if other and (refused := refusal(world, other, told)) != "refused":
        return refused
    return guarded(world, ended_as(world, code, right), before)
