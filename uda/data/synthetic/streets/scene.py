"""A street in one of two styles: what stands where, how often, and in which paint.

From the road outwards each side has a sidewalk, perhaps grass, and a front line of houses, trees
and gaps, with walls, fences and hedges before it. A crossing street may cut through. Vehicles take
the lanes; trees, poles and people stand along the kerbs. All things are blocks and discs, listed in
:mod:`uda.data.synthetic.streets.things`. Sizes are in metres.
"""

from __future__ import annotations

import numpy as np

from uda.data.synthetic.streets.canvas import Camera, Canvas, Color, Light, Paint, Range
from uda.data.synthetic.streets.labels import LABEL_ID
from uda.data.synthetic.streets.things import (
    FOCAL,
    HEIGHT,
    HORIZON,
    LENGTH,
    PAINT,
    PIECES,
    RATES,
    WHEEL,
)

_LANE, _BAY, _SEEN = 3.3, 2.2, 60.0
_GOLDEN = 0.6180339887498949
_RING = np.array([(np.cos(a), np.sin(a)) for a in np.arange(12) * np.pi / 6]) / 2
_TURN = np.linspace(-1, 1, 7)


def due(number: int, rate: float, phase: float) -> bool:
    """Whether a thing of this rate is due in image ``number``.

    The multiples of the golden ratio modulo 1 fill [0, 1) evenly from any start: among any 24 in a
    row at least two fall below 0.13. So a small data set has all classes.
    """
    return (number * _GOLDEN + phase) % 1.0 < rate


class Street:
    """Street ``number`` in style 0 (game) or 1 (camera), drawn on its ``canvas``."""

    def __init__(self, number: int, style: int, size: tuple[int, int], seed: int) -> None:
        self.rng = rng = np.random.default_rng([seed, style + 1, number, 0])
        self.style = style
        phases = np.random.default_rng([seed, style + 1]).random(len(RATES)).tolist()
        self.due = {
            name
            for (name, rates), phase in zip(RATES.items(), phases, strict=True)
            if due(number, rates[style], phase)
        }
        self.half = _LANE * (2 if self.chance("wide") else 1)
        lane = self.half - _LANE / 2 if rng.random() < 0.5 else _LANE / 2
        self.crossing = rng.uniform(14, 40) if rng.random() < 0.4 else 1e3
        camera = Camera(
            *size,
            focal=size[1] * rng.uniform(*FOCAL[style]),
            horizon=size[0] * rng.uniform(*HORIZON[style]),
            centre=(size[1] - 1) / 2,
            height=rng.uniform(*HEIGHT[style]),
            offset=lane + rng.uniform(-0.3, 0.3),
            heading=float(np.clip(rng.normal(0, 0.03), -0.07, 0.07)),
        )
        self.canvas = Canvas(camera, self.light())
        self.ground()
        for sign in (-1, 1):
            self.side(sign)
        self.traffic(lane)
        if "bonnet" in self.due:
            self.bonnet()

    def chance(self, name: str) -> bool:
        """Draw at the style's rate."""
        return bool(self.rng.random() < RATES[name][self.style])

    def free(self, z: float, length: float) -> bool:
        """Whether a stretch lies outside the crossing street, 10 m wide."""
        return z + length < self.crossing - 1 or z > self.crossing + 11

    def light(self) -> Light:
        """Sun from the left or the right; under clouds both sides are alike."""
        if self.chance("overcast"):
            return Light(0.86, 0.9, 0.9, 1.08)
        rng = self.rng
        sides = rng.permutation([rng.uniform(1.0, 1.15), rng.uniform(0.5, 0.62)]).tolist()
        return Light(rng.uniform(0.7, 0.95), sides[0], sides[1], 1.15)

    def color(self, material: str) -> Color:
        """One colour of a material, a little brighter or darker each time."""
        choices = PAINT[material][self.style].split()
        red, green, blue = bytes.fromhex(choices[int(self.rng.integers(len(choices)))])
        gain = min(max(self.rng.normal(1, 0.06), 0.8), 1.2) / 255
        return red * gain, green * gain, blue * gain

    def paint(self, label: str) -> Paint:
        """A label in a colour of the material of its name."""
        return Paint(LABEL_ID[label], self.color(label))

    def facade(self) -> Paint:
        """A wall with storeys of windows."""
        rng = self.rng
        bay, storey = rng.uniform(2.2, 3.6), rng.uniform(2.8, 3.5)
        wide, tall = bay * rng.uniform(0.18, 0.33), storey * rng.uniform(0.42, 0.6)
        windows = ((bay, bay / 2 - wide, bay / 2 + wide), (storey, 0.9, 0.9 + tall))
        return self.paint("building").over(self.color("glass"), *windows)

    def ground(self) -> None:
        """Grass, the road with its marks, a crossing street with a zebra, and the far end."""
        canvas, half, rng = self.canvas, self.half, self.rng
        canvas.level((-90, 90), (0, 1e4), self.paint("terrain"))
        road, mark, dash = self.paint("road"), self.color("white"), rng.uniform(0, 5)
        lines = ((_LANE, _LANE - 0.08, _LANE + 0.08), (9.0, dash, dash + 4.0))
        canvas.level((-half, half), (0, 1e3), road.over(mark, *lines))
        for x, color in ((half - 0.1, mark), (0.1 - half, mark), (0.18, self.color("axis"))):
            if abs(x) > 1 or self.style == 0:
                canvas.level((x - 0.1, x + 0.1), (0, 1e3), road.over(color, (1.0, 0.02, 0.18)))
        if self.crossing < _SEEN:
            canvas.order -= 1
            canvas.level((-60, 60), (self.crossing - 5, self.crossing + 10), road)
            zebra = (self.crossing - 3.4, self.crossing - 0.6)
            canvas.level((-half, half), zebra, road.over(mark, (1.0, 0.0, 0.5)))
        canvas.order, end = 5e3, rng.uniform(80, 160)
        if rng.random() < 0.5:
            top = rng.uniform(7, 20)
            outline = [(-3 * end, 0), (3 * end, 0), (3 * end, top), (-3 * end, top)]
            canvas.across(outline, end, self.facade())
        else:
            tops = rng.uniform(6, 14, 24).tolist()
            edge = list(zip(np.linspace(150, -150, 24).tolist(), tops, strict=True))
            canvas.across([(-150, 0), (150, 0), *edge], end, self.paint("vegetation"))

    def side(self, sign: int) -> None:
        """Sidewalk, front line, and what stands between the road and the houses."""
        canvas, rng = self.canvas, self.rng
        bay = rng.random() < 0.2 + 0.7 * RATES["parked"][self.style]
        kerb = self.half + (_BAY if bay else 0.4)
        walk = rng.uniform(2.4, 5.5)
        front = kerb + walk + (rng.uniform(1.5, 6.0) if rng.random() < 0.35 else 0.4)
        inner = front - walk if rng.random() < 0.4 else kerb
        canvas.order, joint = 1e4, self.color("sidewalk")
        for near, far, paint in (
            (self.half, kerb, self.paint("road")),
            (inner, inner + walk, self.paint("sidewalk").over(joint, (0.9, 0.0, 0.12))),
            (kerb, kerb + 0.18, self.paint("sidewalk")),
        ):
            ends = sorted((sign * near, sign * far))
            canvas.level((ends[0], ends[1]), (0, 1e3), paint)
        self.fronts(sign * front)
        self.along_kerb(sign, kerb, bay)
        for _ in range(int(rng.poisson(RATES["people"][self.style]))):
            x = sign * (inner + rng.uniform(0.3, walk - 0.3))
            self.put("person", x, 5 + rng.exponential(14.0))
        if self.chance("bicycle"):
            self.put("bicycle", sign * (front - 0.7), rng.uniform(6, 20))

    def along_kerb(self, sign: int, kerb: float, bay: bool) -> None:
        """Trees, lamps, parked cars, a signal and a sign, who crosses the street and who rides."""
        rng = self.rng
        self.put("bin", sign * (kerb + 0.9), rng.uniform(6, 60))
        for name, near, step in (("tree", 5, 9), ("light", 8, 24), ("car", 3, 5.7)):
            z = rng.uniform(near, 2 * near)
            while z < _SEEN and (name != "car" or bay):
                x = sign * (kerb + (0.5 if name != "car" else -_BAY / 2))
                rate = {"tree": "tree", "car": "parked"}.get(name)
                if self.free(z, 5) and (rate is None or self.chance(rate)):
                    self.put(name, x, z, away=sign > 0)
                z += step * rng.uniform(0.8, 1.25)
        if "signal" in self.due:
            z = self.crossing if self.crossing < _SEEN else rng.uniform(12, 22)
            self.put("signal", sign * (kerb + 0.4), z - 1)
        if "sign" in self.due:
            self.put("sign", sign * (kerb + 0.4), rng.uniform(8, 22))
        if self.crossing < _SEEN:
            self.put("person", sign * rng.uniform(0, kerb), self.crossing - rng.uniform(0.5, 2.0))
        if "bicycle" in self.due:
            x, z = sign * (self.half - 0.6), rng.uniform(6, 16)
            self.put("bicycle", x, z)
            self.put("rider", x, z)

    def fronts(self, x: float) -> None:
        """Houses, trees and gaps in a row; before them walls, fences and hedges, first what is due."""
        canvas, rng, z = self.canvas, self.rng, self.rng.uniform(1, 6)
        canvas.order = 4e3
        self.trees(x * (1 + 14 / abs(x)), (4, 160), rng.uniform(4, 9))
        tall, share = rng.uniform(8, 18), RATES["building"][self.style]
        share *= 1.0 if rng.random() < 0.8 else 0.3
        while z < 1.6 * _SEEN:
            end, canvas.order = z + rng.uniform(8, 24), 2e3 + z
            if not self.free(z, end - z):
                end = max(end, self.crossing + 13)
            elif rng.random() < share:
                self.house(x, (z, end), float(np.clip(rng.normal(tall, 3.5), 4.5, 30)))
            elif rng.random() < 0.7:
                self.trees(x, (z, end), rng.uniform(3.5, 9.0))
            z = end + (rng.uniform(2, 6) if rng.random() < 0.25 else 0.0)
        kinds = [kind for kind in ("wall", "fence") if kind in self.due and rng.random() < 0.7]
        z = rng.uniform(2, 9) if kinds or rng.random() < 0.6 else _SEEN
        while z < _SEEN:
            end, canvas.order = z + rng.uniform(6, 18), 1e3 + z
            kind = kinds.pop(0) if kinds else ("hedge", "fence", "wall")[rng.integers(3)]
            if self.free(z, end - z):
                self.border(kind, x - 0.3 * np.sign(x), (z, end), rng.uniform(0.9, 1.9))
            z = end + rng.exponential(14.0)

    def house(self, x: float, z: Range, height: float) -> None:
        """Storeys of windows under a strip of roof, along the street and at the near end."""
        canvas, eaves, wall = self.canvas, height - self.rng.uniform(0.4, 1.6), self.facade()
        roof = Paint(wall.label, self.color("roof"))
        far = x + 12 * np.sign(x)
        for low, high, paint in ((0.0, eaves, wall), (eaves, height, roof)):
            canvas.across([(x, low), (far, low), (far, high), (x, high)], z[0], paint)
            canvas.along(x, z, (high, high), paint, low)

    def trees(self, x: float, z: Range, height: float, ragged: float = 0.3) -> None:
        """Foliage along the street with a ragged top."""
        places = np.linspace(*z, 2 + int(z[1] - z[0]))
        top = height * (1 + self.rng.uniform(-ragged, ragged, len(places)))
        self.canvas.along(x, places.tolist(), top.tolist(), self.paint("vegetation"))

    def border(self, kind: str, x: float, z: Range, height: float) -> None:
        if kind == "hedge":
            self.trees(x, z, height, 0.1)
        elif kind == "wall":
            wall = self.paint("wall").over(self.color("wall"), (0.8, 0.0, 0.4), (0.5, 0.0, 0.25))
            self.canvas.along(x, z, (1.5 * height, 1.5 * height), wall)
        else:
            gaps = ((0.3, 0.14, 0.3), (height, 0.2, 0.88 * height))
            fence = self.paint("fence").over(self.color("vegetation"), *gaps)
            self.canvas.along(x, z, (height, height), fence)

    def traffic(self, lane: float) -> None:
        """Vehicles one behind another in each lane, first those that are due; a motorcycle ahead."""
        rng, rows = self.rng, np.arange(_LANE / 2 - self.half, self.half, _LANE)
        rare = [kind for kind in ("train", "bus", "truck") if kind in self.due]
        for k, x in enumerate(rng.permutation(rows).tolist()):
            queue, z = rare[k :: len(rows)], rng.uniform(5, 16) + 6 * (abs(x - lane) < 1)
            while z < _SEEN:
                if queue or self.chance("traffic"):
                    kind = queue.pop(0) if queue else "car"
                    self.put("lorry" if kind == "truck" and x < 0 else kind, x, z, away=x > 0)
                    z += LENGTH[kind]
                z += rng.uniform(4, 16)
        if "motorcycle" in self.due:
            x, z = lane + rng.uniform(-1.5, 1.5), rng.uniform(6, 11)
            self.put("motorcycle", x, z)
            self.put("rider", x, z)

    def put(self, thing: str, x: float, z: float, *, away: bool = False) -> None:
        """Draw a thing and its shadow; ``away``: with rear lamps. An arm reaches over the road."""
        canvas, rng, colors, canvas.order = self.canvas, self.rng, dict[str, Color](), z
        size = rng.uniform(0.7, 1.4) if thing == "tree" else rng.uniform(0.93, 1.07)
        turn = size if x < 0 else -size
        for label, shape, material, (x0, x1, *yz) in PIECES[thing]:
            name = "rear" if material == "white" and away else material
            if shape == "clump" or name not in colors:
                colors[name] = self.color(name)
            paint = Paint(LABEL_ID[label], colors[name])
            y0, y1, z0, z1 = (size * value for value in yz)
            for flip in (turn, -turn) if shape in ("blocks", "discs") else (turn,):
                left, right = sorted((x + flip * x0, x + flip * x1))
                self.piece(shape, (left, right), (y0, y1), (z + z0, z + z1), paint)
        reach = size * max(extent[1] for *_, extent in PIECES[thing] if extent[2] < 0.5)
        length = size * LENGTH.get(thing, 0.3)
        canvas.shadow((x - reach, x + reach), (z - 0.15, z + length + 0.15))
        flank = canvas.flank((x - reach, x + reach))
        if flank is not None and thing in WHEEL:
            for axle in (z + 0.2 * length, z + 0.8 * length):
                around = axle + WHEEL[thing] * _TURN
                top = 2 * WHEEL[thing] * (1 - 0.5 * _TURN**2)
                tyre = Paint(LABEL_ID[PIECES[thing][0][0]], self.color("tyre"))
                canvas.along(flank, around.tolist(), top.tolist(), tyre)

    def piece(self, shape: str, x: Range, y: Range, z: Range, paint: Paint) -> None:
        canvas, wide, tall = self.canvas, x[1] - x[0], y[1] - y[0]
        ring = ((x[0] + x[1]) / 2, (y[0] + y[1]) / 2) + _RING * (wide, tall)
        if shape.startswith("disc"):
            canvas.across(ring, z[0], paint, 1.0)
        elif shape == "clump":
            ragged = ring + self.rng.uniform(-0.12, 0.12, ring.shape) * wide
            canvas.across(ragged, z[0], paint, 0.7 + 0.06 * y[0])
        elif shape == "windows":
            panes = (1.4, 0.12, 1.28), (9.0, 0.45 * tall - 0.2, tall - 0.12)
            canvas.box(x, y, z, paint.over(self.color("glass"), *panes))
        else:
            canvas.box(x, y, z, paint)

    def bonnet(self) -> None:
        """The front of the car that carries the camera, a flat arch at the picture's lower edge."""
        camera = self.canvas.camera
        arch = _RING * (1.3 * camera.cols, self.rng.uniform(0.1, 0.18) * camera.rows)
        x = camera.offset + (arch[:, 0] + camera.centre) / camera.focal
        x -= camera.column(camera.offset, 1.0) / camera.focal
        y = camera.height + (arch[:, 1] + camera.horizon - camera.rows) / camera.focal
        self.canvas.order = 1.0
        coat = Paint(LABEL_ID["ego vehicle"], self.color("tyre" if self.style else "body"))
        self.canvas.across(np.stack([x, y], 1), 1.0, coat)
