"""Arrays of npz files: what their headers promise is compared with the file and with memory before room is made."""

from __future__ import annotations

import io
import lzma
import math
import tokenize
import zipfile
import zlib
from collections.abc import Container
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from uda.errors import DataError
from uda.files.signatures import HEAD as START
from uda.files.signatures import kind_of
from uda.files.untrusted import INFLATES, check_memory

HEAD = 1 << 16
"""Bytes in which an array's header must end; numpy reads none of more than 10,000."""
BLOCK = 1 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_UNREADABLE = (
    zlib.error,
    lzma.LZMAError,
    tokenize.TokenError,
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What zipfile and numpy raise for archives that are cut short, damaged or something else."""


def read_arrays(
    path: Path, wanted: Container[str] | None = None, most: int | None = None
) -> tuple[list[str], dict[str, NDArray[Any]]]:
    """The names of all arrays in an npz file, and those that are wanted (None: all), each checked to its last byte.

    Args:
        most: bytes of the wanted arrays together; what they promise is added up before one is read.

    Raises:
        DataError: no such archive, cut short, damaged, with Python objects, or larger than the memory or ``most``.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would wait for its writer
            raise DataError("is not a regular file", where=path, fix="give the path of a file")
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            chosen = {n: info for n, info in members.items() if wanted is None or n in wanted}
            promised = sum(info.file_size for info in chosen.values())
            if most is not None and promised > most:
                _refuse(f"holds arrays of {promised} bytes", str(path), f"at most {most}")
            found = {n: _array(archive, info, f"{path}, {n}") for n, info in chosen.items()}
    except zipfile.BadZipFile as error:
        with path.open("rb") as file:
            kind = kind_of(file.read(START))
        if kind and kind != "a zip archive":
            raise DataError(f"is {kind}, not npz", where=path, fix="name the right file") from error
        _refuse(f"cannot be read as npz: {error}", str(path), "a complete archive of arrays")
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        _refuse(f"cannot be read as npz: {reason}", str(path), "a complete archive of arrays")
    return sorted(members), found


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> NDArray[Any]:
    if info.compress_type not in _METHODS:
        _refuse("is packed in a way that numpy does not write", where, "stored or deflated arrays")
    with archive.open(info) as member:
        head = member.read(HEAD)
        stream = io.BytesIO(head)
        first = npy.read_magic(stream) == (1, 0)
        shape, fortran, dtype = (npy.read_array_header_1_0 if first else npy.read_array_header_2_0)(
            stream
        )
        if dtype.kind not in "biuf":
            _refuse(f"holds {dtype} values", where, "numbers, no Python objects")
        if min(shape, default=0) < 0:
            _refuse(f"has shape {shape}", where, "sizes of 0 and more")
        start = stream.tell()
        needed = math.prod(shape) * dtype.itemsize
        most = info.compress_size * (INFLATES if info.compress_type else 1)
        if info.file_size - start != needed or start + needed > most:
            there = min(info.file_size, most) - start
            _refuse(f"has {there} bytes", where, f"{needed} for shape {shape}")
        check_memory(needed, f"its array of shape {shape}", where)
        raw = np.empty(needed, np.uint8)
        _fill(raw.data, head[start:], member)
    return raw.view(dtype).reshape(shape, order="F" if fortran else "C")


def _fill(room: memoryview, begun: bytes, member: Any) -> None:
    """Read to the member's end, so that its checksum is compared."""
    at, block = 0, begun
    while block:
        room[at : at + len(block)] = block  # ValueError where there is more than room
        at += len(block)
        block = member.read(BLOCK)
    if at < len(room):
        raise EOFError(f"it ends {len(room) - at} bytes early")


def _refuse(what: str, where: str, expected: str) -> NoReturn:
    raise DataError(
        what, where=where, expected=expected, fix="copy, download or make the file again"
    )
