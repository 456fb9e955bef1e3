"""Formats of volumes: the ending of a file's name says which function reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uda.data import nifti, nrrd
from uda.data.geometry import Volume
from uda.data.nifti import read_nifti
from uda.data.nrrd import read_nrrd
from uda.errors import DataError

READERS: dict[str, Callable[[Path], Volume]] = {
    ".nii.gz": read_nifti,
    ".nii": read_nifti,
    ".nrrd": read_nrrd,
}
"""By the ending in lower case. A reader raises ``DataError`` for a file that it cannot read."""
SEGMENTATION = ".seg.nrrd"
"""Ending of the segmentations of 3D Slicer: never of an image."""


def reader(path: Path) -> Callable[[Path], Volume]:
    """The reader of a file; a name without a known ending is taken for NIfTI."""
    name = path.name.lower()
    return next((read for end, read in READERS.items() if name.endswith(end)), read_nifti)


def read_grid(path: Path) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Shape and affine of a volume; of NIfTI and NRRD the header alone is read.

    Raises:
        DataError: the file cannot be read, or has not three axes.
    """
    read = reader(path)
    if read is read_nrrd:
        layered = nrrd.read_header(path)
        shape: tuple[int, ...] = layered.shape if layered.layers == 1 else layered.stored_shape
        affine = layered.place.affine
    elif read is read_nifti:
        header = nifti.read_header(path)
        shape, affine = header.shape, header.affine
    else:
        volume = read(path)
        shape, affine = volume.array.shape, volume.affine
    if len(shape) != 3:
        raise DataError(
            f"has shape {shape}",
            where=path,
            expected="three axes",
            fix="split channels or time frames",
        )
    return (shape[0], shape[1], shape[2]), affine


def read_blocks(path: Path, voxels: int) -> Iterator[NDArray[Any]]:
    """The voxels of a file in its order, a flat block at a time; what is not asked for is not read.

    Raises:
        DataError: the file cannot be read.
    """
    if reader(path) is read_nrrd:
        return nrrd.read_blocks(path, voxels)
    return nifti.read_blocks(path, voxels)
