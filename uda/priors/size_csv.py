"""Read pixel counts per image from a CSV file. Cells are matched by patterns, never evaluated."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from uda.errors import DataError, nearest, raise_all
from uda.files.csv_files import read_rows

ID_COLUMN = "val_ids"
_ID = re.compile(r"(?P<case>.+)_(?P<slice>[0-9]{1,9})(?:\.[A-Za-z][A-Za-z0-9]*){0,2}")
_NUMBER = r"[+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?"
_LIST = re.compile(rf"\[\s*{_NUMBER}(?:\s*,\s*{_NUMBER})*\s*\]")
_SHOWN = 60  # characters of a cell in a message
_LISTED = 400  # characters of the header in a message
_FAULTS = 10  # lines in a message


def read_sizes(
    path: Path, column: str, classes: Sequence[str], pixels: int | None = None
) -> dict[tuple[str, int], tuple[float, ...]]:
    """Pixel counts per class of each image, from a CSV file such as

    .. code-block::

        val_ids;val_gt_size
        1003_17.png;[60321, 1200, 0, 30, 15]

    An id is ``<case>_<slice>``; slices are counted from 0 along the file's own axis, and a file extension is
    ignored. The separator is ``;``, or ``,`` with the lists in quotes. Other columns are not read.

    Args:
        column: the column of the lists.
        classes: one count for each, background first.
        pixels: pixels of a prepared slice, which no sum of counts may exceed.

    Returns:
        (case, slice) → counts.

    Raises:
        DataError: a column is missing, no image is named, or lines cannot be read; lists up to 10 of them.
    """
    rows = _rows(path)
    header = rows[0][1] if rows else []
    for name in (ID_COLUMN, column):
        if header.count(name) != 1:
            raise DataError(
                f"the CSV has {header.count(name)} columns {name!r}; its columns are "
                f"{str(header)[:_LISTED]}",
                where=path,
                expected=f"a column {ID_COLUMN!r} and a column of lists, separated by ; or ,",
                fix=nearest(name, filter(None, header)),
            )
    found: dict[tuple[str, int], tuple[float, ...]] = {}
    faults: list[DataError] = []
    for number, row in rows[1:]:
        if len(faults) == _FAULTS:
            break
        where = f"{path}, line {number}"
        if len(row) != len(header):
            faults.append(
                DataError(
                    f"{len(row)} cells for {len(header)} columns",
                    where=where,
                    expected="one cell per column; with , as separator, lists in quotes",
                    fix='write "[60321, 1200, 0]" in quotes, or separate the columns by ;',
                )
            )
            continue
        try:
            place = _place(row[header.index(ID_COLUMN)].strip(), where)
            if place in found:
                raise DataError(
                    f"a second line for {place[0]} slice {place[1]}",
                    where=where,
                    expected="one line for each image",
                    fix="remove one of them",
                )
            found[place] = _counts(row[header.index(column)].strip(), len(classes), pixels, where)
        except DataError as fault:
            faults.append(fault)
    raise_all(faults, str(path))
    if not found:
        raise DataError("the CSV names no image", where=path, expected="a line for each image")
    return found


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Line number and cells of every line that is not empty."""
    try:
        return read_rows(path, separators=";,")
    except (OSError, ValueError) as error:
        raise DataError(
            f"sizes cannot be read: {error}", where=path, fix="give the path of a CSV file"
        ) from error


def _place(text: str, where: str) -> tuple[str, int]:
    match = _ID.fullmatch(text)
    if match is None:
        raise DataError(
            f"the id is {text[:_SHOWN]!r}",
            where=where,
            expected="<case>_<slice>, such as 1003_17 or 1003_17.png",
            fix="rename the images in the CSV",
        )
    return match["case"], int(match["slice"])


def _counts(text: str, classes: int, pixels: int | None, where: str) -> tuple[float, ...]:
    counts: list[float] = []
    if _LIST.fullmatch(text):
        counts = [float(number) for number in text[1:-1].split(",")]
    total = sum(counts)
    if not counts:
        what = f"the sizes are {text[:_SHOWN]!r}"
    elif len(counts) != classes:
        what = f"{len(counts)} sizes in {text[:_SHOWN]!r}"
    elif not math.isfinite(total) or min(counts) < 0:
        what = f"a size in {text[:_SHOWN]!r} is negative or not finite"
    elif total <= 0:
        what = f"the sizes {text[:_SHOWN]!r} cover no pixel"
    elif pixels is not None and total > pixels:
        what = f"the sizes cover {total:g} pixels, but a prepared slice has {pixels}"
    else:
        return tuple(counts)
    raise DataError(
        what,
        where=where,
        expected=f"{classes} pixel counts, background first, such as [60321, 1200, 0]",
        fix="count the pixels of each class on the prepared slices",
    )
