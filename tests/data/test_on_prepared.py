"""Points of a file on the prepared grid."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from uda.config.card import Prepare
from uda.data.geometry import Volume, label_slices, on_prepared
from uda.data.volumes import prepare_image


def geometry_of(orientation: str, affine: np.ndarray, **settings: object) -> object:
    rng = np.random.default_rng(0)
    volume = Volume(rng.normal(size=(12, 10, 7)).astype(np.float32), affine)
    prepare = Prepare.model_validate({"orientation": orientation, "size": (8, 8), **settings})
    from pathlib import Path

    return prepare_image(volume, prepare, Path("x"))[1]


FLIPPED = np.array([[0, -2, 0, 5], [1.5, 0, 0, 3], [0, 0, -4, 1], [0, 0, 0, 1]], float)


@pytest.mark.parametrize("orientation", ["stored", "RAS", "LIP", "SAR"])
@pytest.mark.parametrize("slice_axis", [0, 1, 2])
@pytest.mark.parametrize("affine", [np.diag([1.0, 2.0, 3.0, 1.0]), FLIPPED])
def test_voxels_lie_where_their_labels_lie(
    orientation: str, slice_axis: int, affine: np.ndarray
) -> None:
    """Without resampling each voxel's centre falls into the pixel that holds its label."""
    geometry = geometry_of(orientation, affine, slice_axis=slice_axis)
    numbers = np.arange(12 * 10 * 7).reshape(12, 10, 7)
    low = label_slices((numbers % 251).astype(np.uint8), geometry)
    high = label_slices((numbers // 251).astype(np.uint8), geometry)
    seen = low.astype(int) + 251 * high.astype(int)
    places = np.array(list(product(range(12), range(10), range(7))))
    found = np.floor(on_prepared(places + 0.5, geometry)).astype(int)
    inside = ((found >= 0) & (found < seen.shape)).all(1)
    assert inside.any()
    np.testing.assert_array_equal(seen[tuple(found[inside].T)], np.flatnonzero(inside))


def test_resampling_keeps_the_borders_of_the_volume() -> None:
    geometry = geometry_of("stored", np.diag([1.0, 1.0, 4.0, 1.0]), spacing=2.0, slice_spacing=2.0)
    moved = replace(geometry, start=(0, 0))
    np.testing.assert_allclose(on_prepared(np.zeros((1, 3)), moved), [[0, 0, 0]])
    corner = on_prepared(np.array([[12.0, 10.0, 7.0]]), moved)
    np.testing.assert_allclose(corner, [[geometry.depth, *geometry.resized]])
