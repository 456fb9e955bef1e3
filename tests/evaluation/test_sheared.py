"""Distances on a sheared grid are those between points of the world, against a search through all pairs of points."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from uda.data.geometry import Geometry, turn_to
from uda.evaluation.dice_hd95 import score_case

CLASSES = ("background", "a")
SHAPE = (14, 12, 9)


def surface(mask: np.ndarray) -> np.ndarray:
    """Indices ``[n, 3]`` of voxels with a neighbour outside."""
    padded = np.pad(mask, 1)
    inner = padded.copy()
    for axis, step in itertools.product(range(3), (1, -1)):
        inner &= np.roll(padded, step, axis)
    return np.argwhere(mask & ~inner[1:-1, 1:-1, 1:-1])


def truth(a: np.ndarray, b: np.ndarray, affine: np.ndarray) -> tuple[float, float]:
    """HD95 and ASSD by all pairs, through the whole affine."""
    one, other = (surface(m) @ affine[:3, :3].T + affine[:3, 3] for m in (a, b))
    pairs = np.sqrt(((one[:, None] - other[None]) ** 2).sum(-1))
    forth, back = pairs.min(1), pairs.min(0)
    return (
        float(np.percentile(np.concatenate([forth, back]), 95)),
        float((forth.mean() + back.mean()) / 2),
    )


def blobs(seed: int, shape: tuple[int, ...] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    grid = np.indices(shape).astype(float)
    masks = []
    for _ in range(2):
        centre = np.array(shape) * rng.uniform(0.35, 0.65, 3)
        radius = np.array(shape) * rng.uniform(0.15, 0.3, 3)
        away = (grid - centre[:, None, None, None]) / radius[:, None, None, None]
        masks.append((away**2).sum(0) < 1)
    masks[0][tuple(rng.integers(0, shape))] = True
    return masks[0], masks[1]


def affine_of(seed: int, shear: float) -> np.ndarray:
    """Rotated, anisotropic, of either hand, axes in any order; sheared by up to ``shear``."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    upper = np.eye(3)
    upper[np.triu_indices(3, 1)] = rng.uniform(-shear, shear, 3)
    order = list(itertools.permutations(range(3)))[seed % 6]
    affine = np.eye(4)
    affine[:3, :3] = (rotation @ upper @ np.diag(rng.uniform(0.4, 5, 3)))[:, order]
    affine[:3, 3] = rng.normal(size=3) * 100
    return affine


def geometry_of(affine: np.ndarray, shape: tuple[int, int, int] = SHAPE) -> Geometry:
    return Geometry(
        affine=tuple(tuple(float(x) for x in row) for row in affine),
        shape=shape,
        turn=tuple((int(to), int(flip)) for to, flip in turn_to(affine, "RAS")),
        slice_axis=2,
        resized=shape[:2],
        depth=shape[2],
        start=(0, 0),
        size=shape[:2],
    )


@pytest.mark.parametrize("shear", [0.0, 1e-5, 0.02, 0.6])
@pytest.mark.parametrize("seed", range(8))
def test_distances_are_those_of_the_world(seed: int, shear: float) -> None:
    a, b = blobs(seed)
    affine = affine_of(seed, shear)
    steps = geometry_of(affine).steps
    assert np.ndim(steps) == (2 if shear else 1)
    found = score_case(a.astype(np.uint8), b.astype(np.uint8), CLASSES, steps, "row", "case")[0]
    assert (found.hd95, found.assd) == pytest.approx(truth(a, b, affine), rel=1e-9)


def test_at_right_angles_distances_are_by_spacing_as_ever() -> None:
    for seed in range(20):
        affine = affine_of(seed, 0.0)
        affine[:3, :3] = affine[:3, :3].astype(np.float32)
        geometry = geometry_of(affine)
        assert geometry.steps == geometry.spacing
        assert geometry.skew == 1.0
        norms = np.linalg.norm(affine[:3, :3], axis=0)
        assert geometry.spacing == tuple(norms.tolist())
        own = [axis for axis, (to, _) in sorted(enumerate(geometry.turn), key=lambda t: t[1][0])]
        assert geometry.turned_spacing == tuple(norms[[own[2], own[0], own[1]]].tolist())


def test_a_gantry_tilted_by_20_degrees_by_hand() -> None:
    """Two voxels 3 slices apart: 3 steps of (0, 3 tan 20°, 3) mm, which is longer than 9 mm."""
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    affine[1, 2] = 3 * np.tan(np.radians(20))
    a, b = np.zeros((2, *SHAPE), np.uint8)
    a[5, 5, 2] = b[5, 5, 5] = 1
    geometry = geometry_of(affine)
    found = score_case(a, b, CLASSES, geometry.steps, "row", "case")[0]
    assert found.hd95 == pytest.approx(9 / np.cos(np.radians(20)), rel=1e-12)
    assert geometry.turned_spacing == pytest.approx((3.0, 1.0, 1.0), rel=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_a_missed_structure_is_the_longest_diagonal_away(seed: int) -> None:
    affine = affine_of(seed, 0.6)
    corners = [
        affine[:3, :3] @ (np.array(at) * SHAPE) for at in itertools.product((0, 1), repeat=3)
    ]
    longest = max(
        float(np.linalg.norm(one - other)) for one, other in itertools.combinations(corners, 2)
    )
    reference = blobs(seed)[1].astype(np.uint8)
    steps = geometry_of(affine).steps
    found = score_case(np.zeros_like(reference), reference, CLASSES, steps, "row", "case")[0]
    assert found.state == "missed"
    assert found.hd95 == found.assd == pytest.approx(longest, rel=1e-12)
