"""Volumes: from a file of any orientation to prepared slices, and back to the file's own grid.

The way there is exact wherever it can be: axes are turned without interpolation, the crop is integral.
Only a card that asks for a pixel size (or a slice distance) interpolates, in the plane (or between slices)
and with antialiasing. A few slices are worked on at a time; besides the file's own array only the prepared
slices stand in memory.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from uda.config.card import DatasetCard, Prepare
from uda.data import geometry as grids
from uda.data.formats import reader
from uda.data.geometry import Geometry, Volume, unusable
from uda.data.intensity import check_units, foreground, normalize
from uda.data.transforms import copy_place, farthest
from uda.errors import ConfigError, DataError
from uda.files.atomic import atomic_path
from uda.files.untrusted import check_memory
from uda.types import IGNORE

GRID_TOLERANCE = 1e-3
"""Largest difference between two affines, in mm, that still counts as the same grid."""
FINE, FAR = 0.01, 0.5
"""In sides of the smallest pixel: the same tolerance where pixels are small, and how far apart two places of one voxel
may be before another voxel is nearer."""

CHUNK = 16
"""Slices that are turned and resampled at a time."""

LARGEST = float(np.finfo(np.float32).max)

_log = logging.getLogger(__name__)


def volume_prepare(card: DatasetCard) -> Prepare:
    """How a card of volumes prepares them.

    Raises:
        ConfigError: the card's images are photographs.
    """
    if not isinstance(card.prepare, Prepare):
        raise ConfigError(
            f"the images of card {card.name!r} are photographs, and this is for volumes only",
            where=f"card {card.name!r}, prepare.kind: {card.prepare.kind}",
            expected="a card with prepare.kind: volume",
        )
    return card.prepare


def read_volume(path: Path) -> Volume:
    """Read a 3-D file whole, by the reader of its ending.

    Raises:
        DataError: missing, of another format, cut short, not 3-D, empty, without a usable affine, or not
            of finite numbers.
    """
    volume = reader(path)(path)
    _check_content(volume.array, volume.affine, path)
    return volume


def _check_content(array: NDArray[Any], affine: NDArray[np.float64], path: Path) -> None:
    """Refuse voxels that are no finite numbers, or have no place in the world."""
    if fault := unusable(affine):
        raise DataError(
            fault,
            where=path,
            fix="set a valid sform or qform",
        )
    if array.dtype.kind == "f" and (bad := _beyond(array)):
        raise DataError(
            f"{bad} voxels are NaN, infinite or beyond what float32 holds",
            where=path,
            expected="finite intensities",
            fix="replace them, e.g. by the background intensity",
        )


def _beyond(array: NDArray[Any]) -> int:
    """Voxels that are no numbers, or would be none as float32; counted only where there are any."""
    if max(-float(array.min()), float(array.max())) <= LARGEST:
        return 0
    return int((~(np.abs(array) <= LARGEST)).sum())


def say_remarks(volume: Volume) -> None:
    """Log where a file's geometry is doubtful: each file once, and once for all files that the unit is unknown."""
    if not volume.unit_known:
        _say("the unit of length in the headers is unknown (xyzt_units 0) and read as millimetres")
    for remark in volume.remarks:
        _say(f"{remark}")


@cache
def _say(text: str) -> None:
    _log.warning("note: %s", text)


def prepare_image(
    volume: Volume, prepare: Prepare, path: Path
) -> tuple[NDArray[np.float32], Geometry]:
    """Turn, resample, crop and normalise one volume.

    Returns:
        float32 slices ``[s, h, w]`` and the way back.

    Raises:
        DataError: the image is constant inside the region of interest, a CT without its offset, or too large.
    """
    check_units(volume.array, prepare, path)
    geometry = _geometry(volume, prepare)
    _check_room(geometry, path)
    geometry = replace(geometry, start=_crop_start(volume, geometry, prepare))
    slices = np.empty((geometry.turned_shape[0], *prepare.size), dtype=np.float32)
    first = 0
    for part in _planes(volume, geometry, prepare.offset):
        slices[first : first + len(part)], window = grids.crop(part, geometry)
        first += len(part)
    if geometry.depth != len(slices):
        slices = grids.along(slices, geometry.depth)
    return normalize(slices, window, prepare, path), geometry


def _geometry(volume: Volume, prepare: Prepare) -> Geometry:
    """The grid of the prepared slices, their crop not yet placed."""
    turn = grids.turn_to(volume.affine, prepare.orientation)
    shape = volume.array.shape
    slices, rows, columns = grids.turned(volume.array, turn, prepare.slice_axis).shape
    geometry = Geometry(
        affine=tuple(tuple(float(x) for x in row) for row in volume.affine),
        shape=(shape[0], shape[1], shape[2]),
        turn=tuple((int(to), int(flip)) for to, flip in turn),
        slice_axis=prepare.slice_axis,
        resized=(rows, columns),
        depth=slices,
        start=(0, 0),
        size=prepare.size,
    )
    through, row, column = geometry.prepared_spacing
    if prepare.spacing is not None:
        resized = _cells(rows * row, prepare.spacing), _cells(columns * column, prepare.spacing)
        geometry = replace(geometry, resized=resized)
    if prepare.slice_spacing is not None:
        geometry = replace(geometry, depth=_cells(slices * through, prepare.slice_spacing))
    return geometry


def _check_room(geometry: Geometry, path: Path) -> None:
    """Refuse prepared slices that would not fit, such as those of a spacing that is far too small."""
    rows, columns = geometry.size
    slices = max(geometry.depth, geometry.turned_shape[0])
    whole = math.prod(geometry.resized) * min(CHUNK, geometry.turned_shape[0])
    what = f"{slices} slices of {rows}×{columns}, cut from {'×'.join(map(str, geometry.resized))} pixels,"
    check_memory(4 * (slices * rows * columns + whole), what, path)


def _cells(length: float, spacing: float) -> int:
    """How many pixels of a spacing a length has.

    Raises:
        ConfigError: 2³¹ pixels or more.
    """
    cells = float(length) / spacing
    if not cells < 2.0**31:
        raise ConfigError(
            f"a spacing of {spacing:g} mm makes {cells:.3g} pixels of {length:g} mm",
            where="prepare.spacing, prepare.slice_spacing",
            expected="a spacing in mm that is near that of the images",
            fix="correct the spacing of the card or model, or of the image",
        )
    return max(1, round(cells))


def _planes(volume: Volume, geometry: Geometry, offset: float) -> Iterator[NDArray[np.float32]]:
    """The file's slices ``[n, rows, columns]``, a few at a time, turned and resampled in their plane."""
    turned = grids.turned(volume.array, geometry.turn, geometry.slice_axis)
    for first in range(0, len(turned), CHUNK):
        part = np.array(turned[first : first + CHUNK], dtype=np.float32, order="C")
        part += np.float32(offset)
        if geometry.resized != part.shape[1:]:
            batch = torch.from_numpy(part)[:, None]
            part = functional.interpolate(batch, geometry.resized, mode="bilinear", antialias=True)[
                :, 0
            ].numpy()
        yield part


def prepare_label(
    volume: Volume, geometry: Geometry, card: DatasetCard, path: Path
) -> NDArray[np.uint8]:
    """Class indices ``[s, h, w]`` on the prepared grid; raw values are mapped before any resampling.

    Raises:
        DataError: the label lies on another grid than its image, or holds a value the card does not name.
    """
    check_same_grid(volume, geometry, path)
    return grids.label_slices(map_labels(volume.array, card, path), geometry)


def check_same_grid(volume: Volume, geometry: Geometry, path: Path) -> None:
    """Refuse a label whose shape or affine (beyond rounding noise) is not its image's."""
    if volume.array.shape != geometry.shape:
        raise DataError(
            f"the label has shape {volume.array.shape}",
            where=path,
            expected=f"the image's shape {geometry.shape}",
            fix="resample the label to the image (nearest neighbour)",
        )
    check_same_place(volume.affine, np.asarray(geometry.affine), geometry.shape, path)


def check_same_place(
    found: NDArray[np.float64],
    affine: NDArray[np.float64],
    shape: tuple[int, int, int],
    path: Path,
) -> None:
    """Refuse a label whose affine is not its image's, beyond rounding noise.

    Args:
        found: the label's affine.
        affine: the image's.
        shape: of both.
    """
    side = float(np.linalg.norm(affine[:3, :3], axis=0).min())
    difference = float(np.abs(found - affine).max())
    apart = farthest(found, affine, shape)
    if difference > (most := min(GRID_TOLERANCE, FINE * side)) or apart > FAR * side:
        raise DataError(
            f"the label's affine differs from the image's by up to {difference:.4g} mm; voxels lie up to "
            f"{apart:.4g} mm apart",
            where=path,
            expected=f"the same affine within {most:.3g} mm, and voxels within {FAR * side:.3g} mm",
            fix="resample the label to the image, or copy the image's header if the voxels do match",
        )


def map_labels(raw: NDArray[Any], card: DatasetCard, path: Path) -> NDArray[np.uint8]:
    """Raw label values to class indices by the card's names.

    Raises:
        DataError: lists every value the card does not name, with its voxel count.
    """
    values, counts = np.unique(raw, return_counts=True)
    index = {
        float(value): IGNORE if name == "ignore" else card.classes.index(name)
        for name, group in card.label_values.items()
        for value in group
    }
    unknown = [(v, n) for v, n in zip(values, counts, strict=True) if float(v) not in index]
    if unknown:
        listed = ", ".join(f"{exact(v)} ({n} voxels)" for v, n in unknown[:10])
        raise DataError(
            f"label values the card {card.name!r} does not name: {listed}",
            where=path,
            expected=f"one of {sorted(int(v) for v in index)}",
            fix="give each value a class in the card's label_values, e.g. under background or ignore",
        )
    mapped = np.zeros(raw.shape, dtype=np.uint8)
    for value in values:
        mapped[raw == value] = index[float(value)]
    return mapped


def exact(value: Any) -> str:
    """A numpy number in its shortest form that still is this number: ``205``, ``204.9999``."""
    if np.issubdtype(type(value), np.integer):
        return str(value)
    short = f"{value:g}"
    return short if type(value)(short) == value else str(value)


def write_volume(
    path: Path,
    array: NDArray[Any],
    affine: Any,
    slope: float | None = None,
    header: Any = None,
) -> None:
    """Write a NIfTI file whole or not at all.

    Args:
        affine: voxel → world in mm; written where there is no ``header``.
        slope: what readers multiply the stored values by.
        header: of the image on whose grid the array lies, as in :class:`Volume`. Its version of NIfTI, both its
            transforms, their codes, its pixel sizes and its unit are written as they are, so that every viewer puts
            the two at one place.
    """
    if header is None:
        image = nibabel.Nifti1Image(array, np.asarray(affine, dtype=np.float64))
    else:
        second = isinstance(header, nibabel.Nifti2Header)
        kind: Any = nibabel.Nifti2Image if second else nibabel.Nifti1Image
        image = kind(array, None)
        copy_place(header, image.header)
    if slope is not None:
        image.header.set_slope_inter(slope, 0)
    with atomic_path(path) as temporary:
        nibabel.save(image, temporary)


def _crop_start(volume: Volume, geometry: Geometry, prepare: Prepare) -> tuple[int, int]:
    """First row and column of the region of interest."""
    low, high = (0, 0), geometry.resized
    if prepare.crop == "foreground":
        low, high = foreground(_planes(volume, geometry, prepare.offset)) or (low, high)
    rows, columns = (
        (a + b - size) // 2 for a, b, size in zip(low, high, prepare.size, strict=True)
    )
    return rows, columns
