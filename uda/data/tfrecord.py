"""Read and write TFRecord files of tf.train.Example messages without TensorFlow.

A file is a sequence of frames: length (u64), masked CRC-32C of the length (u32), payload, masked CRC-32C of the
payload (u32), all little-endian (TensorFlow, ``tensorflow/core/lib/io/record_writer.h``). A payload is a
protocol-buffer message (https://protobuf.dev/programming-guides/encoding)::

    Example   {Features features = 1}
    Features  {map<string, Feature> feature = 1}
    Feature   {oneof {BytesList = 1, FloatList = 2, Int64List = 3}}, each list's values in its field 1
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NoReturn

import google_crc32c
import numpy as np

from uda.errors import DataError
from uda.files.signatures import HEAD, kind_of

Feature = memoryview | tuple[memoryview, ...] | tuple[float, ...] | tuple[int, ...]
"""One byte string, several, floats, or integers."""

KINDS = {1: "bytes", 2: "float", 3: "int64"}
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_NOTHING = memoryview(b"")
_HEAD, _CRC = struct.Struct("<QI"), struct.Struct("<I")
_RELEASE = 8 << 20  # bytes after which the pages read so far are released


def refuse(what: str, where: str, expected: str | None = None) -> NoReturn:
    """Report damage that only a new copy of the file repairs."""
    fix = "copy, download or make the file again"
    raise DataError(what, where=where, expected=expected, fix=fix)


# --- frames -----------------------------------------------------------------------------------


def masked_crc(data: bytes | memoryview) -> int:
    """CRC-32C, rotated and shifted as in TFRecord, which avoids checksums over stored checksums."""
    crc: int = google_crc32c.value(np.asarray(memoryview(data)))  # accepts no memoryview
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """A payload with its length and both checksums."""
    length = struct.pack("<Q", len(payload))
    return b"".join(
        (length, _CRC.pack(masked_crc(length)), payload, _CRC.pack(masked_crc(payload)))
    )


def read_frames(path: Path, *, verify: bool = True) -> Iterator[tuple[int, memoryview]]:
    """Offset and payload of each frame; payloads are read-only views of the mapped file.

    Pages behind the reader are released, so memory does not grow with the file. A view that is still in use stays
    valid (its pages are read again) and keeps the file open.

    Args:
        verify: whether the checksums of payloads are verified; those of lengths always are.

    Raises:
        DataError: the file is no regular file, empty, truncated, or a checksum does not match.
    """
    mapped = _map(path)
    whole = memoryview(mapped)
    at = released = 0
    while at < len(whole):
        where = f"{path}, byte {at}"
        start, stop = _bounds(whole, at, where)
        payload = whole[start:stop]
        if verify and masked_crc(payload) != _CRC.unpack_from(whole, stop)[0]:
            refuse("the payload's checksum does not match: the record is damaged", where)
        yield at, payload
        at = stop + _CRC.size
        if at - released >= _RELEASE:
            end = at // mmap.PAGESIZE * mmap.PAGESIZE
            mapped.madvise(mmap.MADV_DONTNEED, released, end - released)
            released = end


def _map(path: Path) -> mmap.mmap:
    try:
        descriptor = os.open(
            path, os.O_RDONLY | os.O_NONBLOCK
        )  # without O_NONBLOCK a pipe waits for its writer
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise DataError("is not a regular file", where=path, fix="give the path of a file")
            if found.st_size == 0:
                refuse("the file is empty", f"{path}, byte 0", "at least one record")
            return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror or error}",
            where=path,
            fix="correct the path, or the file's permissions",
        ) from error


def _bounds(whole: memoryview, at: int, where: str) -> tuple[int, int]:
    """Start and end of the payload of the frame at ``at``, once the length's checksum is verified."""
    left = len(whole) - at
    if left < _HEAD.size:
        part = "length" if left < 8 else "length's checksum"
        refuse(f"the file ends within the record's {part} ({left} bytes are left)", where)
    length, crc = _HEAD.unpack_from(whole, at)
    if masked_crc(whole[at : at + 8]) != crc:
        packed = (
            " (it looks like gzip: unpack it first)"
            if bytes(whole[at : at + 2]) == b"\x1f\x8b"
            else ""
        )
        if at == 0 and not packed and (kind := kind_of(bytes(whole[:HEAD]))):
            raise DataError(f"is {kind}, not a TFRecord", where=where, fix="name the right file")
        refuse(f"the length's checksum does not match: no TFRecord, or damaged{packed}", where)
    left -= _HEAD.size
    if left < length + _CRC.size:
        part = "payload" if left < length else "payload's checksum"
        refuse(
            f"the file ends within the record's {part} ({left} bytes are left)",
            where,
            f"{length} bytes of payload and {_CRC.size} of checksum",
        )
    start = at + _HEAD.size
    return start, start + length


# --- messages ---------------------------------------------------------------------------------


def encode_example(features: Mapping[str, bytes | Sequence[int]]) -> bytes:
    """A tf.train.Example of byte strings and int64 lists, with its keys in the given order.

    Raises:
        DataError: an integer does not fit into int64.
    """
    entries = []
    for key, value in features.items():
        if isinstance(value, bytes):
            feature = _field(1, _field(1, value))
        else:
            packed = b"".join(_signed(int(number), key) for number in value)
            feature = _field(3, _field(1, packed) if packed else b"")
        entries.append(_field(1, _field(1, key.encode()) + _field(2, feature)))
    return _field(1, b"".join(entries))


def _field(number: int, body: bytes) -> bytes:
    return b"".join((_encode_varint(number << 3 | _LENGTH), _encode_varint(len(body)), body))


def _signed(value: int, key: str) -> bytes:
    if not -(2**63) <= value < 2**63:
        raise DataError(f"{value} does not fit into 64 bits", where=key, expected="an int64")
    return _encode_varint(value & (2**64 - 1))


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_example(payload: memoryview, where: str = "example") -> dict[str, Feature]:
    """Every feature of a tf.train.Example by its key; byte strings are views of the payload.

    Raises:
        DataError: the payload is no tf.train.Example; names ``where``.
    """
    return {key: feature(raw, where)[1] for key, raw in split_example(payload, where).items()}


def split_example(payload: memoryview, where: str) -> dict[str, memoryview]:
    """The encoded features of an Example by their keys, so that one can be decoded without the others."""
    features: dict[str, memoryview] = {}
    for _, body in _messages(payload, (1,), where):
        for _, entry in _messages(body, (1,), where):
            parts = list(_messages(entry, (1, 2), where))
            found = dict(parts)
            if len(found) != len(parts):
                refuse("no tf.train.Example: a feature has two keys or two values", where)
            try:
                key = str(found.get(1, _NOTHING), "utf-8")
            except UnicodeDecodeError:
                refuse("no tf.train.Example: a key is not UTF-8 text", where)
            features[key] = found.get(2, _NOTHING)
    return features


def feature(raw: memoryview, where: str, most: int | None = None) -> tuple[str, Feature]:
    """Kind (``bytes``, ``float``, ``int64``, or ``empty``) and content of one encoded feature.

    Args:
        most: the most values to decode; the others are not checked.
    """
    lists = list(_messages(raw, KINDS, where))
    if len(lists) > 1:
        refuse("no tf.train.Example: a feature has two lists", where)
    if not lists:
        return "empty", ()
    number, body = lists[0]
    kind = KINDS[number]
    if kind == "float":
        return kind, tuple(islice(_floats(body, where), most))
    if kind == "int64":
        return kind, tuple(islice(_integers(body, where), most))
    strings = tuple(string for _, string in islice(_messages(body, (1,), where), most))
    return kind, strings[0] if len(strings) == 1 else strings


def _floats(body: memoryview, where: str) -> Iterator[float]:
    for number, wire, value in _fields(body, where):
        if number == 1:
            if wire not in (_LENGTH, _FIXED32) or isinstance(value, int) or len(value) % 4:
                refuse("no tf.train.Example: a float list holds something else", where)
            yield from (x for (x,) in struct.iter_unpack("<f", value))


def _integers(body: memoryview, where: str) -> Iterator[int]:
    """Packed and single values; the upper half of u64 is negative."""
    for number, wire, value in _fields(body, where):
        if number != 1:
            continue
        if wire == _VARINT and isinstance(value, int):
            yield value - (value >> 63 << 64)
        elif wire == _LENGTH and isinstance(value, memoryview):
            at = 0
            while at < len(value):
                unsigned, at = _varint(value, at, where)
                yield unsigned - (unsigned >> 63 << 64)
        else:
            refuse("no tf.train.Example: an int64 list holds something else", where)


def _messages(
    view: memoryview, wanted: Container[int], where: str
) -> Iterator[tuple[int, memoryview]]:
    """Number and content of the fields whose numbers are wanted; they must hold strings or messages."""
    for number, wire, value in _fields(view, where):
        if number in wanted:
            if wire != _LENGTH or isinstance(value, int):
                refuse(f"no tf.train.Example: field {number} has wire type {wire}, not 2", where)
            yield number, value


def _fields(view: memoryview, where: str) -> Iterator[tuple[int, int, int | memoryview]]:
    """Number, wire type and value of each field; fixed-width values as their bytes."""
    at, end = 0, len(view)
    while at < end:
        tag, at = _varint(view, at, where)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 2**29:
            refuse(f"no protocol-buffer message: field number {number}", where)
        if wire == _LENGTH:
            size, at = _varint(view, at, where)
        elif wire == _VARINT:
            value, at = _varint(view, at, where)
            yield number, wire, value
            continue
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            named = "a group" if wire in (3, 4) else f"wire type {wire}"
            refuse(f"no tf.train.Example: field {number} is {named}", where)
        if size > end - at:
            left = f"{size} bytes, but {end - at} are left"
            refuse(f"no protocol-buffer message: field {number} declares {left}", where)
        yield number, wire, view[at : at + size]
        at += size


def _varint(view: memoryview, at: int, where: str) -> tuple[int, int]:
    """An unsigned integer of at most 64 bits, and the offset after it."""
    if at < len(view) and view[at] < 0x80:  # the usual case
        return view[at], at + 1
    value = 0
    for place, byte in enumerate(view[at : at + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            if value >= 2**64:
                break
            return value, at + place + 1
    if len(view) - at < 10:
        refuse("no protocol-buffer message: it ends within a number", where)
    return refuse("no protocol-buffer message: a number has more than 64 bits", where)
