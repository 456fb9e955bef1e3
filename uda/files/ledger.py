"""The files that uda wrote into a folder of the user's choice, so that it never replaces another one.

The ledger is a hidden file of JSON lines, one for each file written: its name and its SHA-256. It gets its line before
the file gets its place, so a killed process leaves no file without a line. A file is uda's own if its content has a
SHA-256 that the ledger holds under its name. Everything else is foreign.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from uda.errors import MOST, DataError, one_line
from uda.files.digests import sha256_of
from uda.files.untrusted import read_text

LEDGER = ".uda-files"
"""name of the ledger in its folder"""
_BEGIN = '{"file": "'


class Ledger:
    """The ledger of a folder.

    Args:
        folder: it may not exist yet.
        also: names and SHA-256 of further files of uda's there, from another record.

    Raises:
        DataError: the ledger is damaged.
    """

    def __init__(self, folder: Path, also: Iterable[tuple[str, str]] = ()) -> None:
        self.folder, self.path = folder, folder / LEDGER
        self._digests: dict[str, set[str]] = {}
        for name, digest in (*_lines(self.path), *also):
            self._digests.setdefault(name, set()).add(digest)

    def names(self) -> list[str]:
        """Every file that was written, relative to the folder."""
        return list(self._digests)

    def wrote(self, path: Path) -> bool:
        """Whether uda wrote a file of this name; its content may have changed since."""
        return self._name(path) in self._digests

    def owns(self, path: Path) -> bool:
        """Whether the file has a content that uda wrote under this name."""
        digests = self._digests.get(self._name(path), ())
        return (
            bool(digests)
            and not path.is_symlink()
            and path.is_file()
            and sha256_of(path) in digests
        )

    def check(self, paths: Iterable[Path]) -> None:
        """Refuse to replace files that are not uda's own.

        Raises:
            DataError: one of these paths exists and is not uda's own; the message lists them.
        """
        foreign = [path for path in paths if os.path.lexists(path) and not self.owns(path)]
        if not foreign:
            return
        changed = all(self.wrote(path) for path in foreign)
        names = "".join(f"\n    {one_line(str(path))}" for path in foreign[:MOST])
        more = f"\n    … and {len(foreign) - MOST} more" if len(foreign) > MOST else ""
        raise DataError(
            ("changed after uda wrote it" if changed else "not written by uda")
            + f", and would be replaced ({len(foreign)}):{names}{more}",
            where=self.folder,
            fix="choose another --out, or move these files away"
            + (
                ""
                if changed
                else f"; if uda wrote them, the list {LEDGER} of this folder is missing"
            ),
        )

    def add(self, path: Path, content: Path) -> None:
        """Enter a file before it moves to its place.

        Args:
            path: its place, in the folder.
            content: the finished file.

        Raises:
            DataError: a foreign file has this place.
        """
        self.check([path])
        name, digest = self._name(path), sha256_of(content)
        if digest in self._digests.get(name, ()):
            return
        self._part_from_links()
        with self.path.open("a+b") as file:
            file.seek(0, os.SEEK_END)
            if file.tell() and not _ends_line(file.fileno(), file.tell()):
                file.write(b"\n")  # a killed process left half a line
            line = json.dumps({"file": name, "sha256": digest}, ensure_ascii=True)
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._digests.setdefault(name, set()).add(digest)

    def _part_from_links(self) -> None:
        """Give the ledger a file of its own where a backup made of hard links shares it."""
        if self.path.is_file() and self.path.stat().st_nlink > 1:
            own = self.path.with_name(f"{LEDGER}.{secrets.token_hex(8)}")
            shutil.copy2(self.path, own)
            os.replace(own, self.path)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def _ends_line(descriptor: int, size: int) -> bool:
    return os.pread(descriptor, 1, size - 1) == b"\n"


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Names and SHA-256 of a ledger; a line that a killed process left unfinished does not count."""
    if path.is_symlink() or not path.is_file():
        return
    try:
        lines = read_text(path).split("\n")
        if not _BEGIN.startswith(lines[0][: len(_BEGIN)]):
            raise ValueError("uda did not write it")
    except (OSError, ValueError) as error:
        raise DataError(
            f"the list of the files that uda wrote cannot be read: {error}",
            where=path,
            fix="choose another --out",
        ) from error
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            yield str(entry["file"]), str(entry["sha256"])


_open: list[Ledger] = []


@contextlib.contextmanager
def enter_files(ledger: Ledger) -> Iterator[None]:
    """Inside the block every file that ``atomic_path`` writes below the folder enters its ledger."""
    _open.append(ledger)
    try:
        yield
    finally:
        _open.remove(ledger)


def ledger_of(path: Path) -> Ledger | None:
    """The open ledger of the nearest folder above a path."""
    above = [one for one in _open if path.is_relative_to(one.folder)]
    return max(above, key=lambda one: len(one.folder.parts), default=None)
