"""Implicit shapes in millimetres, and their rendering to voxels with partial volume.

A shape is a signed distance (negative inside, approximate away from the surface) with its bounding
box. Organs are painted one over another. :func:`paint` divides the distance by its change across one
voxel, ``|df/di| + |df/dj| + |df/dk|``, which is the width over which a plane crosses the voxel. So a
thick slice blurs a slanted wall more than an upright one, like the slice profile of a scanner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline

Floats: TypeAlias = NDArray[np.float32]
Vector: TypeAlias = NDArray[np.float64]
Points: TypeAlias = tuple[Floats, Floats, Floats]
Box: TypeAlias = tuple[slice, slice, slice]

_EVERYWHERE = np.full(3, np.inf)


@dataclass(frozen=True)
class Shape:
    """``distance`` of points (mm, negative inside) and the bounding box ``low``..``high`` (mm)."""

    distance: Callable[[Points], Floats]
    low: Vector
    high: Vector


@dataclass(frozen=True)
class Organ:
    """A shape with its tissue and its raw label (0: unlabelled context)."""

    tissue: str
    shape: Shape
    label: int = 0


@dataclass(frozen=True)
class Grid:
    """Voxel centres of one scan: ``points`` are their positions in the subject (mm, body axes).

    ``to_index`` (3x4) maps a position to a voxel index, up to ``slack`` mm of deformation.
    """

    points: Points
    to_index: Vector
    slack: float

    def window(self, shape: Shape) -> Box | None:
        """The index ranges that hold ``shape`` and a margin of one voxel; None outside the field of view."""
        size = self.points[0].shape
        low, high = (
            np.clip(b, -1e4, 1e4) for b in (shape.low - self.slack, shape.high + self.slack)
        )
        corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij")).reshape(3, -1)
        index = self.to_index[:, :3] @ corners + self.to_index[:, 3:]
        start = np.clip(np.floor(index.min(1)) - 1, 0, size).astype(int)
        stop = np.clip(np.ceil(index.max(1)) + 2, 0, size).astype(int)
        if np.any(stop - start < 2):
            return None
        return (
            slice(start[0], stop[0]),
            slice(start[1], stop[1]),
            slice(start[2], stop[2]),
        )

    def centres(self, shape: Shape) -> Floats:
        """Centre of ``shape`` in each slice: voxel indices (slices, 2), nan where it does not cross."""
        found = np.full((self.points[0].shape[2], 2), np.nan, np.float32)
        box = self.window(shape)
        if box is None:
            return found
        x, y, z = (axis[box] for axis in self.points)
        for k, plane in enumerate(np.moveaxis(shape.distance((x, y, z)) < 0, 2, 0)):
            if plane.any():
                found[box[2].start + k] = [at.mean() for at in np.nonzero(plane)]
                found[box[2].start + k] += [box[0].start, box[1].start]
        return found


def ellipsoid(centre: ArrayLike, radii: ArrayLike, axes: ArrayLike | None = None) -> Shape:
    """An ellipsoid; ``axes`` are the rows of its frame; a radius of inf makes an elliptic cylinder."""
    c = np.asarray(centre, float)
    frame = np.eye(3) if axes is None else np.asarray(axes, float)
    inverse = 1.0 / np.asarray(radii, float)
    scaled = (frame * inverse[:, None]).astype(np.float32)

    def distance(p: Points) -> Floats:
        value = np.zeros((), np.float32)
        slope = np.full((), 1e-12, np.float32)
        offset = [axis - np.float32(mid) for axis, mid in zip(p, c, strict=True)]
        for row, weight in zip(scaled, inverse, strict=True):
            if weight == 0.0:
                continue
            square = sum(part * axis for part, axis in zip(row, offset, strict=True) if part) ** 2
            value = value + square
            slope = slope + square * np.float32(weight**2)
        return np.asarray((value - np.sqrt(value)) / np.sqrt(slope), np.float32)

    with np.errstate(invalid="ignore"):
        spread = np.nan_to_num(np.abs(frame.T) * np.asarray(radii, float), posinf=np.inf).sum(1)
    return Shape(distance, c - spread, c + spread)


def tube(points: ArrayLike, radii: ArrayLike, pieces: int = 3) -> Shape:
    """A vessel along a smooth curve through ``points`` (n, 3) with ``radii`` at them and round ends."""
    knots = np.asarray(points, float)
    at = np.linspace(0, len(knots) - 1, pieces * (len(knots) - 1) + 1)
    order = np.arange(len(knots))
    curve = CubicSpline(order, knots, bc_type="natural")(at) if len(knots) > 2 else knots
    width = np.interp(at if len(knots) > 2 else order, order, np.broadcast_to(radii, len(knots)))

    def distance(p: Points) -> Floats:
        nearest = np.full((), np.inf, np.float32)
        for a, b, ra, rb in zip(curve[:-1], curve[1:], width[:-1], width[1:], strict=True):
            nearest = np.minimum(nearest, _segment(p, a, b, ra, rb))
        return np.asarray(nearest, np.float32)

    reach = float(width.max())
    return Shape(distance, curve.min(0) - reach, curve.max(0) + reach)


def _segment(p: Points, a: Vector, b: Vector, ra: float, rb: float) -> Floats:
    along = (b - a).astype(np.float32)
    x, y, z = (axis - np.float32(start) for axis, start in zip(p, a, strict=True))
    t = (x * along[0] + y * along[1] + z * along[2]) / np.float32(along @ along)
    t = np.clip(t, 0, 1)
    gap = (x - t * along[0]) ** 2 + (y - t * along[1]) ** 2 + (z - t * along[2]) ** 2
    return np.asarray(np.sqrt(gap) - np.float32(ra) - t * np.float32(rb - ra), np.float32)


def half_space(point: ArrayLike, normal: ArrayLike) -> Shape:
    """The half space behind the plane through ``point`` whose unit ``normal`` points outwards."""
    n = np.asarray(normal, np.float32)
    offset = np.float32(np.asarray(point, float) @ n)
    return Shape(
        lambda p: np.asarray(p[0] * n[0] + p[1] * n[1] + p[2] * n[2] - offset, np.float32),
        -_EVERYWHERE,
        _EVERYWHERE,
    )


def union(*shapes: Shape) -> Shape:
    """The union of the shapes."""
    return Shape(
        lambda p: np.minimum.reduce([s.distance(p) for s in shapes]),
        np.min([s.low for s in shapes], 0),
        np.max([s.high for s in shapes], 0),
    )


def within(*shapes: Shape) -> Shape:
    """The intersection of the shapes."""
    return Shape(
        lambda p: np.maximum.reduce([s.distance(p) for s in shapes]),
        np.max([s.low for s in shapes], 0),
        np.min([s.high for s in shapes], 0),
    )


def cut(shape: Shape, *away: Shape) -> Shape:
    """``shape`` minus the others."""
    return Shape(
        lambda p: np.maximum.reduce([shape.distance(p), *(-a.distance(p) for a in away)]),
        shape.low,
        shape.high,
    )


def grown(shape: Shape, by: float) -> Shape:
    """``shape`` enlarged by ``by`` mm on all sides; painted before the shape itself, it is a wall."""
    return Shape(lambda p: shape.distance(p) - np.float32(by), shape.low - by, shape.high + by)


def paint(
    grid: Grid, organs: Sequence[Organ], values: Mapping[str, float], outside: float
) -> tuple[Floats, NDArray[np.int16]]:
    """Signal with partial volume, and labels of the voxel centres; later organs cover earlier ones."""
    signal = np.full(grid.points[0].shape, outside, np.float32)
    label = np.zeros(signal.shape, np.int16)
    for organ in organs:
        box = grid.window(organ.shape)
        if box is None:
            continue
        x, y, z = (axis[box] for axis in grid.points)
        distance = organ.shape.distance((x, y, z))
        change = sum(np.abs(slope) for slope in np.gradient(distance))
        cover = np.clip(0.5 - distance / np.maximum(change, np.float32(1e-3)), 0, 1)
        signal[box] += cover * (np.float32(values[organ.tissue]) - signal[box])
        label[box][distance < 0] = organ.label
    return signal, label
