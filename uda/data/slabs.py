"""Slabs (2.5-D input): a slice between its neighbours, as the channels of a 2-D network's image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def slab_of(
    slices: NDArray[Any], indices: ArrayLike, start: ArrayLike, stop: ArrayLike, slab: int
) -> NDArray[Any]:
    """Each chosen slice in the middle of ``slab`` slices; beyond the ends of its case the edge slice repeats.

    Args:
        slices: ``[n, h, w]``, the concatenated slices of any number of cases (memory-mapped or not).
        indices: ``[b]`` chosen slices.
        start: first slice of the case of each index (one number for all, or ``[b]``).
        stop: one past the last slice of that case (one number for all, or ``[b]``).
        slab: odd number of slices; 1 gives every slice alone.

    Returns:
        ``[b, slab, h, w]``, a copy.
    """
    near = np.asarray(indices)[:, None] + np.arange(slab) - slab // 2
    first, last = np.reshape(start, (-1, 1)), np.reshape(stop, (-1, 1)) - 1
    return np.asarray(slices[np.clip(near, first, last)])
