"""Unpack the voxels of an archive straight into their array: no more is unpacked than was promised."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 20
"""Bytes that are unpacked at a time."""
TRAILING = 1 << 20
"""Bytes that an archive may hold behind its image; unpacking more could take for ever."""


def unpacked(file: BinaryIO, voxels: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The next voxels of an open archive, flat; it is read to its end, so that its checksum is verified.

    Args:
        file: a ``GzipFile`` or the like, at the first voxel.

    Raises:
        EOFError: the archive ends before its image does.
        ValueError: more than :data:`TRAILING` bytes follow behind the last voxel.
        OSError, zlib.error: it is damaged.
    """
    flat = np.empty(voxels, dtype)
    room: memoryview = flat.view(np.uint8).data
    at = 0
    while at < len(room):
        block = file.read(min(BLOCK, len(room) - at))
        if not block:
            raise EOFError(f"its archive ends {len(room) - at} bytes before its image does")
        room[at : at + len(block)] = block
        at += len(block)
    beyond = 0
    while block := file.read(BLOCK):
        beyond += len(block)
        if beyond > TRAILING:
            raise ValueError(
                "much follows behind its last voxel: header and image do not belong together"
            )
    return flat
