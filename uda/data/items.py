"""What a network sees of a store at once: a slice in 2-D, a patch of a volume in 3-D.

Both are numbered, so that sampling, AdaBN and priors need not know which it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uda.data.seeds import mix
from uda.data.store import Store, StoredCase
from uda.errors import DataError
from uda.types import IGNORE

Numbers = NDArray[np.int64]


class Items(Protocol):
    """Numbered images of a store. ``places`` says where they lie, the rest reads there."""

    depth: int
    """slices of an item"""

    def __len__(self) -> int: ...

    def places(self, numbers: Numbers, seed: int | None = None) -> Numbers:
        """Where these items lie; with a seed, where they lie in this draw."""

    def image(self, places: Numbers) -> Tensor:
        """``[b, c, *s]`` float32."""

    def label(self, places: Numbers) -> Tensor:
        """``[b, *s]`` int64; ``IGNORE`` beyond the volume."""

    def index(self, places: Numbers) -> Tensor:
        """Numbers in the store of the slices of each item: ``[b]``, or ``[b, d]`` in 3-D."""


class Slices:
    """Each slice of a store; a place is the slice's number."""

    depth = 1

    def __init__(self, store: Store) -> None:
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    def places(self, numbers: Numbers, seed: int | None = None) -> Numbers:
        return numbers

    def image(self, places: Numbers) -> Tensor:
        return torch.from_numpy(self.store.stacks(places))

    def label(self, places: Numbers) -> Tensor:
        return torch.from_numpy(self.store.labels[places].astype(np.int64))

    def index(self, places: Numbers) -> Tensor:
        return torch.from_numpy(places)


class Patches:
    """Patches that cover each volume of a store with the least overlap, shifted at random in each draw.

    A place is ``(case, slice, row, column)`` of the patch's corner inside its case. A volume smaller
    than the patch is continued by its smallest intensity.

    Args:
        patch: slices, rows and columns.

    Raises:
        DataError: the store holds single slices with their neighbours, not volumes.
    """

    def __init__(self, store: Store, patch: tuple[int, int, int]) -> None:
        if store.images.ndim == 4:
            raise DataError(
                "a 3-D network needs volumes, and these files hold single slices",
                where=store.folder,
                expected="NIfTI or npz volumes",
                fix="use the raw data's cards, or spatial_dims: 2",
            )
        self.store, self.patch, self.depth = store, patch, patch[0]
        corners = [
            (number, z, y, x)
            for number, case in enumerate(store.cases)
            for z in _starts(case.stop - case.start, patch[0])
            for y in _starts(store.size[0], patch[1])
            for x in _starts(store.size[1], patch[2])
        ]
        self.corners = np.array(corners, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.corners)

    def places(self, numbers: Numbers, seed: int | None = None) -> Numbers:
        places = self.corners[numbers]
        if seed is None:
            return places
        rng = np.random.default_rng(mix(seed, "patches"))
        shape = np.array([self._shape(self.store.cases[case]) for case in places[:, 0]])
        room = np.maximum(shape - self.patch, 0)
        shift = (rng.random(room.shape) - 0.5) * self.patch
        moved = np.clip(np.rint(places[:, 1:] + shift), 0, room).astype(np.int64)
        return np.concatenate([places[:, :1], moved], axis=1)

    def image(self, places: Numbers) -> Tensor:
        parts = [self._cut(self.store.images, place) for place in places]
        lows = [self.store.cases[place[0]].low for place in places]
        return torch.from_numpy(np.stack(self._filled(parts, lows)))[:, None]

    def label(self, places: Numbers) -> Tensor:
        parts = [self._cut(self.store.labels, place) for place in places]
        filled = self._filled(parts, [IGNORE] * len(parts))
        return torch.from_numpy(np.stack(filled).astype(np.int64))

    def index(self, places: Numbers) -> Tensor:
        rows = []
        for case, first, *_ in places:
            stored = self.store.cases[case]
            rows.append(np.minimum(stored.start + first + np.arange(self.depth), stored.stop - 1))
        return torch.from_numpy(np.stack(rows))

    def _shape(self, case: StoredCase) -> tuple[int, int, int]:
        return (case.stop - case.start, *self.store.size)

    def _cut(self, stack: NDArray[np.generic], place: Numbers) -> NDArray[np.generic]:
        case, (z, y, x) = self.store.cases[place[0]], place[1:]
        depth, height, width = self.patch
        volume = stack[case.start : case.stop]
        return volume[z : z + depth, y : y + height, x : x + width]

    def _filled(
        self, parts: list[NDArray[np.generic]], values: Iterable[float]
    ) -> list[NDArray[np.generic]]:
        filled = []
        for part, value in zip(parts, values, strict=True):
            missing = [(0, n - m) for n, m in zip(self.patch, part.shape, strict=True)]
            filled.append(np.pad(part, missing, constant_values=value))
        return filled


def _starts(extent: int, patch: int) -> list[int]:
    """Starts of the fewest patches that cover an axis, evenly spread."""
    if extent <= patch:
        return [0]
    return [round(s) for s in np.linspace(0, extent - patch, -(-extent // patch))]


def items_of(store: Store, patch: tuple[int, int, int] | None) -> Items:
    """A store's slices, or its patches for a network that sees ``patch``."""
    return Slices(store) if patch is None else Patches(store, patch)
