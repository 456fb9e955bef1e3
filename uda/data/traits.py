"""Traits of an image before normalisation: a few numbers on intensities, texture and extent.

A store's index holds them for each case. A model trained on the store holds their ranges, so that prediction can flag
an image outside of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from uda.data.geometry import Geometry, Volume, nearest, region, turned

Traits = dict[str, float]
LEVELS = (5, 50, 95)
"""percentiles"""
SAMPLED = 16
"""number of sampled slices, evenly spread: enough for percentiles, with little memory for any volume"""
LIGHT = (0.299, 0.587, 0.114)
"""weights of red, green and blue in brightness (ITU-R BT.601)"""


def volume_traits(volume: Volume, geometry: Geometry) -> Traits:
    """Traits of a volume: stored intensities in the region of interest, and sizes of the whole file.

    ``roughness`` is the mean absolute difference of neighbouring pixels in a row as a share of the range from the 5th
    to the 95th percentile: about 0.02 in smooth images, above 0.2 in noise.

    Args:
        volume: as it was read; it is never copied as a whole.
    """
    slices = turned(volume.array, geometry.turn, geometry.slice_axis)
    rows, columns = region(geometry)
    some = nearest(len(slices), min(SAMPLED, len(slices)))
    seen = np.stack([slices[index, rows, columns].astype(np.float64) for index in some])
    through, row, column = geometry.turned_spacing
    count, height, width = geometry.turned_shape
    return {
        **_levels("intensity", seen),
        "roughness": _roughness(seen),
        "pixel_mm": (row * column * geometry.skew) ** 0.5,
        "slice_mm": through,
        "slices": float(count),
        "height_mm": height * row,
        "width_mm": width * column,
        "depth_mm": count * through,
    }


def photo_traits(photo: NDArray[np.uint8]) -> Traits:
    """Traits of a photograph ``[h, w, 3]``: brightness in 0…255, colour, size in pixels.

    ``red`` and ``blue`` are the shares of these channels in the sum of all three; a third each in a grey image.
    """
    height, width = photo.shape[:2]
    step = max(1, round((height * width / 2**18) ** 0.5))
    rows = photo[::step]  # whole rows, which keep their neighbouring pixels
    grey = rows @ np.array(LIGHT)
    red, green, blue = rows.mean((0, 1), dtype=np.float64)
    light = red + green + blue
    return {
        **_levels("brightness", grey),
        "roughness": _roughness(grey),
        "red": red / light if light else 1 / 3,
        "blue": blue / light if light else 1 / 3,
        "height_px": float(height),
        "width_px": float(width),
        "aspect": width / height,
    }


def _levels(name: str, values: NDArray[np.float64]) -> Traits:
    if not values.size:
        return {}
    found = np.percentile(values, LEVELS)
    return {f"{name}_p{level}": float(value) for level, value in zip(LEVELS, found, strict=True)}


def _roughness(values: NDArray[np.float64]) -> float:
    """Mean absolute step along the last axis, as a share of the range between the outer :data:`LEVELS`."""
    if values.shape[-1] < 2 or not values.size:
        return 0.0
    low, high = np.percentile(values, (LEVELS[0], LEVELS[-1]))
    steps = np.abs(np.diff(values, axis=-1)).mean()
    return float(steps / (high - low)) if high > low else 0.0
