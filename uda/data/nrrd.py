"""NRRD files: what a header promises is compared with the file and with memory before any voxel is read.

pynrrd parses the header, of at most :data:`MAX_HEADER` bytes. Voxels are read here: pynrrd would open any file that a
header names and unpack an archive whatever its size.

A file with the space ``left-posterior-superior``, ``left-anterior-superior`` or ``right-anterior-superior`` says where
the patient lies; its world is turned to RAS. Lengths are millimetres, as 3D Slicer and ITK write them, unless
``space units`` says otherwise.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from uda.data.geometry import Volume
from uda.data.transforms import Placement
from uda.data.unpacking import unpacked
from uda.errors import DataError
from uda.files.signatures import HEAD, kind_of
from uda.files.untrusted import INFLATES, check_memory

Result = TypeVar("Result")

MAX_HEADER = 1 << 22
"""Bytes of a header: a thousand segments with their terms take one."""
FIRST = 1 << 16
"""Bytes that are looked at first."""
MAGIC = b"NRRD000"
AXES = 3

TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(
        ("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"
    ),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(
        (
            *("longlong", "long long", "long long int", "signed long long"),
            *("signed long long int", "int64", "int64_t"),
        ),
        "i8",
    ),
    **dict.fromkeys(
        (*("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),),
        "u8",
    ),
    "float": "f4",
    "double": "f8",
}
"""numpy's code of each name of a type; ``block`` is no number"""
ORDERS = {"little": "<", "big": ">"}
TO_RAS = {
    **dict.fromkeys(("right-anterior-superior", "ras"), (1, 1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1, 1, 1)),
    **dict.fromkeys(("left-posterior-superior", "lps"), (-1, -1, 1)),
}
"""Signs that turn the axes of a space to RAS."""
MILLIMETRES = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), 10.0),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers"), 0.001),
}
ARCHIVES: dict[str, Callable[[BinaryIO], Any]] = {
    **dict.fromkeys(("gzip", "gz"), lambda file: gzip.GzipFile(fileobj=file)),
    **dict.fromkeys(("bzip2", "bz2"), bz2.BZ2File),
}
_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    OSError,
    StopIteration,
    TypeError,
    ValueError,
    zlib.error,
)
"""What pynrrd, numpy and the archives raise for files that are cut short, damaged or something else."""


@dataclass(frozen=True)
class Header:
    """What a file says of its voxels."""

    shape: tuple[int, int, int]
    """of one layer, in the file's axes"""
    layers: int
    """volumes that lie in the file one beside the other"""
    layer_axis: int | None
    """their axis among the file's, if there are four"""
    dtype: np.dtype[Any]
    encoding: str
    place: Placement
    offset: int
    """of the voxels, in bytes"""
    fields: Mapping[str, str]
    """what writers add, such as names of segments"""

    @property
    def voxels(self) -> int:
        return math.prod(self.shape) * self.layers

    @property
    def stored_shape(self) -> tuple[int, ...]:
        shape: list[int] = list(self.shape)
        if self.layer_axis is not None:
            shape.insert(self.layer_axis, self.layers)
        return tuple(shape)


def read_header(path: Path) -> Header:
    """The header alone; no voxel is read.

    Raises:
        DataError: missing, not NRRD, or a header that the file cannot keep.
    """
    return _reading(path, lambda: _header(path))


def read_nrrd(path: Path) -> Volume:
    """An NRRD file of three axes.

    Raises:
        DataError: missing, not NRRD, cut short, with voxels in another file, with several layers, or larger than the
            memory.
    """
    header = read_header(path)
    if header.layers != 1:
        raise DataError(
            f"has {header.layers} layers",
            where=path,
            expected="three axes",
            fix="split time frames, channels or layers",
        )
    array = _reading(path, lambda: _voxels(path, header))[0]
    return Volume(array, stored=str(header.dtype), **header.place._asdict())


def read_layers(path: Path) -> tuple[NDArray[Any], Header]:
    """All layers ``[layers, i, j, k]`` of a file of three or four axes.

    Raises:
        DataError: as :func:`read_nrrd`, but for the number of layers.
    """
    header = read_header(path)
    return _reading(path, lambda: _voxels(path, header)), header


def read_blocks(path: Path, voxels: int) -> Iterator[NDArray[Any]]:
    """The voxels in the order of the file, a flat block at a time; what is not asked for is not read.

    Raises:
        DataError: as :func:`read_nrrd`, but a damaged end is noticed only where it is reached.
    """
    header = read_header(path)
    blocks = _blocks(path, header, voxels)
    while (block := _reading(path, lambda: next(blocks, None))) is not None:
        yield block


def _reading(path: Path, read: Callable[[], Result]) -> Result:
    if not path.is_file():
        raise DataError(
            "there is no such file", where=path, fix="correct the card's pattern or root"
        )
    try:
        with np.errstate(all="ignore"):  # absurd numbers are refused, not warned of
            return read()
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"cannot be read as NRRD: {reason}",
            where=path,
            expected="a complete .nrrd file",
            fix="copy or download it again, or save it again in the program that wrote it",
        ) from error


def _header(path: Path) -> Header:
    raw, fields = _fields(path)
    for name in ("data file", "datafile"):
        if name in fields:
            raise DataError(
                f"its voxels lie in another file: {str(fields[name])[:200]!r}",
                where=path,
                expected="one .nrrd file of header and voxels; no other file is opened on its word",
                fix="save it as one file (`unu save -f nrrd`, or .nrrd in place of .nhdr)",
            )
    for name in ("line skip", "lineskip", "byte skip", "byteskip"):
        if int(fields.get(name, 0)) != 0:
            raise ValueError(f"its header leaves out a part of it ({name}: {fields[name]})")
    sizes = [int(size) for size in fields["sizes"]]
    if len(sizes) != int(fields["dimension"]) or not sizes or min(sizes) < 1:
        raise ValueError(f"its header says that it has sizes {sizes[:8]}")
    vectors = _vectors(fields, len(sizes))
    layer_axis = _layer_axis(sizes, vectors, fields, path)
    spatial = [axis for axis in range(len(sizes)) if axis != layer_axis]
    i, j, k = (sizes[axis] for axis in spatial)
    header = Header(
        shape=(i, j, k),
        layers=1 if layer_axis is None else sizes[layer_axis],
        layer_axis=layer_axis,
        dtype=_dtype(fields),
        encoding=str(fields["encoding"]).lower(),
        place=_placement(fields, vectors, spatial),
        offset=len(raw),
        fields={name: _text(value) for name, value in fields.items() if isinstance(value, str)},
    )
    _check_size(header, path)
    return header


def _fields(path: Path) -> tuple[bytes, dict[str, Any]]:
    """The bytes of a header with its empty line, and what it says."""
    ends: list[int] = []
    with path.open("rb") as file:
        raw = file.read(FIRST)
        while not (ends := _ends(raw)) and len(raw) < MAX_HEADER and raw.startswith(MAGIC):
            if not (more := file.read(min(len(raw), MAX_HEADER - len(raw)))):
                break
            raw += more
    if not raw.startswith(MAGIC):
        if other := kind_of(raw[:HEAD]):
            raise DataError(
                f"is {other}, not NRRD",
                where=path,
                expected="an .nrrd file",
                fix="give it the ending of its format, or name the right file",
            )
        raise ValueError(f"it does not begin with {MAGIC.decode()}")
    if ends:
        raw = raw[: min(ends)]
    elif len(raw) == MAX_HEADER:
        raise ValueError(f"its header has more than {MAX_HEADER} bytes")
    lines = raw.decode("utf-8", "replace").replace("\r\n", "\n").split("\n")
    parser = _pynrrd(path)
    try:
        fields = parser.read_header(lines)
    except parser.NRRDError as error:
        raise ValueError(str(error)) from error
    if not ends and not {"data file", "datafile"} & set(fields):
        raise EOFError("it ends within its header")
    return raw, dict(fields)


def _ends(raw: bytes) -> list[int]:
    """Where an empty line ends the header, with either kind of line breaks."""
    return [raw.find(sign) + len(sign) for sign in (b"\n\n", b"\n\r\n") if sign in raw]


def _pynrrd(path: Path) -> Any:
    try:
        import nrrd
    except ImportError as error:
        raise DataError(
            "NRRD files need the package pynrrd, which is not installed",
            where=path,
            fix='pip install "uda-seg[nrrd]"',
        ) from error
    return nrrd


def _text(value: str) -> str:
    """A value with the line breaks and backslashes that the format writes as ``\\n`` and ``\\\\``."""
    pieces = value.split("\\\\")
    return "\\".join(piece.replace("\\n", "\n") for piece in pieces)


def _vectors(fields: Mapping[str, Any], axes: int) -> list[NDArray[np.float64] | None]:
    """The step along each axis in its space; None for an axis without one."""
    steps: list[NDArray[np.float64] | None] = []
    if "space directions" in fields:
        for row in fields["space directions"]:
            vector = None if row is None else np.asarray(row, dtype=np.float64)
            steps.append(None if vector is None or np.isnan(vector).all() else vector)
    elif "spacings" in fields:
        given = [float(size) for size in fields["spacings"]]
        spatial = [axis for axis, size in enumerate(given) if not math.isnan(size)]
        for axis, size in enumerate(given):
            unit = [float(axis == spatial[n]) if n < len(spatial) else 0.0 for n in range(AXES)]
            steps.append(size * np.array(unit) if axis in spatial else None)
    else:
        raise ValueError(
            "its header says nothing of its pixels' sizes (space directions, spacings)"
        )
    if len(steps) != axes or any(v is not None and v.shape != (AXES,) for v in steps):
        raise ValueError("its header does not give a step of three numbers for each axis")
    return steps


def _layer_axis(
    sizes: list[int], vectors: list[Any], fields: Mapping[str, Any], path: Path
) -> int | None:
    """The axis that is none of space, if there are four."""
    outside = [axis for axis, vector in enumerate(vectors) if vector is None]
    if len(sizes) == AXES and not outside:
        return None
    if len(sizes) == AXES + 1 and len(outside) == 1:
        return outside[0]
    raise DataError(
        f"has sizes {tuple(sizes)} on axes of the kinds {fields.get('kinds', 'not said')}"[:500],
        where=path,
        expected="three axes in space, and for layers of a segmentation a list beside them",
        fix="split time frames or channels, or save it as a volume",
    )


def _dtype(fields: Mapping[str, Any]) -> np.dtype[Any]:
    name = str(fields["type"]).lower()
    if name not in TYPES:
        raise ValueError(f"its voxels are of type {name[:60]!r}, not numbers")
    dtype: np.dtype[Any] = np.dtype(TYPES[name])
    if dtype.itemsize == 1:
        return dtype
    order = str(fields.get("endian", "")).lower()
    if order not in ORDERS:
        raise ValueError(f"its header gives the order of bytes as {order[:60]!r}")
    return np.dtype(ORDERS[order] + TYPES[name])


def _placement(
    fields: Mapping[str, Any], vectors: list[NDArray[np.float64] | None], spatial: list[int]
) -> Placement:
    signs = TO_RAS.get(str(fields.get("space", "")).lower())
    names = [str(name).lower() for name in fields.get("space units", ())]
    units = {name for name in names if name not in ("", "???", "none")}
    if unknown := units - set(MILLIMETRES):
        raise ValueError(f"its header gives the unit of length {sorted(unknown)[0][:60]!r}")
    if len(units) > 1:
        raise ValueError(f"its axes have several units of length: {', '.join(sorted(units))}")
    affine = np.eye(4)
    for column, axis in enumerate(spatial):
        affine[:3, column] = vectors[axis]
    origin = np.asarray(fields.get("space origin", np.zeros(AXES)), dtype=np.float64)
    if origin.shape != (AXES,):
        raise ValueError("its space origin is not a point of three numbers")
    affine[:3, 3] = origin
    affine[:3] *= MILLIMETRES[units.pop()] if units else 1.0
    affine[:3] *= np.array(signs or (1, 1, 1))[:, None]
    affine += 0.0  # no negative zeros
    placed = signs is not None and "space directions" in fields and "space origin" in fields
    return Placement(affine, placed, bool(names) or signs is not None, ())


def _check_size(header: Header, path: Path) -> None:
    """Refuse what the file cannot hold, and what does not fit into memory."""
    needed = header.voxels * header.dtype.itemsize
    held = max(0, path.stat().st_size - header.offset)
    if header.encoding != "raw" and header.encoding not in ARCHIVES:
        raise ValueError(f"its encoding is {header.encoding[:60]!r}, not raw, gzip or bzip2")
    most = {"raw": held, "gzip": held * INFLATES, "gz": held * INFLATES}.get(header.encoding)
    if most is not None and needed > most:
        packed = "" if header.encoding == "raw" else "packed "
        raise ValueError(
            f"its header promises {needed} bytes of voxels, which {held} {packed}bytes cannot hold"
        )
    shape = "×".join(map(str, header.stored_shape))
    check_memory(needed, f"its image of {shape} voxels", path)


def _voxels(path: Path, header: Header) -> NDArray[Any]:
    """Layers ``[layers, i, j, k]``; what is not packed stays on the disk until it is looked at."""
    if header.encoding == "raw":
        array: NDArray[Any] = np.memmap(
            path, header.dtype, "c", header.offset, header.stored_shape, order="F"
        )
    else:
        with _opened(path, header) as file:
            flat = unpacked(file, header.voxels, header.dtype)
        array = flat.reshape(header.stored_shape, order="F")
    if header.layer_axis is None:
        return array[None]
    return np.moveaxis(array, header.layer_axis, 0)


@contextlib.contextmanager
def _opened(path: Path, header: Header) -> Iterator[BinaryIO]:
    """The voxels' bytes, unpacked as they are read."""
    with path.open("rb") as file:
        file.seek(header.offset)
        if header.encoding == "raw":
            yield file
        else:
            with ARCHIVES[header.encoding](file) as archive:
                yield archive


def _blocks(path: Path, header: Header, voxels: int) -> Iterator[NDArray[Any]]:
    with _opened(path, header) as file:
        left, width = header.voxels, header.dtype.itemsize
        while left:
            raw = file.read(min(voxels, left) * width)
            block = np.frombuffer(raw[: len(raw) // width * width], header.dtype)
            if not block.size:
                raise EOFError(f"it ends {left} voxels before its image does")
            left -= block.size
            yield block
