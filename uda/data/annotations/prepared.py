"""Annotations on the prepared grid of a store: what training can look up by the number of a slice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uda.config.annotations import LABELS, LEDGER, Kind
from uda.data.annotations.folder import Annotations
from uda.data.annotations.marks import Box, Partial, Point
from uda.data.file_names import wildcard
from uda.data.geometry import Geometry, inside, label_slices, on_prepared
from uda.data.items import Items, Numbers
from uda.data.store import StoredCase
from uda.errors import DataError
from uda.types import IGNORE, Annotation

Labels = NDArray[np.uint8]
EDGE = 1e-6
"""Rounding of a box's edges, in pixels of the prepared grid."""


class PreparedSlices(Protocol):
    """Where the slices of prepared cases lie: a :class:`uda.data.store.Store`, or :class:`OneCase`."""

    @property
    def cases(self) -> Sequence[StoredCase]: ...

    @property
    def size(self) -> tuple[int, int]: ...

    def __len__(self) -> int: ...


class OneCase:
    """A single prepared case, without its images: to prepare the annotations of one case after the other.

    Args:
        geometry: how its image was prepared.
    """

    def __init__(self, name: str, geometry: Geometry) -> None:
        self.cases = (StoredCase(name, 0, geometry.depth, geometry, low=0.0, traits={}),)
        self.size = geometry.size

    def __len__(self) -> int:
        return self.cases[0].stop


@dataclass(frozen=True)
class PreparedAnnotations:
    """Annotations of a store's slices."""

    labels: Labels
    """``[n, h, w]``: a class, ``OTHER`` or ``IGNORE``"""
    labelled: NDArray[np.bool_]
    """``[n, k]``: classes that a slice's labels name; ``OTHER`` is none of them"""
    boxes: Mapping[int, NDArray[np.int64]]
    """slice of the store → class, first row and column, last row and column ``[m, 5]``, perhaps outside the crop"""
    boxed: NDArray[np.bool_]
    """``[n, k]``: structures of a slice whose boxes are all given"""
    supervision: tuple[str, ...]
    """ledger entries"""
    cases: tuple[str, ...]
    """cases with an annotation"""
    outside: int
    """clicks and boxes that lie wholly outside the prepared images"""

    @cached_property
    def slices(self) -> NDArray[np.bool_]:
        """``[n]``: slices that somebody marked."""
        marked = np.array([bool((one != IGNORE).any()) for one in self.labels], dtype=bool)
        return marked | self.boxed.any(1)

    @cached_property
    def _most(self) -> int:
        return max((len(own) for own in self.boxes.values()), default=0)

    def record(self) -> dict[str, Any]:
        """Entry of ``stage.json``: the cases, and how much is marked."""
        pixels = int((self.labels != IGNORE).sum())
        boxes = sum(len(own) for own in self.boxes.values())
        counts = {"slices": int(self.slices.sum()), "pixels": pixels, "boxes": boxes}
        return {"cases": list(self.cases), **counts, "outside": self.outside}

    def items(self, items: Items) -> Numbers:
        """Numbers of the items that show a marked slice."""
        every = np.arange(len(items))
        index = items.index(items.places(every)).numpy().reshape(len(items), -1)
        return np.flatnonzero(self.slices[index].any(1))

    def of(self, items: Items, places: Numbers, label: Tensor, drawn: int) -> Annotation:
        """The annotation of items at these places.

        Args:
            label: their labels ``[b, *s]``, under the same random changes as their images.
            drawn: how many of them were drawn from all items.
        """
        index = items.index(places).numpy().reshape(len(places), -1)
        labelled = torch.from_numpy(self.labelled[index].any(1))
        if not self.boxes:
            return Annotation(label, labelled, drawn)
        most = self._most * index.shape[1]
        boxes = np.full((len(index), most, 6), -1, dtype=np.int64)
        for row, slices in zip(boxes, index, strict=True):
            own = [
                np.insert(self.boxes[number], 0, at, axis=1)
                for at, number in enumerate(slices.tolist())
                if number in self.boxes and number not in slices[:at]  # padding repeats the last
            ]
            if own:
                found = np.concatenate(own)
                row[: len(found)] = found
        boxed, place = torch.from_numpy(self.boxed[index]), items.positions(places)
        if place.shape[1] == 3:
            first = torch.from_numpy(places[:, 1]).float()
            place = torch.cat([place[:, :1] - first[:, None, None, None, None], place[:, 1:]], 1)
        return Annotation(label, labelled, drawn, torch.from_numpy(boxes), boxed, place)


def prepared(
    given: Annotations,
    store: PreparedSlices,
    classes: Sequence[str],
    structures: Sequence[str],
    kinds: Iterable[Kind],
    cases: Sequence[str] | None = None,
) -> PreparedAnnotations:
    """Annotations of some kinds on the grid of a store.

    Args:
        structures: classes that boxes can be of: all but the background.
        kinds: what to use.
        cases: names, or patterns with ``*`` and ``?``, of the cases to use; None: all that have an annotation.

    Raises:
        DataError: no case of the store has an annotation of a kind, or a name fits none.
    """
    kinds = tuple(kinds)
    builder = _Builder(store, classes, structures)
    used: dict[str, None] = {}
    for kind in (*LABELS, "boxes"):
        if kind not in kinds:
            continue
        held: Mapping[str, Any] = getattr(given, kind)
        own = [case for case in store.cases if case.name in held and chosen(case.name, cases)]
        if not own:
            raise DataError(
                f"no case to adapt to has annotations of kind {kind!r}"
                + ("" if cases is None else f" among {', '.join(cases)}"),
                where=given.folder,
                expected=f"one of {', '.join([case.name for case in store.cases][:5])}, …",
                fix="leave the kind out of `annotations`, or mark one of these cases",
            )
        for case in own:
            used[case.name] = None
            builder.add(kind, case, held[case.name])
    words = tuple(LEDGER[kind] for kind in LEDGER if kind in kinds)
    return builder.made(words, tuple(used))


def chosen(case: str, patterns: Sequence[str] | None) -> bool:
    """Whether one of the names or patterns fits the case; without patterns every case."""
    return patterns is None or any(wildcard(one).fullmatch(case) for one in patterns)


class _Builder:
    """Puts marks on the prepared grid; what is put first stays."""

    def __init__(
        self, store: PreparedSlices, classes: Sequence[str], structures: Sequence[str]
    ) -> None:
        self.classes = np.array(classes)
        self.structures = np.isin(self.classes, structures)
        self.labels = np.full((len(store), *store.size), IGNORE, dtype=np.uint8)
        self.labelled = np.ones((len(store), len(classes)), dtype=bool)
        self.boxes: dict[int, list[tuple[int, ...]]] = {}
        self.boxed = np.zeros_like(self.labelled)
        self.outside = 0

    def add(self, kind: str, case: StoredCase, marks: object) -> None:
        getattr(self, f"_{kind}")(case, marks)

    def _fill(self, case: StoredCase, prepared: Labels) -> None:
        own = self.labels[case.start : case.stop]
        np.copyto(own, prepared, where=own == IGNORE)

    def _labels(self, case: StoredCase, array: Labels) -> None:
        whole = array.reshape(case.geometry.shape)  # a photograph has one slice
        prepared = label_slices(whole, case.geometry)
        self._fill(case, _without_padding(prepared, case.geometry))

    def _scribbles(self, case: StoredCase, array: Labels) -> None:
        array = array.reshape(case.geometry.shape)
        self._labels(case, array)
        drawn = np.argwhere(
            array != IGNORE
        )  # thin lines may lie between the centres of larger pixels
        self._put(case, drawn.astype(np.float64) + 0.5, array[tuple(drawn.T)])

    def _points(self, case: StoredCase, points: Sequence[Point]) -> None:
        places = [_file_place(point.slice, point.row, point.column, case) for point in points]
        classes = np.array([point.class_index for point in points], dtype=np.uint8)
        self.outside += self._put(case, np.array(places, dtype=np.float64) + 0.5, classes)

    def _partial(self, case: StoredCase, marks: Partial) -> None:
        rows = self.labelled[case.start : case.stop]
        rows[:] = np.isin(self.classes, marks.named)
        self._labels(case, marks.labels)

    def _put(self, case: StoredCase, points: NDArray[np.float64], classes: Labels) -> int:
        """Mark the pixels that hold points of the file; returns how many lie outside."""
        found = np.floor(on_prepared(points, case.geometry)).astype(np.int64)
        own = self.labels[case.start : case.stop]
        inside = ((found >= 0) & (found < own.shape)).all(1)
        free = inside.copy()
        free[inside] = own[tuple(found[inside].T)] == IGNORE
        own[tuple(found[free].T)] = classes[free]
        return int((~inside).sum())

    def _boxes(self, case: StoredCase, boxes: Sequence[Box]) -> None:
        for box in boxes:
            first = _file_place(box.slice, box.row0, box.column0, case)
            last = _file_place(box.slice, box.row1, box.column1, case)
            corners = np.array([first, np.array(last) + 1], dtype=np.float64)
            edges = np.sort(on_prepared(corners, case.geometry), axis=0)
            low = np.ceil(edges[0] - 0.5 - EDGE).astype(int)  # pixels whose centre lies inside
            high = np.maximum(np.ceil(edges[1] - 0.5 - EDGE).astype(int) - 1, low)
            rows, columns = self.labels.shape[1:]
            if high[1] < 0 or high[2] < 0 or low[1] >= rows or low[2] >= columns:
                self.outside += 1
                continue
            for number in range(max(low[0], 0), min(high[0], case.stop - case.start - 1) + 1):
                own = (box.class_index, *low[1:].tolist(), *high[1:].tolist())
                self.boxes.setdefault(case.start + number, []).append(own)
                self.boxed[case.start + number, self.structures] = True

    def made(self, supervision: tuple[str, ...], cases: tuple[str, ...]) -> PreparedAnnotations:
        boxes = {number: np.array(own, dtype=np.int64) for number, own in self.boxes.items()}
        return PreparedAnnotations(
            self.labels, self.labelled, boxes, self.boxed, supervision, cases, self.outside
        )


def _without_padding(prepared: Labels, geometry: Geometry) -> Labels:
    """A label whose padding says nothing."""
    rows, columns = inside(geometry)
    kept = np.full_like(prepared, IGNORE)
    kept[:, rows, columns] = prepared[:, rows, columns]
    return kept


def _file_place(slice_: int, row: int, column: int, case: StoredCase) -> tuple[int, int, int]:
    """Index in the file's array of a place that is given by slice, row and column."""
    place = [row, column]
    place.insert(case.geometry.file_slice_axis, slice_)
    return (place[0], place[1], place[2])
