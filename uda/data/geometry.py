"""The way between a file's own voxel grid and its prepared slices, without loss in either direction.

Turning axes never interpolates. A crop may reach over the edge (padding). Resampling is in the plane only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from nibabel import orientations
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from uda.errors import DataError


@dataclass(frozen=True)
class Geometry:
    """How prepared slices lie in a file: everything :func:`to_file_grid` needs."""

    affine: tuple[tuple[float, ...], ...]
    """voxel → world (RAS, mm) of the file"""
    shape: tuple[int, int, int]
    """of the file"""
    turn: tuple[tuple[int, int], ...]
    """nibabel orientation transform from the file's axes to the prepared ones"""
    slice_axis: int
    """after the turn"""
    resized: tuple[int, int]
    """rows and columns of a whole slice after in-plane resampling, before the crop"""
    start: tuple[int, int]
    """first row and column of the crop (negative: padding)"""
    size: tuple[int, int]
    """rows and columns of a prepared slice"""

    @property
    def turned_shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns of the turned file."""
        shape = [0, 0, 0]
        for axis, (to, _) in enumerate(self.turn):
            shape[to] = self.shape[axis]
        slices = shape.pop(self.slice_axis)
        return (slices, shape[0], shape[1])

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size of the file along its own axes, mm."""
        sizes = np.linalg.norm(np.asarray(self.affine)[:3, :3], axis=0)
        return (float(sizes[0]), float(sizes[1]), float(sizes[2]))

    @property
    def prepared_spacing(self) -> tuple[float, float, float]:
        """Slice distance, row and column pixel size of the prepared slices, mm."""
        turned = [0.0, 0.0, 0.0]
        for axis, (to, _) in enumerate(self.turn):
            turned[to] = self.spacing[axis]
        through = turned.pop(self.slice_axis)
        _, rows, columns = self.turned_shape
        row, column = turned[0] * rows / self.resized[0], turned[1] * columns / self.resized[1]
        return (through, row, column)

    def stored_slice(self, index: int) -> int:
        """Index along the file's own slice axis of prepared slice ``index``."""
        for axis, (to, flip) in enumerate(self.turn):
            if to == self.slice_axis:
                return index if flip > 0 else self.shape[axis] - 1 - index
        raise DataError(f"no axis of the file becomes the slice axis {self.slice_axis}")

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Geometry:
        return cls(
            affine=tuple(tuple(row) for row in raw["affine"]),
            shape=tuple(raw["shape"]),
            turn=tuple((int(to), int(flip)) for to, flip in raw["turn"]),
            slice_axis=raw["slice_axis"],
            resized=tuple(raw["resized"]),
            start=tuple(raw["start"]),
            size=tuple(raw["size"]),
        )


def turn_to(affine: NDArray[np.float64], orientation: str) -> NDArray[np.float64]:
    """nibabel orientation transform from a file's axes to an axis code such as ``RAS``; ``stored`` turns nothing."""
    if orientation == "stored":
        return np.array([[0, 1], [1, 1], [2, 1]], dtype=float)
    wanted = orientations.axcodes2ornt(tuple(orientation))
    turn: NDArray[np.float64] = orientations.ornt_transform(
        orientations.io_orientation(affine), wanted
    )
    return turn


def to_slices(array: NDArray[Any], turn: Any, slice_axis: int) -> NDArray[Any]:
    """An array in the file's axes as whole turned slices ``[s, rows, columns]``."""
    turned = orientations.apply_orientation(array, np.asarray(turn, dtype=float))
    return np.ascontiguousarray(np.moveaxis(turned, slice_axis, 0))


def from_slices(slices: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """Whole turned slices ``[s, rows, columns]`` back to the file's axes."""
    turned = np.moveaxis(slices, 0, geometry.slice_axis)
    back = np.empty((3, 2))
    for axis, (to, flip) in enumerate(geometry.turn):
        back[to] = (axis, flip)
    return np.ascontiguousarray(orientations.apply_orientation(turned, back))


def crop(slices: NDArray[Any], geometry: Geometry) -> tuple[NDArray[Any], tuple[slice, slice]]:
    """Cut (or pad with 0) resampled slices to the prepared size.

    Returns:
        slices ``[s, h, w]`` and the window of it that holds image, not padding.
    """
    height, width = geometry.size
    source, window = _overlap(geometry)
    out = np.zeros((slices.shape[0], height, width), dtype=slices.dtype)
    out[:, window[0], window[1]] = slices[:, source[0], source[1]]
    return out, window


def _overlap(geometry: Geometry) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The shared rectangle of whole slice and crop, in the whole slice's and in the crop's indices."""
    whole, cut = [], []
    for start, size, full in zip(geometry.start, geometry.size, geometry.resized, strict=True):
        first, last = max(start, 0), max(min(start + size, full), max(start, 0))
        whole.append(slice(first, last))
        cut.append(slice(first - start, last - start))
    return (whole[0], whole[1]), (cut[0], cut[1])


def _paste(part: Tensor, geometry: Geometry, background: float) -> Tensor:
    """Prepared slices ``[s, k, h, w]`` inside whole slices, channel 0 elsewhere at ``background``."""
    whole, cut = _overlap(geometry)
    out = part.new_zeros((*part.shape[:2], *geometry.resized))
    out[:, 0] = background
    out[:, :, whole[0], whole[1]] = part[:, :, cut[0], cut[1]]
    return out


def to_file_grid(logits: Tensor, geometry: Geometry, chunk: int = 16) -> NDArray[np.uint8]:
    """Class indices on the file's own grid and axes from prepared logits ``[s, k, h, w]``.

    Probabilities are interpolated back, then the largest wins; outside the crop it is background.
    Slices are done ``chunk`` at a time, so that a large volume never stands in memory with all classes.
    """
    slices, rows, columns = geometry.turned_shape
    labels = np.empty((slices, rows, columns), dtype=np.uint8)
    exact = geometry.resized == (rows, columns)
    for first in range(0, slices, chunk):
        part = logits[first : first + chunk].float()
        if exact:
            found = _paste(part.argmax(1, keepdim=True).to(torch.uint8), geometry, background=0)[
                :, 0
            ]
        else:
            whole = _paste(part.softmax(1), geometry, background=1.0)
            found = functional.interpolate(whole, (rows, columns), mode="bilinear").argmax(1)
        labels[first : first + chunk] = found.to(torch.uint8).cpu().numpy()
    return from_slices(labels, geometry)
