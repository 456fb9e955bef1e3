"""A pinhole camera above a straight road, and flat faces painted from far to near.

Places are in metres: ``x`` to the right of the road's axis, ``y`` above the ground, ``z`` ahead of
the camera. Every face lies in a plane across the road (one ``z``), along it (one ``x``) or level
(one ``y``), so the place of a pixel on its face follows from the pixel alone: the faces write their
numbers into the picture, and all textures are computed in one pass after that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from uda.data.synthetic.streets.labels import LABEL_ID

Floats: TypeAlias = NDArray[np.float32]
Color: TypeAlias = tuple[float, float, float]
Range: TypeAlias = tuple[float, float]
Stripes: TypeAlias = tuple[float, float, float]
"""Period, start and stop of a stripe (m), counted from the face's first corner."""

NEAR = 0.5
"""Faces are cut where they come closer to the camera than this (m)."""
_FAR = 1e4
_ACROSS, _ALONG, _LEVEL = range(3)
_SUBPIXEL = 4
_ALL: Stripes = (1.0, 0.0, 1.0)


class Light(NamedTuple):
    """Brightness of faces that look at the camera, to the left, to the right and up."""

    front: float
    left: float
    right: float
    top: float

    @property
    def overcast(self) -> bool:
        """No sun: both sides of the street are alike."""
        return self.left == self.right


class Paint(NamedTuple):
    """Label id and colour (0..1), and a second colour where stripes in both directions cross."""

    label: int
    color: Color
    second: Color = (0.0, 0.0, 0.0)
    stripes: tuple[Stripes, Stripes] = ((1.0, 0.0, 0.0), _ALL)

    def over(self, second: Color, first: Stripes, other: Stripes = _ALL) -> Paint:
        """With a pattern: windows, slabs, pickets, marks of a road."""
        return self._replace(second=second, stripes=(first, other))


class Camera(NamedTuple):
    """Focal length, horizon and centre in pixels; height above and offset from the axis in metres.

    ``heading``: metres the axis moves to the right per metre ahead (the camera looks aside).
    """

    rows: int
    cols: int
    focal: float
    horizon: float
    centre: float
    height: float
    offset: float
    heading: float

    def column(self, x: Any, z: Any) -> Any:
        """Column of places."""
        return self.centre + self.focal * (self.heading + (x - self.offset) / z)

    def row(self, y: Any, z: Any) -> Any:
        """Row of places."""
        return self.horizon + self.focal * (self.height - y) / z


class Canvas:
    """Faces before a camera; new ones are painted at the depth ``order``, later ones over earlier."""

    def __init__(self, camera: Camera, light: Light) -> None:
        self.camera, self.light, self.order = camera, light, _FAR
        self._faces: list[tuple[float, int, int]] = []
        self._corners: list[tuple[float, float, float]] = []
        self._looks: list[tuple[float, ...]] = [(LABEL_ID["sky"], _ACROSS, _FAR, *(1.0,) * 13)]
        self._shadows: list[tuple[int, int]] = []

    def across(
        self,
        outline: Sequence[Range] | NDArray[np.float64],
        z: float,
        paint: Paint,
        light: float = 0,
    ) -> None:
        """A polygon across the road with corners (x, y)."""
        if z >= NEAR:
            corners = [(x, y, z) for x, y in outline]
            self._add(corners, paint, light or self.light.front, _ACROSS, z)

    def along(
        self, x: float, z: Sequence[float], top: Sequence[float], paint: Paint, low: float = 0
    ) -> None:
        """An upright face along the road from ``low`` up to the heights ``top`` at the depths ``z``."""
        z = [max(depth, NEAR) for depth in z]
        edge = [(x, y, depth) for y, depth in zip(top, z, strict=True)]
        light = self.light.left if x > self.camera.offset else self.light.right
        self._add([(x, low, z[0]), (x, low, z[-1]), *edge[::-1]], paint, light, _ALONG, x)

    def level(self, x: Range, z: Range, paint: Paint, y: float = 0) -> None:
        """A level rectangle."""
        self._add(_flat(x, z, y), paint, self.light.top, _LEVEL, y)

    def box(self, x: Range, y: Range, z: Range, paint: Paint, light: float = 0) -> None:
        """The faces of a block that the camera sees; the flank alone has the pattern."""
        plain = Paint(paint.label, paint.color)
        if z[1] > z[0]:
            if y[1] < self.camera.height:
                self.level(x, z, plain, y[1])
            flank = self.flank(x)
            if flank is not None:
                self.along(flank, z, (y[1], y[1]), paint, y[0])
        self.across([(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])], z[0], plain, light)

    def flank(self, x: Range) -> float | None:
        """Which flank of a block between ``x[0]`` and ``x[1]`` the camera sees."""
        if x[0] > self.camera.offset:
            return x[0]
        return x[1] if x[1] < self.camera.offset else None

    def shadow(self, x: Range, z: Range) -> None:
        """Darken a rectangle of the ground."""
        self._corners += _flat(x, z, 0)
        self._shadows.append((len(self._corners) - 4, len(self._corners)))

    def _add(
        self,
        corners: list[tuple[float, float, float]],
        paint: Paint,
        light: float,
        plane: int,
        place: float,
    ) -> None:
        x, y, z = corners[0]
        origins = (z if plane == _ALONG else x, z if plane == _LEVEL else y)
        stripes = [
            value
            for origin, (period, start, stop) in zip(origins, paint.stripes, strict=True)
            for value in (1 / period, (origin + start) / period, (stop - start) / period)
        ]
        start = len(self._corners)
        self._corners += corners
        self._faces.append((-self.order, start, len(self._corners)))
        self._looks.append(
            (paint.label, plane, place, light, *paint.color, *paint.second, *stripes)
        )

    def paint(self, sky: Floats) -> tuple[Floats, NDArray[np.uint8], Floats]:
        """Colour [h, w, 3], label id and depth (m, [h, w]) of each pixel, before the sky [h, w, 3].

        The first face is the ground: it fills everything below the horizon.
        """
        camera, (x, y, z) = self.camera, np.array(self._corners).T
        where = np.stack([camera.column(x, z), camera.row(y, z)], 1)
        pixels = np.rint(where * 2**_SUBPIXEL).astype(np.int32)
        parts = np.zeros((camera.rows, camera.cols), np.int32)
        parts[max(0, int(np.ceil(camera.horizon + 0.5))) :] = 1
        for k in sorted(range(1, len(self._faces)), key=self._faces.__getitem__):
            _, start, stop = self._faces[k]
            cv2.fillPoly(parts, [pixels[start:stop]], (k + 1,), shift=_SUBPIXEL)
        shade = np.ones(parts.shape, np.float32)
        for start, stop in self._shadows:
            cv2.fillPoly(shade, [pixels[start:stop]], (0.5,), shift=_SUBPIXEL)
        looks = np.array(self._looks, np.float32).T[:, parts]
        color, depth = _shaded(camera, looks)
        color = color * np.where((looks[1] == _LEVEL) & (looks[2] == 0), shade, 1)
        image = np.where(parts[..., None] > 0, np.moveaxis(color, 0, -1), sky)
        return image.astype(np.float32), looks[0].astype(np.uint8), depth


def _flat(x: Range, z: Range, y: float) -> list[tuple[float, float, float]]:
    near, far = max(z[0], NEAR), max(z[1], NEAR)
    return [(x[0], y, near), (x[1], y, near), (x[1], y, far), (x[0], y, far)]


def _shaded(camera: Camera, looks: Floats) -> tuple[Floats, Floats]:
    """Colour [3, h, w] and depth [h, w] of each pixel from the look of its face [16, h, w]."""
    along, level, place = looks[1] == _ALONG, looks[1] == _LEVEL, looks[2]
    u = (np.arange(camera.cols) - camera.column(camera.offset, 1.0)).astype(np.float32)
    v = (np.arange(camera.rows)[:, None] - camera.horizon).astype(np.float32)
    aside, below = place - camera.offset, camera.height - place
    ray = np.where(along, u, v)
    reach = np.where(along, aside, below) * camera.focal / np.where(abs(ray) < 1e-3, 1e-3, ray)
    z = np.clip(np.where(along | level, reach, place), NEAR, _FAR).astype(np.float32)
    size = z / np.float32(camera.focal)
    first, second = np.where(along, z, camera.offset + u * size), camera.height - v * size
    share = _striped(first, np.where(along, size * z / np.abs(aside), size), looks[10:13])
    wide = np.where(level, size * z / np.abs(below), size)
    share *= _striped(np.where(level, z, second), wide, looks[13:])
    base, other = looks[4:7], looks[7:10]
    return np.asarray((base + (other - base) * share) * looks[3], np.float32), z


def _striped(place: Floats, width: Floats, stripes: Floats) -> Floats:
    """Share of each pixel that stripes cover, exact for a pixel of any width on the face."""
    density, start, duty = stripes
    middle, half = place * density - start, np.maximum(width * density, 1e-3) / 2

    def covered(end: Floats) -> Floats:
        whole = np.floor(end)
        return np.asarray(whole * duty + np.minimum(end - whole, duty))

    return np.asarray((covered(middle + half) - covered(middle - half)) / (2 * half), np.float32)
