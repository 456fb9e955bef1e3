"""Put an array on the grid of its image: 3D Slicer stores a segmentation cropped to what is drawn, in axes of its own.

Nothing is interpolated: axes may be permuted and flipped, and the offset is whole voxels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uda.data.annotations.grids import Grid
from uda.data.volumes import check_same_place
from uda.errors import DataError
from uda.files.untrusted import check_memory


def place(
    array: NDArray[Any], affine: NDArray[np.float64], grid: Grid, empty: Any, path: Path
) -> NDArray[Any]:
    """An array ``[i, j, k]`` on the image's grid, with ``empty`` where the array does not reach.

    Args:
        affine: of the array, voxel → RAS in mm.
        empty: the value of voxels that say nothing; only they may lie outside the image.

    Raises:
        DataError: the two grids differ by more than a permutation and flips of axes and whole voxels, or something
            is drawn outside the image.

    Example:
        >>> grid = Grid((4, 4, 4), np.eye(4))
        >>> affine = np.eye(4)
        >>> affine[:3, 3] = 1, 2, 3
        >>> placed = place(np.full((2, 1, 1), 7), affine, grid, 0, Path("p01.seg.nrrd"))
        >>> np.argwhere(placed == 7).tolist()
        [[1, 2, 3], [2, 2, 3]]
    """
    if grid.affine is None:
        raise DataError("is a volume, and its image a photograph", where=path)
    own = grid.affine
    shape = (array.shape[0], array.shape[1], array.shape[2])
    with np.errstate(all="ignore"):
        between = np.rint(np.linalg.inv(own) @ affine)
    turn = between[:3, :3]
    whole = bool(np.isfinite(between).all()) and _permutes(turn)
    check_same_place(affine, own @ between if whole else own, shape, path)
    if not whole:
        raise DataError(
            "its axes do not run along those of its image",
            where=path,
            expected="the image's axes, permuted or flipped",
            fix="resample it to the image (nearest neighbour)",
        )
    axes = np.abs(turn).argmax(1)  # image axis → array axis
    signs = [int(turn[axis, own_axis]) for axis, own_axis in enumerate(axes)]
    turned = array.transpose([int(axis) for axis in axes])
    turned = turned[tuple(slice(None, None, sign) for sign in signs)]
    first = [
        int(at) if sign > 0 else int(at) - size + 1
        for at, sign, size in zip(between[:3, 3], signs, turned.shape, strict=True)
    ]
    if turned.shape == grid.shape and not any(first):
        found: NDArray[Any] = turned
        return found
    check_memory(int(np.prod(grid.shape)) * array.itemsize, "its label map", path)
    out = np.full(grid.shape, empty, dtype=array.dtype)
    there, here = [], []
    for at, size, full in zip(first, turned.shape, grid.shape, strict=True):
        low, high = min(max(at, 0), full), max(min(at + size, full), 0)
        there.append(slice(low, max(low, high)))
        here.append(slice(max(low - at, 0), max(low - at, 0) + max(0, high - low)))
    kept = turned[tuple(here)]
    if lost := int((turned != empty).sum()) - int((kept != empty).sum()):
        raise DataError(
            f"{lost} of its voxels are drawn outside the image",
            where=path,
            expected=f"a segmentation of this image, of {'×'.join(map(str, grid.shape))} voxels",
            fix="save the segmentation with the geometry of its image",
        )
    out[tuple(there)] = kept
    return out


def _permutes(turn: NDArray[np.float64]) -> bool:
    """Whether a matrix permutes axes and flips some."""
    size = np.abs(turn)
    return bool(
        ((size == 0) | (size == 1)).all() and (size.sum(0) == 1).all() and (size.sum(1) == 1).all()
    )
