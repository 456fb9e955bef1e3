"""The grids of target images, read from their headers: what annotations are compared with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uda.config.card import DatasetCard, Prepare
from uda.data.cases import Case
from uda.data.file_names import stem
from uda.data.formats import read_grid
from uda.data.geometry import turn_to, unusable
from uda.data.image_files import photo_size
from uda.data.sources import ARRAYS, RECORDS, read_images
from uda.errors import DataError, UdaError, raise_all


@dataclass(frozen=True, eq=False)
class Grid:
    """The pixels of an image's file.

    Example:
        >>> grid = Grid((192, 160, 12), np.eye(4))
        >>> grid.slices, grid.rows, grid.columns
        (12, 192, 160)
        >>> photo = Grid((1024, 2048))
        >>> photo.slices, photo.rows, photo.columns
        (1, 1024, 2048)
    """

    shape: tuple[int, ...]
    """of the file's array; of a photograph rows and columns"""
    affine: NDArray[np.float64] | None = None
    """voxel → RAS in mm; None for photographs"""
    slice_axis: int = 2
    """axis of the file's array along which slices follow one another"""
    file: str = ""
    """name of the image's file without its ending"""

    @property
    def photo(self) -> bool:
        return len(self.shape) == 2

    @property
    def slices(self) -> int:
        return 1 if self.photo else self.shape[self.slice_axis]

    @property
    def rows(self) -> int:
        return self.shape[self.plane[0]]

    @property
    def columns(self) -> int:
        return self.shape[self.plane[1]]

    @property
    def plane(self) -> tuple[int, int]:
        """Axes of the array that are rows and columns: the others, in their order."""
        if self.photo:
            return 0, 1
        row, column = (axis for axis in range(3) if axis != self.slice_axis)
        return row, column


def grids_of(cases: Sequence[Case], card: DatasetCard) -> dict[str, Grid]:
    """The grid of each case, by its name. Of NIfTI, NRRD, PNG and JPEG the headers alone are read.

    Raises:
        DataError: lists every image whose header cannot be used.
    """
    found, faults = sound_grids(cases, card)
    raise_all(faults, f"the images of card {card.name!r}")
    return found


def sound_grids(cases: Iterable[Case], card: DatasetCard) -> tuple[dict[str, Grid], list[UdaError]]:
    """The grids of the images whose headers can be used, and the faults of the others."""
    found: dict[str, Grid] = {}
    faults: list[UdaError] = []
    for case in cases:
        grid = _grid_or_fault(case, card)
        if isinstance(grid, Grid):
            found[case.name] = grid
        else:
            faults.append(grid)
    return found, faults


def _grid_or_fault(case: Case, card: DatasetCard) -> Grid | UdaError:
    try:
        return _grid(case, card)
    except DataError as fault:
        return fault


def _grid(case: Case, card: DatasetCard) -> Grid:
    prepare = card.prepare
    if not isinstance(prepare, Prepare):
        return Grid(photo_size(case.image), file=stem(case.image.name))
    if case.image.suffix in (RECORDS, ARRAYS):
        volume = read_images(case, card)[0]
        shape, affine = volume.array.shape, volume.affine
    else:
        shape, affine = read_grid(case.image)
    if fault := unusable(affine):
        raise DataError(fault, where=case.image, fix="set a valid sform or qform")
    turn = turn_to(affine, prepare.orientation)
    (own,) = (axis for axis in range(3) if int(turn[axis, 0]) == prepare.slice_axis)
    return Grid(shape, affine, own, stem(case.image.name))
