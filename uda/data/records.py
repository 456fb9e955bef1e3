"""The preprocessed MM-WHS records of the cardiac MR↔CT literature, and its npz test volumes.

A record is one slice between its neighbours: ``data_vol`` and ``label_vol`` are raw little-endian float32 of
``dsize_dim0..2`` and ``lsize_dim0..2`` (rows, columns, channels). Other keys are ignored. A test volume is an
npz with ``arr_0`` (image) and ``arr_1`` (label). Labels are raw values: what they mean, the card says.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uda.data.npz import read_arrays
from uda.data.tfrecord import (
    decode_example,
    encode_example,
    feature,
    frame,
    read_frames,
    refuse,
    split_example,
)
from uda.errors import DataError
from uda.files.atomic import atomic_path

__all__ = [
    "Record",
    "count_records",
    "decode_example",
    "encode_example",
    "fingerprint_images",
    "read_images",
    "read_npz",
    "read_records",
    "write_npz",
    "write_records",
]

_FLOAT = np.dtype("<f4")


@dataclass(frozen=True, eq=False)
class Record:
    """One slice with its neighbours; both arrays are ``[rows, columns, channels]``, views of the mapped file.

    They lie at any byte of it (not aligned): copy what you compute with more than once.
    """

    image: NDArray[np.float32]
    label: NDArray[np.float32]
    """Raw values as stored."""
    offset: int
    """Of the record in its file, in bytes."""


def read_records(path: Path) -> Iterator[Record]:
    """Every record of a TFRecord file in order, checksums verified, in constant memory.

    Raises:
        DataError: names file, byte and reason: damage, a missing key, sizes that do not fit, values that
            are not finite. A file cut exactly between two records cannot be told from a shorter one.
    """
    for offset, payload in read_frames(path):
        where = f"{path}, byte {offset}"
        encoded = split_example(payload, where)
        image = _image(encoded, where)
        label = _volume(encoded, "label_vol", "lsize_dim", where)
        _check_pair(image, label, where)
        yield Record(image, label, offset)


def read_images(path: Path) -> Iterator[NDArray[np.float32]]:
    """The images alone: labels may be missing or wrong. Otherwise as :func:`read_records`."""
    for offset, payload in read_frames(path):
        where = f"{path}, byte {offset}"
        yield _image(split_example(payload, where), where)


def count_records(path: Path) -> int:
    """Number of records by their lengths; payloads are not read.

    Raises:
        DataError: a length that is damaged or leads beyond the end of the file.
    """
    return sum(1 for _ in read_frames(path, verify=False))


def _image(encoded: dict[str, memoryview], where: str) -> NDArray[np.float32]:
    image = _volume(encoded, "data_vol", "dsize_dim", where)
    _check_finite(image, where)
    return image


def _volume(
    encoded: dict[str, memoryview], key: str, sizes: str, where: str
) -> NDArray[np.float32]:
    """A view of the values under ``key`` in the shape under ``sizes`` 0, 1, 2."""
    raw = _value(encoded, key, "bytes", where)
    dims = [_value(encoded, f"{sizes}{axis}", "int64", where) for axis in range(3)]
    shape = "×".join(map(str, dims))
    if min(dims) < 1:
        refuse(f"{sizes}0..2 are {shape}", where, "sizes above 0")
    needed = math.prod(dims) * _FLOAT.itemsize
    if len(raw) != needed:
        refuse(f"{key} has {len(raw)} bytes", where, f"{needed} for {sizes}0..2 of {shape}")
    if dims[2] % 2 == 0:
        refuse(f"{key} has {dims[2]} channels, so none is in the middle", where, "an odd number")
    return np.frombuffer(raw, _FLOAT).reshape(dims)


def _value(encoded: dict[str, memoryview], key: str, kind: str, where: str) -> Any:
    """The one byte string or integer under a key."""
    if key not in encoded:
        there = ", ".join(sorted(encoded)) or "none"
        refuse(f"the record has no key {key!r}; its keys: {there}", where, f"one {kind} value")
    found, value = feature(encoded[key], where, most=2)
    if found != kind:
        refuse(f"{key!r} holds {found} values", where, f"one {kind} value")
    if isinstance(value, memoryview):
        return value
    if len(value) != 1:
        refuse(f"{key!r} holds {'several' if value else 'no'} {kind} values", where, "one")
    return value[0]


def _check_finite(image: NDArray[np.float32], where: str) -> None:
    finite = np.isfinite(image)
    if not finite.all():
        bad = finite.size - int(np.count_nonzero(finite))
        refuse(f"{bad} image values are NaN or infinite", where, "finite intensities")


def _check_pair(image: NDArray[Any], label: NDArray[Any], where: str) -> None:
    if image.shape != label.shape:
        sizes = ["×".join(map(str, array.shape)) for array in (image, label)]
        refuse(f"the image is {sizes[0]} and the label {sizes[1]}", where, "one size for both")


def write_records(path: Path, records: Iterable[tuple[NDArray[Any], NDArray[Any]]]) -> None:
    """Write images and labels ``[rows, columns, channels]`` as a TFRecord file, whole or not at all.

    The same records give the same bytes.

    Raises:
        DataError: what :func:`read_records` would refuse.
        RunError: the disk refuses.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for number, (image, label) in enumerate(records):
            where = f"{path}, record {number}"
            for array in (image, label):
                if array.ndim != 3 or 0 in array.shape or array.shape[2] % 2 == 0:
                    refuse(
                        f"shape {array.shape}", where, "rows, columns, an odd number of channels"
                    )
            _check_pair(image, label, where)
            data, truth = image.astype(_FLOAT), label.astype(_FLOAT)
            _check_finite(data, where)
            features: dict[str, bytes | list[int]] = {
                "data_vol": data.tobytes(),
                "label_vol": truth.tobytes(),
            }
            for axis, size in enumerate(image.shape):
                features[f"dsize_dim{axis}"] = features[f"lsize_dim{axis}"] = [size]
            file.write(frame(encode_example(features)))
        if not file.tell():
            raise DataError("there is no record to write", where=path, expected="at least one")


def read_npz(
    path: Path, *, labels: bool = True
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Image ``arr_0`` and label ``arr_1`` of an npz file, ``[rows, columns, slices]``.

    Args:
        labels: whether ``arr_1`` is looked at; without it, and where the file has none, the label is None.

    Raises:
        DataError: no such archive, cut short, damaged, without ``arr_0``, with Python objects, of another
            shape, or not finite.
    """
    wanted = ("arr_0", "arr_1") if labels else ("arr_0",)
    names, found = read_arrays(path, wanted)
    arrays = {name: _cube(array, f"{path}, {name}") for name, array in found.items()}
    if "arr_0" not in arrays:
        there = ", ".join(names) or "none"
        refuse(f"has no array 'arr_0'; its arrays: {there}", str(path), "the image")
    image, label = arrays["arr_0"], arrays.get("arr_1")
    _check_finite(image, str(path))
    if label is not None:
        _check_pair(image, label, str(path))
    return image, label


def _cube(array: NDArray[Any], where: str) -> NDArray[np.float32]:
    if array.ndim != 3 or min(array.shape) < 1:
        refuse(f"has shape {array.shape}", where, "rows, columns, slices")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=np.float32)


def write_npz(path: Path, image: NDArray[Any], label: NDArray[Any] | None = None) -> None:
    """Write ``arr_0`` and, where there is a label, ``arr_1``, whole or not at all.

    Raises:
        RunError: the disk refuses.
    """
    arrays = [image] if label is None else [image, label]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, *(array.astype(np.float32) for array in arrays))


def fingerprint_images(path: Path) -> str:
    """SHA-256 over shapes and values of the images of a ``.tfrecords`` or ``.npz`` file; labels do not count.

    Raises:
        DataError: the file is damaged or an image cannot be used.
    """
    digest = hashlib.sha256()
    images = [read_npz(path, labels=False)[0]] if path.suffix == ".npz" else read_images(path)
    for image in images:
        digest.update(repr(image.shape).encode())
        digest.update(np.ascontiguousarray(image, _FLOAT).data)
    return digest.hexdigest()
