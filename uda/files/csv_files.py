"""Reading and writing of CSV files, whose text no spreadsheet takes for a formula.

A spreadsheet runs a cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return (OWASP, "CSV
Injection"); the name of a file may begin so. Where such a sign begins a text, or follows a sign that may separate
cells, an apostrophe is written before it, and reading removes it. Numbers stay as they are.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path

from uda.files.untrusted import check_values, read_text

MAX_ROWS = 2 * 10**6
"""Most lines of a CSV file: four data sets of half a million slices."""

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?|inf|nan)")
_FORMULA = r"(?=['\" ]*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20])"
_BEGINS = re.compile(rf"(^|[;,|\t\r\n]){_FORMULA}")
_GUARDED = re.compile(rf"(^|[;,|\t\r\n])'{_FORMULA}")


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV; text that a spreadsheet would run gets an apostrophe, which :func:`read_rows` removes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(_guarded, row) for row in rows)
    return text.getvalue()


def _guarded(value: object) -> object:
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    return _BEGINS.sub(r"\1'", value)


def read_rows(path: Path, separators: str = ",") -> list[tuple[int, list[str]]]:
    """Line number and cells of every non-empty line of a CSV file.

    Args:
        separators: candidates; the first that occurs in the first line separates cells, else the last.

    Raises:
        OSError, ValueError: the file is missing or not text, has too many lines or cells, a quote is not closed, or a
            cell has more than 131,072 characters.
    """
    text = read_text(path)
    head = text.partition("\n")[0]
    separator = next((sign for sign in separators if sign in head), separators[-1])
    check_values(text, f"{separator}\r\n")
    if max(text.count("\n"), text.count("\r")) > MAX_ROWS:
        raise ValueError(f"it has more than {MAX_ROWS} lines")
    return rows_of(text, separator)


def rows_of(text: str, separator: str = ",") -> list[tuple[int, list[str]]]:
    """Line number and cells of every non-empty line of a text of :func:`csv_text`.

    Raises:
        ValueError: a quote is not closed, or a cell has more than 131,072 characters.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        return [
            (reader.line_num, [_GUARDED.sub(r"\1", c) if "'" in c else c for c in row])
            for row in reader
            if row
        ]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None
