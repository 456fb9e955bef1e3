"""Giving readers damaged files: each is read or refused with our error that names it, quietly and within bounds."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from mutations import damaged

from uda.errors import UdaError

SLOW = 30
"""Seconds after which a reader hangs; a loaded machine needs a hundredth."""
GROWTH = 200 << 20
"""Bytes by which reading one damaged file of a few kilobytes may let memory grow."""
ROOM = 3 << 30
"""Bytes of address space beyond what there is before: a larger request fails."""
LONG = 50_000
"""Characters of a message that nobody would read."""

CODED, REMARKS = (".png", ".jpg", ".jpeg"), 5
"""libpng and libjpeg print lines of their own on damage inside compressed pixels, which no Python can catch."""

Mutate = Callable[[bytes, Random], bytes]


@dataclass(frozen=True)
class Seed:
    """A sound file: what damage is done to, and how a file is made of it."""

    file: str
    content: bytes
    wrap: Callable[[bytes], bytes] = bytes
    """puts checksums, frames and archives around what was damaged, so that damage gets further"""
    mutate: Mutate = damaged
    beside: dict[str, bytes] = field(default_factory=dict)
    """other files of its folder"""
    sound: bool = True


@dataclass(frozen=True)
class Reader:
    """One way a file enters: sound files, files made by hand to be refused or not, and what reads them."""

    name: str
    seeds: Callable[[], list[Seed]]
    read: Callable[[Path], object]
    odd: Callable[[], list[Seed]] = list
    share: float = 1.0
    """of the files of other readers: less where reading is slow"""


@dataclass
class ReaderResult:
    """What came of the files of one reader."""

    read: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)
    peak: int = 0
    """bytes by which memory grew at most"""
    seconds: float = 0.0

    @property
    def files(self) -> int:
        return self.read + self.refused + len(self.failures)


def feed(
    reader: Reader, count: int, seed: int, folder: Path, keep: Path | None = None
) -> ReaderResult:
    """Give a reader its sound files, the odd ones, and ``count`` damaged ones.

    Args:
        keep: folder for the files that failed.
    """
    result = ReaderResult()
    seeds = reader.seeds()
    files = [(f"sound {n}", one, one.wrap(one.content)) for n, one in enumerate(seeds)]
    odd = reader.odd()
    files += [(f"odd {n}", one, one.wrap(one.content)) for n, one in enumerate(odd)]
    with bounded() as said:
        for name, one, content in files:
            _give(reader, one, name, content, folder, result, said, keep)
        for number in range(count):
            rng = Random(f"{reader.name} {seed} {number}")  # noqa: S311 - no secret
            one = seeds[number % len(seeds)]
            content = one.wrap(one.mutate(one.content, rng))
            _give(reader, one, f"seed {seed}, file {number}", content, folder, result, said, keep)
    return result


def _give(
    reader: Reader,
    one: Seed,
    name: str,
    content: bytes,
    folder: Path,
    result: ReaderResult,
    said: Callable[[], str],
    keep: Path | None,
) -> None:
    place = Path(tempfile.mkdtemp(dir=folder))
    path = place / one.file
    for file, other in {**one.beside, one.file: content}.items():
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).write_bytes(other)
    begun = time.monotonic()
    outcome, grown = attempt(reader.read, path, place)
    seconds = time.monotonic() - begun
    result.seconds += seconds
    result.peak = max(result.peak, grown)
    heard = said()
    if heard and (path.suffix not in CODED or heard.count("\n") > REMARKS):
        outcome = f"printed {heard[:200]!r}"
    elif grown > GROWTH:
        outcome = f"took {grown >> 20} MiB"
    elif seconds > SLOW:
        outcome = f"took {seconds:.0f} s"
    elif name.startswith("sound") and outcome != "read":
        outcome = f"a sound file was not read: {outcome}"
    if outcome == "read":
        result.read += 1
    elif outcome == "refused":
        result.refused += 1
    else:
        result.failures.append(f"{reader.name}, {one.file}, {name}: {outcome}")
        if keep is not None:
            shutil.copytree(place, keep / f"{reader.name} {name}".replace(" ", "-"))
    shutil.rmtree(place)


def attempt(read: Callable[[Path], object], path: Path, place: Path) -> tuple[str, int]:
    """``read``, ``refused``, or what went wrong; and the bytes by which memory grew."""
    before = _start_peak()
    try:
        with warnings.catch_warnings(record=True) as told, _alarm():
            warnings.simplefilter("always")
            read(path)
        outcome = f"warned: {told[0].message}" if told else "read"
    except UdaError as error:
        outcome = _judged(error, place)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, it is the finding
        outcome = f"{type(error).__name__}: {str(error)[:300]}"
    return outcome, _peak() - before


def _judged(error: UdaError, place: Path) -> str:
    text = str(error)
    text.encode()  # what cannot be encoded cannot be printed
    if str(place) not in text:
        return f"refused without the file's name: {text[:300]}"
    if len(text) > LONG:
        return f"refused with {len(text)} characters"
    if not error.expected and not error.fix and " faults in " not in error.what:
        return f"refused without a remedy: {text[:300]}"
    return "refused"


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(2 * SLOW)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def bounded() -> Iterator[Callable[[], str]]:
    """Within the block address space is limited; yields what tells what was printed, by anybody, since it was asked."""
    with tempfile.TemporaryFile() as heard, _python_to(heard.fileno()):
        kept = [(number, os.dup(number)) for number in (1, 2)]
        limits = resource.getrlimit(resource.RLIMIT_AS)
        if size := _status("VmSize"):
            resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, limits[1]))
        for number, _ in kept:
            os.dup2(heard.fileno(), number)

        def said() -> str:
            size = os.fstat(heard.fileno()).st_size
            if not size:
                return ""
            text = os.pread(heard.fileno(), size, 0).decode(errors="replace")
            os.ftruncate(heard.fileno(), 0)
            os.lseek(heard.fileno(), 0, os.SEEK_SET)
            return text

        try:
            yield said
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
            for number, copy in kept:
                os.dup2(copy, number)
                os.close(copy)


@contextlib.contextmanager
def _python_to(descriptor: int) -> Iterator[None]:
    """Within the block Python prints there, whatever stands for its streams."""
    with (
        open(descriptor, "w", buffering=1, closefd=False) as stream,
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
    ):
        yield


def _status(name: str) -> int:
    """A line of the kernel's account of this process, in bytes; 0 where there is none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) << 10
    return 0


def _start_peak() -> int:
    """Forget the peak so far; what is resident now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")
