"""What annotations say, on the grid of the image's file.

Indices count from 0. ``slice`` runs along the file's slice axis, ``row`` and ``column`` along its two other axes in
their order; a photograph has the slice 0 alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Point(NamedTuple):
    """A pixel of which the class is known."""

    slice: int
    row: int
    column: int
    class_index: int


class Box(NamedTuple):
    """A rectangle around a structure in one slice; both its ends belong to it.

    Example:
        >>> box = Box(slice=3, class_index=2, row0=10, column0=20, row1=14, column1=29)
        >>> box.row1 - box.row0 + 1, box.column1 - box.column0 + 1  # its sides, in pixels
        (5, 10)
    """

    slice: int
    class_index: int
    row0: int
    column0: int
    row1: int
    column1: int


class Partial(NamedTuple):
    """A label map that is complete for some classes and says nothing of which other class a pixel has."""

    labels: NDArray[np.uint8]
    """indices of the named classes, ``OTHER`` and ``IGNORE``, on the file's grid"""
    named: tuple[str, ...]
    """classes that the map names"""
