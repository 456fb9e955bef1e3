"""The unlabelled organs of the chest: body wall, lungs, diaphragm, upper abdomen, skeleton.

Body axes and origin as in :mod:`uda.data.synthetic.phantom.heart`; the midline of the chest lies 14 mm to the
right of the middle of the heart. Every length is in mm.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from uda.data.synthetic.phantom.heart import draw_heart, heart_organs, mediastinum
from uda.data.synthetic.phantom.shapes import (
    Floats,
    Organ,
    Points,
    Shape,
    Vector,
    cut,
    ellipsoid,
    grown,
    tube,
    union,
    within,
)

_MIDLINE, _MIDDLE = 14.0, -20.0  # x and y of the chest's axis


def draw_subject(rng: Generator) -> list[Organ]:
    """All organs of a random subject, in painting order."""
    heart = draw_heart(rng)
    width, depth = np.clip(rng.normal(1, 0.05, 2), 0.9, 1.1) * heart.scale**0.5
    fat, muscle = rng.uniform(6, 26), rng.uniform(9, 15)
    cavity = _cylinder(136 * width, 90 * depth)
    chest = _cylinder(136 * width + muscle, 90 * depth + muscle)
    skin = _cylinder(136 * width + muscle + fat, 90 * depth + muscle + fat)
    domes = _domes(rng.normal(0, 5, 2), width)
    lungs = cut(grown(cavity, -2.0), mediastinum(heart), *(grown(d, 2.5) for d in domes))
    return [
        Organ("fat", skin),
        Organ("muscle", chest),
        Organ("fat", cavity),
        Organ("lung", lungs),
        *_lung_vessels(rng, lungs),
        *_abdomen(rng, cavity, domes),
        *_skeleton(rng, width, depth, muscle),
        *_tubes(),
        *heart_organs(heart),
    ]


def _cylinder(rx: float, ry: float) -> Shape:
    return ellipsoid((_MIDLINE, _MIDDLE, 0), (rx, ry, np.inf))


def _domes(lift: Vector, width: float) -> tuple[Shape, Shape]:
    """Right and left dome of the diaphragm; the right one, above the liver, is 14 mm higher on average."""
    right = ellipsoid((78 * width, -22, -112 + lift[0]), (84 * width, 96, 78))
    left = ellipsoid((-56 * width, -18, -118 + lift[1]), (88 * width, 96, 70))
    return right, left


def _abdomen(rng: Generator, cavity: Shape, domes: tuple[Shape, Shape]) -> list[Organ]:
    """Diaphragm, abdominal fat, liver with its left lobe, spleen, stomach with a gas bubble."""
    right, left = domes
    x, y, z = rng.normal((-62, 10, -92), 6)
    lobe = within(ellipsoid((12, 18, -104), (88, 58, 46)), union(right, left))
    liver = within(union(grown(right, -2.0), lobe), grown(cavity, -3.0))
    spleen = within(
        ellipsoid((-92, -62, -96), (34, 40, 44)), grown(left, -3.0), grown(cavity, -3.0)
    )
    stomach = within(ellipsoid((x, y, z), (40, 42, 34)), grown(left, -4.0))
    gas = within(ellipsoid((x, y + 16, z + 4), (26, 20, 22)), grown(stomach, -4.0))
    return [
        Organ("muscle", within(union(grown(right, 2.5), grown(left, 2.5)), cavity)),
        Organ("fat", within(union(right, left), cavity)),
        Organ("stomach", stomach),
        Organ("gas", gas),
        Organ("spleen", spleen),
        Organ("liver", liver),
    ]


def _lung_vessels(rng: Generator, lungs: Shape) -> list[Organ]:
    """A few vessels on each side, from the hilum outwards, 2-3 mm in radius at the bend."""
    vessels = []
    for side in (1, -1):
        hilum = np.array([_MIDLINE + 44 * side, -28, 36])
        for _ in range(7):
            way = rng.normal((0.75 * side, 0, 0), (0.3, 0.7, 0.7))
            bend = hilum + 40 * way + rng.normal(0, 8, 3)
            tip = hilum + 78 * way + rng.normal(0, 8, 3)
            branch = tube([hilum, bend, tip], (4.0, rng.uniform(2, 3), 1.2), pieces=2)
            vessels.append(Organ("blood_right", within(branch, lungs)))
    return vessels


def _skeleton(rng: Generator, width: float, depth: float, muscle: float) -> list[Organ]:
    """Ribs, sternum and spine, each with a cortical shell around marrow."""
    back = _MIDDLE - 90 * depth
    body = cut(
        ellipsoid((_MIDLINE, back + 24, 0), (18 * width, 15, np.inf)),
        _discs(rng.uniform(0, 25)),
    )
    arch = union(
        ellipsoid((_MIDLINE, back - 8, 0), (15, 13, np.inf)),
        ellipsoid((_MIDLINE, back - 26, 0), (4, 14, np.inf)),
    )
    sternum = ellipsoid((_MIDLINE, _MIDDLE + 90 * depth + 6, 30), (17, 6, 85))
    bones = [union(body, arch), sternum, _ribs(rng, width, depth, muscle)]
    organs = [Organ("muscle", ellipsoid((_MIDLINE, back + 24, 0), (18 * width, 15, np.inf)))]
    for bone in bones:
        organs += [Organ("bone", bone), Organ("marrow", grown(bone, -2.0))]
    return [*organs, Organ("spinal_fluid", ellipsoid((_MIDLINE, back + 1, 0), (9, 7, np.inf)))]


def _discs(shift: float) -> Shape:
    """Discs between the vertebrae: slabs 5 mm thick every 25 mm."""

    def distance(p: Points) -> Floats:
        return np.asarray(np.abs((p[2] + np.float32(shift)) % 25 - 12.5) - 2.5, np.float32)

    return Shape(distance, np.full(3, -np.inf), np.full(3, np.inf))


def _ribs(rng: Generator, width: float, depth: float, muscle: float) -> Shape:
    """Ribs in the chest wall, one every 26 mm; each descends 0.45 mm per mm towards the front."""
    middle = _cylinder(136 * width + muscle / 2, 90 * depth + muscle / 2)
    shift = np.float32(rng.uniform(0, 26))
    reach = np.float32(max(4.0, 0.42 * muscle))

    def distance(p: Points) -> Floats:
        height = (p[2] + np.float32(0.45) * p[1] + shift) % 26 - 13
        gap = middle.distance(p)
        return np.asarray(np.sqrt(gap**2 + (0.75 * height) ** 2) - reach, np.float32)

    return Shape(distance, middle.low - reach, middle.high + reach)


def _tubes() -> list[Organ]:
    """Oesophagus and trachea with its two main bronchi."""
    windpipe = union(
        tube([(_MIDLINE - 2, -34, 140), (_MIDLINE, -38, 76)], 8.5),
        tube([(_MIDLINE, -38, 76), (_MIDLINE + 42, -40, 44)], 6.5),
        tube([(_MIDLINE, -38, 76), (_MIDLINE - 42, -42, 46)], 6.0),
    )
    gullet = tube([(4, -50, 140), (2, -50, 20), (-4, -46, -70), (-30, -30, -100)], 7.0)
    return [
        Organ("muscle", gullet),
        Organ("vessel_wall", grown(windpipe, 2.0)),
        Organ("gas", windpipe),
    ]
