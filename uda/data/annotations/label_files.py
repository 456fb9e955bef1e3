"""Label files: scribbles, labels of some classes only, and complete labels.

A file is called like its case and lies on its image's grid. Its values mean what the card's ``label_values`` say; names
of segments, which 3D Slicer and MITK write into NRRD files, count more than values.

What a value says that no class has:

==========  =================================================================================================
scribbles   255 and the card's ``ignore`` values: nothing is said. Where a file has none of them, 0 says nothing:
            ITK-SNAP, 3D Slicer and MITK write 0 where nothing is drawn. ``unmarked`` names such values instead.
partial     255 and ``ignore``: nothing is said. All else but the named classes: another class (``OTHER``).
complete    an error, as in every label of a data set
==========  =================================================================================================
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uda.config.card import DatasetCard
from uda.data.annotations.grids import Grid
from uda.data.annotations.placement import place
from uda.data.annotations.segments import merged, segment_classes, segments_of
from uda.data.formats import reader
from uda.data.nrrd import read_header, read_layers, read_nrrd
from uda.data.photo_labels import check_same_size, look_up, read_classes, unknown_values
from uda.data.volumes import check_same_place, exact, map_labels, read_volume
from uda.errors import DataError
from uda.types import IGNORE, OTHER

LISTED = 10
"""Values that a message names."""
MOST_VALUES = 1000
"""Values of a label map; more are those of an image."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """What a file holds, on its image's grid."""

    classes: NDArray[np.uint8]
    """class indices, ``IGNORE``, and ``OTHER`` where the card has no class for the value"""
    raw: NDArray[Any] | None
    """values, or colours ``[h, w, 3]``; None where names of segments say the class"""
    blank: NDArray[np.bool_]
    """where the value is 0 (in colours: black)"""


def read_scribbles(
    path: Path, grid: Grid, card: DatasetCard, unmarked: Collection[int] | None = None
) -> NDArray[np.uint8]:
    """Class indices on the file's grid, ``IGNORE`` where nothing is said.

    Args:
        unmarked: values that say nothing, beside 255 and the card's ``ignore``; ``()``: only those. None: 0, if the
            file has neither.

    Raises:
        DataError: the file cannot be read, lies on another grid, holds values without a class, or marks nothing.
    """
    drawn = _read(path, grid, card)
    if unmarked is None:
        plain = drawn.raw is not None and bool((drawn.classes == IGNORE).any())
        silent = np.zeros_like(drawn.blank) if plain else drawn.blank
    else:
        silent = _values(drawn, unmarked)
    classes = np.where(silent, np.uint8(IGNORE), drawn.classes)
    classes = _background(classes, drawn, silent, card)
    if (classes == OTHER).any():
        raise _unknown(drawn, classes == OTHER, card, path)
    if (classes == IGNORE).all():
        raise _nothing(path, "a mark in at least one pixel", card)
    return classes


def read_partial(
    path: Path, grid: Grid, card: DatasetCard, named: Collection[str]
) -> NDArray[np.uint8]:
    """Indices of the named classes, ``OTHER`` for all others and ``IGNORE``, on the file's grid.

    A photograph without any of the classes is a file of one value.

    Raises:
        DataError: the file cannot be read, lies on another grid, or has none of the classes.
    """
    drawn = _read(path, grid, card)
    kept = [card.classes.index(name) for name in named]
    found = _background(drawn.classes, drawn, np.zeros_like(drawn.blank), card)
    table = np.full(256, OTHER, dtype=np.uint8)
    table[kept], table[IGNORE] = kept, IGNORE
    classes = table[found]
    if not np.isin(classes, kept).any():
        absent = grid.photo and drawn.raw is not None and not (drawn.raw != drawn.raw[0, 0]).any()
        if not absent or (classes == IGNORE).all():
            raise _nothing(path, f"pixels of {', '.join(named)}", card, named)
    return classes


def read_complete(path: Path, grid: Grid, card: DatasetCard) -> NDArray[np.uint8]:
    """Class indices and ``IGNORE`` on the file's grid, as every label of a data set is read.

    Raises:
        DataError: the file cannot be read, lies on another grid, holds values without a class, or says nothing.
    """
    if grid.photo:
        classes = read_classes(path, card)
        check_same_size(classes, (grid.rows, grid.columns), path)
    elif _segmented(path):
        drawn = _read(path, grid, card)
        classes = _background(drawn.classes, drawn, np.zeros_like(drawn.blank), card)
        if (classes == OTHER).any():
            raise _unknown(drawn, classes == OTHER, card, path)
    else:
        classes = map_labels(_volume(path, grid), card, path)
    if (classes == IGNORE).all():
        raise _nothing(path, "a class in at least one pixel", card)
    return classes


def _read(path: Path, grid: Grid, card: DatasetCard) -> Drawn:
    if grid.photo:
        classes, raw = look_up(path, card)
        check_same_size(classes, (grid.rows, grid.columns), path)
        black: NDArray[np.bool_] = np.asarray(~raw.any(-1) if raw.ndim == 3 else raw == 0)
        if raw.ndim == 2:
            classes = np.where((classes == OTHER) & (raw == IGNORE), np.uint8(IGNORE), classes)
        return Drawn(classes, raw, black)
    if _segmented(path):
        layers, header = read_layers(path)
        names = segment_classes(segments_of(header, path), card, path)
        marked = merged(layers, names, card, path)
        classes = place(marked, header.place.affine, grid, OTHER, path)
        return Drawn(classes, None, classes == OTHER)
    raw = _volume(path, grid)
    return Drawn(_mapped(raw, card, path), raw, np.asarray(raw == 0))


def _segmented(path: Path) -> bool:
    """Whether a file names its segments."""
    return reader(path) is read_nrrd and bool(segments_of(read_header(path), path))


def _volume(path: Path, grid: Grid) -> NDArray[Any]:
    """Values on the image's grid. NRRD files may be cropped, as those of 3D Slicer are: beyond nothing is drawn."""
    volume = read_volume(path)
    array = volume.array
    if reader(path) is read_nrrd:
        return place(array, volume.affine, grid, IGNORE if (array == IGNORE).any() else 0, path)
    if grid.affine is None or array.shape != grid.shape:
        raise DataError(
            f"the label has shape {array.shape}",
            where=path,
            expected=f"the image's shape {grid.shape}",
            fix="draw on this image, or resample the label to it (nearest neighbour)",
        )
    shape = (array.shape[0], array.shape[1], array.shape[2])
    check_same_place(volume.affine, grid.affine, shape, path)
    return array


def _mapped(raw: NDArray[Any], card: DatasetCard, path: Path) -> NDArray[np.uint8]:
    """Class indices; ``OTHER`` for values that the card does not name, ``IGNORE`` for 255."""
    values = np.unique(raw)
    if len(values) > MOST_VALUES or (values != np.rint(values)).any():
        what = f"{len(values)} values" if len(values) > MOST_VALUES else "values that are not whole"
        raise DataError(
            f"is no label map: it has {what}",
            where=path,
            expected="a whole number for each class",
            fix="name a file of labels, not of intensities; resample labels by nearest neighbour",
        )
    table = {IGNORE: IGNORE} | {
        value: IGNORE if name == "ignore" else card.classes.index(name)
        for name, group in card.label_values.items()
        for value in group
    }
    classes = np.full_like(raw, OTHER, dtype=np.uint8)
    for value in values:
        if (index := table.get(int(value), OTHER)) != OTHER:
            classes[raw == value] = index
    return classes


def _values(drawn: Drawn, unmarked: Collection[int]) -> NDArray[np.bool_]:
    """Where a file has one of these values; in colours grey stands for its value."""
    if drawn.raw is None:
        return drawn.blank if 0 in unmarked else np.zeros_like(drawn.blank)
    if drawn.raw.ndim == drawn.blank.ndim:
        return np.isin(drawn.raw, list(unmarked))
    found = np.zeros_like(drawn.blank)
    for value in unmarked:
        found |= (drawn.raw == value).all(-1)
    return found


def _background(
    classes: NDArray[np.uint8], drawn: Drawn, silent: NDArray[np.bool_], card: DatasetCard
) -> NDArray[np.uint8]:
    """What is not drawn in a file of named segments has the card's class of the value 0."""
    if drawn.raw is not None:
        return classes
    zero = next((name for name, group in card.label_values.items() if 0 in group), None)
    if zero is None:
        return classes
    index = IGNORE if zero == "ignore" else card.classes.index(zero)
    return np.where(drawn.blank & ~silent, np.uint8(index), classes)


def _unknown(drawn: Drawn, where: NDArray[np.bool_], card: DatasetCard, path: Path) -> DataError:
    if drawn.raw is None:
        return DataError(
            f"{int(where.sum())} voxels are not drawn, and card {card.name!r} gives the value 0 no class",
            where=path,
            fix="draw every voxel",
        )
    if where.ndim == 2:
        return unknown_values(drawn.raw[where], path, card)
    values, counts = np.unique(drawn.raw[where], return_counts=True)
    pairs = list(zip(values, counts, strict=True))
    listed = ", ".join(f"{exact(v)} ({n} voxels)" for v, n in pairs[:LISTED])
    more = f", and {len(pairs) - LISTED} more" if len(pairs) > LISTED else ""
    return DataError(
        f"label values the card {card.name!r} does not name: {listed}{more}",
        where=path,
        expected=f"one of {sorted(v for group in card.label_values.values() for v in group)}, or {IGNORE}",
        fix="draw with the values of the card's label_values",
    )


def _nothing(
    path: Path, expected: str, card: DatasetCard, named: Collection[str] = ()
) -> DataError:
    values = {name: list(card.label_values[name]) for name in named}
    return DataError(
        "the file marks nothing",
        where=path,
        expected=expected,
        fix=(f"draw with the values {values}, or t" if values else "t") + "ake the file out",
    )
