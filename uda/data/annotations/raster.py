"""From coordinates to pixels: pixel i covers [i, i+1), as in every format of shapes that is read here.

A click lies in the pixel that covers it. A rectangle has every pixel that it covers by more than :data:`EDGE`. A
polygon or a circle has the pixels whose centre (i + ½) lies inside. A line has the pixels on the way, one wide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

EDGE = 1e-3
"""Pixels that rounding may add to the side of a rectangle."""
MOST_STEPS = 1 << 24
"""Most pixels that the outline of one shape may pass."""
CHUNK = 1 << 20
"""Pixels of an outline that are worked on at a time."""


def pixel(coordinate: float) -> int:
    """The pixel that covers a coordinate.

    Example:
        >>> pixel(7.0), pixel(7.99), pixel(-0.2)
        (7, 7, -1)
    """
    return math.floor(coordinate)


def span(low: float, high: float) -> tuple[int, int] | None:
    """First and last pixel between two coordinates; None where there is none.

    Example:
        >>> span(10, 20), span(10.5, 20.5), span(3.2, 3.4), span(5, 5)
        ((10, 19), (10, 20), (3, 3), None)
    """
    if not high - low > EDGE:
        return None
    first = math.floor(low + EDGE)
    return first, max(first, math.ceil(high - EDGE) - 1)


def filled(corners: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels of an image whose centre lies inside a polygon, by the even–odd rule.

    Args:
        corners: ``[n, 2]`` x and y.
        shape: rows and columns of the image.

    Raises:
        ValueError: the outline passes more than :data:`MOST_STEPS` rows.

    Example:
        >>> square = np.array([[1, 0], [3, 0], [3, 2], [1, 2]], dtype=float)
        >>> filled(square, (3, 4)).astype(int)
        array([[0, 1, 1, 0],
               [0, 1, 1, 0],
               [0, 0, 0, 0]])
    """
    rows, columns = shape
    x, y = corners.T - 0.5
    to_x, to_y = np.roll(x, -1), np.roll(y, -1)
    # an edge crosses the rows r with low ≤ r < high, so that a corner on a row counts once
    low = np.clip(np.ceil(np.minimum(y, to_y)), 0, rows).astype(np.int64)
    high = np.clip(np.ceil(np.maximum(y, to_y)), 0, rows).astype(np.int64)
    if int((high - low).sum()) > MOST_STEPS:
        raise ValueError(f"its outline passes more than {MOST_STEPS} rows of pixels")
    flips = np.zeros((rows, columns + 1), dtype=bool)
    for which, step in _steps(high - low):
        row = low[which] + step
        slope = (to_x - x)[which] / (to_y - y)[which]
        crossing = x[which] + (row - y[which]) * slope
        column = np.clip(np.ceil(crossing), 0, columns).astype(np.int64)
        places, counts = np.unique(row * (columns + 1) + column, return_counts=True)
        flips.ravel()[places[counts % 2 == 1]] ^= True
    inside: NDArray[np.bool_] = np.logical_xor.accumulate(flips, axis=1)[:, :columns]
    return inside


def disk(x: float, y: float, radius: float, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose centre lies within a circle.

    Example:
        >>> int(disk(5, 5, 2, (10, 10)).sum())
        12
    """
    rows, columns = (np.arange(size) + 0.5 for size in shape)
    inside: NDArray[np.bool_] = (rows[:, None] - y) ** 2 + (columns - x) ** 2 <= radius**2
    return inside


def line(corners: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels of a line through corners inside the image, one wide (each touches the next by a side or a corner).

    Args:
        corners: ``[n, 2]`` x and y.
        shape: rows and columns of the image.

    Raises:
        ValueError: it passes more than :data:`MOST_STEPS` pixels.

    Example:
        >>> line(np.array([[0.5, 0.5], [3.5, 2.5]]), (3, 4)).astype(int)
        array([[1, 0, 0, 0],
               [0, 1, 1, 0],
               [0, 0, 0, 1]])
    """
    at = np.floor(corners).astype(np.int64)
    out = np.zeros(shape, dtype=bool)
    out[at[:, 1], at[:, 0]] = True
    start, way = at[:-1], np.diff(at, axis=0)
    steps = np.abs(way).max(1, initial=0)
    if int(steps.sum()) > MOST_STEPS:
        raise ValueError(f"it passes more than {MOST_STEPS} pixels")
    for which, step in _steps(steps):
        # half of a step is rounded up, in whole numbers
        x, y = (
            start[which, a] + (2 * step * way[which, a] + steps[which]) // (2 * steps[which])
            for a in (0, 1)
        )
        out[y, x] = True
    return out


def _steps(counts: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each edge as many steps as it has: numbers of edges and of steps, some :data:`CHUNK` at a time."""
    starts = np.cumsum(counts) - counts
    bounds = np.searchsorted(starts, np.arange(0, int(counts.sum()), CHUNK))
    for first, end in pairwise([*bounds.tolist(), len(counts)]):
        own = counts[first:end]
        which = np.repeat(np.arange(first, end), own)
        yield which, np.arange(len(which)) - np.repeat(np.cumsum(own) - own, own)
