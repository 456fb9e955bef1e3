"""Check, clip and normalise intensities, and find the foreground.

Slices are changed in place, so that a large volume is in memory once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uda.config.card import Prepare
from uda.errors import DataError

WITHOUT_OFFSET = 2000
"""A CT with a minimum of at least 0 and a maximum of at least this is stored as Hounsfield units plus 1024."""


def check_units(array: NDArray[Any], prepare: Prepare, path: Path) -> None:
    """Refuse an image that cannot have the units of the card's window.

    Raises:
        DataError: the window starts below 0, as in Hounsfield units, but the image is a CT in 0…4095.
    """
    window = prepare.normalize
    if isinstance(window, str) or window[0] >= 0:
        return
    low, high = float(array.min()) + prepare.offset, float(array.max()) + prepare.offset
    if low >= 0 and high >= WITHOUT_OFFSET:
        raise DataError(
            f"intensities are {low:g}…{high:g}, which are no Hounsfield units: air would be near -1000",
            where=path,
            expected=f"the units of prepare.normalize {list(window)}",
            fix="set prepare.offset: -1024 in the card",
        )


def foreground(
    planes: Iterator[NDArray[np.float32]],
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Bounding box of the pixels above the volume's mean: first and last (excluded) row and column.

    Args:
        planes: parts ``[n, h, w]`` of a volume.

    Returns:
        ``(row, column)`` of the start and of the end; None when no pixel is above the mean.
    """
    total, count, brightest = 0.0, 0, None
    for part in planes:
        total, count = total + float(part.sum(dtype=np.float64)), count + part.size
        peak = part.max(0)
        brightest = peak if brightest is None else np.maximum(brightest, peak)
    if brightest is None or not (bright := brightest > total / count).any():
        return None
    rows, columns = (np.flatnonzero(bright.any(axis)) for axis in (1, 0))
    return (int(rows[0]), int(columns[0])), (int(rows[-1]) + 1, int(columns[-1]) + 1)


def normalize(
    slices: NDArray[np.float32], window: tuple[slice, slice], prepare: Prepare, path: Path
) -> NDArray[np.float32]:
    """Clip and scale by the statistics of the image inside the crop; padding becomes the minimum.

    Args:
        slices: ``[s, h, w]``; changed in place and returned.
        window: rows and columns that hold image rather than padding.

    Raises:
        DataError: the image is constant inside the crop.
    """
    image = slices[:, window[0], window[1]]
    low, high = _limits(image, prepare)
    if not low < high:
        raise DataError(
            f"the region of interest is constant ({low:g})",
            where=path,
            expected="an image with contrast",
            fix="look at the file; if it is sound, the preparation keeps too little of it: widen prepare.clip or "
            "prepare.size in the card, for a trained model in the card of its training",
        )
    np.clip(image, low, high, out=image)
    _scale(image, low, high, prepare)
    lowest = image.min()
    rows, columns = window
    slices[:, : rows.start] = slices[:, rows.stop :] = lowest
    slices[:, :, : columns.start] = slices[:, :, columns.stop :] = lowest
    return slices


def _limits(image: NDArray[np.float32], prepare: Prepare) -> tuple[float, float]:
    if not image.size:
        return 0.0, 0.0
    if prepare.clip == (0, 100):  # the same values without the copy that percentile sorts
        return float(image.min()), float(image.max())
    low, high = np.percentile(image, prepare.clip)
    return float(low), float(high)


def _scale(image: NDArray[np.float32], low: float, high: float, prepare: Prepare) -> None:
    """Scale in place, in float64 for one slice at a time."""
    if prepare.normalize == "none":
        return
    if prepare.normalize == "zscore":
        mean = float(image.mean(dtype=np.float64))
        squares = sum(float(((s.astype(np.float64) - mean) ** 2).sum()) for s in image)
        sd = (squares / image.size) ** 0.5
        for plane in image:
            plane[:] = (plane.astype(np.float64) - mean) / sd
        return
    if prepare.normalize != "minmax":
        low, high = prepare.normalize
    for plane in image:
        plane[:] = np.clip((plane.astype(np.float64) - low) / (high - low), 0, 1) * 2 - 1
