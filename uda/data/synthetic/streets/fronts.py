"""Sky, houses, tree rows, walls and fences: the large surfaces, with textures in metres."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import cv2
import numpy as np
from numpy.random import Generator

from uda.data.synthetic.streets.canvas import Floats, phase
from uda.data.synthetic.streets.labels import LABEL_ID
from uda.data.synthetic.streets.looks import Studio, Style
from uda.data.synthetic.streets.scene import Block, Kind, Scene, Side

Surface: TypeAlias = Callable[[Floats, Floats, Floats], Floats]
"""(along [1, c] and up [r, c] in metres, sharpness of columns [1, c]) -> colour [r, c, 3]."""

_LABEL = {"trees": "vegetation", "hedge": "vegetation"}
_DEPTH = 12.0
_BACK = 14.0


def paint_sky(studio: Studio) -> None:
    """A gradient down to the horizon, and clouds."""
    camera, style, rng = studio.canvas.camera, studio.style, studio.rng
    overcast = studio.canvas.light.overcast
    high = style.tint("overcast" if overcast else "sky", rng, 0.03)
    low = style.tint("horizon", rng, 0.03)
    rows = int(min(camera.horizon + 2, camera.rows))
    share = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None]
    noise = rng.standard_normal((5, 7)).astype(np.float32)
    cover = cv2.resize(noise, (camera.cols, rows), interpolation=cv2.INTER_CUBIC)
    cover = np.clip(cover * 0.8 - (0.2 if overcast else 0.4), 0, 0.8)[..., None]
    sky = high + (low - high) * share
    cloud = style.tint("cloud", rng, 0.03)
    studio.canvas.albedo[:rows] = np.clip(sky + (cloud - sky) * cover, 0, 1)


def paint_fronts(studio: Studio, scene: Scene) -> None:
    """The far end, what shows through gaps, the front lines, and the borders before them."""
    canvas = studio.canvas
    reach = 3 * scene.end.z[0]
    cols, along = canvas.across((-reach, reach), scene.end.z[0])
    _fill(studio, scene.end, cols, np.full_like(along, scene.end.z[0]), along, canvas.light.front)
    for side in scene.sides:
        light = canvas.light.right if side.sign < 0 else canvas.light.left
        kind: Kind = "trees" if studio.rng.random() < 0.6 else "building"
        back = Block(kind, (4.0, 400.0), studio.rng.uniform(4, 9))
        _row(studio, back, side.sign * (side.front + _BACK), light)
        nearer = (None, *side.blocks)
        for block, before in zip(reversed(side.blocks), reversed(nearer[:-1]), strict=True):
            if before is None or before.z[1] < block.z[0] or before.height < block.height:
                _end(studio, block, side)
            _row(studio, block, side.sign * side.front, light)
        for block in reversed(side.border):
            _row(studio, block, side.sign * (side.front - 0.3), light)


def _row(studio: Studio, block: Block, x: float, light: float) -> None:
    """A block along the street."""
    cols, depth = studio.canvas.along(x, block.z)
    _fill(studio, block, cols, depth, depth, light)


def _end(studio: Studio, block: Block, side: Side) -> None:
    """The end of a block that faces the camera."""
    if block.z[0] < 2:
        return
    ends = sorted((side.sign * side.front, side.sign * (side.front + _DEPTH)))
    cols, along = studio.canvas.across((ends[0], ends[1]), block.z[0])
    depth = np.full_like(along, block.z[0])
    _fill(studio, block, cols, depth, along, studio.canvas.light.front)


def _fill(
    studio: Studio, block: Block, cols: slice, depth: Floats, along: Floats, light: float
) -> None:
    if cols.stop <= cols.start:
        return
    # Both faces of a block draw the same numbers, so that a house has one colour.
    rng = np.random.default_rng([int(block.z[0] * 1e6), int(block.height * 1e6)])
    make = {"building": _house, "wall": _wall, "fence": _fence, "guard rail": _rail}
    texture, top = make.get(block.kind, _leaves)(studio.style, block, along, rng)
    step = np.abs(np.diff(along, append=2 * along[-1:] - along[-2:-1]) if along.size > 1 else along)
    sharp = np.clip(0.8 / np.maximum(step, 1e-3) - 0.4, 0, 1)[None].astype(np.float32)

    def lit(a: Floats, up: Floats) -> Floats:
        return np.asarray(texture(a, up, sharp) * np.float32(light), np.float32)

    label = LABEL_ID[_LABEL.get(block.kind, block.kind)]
    studio.canvas.upright(cols, depth, along, top, label, lit)


def _house(style: Style, block: Block, along: Floats, rng: Generator) -> tuple[Surface, Floats]:
    """Storeys of windows in frames, shop windows below, a strip of roof above."""
    wall, glass, roof = (style.tint(n, rng) for n in ("facade", "glass", "roof"))
    frame = np.clip(wall * 1.3, 0, 1)
    bay, storey = rng.uniform(2.2, 3.6), rng.uniform(2.8, 3.5)
    wide, tall = rng.uniform(0.35, 0.65), rng.uniform(0.42, 0.6)
    shop, eaves = rng.random() < 0.4, block.height - rng.uniform(0.4, 1.6)

    storeys = np.floor(eaves / storey)
    change = np.stack([glass - wall, frame - wall, roof - wall])
    blurred = np.float32(wide * tall)

    def surface(a: Floats, up: Floats, sharp: Floats) -> Floats:
        level = up / np.float32(storey)
        street = (level < 1) & shop
        x, y = np.abs(phase(a, bay) - 0.5), np.abs(phase(up, storey) - np.float32(0.52))
        within = np.where(street, x < 0.42, x < wide / 2) & (y < np.where(street, 0.36, tall / 2))
        around = (x < wide / 2 + 0.05) & (y < tall / 2 + 0.04) & ~street
        whole = level < storeys
        pane = (within * sharp + blurred * (1 - sharp)) * whole
        edge = (around & ~within & whole) * sharp
        shares = np.stack([pane, edge, up > eaves], -1).astype(np.float32)
        return np.asarray(wall + shares @ change, np.float32)

    return surface, np.full_like(along, block.height)


def _leaves(style: Style, block: Block, along: Floats, rng: Generator) -> tuple[Surface, Floats]:
    """Foliage with a ragged top, in clumps, dark near the ground."""
    leaf = style.tint("leaf", rng)
    rough = 0.12 if block.kind == "hedge" else 0.4
    waves = rng.uniform(0.5, 4.0, 6) / np.sqrt(block.height), rng.uniform(0, 6.3, 6)
    bumps = sum(np.sin(along * w + p) for w, p in zip(*waves, strict=True)) / 6
    shift = rng.uniform(0, 6.3, 4)

    def surface(a: Floats, up: Floats, sharp: Floats) -> Floats:
        clump = np.sin(a * 1.9 + shift[0] + np.sin(up * 2.3 + shift[1]) * 1.5)
        clump = clump * np.sin(up * 2.1 + shift[2] + np.sin(a * 1.3 + shift[3]) * 1.5)
        light = 0.75 + 0.3 * np.clip(up / block.height, 0, 1) + 0.15 * clump * sharp
        return np.asarray(leaf * light[..., None], np.float32)

    return surface, np.asarray(block.height * (1 + rough * bumps), np.float32)


def _wall(style: Style, block: Block, along: Floats, rng: Generator) -> tuple[Surface, Floats]:
    """Courses of blocks under a coping."""
    stone = style.tint("wall", rng)

    def surface(a: Floats, up: Floats, sharp: Floats) -> Floats:
        shifted = a + np.where(phase(up, 0.7) < 0.5, np.float32(0.4), np.float32(0))
        joint = ((phase(up, 0.35) < 0.17) | (phase(shifted, 0.8) < 0.09)) * sharp
        coping = np.where(up > block.height - 0.15, 1.15, 1.0)
        return np.asarray(stone * ((1 - 0.22 * joint) * coping)[..., None], np.float32)

    return surface, np.full_like(along, block.height)


def _fence(style: Style, block: Block, along: Floats, rng: Generator) -> tuple[Surface, Floats]:
    """Posts, rails and pickets; what grows behind shows in between."""
    bar, behind = (style.tint(name, rng) for name in ("fence", "leaf"))
    behind = 0.6 * behind

    def surface(a: Floats, up: Floats, sharp: Floats) -> Floats:
        picket = (phase(a, 0.3) < 0.47) * sharp + 0.5 * (1 - sharp)
        solid = (np.abs(up / block.height - 0.5) > 0.38) | (phase(a, 2.4) < 0.08)
        share = np.maximum(picket, solid)[..., None]
        return np.asarray(behind + (bar - behind) * share, np.float32)

    return surface, np.full_like(along, block.height)


def _rail(style: Style, block: Block, along: Floats, rng: Generator) -> tuple[Surface, Floats]:
    """A crash barrier: a ribbed band over a dark gap."""
    steel = style.tint("rail", rng)

    def surface(a: Floats, up: Floats, sharp: Floats) -> Floats:
        band = up / block.height
        light = np.where(band > 0.45, 0.85 + 0.2 * np.cos(band * 20), 0.45)
        return np.asarray(steel * light[..., None], np.float32)

    return surface, np.full_like(along, block.height)
