"""Cars, trucks, buses and trains, put together from blocks, rectangles and ellipses.

Each is drawn around the place ``x`` with its near end at the depth ``z``; sizes in metres are those
of the real things.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from uda.data.synthetic.streets.canvas import NEAR, Paint, box, disc, flank, front, side
from uda.data.synthetic.streets.labels import LABEL_ID
from uda.data.synthetic.streets.looks import Range, Studio

Vehicle: TypeAlias = Literal["car", "truck", "bus", "train"]

LENGTH: dict[Vehicle, float] = {"car": 4.3, "truck": 8.5, "bus": 11.5, "train": 26.0}
"""Metres from bumper to bumper."""

_WHITE, _RED, _AMBER = (0.95, 0.93, 0.82), (0.75, 0.1, 0.1), (0.95, 0.65, 0.15)


def vehicle(studio: Studio, kind: Vehicle, x: float, z: float, *, away: bool) -> None:
    """Draw a vehicle seen from behind (``away``) or from in front, and the shadow under it."""
    half = 0.9 if kind == "car" else 1.3
    ends = (max(z - 0.15, NEAR), z + LENGTH[kind] + 0.15)
    studio.canvas.ground_shadow((x - half - 0.15, x + half + 0.15), ends, 0.45)
    draw = {"car": _car, "truck": _truck, "bus": _bus, "train": _train}[kind]
    draw(studio, (x - half, x + half), z, away)


def _car(studio: Studio, x: Range, z: float, away: bool) -> None:
    canvas, light = studio.canvas, studio.canvas.light
    tall = studio.rng.uniform(1.4, 1.75)
    coat, pane = studio.coat("car", "body"), studio.coat("car", "pane")
    cabin = (z + 0.3, z + 3.0) if away else (z + 1.2, z + 4.0)
    box(canvas, x, (0.25, 0.88), (z, z + LENGTH["car"]), coat)
    if z < 45:
        _wheels(studio, "car", x, (z + 3.4, z + 0.8), 0.33)
    narrow = (x[0] + 0.12, x[1] - 0.12)
    box(canvas, narrow, (0.88, tall), cabin, coat)
    face = flank(canvas, narrow)
    if face is not None and z < 45:
        at = narrow[0] if face == "left" else narrow[1]
        for ends in ((cabin[0] + 0.15, cabin[0] + 1.25), (cabin[0] + 1.4, cabin[1] - 0.15)):
            side(canvas, at, (0.92, tall - 0.12), ends, pane, getattr(light, face))
    glass = (narrow[0] + 0.1, narrow[1] - 0.1)
    front(canvas, glass, (0.95, tall - 0.1), cabin[0], pane, 1.0)
    front(canvas, x, (0.25, 0.42), z, Paint(coat.label, (0.12, 0.12, 0.13)), 1.0)
    _lamps(studio, "car", x, (0.6, 0.76), z, away)


def _truck(studio: Studio, x: Range, z: float, away: bool) -> None:
    canvas, light = studio.canvas, studio.canvas.light
    cargo, cab = studio.coat("truck", "cargo"), studio.coat("truck", "body")
    tall = studio.rng.uniform(2.9, 3.7)
    far = z + LENGTH["truck"]
    cab_ends, cargo_ends = (
        ((far - 2, far), (z, far - 2.2)) if away else ((z, z + 2), (z + 2.2, far))
    )
    dark = Paint(LABEL_ID["truck"], (0.14, 0.14, 0.15))
    box(canvas, x, (0.5, 1.0), (z, far), dark)
    _wheels(studio, "truck", x, (far - 1.2, z + 2.4, z + 1.2), 0.48)
    blocks = [((0.6, 2.6), cab_ends, cab), ((1.0, tall), cargo_ends, cargo)]
    for y, ends, paint in blocks if away else reversed(blocks):
        box(canvas, x, y, ends, paint)
    if away:
        middle = (x[0] + x[1]) / 2
        front(canvas, (middle - 0.03, middle + 0.03), (1.1, tall - 0.1), z, dark, 1.0)
    else:
        pane = studio.coat("truck", "pane")
        front(canvas, (x[0] + 0.2, x[1] - 0.2), (1.6, 2.4), z, pane, 1.0)
        face = flank(canvas, x)
        if face is not None:
            at = x[0] if face == "left" else x[1]
            side(canvas, at, (1.6, 2.3), (z + 0.4, z + 1.5), pane, getattr(light, face))
    _lamps(studio, "truck", x, (0.65, 0.9), z, away)


def _bus(studio: Studio, x: Range, z: float, away: bool) -> None:
    coat = studio.coat("bus", "coach")
    far = z + LENGTH["bus"]
    box(studio.canvas, x, (0.35, 3.1), (z, far), coat)
    _wheels(studio, "bus", x, (far - 2.5, z + 2.6), 0.5)
    _window_band(studio, "bus", x, (1.45, 2.5), (z, far), 1.6)
    pane = studio.coat("bus", "pane")
    low = 1.7 if away else 1.1
    front(studio.canvas, (x[0] + 0.15, x[1] - 0.15), (low, 2.6), z, pane, 1.0)
    sign = Paint(coat.label, _AMBER)
    front(studio.canvas, (x[0] + 0.6, x[1] - 0.6), (2.7, 2.95), z, sign, 1.0)
    _lamps(studio, "bus", x, (0.6, 0.85), z, away)


def _train(studio: Studio, x: Range, z: float, away: bool) -> None:
    """A tram of two cars with a line along its flank and a collector on its roof."""
    canvas, coat = studio.canvas, studio.coat("train", "tram")
    half = LENGTH["train"] / 2
    stripe = Paint(coat.label, (0.86, 0.86, 0.84))
    dark = Paint(coat.label, (0.16, 0.16, 0.18))
    for near in (z + half + 0.2, z):
        ends = (near, near + half - 0.2)
        box(canvas, x, (0.15, 0.4), ends, dark)
        box(canvas, x, (0.4, 3.4), ends, coat)
        box(canvas, (x[0] + 0.6, x[1] - 0.6), (3.4, 3.7), (near + 2, near + 6), dark)
        _window_band(studio, "train", x, (1.5, 2.6), ends, 2.0)
        face = flank(canvas, x)
        if face is not None:
            at = x[0] if face == "left" else x[1]
            side(canvas, at, (1.1, 1.35), ends, stripe, getattr(canvas.light, face))
    pane = studio.coat("train", "pane")
    front(canvas, (x[0] + 0.2, x[1] - 0.2), (1.5, 2.8), z, pane, 1.0)
    front(canvas, x, (1.1, 1.35), z, stripe, canvas.light.front)
    _lamps(studio, "train", x, (0.75, 1.0), z, away)


def _window_band(studio: Studio, label: str, x: Range, y: Range, z: Range, pitch: float) -> None:
    """A row of windows on the flank that the camera sees."""
    face = flank(studio.canvas, x)
    if face is None:
        return
    at = x[0] if face == "left" else x[1]
    pane, light = studio.coat(label, "pane"), getattr(studio.canvas.light, face)
    for k in range(int((z[1] - z[0] - 0.4) / pitch)):
        start = z[0] + 0.4 + k * pitch
        side(studio.canvas, at, y, (start, start + pitch - 0.25), pane, light)


def _wheels(studio: Studio, label: str, x: Range, z: tuple[float, ...], radius: float) -> None:
    """Wheels on the flank that the camera sees."""
    face = flank(studio.canvas, x)
    if face is None:
        return
    tyre, at = studio.coat(label, "tyre"), x[0] if face == "left" else x[1]
    for d in z:
        disc(studio.canvas, (at, radius, d), (radius, radius), tyre, 1.0, along=True)


def _lamps(studio: Studio, label: str, x: Range, y: Range, z: float, away: bool) -> None:
    """Two lamps: red behind, white in front."""
    lamp = Paint(LABEL_ID[label], _RED if away else _WHITE)
    for start in (x[0] + 0.08, x[1] - 0.38):
        front(studio.canvas, (start, start + 0.3), y, z, lamp, 1.0)
