"""What may go wrong around a command that writes: the disk, its inputs, its outputs, its terminal, another process.

Each disturbance yields what it is called and a verdict: ``exact`` (in the end the bytes of an undisturbed run, and
nothing foreign was touched), ``refused`` (a clear message and exit code, nothing foreign was touched), or what was
lost. After a refusal the cause is removed and the same command is given again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from fault_injection import Fault
from refusing_kernel import Refusing, possible
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
    other_content,
    refusal,
    result,
    touched,
)

from uda.files.ledger import LEDGER

Verdicts = Iterator[tuple[str, str]]
MESSAGE = 2000
"""Bytes that a message on a small disk takes at most."""
LATE = 120.0
"""Seconds after which a command hangs."""


def again(world: World, verb: Verb, first: str, *, other: bool = False) -> str:
    """What the same command ends with once the cause is gone, which may have left unfinished work."""
    if first not in ("refused", "exact") and not first.startswith("left "):
        return first
    code = live(world, verb.typed(world, other=other))
    verdict = ended_as(world, code, expected_again(world, verb, other))
    return verdict if verdict == "exact" else f"then {verdict}"


def expected_again(world: World, verb: Verb, other: bool) -> dict[str, bytes]:
    return world.results[f"{verb.name} {other} "]


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


def _taken(last: int, every: int, draw: Random) -> range:
    """Every n-th moment, and one at least."""
    return range(draw.randint(1, min(every, last)), last + 1, every)


# The disk ---------------------------------------------------------------------------------------------


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
        for at in _taken(last, every, draw):
            cleared(world)
            before = held(world.given)
            fault = Fault(world.disk, at, kind)
            first = ended_as(world, live(world, verb.typed(world), fault), right)
            yield name, guarded(world, again(world, verb, first), before)


def remounted(world: World, verb: Verb, draw: Random, every: int) -> Verdicts:
    right = expected(world, verb)
    last = moments(world, verb)
    for at in _taken(last, every, draw):
        with small_disk(world, "size=1g"):
            before = held(world.given)
            fault = Fault(world.disk, at, Remounting(world.disk))
            first = ended_as(world, live(world, verb.typed(world), fault), right)
            subprocess.run(["mount", "-o", "remount,rw", world.disk], check=True)
            yield "remounted read-only", guarded(world, again(world, verb, first), before)


# Signals and streams ----------------------------------------------------------------------------------


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


def streams(world: World, verb: Verb) -> Verdicts:
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


def waited(child: Any) -> int:
    child.join(LATE)
    if child.exitcode is None:
        child.kill()
        child.join()
        return 999
    return int(child.exitcode)


# Inputs -----------------------------------------------------------------------------------------------


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
    """The result of an input's other content."""
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
        for number, at in enumerate(_taken(last, every, draw)):
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


# Outputs ----------------------------------------------------------------------------------------------

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
    link = world.disk / "link"
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
    for name in draw.sample(sorted(expected(world, verb)), 1):
        cleared(world)
        (world.out / name).parent.mkdir(parents=True)
        (world.out / name).symlink_to(world.given / verb.reads[0])
        yield (
            "a result's place is a link to an input",
            _kept(world, verb, expected_again(world, verb, False), Path(name)),
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


# Two writers ------------------------------------------------------------------------------------------


def writers(world: World, verb: Verb, draw: Random, *, other: bool, killed: bool) -> str:
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
        if "exact" not in verdicts:
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


def everything(
    world: World, draw: Random, every: int, tries: int, names: list[str], mounts: bool
) -> Verdicts:
    """Every disturbance of every verb.

    Args:
        every: moments of a verb that are taken: every n-th.
        tries: of two writers; of rooms, files and moments that are drawn a share.
    """
    few = max(1, tries // 20)
    for verb in (VERBS[name] for name in names):
        for _ in range(few if mounts else 0):
            yield from full(world, verb, draw)
        for _ in range(few):
            yield from quota(_cleared(world), verb, draw)
            yield from signals(world, verb, draw)
        if possible():
            yield from failing(world, verb, draw, every)
        if mounts:
            yield from remounted(world, verb, draw, 4 * every)
        yield from streams(world, verb)
        yield from edits(world, verb, draw, every)
        yield from edits_between(world, verb)
        yield from foreign_before(world, verb, draw, few + 1)
        yield from places_of_inputs(world, verb, draw)
        yield from stale_locks(world, verb)
        yield from edited_outputs(world, verb, draw, few + 1)
        yield from made_again(world, verb)
        for _ in range(few):
            yield (
                "two writers, the same command",
                writers(world, verb, draw, other=False, killed=False),
            )
            yield (
                "two writers, one or both killed",
                writers(world, verb, draw, other=False, killed=True),
            )
            if verb.other[0]:
                yield "two writers", writers(world, verb, draw, other=True, killed=False)
                yield (
                    "two writers, one or both killed",
                    writers(world, verb, draw, other=True, killed=True),
                )
    for _ in range(tries if "predict" in names else 0):
        found = writers(world, VERBS["predict"], draw, other=True, killed=False)
        yield "two models in one new folder", found
    for _ in range(few if "run" in names else 0):
        yield "run and report at once", run_and_report(world, draw)


def _cleared(world: World) -> World:
    cleared(world)
    return world
