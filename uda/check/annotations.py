"""Check annotations: what is marked of which class, where marks contradict one another, and what training cannot see.

fault
    whatever stops a training on them, of all files (:mod:`uda.data.annotations.folder`), such as a mark on a case of
    the splits test and validate
note
    contradiction           a pixel to which two kinds of annotations give different classes
    outside a box           a pixel of a class that lies outside every box of the class, in a slice with boxes
    not seen                clicks and boxes wholly outside the prepared images, or a kind that has nothing inside them
    no mark                 a structure that no annotation names; the background, if there are only clicks and scribbles
    one slice               cases of several slices that are marked in a single one
    not trained on          annotated cases of neither adapt nor train
    no folder               the folder that the card names does not exist

Everything is counted on the grid of the image's file. Pictures show the prepared grid, as training does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uda.check.findings import ANNOTATIONS, CaseReport, MarkedPicture, Table
from uda.check.layout import Layout
from uda.config.annotations import LABELS, LEDGER, Kind
from uda.config.card import DatasetCard
from uda.data.annotations.folder import describe, read_sound, recognised
from uda.data.annotations.grids import sound_grids
from uda.data.annotations.marks import Box
from uda.data.annotations.prepared import OneCase, PreparedAnnotations, prepared
from uda.data.annotations.refused import Judging, refused_cases
from uda.data.annotations.target import Target
from uda.data.geometry import Geometry
from uda.errors import DataError, UdaError
from uda.types import IGNORE, OTHER

JUDGED = ("test", "validate")
"""splits on which scores are computed"""
TRAINED = {"adapt", "train"}
SHOWN = 6
"""marked slices of a case in its picture"""
NAMED = 5
"""cases in a message"""
WORDS: dict[Kind, str] = {
    "points": "clicks",
    "scribbles": "scribbles",
    "boxes": "boxes",
    "partial": "partial labels",
    "labels": "complete labels",
}

Image = NDArray[np.float32] | NDArray[np.uint8]
Labels = NDArray[np.uint8]
Counts = NDArray[np.int64]


@dataclass
class CaseMarks:
    """What is marked in one case."""

    counts: dict[Kind, Counts] = field(default_factory=dict)
    """kind → clicks, boxes or pixels of each class ``[256]``"""
    slices: dict[Kind, set[int]] = field(default_factory=dict)
    """kind → slices of the file with a mark"""
    outside: dict[Kind, int] = field(default_factory=dict)
    """clicks and boxes that lie outside the prepared images"""
    notes: list[UdaError] = field(default_factory=list)
    picture: MarkedPicture | None = None

    def __str__(self) -> str:
        """``9 clicks, 24 boxes, scribbles, complete labels``"""
        parts = []
        for kind, counts in self.counts.items():
            single = kind in ("points", "boxes")
            parts.append(f"{counts.sum()} {WORDS[kind]}" if single else WORDS[kind])
        return ", ".join(parts)


@dataclass
class _Sums:
    """Sums over the cases of one kind of annotations."""

    cases: int = 0
    slices: int = 0
    outside: int = 0
    counts: Counts = field(default_factory=lambda: np.zeros(IGNORE + 1, np.int64))

    @property
    def total(self) -> int:
        return int(self.counts.sum())


class AnnotationCheck:
    """Reads a folder of annotations, then looks at one case after the other.

    Args:
        layout: the cases, their splits and files.
    """

    def __init__(self, card: DatasetCard, folder: Path, layout: Layout) -> None:
        self.card, self.folder, self.layout = card, folder, layout
        self._full = _by_short_name(layout)
        files, faults = recognised(folder, card.photos)
        cases = [replace(layout.files[full], name=short) for short, full in self._full.items()]
        refused = refused_cases(card, cases, _judging(card, layout))
        allowed = [case for case in cases if case.name not in refused]
        # An image that cannot be read is a fault of its own case.
        self.grids, _ = sound_grids(allowed, card)
        target = Target(card, self.grids, refused, others=self._full.keys())
        self.given, others = read_sound(files, target)
        self._faults = [*faults.first, *others.first]
        if more := faults.count + others.count - len(self._faults):
            self._faults.append(DataError(f"{more} more faults in the annotations", where=folder))
        self._sums: dict[Kind, _Sums] = {}
        self._cases = 0
        self._single: list[str] = []
        """cases that are marked in one of their slices"""
        self._idle: list[str] = []
        """cases that no training sees"""

    def marked(self) -> list[str]:
        """The annotated cases, by their names in the layout."""
        names = {name for kind in LEDGER for name in getattr(self.given, kind)}
        return [full for short, full in self._full.items() if short in names]

    def look(
        self, full: str, geometry: Geometry | None, image: Image | None = None
    ) -> CaseMarks | None:
        """What is marked in a case; None if nothing is. Threads may call it.

        Args:
            full: its name in the layout.
            geometry: how its image was prepared, if it could be.
            image: its prepared slices ``[s, h, w]`` or ``[1, h, w, 3]``, for a picture.
        """
        name = full.rpartition("/")[2]
        kinds = [kind for kind in LEDGER if name in getattr(self.given, kind)]
        if self._full.get(name) != full or not kinds:
            return None
        marks = CaseMarks()
        maps = self._maps(name, kinds)
        for kind in kinds:
            if kind == "boxes":
                classes = np.array([box.class_index for box in self.given.boxes[name]])
                marks.slices[kind] = {box.slice for box in self.given.boxes[name]}
            else:
                classes = maps[kind][maps[kind] != IGNORE]
                marks.slices[kind] = set(
                    np.flatnonzero((maps[kind] != IGNORE).any((1, 2))).tolist()
                )
            marks.counts[kind] = np.bincount(classes, minlength=IGNORE + 1)
        where = f"{self.folder}, case {name!r}"
        partial = self.given.partial[name].named if "partial" in kinds else ()
        marks.notes += _contradictions(maps, partial, self.card, where)
        if "boxes" in kinds:
            marks.notes += _beyond_boxes(maps, self.given.boxes[name], self.card, where)
        if geometry is not None:
            self._prepare(name, kinds, geometry, image, marks)
        return marks

    def add(self, full: str, marks: CaseMarks) -> None:
        """Count what :meth:`look` found."""
        self._cases += 1
        for kind, counts in marks.counts.items():
            sums = self._sums.setdefault(kind, _Sums())
            sums.cases += 1
            sums.slices += len(marks.slices[kind])
            sums.outside += marks.outside.get(kind, 0)
            sums.counts += counts
        slices = set().union(*marks.slices.values())
        if len(slices) == 1 and self.grids[full.rpartition("/")[2]].slices > 1:
            self._single.append(full)
        if not TRAINED & set(self.layout.cases[full]):
            self._idle.append(full)

    def _maps(self, name: str, kinds: Iterable[Kind]) -> dict[Kind, Labels]:
        """Class indices ``[slices, rows, columns]`` on the file's grid of each kind that says the class of pixels."""
        grid, found = self.grids[name], dict[Kind, Labels]()
        for kind in LABELS:
            if kind not in kinds:
                continue
            if kind == "points":
                found[kind] = np.full((grid.slices, grid.rows, grid.columns), IGNORE, np.uint8)
                for point in self.given.points[name]:
                    found[kind][point[:3]] = point.class_index
                continue
            held = getattr(self.given, kind)[name]
            array = held.labels if kind == "partial" else held
            found[kind] = array[None] if grid.photo else np.moveaxis(array, grid.slice_axis, 0)
        return found

    def _prepare(
        self,
        name: str,
        kinds: Sequence[Kind],
        geometry: Geometry,
        image: Image | None,
        marks: CaseMarks,
    ) -> None:
        """Put each kind on the prepared grid: what lies outside it, and a picture."""
        card, one = self.card, OneCase(name, geometry)
        seen = {
            kind: prepared(self.given, one, card.classes, card.structures, [kind]) for kind in kinds
        }
        marks.outside = {kind: seen[kind].outside for kind in kinds if kind in ("points", "boxes")}
        size = "×".join(map(str, geometry.size))
        for kind in kinds:
            count = marks.outside.get(kind, 0)
            if count or not seen[kind].slices.any():
                given = f"{int(marks.counts[kind].sum())} {WORDS[kind]}"
                marks.notes.append(
                    DataError(
                        f"{count} of {given} lie outside the prepared images"
                        if count
                        else f"no pixel of its {WORDS[kind]} lies inside the prepared images",
                        where=f"{self.folder}, case {name!r}",
                        expected=f"marks inside the {size} pixels that the network sees",
                        fix="mark what lies inside, or enlarge prepare.size of the card",
                    )
                )
        if image is not None and any(one.slices.any() for one in seen.values()):
            marks.picture = _picture(seen, image, geometry, card)

    def report(self) -> CaseReport:
        """The report on all annotations, after every case was looked at."""
        report = CaseReport(ANNOTATIONS, self.folder.name, faults=self._faults)
        report.labels = ", ".join(
            f"{number:,} {kind}" for kind, number in describe(self.given).items()
        )
        if self._sums or self.given.tags:
            report.tables = (self._kinds(), *([self._classes()] if self._sums else []))
        report.notes += self._notes()
        return report

    def _kinds(self) -> Table:
        head = ("kind", "cases", "slices", "marks", "outside the prepared images")
        rows = []
        for kind, sums in self._sorted().items():
            single = kind in ("points", "boxes")
            rows.append(
                (
                    WORDS[kind],
                    f"{sums.cases:,}",
                    f"{sums.slices:,}",
                    f"{sums.total:,}" if single else f"{sums.total:,} pixels",
                    f"{sums.outside:,}" if single else "",
                )
            )
        if self.given.tags:
            cases = {case for case, _ in self.given.tags}
            number = f"{len(self.given.tags):,}"
            rows.append(("tags", f"{len(cases):,}", number, f"{number} images", ""))
        return Table("Annotations by kind", head, tuple(rows), frozenset(head[1:]))

    def _classes(self) -> Table:
        kinds = self._sorted()
        head = ("class", *(self._unit(kind) for kind in kinds))
        names = [*enumerate(self.card.classes)]
        if "partial" in kinds:
            names.append((OTHER, "another class"))
        rows = [
            (name, *(f"{sums.counts[index]:,}" for sums in kinds.values())) for index, name in names
        ]
        return Table("Annotations by class", head, tuple(rows), frozenset(head[1:]))

    def _sorted(self) -> dict[Kind, _Sums]:
        return {kind: self._sums[kind] for kind in LEDGER if kind in self._sums}

    @staticmethod
    def _unit(kind: Kind) -> str:
        return WORDS[kind] if kind in ("points", "boxes") else f"{WORDS[kind]}, pixels"

    def _notes(self) -> Iterator[UdaError]:
        card, kinds = self.card, set(self._sums)
        if not kinds:
            return
        named = np.sum([sums.counts for sums in self._sums.values()], axis=0) > 0
        wanted = card.classes if kinds <= {"points", "scribbles"} else card.structures
        if absent := [name for name in wanted if not named[card.classes.index(name)]]:
            yield DataError(
                f"no annotation marks {', '.join(absent)}",
                where=self.folder,
                expected="marks of every class, the background too where there are only clicks and scribbles"
                if absent[0] not in card.structures
                else "marks of every structure",
                fix="mark some, or correct the names and values of the classes",
            )
        if self._single:
            yield DataError(
                f"of {self._cases} annotated case(s), {len(self._single)} are marked in a single slice: "
                f"{_some(self._single)}",
                where=self.folder,
                fix="if there is time for more, mark other slices before more pixels of the same one",
            )
        if self._idle:
            yield DataError(
                f"of {self._cases} annotated case(s), {len(self._idle)} are of neither adapt nor train: "
                f"{_some(self._idle)}",
                where=self.folder,
                expected="cases that a training sees",
                fix="add them to the split adapt of the card",
            )


def no_folder(folder: Path) -> UdaError:
    """A note on a folder that the card names and that is not there."""
    return DataError(
        "the card's folder of annotations does not exist; only methods that use annotations need it",
        where=folder,
        fix="save what you draw there, or remove `annotations:` from the card",
    )


def _by_short_name(layout: Layout) -> dict[str, str]:
    """The name that annotations give a case → its name in the layout; of two that are alike the one to train on."""
    found: dict[str, str] = {}
    for trained in (True, False):
        for full, splits in layout.cases.items():
            if bool(TRAINED & set(splits)) == trained:
                found.setdefault(full.rpartition("/")[2], full)
    return found


def _judging(card: DatasetCard, layout: Layout) -> list[Judging]:
    return [
        Judging(
            card.name,
            split,
            {layout.files[name].image.resolve(): name for name in layout.members(split)},
        )
        for split in JUDGED
    ]


def _contradictions(
    maps: dict[Kind, Labels], partial: Sequence[str], card: DatasetCard, where: str
) -> Iterator[UdaError]:
    """A note for each two kinds that give pixels different classes.

    Args:
        partial: classes for which the partial labels are complete.
    """
    named = [card.classes.index(name) for name in partial]
    for first, second in combinations(maps, 2):
        one, other = maps[first], maps[second]
        both = (one != IGNORE) & (other != IGNORE)
        wrong = both & (one != other)
        if second == "partial":  # always the second: `OTHER` is any class but those that it names
            wrong &= (other != OTHER) | np.isin(one, named)
        if not wrong.any():
            continue
        place = _first(wrong)
        pair = " and ".join(_called(int(array[place]), card) for array in (one, other))
        yield DataError(
            f"{WORDS[first]} and {WORDS[second]} contradict each other in {int(wrong.sum())} of "
            f"{_pixels(int(both.sum()))} that both name, first in {_at(place, card)}: {pair}",
            where=where,
            fix=f"correct one of them; otherwise training believes the {WORDS[first]}",
        )


def _beyond_boxes(
    maps: dict[Kind, Labels], boxes: Sequence[Box], card: DatasetCard, where: str
) -> Iterator[UdaError]:
    """A note on pixels that lie outside all boxes of their structure, in slices that have boxes."""
    counts: dict[tuple[Kind, int], int] = {}
    first: tuple[int, ...] | None = None
    structures = [card.classes.index(name) for name in card.structures]
    for kind, array in maps.items():
        for number in sorted({box.slice for box in boxes}):
            plane, own = array[number], [box for box in boxes if box.slice == number]
            for index in np.intersect1d(plane, structures).tolist():
                outside = plane == index
                for box in own:
                    if box.class_index == index:
                        outside[box.row0 : box.row1 + 1, box.column0 : box.column1 + 1] = False
                if outside.any():
                    first = first or (number, *_first(outside))
                    counts[kind, index] = counts.get((kind, index), 0) + int(outside.sum())
    if first is not None:
        named = [
            f"{_pixels(count)} of {card.classes[index]} ({WORDS[kind]})"
            for (kind, index), count in counts.items()
        ]
        more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
        yield DataError(
            f"outside every box of their class lie {', '.join(named[:NAMED])}{more}, first in {_at(first, card)}",
            where=where,
            expected="in a slice with boxes, a box around each structure that it shows",
            fix="correct the marks, or the boxes of these slices",
        )


def _pixels(count: int) -> str:
    return "1 pixel" if count == 1 else f"{count} pixels"


def _first(where: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(index) for index in np.unravel_index(int(where.argmax()), where.shape))


def _at(place: Sequence[int], card: DatasetCard) -> str:
    at = f"row {place[1]}, column {place[2]}"
    return at if card.photos else f"slice {place[0]}, {at}"


def _called(index: int, card: DatasetCard) -> str:
    return "another class" if index == OTHER else card.classes[index]


def _picture(
    seen: dict[Kind, PreparedAnnotations], image: Image, geometry: Geometry, card: DatasetCard
) -> MarkedPicture:
    shown = {kind: _shown(kind, one, card) for kind, one in seen.items()}
    marked = np.any([*shown.values()], axis=0)
    if not marked.any():  # labels that show no structure anywhere
        marked = np.any([one.slices for one in seen.values()], axis=0)
    drawn = [slices for kind, slices in shown.items() if kind in ("points", "scribbles")]
    chosen = _chosen(np.any(drawn, axis=0) if drawn else np.zeros_like(marked), marked)
    nothing = np.full((len(chosen), *geometry.size), IGNORE, np.uint8)

    def of(kind: Kind) -> Labels:
        return seen[kind].labels[chosen] if kind in seen else nothing

    boxes = seen["boxes"].boxes if "boxes" in seen else {}
    return MarkedPicture(
        image[chosen],
        complete=of("labels"),
        partial=of("partial"),
        scribbles=of("scribbles"),
        points=of("points"),
        boxes=tuple(boxes.get(number, np.empty((0, 5), np.int64)) for number in chosen),
        slices=tuple(geometry.stored_slice(number) for number in chosen),
        marked=int(marked.sum()),
        geometry=geometry,
    )


def _shown(kind: Kind, seen: PreparedAnnotations, card: DatasetCard) -> NDArray[np.bool_]:
    """Slices in which something can be seen: labels of the background alone leave a slice as it is."""
    if kind not in ("labels", "partial"):
        return seen.slices
    structures = [card.classes.index(name) for name in card.structures]
    return np.array([bool(np.isin(plane, structures).any()) for plane in seen.labels])


def _chosen(drawn: NDArray[np.bool_], marked: NDArray[np.bool_]) -> list[int]:
    """Up to :data:`SHOWN` marked slices: evenly of those with clicks and scribbles, then of the others.

    Example:
        >>> marked = np.ones(9, dtype=bool)
        >>> _chosen(np.arange(9) == 5, marked), _chosen(marked, marked)
        ([0, 1, 3, 5, 6, 8], [0, 1, 3, 4, 6, 8])
    """
    first = _even(np.flatnonzero(drawn).tolist(), SHOWN)
    rest = _even(np.flatnonzero(marked & ~drawn).tolist(), SHOWN - len(first))
    return sorted([*first, *rest])


def _even(numbers: list[int], room: int) -> list[int]:
    """At most so many of them, the first and the last among them."""
    if len(numbers) <= room:
        return numbers
    if room < 2:
        return numbers[:room]
    return [numbers[i * (len(numbers) - 1) // (room - 1)] for i in range(room)]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
