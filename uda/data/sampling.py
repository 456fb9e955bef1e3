"""Sample batches: the images of a batch are a function of (seed, stage, step, rank) alone."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from uda.data.items import Items
from uda.data.seeds import mix
from uda.types import SourceBatch, TargetBatch


@functools.lru_cache(maxsize=8)
def _epoch(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng(mix(seed, epoch)).permutation(count)


def positions_of(batch: int, step: int, rank: int = 0, world: int = 1) -> NDArray[np.int64]:
    """Positions of one rank's batch of a step in the sequence of all draws."""
    first = (step * world + rank) * batch
    return np.arange(first, first + batch)


def batch_indices(
    count: int, batch: int, step: int, seed: int, rank: int = 0, world: int = 1
) -> NDArray[np.int64]:
    """Indices of one rank's batch: every epoch is a new permutation, cut into steps and ranks.

    Every image appears once per epoch of ``count`` draws. No state is kept between calls.

    Args:
        count: images in the store.
        batch: images per rank.
        world: world size.
    """
    positions = positions_of(batch, step, rank, world)
    return np.array([_epoch(seed, int(p) // count, count)[p % count] for p in positions])


@dataclass(frozen=True)
class Share:
    """A batch of which the first ``drawn`` images come from all images and the others from ``chosen`` ones."""

    drawn: int
    """of all processes together"""
    batch: int
    chosen: NDArray[np.int64]
    """numbers of images"""

    def indices(
        self, count: int, positions: NDArray[np.int64], seed: int
    ) -> tuple[NDArray[np.int64], list[int]]:
        """Images at these positions of the sequence of all draws, and a seed for each.

        The images from all are those of a batch without chosen ones.

        Args:
            count: number of all images.
        """
        numbers, seeds = [], []
        for step, place in (divmod(int(position), self.batch) for position in positions):
            if place < self.drawn:
                own = step * self.drawn + place
                numbers.append(_epoch(seed, own // count, count)[own % count])
                seeds.append(mix(seed, "place", own))
            else:
                own = step * (self.batch - self.drawn) + place - self.drawn
                some = len(self.chosen)
                order = _epoch(mix(seed, "chosen"), own // some, some)
                numbers.append(self.chosen[order[own % some]])
                seeds.append(mix(seed, "chosen place", own))
        return np.array(numbers), seeds


def source_batch(
    items: Items, numbers: NDArray[np.int64], seeds: Sequence[int], pin: bool
) -> SourceBatch:
    """Images ``[b, c, *s]`` with labels ``[b, *s]``, each with its own seed.

    Args:
        pin: whether the tensors are in pinned memory.
    """
    image, label = items.labelled(items.places(numbers, seeds), seeds)
    return SourceBatch(image.pin_memory(), label.pin_memory()) if pin else SourceBatch(image, label)


def target_batch(
    items: Items, numbers: NDArray[np.int64], seeds: Sequence[int], pin: bool
) -> TargetBatch:
    """Images ``[b, c, *s]`` and the numbers of their slices in the store, each with its own seed."""
    places = items.places(numbers, seeds)
    image, index = items.seen(places, seeds), items.index(places)
    return TargetBatch(image.pin_memory(), index.pin_memory()) if pin else TargetBatch(image, index)


def shuffled_batches(items: Items, batch: int, seed: int) -> Iterator[Tensor]:
    """Every item once in random order, in batches ``[b, c, *s]`` of about ``batch`` slices."""
    order = np.random.default_rng(seed).permutation(len(items))
    parts = max(1, round(len(order) * items.depth / batch))
    for part in np.array_split(order, min(parts, len(order))):
        yield items.image(items.places(part))
