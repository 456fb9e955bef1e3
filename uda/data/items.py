"""Items of a store, the inputs of a network: slices or photographs in 2-D, patches of volumes in 3-D.

Items are numbered, so that sampling, AdaBN and priors work with all kinds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uda.config.augment import PhotoAugment
from uda.data.photo_augment import changed
from uda.data.store import Store, StoredCase
from uda.errors import DataError
from uda.types import IGNORE

Numbers = NDArray[np.int64]
Labels = NDArray[np.uint8]
UNCHANGED = PhotoAugment()


class Items(Protocol):
    """Numbered images of a store. ``places`` gives their positions; the other methods read there."""

    depth: int
    """number of slices of an item"""

    def __len__(self) -> int: ...

    def places(self, numbers: Numbers, seeds: Sequence[int] | None = None) -> Numbers:
        """Positions of these items; with a seed for each, the random positions of this draw."""

    def cases(self, places: Numbers) -> Tensor:
        """Number of each item's case ``[b]``."""

    def image(self, places: Numbers) -> Tensor:
        """Images ``[b, c, *s]`` float32 without random changes."""

    def seen(self, places: Numbers, seeds: Sequence[int]) -> Tensor:
        """Images ``[b, c, *s]`` float32 with the random changes of this draw."""

    def labelled(
        self, places: Numbers, seeds: Sequence[int], labels: Labels | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images as in :meth:`seen`, and labels ``[b, *s]`` int64 with ``IGNORE`` outside the image.

        Args:
            labels: ``[n, h, w]`` of the store's slices; default the store's own.
        """

    def positions(self, places: Numbers) -> Tensor:
        """Slice (in 3-D), row and column of each pixel in its case: ``[b, a, *s]`` float32."""

    def index(self, places: Numbers) -> Tensor:
        """Numbers of each item's slices in the store: ``[b]``, or ``[b, d]`` in 3-D."""


class Slices:
    """Each slice of a store; a place is the slice's number.

    Args:
        photo: random changes of photographs in training.
        workers: number of threads for these changes; 0 = as many as the processors.
    """

    depth = 1

    def __init__(self, store: Store, photo: PhotoAugment = UNCHANGED, workers: int = 1) -> None:
        self.store, self.photo, self.workers = store, photo, workers
        mean, sd = store.scale or ((0.0,) * store.channels, (1.0,) * store.channels)
        self.mean, self.sd = (torch.tensor(v)[:, None, None] for v in (mean, sd))
        self.fill = tuple(round(255 * value) for value in mean)

    def __len__(self) -> int:
        return len(self.store)

    def places(self, numbers: Numbers, seeds: Sequence[int] | None = None) -> Numbers:
        return numbers

    def cases(self, places: Numbers) -> Tensor:
        stops = np.array([case.stop for case in self.store.cases])
        return torch.from_numpy(np.searchsorted(stops, places, side="right"))

    def image(self, places: Numbers) -> Tensor:
        return self._scaled(self.store.stacks(places))

    def seen(self, places: Numbers, seeds: Sequence[int]) -> Tensor:
        return self._scaled(self._changed(self.store.stacks(places), None, seeds)[0])

    def labelled(
        self, places: Numbers, seeds: Sequence[int], labels: Labels | None = None
    ) -> tuple[Tensor, Tensor]:
        own = (self.store.labels if labels is None else labels)[places]
        stacks, own = self._changed(self.store.stacks(places), own, seeds)
        return self._scaled(stacks), torch.from_numpy(own.astype(np.int64))

    def positions(self, places: Numbers) -> Tensor:
        grid = torch.meshgrid(*(torch.arange(float(n)) for n in self.store.size), indexing="ij")
        return torch.stack(grid).expand(len(places), -1, -1, -1)

    def index(self, places: Numbers) -> Tensor:
        return torch.from_numpy(places)

    def _changed(self, stacks: NDArray[Any], labels: Any, seeds: Sequence[int]) -> tuple[Any, Any]:
        if self.store.scale is None or self.photo == UNCHANGED:
            return stacks, labels
        red, green, blue = self.fill
        fill = (red, green, blue)
        return changed(stacks, labels, self.photo, seeds, fill, self.workers)

    def _scaled(self, stacks: NDArray[Any]) -> Tensor:
        """Photographs normalised from uint8; other images unchanged, because the store holds them normalised."""
        if self.store.scale is None:
            return torch.from_numpy(stacks)
        return torch.from_numpy(stacks).float().div_(255).sub_(self.mean).div_(self.sd)


class Patches:
    """The fewest patches that cover each volume of a store, shifted at random in each draw.

    A place is ``(case, slice, row, column)`` of the patch's corner inside its case. A volume smaller
    than the patch is padded with its smallest intensity.

    Args:
        patch: slices, rows and columns.

    Raises:
        DataError: the store holds single slices with their neighbours, not volumes.
    """

    def __init__(self, store: Store, patch: tuple[int, int, int]) -> None:
        if store.images.ndim == 4:
            raise DataError(
                "a 3-D network needs volumes, but these files hold single slices",
                where=store.folder,
                expected="NIfTI or npz volumes",
                fix="use the card of the raw data, or spatial_dims: 2",
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

    def places(self, numbers: Numbers, seeds: Sequence[int] | None = None) -> Numbers:
        places = self.corners[numbers]
        if seeds is None:
            return places
        draws = np.stack([np.random.default_rng(seed).random(3) for seed in seeds])
        shape = np.array([self._shape(self.store.cases[case]) for case in places[:, 0]])
        room = np.maximum(shape - self.patch, 0)
        shift = (draws - 0.5) * self.patch
        moved = np.clip(np.rint(places[:, 1:] + shift), 0, room).astype(np.int64)
        return np.concatenate([places[:, :1], moved], axis=1)

    def cases(self, places: Numbers) -> Tensor:
        return torch.from_numpy(places[:, 0])

    def image(self, places: Numbers) -> Tensor:
        parts = [self._cut(self.store.images, place) for place in places]
        lows = [self.store.cases[place[0]].low for place in places]
        return torch.from_numpy(np.stack(self._filled(parts, lows)))[:, None]

    def seen(self, places: Numbers, seeds: Sequence[int]) -> Tensor:
        return self.image(places)

    def labelled(
        self, places: Numbers, seeds: Sequence[int], labels: Labels | None = None
    ) -> tuple[Tensor, Tensor]:
        labels = self.store.labels if labels is None else labels
        parts = [self._cut(labels, place) for place in places]
        filled = self._filled(parts, [IGNORE] * len(parts))
        return self.image(places), torch.from_numpy(np.stack(filled).astype(np.int64))

    def positions(self, places: Numbers) -> Tensor:
        grid = torch.meshgrid(*(torch.arange(float(n)) for n in self.patch), indexing="ij")
        corners = torch.from_numpy(places[:, 1:]).float()
        return torch.stack(grid) + corners[:, :, None, None, None]

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
    """First indices of the fewest patches that cover an axis, evenly spread."""
    if extent <= patch:
        return [0]
    return [round(s) for s in np.linspace(0, extent - patch, -(-extent // patch))]


def items_of(
    store: Store,
    patch: tuple[int, int, int] | None,
    photo: PhotoAugment = UNCHANGED,
    workers: int = 1,
) -> Items:
    """The :class:`Slices` of a store, or its :class:`Patches` for a network with a ``patch``."""
    return Slices(store, photo, workers) if patch is None else Patches(store, patch)
