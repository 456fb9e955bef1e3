"""Map between a file's voxel grid and its prepared slices: reorient, resample, crop, and back.

Reorientation never interpolates. A crop may extend beyond the edge (padding). Resampling is in-plane, and along
the slice axis where the card sets a slice distance. Pixels and slices are cells: resampling keeps the outer
borders of the volume, not the centres of its first and last slice.

A file's axes need not stand at right angles (a CT with a tilted gantry). Slices keep the file's own axes and rows and
columns their own lengths; the distance between slices is perpendicular to them, and distances, areas and volumes go
through the affine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from nibabel import io_orientation, orientations
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from uda.errors import DataError, UdaError
from uda.losses.prediction import most_likely

SMALLEST, LARGEST = 1e-4, 100.0
"""Limits of a pixel's sides in mm: beyond them no scanner or microscope measured, a header is damaged or in another
unit."""
FLAT = 0.1
"""Least volume of a voxel, as a share of a box with its sides; below it axes nearly lie in one plane."""
RIGHT_ANGLE = 1e-6
"""Largest cosine between two axes at right angles: what rounding to float32 leaves."""


@dataclass(frozen=True)
class Volume:
    """A file as it is: array in the file's axes, affine in mm."""

    array: NDArray[Any]
    affine: NDArray[np.float64]
    """voxel → world (RAS, mm)"""
    stored: str = ""
    """type of the stored values, where it is not the array's"""
    placed: bool = True
    """whether the file says where the patient lies"""
    unit_known: bool = True
    """whether the file names the unit of its lengths; else they are read as millimetres"""
    remarks: tuple[UdaError, ...] = ()
    """where what the file says of its place cannot be used, or contradicts itself"""
    header: Any = None
    """nibabel's header as stored, of a NIfTI file; masks take the place of their image from it"""


@dataclass(frozen=True)
class Geometry:
    """The position of prepared slices in a file: everything that :func:`to_file_grid` needs."""

    affine: tuple[tuple[float, ...], ...]
    """affine of the file: voxel index → RAS coordinates in mm"""
    shape: tuple[int, int, int]
    """shape of the file's array"""
    turn: tuple[tuple[int, int], ...]
    """nibabel orientation transform from the file's axes to the prepared ones"""
    slice_axis: int
    """slice axis after the transform"""
    resized: tuple[int, int]
    """rows and columns of a whole slice after in-plane resampling, before the crop"""
    depth: int
    """number of prepared slices"""
    start: tuple[int, int]
    """first row and column of the crop (negative: padding)"""
    size: tuple[int, int]
    """rows and columns of a prepared slice"""

    @property
    def turned_shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns of the file after reorientation."""
        shape = [0, 0, 0]
        for axis, (to, _) in enumerate(self.turn):
            shape[to] = self.shape[axis]
        slices = shape.pop(self.slice_axis)
        return (slices, shape[0], shape[1])

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Spacing along the file's own axes, mm."""
        sizes = np.linalg.norm(np.asarray(self.affine)[:3, :3], axis=0)
        return (float(sizes[0]), float(sizes[1]), float(sizes[2]))

    @property
    def steps(self) -> tuple[float, float, float] | NDArray[np.float64]:
        """What distances in mm on the file's grid need: its spacing, or of a sheared file the matrix ``[3, 3]``
        whose columns are the steps along its axes."""
        affine = np.asarray(self.affine)
        return affine[:3, :3] if sheared(affine) else self.spacing

    @property
    def skew(self) -> float:
        """Area of a pixel of a slice as a share of the product of its sides: 1 at right angles."""
        affine = np.asarray(self.affine)
        if not sheared(affine):
            return 1.0
        _, row, column = self.turned_spacing
        return _area(_turned_axes(affine, self.turn, self.slice_axis)) / (row * column)

    @property
    def turned_spacing(self) -> tuple[float, float, float]:
        """Slice distance, row and column spacing of the file after reorientation, mm."""
        return turned_spacing(np.asarray(self.affine), self.turn, self.slice_axis)

    @property
    def prepared_spacing(self) -> tuple[float, float, float]:
        """Slice distance, row and column spacing of the prepared slices, mm."""
        through, row, column = self.turned_spacing
        slices, rows, columns = self.turned_shape
        height, width = self.resized
        return (through * slices / self.depth, row * rows / height, column * columns / width)

    def stored_slice(self, index: int) -> int:
        """Index along the file's own slice axis of the file's slice nearest to prepared slice ``index``."""
        return self.own_slice(int(nearest(self.turned_shape[0], self.depth)[index]))

    def own_slice(self, index: int) -> int:
        """Index along the file's own slice axis of slice ``index`` after reorientation."""
        axis = self.file_slice_axis
        return index if self.turn[axis][1] > 0 else self.shape[axis] - 1 - index

    @property
    def file_slice_axis(self) -> int:
        """Axis of the file's array along which its slices lie."""
        for axis, (to, _) in enumerate(self.turn):
            if to == self.slice_axis:
                return axis
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
            depth=raw["depth"],
            start=tuple(raw["start"]),
            size=tuple(raw["size"]),
        )


@np.errstate(over="ignore")  # what is too large is told, not warned of
def unusable(affine: NDArray[np.float64]) -> str | None:
    """Why nothing can be measured by an affine; None for a sound one."""
    matrix = affine[:3, :3]
    if not np.isfinite(affine).all():
        return "its affine holds a number that is not finite"
    sizes = np.linalg.norm(matrix, axis=0)
    if sizes.min() == 0:
        return "its affine is not invertible: an axis has no length"
    if not (sizes.min() >= SMALLEST and sizes.max() <= LARGEST):
        listed = "×".join(f"{size:.6g}" for size in sizes)
        return f"its affine gives pixels of {listed} mm, beyond {SMALLEST:g} to {LARGEST:g} mm"
    flat = abs(np.linalg.det(matrix)) < FLAT * np.prod(sizes)
    if flat or not np.isfinite(io_orientation(affine)).all():
        return "its affine is not invertible: its axes nearly lie in one plane"
    return None


def sheared(affine: NDArray[np.float64]) -> bool:
    """Whether two axes of a file are not at right angles, beyond :data:`RIGHT_ANGLE`."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.diag((axes**2).sum(0))).max() > RIGHT_ANGLE)


def turned_spacing(
    affine: NDArray[np.float64], turn: Any, slice_axis: int
) -> tuple[float, float, float]:
    """Slice distance, row and column spacing of a file after reorientation, mm.

    The distance is perpendicular to the slices, also where a sheared file's slices are shifted against one another.
    """
    axes = _turned_axes(affine, turn, slice_axis)
    through, row, column = (float(size) for size in np.linalg.norm(axes, axis=0))
    if sheared(affine):
        through = abs(float(np.linalg.det(axes))) / _area(axes)
    return (through, row, column)


def _turned_axes(affine: NDArray[np.float64], turn: Any, slice_axis: int) -> NDArray[np.float64]:
    """Steps in mm from slice to slice, row to row and column to column: the columns ``[3, 3]``."""
    own = [0, 0, 0]
    for axis, (to, _) in enumerate(turn):
        own[int(to)] = axis
    through = own.pop(slice_axis)
    return affine[:3, [through, *own]]


def _area(axes: NDArray[np.float64]) -> float:
    """Area of a slice's pixel, in mm²; ``axes`` as of :func:`_turned_axes`."""
    return float(np.linalg.norm(np.cross(axes[:, 1], axes[:, 2])))


def turn_to(affine: NDArray[np.float64], orientation: str) -> NDArray[np.float64]:
    """nibabel orientation transform from a file's axes to an axis code such as ``RAS``; ``stored`` keeps the axes."""
    if orientation == "stored":
        return np.array([[0, 1], [1, 1], [2, 1]], dtype=float)
    wanted = orientations.axcodes2ornt(tuple(orientation))
    turn: NDArray[np.float64] = orientations.ornt_transform(
        orientations.io_orientation(affine), wanted
    )
    return turn


def turned(array: NDArray[Any], turn: Any, slice_axis: int) -> NDArray[Any]:
    """An array in the file's axes as a view of reoriented whole slices ``[s, rows, columns]``."""
    view = orientations.apply_orientation(array, np.asarray(turn, dtype=float))
    return np.moveaxis(view, slice_axis, 0)


def nearest(full: int, size: int) -> NDArray[np.int64]:
    """For each of ``size`` equal cells the index of the one of ``full`` cells that holds its centre.

    Integer arithmetic makes labels, tags and slice names agree; a centre on a border belongs to the upper cell.
    """
    found: NDArray[np.int64] = (2 * np.arange(size) + 1) * full // (2 * size)
    return found


def along(slices: NDArray[np.float32], depth: int) -> NDArray[np.float32]:
    """``[s, h, w]`` resampled to ``depth`` slices: linear, and antialiased where there are fewer."""
    cells = torch.eye(len(slices))[None, None]
    size = (depth, len(slices))
    weights = functional.interpolate(cells, size, mode="bilinear", antialias=True)[0, 0].numpy()
    out = np.zeros((depth, *slices.shape[1:]), dtype=np.float32)
    for plane, row in zip(out, weights, strict=True):
        for index in row.nonzero()[0]:
            plane += row[index] * slices[index]
    return out


def from_slices(slices: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """Reoriented whole slices ``[s, rows, columns]`` back in the file's axes."""
    moved = np.moveaxis(slices, 0, geometry.slice_axis)
    back = np.empty((3, 2))
    for axis, (to, flip) in enumerate(geometry.turn):
        back[to] = (axis, flip)
    return np.ascontiguousarray(orientations.apply_orientation(moved, back))


def crop(slices: NDArray[Any], geometry: Geometry) -> tuple[NDArray[Any], tuple[slice, slice]]:
    """Cut (or pad with 0) resampled slices to the prepared size.

    Returns:
        slices ``[s, h, w]``, and the rows and columns that hold image rather than padding.
    """
    height, width = geometry.size
    source, window = _overlap(geometry)
    out = np.zeros((slices.shape[0], height, width), dtype=slices.dtype)
    out[:, window[0], window[1]] = slices[:, source[0], source[1]]
    return out, window


def _overlap(geometry: Geometry) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The intersection of whole slice and crop, in the indices of the whole slice and of the crop."""
    whole, cut = [], []
    for start, size, full in zip(geometry.start, geometry.size, geometry.resized, strict=True):
        first, last = max(start, 0), max(min(start + size, full), max(start, 0))
        whole.append(slice(first, last))
        cut.append(slice(first - start, last - start))
    return (whole[0], whole[1]), (cut[0], cut[1])


def inside(geometry: Geometry) -> tuple[slice, slice]:
    """Rows and columns of a prepared slice that hold image rather than padding."""
    return _overlap(geometry)[1]


def region(geometry: Geometry) -> tuple[slice, slice]:
    """Rows and columns of a reoriented whole slice of the file that a prepared slice covers."""
    spans = []
    for axis, full in enumerate(geometry.turned_shape[1:]):
        factor = full / geometry.resized[axis]
        last = min(round((geometry.start[axis] + geometry.size[axis]) * factor), full)
        spans.append(slice(max(0, round(geometry.start[axis] * factor)), last))
    return spans[0], spans[1]


def _paste(part: Tensor, geometry: Geometry, background: float) -> Tensor:
    """Prepared slices ``[s, k, h, w]`` inside whole slices; outside, channel 0 is ``background``, the rest 0."""
    whole, cut = _overlap(geometry)
    out = part.new_zeros((*part.shape[:2], *geometry.resized))
    out[:, 0] = background
    out[:, :, whole[0], whole[1]] = part[:, :, cut[0], cut[1]]
    return out


def label_slices(labels: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.uint8]:
    """Class indices in a file's axes, resampled to the prepared grid ``[s, h, w]`` by nearest neighbour."""
    whole = turned(labels, geometry.turn, geometry.slice_axis)
    for axis, size in enumerate((geometry.depth, *geometry.resized)):
        if whole.shape[axis] != size:
            whole = whole.take(nearest(whole.shape[axis], size), axis)
    return crop(whole, geometry)[0]


def on_prepared(points: NDArray[np.float64], geometry: Geometry) -> NDArray[np.float64]:
    """Points ``[n, 3]`` of a file's array, whose voxel i covers [i, i + 1) on each axis, on the prepared grid.

    Returns:
        slice, row and column ``[n, 3]``, likewise; negative or beyond the size outside the crop.
    """
    turned_points = np.empty_like(points, dtype=np.float64)
    for axis, (to, flip) in enumerate(geometry.turn):
        turned_points[:, to] = (
            points[:, axis] if flip > 0 else geometry.shape[axis] - points[:, axis]
        )
    others = [axis for axis in range(3) if axis != geometry.slice_axis]
    ordered = turned_points[:, [geometry.slice_axis, *others]]
    sizes = np.array([geometry.depth, *geometry.resized]) / np.array(geometry.turned_shape)
    found: NDArray[np.float64] = ordered * sizes - np.array([0, *geometry.start])
    return found


def to_file_grid(planes: Iterable[Tensor], geometry: Geometry) -> NDArray[np.uint8]:
    """Class indices on the file's own grid and axes; background outside the crop.

    Without resampling, the class of the largest logit is taken. Otherwise probabilities are interpolated back,
    in-plane and between slices, before the argmax. All classes are held for a few planes only.

    Args:
        planes: logits ``[n, k, h, w]`` of the prepared slices in their order, any number at a time.

    Raises:
        DataError: more or fewer planes than prepared slices.
    """
    return to_file_maps(planes, geometry, entropy=False)[0]


def to_file_maps(
    planes: Iterable[Tensor], geometry: Geometry, *, entropy: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """:func:`to_file_grid` and, on request, the entropy of the same probabilities: 255 is log k; 0 outside the crop."""
    counted = _counted(planes, geometry.depth)
    if (geometry.depth, *geometry.resized) == geometry.turned_shape:
        found = _unchanged(counted, geometry, entropy)
    else:
        between = _between(_whole(counted, geometry), geometry)
        found = (_maps(p[None], p[None], entropy) for p in between)
    out = np.empty((1 + entropy, *geometry.turned_shape), dtype=np.uint8)
    first = 0
    for part in found:
        out[:, first : first + len(part)] = part.movedim(1, 0).cpu().numpy()
        first += len(part)
    labels = from_slices(out[0], geometry)
    return labels, from_slices(out[1], geometry) if entropy else None


def entropy_bytes(p: Tensor) -> Tensor:
    """Entropy ``[n, *s]`` of probabilities ``[n, k, *s]``, uint8; 255 is log k (all classes equally likely)."""
    share: Tensor = torch.special.entr(p).sum(1) * (255 / float(np.log(p.shape[1])))
    return share.round().clamp(0, 255).to(torch.uint8)


def _maps(values: Tensor, p: Tensor, entropy: bool) -> Tensor:
    """uint8 ``[n, 1 or 2, h, w]``: the argmax of ``values`` and, on request, the entropy of ``p``."""
    largest = most_likely(values).to(torch.uint8)
    return torch.stack([largest, entropy_bytes(p)] if entropy else [largest], 1)


def _counted(planes: Iterable[Tensor], depth: int) -> Iterator[Tensor]:
    count = 0
    for part in planes:
        count += len(part)
        if count <= depth:
            yield part
    if count != depth:
        raise DataError(f"there are logits of {count} slices", expected=f"{depth} prepared slices")


def _unchanged(planes: Iterable[Tensor], geometry: Geometry, entropy: bool) -> Iterator[Tensor]:
    """Maps ``[n, 1 or 2, rows, columns]`` of whole slices without resampling."""
    for part in planes:
        for plane in part.split(1) if entropy else (part,):
            p = plane.softmax(1) if entropy else plane
            yield _paste(_maps(plane, p, entropy), geometry, background=0)


def _whole(planes: Iterable[Tensor], geometry: Geometry) -> Iterator[Tensor]:
    """Probabilities ``[k, rows, columns]`` of each prepared slice on the file's pixels."""
    size = geometry.turned_shape[1:]
    for part in planes:
        for plane in part.split(1):
            whole = _paste(plane.float().softmax(1), geometry, background=1.0)
            if geometry.resized != size:
                whole = functional.interpolate(whole, size, mode="bilinear")
            yield whole[0]


def _between(planes: Iterator[Tensor], geometry: Geometry) -> Iterator[Tensor]:
    """The file's slices: linear interpolation between two prepared slices, the nearest one at the ends."""
    slices, depth = geometry.turned_shape[0], geometry.depth
    at = np.clip((np.arange(slices) + 0.5) * depth / slices - 0.5, 0, depth - 1)
    before, done = next(planes), 0
    for index, plane in enumerate(planes, 1):
        while done < slices and at[done] < index:
            share = float(at[done]) - (index - 1)
            yield before.lerp(plane, share) if share else before
            done += 1
        before = plane
    for _ in range(done, slices):
        yield before


def turned_up(plane: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """A slice ``[h, w]`` in the display orientation of :func:`upright`."""
    swap, backwards = upright(geometry)
    flipped = np.flip(plane, tuple(axis for axis in range(2) if backwards[axis]))
    return np.ascontiguousarray(flipped.T if swap else flipped)


def upright(geometry: Geometry) -> tuple[bool, list[bool]]:
    """Display orientation of a slice: head up (front up in axial slices), patient's right on the left
    (front on the left in sagittal slices).

    Returns:
        whether to transpose the slice, and whether to flip its rows and its columns before.
    """
    directions = io_orientation(np.asarray(geometry.affine))
    anatomy = {to: directions[axis] * (1, flip) for axis, (to, flip) in enumerate(geometry.turn)}
    row, column = (anatomy[axis] for axis in range(3) if axis != geometry.slice_axis)
    return bool(row[0] < column[0]), [bool(row[1] > 0), bool(column[1] > 0)]


def grey(image: NDArray[Any]) -> NDArray[np.uint8]:
    """An image in 8 bits, with the darkest and the brightest 1 % clipped."""
    low, high = np.percentile(image, (1, 99))
    scaled = np.clip((image.astype(np.float32) - low) / max(float(high - low), 1e-6), 0, 1)
    grey: NDArray[np.uint8] = (scaled * 255).astype(np.uint8)
    return grey
