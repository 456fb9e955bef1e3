"""Sliding-window inference on a volume, with Gaussian weights and memory for one window's slices.

Windows lie on a grid of steps of ``(1 - overlap) · patch``; the last window of each axis is moved back to end with
the volume. Where windows overlap, their logits are averaged with Gaussian weights, because a network is most
reliable in the middle of its patch. A slice is finished when no later window reaches it. It is then yielded and
dropped, so the logits of all classes are held for as many slices as a window has, whatever the length of the volume.
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
"""Standard deviation of the Gaussian weights, as a share of the patch."""
LEAST = 1e-3
"""Smallest weight, so that the corners of the volume have a positive weight."""
VOXELS = 2**20
"""Voxels of a batch of windows; a single window may have more."""

Patch = tuple[int, int, int]


def window_planes(
    forward: Callable[[Tensor], Tensor],
    volume: NDArray[np.float32],
    patch: Patch,
    overlap: float = 0.5,
    view: Callable[[NDArray[np.float32]], NDArray[np.float32]] = lambda slab: slab,
) -> Iterator[Tensor]:
    """Logits of a whole volume.

    Args:
        forward: maps images ``[b, 1, *patch]`` on the host to logits ``[b, k, *patch]`` on any device.
        volume: ``[s, h, w]``; where it is smaller than the patch it is padded with its minimum.
        patch: slices, rows and columns of a window.
        overlap: overlap of neighbouring windows, as a share of the patch.
        view: changes the slices ``[n, h, w]`` in their plane, before they are cut into windows.

    Yields:
        ``[n, k, h, w]`` on the device of ``forward``: some slices at a time, in their order.
    """
    slices, height, width = volume.shape
    padded = tuple(max(n, size) for n, size in zip(volume.shape, patch, strict=True))
    lowest = volume.min() if padded != volume.shape else np.float32(0)
    downs, rows, columns = (
        _starts(n, size, overlap) for n, size in zip(padded, patch, strict=True)
    )
    sums, weight = torch.empty(0), torch.empty(0)
    for down, after in zip(downs, [*downs[1:], padded[0]], strict=True):
        slab = _at_least(view(volume[down : down + patch[0]]), patch, lowest)
        for corners, logits in _windows(forward, slab, patch, rows, columns):
            if not len(sums):
                gauss = gaussian(patch).to(logits.device)
                sums = logits.new_zeros(patch[0], logits.shape[1], *padded[1:])
                weight = torch.zeros_like(sums[:, :1])
            for (row, column), part in zip(corners, logits, strict=True):
                window = ..., slice(row, row + patch[1]), slice(column, column + patch[2])
                sums[window] += (part * gauss).movedim(1, 0)
                weight[window] += gauss[:, None]
        done = after - down
        finished = slice(min(done, slices - down)), ..., slice(height), slice(width)
        yield sums[finished] / weight[finished]
        _roll(sums, done)
        _roll(weight, done)


def gaussian(patch: Patch) -> Tensor:
    """Weight ``[*patch]`` of each voxel of a window."""
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
    """Corners (row, column) and logits of all windows of a slab, a few windows at a time."""
    corners = list(itertools.product(rows, columns))
    together = max(1, VOXELS // math.prod(patch))
    for first in range(0, len(corners), together):
        some = corners[first : first + together]
        cut = np.stack([slab[:, y : y + patch[1], x : x + patch[2]] for y, x in some])
        yield some, forward(torch.from_numpy(cut)[:, None])


def _at_least(slab: NDArray[np.float32], patch: Patch, lowest: np.float32) -> NDArray[np.float32]:
    missing = [(0, max(0, size - n)) for n, size in zip(slab.shape, patch, strict=True)]
    if not any(after for _, after in missing):
        return slab
    return np.pad(slab, missing, constant_values=lowest)


def _starts(extent: int, patch: int, overlap: float) -> list[int]:
    """First indices of the windows along one axis."""
    step = max(1, int(patch * (1 - overlap)))
    return [*range(0, extent - patch, step), extent - patch]


def _roll(held: Tensor, by: int) -> None:
    """Drop the first ``by`` slices in place and append as many zero slices."""
    kept = len(held) - by
    for index in range(kept):
        held[index] = held[index + by]
    held[kept:] = 0
