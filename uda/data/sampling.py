"""Which images stand in a batch, as a function of (seed, stage, step, rank) and nothing else."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uda.data.store import Store
from uda.types import SourceBatch, TargetBatch


def mix(*parts: int | str) -> int:
    """A 63-bit seed from any parts; different parts give unrelated seeds."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@functools.lru_cache(maxsize=8)
def _epoch(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng(mix(seed, epoch)).permutation(count)


def batch_indices(
    count: int, batch: int, step: int, seed: int, rank: int = 0, world: int = 1
) -> NDArray[np.int64]:
    """Indices of one rank's batch: epochs of fresh permutations, cut into steps and ranks.

    Every image appears once in each ``count`` consecutive draws; no state is kept between calls.
    """
    first = (step * world + rank) * batch
    positions = np.arange(first, first + batch)
    return np.array([_epoch(seed, int(p) // count, count)[p % count] for p in positions])


def source_batch(store: Store, indices: NDArray[np.int64], pin: bool) -> SourceBatch:
    """Images ``[b, 1, h, w]`` with labels ``[b, h, w]``."""
    image = torch.from_numpy(store.images[indices])[:, None]
    label = torch.from_numpy(store.labels[indices].astype(np.int64))
    return SourceBatch(image.pin_memory(), label.pin_memory()) if pin else SourceBatch(image, label)


def target_batch(store: Store, indices: NDArray[np.int64], pin: bool) -> TargetBatch:
    """Images ``[b, 1, h, w]`` and their number in the store."""
    image = torch.from_numpy(store.images[indices])[:, None]
    index = torch.from_numpy(indices)
    return TargetBatch(image.pin_memory(), index.pin_memory()) if pin else TargetBatch(image, index)


def shuffled_batches(images: NDArray[np.float32], batch: int, seed: int) -> Iterator[Tensor]:
    """Every image once as ``[b, 1, h, w]``, in an order that mixes cases; about ``batch`` at a time."""
    order = np.random.default_rng(seed).permutation(len(images))
    for part in np.array_split(order, max(1, round(len(order) / batch))):
        yield torch.from_numpy(images[part])[:, None]
