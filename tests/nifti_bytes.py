"""NIfTI headers written and read byte by byte, without any library: an independent opinion on what a file says."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np

# name → (offset, format) of both versions; formats without the order of bytes
FIELDS: dict[int, dict[str, tuple[int, str]]] = {
    1: {
        "sizeof_hdr": (0, "i"),
        "dim": (40, "8h"),
        "datatype": (70, "h"),
        "bitpix": (72, "h"),
        "pixdim": (76, "8f"),
        "vox_offset": (108, "f"),
        "scl_slope": (112, "f"),
        "scl_inter": (116, "f"),
        "xyzt_units": (123, "b"),
        "qform_code": (252, "h"),
        "sform_code": (254, "h"),
        "quatern": (256, "3f"),
        "qoffset": (268, "3f"),
        "srow": (280, "12f"),
        "magic": (344, "4s"),
    },
    2: {
        "sizeof_hdr": (0, "i"),
        "magic": (4, "8s"),
        "datatype": (12, "h"),
        "bitpix": (14, "h"),
        "dim": (16, "8q"),
        "pixdim": (104, "8d"),
        "vox_offset": (168, "q"),
        "scl_slope": (176, "d"),
        "scl_inter": (184, "d"),
        "qform_code": (344, "i"),
        "sform_code": (348, "i"),
        "quatern": (352, "3d"),
        "qoffset": (376, "3d"),
        "srow": (400, "12d"),
        "xyzt_units": (500, "i"),
    },
}
SIZES, OFFSETS = {1: 348, 2: 540}, {1: 352, 2: 544}
MAGIC = {1: b"n+1\0", 2: b"n+2\0\r\n\x1a\n"}
PLACE = ("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern", "qoffset", "srow")
"""fields that say where the voxels lie"""
SHEARED = [-1.5, 0, 0, 20, 0, 1.5, 0.75, -30, 0, 0, 3, 40]
STRAIGHT = [-1.5, 0, 0, 20, 0, 1.5, 0, -30, 0, 0, 3, 40]


def nifti(array: np.ndarray, version: int = 1, order: str = "<", **fields: Any) -> bytes:
    """A file of int16 voxels: by default 1.5×1.5×3 mm, sform and qform alike, in millimetres."""
    values: dict[str, Any] = {
        "sizeof_hdr": SIZES[version],
        "dim": (3, *array.shape, 1, 1, 1, 1),
        "datatype": 4,
        "bitpix": 16,
        "pixdim": (-1, 1.5, 1.5, 3, 0, 0, 0, 0),
        "vox_offset": OFFSETS[version],
        "scl_slope": 1,
        "scl_inter": 0,
        "xyzt_units": 2,
        "qform_code": 1,
        "sform_code": 1,
        "quatern": (
            0,
            1,
            0,
        ),  # half a turn about y, and a flipped third axis: x and z change sign, z again
        "qoffset": (20, -30, 40),
        "srow": STRAIGHT,
        "magic": MAGIC[version],
    }
    raw = bytearray(OFFSETS[version])
    for name, value in (values | fields).items():
        offset, kind = FIELDS[version][name]
        struct.pack_into(order + kind, raw, offset, *np.atleast_1d(value).tolist())
    return bytes(raw) + array.astype(f"{order}i2").tobytes(order="F")


def header_of(path: Path) -> dict[str, Any]:
    """The fields of a file's header."""
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    for version, size in SIZES.items():
        for order in "<>":
            if struct.unpack_from(f"{order}i", raw)[0] == size:
                return {
                    name: struct.unpack_from(order + kind, raw, offset)
                    for name, (offset, kind) in FIELDS[version].items()
                }
    raise AssertionError(f"{path} is not NIfTI")


def voxels_of(path: Path) -> np.ndarray:
    """The bytes behind the header, as uint8."""
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    return np.frombuffer(raw[int(header_of(path)["vox_offset"][0]) :], np.uint8)
