"""Annotations that somebody could have drawn, made from complete labels: for benchmarks, and to try methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from uda.config.card import DatasetCard
from uda.data.annotations.marks import Box, Point
from uda.data.cases import Case, cases_of, folders_of_card
from uda.data.geometry import Geometry
from uda.data.seeds import mix
from uda.data.sources import prepared_stack, read_label
from uda.data.volumes import map_labels, volume_prepare, write_volume
from uda.errors import ConfigError
from uda.files.apart import check_apart
from uda.files.atomic import write_text
from uda.files.csv_files import csv_text
from uda.files.new import check_file, new_files
from uda.types import IGNORE, OTHER

Labels = NDArray[np.uint8]
SLICES = (0.25, 0.5, 0.75)
"""Marked slices of a case, as shares of those that show a structure."""
STROKE = (6, 7)
"""Distance in pixels from the structures at which the background's stroke runs."""
FULL = 3
"""cases with complete labels, evenly spread"""


@dataclass(frozen=True)
class Simulated:
    """What somebody could have marked in one case, on the grid of its file."""

    points: tuple[Point, ...]
    boxes: tuple[Box, ...]
    scribbles: Labels
    """a class, or ``IGNORE``"""


def simulated(labels: Labels, axis: int, classes: int, seed: int) -> Simulated:
    """Marks of one case: in three of its slices a click and a centre line for each class, boxes in every slice.

    A click is a random one of the deeper half of a structure's pixels. A box is tight around all pixels of a structure
    in a slice. The background has a stroke around the structures.

    Args:
        labels: class indices ``[x, y, z]`` on the grid of the file; class 0 is the background.
        axis: along which its slices lie.
    """
    slices = np.moveaxis(labels, axis, 0)
    shown = np.flatnonzero(((slices > 0) & (slices != IGNORE)).any((1, 2)))
    rng = np.random.default_rng(seed)
    chosen = (
        sorted({int(shown[int(share * (len(shown) - 1))]) for share in SLICES})
        if len(shown)
        else []
    )
    scribbles = np.full_like(labels, IGNORE)
    drawn = np.moveaxis(scribbles, axis, 0)  # a view
    points: list[Point] = []
    for number in chosen:
        for index in range(classes):
            region = slices[number] == index
            if not region.any():
                continue
            depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
            deep = np.argwhere(depth >= depth.max() / 2)
            row, column = deep[rng.integers(len(deep))].tolist()
            points.append(Point(number, row, column, index))
            drawn[number][_line(slices[number], region, index)] = index
    return Simulated(tuple(points), tuple(_boxes(slices, classes)), scribbles)


def _line(plane: Labels, region: NDArray[np.bool_], index: int) -> NDArray[np.bool_]:
    """The centre line of a structure, or a stroke of the background around the structures."""
    if index > 0:
        from skimage.morphology import skeletonize

        line: NDArray[np.bool_] = skeletonize(region)  # type: ignore[no-untyped-call]
        return line if line.any() else region
    away = ndimage.distance_transform_edt((plane == 0) | (plane == IGNORE))
    ring: NDArray[np.bool_] = region & (away >= STROKE[0]) & (away < STROKE[1])
    return ring


def _boxes(slices: Labels, classes: int) -> Iterator[Box]:
    for number, plane in enumerate(slices):
        for index in range(1, classes):
            rows, columns = np.nonzero(plane == index)
            if len(rows):
                first, last = (rows.min(), columns.min()), (rows.max(), columns.max())
                yield Box(number, index, int(first[0]), int(first[1]), int(last[0]), int(last[1]))


def write_simulated(
    card: DatasetCard,
    root: str | Path | None,
    split: str,
    out: Path,
    partial: Sequence[str] = (),
    seed: int = 0,
) -> Path:
    """Write a folder of simulated annotations of a split's cases, as ``--annotations`` reads it.

    Every case has points, boxes and scribbles; three have complete labels, and with ``partial`` every second one has
    labels of these structures alone.

    Raises:
        ConfigError: the images are photographs, or the card has no such structure.
        DataError: a case cannot be read or has no label, or a file is in the way.
    """
    volume_prepare(card)
    if unknown := [name for name in partial if name not in card.structures]:
        raise ConfigError(
            f"card {card.name!r} has no structure {unknown[0]!r}",
            expected=", ".join(card.structures),
        )
    cases = cases_of(card, root, split, labels=True)
    check_apart(out, folders_of_card(card, root))
    check_file(out / "points.csv")
    named = [card.classes.index(name) for name in partial]
    full = {
        cases[i].name for i in np.linspace(0, len(cases) - 1, min(FULL, len(cases))).astype(int)
    }
    points: list[list[Any]] = [["case", "slice", "row", "column", "class"]]
    boxes: list[list[Any]] = [["case", "slice", "class", "row0", "column0", "row1", "column1"]]
    with new_files(out) as folder:
        for number, case in enumerate(cases):
            labels, geometry, affine = _labels(case, card)
            found = simulated(
                labels, geometry.file_slice_axis, len(card.classes), mix(seed, case.name)
            )
            points += [
                [case.name, p.slice, p.row, p.column, card.classes[p.class_index]]
                for p in found.points
            ]
            boxes += [
                [
                    case.name,
                    b.slice,
                    card.classes[b.class_index],
                    b.row0,
                    b.column0,
                    b.row1,
                    b.column1,
                ]
                for b in found.boxes
            ]
            maps = {"scribbles": found.scribbles}
            if case.name in full:
                maps["labels"] = labels
            if named and number % 2:
                other = np.where(labels == IGNORE, IGNORE, OTHER)
                maps["partial_" + "_".join(partial)] = np.where(
                    np.isin(labels, named), labels, other
                )
            for kind, array in maps.items():
                write_volume(folder / kind / f"{case.name}.nii.gz", _raw(array, card), affine)
        write_text(folder / "points.csv", csv_text(points))
        write_text(folder / "boxes.csv", csv_text(boxes))
    return out


def _labels(case: Case, card: DatasetCard) -> tuple[Labels, Geometry, NDArray[np.float64]]:
    """Class indices on the file's grid, how the case is prepared, and its affine."""
    _, geometry, _ = prepared_stack(case, card)
    label = read_label(case, card)
    return map_labels(label.array, card, case.label or case.image), geometry, label.affine


def _raw(labels: Labels, card: DatasetCard) -> NDArray[np.int16]:
    """Class indices as the card's raw values; ``OTHER`` as the background's."""
    values = [card.label_values[name][0] for name in card.classes]
    ignored = card.label_values.get("ignore", (IGNORE,))[0]
    table = np.full(IGNORE + 1, ignored, dtype=np.int16)
    table[: len(values)] = values
    table[OTHER] = values[0]
    raw: NDArray[np.int16] = table[labels]
    return raw
