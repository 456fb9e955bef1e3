"""The ground: road with marks, bays, sidewalks and grass, each pixel cast onto the plane."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from uda.data.synthetic.streets.canvas import Canvas, Floats, Paint, phase
from uda.data.synthetic.streets.labels import LABEL_ID
from uda.data.synthetic.streets.looks import CAMERA, GAME, Studio
from uda.data.synthetic.streets.scene import Scene, Side

_BAY, _LANE = 2.2, 3.3
_TILE = 64


def paint_ground(studio: Studio, scene: Scene) -> None:
    """Fill everything below the horizon."""
    canvas, camera = studio.canvas, studio.canvas.camera
    first = int(np.clip(np.ceil(camera.horizon + 0.5), 0, camera.rows))
    v = np.arange(first, camera.rows, dtype=np.float32)[:, None]
    u = np.arange(camera.cols, dtype=np.float32)
    z = np.float32(camera.focal * camera.height) / (v - np.float32(camera.horizon))
    x = np.float32(camera.offset) + (u - np.float32(camera.vanish)) * (z / camera.focal)
    zone, labels, colors = _zones(studio, scene, x)
    if scene.crossing is not None:
        wide = (z > scene.crossing[0]) & (z < scene.crossing[1])
        zone = np.where(wide, len(labels) - 1, zone)
    ids, color = labels[zone], colors[zone]
    color = color * _surface(studio, ids, x, z)[..., None]
    mark = _marks(studio, scene, x, z) & (ids == LABEL_ID["road"])
    white = studio.style.tint("mark", studio.rng)
    color = np.where(mark[..., None], white, color)
    if studio.style is GAME:
        axis = (np.abs(np.abs(x) - 0.18) < 0.08) & (ids == LABEL_ID["road"])
        if scene.crossing is not None:
            axis &= ~((z > scene.crossing[0] - 4) & (z < scene.crossing[1] + 4))
        color = np.where(axis[..., None], studio.style.tint("axis", studio.rng), color)
    canvas.albedo[first:], canvas.ids[first:] = color, ids
    canvas.depth[first:] = np.broadcast_to(z, x.shape)
    _long_shadow(canvas, scene, x, first, studio.rng)


def _zones(
    studio: Studio, scene: Scene, x: Floats
) -> tuple[NDArray[np.intp], NDArray[np.uint8], Floats]:
    """Zone of each pixel, and label and colour of the zones; the last zone is the crossing."""
    road, parked = studio.coat("road", "road"), studio.coat("parking", "parking")
    walk, grass = studio.coat("sidewalk", "sidewalk"), studio.coat("terrain", "terrain")
    reserved = studio.rng.random() < studio.style.rates["parking"]

    def strips(side: Side) -> tuple[list[float], list[Paint]]:
        """Borders from the road outwards, and what lies beyond each."""
        inner = side.kerb - (_BAY if side.bay else 0.0)
        grass_width = side.front - side.kerb - side.walk
        first, second = (grass, walk) if side.grass_first else (walk, grass)
        width = grass_width if side.grass_first else side.walk
        bay = parked if reserved else road.times(0.95)
        edges = [inner, side.kerb, side.kerb + 0.18, side.kerb + 0.18 + width, side.front + 0.2]
        return edges, [bay, walk.times(0.75), first, second, grass]

    (left_edges, left), (right_edges, right) = (strips(side) for side in scene.sides)
    edges = np.array([-e for e in reversed(left_edges)] + right_edges, np.float32)
    looks = [*reversed(left), road, *right, road]
    labels = np.array([label for label, _ in looks], np.uint8)
    colors = np.array([color for _, color in looks], np.float32)
    return np.searchsorted(edges, x), labels, colors


def _marks(studio: Studio, scene: Scene, x: Floats, z: Floats) -> NDArray[np.bool_]:
    """Dashed lines between lanes, edge lines, and stop line and zebra before a crossing."""
    lane, half = np.abs(x), scene.lanes * _LANE
    dashed = phase(z + np.float32(studio.rng.uniform(0, 9)), 9.0) < 0.45
    between = np.zeros(x.shape, bool) if studio.style is GAME else lane < 0.08
    for k in range(1, scene.lanes):
        between |= np.abs(lane - k * _LANE) < 0.08
    mark = between & dashed | (np.abs(lane - half + 0.1) < 0.07)
    if scene.crossing is None:
        return mark
    start, stop = scene.crossing
    zebra = (z > start - 3.4) & (z < start - 0.6) & (phase(x, 1.0) < 0.5) & (lane < half)
    stop_line = (z > start - 5.0) & (z < start - 4.5) & (x > 0) & (x < half)
    return mark & ((z < start - 5) | (z > stop + 2)) | zebra | stop_line


def _surface(studio: Studio, ids: NDArray[np.uint8], x: Floats, z: Floats) -> Floats:
    """Brightness of the ground: grain fixed to the ground, wheel tracks, patches, paving."""
    rng, rough = studio.rng, studio.style is CAMERA
    tile = rng.standard_normal((_TILE, _TILE)).astype(np.float32)
    broad = cv2.resize(tile[:16, :16], (_TILE, _TILE), interpolation=cv2.INTER_CUBIC)
    ahead, aside = (z * 6).astype(np.int32), (x * 6).astype(np.int32)
    fine = tile[ahead // 2 & (_TILE - 1), aside & (_TILE - 1)]
    slow = broad[ahead // 3 & (_TILE - 1), aside * 2 // 3 & (_TILE - 1)]
    road, grass = ids == LABEL_ID["road"], ids == LABEL_ID["terrain"]
    grain = np.where(grass, 0.10 if rough else 0.05, 0.04 if rough else 0.02)
    light = 1 + grain * fine + (0.05 if rough else 0.03) * slow
    if rough:
        tracks = np.cos(x * np.float32(4 * np.pi / _LANE))
        patch = (np.sin(z * 0.31 + rng.uniform(0, 6)) > 0.8) & (
            phase(x, 7.0) < rng.uniform(0.1, 0.4)
        )
        light = light + np.where(road, 0.04 * tracks - 0.1 * patch, 0)
    joint = (
        ((phase(x, 0.9) < 0.11) | (phase(z, 0.9) < 0.11)) & (ids == LABEL_ID["sidewalk"]) & (z < 25)
    )
    return np.asarray(light - (0.1 if rough else 0.06) * joint, np.float32)


def _long_shadow(canvas: Canvas, scene: Scene, x: Floats, first: int, rng: Generator) -> None:
    """Houses keep the sun from the ground on the side it comes from."""
    light, reach = canvas.light, rng.uniform(1.5, 8.0)
    if light.overcast:
        return
    side = scene.sides[0] if light.left > light.right else scene.sides[1]
    shaded = x * side.sign > side.front - reach
    canvas.shadow[first:] = np.where(shaded, np.float32(0.55), canvas.shadow[first:])
