"""Annotations that somebody could have drawn, made from complete labels: for benchmarks, and to try methods."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from uda.config.annotations import LEDGER, Kind
from uda.config.card import DatasetCard
from uda.data.annotations.marks import Box, Point
from uda.data.cases import Case, cases_of, folders_of_card
from uda.data.file_names import stem
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
    kinds: Collection[Kind] = tuple(LEDGER),
    partial: Sequence[str] = (),
    seed: int = 0,
    by_file: bool = False,
) -> Path:
    """Write a folder of simulated annotations of a split's cases, as ``--annotations`` reads it.

    Every case has points, boxes and scribbles, three have complete labels, and every second one partial labels.

    Args:
        kinds: what to write.
        partial: structures of the partial labels; default the card's first.
        by_file: call cases like their image files and write the index of each class, as an adaptation without a card
            reads them; else as the card has them.

    Raises:
        ConfigError: the images are photographs, or the card has no such structure.
        DataError: a case cannot be read or has no label, or a file is in the way.
    """
    volume_prepare(card)
    names = tuple(partial) or card.structures[:1]
    if unknown := [name for name in names if name not in card.structures]:
        raise ConfigError(
            f"card {card.name!r} has no structure {unknown[0]!r}",
            expected=", ".join(card.structures),
        )
    cases = cases_of(card, root, split, labels=True)
    check_apart(out, folders_of_card(card, root))
    check_file(out / "points.csv")
    writer = _Writer(card, kinds, names, seed, by_file)
    full = np.linspace(0, len(cases) - 1, min(FULL, len(cases))).astype(int)
    with new_files(out) as folder:
        for number, case in enumerate(cases):
            writer.write(case, folder, number in full, number % 2 == 1)
        writer.write_tables(folder)
    return out


class _Writer:
    """Writes the annotations of one case after the other."""

    def __init__(
        self,
        card: DatasetCard,
        kinds: Collection[Kind],
        partial: Sequence[str],
        seed: int,
        by_file: bool,
    ) -> None:
        self.card, self.kinds, self.seed, self.by_file = card, kinds, seed, by_file
        self.partial = partial
        self.points: list[list[Any]] = [["case", "slice", "row", "column", "class"]]
        corners = ["row0", "column0", "row1", "column1"]
        self.boxes: list[list[Any]] = [["case", "slice", "class", *corners]]

    def write(self, case: Case, folder: Path, whole: bool, some: bool) -> None:
        """Note the clicks and boxes of a case, and write its label files.

        Args:
            whole: whether it has complete labels.
            some: whether it has partial labels.
        """
        labels, geometry, affine = _labels(case, self.card)
        name = stem(case.image.name) if self.by_file else case.name
        classes, seed = self.card.classes, mix(self.seed, case.name)
        found = simulated(labels, geometry.file_slice_axis, len(classes), seed)
        self.points += [[name, s, row, column, classes[c]] for s, row, column, c in found.points]
        self.boxes += [[name, s, classes[c], *corners] for s, c, *corners in found.boxes]
        maps = {"scribbles": found.scribbles} if "scribbles" in self.kinds else {}
        if whole and "labels" in self.kinds:
            maps["labels"] = labels
        if some and "partial" in self.kinds:
            named = np.isin(labels, [classes.index(one) for one in self.partial])
            known = named | (labels == IGNORE)
            maps["_".join(["partial", *self.partial])] = np.where(known, labels, np.uint8(OTHER))
        for kind, array in maps.items():
            write_volume(folder / kind / f"{name}.nii.gz", self._raw(array), affine)

    def write_tables(self, folder: Path) -> None:
        """Write the clicks and boxes of all cases."""
        for kind, rows in (("points", self.points), ("boxes", self.boxes)):
            if kind in self.kinds:
                write_text(folder / f"{kind}.csv", csv_text(rows))

    def _raw(self, labels: Labels) -> NDArray[np.int16]:
        """Class indices as raw values; ``OTHER`` as that of the background."""
        values = self.card.label_values
        own = [values[name][0] for name in self.card.classes]
        table = np.full(IGNORE + 1, IGNORE, dtype=np.int16)
        table[: len(own)] = range(len(own)) if self.by_file else own
        table[OTHER] = table[0]
        if not self.by_file:
            table[IGNORE] = values.get("ignore", (IGNORE,))[0]
        raw: NDArray[np.int16] = table[labels]
        return raw


def _labels(case: Case, card: DatasetCard) -> tuple[Labels, Geometry, NDArray[np.float64]]:
    """Class indices on the file's grid, how the case is prepared, and its affine."""
    _, geometry, _ = prepared_stack(case, card)
    label = read_label(case, card)
    return map_labels(label.array, card, case.label or case.image), geometry, label.affine
