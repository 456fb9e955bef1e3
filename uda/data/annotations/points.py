"""Clicks: a CSV file ``case,slice,row,column,class``."""

from __future__ import annotations

from pathlib import Path

from uda.data.annotations.faults import Faults
from uda.data.annotations.inside import inside
from uda.data.annotations.marks import Point
from uda.data.annotations.table import table_rows
from uda.data.annotations.target import Target


class Clicks:
    """Points of all files by case, each pixel once.

    Example:
        >>> faults = Faults()
        >>> clicks = Clicks(("background", "myo"), faults)
        >>> clicks.add("p01", Point(0, 5, 7, class_index=1), "points.csv, line 2")
        >>> clicks.add("p01", Point(0, 5, 7, class_index=0), "points.csv, line 3")
        >>> clicks.points()
        {'p01': (Point(slice=0, row=5, column=7, class_index=1),)}
        >>> print(faults.first[0].what)
        a click on background where another one says myo: case 'p01', slice 0, row 5, column 7
    """

    def __init__(self, classes: tuple[str, ...], faults: Faults) -> None:
        self.classes, self.faults = classes, faults
        self._by_case: dict[str, dict[tuple[int, int, int], tuple[Point, str]]] = {}

    def add(self, case: str, point: Point, where: str) -> None:
        """Keep a point; a second one on its pixel is a fault."""
        seen = self._by_case.setdefault(case, {})
        pixel = point[:3]
        if pixel not in seen:
            seen[pixel] = (point, where)
            return
        other, place = seen[pixel]
        name, before = self.classes[point.class_index], self.classes[other.class_index]
        at = f"case {case!r}, slice {point.slice}, row {point.row}, column {point.column}"
        if name == before:
            what = f"a click on {name} is given twice: {at}"
        else:
            what = f"a click on {name} where another one says {before}: {at}"
        self.faults.add(
            what, where=where, expected="one click a pixel", fix=f"compare with {place}; keep one"
        )

    def points(self) -> dict[str, tuple[Point, ...]]:
        """Case → points, in the order in which they were read."""
        return {
            case: tuple(point for point, _ in seen.values()) for case, seen in self._by_case.items()
        }


def read_points(path: Path, target: Target, clicks: Clicks) -> None:
    """Add a file's clicks; its faults are noted in ``clicks.faults``.

    Columns ``case,slice,row,column,class`` in any order, separated by commas, semicolons or tabs; the class by its
    name. Photographs may leave out ``slice``.
    """
    rows = table_rows(path, target, clicks.faults, ("slice", "row", "column"))
    for row in rows:
        slice_, at, column = row.numbers
        where = f"{path}, {row.place}"
        if inside("a click", row.case, row.grid, ((slice_, at, column),), clicks.faults, where):
            clicks.add(row.case, Point(slice_, at, column, row.class_index), where)
