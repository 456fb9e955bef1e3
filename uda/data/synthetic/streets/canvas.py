"""A pinhole camera above a straight road, and a canvas that remembers what each pixel shows.

Places are in metres: ``x`` to the right of the road's axis, ``y`` above the ground, ``z`` ahead of
the camera along the axis. Large upright surfaces (house fronts, walls, hedges) are cast ray by ray,
which gives their texture the right perspective; small things are polygons, painted over in the
order of the calls. A polygon writes only the number of its part into the picture; colour, label and
depth of the parts are looked up once at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Color: TypeAlias = tuple[float, float, float]
Texture: TypeAlias = Callable[[Floats, Floats], Floats]
"""(along [1, c], up [r, c], both in metres) -> colour factors or colours [r, c, 3]."""

NEAR = 1.0
"""Nothing closer to the camera than this (m) is drawn."""

_SUBPIXEL = 4
_CIRCLE = np.linspace(0, 2 * np.pi, 13)[:-1]
RING = np.stack([np.cos(_CIRCLE), np.sin(_CIRCLE)], 1)
"""Twelve corners of a circle, [12, 2]."""
_CORNERS = RING.tolist()


class Light(NamedTuple):
    """Brightness of surfaces that face the camera, the left, the right and the sky."""

    front: float
    left: float
    right: float
    top: float

    @property
    def overcast(self) -> bool:
        """No sun: the two sides of the street are alike."""
        return abs(self.left - self.right) < 0.1


class Paint(NamedTuple):
    """What a surface is: its label id and its colour (0..1)."""

    label: int
    color: Color

    def times(self, gain: float) -> Paint:
        """The same surface, brighter or darker."""
        red, green, blue = (min(1.0, gain * channel) for channel in self.color)
        return Paint(self.label, (red, green, blue))


@dataclass(frozen=True)
class Camera:
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

    @property
    def vanish(self) -> float:
        """Column of the road's vanishing point."""
        return self.centre + self.focal * self.heading

    def column(self, x: float, z: float) -> float:
        """Column of a place."""
        return self.vanish + self.focal * (x - self.offset) / z

    def row(self, y: float, z: float) -> float:
        """Row of a place."""
        return self.horizon + self.focal * (self.height - y) / z


def phase(values: Floats, period: float) -> Floats:
    """Where values lie in a pattern that repeats, 0..1; much faster than ``%``."""
    turns = values * np.float32(1 / period)
    return np.asarray(turns - np.floor(turns), np.float32)


@dataclass
class Canvas:
    """Colour, label id and depth of each pixel, and the polygons that lie over them."""

    camera: Camera
    light: Light
    albedo: Floats
    ids: NDArray[np.uint8]
    depth: Floats
    shadow: Floats
    _parts: NDArray[np.int32]
    _looks: list[tuple[float, ...]] = field(default_factory=lambda: [(0.0,) * 5])

    @classmethod
    def blank(cls, camera: Camera, light: Light) -> Canvas:
        """All sky, infinitely far (1e6 m)."""
        shape = (camera.rows, camera.cols)
        return cls(
            camera,
            light,
            albedo=np.zeros((*shape, 3), np.float32),
            ids=np.full(shape, 23, np.uint8),
            depth=np.full(shape, 1e6, np.float32),
            shadow=np.ones(shape, np.float32),
            _parts=np.zeros(shape, np.int32),
        )

    def polygon(
        self, corners: Sequence[tuple[float, float, float]], paint: Paint, light: float = 1.0
    ) -> None:
        """Paint a flat shape given by its corners (x, y, z)."""
        nearest = min(z for _, _, z in corners)
        if nearest < NEAR:
            return
        camera = self.camera
        focal, vanish, offset = camera.focal, camera.vanish, camera.offset
        where = [
            (
                vanish + focal * (x - offset) / z,
                camera.horizon + focal * (camera.height - y) / z,
            )
            for x, y, z in corners
        ]
        self._paint(np.array(where), nearest, paint, light)

    def cutout(
        self, outline: NDArray[np.float64], z: float, paint: Paint, light: float = 1.0
    ) -> None:
        """Paint a shape that faces the camera; ``outline`` holds its corners (x, y), [n, 2]."""
        if z < NEAR:
            return
        camera = self.camera
        scale = camera.focal / z
        origin = (camera.vanish - scale * camera.offset, camera.horizon + scale * camera.height)
        self._paint(outline * (scale, -scale) + origin, z, paint, light)

    def _paint(self, where: NDArray[np.float64], depth: float, paint: Paint, light: float) -> None:
        """Number the pixels inside (column, row) corners as a new part."""
        red, green, blue = paint.color
        self._looks.append((red * light, green * light, blue * light, paint.label, depth))
        fixed = (where * 2**_SUBPIXEL).astype(np.int32)
        cv2.fillPoly(self._parts, [fixed], (len(self._looks) - 1,), shift=_SUBPIXEL)

    def ground_shadow(self, x: tuple[float, float], z: tuple[float, float], light: float) -> None:
        """Darken a rectangle of the ground; whatever stands there is painted over it."""
        camera = self.camera
        ends = [(x[0], z[0]), (x[1], z[0]), (x[1], z[1]), (x[0], z[1])]
        if min(z) < NEAR:
            return
        where = np.array([(camera.column(a, b), camera.row(0.0, b)) for a, b in ends])
        cv2.fillPoly(self.shadow, [np.rint(where).astype(np.int32)], (light,))

    def along(self, x: float, z: tuple[float, float]) -> tuple[slice, Floats]:
        """Columns that an upright plane beside the road (at ``x``) fills, and their depths."""
        camera = self.camera
        ends = sorted(camera.column(x, max(d, NEAR)) for d in z)
        cols = self._columns(*ends)
        u = np.arange(cols.start, cols.stop, dtype=np.float32)
        return cols, np.float32(camera.focal * (x - camera.offset)) / (u - camera.vanish)

    def across(self, x: tuple[float, float], z: float) -> tuple[slice, Floats]:
        """Columns that an upright plane across the road (at ``z``) fills, and their places."""
        camera = self.camera
        cols = self._columns(*sorted(camera.column(a, z) for a in x))
        u = np.arange(cols.start, cols.stop, dtype=np.float32)
        return cols, (u - camera.vanish) * np.float32(z / camera.focal) + np.float32(camera.offset)

    def _columns(self, low: float, high: float) -> slice:
        first, last = (int(np.clip(np.ceil(u), 0, self.camera.cols)) for u in (low, high))
        return slice(first, max(first, last))

    def upright(
        self,
        cols: slice,
        depth: Floats,
        along: Floats,
        top: Floats,
        label: int,
        texture: Texture,
    ) -> None:
        """Fill upright columns from the ground to ``top`` (m), all arrays [c], with a texture."""
        if cols.stop <= cols.start:
            return
        camera = self.camera
        highest = camera.horizon + camera.focal * ((camera.height - top) / depth).min()
        lowest = camera.horizon + camera.focal * (camera.height / depth).max()
        first = int(np.clip(np.floor(highest), 0, camera.rows))
        last = int(np.clip(np.ceil(lowest) + 1, 0, camera.rows))
        rows = slice(first, max(first, last))
        v = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
        up = np.float32(camera.height) + (np.float32(camera.horizon) - v) * (depth / camera.focal)
        inside = (up >= 0) & (up < top)
        colors = np.broadcast_to(texture(along[None], up), (*up.shape, 3))
        np.copyto(self.albedo[rows, cols], colors, where=inside[..., None])
        np.copyto(self.ids[rows, cols], np.uint8(label), where=inside)
        np.copyto(self.depth[rows, cols], np.broadcast_to(depth, up.shape), where=inside)

    def flatten(self) -> None:
        """Lay the polygons into colour, label and depth; ground outside them keeps its shadow."""
        ground = (self.ids >= 6) & (self.ids <= 9) | (self.ids == 22)
        self.albedo *= np.where(ground, self.shadow, np.float32(1))[..., None]
        looks = np.array(self._looks, np.float32)
        hit = self._parts > 0
        shown = looks[self._parts[hit]]
        self.albedo[hit] = shown[:, :3]
        self.ids[hit] = shown[:, 3].astype(np.uint8)
        self.depth[hit] = shown[:, 4]


def box(
    canvas: Canvas,
    x: tuple[float, float],
    y: tuple[float, float],
    z: tuple[float, float],
    paint: Paint,
) -> None:
    """The faces of a block that the camera sees: top, the side towards it, the near end."""
    light = canvas.light
    if y[1] < canvas.camera.height:
        corners = [(x[0], y[1], z[0]), (x[1], y[1], z[0]), (x[1], y[1], z[1]), (x[0], y[1], z[1])]
        canvas.polygon(corners, paint, light.top)
    face = flank(canvas, x)
    if face is not None:
        side(canvas, x[0] if face == "left" else x[1], y, z, paint, getattr(light, face))
    front(canvas, x, y, z[0], paint, light.front)


def flank(canvas: Canvas, x: tuple[float, float]) -> Literal["left", "right"] | None:
    """Which flank of a block between ``x[0]`` and ``x[1]`` the camera sees."""
    if x[0] > canvas.camera.offset:
        return "left"
    return "right" if x[1] < canvas.camera.offset else None


def front(
    canvas: Canvas,
    x: tuple[float, float],
    y: tuple[float, float],
    z: float,
    paint: Paint,
    light: float,
) -> None:
    """An upright rectangle across the road."""
    corners = [(x[0], y[0], z), (x[1], y[0], z), (x[1], y[1], z), (x[0], y[1], z)]
    canvas.polygon(corners, paint, light)


def side(
    canvas: Canvas,
    x: float,
    y: tuple[float, float],
    z: tuple[float, float],
    paint: Paint,
    light: float,
) -> None:
    """An upright rectangle along the road."""
    corners = [(x, y[0], z[0]), (x, y[0], z[1]), (x, y[1], z[1]), (x, y[1], z[0])]
    canvas.polygon(corners, paint, light)


def disc(
    canvas: Canvas,
    centre: tuple[float, float, float],
    radius: tuple[float, float],
    paint: Paint,
    light: float,
    *,
    along: bool = False,
) -> None:
    """An upright ellipse with half-axes (level, up), across the road or along it (a wheel)."""
    x, y, z = centre
    if along:
        corners = [(x, y + radius[1] * b, z + radius[0] * a) for a, b in _CORNERS]
        canvas.polygon(corners, paint, light)
    else:
        canvas.cutout(RING * radius + (x, y), z, paint, light)
