"""A parametric heart with its great vessels, in millimetres.

Body axes: x to the patient's right, y to the front, z to the head; the origin is the middle of the
heart. The left ventricle has its own frame: ``w`` from the valve plane to the apex (left,
front, down), ``u`` from the septum to the right ventricle, ``v`` = w x u. Sizes are adult normal
values (left ventricle 26 mm in radius and 78 mm long at end diastole, wall 9 mm, ascending
aorta 15 mm in radius); each subject varies around them by the 5-10 % that imaging studies report
between people. Contraction shortens and narrows the left ventricle at constant muscle volume, pulls
the valve plane towards the apex and fills the left atrium.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy.spatial.transform import Rotation

from uda.data.synthetic.phantom.shapes import (
    Organ,
    Shape,
    Vector,
    cut,
    ellipsoid,
    grown,
    half_space,
    tube,
    union,
    within,
)

LV_BLOOD, MYOCARDIUM, LA_BLOOD, AORTA = 500, 205, 420, 820
RA_BLOOD, RV_BLOOD, PULMONARY_ARTERY = 550, 600, 850
"""The seven MM-WHS label values."""

_APEX = np.array([-0.60, 0.62, -0.50])
_SEPTUM = np.array([0.68, 0.62, -0.20])
_CAP = 5.0  # mm of myocardium above the valve plane: it closes the chamber between the two valves


@dataclass(frozen=True)
class Heart:
    """A subject's heart in one cardiac phase; lengths in mm of this subject.

    ``turn`` (3x3, with ``scale``) maps the average heart to this one; ``axes`` are the rows
    u, v, w of the left ventricle's frame and ``base`` its origin; ``right`` is the relative size
    of the right heart.
    """

    turn: Vector
    scale: float
    base: Vector
    axes: Vector
    radius: float
    wall: float
    length: float
    atrium: Vector
    atrium_centre: Vector
    aorta_radius: float
    right: float

    def place(self, *points: tuple[float, float, float]) -> Vector:
        """Points of the average heart (mm) mapped to this one, (n, 3)."""
        moved: Vector = np.asarray(points, float) @ self.turn.T
        return moved

    def at(self, u: float, v: float, w: float) -> Vector:
        """A point of the ventricle's frame in body axes (mm)."""
        return self.base + np.array([u, v, w]) @ self.axes

    def beyond(self, w: float) -> Shape:
        """The half space on the apex's side of ``w`` mm below the valve plane."""
        return half_space(self.at(0, 0, w), -self.axes[2])

    def before(self, w: float) -> Shape:
        """The half space on the atrium's side of ``w`` mm below the valve plane."""
        return half_space(self.at(0, 0, w), self.axes[2])


def draw_heart(rng: Generator) -> Heart:
    """A random heart in a random cardiac phase."""
    contraction = rng.uniform(0.0, 0.7)
    scale = float(np.clip(rng.normal(1.0, 0.06), 0.88, 1.12))
    tilt = np.clip(rng.normal(0, 5, 3), -10, 10)
    turn = scale * Rotation.from_euler("xyz", tilt, degrees=True).as_matrix()
    w = _APEX / np.linalg.norm(_APEX)
    u = _SEPTUM - (_SEPTUM @ w) * w
    u /= np.linalg.norm(u)
    axes = np.stack([u, np.cross(w, u), w]) @ turn.T / scale
    diastole, long, wall, atrium, vessel, right = np.clip(rng.normal(1, 0.08, 6), 0.82, 1.18)
    descent = 11.0 * contraction
    radius, length = 26.0 * diastole, 70.0 * (1 + (long - 1) / 2)
    outer = radius + 9.0 * wall
    narrowed = radius * (1 - 0.27 * contraction)
    kept = (outer**2 - radius**2) * length / (length - descent)
    filled = atrium * (1 + 0.12 * contraction)
    return Heart(
        turn=turn,
        scale=scale,
        base=turn @ (np.array([-12.0, -2.0, 2.0]) + descent * w),
        axes=axes,
        radius=scale * narrowed,
        wall=scale * (np.sqrt(narrowed**2 + kept) - narrowed),
        length=scale * (length - descent),
        atrium=scale * np.array([31.0, 20.0, 26.0]) * filled,
        atrium_centre=turn @ (np.array([2.0, -19.0, 15.0]) + rng.normal(0, 1.5, 3)),
        aorta_radius=scale * 14.5 * vessel,
        right=float(right * (1 - 0.1 * contraction)),
    )


def _cavity(heart: Heart) -> Shape:
    radii = (heart.radius, heart.radius, heart.length)
    return ellipsoid(heart.at(0, 0, 8 * heart.scale), radii, heart.axes)


def _outer(heart: Heart) -> Shape:
    width, tip = heart.radius + heart.wall, heart.length + max(6.0, 0.8 * heart.wall)
    shape = ellipsoid(heart.at(0, 0, 8 * heart.scale), (width, width, tip), heart.axes)
    return within(shape, heart.beyond(-_CAP))


def left_ventricle(heart: Heart) -> tuple[list[Organ], list[Organ]]:
    """Myocardium; then blood and papillary muscles, which are painted after atrium and aorta.

    The papillary muscles have the signal of muscle and the label of blood, as in clinical convention.
    """
    s, r = heart.scale, heart.radius
    blood = within(_cavity(heart), heart.beyond(0.0))
    papillary = [
        within(
            tube([heart.at(u * r, v * r, 28 * s), heart.at(u * r, v * r, 52 * s)], 3.5 * s), blood
        )
        for u, v in ((-0.40, -0.45), (-0.05, 0.60))
    ]
    wall = Organ("myocardium", _outer(heart), MYOCARDIUM)
    muscles = [Organ("myocardium", muscle, LV_BLOOD) for muscle in papillary]
    return [wall], [Organ("blood_left", blood, LV_BLOOD), *muscles]


def left_atrium(heart: Heart) -> list[Organ]:
    """Chamber with its mitral funnel and appendage."""
    s, c, size = heart.scale, heart.atrium_centre, heart.atrium
    mitral = heart.at(-8 * s, 2 * s, 0)
    appendage = tube(
        np.vstack([c, heart.place((-24, 8, 24)), heart.place((-32, 20, 22))]),
        (13 * s, 8 * s, 5 * s),
    )
    chamber = union(
        ellipsoid(c, size, heart.turn.T / s), tube([c, mitral], (18 * s, 15 * s)), appendage
    )
    blood = within(chamber, heart.before(0.0))
    wall = Organ("vessel_wall", within(grown(chamber, 1.5), heart.before(-_CAP)))
    return [wall, Organ("blood_left", blood, LA_BLOOD)]


def pulmonary_veins(heart: Heart) -> list[Organ]:
    """Four veins from the lungs to the left atrium; they carry no label."""
    s, c, size = heart.scale, heart.atrium_centre, heart.atrium
    veins = []
    for side, up in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        inner = c + size * np.array([0.6 * side, -0.35, 0.4 * up])
        hilum = c + np.array([62.0 * side, -16.0, 16.0 * up]) * s
        tip = hilum + np.array([28.0 * side, -14.0, 22.0 * up]) * s
        veins.append(Organ("blood_left", tube([inner, hilum, tip], (7 * s, 5 * s, 2 * s))))
    return veins


def aorta(heart: Heart) -> list[Organ]:
    """The aorta; its label covers the ascending part from the valve plane to the start of the arch."""
    r, s = heart.aorta_radius, heart.scale
    root = heart.at(13 * s, -9 * s, 1.0)
    rise = heart.place((3, 11, 23), (12, 14, 42), (17, 11, 62), (17, 6, 70))
    arch = heart.place((17, 6, 70), (9, -8, 84), (-4, -30, 89), (-12, -52, 76), (-13, -61, 50))
    down = heart.place((-13, -61, 50), (-12, -62, 0), (-8, -60, -60), (-4, -58, -130))
    ascending = tube(np.vstack([root, rise]), (0.85 * r, 1.15 * r, r, 0.97 * r, 0.95 * r))
    top = half_space(heart.place((17, 7, 69))[0], heart.turn[:, 2] / s)
    labelled = within(ascending, top, heart.before(0.0))
    rest = union(tube(arch, 0.9 * r), tube(down, 0.8 * r))
    wall = union(within(grown(ascending, 1.5), heart.before(-_CAP)), grown(rest, 1.5))
    return [
        Organ("vessel_wall", wall),
        Organ("blood_left", rest),
        Organ("blood_left", labelled, AORTA),
    ]


def right_heart(heart: Heart) -> list[Organ]:
    """Ventricle around the septum (3.5 mm wall), atrium, and the two great veins."""
    s, k = heart.scale, heart.right
    reach = heart.radius + heart.wall
    chamber = within(
        ellipsoid(
            heart.at(0.70 * reach, 0, 22 * s), (32 * s * k, 40 * s * k, 52 * s * k), heart.axes
        ),
        heart.beyond(2 * s),
    )
    outflow = tube(
        [heart.at(0.9 * reach, -20 * s, 22 * s), heart.place((-13, 38, 20))[0]],
        (18 * s * k, 14 * s),
    )
    ventricle = union(chamber, outflow)
    atrium = union(
        ellipsoid(heart.place((35, 3, 1))[0], s * k * np.array([23.0, 24.0, 29.0])),
        tube([heart.place((33, 3, 0))[0], heart.at(1.15 * reach, 0, 2)], (18 * s * k, 17 * s * k)),
    )
    upper = tube(heart.place((38, -5, 20), (39, -4, 55), (37, 0, 140)), (10 * s, 9 * s, 9 * s))
    lower = tube(heart.place((33, -10, -15), (32, -24, -50), (28, -38, -130)), 12 * s)
    return [
        Organ("blood_upper_vein", upper),
        Organ("blood_lower_vein", lower),
        Organ("vessel_wall", grown(atrium, 1.5)),
        Organ("blood_right", cut(atrium, ventricle), RA_BLOOD),
        Organ("myocardium", grown(ventricle, 3.5)),
        Organ("blood_right", ventricle, RV_BLOOD),
    ]


def pulmonary_artery(heart: Heart) -> list[Organ]:
    """Trunk from the right outflow tract, left of the aorta, and its two branches to the hila."""
    s, r = heart.scale, 0.85 * heart.aorta_radius
    trunk = tube(heart.place((-13, 38, 24), (-17, 30, 42), (-15, 8, 56), (-12, -8, 57)), r)
    right = tube(
        heart.place((-12, -6, 56), (14, -14, 54), (46, -20, 48), (74, -32, 30)),
        (r, 10 * s, 9 * s, 4),
    )
    left = tube(
        heart.place((-12, -6, 56), (-30, -20, 58), (-48, -32, 50), (-70, -44, 25)),
        (r, 10 * s, 9 * s, 4),
    )
    tree = union(trunk, right, left)
    hila = within(
        half_space(heart.place((46, 0, 0))[0], (1, 0, 0)),
        half_space(heart.place((-46, 0, 0))[0], (-1, 0, 0)),
    )
    return [
        Organ("vessel_wall", grown(tree, 1.5)),
        Organ("blood_right", tree),
        Organ("blood_right", within(tree, hila), PULMONARY_ARTERY),
    ]


def heart_organs(heart: Heart) -> list[Organ]:
    """All organs of the heart and its vessels, in painting order."""
    wall, blood = left_ventricle(heart)
    return [
        *right_heart(heart),
        *pulmonary_artery(heart),
        *pulmonary_veins(heart),
        *wall,
        *left_atrium(heart),
        *aorta(heart),
        *blood,
    ]


def mediastinum(heart: Heart) -> Shape:
    """The space without lung: the pericardial sac with its fat, and the column of great vessels."""
    s = heart.scale
    column = ellipsoid(heart.place((12, -28, 0))[0], (40 * s, 62.0, np.inf))
    front = ellipsoid(heart.place((6, 45, 0))[0], (16 * s, 70.0, np.inf))
    ventricles = ellipsoid(
        heart.at(0.35 * (heart.radius + heart.wall), 0, 20 * s),
        (
            heart.radius + heart.wall + 24 * s,
            heart.radius + heart.wall + 9,
            heart.length + 8,
        ),
        heart.axes,
    )
    atria = ellipsoid(heart.place((14, -4, 6))[0], s * np.array([50.0, 42.0, 50.0]))
    return union(column, front, ventricles, atria)
