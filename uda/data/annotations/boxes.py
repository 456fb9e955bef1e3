"""Boxes: a CSV file ``case,slice,class,row0,column0,row1,column1``, or a JSON list of objects with these keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from uda.data.annotations.faults import Faults
from uda.data.annotations.inside import inside
from uda.data.annotations.marks import Box
from uda.data.annotations.table import Row, object_rows, table_rows
from uda.data.annotations.target import Target

NUMBERS = ("slice", "row0", "column0", "row1", "column1")


class Boxes:
    """Boxes of all files by case, each once."""

    def __init__(self, classes: tuple[str, ...], faults: Faults) -> None:
        self.classes, self.faults = classes, faults
        self._by_case: dict[str, dict[Box, str]] = {}

    def add(self, case: str, box: Box, where: str) -> None:
        """Keep a box; the same one again is a fault. A class may have several boxes in a slice."""
        seen = self._by_case.setdefault(case, {})
        if box in seen:
            self.faults.add(
                f"a box of {self.classes[box.class_index]} is given twice: case {case!r}, slice {box.slice}, "
                f"rows {box.row0} to {box.row1}, columns {box.column0} to {box.column1}",
                where=where,
                fix=f"compare with {seen[box]}; keep one",
            )
        else:
            seen[box] = where

    def boxes(self) -> dict[str, tuple[Box, ...]]:
        """Case → boxes, in the order in which they were read."""
        return {case: tuple(seen) for case, seen in self._by_case.items()}


def read_boxes(path: Path, target: Target, boxes: Boxes) -> None:
    """Add a CSV file's boxes; its faults are noted in ``boxes.faults``.

    Columns in any order; both ends belong to a box. Photographs may leave out ``slice``.
    """
    _add(table_rows(path, target, boxes.faults, NUMBERS), path, boxes)


def boxes_of_list(raw: Sequence[Any], path: Path, target: Target, boxes: Boxes) -> None:
    """Add the boxes of a JSON list: ``[{"case": "p01", "slice": 3, "class": "lv", "row0": 10, …}]``."""
    _add(object_rows(raw, path, target, boxes.faults, NUMBERS), path, boxes)


def _add(rows: Iterable[Row], path: Path, boxes: Boxes) -> None:
    for row in rows:
        slice_, row0, column0, row1, column1 = row.numbers
        where = f"{path}, {row.place}"
        if row0 > row1 or column0 > column1:
            boxes.faults.add(
                f"a box is turned inside out: rows {row0} to {row1}, columns {column0} to {column1}",
                where=where,
                expected="row0 ≤ row1 and column0 ≤ column1; both ends belong to the box",
            )
            continue
        corners = ((slice_, row0, column0), (slice_, row1, column1))
        if inside("a box", row.case, row.grid, corners, boxes.faults, where):
            box = Box(slice_, row.class_index, row0, column0, row1, column1)
            boxes.add(row.case, box, where)
