"""Damage, seeded and reproducible: of bytes, of text, of the tree that a JSON or YAML file holds."""

from __future__ import annotations

import copy
import math
import struct
from collections.abc import Callable
from random import Random
from typing import Any

EXTREMES = (0, 1, -1, 127, 128, 255, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32 - 1)
ODD_NUMBERS = (*EXTREMES, 2**62, 2**63 - 1, -(2**63), 2**64 - 1)
ODD_FLOATS = (0.0, -0.0, -1.0, 1e-30, 1e30, -1e30, 3e38, math.nan, math.inf, -math.inf)
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 255, 2**31 - 1, 2**63, -(2**63), 10**30, 0.5, -0.1, 1e308,
    math.nan, math.inf, "", "x", "0", "nan", "x" * 300, "../../x", "/", "a\nb", "a\0b", "\ud800", "\u202e",
    [], {}, [[]], [[[]]], {"a": 1}, {"": None}, [1] * 40, ["x"] * 3, [None], 10**400,
)  # fmt: skip
ODD_TEXTS = (
    "", " ", ",", ";", "\n", "\r", "\r\n\r\n", '"', "'", "\0", "\ufeff", "\u0663", "é", "\ud7ff", "nan", "inf", "-1",
    "1e999", "9" * 30, "9" * 6000, "x" * 2000, "[", "]", "{", "}", ":", "#", "&a ", "*a", "!!python/object:os.system ",
    "<<: ", "- ", "~", "0x7f", "1:30", "2020-13-45", "\t", "%", "|", ">", "!!int ''", "!!binary x", "? ",
)  # fmt: skip


def damaged(data: bytes, rng: Random, focus: int = 0) -> bytes:
    """The bytes after one to three blows.

    Args:
        focus: length of the beginning that most of the blows go to; 0 for none.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(BLOWS)(data, _place(data, rng, focus), rng)
    return data


def _place(data: bytes, rng: Random, focus: int) -> int:
    end = min(focus, len(data)) if focus and rng.random() < 0.7 else len(data)
    return rng.randrange(end) if end else 0


def _flip(data: bytes, at: int, rng: Random) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[at] ^= 1 << rng.randrange(8)
        at = min(len(data) - 1, at + rng.randrange(4))
    return bytes(changed)


def _cut(data: bytes, at: int, rng: Random) -> bytes:
    return data[:at]


def _insert(data: bytes, at: int, rng: Random) -> bytes:
    return data[:at] + rng.randbytes(rng.choice((1, 2, 4, 16, 300))) + data[at:]


def _delete(data: bytes, at: int, rng: Random) -> bytes:
    return data[:at] + data[at + rng.choice((1, 2, 4, 16, 300)) :]


def _repeat(data: bytes, at: int, rng: Random) -> bytes:
    block = data[at : at + rng.choice((1, 4, 16, 300))]
    return data[:at] + block * rng.choice((2, 2, 3, 50)) + data[at:]


def _fill(data: bytes, at: int, rng: Random) -> bytes:
    size = rng.choice((1, 2, 4, 8, 100))
    return (data[:at] + bytes([rng.choice((0, 255, 127, 32))]) * size + data[at + size :])[
        : len(data)
    ]


def _number(data: bytes, at: int, rng: Random) -> bytes:
    order, kind = rng.choice("<>"), rng.choice("bhiq")
    bits = 8 * struct.calcsize(kind)
    value = rng.choice(ODD_NUMBERS) & (2**bits - 1)
    raw = struct.pack(order + kind.upper(), value)
    return (data[:at] + raw + data[at + len(raw) :])[: len(data)]


def _real(data: bytes, at: int, rng: Random) -> bytes:
    kind = rng.choice("fd")
    raw = struct.pack(rng.choice("<>") + kind, rng.choice(ODD_FLOATS))
    return (data[:at] + raw + data[at + len(raw) :])[: len(data)]


def _swap(data: bytes, at: int, rng: Random) -> bytes:
    size = rng.choice((2, 4, 8))
    return data[:at] + data[at : at + size][::-1] + data[at + size :]


def _append(data: bytes, at: int, rng: Random) -> bytes:
    return data + rng.choice((b"\0", b"\n", data[:50], rng.randbytes(40), bytes(5000)))


Blow = Callable[[bytes, int, Random], bytes]
BLOWS: tuple[Blow, ...] = (
    _flip, _flip, _cut, _insert, _delete, _repeat, _fill, _number, _number, _real, _swap, _append,
)  # fmt: skip


def reworded(data: bytes, rng: Random) -> bytes:
    """Text after odd words were put into it, over a part of it, or after a line or word of it was moved."""
    text = data.decode()
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(text) + 1)
        skip = rng.choice((0, 0, 1, 5, 40))
        lines = text.splitlines(keepends=True)
        moved = rng.choice(lines) if lines and rng.random() < 0.3 else rng.choice(ODD_TEXTS)
        text = text[:at] + moved + text[at + skip :]
    encoding = rng.choices(("utf-8", "utf-8-sig", "utf-16", "latin-1"), (90, 4, 3, 3))[0]
    return text.encode(encoding, "replace")


def regrown(tree: Any, rng: Random) -> Any:
    """A tree of lists and mappings with some of its values replaced, removed, doubled or renamed."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return rng.choice(ODD_VALUES)
        inside, key = rng.choice(places)
        how = rng.random()
        if how < 0.6:
            inside[key] = copy.deepcopy(rng.choice(ODD_VALUES))
        elif how < 0.75:
            del inside[key]
        elif how < 0.85:
            other, place = rng.choice(places)
            inside[key] = copy.deepcopy(other[place])
        elif isinstance(inside, list):
            inside.insert(key, copy.deepcopy(inside[key]))
        else:
            inside[rng.choice(("", "x", str(key) * 2, "x" * 300))] = inside.pop(key)
    return rng.choice(ODD_VALUES) if rng.random() < 0.01 else tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    keys = range(len(tree)) if isinstance(tree, list) else tree if isinstance(tree, dict) else ()
    found = [(tree, key) for key in keys]
    for key in keys:
        found += _places(tree[key])
    return found
