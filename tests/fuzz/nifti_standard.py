"""NIfTI headers packed and read by the standard alone, with struct and numpy: what the product's reading is held to.

Sources: nifti1.h (https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h), nifti2.h, and the rules of
``docs/commands.md`` for what the standard leaves open.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# field → (byte, struct format) of NIfTI-1 and NIfTI-2
LAYOUT: dict[int, dict[str, tuple[int, str]]] = {
    1: {
        "sizeof_hdr": (0, "i"), "dim": (40, "8h"), "datatype": (70, "h"), "bitpix": (72, "h"), "pixdim": (76, "8f"),
        "vox_offset": (108, "f"), "scl_slope": (112, "f"), "scl_inter": (116, "f"), "xyzt_units": (123, "B"),
        "qform_code": (252, "h"), "sform_code": (254, "h"), "quatern": (256, "3f"), "qoffset": (268, "3f"),
        "srow": (280, "12f"), "magic": (344, "4s"),
    },
    2: {
        "sizeof_hdr": (0, "i"), "magic": (4, "8s"), "datatype": (12, "h"), "bitpix": (14, "h"), "dim": (16, "8q"),
        "pixdim": (104, "8d"), "vox_offset": (168, "q"), "scl_slope": (176, "d"), "scl_inter": (184, "d"),
        "qform_code": (344, "i"), "sform_code": (348, "i"), "quatern": (352, "3d"), "qoffset": (376, "3d"),
        "srow": (400, "12d"), "xyzt_units": (500, "i"),
    },
}  # fmt: skip
SIZE = {1: 348, 2: 540}
MAGIC = {1: b"n+1\0", 2: b"n+2\0\r\n\x1a\n"}
TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2"}
MILLIMETRES = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}
"""of the lower three bits of xyzt_units: unknown, metre, mm, micron"""
CODES = range(1, 6)
"""of a transform that counts"""
SMALLEST, LARGEST, FLAT = 1e-4, 100.0, 0.1
"""sides of a voxel in mm, and its least volume as a share of a box with these sides, that are read"""


@dataclass(frozen=True)
class Reading:
    """What a file says of its place."""

    shape: tuple[int, ...]
    values: np.ndarray
    affine: np.ndarray
    """voxel → world in mm; without a transform the pixel sizes alone"""
    placed: bool
    unit_known: bool
    disagree: bool | None
    """whether two sound transforms differ by a tenth of a pixel; None: too close to that to tell"""
    free: str = ""
    """why refusing is as right as this reading"""


class RefusedError(ValueError):
    """By the standard or by the rules."""


def pack(version: int, order: str, fields: Mapping[str, Any], voxels: bytes) -> bytes:
    """A header of these fields, and voxels at its ``vox_offset``."""
    raw = bytearray(SIZE[version] + 4)
    every = {"sizeof_hdr": SIZE[version], "magic": MAGIC[version], **fields}
    for name, value in every.items():
        at, form = LAYOUT[version][name]
        value = list(value) if isinstance(value, tuple | list | np.ndarray) else [value]
        if form[-1] in "hiqB":
            value = [int(max(-(2**31), min(2**31 - 1, np.nan_to_num(one)))) for one in value]
        struct.pack_into(order + form, raw, at, *value)
    offset = every["vox_offset"]
    if len(raw) < offset < 4096:
        raw += bytes(int(offset) - len(raw))
    return bytes(raw) + voxels


def read(data: bytes) -> Reading:
    """Read a file.

    Raises:
        RefusedError: it says nothing that could be used.
    """
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    version, order = _kind(data)
    header = {
        name: struct.unpack_from(order + form, data, at)
        for name, (at, form) in LAYOUT[version].items()
    }
    free = []
    shape = _shape(header["dim"], free)
    values = _values(data, header, shape, SIZE[version], order, free)
    unit = header["xyzt_units"][0] & 7
    if unit not in MILLIMETRES:
        raise RefusedError(f"unit {unit}")
    affine, placed, disagree = _affine(header, shape, MILLIMETRES[unit], free)
    return Reading(shape, values, affine, placed, unit != 0, disagree, "; ".join(free))


def _kind(data: bytes) -> tuple[int, str]:
    for version, size in SIZE.items():
        for order in "<>":
            if data[:4] == struct.pack(order + "i", size):
                return version, order
    raise RefusedError("no header")


def _shape(dim: tuple[int, ...], free: list[str]) -> tuple[int, ...]:
    if dim[0] < 1:
        raise RefusedError(f"{dim[0]} axes")
    if dim[0] > 7:
        free.append(f"{dim[0]} axes")
    shape = list(dim[1 : dim[0] + 1])
    if min(shape) < 1:
        raise RefusedError(f"shape {shape}")
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) > 3:
        raise RefusedError("times or vectors")
    if len(shape) < 3:
        free.append("fewer than three axes")
    return (*shape, 1, 1)[:3]


def _values(
    data: bytes,
    header: Mapping[str, Any],
    shape: tuple[int, ...],
    size: int,
    order: str,
    free: list[str],
) -> np.ndarray:
    (offset,), (slope,), (inter,) = (header[k] for k in ("vox_offset", "scl_slope", "scl_inter"))
    if not np.isfinite(offset) or offset < 0:
        raise RefusedError(f"voxels at byte {offset}")
    if offset < size + 4 or offset % 1:
        free.append(f"voxels at byte {offset}")
        offset = offset if offset >= size else size + 4
    kind = np.dtype(order + TYPES[header["datatype"][0]])
    count = int(np.prod(shape, dtype=object))
    if int(offset) + count * kind.itemsize > len(data):
        raise RefusedError("cut short")
    values = np.frombuffer(data, kind, count, int(offset)).reshape(shape, order="F")
    if not np.isfinite(slope):
        free.append(f"slope {slope}")
    if slope == 0 or not np.isfinite(slope):
        return values
    if not np.isfinite(inter):
        raise RefusedError(f"intercept {inter}")
    with np.errstate(all="ignore"):
        return values.astype(np.float64) * float(slope) + float(inter)


def _affine(
    header: Mapping[str, Any], shape: tuple[int, ...], unit: float, free: list[str]
) -> tuple[np.ndarray, bool, bool | None]:
    with np.errstate(all="ignore"):
        forms = [(header["sform_code"][0], _sform(header, unit)), _qform(header, unit, free)]
    given = [form for code, form in forms if code in CODES]
    sound = [form for form in given if _sound(form, free)]
    if not given:
        alone = np.diag([*(unit * n for n in header["pixdim"][1:4]), 1.0])
        if min(header["pixdim"][1:4]) <= 0 or not _sound(alone, free):
            raise RefusedError(f"pixel sizes {header['pixdim'][1:4]}")
        return alone, False, False
    if not sound:
        raise RefusedError("no transform is sound")
    return sound[0], True, _disagree(*sound, shape=shape) if len(sound) == 2 else False


def _sform(header: Mapping[str, Any], unit: float) -> np.ndarray:
    form = np.eye(4)
    form[:3] = np.reshape(header["srow"], (3, 4)).astype(np.float64) * unit
    return form


def _qform(header: Mapping[str, Any], unit: float, free: list[str]) -> tuple[int, np.ndarray]:
    """Method 2 of the standard: a unit quaternion, pixel sizes, and a factor of -1 or 1 for the third axis."""
    b, c, d = np.array(header["quatern"], np.float64)
    rest = 1 - (b * b + c * c + d * d)
    code, form = header["qform_code"][0], np.eye(4)
    if not np.isfinite(rest):
        return code, form * np.nan
    if rest < -1e-7 and code > 0:
        free.append("a quaternion longer than 1")
    a = np.sqrt(rest) if rest >= 1e-7 else 0.0  # as nifti1_io.c, for half turns in single precision
    if not a:
        b, c, d = np.array([b, c, d]) / np.sqrt(b * b + c * c + d * d)
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    sides = np.array(header["pixdim"][1:4], np.float64)
    factor = header["pixdim"][0]
    if code > 0 and factor < 0 and factor != -1:
        free.append(f"qfac {factor}")  # readers differ
    sides[2] *= -1.0 if factor < 0 else 1.0
    form[:3, :3] = rotation * sides * unit
    form[:3, 3] = np.array(header["qoffset"], np.float64) * unit
    if min(header["pixdim"][1:4]) <= 0:
        form[:3, :3] = np.nan  # the standard has positive sides
    return code, form


def _sound(form: np.ndarray, free: list[str]) -> bool:
    if not np.isfinite(form).all():
        return False
    if np.abs(form[:3, 3]).max() > 1e9:
        free.append("an origin beyond the world")
    with np.errstate(all="ignore"):
        sides = np.sqrt((form[:3, :3] ** 2).sum(0))
    if np.isclose(sides[:, None], (SMALLEST, LARGEST), rtol=1e-5, atol=0).any():
        free.append("a side at the limit")
    if not (sides.min() >= SMALLEST and sides.max() <= LARGEST):
        return False
    share = abs(np.linalg.det(form[:3, :3] / sides))
    if FLAT / 2 < share < 2 * FLAT:
        free.append("nearly flat")
    return bool(share >= FLAT)


def field(data: bytes, name: str) -> np.ndarray:
    """A field of a header, packed or not."""
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    version, order = _kind(data)
    at, form = LAYOUT[version][name]
    return np.array(struct.unpack_from(order + form, data, at))


def corners(shape: tuple[int, ...]) -> np.ndarray:
    """Indices ``[8, 3]`` of the corner voxels."""
    return np.array(
        [[n * (s - 1) for n, s in zip(b, shape, strict=True)] for b in np.ndindex(2, 2, 2)]
    )


def placed(affine: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """World positions ``[n, 3]`` of voxels."""
    return indices @ affine[:3, :3].T + affine[:3, 3]


def _disagree(one: np.ndarray, two: np.ndarray, shape: tuple[int, ...]) -> bool | None:
    apart = np.abs(placed(one, corners(shape)) - placed(two, corners(shape)))
    sides = np.sqrt((one[:3, :3] ** 2).sum(0))
    if np.sqrt((apart**2).sum(1)).max() < 0.05 * sides.min():
        return False
    return True if apart.max() > 0.2 * sides.max() else None
