"""Sliding windows over a volume of any size, rolling along its slices.

Windows lie on a grid of steps of ``(1 - overlap) · patch``, the last one of each axis moved back to end with the
volume. Where they overlap, their logits are averaged with Gaussian weights: a network knows most about the middle
of what it sees. A slice is finished when no later window reaches it; it is handed out then and forgotten, so that
all classes are held for as many slices as a window has, however long the volume is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SIGMA = 0.125
"""Standard deviation of the Gaussian weights, in patches."""
LEAST = 1e-3
"""Smallest weight, so that a corner of the volume has one."""
VOXELS = 2**20
"""Voxels that go through the network at once, where a single window is not more."""

Patch = tuple[int, int, int]


def window_planes(
    forward: Callable[[Tensor], Tensor],
    volume: NDArray[np.float32],
    patch: Patch,
    overlap: float = 0.5,
) -> Iterator[Tensor]:
    """Logits of a whole volume.

    Args:
        forward: images ``[b, 1, *patch]`` on the host to logits ``[b, k, *patch]`` on any device.
        volume: ``[s, h, w]``; where it is smaller than the patch it is continued by its minimum.
        patch: slices, rows and columns of a window.
        overlap: of neighbouring windows, as a share of the patch.

    Yields:
        ``[n, k, h, w]`` on the device of ``forward``, in the order of the slices, some at a time.
    """
    slices, height, width = volume.shape
    whole = _at_least(volume, patch)
    downs, rows, columns = (
        _starts(n, size, overlap) for n, size in zip(whole.shape, patch, strict=True)
    )
    sums, weight = torch.empty(0), torch.empty(0)
    for down, after in zip(downs, [*downs[1:], len(whole)], strict=True):
        for corners, logits in _windows(
            forward, whole[down : down + patch[0]], patch, rows, columns
        ):
            if not len(sums):
                gauss = gaussian(patch).to(logits.device)
                sums = logits.new_zeros(patch[0], logits.shape[1], *whole.shape[1:])
                weight = torch.zeros_like(sums[:, :1])
            for (row, column), part in zip(corners, logits, strict=True):
                there = ..., slice(row, row + patch[1]), slice(column, column + patch[2])
                sums[there] += (part * gauss).movedim(1, 0)
                weight[there] += gauss[:, None]
        done = after - down
        near = slice(min(done, slices - down)), ..., slice(height), slice(width)
        yield sums[near] / weight[near]
        _roll(sums, done)
        _roll(weight, done)


def gaussian(patch: Patch) -> Tensor:
    """Weight of each voxel of a window."""
    weight = torch.ones(())
    for size in patch:
        distance = torch.arange(size) - (size - 1) / 2
        weight = weight[..., None] * torch.exp(-((distance / (SIGMA * size)) ** 2) / 2)
    return weight.clamp_min(LEAST)


def _windows(
    forward: Callable[[Tensor], Tensor],
    slab: NDArray[np.float32],
    patch: Patch,
    rows: list[int],
    columns: list[int],
) -> Iterator[tuple[list[tuple[int, int]], Tensor]]:
    """Corners and logits of all windows of some slices, a few windows at a time."""
    corners = list(itertools.product(rows, columns))
    together = max(1, VOXELS // math.prod(patch))
    for first in range(0, len(corners), together):
        some = corners[first : first + together]
        cut = np.stack([slab[:, y : y + patch[1], x : x + patch[2]] for y, x in some])
        yield some, forward(torch.from_numpy(cut)[:, None])


def _at_least(volume: NDArray[np.float32], patch: Patch) -> NDArray[np.float32]:
    missing = [(0, max(0, size - n)) for n, size in zip(volume.shape, patch, strict=True)]
    if not any(after for _, after in missing):
        return volume
    return np.pad(volume, missing, constant_values=volume.min())


def _starts(extent: int, patch: int, overlap: float) -> list[int]:
    """Starts of the windows along one axis."""
    step = max(1, int(patch * (1 - overlap)))
    return [*range(0, extent - patch, step), extent - patch]


def _roll(held: Tensor, by: int) -> None:
    """In place: the first ``by`` slices gone, as many empty ones at the end."""
    kept = len(held) - by
    for index in range(kept):
        held[index] = held[index + by]
    held[kept:] = 0
