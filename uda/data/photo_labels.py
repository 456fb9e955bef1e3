"""Read label files of photographs as class indices: from indices, raw values, a palette or colours.

The file itself determines its form. A palette's colours are for display and never read.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uda.config.card import Colour, DatasetCard
from uda.data.image_files import Header, opencv, pixels, read_file
from uda.data.images import opaque
from uda.errors import DataError, MismatchError
from uda.types import IGNORE, OTHER

UNKNOWN = OTHER
"""Marks values in the look-up tables that the card does not name."""
LISTED = 10
"""The most values or colours that an error lists."""

Value = int | tuple[int, ...]
Groups = tuple[tuple[int, tuple[int, ...]], ...]
"""Values of each class."""


def read_classes(path: Path, card: DatasetCard) -> NDArray[np.uint8]:
    """Class indices ``[h, w]`` of a label file, with ``IGNORE`` for the card's ignored values and colours.

    Raises:
        UnreadableError: the file cannot be decoded completely.
        DataError: the file has another form than the card describes, or values or colours that the card does not
            name (listed with their pixels).
    """
    classes, raw = look_up(path, card)
    if (classes == UNKNOWN).any():
        raise unknown_values(raw[classes == UNKNOWN], path, card)
    return classes


def look_up(path: Path, card: DatasetCard) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Class indices ``[h, w]`` of a label file, with :data:`UNKNOWN` where the card names no class.

    Returns:
        the classes, and the file's values ``[h, w]`` or colours ``[h, w, 3]``.

    Raises:
        UnreadableError: the file cannot be decoded completely.
        DataError: the file has another form than the card describes.
    """
    raw = _raw(path, card)
    if raw.ndim == 3:
        if not card.colors:
            raise DataError(
                "is a label in colour",
                where=path,
                expected=f"class values: the card {card.name!r} gives no colors",
                fix="give files of class values in the card's labels, or give each class its color",
            )
        classes = _color_table(_colors(card))[_keys(raw)]
    elif raw.dtype == np.uint8:
        classes = opencv().LUT(raw, _table(path, card))
    else:
        classes = _table(path, card)[raw]
    return classes, raw


def value_counts(path: Path, card: DatasetCard) -> dict[Value, int]:
    """Raw value (red, green, blue in a label in colour) → pixels in a label file, most frequent first.

    Raises:
        DataError: as in :func:`read_classes`, except for values that the card does not name.
    """
    raw = _raw(path, card)
    return _counts(raw, colored=raw.ndim == 3)


def check_same_size(classes: NDArray[np.uint8], shape: tuple[int, int], path: Path) -> None:
    """Refuse a label whose rows and columns differ from its image's.

    Raises:
        MismatchError: names both sizes.
    """
    if classes.shape != shape:
        raise MismatchError(
            f"the label has {classes.shape[0]}×{classes.shape[1]} pixels",
            where=path,
            expected=f"the image's {shape[0]}×{shape[1]}",
            fix="leave the pair out (`skip: [mismatched]` in the card), or use the label of this image",
        )


def _raw(path: Path, card: DatasetCard) -> NDArray[Any]:
    """Values ``[h, w]`` (uint8, or uint16 by the card), or colours ``[h, w, 3]`` uint8."""
    data, header = read_file(path)
    _check_form(header, path, card)
    raw = pixels(data, header, path)
    if header.alpha:
        raw = opaque(raw, path)
    if card.label_bits == 16 and raw.ndim == 3:
        return np.ascontiguousarray(raw[..., 0])
    return raw


def _check_form(header: Header, path: Path, card: DatasetCard) -> None:
    found = f"is a {header.format} of {header.bits} bits, {header.color}"
    if header.alpha:
        found += " with transparency"
    narrow = header.bits < 8 and header.color != "palette"
    if header.format == "JPEG":
        fix = "use the lossless file: JPEG creates wrong values along every border"
    elif (header.bits == 16) != (card.label_bits == 16) or narrow:
        fix = "give the right files in the card's labels, or set its label_bits"
    elif header.alpha and header.color == "grey":
        fix = "save it without its alpha channel"
    else:
        return
    raise DataError(
        found, where=path, expected=f"a PNG label of {card.label_bits} bits a channel", fix=fix
    )


def _indexed(path: Path, card: DatasetCard) -> bool:
    return card.indexed is not None and path.name.endswith(card.indexed)


def _table(path: Path, card: DatasetCard) -> NDArray[np.uint8]:
    """Class of every possible value of a channel."""
    groups: Groups = tuple((_index(name, card), v) for name, v in card.label_values.items())
    if _indexed(path, card):
        groups = tuple((index, (index,)) for index in (*range(len(card.classes)), IGNORE))
    return _value_table(groups, 1 << card.label_bits)


def _index(name: str, card: DatasetCard) -> int:
    return IGNORE if name == "ignore" else card.classes.index(name)


def _colors(card: DatasetCard) -> tuple[tuple[int, Colour], ...]:
    named = [(_index(name, card), color) for name, color in card.colors.items()]
    return (*named, *((IGNORE, color) for color in card.ignore_colors))


@lru_cache(maxsize=8)
def _value_table(groups: Groups, size: int) -> NDArray[np.uint8]:
    table = np.full(size, UNKNOWN, dtype=np.uint8)
    for index, values in groups:
        table[[value for value in values if 0 <= value < size]] = index
    table.flags.writeable = False
    return table


@lru_cache(maxsize=2)
def _color_table(colors: tuple[tuple[int, Colour], ...]) -> NDArray[np.uint8]:
    """Class of each of the 2²⁴ colours: 16 MB, and one look-up per pixel."""
    table = np.full(1 << 24, UNKNOWN, dtype=np.uint8)
    for index, color in colors:
        table[int(_keys(np.array(color, dtype=np.uint8)))] = index
    table.flags.writeable = False
    return table


def _keys(colors: NDArray[np.uint8]) -> NDArray[np.int32]:
    """One number ``[…]`` for each colour ``[…, 3]``."""
    wide = colors.astype(np.int32)
    keys: NDArray[np.int32] = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return keys


def _counts(raw: NDArray[Any], *, colored: bool) -> dict[Value, int]:
    """Pixels of each value, or of each colour ``[…, 3]``, most frequent first."""
    values, counts = np.unique(_keys(raw) if colored else raw, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {
        (v >> 16, v >> 8 & 255, v & 255) if colored else v: int(n)
        for v, n in zip(values[order].tolist(), counts[order], strict=True)
    }


def unknown_values(raw: NDArray[Any], path: Path, card: DatasetCard) -> DataError:
    """The error for ``[n]`` values or ``[n, 3]`` colours that the card does not name."""
    colored = raw.ndim == 2
    counts = _counts(raw, colored=colored)
    kind = "colours" if colored else "values"
    if colored:
        expected = ", ".join(f"{name} {color}" for name, color in card.colors.items())
        fix = "give each colour a class in the card's colors, or add it to its ignore_colors"
    elif _indexed(path, card):
        expected = f"class indices 0 to {len(card.classes) - 1}, or {IGNORE}"
        fix = "correct the card's indexed or labels: these files hold raw values"
    else:
        expected = f"one of {sorted(v for group in card.label_values.values() for v in group)}"
        fix = "give each value a class in the card's label_values, e.g. under ignore"
    listed = ", ".join(f"{v} ({n} pixels)" for v, n in list(counts.items())[:LISTED])
    more = f", and {len(counts) - LISTED} more" if len(counts) > LISTED else ""
    return DataError(
        f"{sum(counts.values())} pixels hold {len(counts)} {kind} that the card {card.name!r} does not name: "
        f"{listed}{more}",
        where=path,
        expected=expected,
        fix=fix,
    )
