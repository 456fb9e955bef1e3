"""NIfTI headers that say where an image lies, in every way they can; each is read as the standard says, or refused."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from feeding import Reader, Seed
from nifti_standard import (
    MILLIMETRES,
    SIZE,
    TYPES,
    Reading,
    RefusedError,
    corners,
    field,
    pack,
    placed,
    read,
)
from volume_files import CARD, SHAPE, image

from uda.data.nifti import read_header, read_nifti
from uda.data.traits import volume_traits
from uda.data.volumes import prepare_image, write_volume
from uda.errors import DataError
from uda.evaluation.surface_distance import surface_distances
from uda.priors.makers import from_sizes_ml

CLOSE = 1e-6
"""Largest relative error of a length, an area or a volume."""
ODD = (0.0, -0.0, -1.5, 1e-38, 1e-6, 1e5, 3e38, np.nan, np.inf, -np.inf)
PLACES = ("pixdim", "quatern", "srow", "row")
EXTREMES: dict[str, tuple[Any, ...]] = {
    "xyzt_units": (4, 5, 6, 7, 255, 0, 3),
    "qform_code": (-1, 0, 3, 5, 99, 32767),
    "sform_code": (-1, 0, 3, 5, 99, 32767),
    "vox_offset": (0, -1, 16, 348, 350, 352.5, 544, 1e9, np.nan, np.inf),
    "scl_slope": (1e-30, 1e30, np.inf, -np.inf),
    "scl_inter": ODD,
    "dim": (
        [2, 9, 32, 0, 0, 0, 0, 0], [1, 288, 1, 1, 1, 1, 1, 1], [5, 9, 8, 4, 1, 1, 1, 1], [7, 9, 8, 4, 1, 1, 1, 1],
        [4, 9, 8, 2, 2, 1, 1, 1], [5, 3, 8, 4, 1, 3, 1, 1], [3, 9, 8, 1, 1, 1, 1, 1], [3, 9, 8, 5, 1, 1, 1, 1],
        [0, 9, 8, 4, 1, 1, 1, 1], [8, 9, 8, 4, 1, 1, 1, 1], [-1, 9, 8, 4, 1, 1, 1, 1], [3, 9, 0, 4, 1, 1, 1, 1],
        [3, 9, -8, 4, 1, 1, 1, 1], [3, 1, 1, 1, 1, 1, 1, 1], [6, 9, 8, 4, 1, 1, 0, 1],
    ),
}  # fmt: skip
PLAIN = {
    "dim": [3, *SHAPE, 1, 1, 1, 1], "pixdim": [1.0, 1.5, 1.5, 4, 1, 0, 0, 0], "vox_offset": 352, "scl_slope": 1.0,
    "xyzt_units": 2, "qform_code": 0, "sform_code": 1, "srow": [1.5, 0, 0, 7, 0, 1.5, 0, 8, 0, 0, 4, 9],
    "datatype": 4, "bitpix": 16,
}  # fmt: skip


def drawn(rng: Random) -> bytes:
    """A file whose fields are drawn: mostly sound, now and then with a field at an extreme."""
    version, order = rng.choice((1, 1, 2)), rng.choice("<>")
    fields = _fields(rng, version)
    if rng.random() < 0.4:
        _spoil(fields, rng)
    kind = rng.choice(tuple(TYPES))
    fields["datatype"], fields["bitpix"] = kind, 8 * np.dtype(TYPES[kind]).itemsize
    voxels = np.random.default_rng(0).integers(0, 120, SHAPE).astype(order + TYPES[kind])
    content = pack(version, order, fields, voxels.tobytes(order="F"))
    return gzip.compress(content, 1, mtime=0) if rng.random() < 0.5 else content


def _fields(rng: Random, version: int) -> dict[str, Any]:
    """Fields that contradict neither the standard nor each other, but that the two transforms may differ."""
    unit = rng.choice((0, 1, 2, 2, 2, 3))
    sides = np.array([10 ** rng.uniform(-3.5, 1.8) for _ in range(3)])
    if rng.random() < 0.8:
        sides = np.array([rng.uniform(0.3, 6) for _ in range(3)])
    rotation, quatern = _rotation(rng)
    factor = rng.choice((-1.0, 1.0))
    origin = np.array([rng.uniform(-300, 300) for _ in range(3)])
    sform = rotation @ np.diag(sides * (1, 1, factor))
    if rng.random() < 0.3:
        sform = sform @ _shear(rng)
    if rng.random() < 0.2:
        sform = sform @ np.diag([rng.choice((-1, 1)) for _ in range(3)])
    moved = origin + (0 if rng.random() < 0.7 else rng.choice((1e-3, 40.0, -1e5)))
    scale = 1 / MILLIMETRES[unit]
    return {
        "dim": rng.choice(
            ([3, *SHAPE, 1, 1, 1, 1], [4, *SHAPE, 1, 1, 1, 1], [3, *SHAPE, 0, 0, 0, 0])
        ),
        "pixdim": [
            rng.choice((factor, factor, 0.0 if factor > 0 else factor)),
            *(sides * scale),
            1,
            0,
            0,
            0,
        ],
        "vox_offset": SIZE[version] + rng.choice((4, 4, 4, 20, 68)),
        "scl_slope": rng.choice((0.0, 1.0, 0.5, -2.0, float("nan"))),
        "scl_inter": rng.choice((0.0, 0.0, -1024.0)),
        "xyzt_units": unit | rng.choice((0, 8, 16)),
        "qform_code": rng.choice((0, 1, 1, 2)),
        "sform_code": rng.choice((0, 1, 1, 2, 4)),
        "quatern": quatern,
        "qoffset": origin * scale,
        "srow": np.column_stack([sform, moved]).ravel() * scale,
    }


def _rotation(rng: Random) -> tuple[np.ndarray, np.ndarray]:
    """A rotation as a matrix and as the last three of its quaternion: any, about one axis, by a half turn, none."""
    found = np.array([rng.gauss(0, 1) for _ in range(4)])
    how = rng.random()
    if how < 0.2:
        found = np.array([1.0, 0, 0, 0])
    elif how < 0.4:
        found[rng.choice(((1, 2), (1, 3), (2, 3))),] = 0
    elif how < 0.6:
        found[0] = 0
    a, b, c, d = found / np.linalg.norm(found) * (1 if found[0] >= 0 else -1)
    axis, angle = np.array([b, c, d]), 2 * np.arctan2(np.linalg.norm([b, c, d]), a)
    x, y, z = axis / (np.linalg.norm(axis) or 1)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross  # Rodrigues
    return matrix, axis


def _shear(rng: Random) -> np.ndarray:
    matrix = np.eye(3)
    matrix[rng.choice(((0, 1), (0, 2), (1, 2), (2, 0)))] = rng.choice(
        (1e-9, 0.05, 0.4, -0.36, 2.0, 30.0)
    )
    return matrix


def _spoil(fields: dict[str, Any], rng: Random) -> None:
    """Put one or two fields at an extreme."""
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(
            ("xyzt_units", "code", "dim", "vox_offset", "scl_slope", "scl_inter", *PLACES)
        )
        if name == "code":
            name = rng.choice(("qform_code", "sform_code"))
        if name == "quatern":
            fields[name] = np.array(fields[name]) * rng.choice((1.0000005, 1.1, 30, np.nan, 0))
        elif name == "row":
            at = 4 * rng.randrange(3)
            fields["srow"][at : at + 4] = rng.choice((0.0, fields["srow"][:4]))
        elif name in PLACES:
            at = rng.randrange(12 if name == "srow" else 4)
            fields[name][at] = rng.choice(ODD if at or name == "srow" else (0.0, 7.0, -3.0, *ODD))
        else:
            fields[name] = rng.choice(EXTREMES[name])


def seeds() -> list[Seed]:
    """A plain file; what is fed is drawn, under both endings."""
    content = pack(1, "<", PLAIN, np.arange(np.prod(SHAPE), dtype="<i2").tobytes())
    return [Seed(name, content, mutate=lambda _, rng: drawn(rng)) for name in ("x.nii", "x.nii.gz")]


def read_place(path: Path) -> None:
    """As the standard reads it, to the last millimetre; what is refused was to be refused.

    Raises:
        DataError: the product's refusal, which the standard or the rules ask for.
        AssertionError: anything else.
    """
    data = path.read_bytes()
    try:
        right: Reading | None = read(data)
        why = right.free if right else ""
    except RefusedError as error:
        right, why = None, str(error)
    try:
        volume = read_nifti(path)
    except DataError as error:
        if why:
            raise
        raise AssertionError(f"a sound file was refused: {error}") from error
    assert right is not None, f"read as {volume.affine.tolist()}, though {why}"
    assert volume.array.shape == right.shape
    with np.errstate(all="ignore"):
        assert np.allclose(volume.array, right.values, rtol=1e-5, atol=0, equal_nan=True), (
            "other values"
        )
    assert volume.unit_known == right.unit_known, f"unit known: {volume.unit_known}"
    assert volume.placed == right.placed, f"placed: {volume.placed}"
    same_place(volume.affine, right)
    assert np.array_equal(read_header(path).affine, volume.affine)
    if right.disagree is not None and not why:
        told = any("mm apart" in str(one) for one in volume.remarks)
        assert told == right.disagree, f"said {list(map(str, volume.remarks))}"
    measured(replace(volume, array=image()[tuple(map(slice, right.shape))]), right, path)
    mask = path.with_name("mask.nii.gz")
    write_volume(mask, np.ones(right.shape, np.uint8), volume.affine, header=volume.header)
    same_viewers(data, gzip.decompress(mask.read_bytes()), right)


def same_place(affine: np.ndarray, right: Reading) -> None:
    """Sides, volume and, where the file says it, the world positions of the corner voxels."""
    own, sides = right.affine[:3, :3], np.sqrt((right.affine[:3, :3] ** 2).sum(0))
    assert np.allclose(np.linalg.norm(affine[:3, :3], axis=0), sides, rtol=CLOSE, atol=0), (
        f"sides {np.linalg.norm(affine[:3, :3], axis=0).tolist()}, right {sides.tolist()}"
    )
    volumes = abs(np.linalg.det(affine[:3, :3])), abs(np.linalg.det(own))
    assert np.isclose(*volumes, rtol=10 * CLOSE, atol=0), f"mm³ {volumes}"
    if right.placed:
        there, here = (placed(one, corners(right.shape)) for one in (right.affine, affine))
        limit = CLOSE * (np.abs(there).max() + sides.max() * max(right.shape))
        assert np.abs(there - here).max() <= limit, (
            f"corners {here.tolist()}, right {there.tolist()}"
        )


def measured(volume: Any, right: Reading, path: Path) -> None:
    """Distances, areas and volumes that the product computes."""
    if min(right.shape) < 2:
        return
    _, grid = prepare_image(volume, CARD.prepare, path)
    cell = abs(np.linalg.det(right.affine[:3, :3]))
    traits = volume_traits(volume, grid)
    assert np.isclose(
        traits["pixel_mm"] ** 2 * traits["slice_mm"], cell, rtol=10 * CLOSE, atol=0
    ), "traits"
    whole = grid.depth * grid.size[0] * grid.size[1] * cell / 1000  # ml; nothing is resampled
    prior = from_sizes_ml(("background", "disk"), {"disk": whole / 10}, [grid], "target_sizes")
    assert np.isclose(prior.ratio[1], 0.1, rtol=1e-4), f"a tenth of the image is {prior.ratio}"
    one, two = np.zeros(right.shape, bool), np.zeros(right.shape, bool)
    ends = corners(right.shape)[[1, 6]]
    one[tuple(ends[0])], two[tuple(ends[1])] = True, True
    far = float(np.linalg.norm(right.affine[:3, :3] @ (ends[1] - ends[0])))
    found = surface_distances(one, two, grid.steps)[0][0]
    assert np.isclose(found, far, rtol=10 * CLOSE, atol=0), f"{found} mm apart, right {far}"


def same_viewers(original: bytes, mask: bytes, right: Reading) -> None:
    """Whatever a viewer trusts, it shows the mask where it shows the image."""
    found = read(mask)
    assert found.shape == right.shape
    assert found.unit_known == right.unit_known
    assert found.placed == right.placed
    assert np.array_equal(found.affine, right.affine), f"the mask lies at {found.affine.tolist()}"
    for name in ("qform_code", "sform_code", "quatern", "qoffset", "srow", "xyzt_units"):
        held = [field(one, name) for one in (original, mask)]
        assert np.array_equal(*held, equal_nan=True), f"{name}: {held}"


READERS = [Reader("place of a NIfTI image", seeds, read_place, share=2)]
