"""Label maps by case, packed in memory: a scribble of a thousand voxels does not cost its volume."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 1
"""of zlib: the fastest"""


class _Pack(NamedTuple):
    data: bytes
    shape: tuple[int, ...]


class PackedMaps(Mapping[str, NDArray[np.uint8]]):
    """Case → label map; a map is unpacked each time that it is asked for.

    Example:
        >>> maps = PackedMaps()
        >>> maps.add("p01", np.full((100, 100, 20), 255, dtype=np.uint8))
        >>> maps["p01"].shape, maps.bytes < 2000
        ((100, 100, 20), True)
    """

    def __init__(self) -> None:
        self._packs: dict[str, _Pack] = {}

    def add(self, case: str, labels: NDArray[np.uint8]) -> None:
        """Keep a case's map, in place of what there was."""
        flat = np.ascontiguousarray(labels, dtype=np.uint8)
        self._packs[case] = _Pack(zlib.compress(flat.data, LEVEL), labels.shape)

    @property
    def bytes(self) -> int:
        """Memory that the packed maps take."""
        return sum(len(pack.data) for pack in self._packs.values())

    def __getitem__(self, case: str) -> NDArray[np.uint8]:
        pack = self._packs[case]
        flat = np.frombuffer(bytearray(zlib.decompress(pack.data)), dtype=np.uint8)
        return flat.reshape(pack.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._packs)

    def __len__(self) -> int:
        return len(self._packs)
