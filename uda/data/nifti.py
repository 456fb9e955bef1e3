"""NIfTI files: what a header promises is compared with the file and with memory before any voxel is read."""

from __future__ import annotations

import contextlib
import gzip
import logging
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from uda.data.geometry import Volume
from uda.data.transforms import Placement, placement
from uda.data.unpacking import unpacked
from uda.errors import DataError
from uda.files.signatures import HEAD, kind_of
from uda.files.untrusted import INFLATES, check_memory

Result = TypeVar("Result")

_GZIP = b"\x1f\x8b"
_KINDS = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
"""by the size that a header says it has"""
_ERRORS = 40
"""Level from which a remark of nibabel on a header is an error."""
_UNREADABLE = (
    HeaderDataError,
    WrapStructError,
    EOFError,
    OSError,
    OverflowError,
    ValueError,
    zlib.error,
)
"""What nibabel and gzip raise for files that are cut short, damaged or something else."""

_quiet = logging.Logger("nibabel's remarks on headers")
_quiet.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Header:
    """What a file says of its voxels."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    """as stored"""
    place: Placement
    offset: int
    """of the first voxel, in bytes"""
    scale: tuple[float, float]
    """slope and intercept of the stored values"""
    stored: Any
    """nibabel's header, as in the file"""

    @property
    def affine(self) -> NDArray[np.float64]:
        return self.place.affine

    @property
    def voxels(self) -> int:
        return math.prod(self.shape)


def read_header(path: Path) -> Header:
    """The header alone; no voxel is read.

    Raises:
        DataError: missing, not NIfTI, or a header that the file cannot keep.
    """
    return _reading(path, lambda: _read_header(path))


def read_array(path: Path) -> tuple[NDArray[Any], Header]:
    """All voxels in the file's axes, scaled as the header says. An archive is unpacked to its end, so that its
    checksum is verified; what is not packed stays on the disk until it is looked at.

    Raises:
        DataError: missing, not NIfTI, cut short, not numbers, or larger than the memory.
    """
    return _reading(path, lambda: _read(path))


def read_nifti(path: Path) -> Volume:
    """A NIfTI file of three axes.

    Raises:
        DataError: as :func:`read_array`.
    """
    array, header = read_array(path)
    return Volume(
        array,
        stored=str(header.dtype),
        header=header.stored,
        **header.place._asdict(),
    )


def read_blocks(path: Path, voxels: int) -> Iterator[NDArray[Any]]:
    """The voxels in the order of the file, scaled, a flat block at a time; what is not asked for is not read.

    Raises:
        DataError: as :func:`read_array`, but a damaged end is noticed only where it is reached.
    """
    blocks = _blocks(path, voxels)
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
            f"cannot be read as NIfTI: {reason}",
            where=path,
            expected="a complete .nii or .nii.gz file",
            fix="copy or download it again; `gzip -t` tells whether an archive is cut short",
        ) from error


def _packed(path: Path) -> bool:
    """Whether a file is an archive, which its content says and not its name."""
    with path.open("rb") as file:
        return file.read(len(_GZIP)) == _GZIP


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, Header]]:
    """The file, to be read from behind its header, and the header."""
    packed = _packed(path)
    with gzip.open(path) if packed else path.open("rb") as opened:
        file = cast("BinaryIO", opened)
        header = _header(file, path, packed)
        size = path.stat().st_size
        needed = header.offset + header.voxels * header.dtype.itemsize
        if needed > size * (INFLATES if packed else 1):
            held = f"{size} packed bytes" if packed else f"{size} bytes"
            raise ValueError(f"its header promises {needed} bytes, which {held} cannot hold")
        yield file, header


def _header(file: BinaryIO, path: Path, packed: bool) -> Header:
    raw = file.read(max(_KINDS))
    sizes = {int.from_bytes(raw[:4], "little"), int.from_bytes(raw[:4], "big")} & set(_KINDS)
    if not sizes:
        if other := kind_of(raw[:HEAD]):
            raise DataError(
                f"is {'a gzip archive of ' if packed else ''}{other}, not NIfTI",
                where=path,
                expected="a .nii or .nii.gz file",
                fix="convert it to NIfTI, or name the right file",
            )
        raise ValueError(
            f"it does not begin with a header of {' or '.join(map(str, _KINDS))} bytes"
        )
    size = sizes.pop()
    if len(raw) < size:
        raise EOFError(f"it ends within its header, after {len(raw)} bytes")
    kind: Any = _KINDS[size]
    stored = kind(raw[:size], check=False)
    if not bytes(stored["magic"]).strip(b"\0 "):
        raise DataError(
            "is an Analyze 7.5 file, which does not tell left from right, not NIfTI",
            where=path,
            expected="a .nii or .nii.gz file",
            fix="convert the original scan to NIfTI",
        )
    found = stored.copy()
    found.check_fix(logger=_quiet, error_level=_ERRORS)
    shape = tuple(int(n) for n in found.get_data_shape())
    if not shape or min(shape) < 1:
        raise ValueError(f"its header says that it has shape {shape}")
    offset = int(found.get_data_offset())
    if offset < size:
        pair = bytes(stored["magic"]).startswith((b"ni1", b"ni2"))
        raise DataError(
            "is the header of a pair (.hdr and .img)"
            if pair
            else f"its header says that voxels begin at byte {offset}, within the header",
            where=path,
            expected=f"one file of header and voxels, which begin at byte {size + 4} or later",
            fix="convert it to one .nii.gz file, or correct vox_offset in its header",
        )
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    dtype, scale = found.get_data_dtype(), _scale(found)
    return Header(shape, dtype, placement(stored, found, path), offset, scale, stored)


def _scale(header: Any) -> tuple[float, float]:
    slope, intercept = header.get_slope_inter()
    return (1.0, 0.0) if slope is None else (slope, intercept)


def _read_header(path: Path) -> Header:
    with _opened(path) as (_, header):
        return header


def _read(path: Path) -> tuple[NDArray[Any], Header]:
    with _opened(path) as (file, header):
        _check(header, path)
        if isinstance(file, gzip.GzipFile):
            file.seek(header.offset)
            flat = unpacked(cast("BinaryIO", file), header.voxels, header.dtype)
            array = flat.reshape(header.shape, order="F")
        else:
            array = np.memmap(path, header.dtype, "c", header.offset, header.shape, order="F")
    slope, intercept = map(np.float64, header.scale)
    scaled: NDArray[Any] = apply_read_scaling(array, slope, intercept)
    return scaled, header


def _blocks(path: Path, voxels: int) -> Iterator[NDArray[Any]]:
    with _opened(path) as (file, header):
        _check(header, path)
        file.seek(header.offset)
        slope, intercept = map(np.float64, header.scale)
        left = header.voxels
        while left:
            raw = file.read(min(voxels, left) * header.dtype.itemsize)
            block = np.frombuffer(
                raw[: len(raw) // header.dtype.itemsize * header.dtype.itemsize], header.dtype
            )
            if not block.size:
                raise EOFError(f"it ends {left} voxels before its image does")
            left -= block.size
            yield apply_read_scaling(block, slope, intercept)


def _check(header: Header, path: Path) -> None:
    """Refuse what is no image of numbers with three axes, or too large for the memory."""
    if len(header.shape) != 3:
        raise DataError(
            f"has shape {header.shape}",
            where=path,
            expected="three axes",
            fix="split time frames or channels",
        )
    if header.dtype.kind not in "iuf":
        raise DataError(
            f"its voxels are {header.dtype}, not numbers",
            where=path,
            expected="one integer or real number a voxel",
            fix="convert colour to intensity, a complex image to its magnitude",
        )
    width = header.dtype.itemsize if header.scale == (1, 0) else max(header.dtype.itemsize, 8)
    shape = "×".join(map(str, header.shape))
    check_memory(header.voxels * width, f"its image of {shape} voxels", path)
