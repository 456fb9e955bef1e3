"""Foreign files, edited results, locks and inputs where results would go."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

from verbs import (
    Verb,
    World,
    cleared,
    ended_as,
    expected,
    held,
    live,
    refusal,
    result,
    touched,
)

from disturbances.judging import Verdicts, guarded
from uda.files.ledger import LEDGER

NOTE = b"mine\n"


def replaced(world: World, path: Path) -> bytes:
    """Put something foreign in a place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(NOTE)
    return NOTE


def foreign_before(world: World, verb: Verb, draw: Random, most: int) -> Verdicts:
    """Foreign files in output folders: beside the results, and where a result would go."""
    right = expected(world, verb)
    names = sorted(right)
    folders = sorted({Path(name).parent for name in names})
    for folder in folders[:most]:
        cleared(world)
        replaced(world, world.out / folder / "notes.txt")
        yield "foreign file in an output folder", _kept(world, verb, right, folder / "notes.txt")
    for name in draw.sample(names, min(most, len(names))):
        cleared(world)
        replaced(world, world.out / name)
        yield "foreign file in a result's place", _kept(world, verb, right, Path(name))
    for name in (".uda.lock", LEDGER):
        cleared(world)
        replaced(world, world.out / name)
        yield "foreign lock or ledger", _kept(world, verb, right, Path(name))


def _kept(world: World, verb: Verb, right: dict[str, bytes], name: Path) -> str:
    before = held(world.given, world.disk)
    code = live(world, verb.typed(world))
    if code:
        return guarded(world, refusal(world, code), before)
    found = {k: v for k, v in result(world.out).items() if k != name.as_posix()}
    missing = [k for k in right if k != name.as_posix() and found.get(k) != right[k]]
    verdict = f"other bytes: {missing[0]}" if missing else "exact"
    return guarded(world, verdict, before)


def places_of_inputs(world: World, verb: Verb, draw: Random) -> Verdicts:
    """Outputs in, on and above inputs, by name and by links."""
    right, link = expected(world, verb), world.disk / "link"
    images = world.given / "data" / "t" / "images"
    for out in (images, images / "sub", world.given, world.given / "run", link, link / "sub"):
        cleared(world)
        link.symlink_to(images)
        before = held(world.given)
        code = live(world, verb.typed(world, out=out))
        verdict = guarded(world, refusal(world, code) if code else "exact", before)
        for path in sorted(set(held(world.given)) - set(before)):  # an output beside foreign files
            path.unlink()
        yield "output in or around inputs", _at(verdict, out)
    for name in draw.sample(sorted(right), 1):
        cleared(world)
        (world.out / name).parent.mkdir(parents=True)
        (world.out / name).symlink_to(world.given / verb.reads[0])
        yield (
            "a result's place is a link to an input",
            _kept(world, verb, right, Path(name)),
        )


def _at(verdict: str, out: Path) -> str:
    return verdict if verdict in ("exact", "refused") else f"{verdict} (--out {out})"


def stale_locks(world: World, verb: Verb) -> Verdicts:
    """The lock file that a killed process left."""
    right = expected(world, verb)
    cleared(world)
    if verb.lock:
        lock = world.disk / verb.lock
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
        before = held(world.given)
        verdict = ended_as(world, live(world, verb.typed(world)), right)
        yield "stale lock", guarded(world, verdict, before)


def edited_outputs(world: World, verb: Verb, draw: Random, most: int) -> Verdicts:
    """A result is edited between two runs: it stays, or, in a stage, is made again or refused."""
    right = expected(world, verb)
    names = sorted(right)
    for number, name in enumerate(draw.sample(names, min(most, len(names)))):
        cleared(world)
        live(world, verb.typed(world))
        path = world.out / name
        content, status = path.read_bytes(), path.stat()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:] if content else NOTE)
        if number % 2:
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        mine, before = held(path), held(world.given)
        code = live(world, verb.typed(world))
        verdict = refusal(world, code) if code else "exact"
        own = (
            verb.stages or Path(name).parts[0] == "cases"
        )  # records and stages are uda's own by name
        if (
            verdict == "exact"
            and touched(mine)
            and not (own and ended_as(world, code, right) == "exact")
        ):
            verdict = f"replaced the edited {name}"
        yield "edit of a result between runs", guarded(world, verdict, before)


def made_again(world: World, verb: Verb) -> Verdicts:
    """Foreign files in a finished result that is made again: with other settings, and with ``--restart``."""
    right = expected(world, verb)
    ways = []
    if verb.other[0]:
        after = expected(world, verb, other=True)
        ways.append(("other settings", verb.typed(world, other=True), after))
    if verb.stages or verb.name == "evaluate":
        ways.append(("--restart", [*verb.typed(world), "--restart"], right))
    for way, given, after in ways:
        cleared(world)
        live(world, verb.typed(world))
        folders = sorted({(world.out / name).parent for name in right})
        notes = [folder / "notes.txt" for folder in folders]
        notes += [folder / "sub" / "mine.nii.gz" for folder in folders]
        for note in notes:
            replaced(world, note)
        before = held(world.given, *notes)
        code = live(world, given)
        verdict = refusal(world, code) if code else "exact"
        if verdict == "exact":
            found = result(world.out)
            other = [name for name, content in after.items() if found.get(name) != content]
            verdict = f"other bytes: {other[0]}" if other else "exact"
        yield f"made again beside foreign files, {way}", guarded(world, verdict, before)
