"""Draw shapes of an image onto a label map."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from uda.data.annotations.grids import Grid
from uda.types import IGNORE

BEYOND = 1.0
"""Pixels by which shapes may reach beyond the image, through rounding; what is beyond is cut."""
MOST_TIMES = 64
"""How many times the area of its image all shapes of it may cover, each with its bounding box."""

Draw = Callable[[NDArray[np.float64], tuple[int, int]], NDArray[np.bool_]]
"""Corners ``[n, 2]`` (x, y) and a shape → the pixels that belong to it."""


class Canvas:
    """A label map of a photograph that shapes are drawn on.

    Args:
        outside: what pixels without a shape are.
        covering: whether a later shape covers an earlier one; else pixels that two classes claim are ``IGNORE``.
    """

    def __init__(self, grid: Grid, outside: int = IGNORE, covering: bool = True) -> None:
        self.shape = (grid.rows, grid.columns)
        self.labels = np.full(self.shape, outside, dtype=np.uint8)
        self.covering = covering
        self._claimed = np.zeros(self.shape, dtype=bool)
        self._left = MOST_TIMES * grid.rows * grid.columns

    def draw(self, corners: NDArray[np.float64], how: Draw, index: int) -> None:
        """Give the pixels of a shape a class.

        Args:
            corners: ``[n, 2]`` x and y, of all that the shape covers.

        Raises:
            ValueError: it reaches beyond the image, marks no pixel, or shapes cover too much.
        """
        self.check(corners)
        self.draw_cut(corners, how, index)

    def check(self, corners: NDArray[np.float64]) -> None:
        """Refuse corners beyond the image.

        Raises:
            ValueError: names the first.
        """
        size = np.array(self.shape[::-1], dtype=np.float64)
        out = ((corners < -BEYOND) | (corners > size + BEYOND)).any(1)
        if out.any():
            x, y = corners[out][0]
            raise ValueError(
                f"it reaches ({x:g}, {y:g}), outside the image of {self.shape[1]}×{self.shape[0]} pixels"
            )

    def draw_cut(self, corners: NDArray[np.float64], how: Draw, index: int) -> None:
        """The same for a shape that may reach beyond the image, where it is cut."""
        size = np.array(self.shape[::-1], dtype=np.float64)
        low = np.clip(np.floor(corners.min(0)), 0, size - 1).astype(int)
        high = np.clip(np.floor(corners.max(0)), 0, size - 1).astype(int) + 1
        part = slice(low[1], high[1]), slice(low[0], high[0])
        columns, rows = (high - low).tolist()
        self._spend(rows * columns)
        self._mark(part, how(corners - low, (rows, columns)), index)

    def mark(self, pixels: NDArray[np.bool_], index: int) -> None:
        """Give pixels ``[rows, columns]`` of the image a class.

        Raises:
            ValueError: there is none, or shapes cover too much.
        """
        self._spend(pixels.size)
        self._mark((slice(None), slice(None)), pixels, index)

    def _spend(self, pixels: int) -> None:
        self._left -= pixels
        if self._left < 0:
            raise ValueError(f"shapes cover more than {MOST_TIMES} times the image")

    def _mark(self, part: tuple[slice, slice], pixels: NDArray[np.bool_], index: int) -> None:
        if not pixels.any():
            raise ValueError("it covers the centre of no pixel")
        labels, claimed = self.labels[part], self._claimed[part]
        twice = pixels & claimed & (labels != index)
        labels[pixels] = index
        if not self.covering:
            labels[twice] = IGNORE
        claimed |= pixels
