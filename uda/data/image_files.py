"""PNG and JPEG files: what their headers say, whether they are whole, and their pixels.

Headers are read here byte by byte: a size is known before memory is given to it, and a file cut short is refused
before a decoder sees it (some fill in grey and stay silent). OpenCV's decoders are the fastest at hand and verify
a PNG's checksums; a JPEG has none, so bytes altered inside it cannot be noticed by anybody.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uda.errors import DataError, UnreadableError
from uda.files.signatures import HEAD, kind_of
from uda.files.untrusted import INFLATES

MAX_PIXELS = 80_000_000
"""of one image; what claims more is refused before anything is allocated"""
MAX_BYTES = 1 << 30
"""of one file"""
MAX_SCANS = 200
"""of a JPEG, each a pass over all its pixels; encoders write ten"""
JPEG_HOLDS = 512
"""Pixels that a byte of a JPEG can stand for at most: 8 blocks of 8×8, a bit each"""

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8"
END_OF_JPEG = b"\xff\xd9"
ORIENTATION = 0x0112
"""the tag of EXIF that says how a viewer turns the stored pixels"""
SHORT = 3
"""EXIF's type of it"""

Color = Literal["grey", "RGB", "palette", "CMYK"]
PNG_COLORS: dict[int, Color] = {0: "grey", 2: "RGB", 3: "palette", 4: "grey", 6: "RGB"}
PNG_BITS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""a channel, of each of these"""
PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
"""chunks that pixels come from; the others (profiles, texts, animations) no decoder is given"""
JPEG_COLORS: dict[int, Color] = {1: "grey", 3: "RGB", 4: "CMYK"}
FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""markers of a JPEG's frame header; the three left out are tables"""
SCAN, END, EXIF = 0xDA, 0xD9, 0xE1
BARE = {0x01, *range(0xD0, 0xD8)}
"""markers without a length"""


@dataclass(frozen=True)
class Header:
    """What a file says of its pixels."""

    format: Literal["PNG", "JPEG"]
    rows: int
    columns: int
    bits: int
    """a channel; of a palette's indices"""
    color: Color
    alpha: bool
    """whether pixels may be transparent"""
    exif: bytes = b""


class _Chunk(NamedTuple):
    kind: bytes
    start: int
    """of its content"""
    end: int


@cache
def opencv() -> Any:
    """OpenCV, told to start no threads: images go through threads of ours."""
    import cv2

    cv2.setNumThreads(1)
    log = cv2.utils.logging
    log.setLogLevel(log.LOG_LEVEL_SILENT)  # of a damaged file our own error tells
    return cv2


def read_file(path: Path) -> tuple[bytes, Header]:
    """A whole PNG or JPEG, not decoded.

    Raises:
        UnreadableError: empty, cut short, neither PNG nor JPEG, a damaged header, or larger than any photograph.
        DataError: there is no such file, or its EXIF orientation turns the stored pixels.
    """
    if not path.is_file():
        raise DataError(
            "there is no such file", where=path, fix="correct the card's pattern or root"
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _unreadable(f"has {path.stat().st_size} bytes", path)
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(f"cannot be read: {error.strerror}", path) from error
    header = _header(data, path)
    if header.rows * header.columns > MAX_PIXELS:
        raise UnreadableError(
            f"claims {header.rows}×{header.columns} pixels",
            where=path,
            expected=f"{MAX_PIXELS} pixels at most",
            fix="cut it into tiles or shrink it, if its header is right",
        )
    if header.rows * header.columns > _holds(header, len(data)):
        raise _unreadable(
            f"is cut short: {len(data)} bytes cannot hold {header.rows}×{header.columns} pixels",
            path,
        )
    _check_upright(header.exif, path)
    return data, header


def photo_size(path: Path) -> tuple[int, int]:
    """Rows and columns of a PNG or JPEG by its header; its pixels are not read.

    Raises:
        UnreadableError: neither PNG nor JPEG, cut short within its header, or damaged there.
        DataError: there is no such file, or its EXIF orientation turns the stored pixels.
    """
    if not path.is_file():
        raise DataError(
            "there is no such file", where=path, fix="correct the card's pattern or root"
        )
    try:
        with path.open("rb") as file:
            head = file.read(len(PNG) + 25)
            if head.startswith(PNG):
                rows, columns, exif = _png_head(head)
            elif head.startswith(JPEG):
                rows, columns, exif = _jpeg_head(file)
            else:
                _header(head + file.read(HEAD), path)  # says what it is
                raise ValueError("is neither PNG nor JPEG")
    except OSError as error:
        raise _unreadable(f"cannot be read: {error.strerror}", path) from error
    except (struct.error, IndexError):
        raise _unreadable("is cut short within its header", path) from None
    except ValueError as error:
        raise _unreadable(str(error), path) from None
    if not 0 < rows * columns <= MAX_PIXELS:
        raise _unreadable(f"claims {rows}×{columns} pixels", path)
    _check_upright(exif, path)
    return rows, columns


def _png_head(head: bytes) -> tuple[int, int, bytes]:
    """Rows and columns of the first bytes of a PNG; its EXIF may lie behind the pixels and is not looked for."""
    length, kind, columns, rows = struct.unpack_from(">I4sII", head, len(PNG))
    if kind != b"IHDR" or not _whole(head, _Chunk(kind, len(PNG) + 8, len(PNG) + 8 + length)):
        raise ValueError("its PNG header is damaged")
    return rows, columns, b""


def _jpeg_head(file: BinaryIO) -> tuple[int, int, bytes]:
    """Rows, columns and EXIF of a JPEG, from its segments before the frame header."""
    exif = b""
    file.seek(len(JPEG))
    while True:
        (start, marker) = struct.unpack(">BB", file.read(2))
        while marker == 0xFF:
            (marker,) = struct.unpack(">B", file.read(1))
        if start != 0xFF or marker in (SCAN, END):
            raise ValueError("its JPEG header is damaged")
        if marker in BARE:
            continue
        (length,) = struct.unpack(">H", file.read(2))
        if marker in FRAMES:
            _, rows, columns = struct.unpack(">BHH", file.read(5))
            return rows, columns, exif
        if marker == EXIF:
            segment = file.read(length - 2)
            if segment.startswith(b"Exif\0\0"):
                exif = segment[6:]
        else:
            file.seek(length - 2, io.SEEK_CUR)


def png_size(path: Path) -> int:
    """Number of pixels that the first bytes of a PNG claim; 0 where it is no PNG.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(24)
    if len(head) < 24 or not head.startswith(PNG):
        return 0
    columns, rows = struct.unpack_from(">II", head, 16)
    return int(columns * rows)


def _holds(header: Header, size: int) -> int:
    """Pixels that a file of so many bytes can hold at the very most."""
    return size * (JPEG_HOLDS if header.format == "JPEG" else 8 * INFLATES // header.bits)


def pixels(data: bytes, header: Header, path: Path) -> NDArray[Any]:
    """Decode a whole file: uint8, or uint16 where it has 16 bits a channel.

    Returns:
        ``[h, w]`` grey values or a palette's indices, ``[h, w, 3]`` RGB, ``[h, w, 4]`` with alpha.

    Raises:
        UnreadableError: the compressed data are damaged.
    """
    try:
        image = _indices(data) if header.color == "palette" else _decoded(data, header)
    except (OSError, SyntaxError, ValueError, opencv().error) as error:
        raise _unreadable("its data are damaged", path) from error
    if image is None or image.shape[:2] != (header.rows, header.columns):
        raise _unreadable("its data are damaged", path)
    return image


def _unreadable(what: str, path: Path) -> UnreadableError:
    return UnreadableError(
        what,
        where=path,
        expected="a complete PNG or JPEG file",
        fix="copy or download it again",
    )


def _header(data: bytes, path: Path) -> Header:
    if not data:
        raise _unreadable("is empty", path)
    if not data.startswith((PNG, JPEG)):
        if kind := kind_of(data[:HEAD]):
            raise UnreadableError(
                f"is {kind}, not PNG or JPEG",
                where=path,
                expected="a PNG or JPEG file",
                fix="convert it to PNG, or name the right file",
            )
        raise _unreadable(f"is neither PNG nor JPEG: it begins with {data[:8]!r}", path)
    try:
        header = _png(data) if data.startswith(PNG) else _jpeg(data)
    except (struct.error, IndexError):
        raise _unreadable(f"is cut short after {len(data)} bytes", path) from None
    except ValueError as error:
        raise _unreadable(str(error), path) from None
    if not header.rows or not header.columns:
        raise _unreadable(f"claims {header.rows}×{header.columns} pixels", path)
    return header


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """Every chunk of a PNG, the last one included, or ``struct.error``."""
    kind, end = b"", len(PNG)
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, end)
        start = end + 8
        end = start + length + 4
        struct.unpack_from(">I", data, end - 4)
        yield _Chunk(kind, start, end - 4)


def _whole(data: bytes, chunk: _Chunk) -> bool:
    """Whether a chunk's checksum is right."""
    (checksum,) = struct.unpack_from(">I", data, chunk.end)
    return bool(zlib.crc32(data[chunk.start - 4 : chunk.end]) == checksum)


def _png(data: bytes) -> Header:
    first, *others = _chunks(data)
    if first.kind != b"IHDR" or first.end - first.start != 13 or not _whole(data, first):
        raise ValueError("its PNG header is damaged")
    columns, rows, bits, color, *ways = struct.unpack_from(">IIBBBBB", data, first.start)
    if bits not in PNG_BITS.get(color, ()):
        raise ValueError(
            f"its PNG header names the colour type {color} of {bits} bits, which there is not"
        )
    if ways not in ([0, 0, 0], [0, 0, 1]):
        raise ValueError("its PNG header names a way to pack pixels that there is not")
    if not all(_whole(data, chunk) for chunk in others):
        raise ValueError("its data are damaged: a checksum does not match")
    kinds = {chunk.kind: chunk for chunk in others}
    exif = kinds.get(b"eXIf")
    return Header(
        format="PNG",
        rows=rows,
        columns=columns,
        bits=bits,
        color=PNG_COLORS[color],
        alpha=color in (4, 6) or (b"tRNS" in kinds and color != 3),
        exif=data[exif.start : exif.end] if exif else b"",
    )


def _jpeg(data: bytes) -> Header:
    frame: tuple[int, int, int, int] | None = None
    exif, marker, at = b"", 0, len(JPEG)
    while marker != SCAN:
        if data[at] != 0xFF:
            raise ValueError(f"its JPEG header is damaged at byte {at}")
        marker = data[at + 1]
        if marker in BARE or marker == 0xFF:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == END:
            raise ValueError("is a JPEG without an image")
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in FRAMES:
            frame = struct.unpack_from(">BHHB", data, at + 4)
        elif marker == EXIF and data[at + 4 : at + 10] == b"Exif\0\0":
            exif = data[at + 10 : at + 2 + length]
        at += 2 + length
    if frame is None or frame[3] not in JPEG_COLORS:
        raise ValueError("its JPEG header is damaged")
    if (scans := data.count(bytes((0xFF, SCAN)), at - 2)) > MAX_SCANS:
        raise ValueError(f"has {scans} scans, which would take for ever")
    if data.rfind(END_OF_JPEG) < at:  # the byte pair cannot occur inside compressed data
        raise IndexError
    bits, rows, columns, channels = frame
    return Header("JPEG", rows, columns, bits, JPEG_COLORS[channels], alpha=False, exif=exif)


def _check_upright(exif: bytes, path: Path) -> None:
    """Refuse pixels that viewers turn: nobody could say on which of the two a label was drawn."""
    turn = _orientation(exif)
    if turn in range(2, 9):
        raise DataError(
            f"its EXIF orientation is {turn}: viewers turn or mirror the stored pixels",
            where=path,
            expected="orientation 1, or none",
            fix="write the pixels turned (`PIL.ImageOps.exif_transpose`), or remove the tag where labels lie on "
            "the stored pixels",
        )


def _orientation(exif: bytes) -> int:
    """What the first directory of EXIF says; 1 where it says nothing that can be understood."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, at)
        for entry in range(entries):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, at + 2 + 12 * entry)
            if (tag, kind) == (ORIENTATION, SHORT):
                return int(value)
    except struct.error:
        return 1
    return 1


def _decoded(data: bytes, header: Header) -> NDArray[Any] | None:
    """Grey, RGB or RGBA by OpenCV; None where it gives up."""
    cv2 = opencv()
    raw = np.frombuffer(_bare(data) if header.format == "PNG" else data, dtype=np.uint8)
    if header.color == "RGB" and header.bits == 8 and not header.alpha:
        image = cv2.imdecode(raw, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    else:
        image = cv2.imdecode(raw, cv2.IMREAD_UNCHANGED)
        if image is not None and image.ndim == 3:
            image = cv2.cvtColor(
                image, cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
            )
    found: NDArray[Any] | None = image
    return found


def _indices(data: bytes) -> NDArray[np.uint8]:
    """A palette's indices, which OpenCV does not give; Pillow does."""
    from PIL import Image

    with Image.open(io.BytesIO(_bare(data))) as file:
        return np.array(file)


def _bare(data: bytes) -> bytes:
    """A PNG without the chunks that pixels do not need: a decoder would unpack or complain of some of them."""
    kept = [data[c.start - 8 : c.end + 4] for c in _chunks(data) if c.kind in PIXELS]
    return b"".join((PNG, *kept))
