"""SHA-256 of files, remembered where reading them again would take a while.

A street data set is tens of gigabytes, and every run asks whether it is still the same. As version control does, a
file of the same size and the same time of its last change is taken to be unchanged.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uda.errors import UdaError
from uda.files.atomic import read_json, sha256_of, write_json

WORTH = 2**30
"""Bytes read in one go from which hashes are kept."""
SETTLED = 2 * 10**9
"""A file changed less than so many nanoseconds ago may change again within one tick of its clock."""


class Hashes:
    """Hashes of files, with what a file at ``kept`` remembers of them.

    Args:
        kept: JSON that is read if it is there, and written by :meth:`save`; None keeps nothing.
    """

    def __init__(self, kept: Path | None = None) -> None:
        self.kept, self.read = kept, 0
        self.known: dict[str, list[Any]] = _load(kept)

    def of(self, path: Path) -> str:
        """SHA-256 of a file."""
        place, said = str(path.resolve()), path.stat()
        sign = [said.st_size, said.st_mtime_ns]
        found = self.known.get(place)
        if found is not None and found[:2] == sign:
            return str(found[2])
        digest = sha256_of(path)
        self.read += said.st_size
        if time.time_ns() - said.st_mtime_ns > SETTLED:
            self.known[place] = [*sign, digest]
        return digest

    def save(self) -> None:
        """Keep what was read, if it was much."""
        if self.kept is not None and self.read >= WORTH:
            write_json(self.kept, self.known)
            self.read = 0


def _load(path: Path | None) -> dict[str, list[Any]]:
    """What the file remembers; nothing where it is missing or damaged."""
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
