"""Read image-level tags from a CSV file: which structures each slice of a case shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from uda.errors import DataError
from uda.files.csv_files import read_rows

SLICE = re.compile(r"[0-9]{1,9}")
SHOWN = 200  # characters of a line in a message


def read_tags(path: Path, structures: Sequence[str]) -> dict[tuple[str, int], tuple[bool, ...]]:
    """(case, index along the file's own slice axis) → which structures the slice shows.

    Raises:
        DataError: the file is missing or unreadable, has columns other than ``case,slice,<structures>``, a
            cell that is not 0 or 1, or two lines for one image.
    """
    expected = ["case", "slice", *structures]
    try:
        rows = read_rows(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"tags cannot be read: {error}",
            where=path,
            expected="a CSV file in UTF-8",
            fix="correct the path, or save the table as CSV again",
        ) from error
    header = rows[0][1] if rows else []
    if sorted(header) != sorted(expected):
        raise DataError(
            f"tags have columns {str(header)[:SHOWN]}",
            where=path,
            expected=",".join(expected),
        )
    columns = [header.index(name) for name in expected]
    tags: dict[tuple[str, int], tuple[bool, ...]] = {}
    for number, row in rows[1:]:
        cells = [row[c].strip() if c < len(row) else "" for c in columns]
        if not SLICE.fullmatch(cells[1]) or any(cell not in ("0", "1") for cell in cells[2:]):
            raise DataError(
                f"line {number} is {','.join(row)[:SHOWN]!r}",
                where=path,
                expected="a case, a slice number from 0, then 0 or 1 for each structure",
            )
        place = cells[0], int(cells[1])
        if place in tags:
            raise DataError(
                f"line {number} tags {place[0]} slice {place[1]} a second time",
                where=path,
                expected="one line for each image",
            )
        tags[place] = tuple(cell == "1" for cell in cells[2:])
    return tags
