"""SHA-256 of files, and whether they changed since; cached on disk where reading them again takes long.

A street data set has tens of gigabytes, and every run checks that it is unchanged. A file counts as unchanged while its
size, its inode and its times of modification and of status change are the same. Nobody can set the last one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from uda.errors import DataError, UdaError
from uda.files.atomic import read_json, write_json
from uda.files.digests import sha256_of

WORTH = 2**30
"""Bytes read since the last save from which on hashes are cached."""
SETTLED = 2 * 10**9
"""Nanoseconds after a change during which a file is not cached: it may change again within one tick of its clock."""
_ENTRY = [int, int, int, int, str]


class Hashes:
    """Hashes of files, with a cache on disk.

    Args:
        kept: JSON file of the cache, read if it exists and written by :meth:`save`; None = no cache.
    """

    def __init__(self, kept: Path | None = None) -> None:
        self.kept, self.read = kept, 0
        self.known, self._writable = _load(kept)

    def of(self, path: Path, digest: Callable[[Path], str] | None = None) -> str:
        """SHA-256 of a file as it is now.

        Args:
            digest: computes another SHA-256 of the file, such as that of the images in it.

        Raises:
            DataError: the file cannot be read.
        """
        try:
            return self._of(path, digest)
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror or error}", where=path) from error

    def _of(self, path: Path, digest: Callable[[Path], str] | None) -> str:
        place = str(path.resolve()) + (f" ({digest.__name__})" if digest else "")
        signature = _signature(path)
        found = self.known.get(place)
        if found is not None and found[:-1] == signature:
            return str(found[-1])
        current = (digest or sha256_of)(path)
        size, _, modified, changed = signature
        self.read += size
        if time.time_ns() - max(modified, changed) > SETTLED and _signature(path) == signature:
            self.known[place] = [*signature, current]
        return current

    def save(self) -> None:
        """Write the cache if at least :data:`WORTH` bytes were read since the last time.

        A foreign file in its place stays.
        """
        if self.kept is not None and self._writable and self.read >= WORTH:
            write_json(self.kept, self.known)
            self.read = 0


def _signature(path: Path) -> list[int]:
    """Size, inode, time of modification and of status change; opening the file makes a network disk ask for them."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _load(path: Path | None) -> tuple[dict[str, list[Any]], bool]:
    """The entries of the cache, and whether it may be written: the file is missing or a cache."""
    if path is None or not path.is_file():
        return {}, True
    try:
        raw = read_json(path)
    except UdaError:
        return {}, False
    entries = dict(raw) if isinstance(raw, Mapping) else {}
    lists = [entry for entry in entries.values() if isinstance(entry, list)]
    sound = {
        place: entry
        for place, entry in entries.items()
        if isinstance(entry, list) and [type(part) for part in entry] == _ENTRY
    }
    return sound, isinstance(raw, Mapping) and len(lists) == len(entries)
