"""SHA-256 of files, cached on disk where reading them again takes long.

A street data set has tens of gigabytes, and every run checks that it is unchanged. As in version control, a file with
the same size and modification time counts as unchanged.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uda.errors import UdaError
from uda.files.atomic import read_json, sha256_of, write_json

WORTH = 2**30
"""Bytes read since the last save from which on hashes are cached."""
SETTLED = 2 * 10**9
"""Nanoseconds after a change during which a file is not cached: it may change again within one tick of its clock."""


class Hashes:
    """Hashes of files, with a cache on disk.

    Args:
        kept: JSON file of the cache, read if it exists and written by :meth:`save`; None = no cache.
    """

    def __init__(self, kept: Path | None = None) -> None:
        self.kept, self.read = kept, 0
        self.known: dict[str, list[Any]] = _load(kept)

    def of(self, path: Path) -> str:
        """SHA-256 of a file."""
        place, status = str(path.resolve()), path.stat()
        signature = [status.st_size, status.st_mtime_ns]
        found = self.known.get(place)
        if found is not None and found[:2] == signature:
            return str(found[2])
        digest = sha256_of(path)
        self.read += status.st_size
        if time.time_ns() - status.st_mtime_ns > SETTLED:
            self.known[place] = [*signature, digest]
        return digest

    def save(self) -> None:
        """Write the cache if at least :data:`WORTH` bytes were read since the last time."""
        if self.kept is not None and self.read >= WORTH:
            write_json(self.kept, self.known)
            self.read = 0


def _load(path: Path | None) -> dict[str, list[Any]]:
    """The entries of the cache; empty where the file is missing or damaged."""
    if path is None or not path.is_file():
        return {}
    try:
        raw = read_json(path)
    except UdaError:
        return {}
    return {
        place: entry
        for place, entry in (raw.items() if isinstance(raw, Mapping) else ())
        if isinstance(entry, list) and [type(part) for part in entry] == [int, int, str]
    }
