"""Annotations as rows of named cells: a CSV file, or a JSON list of objects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uda.data.annotations.faults import Faults, Names
from uda.data.annotations.grids import Grid
from uda.data.annotations.target import Target
from uda.files.csv_files import read_rows

SEPARATORS = ",;\t"
WHOLE = re.compile(r"[0-9]{1,9}")
SHOWN = 60
"""Characters of a cell in a message."""


@dataclass(frozen=True)
class Row:
    """One annotation of a table, whose case and class are known."""

    place: str
    """``line 3``"""
    case: str
    class_index: int
    numbers: tuple[int, ...]
    grid: Grid


def table_rows(path: Path, target: Target, faults: Faults, numbers: Sequence[str]) -> Iterator[Row]:
    """The rows of a CSV file with the columns ``case``, ``class`` and the given ones, in any order.

    Photographs may leave out ``slice``, which is 0. Faulty rows are noted and left out.

    Args:
        numbers: columns of whole numbers from 0, ``slice`` first.
    """
    try:
        rows = read_rows(path, SEPARATORS)
    except (OSError, ValueError) as error:
        faults.add(
            f"the table cannot be read: {error}",
            where=path,
            expected="a CSV file in UTF-8",
            fix="save it as CSV again",
        )
        return
    header = [name.strip().lower() for name in rows[0][1]] if rows else []
    wanted = ["case", "class", *numbers]
    optional = {"slice"} if target.card.photos else set[str]()
    if not set(wanted) - optional <= set(header) <= set(wanted) or len(set(header)) != len(header):
        faults.add(
            f"the first line is {','.join(header)[:SHOWN]!r}" if rows else "the file is empty",
            where=path,
            expected=f"a first line with the columns {','.join(_in_order(wanted))}, in any order",
        )
        return
    if len(rows) == 1:
        faults.add("the table has no line below its first", where=path, fix="take the file out")
    yield from _checked(
        (
            (f"line {number}", dict(zip(header, map(str.strip, cells), strict=False)), len(cells))
            for number, cells in rows[1:]
            if any(map(str.strip, cells))
        ),
        len(header),
        path,
        target,
        faults,
        numbers,
    )


def object_rows(
    raw: Sequence[Any], path: Path, target: Target, faults: Faults, numbers: Sequence[str]
) -> Iterator[Row]:
    """The same of a JSON list of objects with these keys."""
    if not raw:
        faults.add("the list is empty", where=path, fix="take the file out")
    entries = (
        (f"entry {number}", entry if isinstance(entry, dict) else {}, None)
        for number, entry in enumerate(raw, 1)
    )
    yield from _checked(entries, None, path, target, faults, numbers)


def _in_order(wanted: Sequence[str]) -> list[str]:
    case, name, *numbers = wanted
    return [case, *numbers, name] if "row" in numbers else [case, numbers[0], name, *numbers[1:]]


def _checked(
    entries: Iterator[tuple[str, dict[str, Any], int | None]],
    width: int | None,
    path: Path,
    target: Target,
    faults: Faults,
    numbers: Sequence[str],
) -> Iterator[Row]:
    names = Names(path, target, faults)
    known = {"case", "class", *numbers}
    for place, cells, cell_count in entries:
        if target.card.photos and cells.get("slice", "") == "":
            cells = {**cells, "slice": 0}
        missing = [name for name in ("case", "class", *numbers) if cells.get(name, "") == ""]
        if missing or cell_count != width or set(cells) - known:
            strange = sorted(set(cells) - known)
            what = (
                f"{place} has no {missing[0]}" if missing else f"{place} has more than its columns"
            )
            what = f"{place} has {str(strange[0])[:SHOWN]!r}" if strange and not missing else what
            faults.add(what, where=path, expected=",".join(_in_order(["case", "class", *numbers])))
            continue
        case, name = str(cells["case"]), str(cells["class"])
        values = [_whole(cells[column]) for column in numbers]
        allowed, index = names.case(case, place), names.class_index(name, place)
        if wrong := [n for n, value in zip(numbers, values, strict=True) if value is None]:
            faults.add(
                f"{place}: {wrong[0]} is {str(cells[wrong[0]])[:SHOWN]!r}",
                where=path,
                expected="a whole number from 0",
            )
        elif allowed and index is not None:
            whole = tuple(value for value in values if value is not None)
            yield Row(place, case, index, whole, target.grids[case])
    names.report()


def _whole(cell: Any) -> int | None:
    if isinstance(cell, bool):
        return None
    if isinstance(cell, int):
        return cell if 0 <= cell < 10**9 else None
    return int(cell) if isinstance(cell, str) and WHOLE.fullmatch(cell) else None
