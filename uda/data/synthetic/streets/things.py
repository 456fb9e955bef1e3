"""What stands and walks in a street: trees, poles, lights, signs, people, bicycles, bins.

Each is drawn around the place ``x`` at the depth ``z``; sizes in metres are those of the real
things.
"""

from __future__ import annotations

import numpy as np

from uda.data.synthetic.streets.canvas import RING, Paint, box, disc, front
from uda.data.synthetic.streets.labels import LABEL_ID
from uda.data.synthetic.streets.looks import Range, Studio

_LAMPS = ((0.95, 0.16, 0.12), (0.98, 0.72, 0.12), (0.18, 0.85, 0.4))
_WHITE, _RED, _BLUE, _YELLOW = (0.93,) * 3, (0.82, 0.1, 0.12), (0.1, 0.25, 0.7), (0.95, 0.8, 0.1)


def tree(studio: Studio, x: float, z: float) -> None:
    """A trunk under a crown of a dozen ragged clumps, dark below and light above."""
    rng, canvas = studio.rng, studio.canvas
    tall, reach = rng.uniform(5.0, 10.0), rng.uniform(1.4, 3.0)
    thick = rng.uniform(0.12, 0.24)
    trunk = studio.coat("vegetation", "trunk")
    front(canvas, (x - thick, x + thick), (0.0, tall - reach), z, trunk, canvas.light.front)
    leaf = studio.coat("vegetation", "leaf")
    places = rng.uniform(-1, 1, (12, 2)) * (0.75 * reach, 0.7 * reach)
    places = places[np.argsort(places[:, 1])]
    ragged = rng.uniform(0.35, 0.6, (12, 1, 1)) * rng.uniform(0.7, 1.25, (12, 12, 1)) * RING
    outlines = (x, tall - 0.8 * reach) + places[:, None] + reach * ragged
    shades = 0.85 + 0.3 * places[:, 1] / reach + rng.uniform(-0.1, 0.1, 12)
    step = 1 if z < 35 else 2
    for outline, shade in zip(outlines[::step], shades[::step].tolist(), strict=True):
        canvas.cutout(outline, z, leaf, shade)


def bush(studio: Studio, x: float, z: float) -> None:
    """A low round plant."""
    rng = studio.rng
    leaf, size = studio.coat("vegetation", "leaf"), rng.uniform(0.4, 1.0)
    for k in range(4):
        ragged = rng.uniform(0.45, 0.8, (12, 1)) * RING
        outline = ragged + np.array([x / size + rng.uniform(-0.6, 0.6), 0.3 + 0.15 * k])
        outline[:, 1] = np.maximum(outline[:, 1], 0)
        studio.canvas.cutout(size * outline, z, leaf, 0.8 + 0.1 * k)


def post(studio: Studio, x: float, z: float, tall: float, thick: float = 0.09) -> None:
    """A pole from the ground up, at least a pixel wide."""
    pole = studio.coat("pole", "pole")
    half = max(thick, 0.55 * z / studio.canvas.camera.focal)
    front(studio.canvas, (x - half, x + half), (0.0, tall), z, pole, studio.canvas.light.front)


def street_lamp(studio: Studio, x: float, z: float) -> None:
    """A tall pole with an arm over the road."""
    tall = studio.rng.uniform(6.0, 9.0)
    post(studio, x, z, tall)
    pole = studio.coat("pole", "pole")
    reach = -np.sign(x) * 1.6
    front(studio.canvas, (min(x, x + reach), max(x, x + reach)), (tall - 0.1, tall), z, pole, 1.0)


def traffic_light(studio: Studio, x: float, z: float, *, arm: float = 0.0) -> None:
    """Three lamps in a box on a pole; with ``arm`` (m) a second box hangs over the road."""
    rng = studio.rng
    tall = rng.uniform(3.2, 3.6)
    if arm:
        tall = 5.6
        pole, end = studio.coat("pole", "pole"), x - float(np.sign(x)) * arm
        front(studio.canvas, (min(x, end), max(x, end)), (tall - 0.1, tall + 0.06), z, pole, 1.0)
        _signal(studio, end, z, tall + 0.3)
    post(studio, x, z, tall)
    _signal(studio, x, z, min(tall, 3.4))


def _signal(studio: Studio, x: float, z: float, top: float) -> None:
    case = studio.coat("traffic light", "signal")
    front(studio.canvas, (x - 0.24, x + 0.24), (top - 1.15, top), z, case, 1.0)
    burning = int(studio.rng.integers(3))
    for k, color in enumerate(_LAMPS):
        gain = 1.0 if k == burning else 0.3
        lamp = Paint(case.label, color)
        disc(studio.canvas, (x, top - 0.22 - 0.36 * k, z), (0.14, 0.14), lamp, gain)


def traffic_sign(studio: Studio, x: float, z: float) -> None:
    """A round, square or three-cornered plate on a pole."""
    rng, canvas, label = studio.rng, studio.canvas, LABEL_ID["traffic sign"]
    top, shape = rng.uniform(2.5, 3.0), int(rng.integers(4))
    post(studio, x, z, top, 0.05)
    middle = top - 0.4
    if shape == 0:
        disc(canvas, (x, middle, z), (0.4, 0.4), Paint(label, _RED), 1.0)
        disc(canvas, (x, middle, z), (0.27, 0.27), Paint(label, _WHITE), 1.0)
    elif shape == 1:
        edge = Paint(label, _RED)
        corners = [(x - 0.45, top - 0.8, z), (x + 0.45, top - 0.8, z), (x, top, z)]
        canvas.polygon(corners, edge)
        disc(canvas, (x, top - 0.52, z), (0.17, 0.17), Paint(label, _WHITE), 1.0)
    elif shape == 2:
        front(canvas, (x - 0.38, x + 0.38), (top - 0.8, top), z, Paint(label, _BLUE), 1.0)
        disc(canvas, (x, middle, z), (0.18, 0.18), Paint(label, _WHITE), 1.0)
    else:
        front(canvas, (x - 0.7, x + 0.7), (top - 0.75, top), z, Paint(label, _YELLOW), 1.0)
        line = Paint(label, (0.15, 0.15, 0.15))
        front(canvas, (x - 0.5, x + 0.5), (middle - 0.06, middle + 0.06), z, line, 1.0)


def person(studio: Studio, x: float, z: float, label: str = "person") -> None:
    """Somebody who walks: two legs, a body with arms, a head."""
    rng, canvas = studio.rng, studio.canvas
    tall, light = rng.uniform(1.55, 1.9), studio.canvas.light.front
    canvas.ground_shadow((x - 0.35, x + 0.35), (z - 0.1, z + 0.25), 0.6)
    legs, shirt = studio.coat(label, "trousers"), studio.coat(label, "cloth")
    skin = studio.coat(label, "skin")
    step, hip = rng.uniform(0.05, 0.28), 0.48 * tall
    for foot in (-step, step):
        corners = [(-0.1, hip), (0.1, hip), (foot + 0.08, 0.0), (foot - 0.08, 0.0)]
        canvas.polygon([(x + a, b, z) for a, b in corners], legs, light)
    torso(studio, (x, z), (hip - 0.03, 0.85 * tall), shirt, skin)
    disc(canvas, (x, 0.92 * tall, z), (0.11, 0.14), skin, light)


def torso(studio: Studio, place: Range, y: Range, shirt: Paint, skin: Paint) -> None:
    """Shoulders, arms and hands between the heights ``y``."""
    x, z = place
    light = studio.canvas.light.front
    outline = [(-0.17, y[0]), (0.17, y[0]), (0.25, y[1] - 0.08), (0.12, y[1])]
    outline += [(-0.12, y[1]), (-0.25, y[1] - 0.08)]
    studio.canvas.polygon([(x + a, b, z) for a, b in outline], shirt, light)
    for hand in (-0.27, 0.27):
        front(studio.canvas, (x + hand - 0.06, x + hand + 0.06), (y[0], y[1] - 0.1), z, shirt, 0.8)
        disc(studio.canvas, (x + hand, y[0], z), (0.06, 0.07), skin, light)


def cycle(studio: Studio, x: float, z: float, kind: str, *, ridden: bool, along: bool) -> None:
    """A bicycle or motorcycle, from behind (``along`` the road) or from the side, with its rider."""
    canvas, heavy = studio.canvas, kind == "motorcycle"
    tyre, frame = studio.coat(kind, "tyre"), studio.coat(kind, "body" if heavy else "cycle")
    spokes = studio.coat(kind, "rail")
    radius, base = (0.32, 0.7) if heavy else (0.36, 0.55)
    canvas.ground_shadow((x - 0.4, x + 0.4), (z - 0.2, z + 0.6), 0.6)
    if along:
        half = 0.16 if heavy else 0.07
        disc(canvas, (x, radius, z), (half, radius), tyre, 1.0)
        front(canvas, (x - half, x + half), (radius, 0.95), z, frame, canvas.light.front)
        front(canvas, (x - 0.34, x + 0.34), (0.98, 1.06), z, frame, 0.8)
    else:
        for at in (-base, base):
            disc(canvas, (x + at, radius, z), (radius, radius), tyre, 1.0)
            disc(canvas, (x + at, radius, z), (0.75 * radius, 0.75 * radius), spokes, 1.0)
        corners = [(-base, radius), (-0.15, 0.4 * radius), (0.3, 0.5), (base, radius), (0.35, 0.95)]
        corners += [(-0.3, 0.9)]
        canvas.polygon([(x + a, b, z) for a, b in corners], frame, canvas.light.front)
        front(canvas, (x + 0.3, x + 0.5), (0.95, 1.08), z, tyre, 1.0)
    if ridden:
        _rider(studio, x - (0 if along else 0.1), z)


def _rider(studio: Studio, x: float, z: float) -> None:
    canvas, rng = studio.canvas, studio.rng
    legs, shirt = studio.coat("rider", "trousers"), studio.coat("rider", "cloth")
    skin, helmet = studio.coat("rider", "skin"), studio.coat("rider", "body")
    for hip in (-0.13, 0.13):
        corners = [(hip - 0.08, 1.0), (hip + 0.08, 1.0), (hip * 1.6 + 0.06, 0.4)]
        corners += [(hip * 1.6 - 0.06, 0.4)]
        canvas.polygon([(x + a, b, z) for a, b in corners], legs, canvas.light.front)
    tall = rng.uniform(1.5, 1.6)
    torso(studio, (x, z), (0.95, tall), shirt, skin)
    disc(canvas, (x, tall + 0.13, z), (0.12, 0.15), skin, canvas.light.front)
    disc(canvas, (x, tall + 0.2, z), (0.13, 0.1), helmet, canvas.light.front)


def bin_(studio: Studio, x: float, z: float) -> None:
    """A waste bin: static, not scored."""
    box(studio.canvas, (x - 0.3, x + 0.3), (0.0, 1.1), (z, z + 0.6), studio.coat("static", "bin"))
