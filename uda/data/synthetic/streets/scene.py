"""The plan of a street: what stands where.

From the road outwards each side has a sidewalk, perhaps a strip of grass, and a front line of house
blocks, rows of trees and open gaps, with walls, fences and hedges before some of them. A crossing
street may cut through. Things take their places in the lanes, along the kerb and on the sidewalks.

Rare things come at their rate in *every* run of numbers, not on average alone (:func:`due`), so that
a small data set has all classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
from numpy.random import Generator

from uda.data.synthetic.streets import things as draw
from uda.data.synthetic.streets.looks import Range, Studio, Style
from uda.data.synthetic.streets.vehicles import LENGTH, Vehicle, vehicle

_GOLDEN = 0.6180339887498949
_LANE, _BAY = 3.3, 2.2
_SEEN = 60.0

Thing: TypeAlias = tuple[float, Callable[[Studio], None]]
"""Depth (m), and what draws it."""

Kind: TypeAlias = Literal["building", "trees", "wall", "fence", "hedge", "guard rail"]


@dataclass(frozen=True)
class Block:
    """A stretch of houses, trees, wall or fence along the street, metres."""

    kind: Kind
    z: Range
    height: float


@dataclass(frozen=True)
class Side:
    """One side of the street (``sign`` -1: left); distances from the axis in metres, positive."""

    sign: int
    kerb: float
    walk: float
    front: float
    grass_first: bool
    bay: bool
    blocks: tuple[Block, ...]
    border: tuple[Block, ...]


@dataclass(frozen=True)
class Scene:
    """A street: two sides, lanes a direction, the camera's place, the crossing and the far end."""

    sides: tuple[Side, Side]
    lanes: int
    offset: float
    crossing: Range | None
    end: Block
    things: tuple[Thing, ...]
    bonnet: bool


@dataclass(frozen=True)
class Plan:
    """What the choices of one image have in common."""

    style: Style
    rng: Generator
    due: frozenset[str]

    def chance(self, name: str) -> bool:
        """Draw at the style's rate."""
        return bool(self.rng.random() < self.style.rates[name])


def due(number: int, rate: float, phase: float) -> bool:
    """Whether a thing of this rate is due in image ``number``.

    The multiples of the golden ratio modulo 1 fill [0, 1) evenly from any start: among any 24 in a
    row at least two fall below 0.13.
    """
    return (number * _GOLDEN + phase) % 1.0 < rate


def plan_street(number: int, style: Style, seed: int, rng: Generator) -> Scene:
    """Draw the plan of image ``number``."""
    phases = np.random.default_rng([seed, style.code]).random(len(style.rates))
    names = sorted(style.rates)
    plan = Plan(
        style,
        rng,
        frozenset(
            name
            for name, phase in zip(names, phases.tolist(), strict=True)
            if due(number, style.rates[name], phase)
        ),
    )
    lanes = 2 if plan.chance("wide") else 1
    offset = (0.5 + float(rng.integers(lanes))) * _LANE
    crossing = None
    if plan.chance("crossing"):
        start = rng.uniform(14, 40)
        crossing = (start, start + rng.uniform(7, 12))
    sides = (_side(plan, -1, lanes, crossing), _side(plan, 1, lanes, crossing))
    end_kind: Kind = "building" if rng.random() < 0.5 else "trees"
    things = [
        *_traffic(plan, lanes, offset),
        *(thing for side in sides for thing in _roadside(plan, side, crossing)),
        *_furniture(plan, sides, crossing),
        *_cyclists(plan, sides, offset),
    ]
    return Scene(
        sides=sides,
        lanes=lanes,
        offset=offset,
        crossing=crossing,
        end=Block(end_kind, (rng.uniform(80, 160),) * 2, rng.uniform(7, 20)),
        things=tuple(sorted(things, key=lambda thing: -thing[0])),
        bonnet="bonnet" in plan.due,
    )


def _side(plan: Plan, sign: int, lanes: int, crossing: Range | None) -> Side:
    rng = plan.rng
    bay = bool(rng.random() < 0.2 + 0.7 * plan.style.rates["parked"])
    kerb = lanes * _LANE + (_BAY if bay else 0.4)
    walk = rng.uniform(2.4, 5.5)
    verge = rng.uniform(1.5, 6.0) if plan.chance("verge") else 0.0
    city = rng.random() < 0.8
    return Side(
        sign=sign,
        kerb=kerb,
        walk=walk,
        front=kerb + walk + verge + 0.4,
        grass_first=bool(rng.random() < 0.4),
        bay=bay,
        blocks=tuple(_blocks(plan, crossing, city)),
        border=tuple(_border(plan, crossing)),
    )


def _blocks(plan: Plan, crossing: Range | None, city: bool) -> Iterator[Block]:
    """Houses, trees and gaps in a row; outside the city mostly trees."""
    rng, share = plan.rng, plan.style.rates["building"] * (1.0 if city else 0.3)
    tall = rng.uniform(8, 18)
    z = rng.uniform(1.0, 6.0)
    while z < 1.6 * _SEEN:
        end = z + rng.uniform(8, 24)
        built, open_ = rng.random() < share, rng.random() < 0.3
        height = float(np.clip(rng.normal(tall, 3.5), 4.5, 30))
        if crossing is not None and z < crossing[1] + 2 and end > crossing[0] - 2:
            end = max(end, crossing[1] + 3)
        elif built:
            yield Block("building", (z, end), height)
        elif not open_:
            yield Block("trees", (z, end), rng.uniform(3.5, 9.0))
        z = end + (rng.uniform(2, 6) if rng.random() < 0.25 else 0.0)


def _border(plan: Plan, crossing: Range | None) -> Iterator[Block]:
    """Walls, fences, hedges and rails before the front line; those that are due come first."""
    rng = plan.rng
    kinds: list[Kind] = [
        kind for kind in ("wall", "fence", "guard rail") if kind in plan.due and rng.random() < 0.7
    ]
    if not kinds and not plan.chance("border"):
        return
    z = rng.uniform(2, 9)
    while z < _SEEN:
        end = z + rng.uniform(6, 18)
        kind = kinds.pop(0) if kinds else ("hedge", "fence", "wall")[int(rng.integers(3))]
        low, high = {"wall": (1.4, 3.0), "guard rail": (0.7, 0.8)}.get(kind, (0.9, 1.9))
        if crossing is None or end < crossing[0] - 1 or z > crossing[1] + 1:
            yield Block(kind, (z, end), rng.uniform(low, high))
        z = end + rng.exponential(14.0)


def _traffic(plan: Plan, lanes: int, offset: float) -> Iterator[Thing]:
    """Vehicles one behind another in each lane; rare ones that are due come first."""
    rng = plan.rng
    places = [(sign, (lane + 0.5) * _LANE) for sign in (-1, 1) for lane in range(lanes)]
    queues: dict[tuple[int, float], list[Vehicle]] = {place: [] for place in places}
    order = [places[k] for k in rng.permutation(len(places)).tolist()]
    rare: tuple[Vehicle, ...] = ("train", "bus", "truck")
    for k, kind in enumerate(kind for kind in rare if kind in plan.due):
        queues[order[k % len(order)]].append(kind)
    for (sign, lane), queue in queues.items():
        x = sign * lane
        z = rng.uniform(11, 22) if x == offset else rng.uniform(5, 16)
        while z < _SEEN:
            kind_ = queue.pop(0) if queue else "car" if plan.chance("traffic") else None
            if kind_ is not None:
                yield z, partial(vehicle, kind=kind_, x=x, z=z, away=sign > 0)
            z += LENGTH[kind_ or "car"] + rng.uniform(3, 16)


def _roadside(plan: Plan, side: Side, crossing: Range | None) -> Iterator[Thing]:
    """Parked cars in the bay, trees in a row, people on the sidewalk."""
    rng, sign = plan.rng, side.sign
    z = rng.uniform(3, 7)
    while side.bay and z < _SEEN:
        if plan.chance("parked") and _free(z, crossing):
            x = sign * (side.kerb - _BAY / 2 + 0.1)
            yield z, partial(vehicle, kind="car", x=x, z=z, away=sign > 0 or rng.random() < 0.3)
        z += LENGTH["car"] + rng.uniform(0.8, 2.0)
    z, row = rng.uniform(5, 14), side.kerb + (0.7 if side.walk > 2.4 else side.walk + 0.3)
    while z < _SEEN:
        if plan.chance("tree") and _free(z, crossing):
            yield z, partial(draw.tree, x=sign * row, z=z)
        z += rng.uniform(6, 13)
    inner = side.kerb if not side.grass_first else side.front - side.walk
    for _ in range(int(rng.poisson(plan.style.rates["people"] / 2))):
        z = 5 + rng.exponential(14.0)
        x = sign * (inner + rng.uniform(0.3, max(side.walk - 0.3, 0.5)))
        yield z, partial(draw.person, x=x, z=z)
    if rng.random() < 0.5:
        z = rng.uniform(7, 30)
        yield z, partial(draw.bush, x=sign * (side.front - 0.8), z=z)


def _furniture(plan: Plan, sides: tuple[Side, Side], crossing: Range | None) -> Iterator[Thing]:
    """Lamps, signs, traffic lights and bins along both kerbs."""
    rng = plan.rng
    for side in sides:
        x = side.sign * (side.kerb + 0.4)
        for z in np.arange(rng.uniform(8, 22), _SEEN, rng.uniform(18, 30)).tolist():
            yield z, partial(draw.street_lamp, x=x, z=z)
        if "signal" in plan.due:
            z = (crossing[0] if crossing else rng.uniform(12, 22)) - 1.0
            arm = rng.uniform(2.0, 4.5) if side.sign > 0 else 0.0
            yield z, partial(draw.traffic_light, x=x, z=z, arm=arm)
        if "sign" in plan.due:
            z = rng.uniform(8, 22)
            yield z, partial(draw.traffic_sign, x=x, z=z)
        if rng.random() < 0.35:
            z = rng.uniform(6, 25)
            yield z, partial(draw.bin_, x=x + side.sign * 0.6, z=z)
    if crossing and rng.random() < 0.6:
        for _ in range(int(rng.integers(1, 4))):
            z = crossing[0] - rng.uniform(0.5, 2.0)
            yield z, partial(draw.person, x=rng.uniform(-1, 1) * sides[0].kerb, z=z)


def _cyclists(plan: Plan, sides: tuple[Side, Side], offset: float) -> Iterator[Thing]:
    """Riders that are due, near enough to be seen, and bicycles left at the front line."""
    rng = plan.rng
    if "motorcycle" in plan.due:
        z, along = rng.uniform(6, 11), bool(rng.random() < 0.7)
        x = offset + rng.uniform(-1.5, 1.5)
        yield z, partial(draw.cycle, x=x, z=z, kind="motorcycle", ridden=True, along=along)
    for side in sides:
        if "bicycle" in plan.due and rng.random() < 0.75:
            z, along = rng.uniform(6, 16), bool(rng.random() < 0.6)
            x = side.sign * (side.kerb - (_BAY + 0.5 if side.bay else 0.7))
            yield z, partial(draw.cycle, x=x, z=z, kind="bicycle", ridden=True, along=along)
        if plan.chance("bicycle"):
            z = rng.uniform(6, 20)
            x = side.sign * (side.front - 0.7)
            yield z, partial(draw.cycle, x=x, z=z, kind="bicycle", ridden=False, along=False)


def _free(z: float, crossing: Range | None) -> bool:
    """Whether a kerb place lies outside the crossing street."""
    return crossing is None or not crossing[0] - 6 < z < crossing[1] + 1
