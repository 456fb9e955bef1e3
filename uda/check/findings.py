"""Findings of a data check: a report for each case, and sums over all photographs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from uda.check.rules import Facts
from uda.data.geometry import Geometry
from uda.errors import UdaError

WHOLE_SET = "data set"
"""``CaseReport.split`` of findings about the whole data set"""
TAGS, ANNOTATIONS = "tags", "annotations"
"""``CaseReport.split`` of findings about the tags, and about the annotations"""
NAMED = 4
"""the most kinds that a cell of a table lists"""


@dataclass(frozen=True)
class Picture:
    """A few prepared slices for display, before they are rotated."""

    image: NDArray[np.float32]
    """``[n, h, w]``"""
    labels: NDArray[np.uint8] | None
    slices: tuple[int, ...]
    """their indices along the file's own slice axis"""
    geometry: Geometry


@dataclass(frozen=True)
class PhotoPicture:
    """A small copy of a photograph for display."""

    image: NDArray[np.uint8]
    """RGB ``[h, w, 3]``"""
    classes: NDArray[np.uint8] | None
    """``[h, w]`` class indices"""


@dataclass(frozen=True)
class MarkedPicture:
    """A few prepared slices with what is marked on them, before they are rotated; a photograph is one slice."""

    image: NDArray[np.float32] | NDArray[np.uint8]
    """``[n, h, w]``, of photographs RGB ``[n, h, w, 3]``"""
    complete: NDArray[np.uint8]
    """class indices ``[n, h, w]`` of complete labels, or ``IGNORE``"""
    partial: NDArray[np.uint8]
    """likewise of labels of some classes; ``OTHER`` is none of them"""
    scribbles: NDArray[np.uint8]
    points: NDArray[np.uint8]
    """likewise: the pixels that hold a click"""
    boxes: tuple[NDArray[np.int64], ...]
    """of each slice: class, first row and column, last row and column ``[m, 5]``"""
    slices: tuple[int, ...]
    """their indices along the file's own slice axis"""
    marked: int
    """number of slices with something to see, of which these are some"""
    geometry: Geometry


@dataclass
class CaseReport:
    """Properties of one case, its preparation, its faults and its notes."""

    split: str
    case: str
    stored: str = ""
    shape: str = ""
    spacing: str = ""
    axes: str = ""
    intensity: str = ""
    labels: str = ""
    values: str = ""
    """raw label values, their class and voxels"""
    prepared: str = ""
    kept: str = ""
    """share of each structure's voxels inside the crop"""
    faults: list[UdaError] = field(default_factory=list)
    notes: list[UdaError] = field(default_factory=list)
    facts: Facts | None = None
    picture: Picture | PhotoPicture | None = None
    marked: str = ""
    """annotations of the case, by kind"""
    marks: MarkedPicture | None = None
    tables: tuple[Table, ...] = ()
    """of the report on all annotations"""
    summary: PhotoSummary | None = None
    """sums of a whole set of photographs"""


@dataclass
class SplitSummary:
    """Counts over the photographs of a split."""

    images: int = 0
    faulty: int = 0
    left_out: int = 0
    sizes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    """forms of the labels that were opened"""


@dataclass(frozen=True)
class Table:
    """Text in rows and columns, for the terminal and the page."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[str] = frozenset({"images", "faulty", "left out", "files", "pixels", "%"})
    """columns whose cells hold one number"""


@dataclass
class PhotoSummary:
    """The sums over all photographs of a card."""

    names: tuple[str, ...]
    """the classes, then ``ignore``"""
    splits: dict[str, SplitSummary] = field(default_factory=dict)
    labels: int = 0
    """number of label files that could be read"""
    pixels: Counter[str] = field(default_factory=Counter)
    """pixels of each name"""
    showing: Counter[str] = field(default_factory=Counter)
    """images that show each name"""
    strange: Counter[str] = field(default_factory=Counter)
    """pixels of each raw value or colour without a class"""
    strange_files: Counter[str] = field(default_factory=Counter)
    """files with each of these values"""

    def tables(self) -> list[Table]:
        """Tables of the splits, of the classes (if labels were read), and of values without a class (if any)."""
        tables = [self._splits()]
        if self.labels:
            tables.append(self._classes())
        if self.strange:
            rows = [
                (value, f"{self.strange_files[value]:,}", f"{pixels:,}")
                for value, pixels in self.strange.most_common()
            ]
            head = ("value or colour", "files", "pixels")
            tables.append(Table("Unknown label values", head, tuple(rows)))
        return tables

    def _splits(self) -> Table:
        head = ("split", "images", "faulty", "left out", "rows×columns", "format", "labels")
        rows = [
            (
                name,
                f"{split.images:,}",
                f"{split.faulty:,}",
                f"{split.left_out:,}",
                *(_counted(kinds) for kinds in (split.sizes, split.kinds)),
                _counted(split.forms) or "not opened",
            )
            for name, split in self.splits.items()
        ]
        return Table("Images", head, tuple(rows))

    def _classes(self) -> Table:
        total = max(1, sum(self.pixels.values()))
        rows = [
            (
                name,
                f"{self.showing[name]:,}",
                f"{self.pixels[name]:,}",
                f"{100 * self.pixels[name] / total:.3f}",
            )
            for name in self.names
        ]
        title = f"Classes of {self.labels:,} labels"
        return Table(title, ("class", "images", "pixels", "%"), tuple(rows))


def _counted(kinds: Counter[str]) -> str:
    """``480×640 (12), 240×320 (1)``, most frequent first."""
    listed = [f"{kind} ({number:,})" for kind, number in kinds.most_common(NAMED)]
    more = [f"{len(kinds) - NAMED} more"] if len(kinds) > NAMED else []
    return ", ".join([*listed, *more])
