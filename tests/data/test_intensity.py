"""Intensities: units, offsets, and values that stay unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uda.config.card import Prepare
from uda.data.intensity import foreground, normalize
from uda.data.volumes import Volume, prepare_image
from uda.errors import DataError

HERE = Path("ct.nii.gz")
WINDOW = (-150.0, 350.0)


def ct() -> np.ndarray:
    """Hounsfield units: air, fat, muscle, contrast, bone."""
    rng = np.random.default_rng(0)
    array = rng.choice([-1024, -100, 50, 300, 1500], (12, 10, 4)).astype(np.int16)
    array[0, 0, 0], array[1, 0, 0] = -1024, 1500
    return array


def prepared(array: np.ndarray, **extra: Any) -> np.ndarray:
    prepare = Prepare(**{"size": array.shape[:2], **extra})
    return prepare_image(Volume(array, np.eye(4)), prepare, HERE)[0]


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float64])
def test_a_ct_stored_without_its_offset_is_refused_with_the_setting_that_mends_it(
    dtype: type[np.generic],
) -> None:
    stored = (ct() + 1024).astype(dtype)
    with pytest.raises(DataError, match=r"intensities are 0…2524") as caught:
        prepared(stored, normalize=WINDOW)
    assert caught.value.where == HERE
    assert caught.value.fix == "set prepare.offset: -1024 in the card"
    mended = prepared(stored, normalize=WINDOW, offset=-1024)
    np.testing.assert_array_equal(mended, prepared(ct(), normalize=WINDOW))


def test_what_may_be_in_the_right_units_is_taken() -> None:
    mr = np.abs(ct()) + 900  # up to 2400, but the window does not speak of Hounsfield units
    assert np.isfinite(prepared(mr, normalize=(0.0, 2000.0))).all()
    assert np.isfinite(prepared(mr)).all()
    assert np.isfinite(prepared(ct(), normalize=WINDOW)).all()
    dim = np.clip(ct(), 0, 1900)  # a heart cut out without air and without metal
    assert np.isfinite(prepared(dim, normalize=WINDOW)).all()


def test_the_units_are_looked_at_before_the_crop() -> None:
    """A crop without air is no reason to refuse a CT."""
    array = np.full((20, 20, 3), -1000, np.int16)
    array[8:12, 8:12] = np.random.default_rng(0).integers(0, 2500, (4, 4, 3))
    found = prepared(array, size=(4, 4), normalize=WINDOW)
    assert float(found.max()) == 1


def test_an_offset_moves_the_window_and_nothing_else() -> None:
    found = prepared(ct() + 7, offset=-7, normalize=WINDOW)
    np.testing.assert_array_equal(found, prepared(ct(), normalize=WINDOW))
    np.testing.assert_allclose(prepared(ct(), offset=300), prepared(ct()), atol=1e-6)
    np.testing.assert_array_equal(
        prepared(ct(), offset=0.5, normalize="none")[2], ct()[..., 2] + 0.5
    )


def test_none_leaves_values_as_they_are_and_pads_with_the_least() -> None:
    array = np.random.default_rng(0).normal(3, 2, (6, 5, 2))
    found = prepared(array, size=(8, 9), normalize="none")
    inside = np.moveaxis(array, 2, 0).astype(np.float32)
    np.testing.assert_array_equal(found[:, 1:7, 2:7], inside)
    outside = np.ones(found.shape, bool)
    outside[:, 1:7, 2:7] = False
    assert (found[outside] == inside.min()).all()


def test_none_still_clips_where_the_card_says_so() -> None:
    array = np.arange(101, dtype=np.float32).reshape(1, 101, 1)
    found = prepared(array, clip=(10.0, 90.0), normalize="none")
    np.testing.assert_allclose(found[0, 0], np.clip(np.arange(101), 10, 90), atol=1e-4)


@pytest.mark.parametrize("normalize", ["zscore", "minmax", "none", (-50.0, 50.0)])
def test_the_files_own_array_is_not_touched(normalize: Any) -> None:
    array = np.random.default_rng(0).normal(0, 30, (8, 8, 4)).astype(np.float32)
    before = array.copy()
    prepared(array, normalize=normalize, clip=(5.0, 95.0), offset=3)
    np.testing.assert_array_equal(array, before)


def test_zscore_is_exact_where_values_are_large_and_close() -> None:
    array = (1e5 + np.random.default_rng(0).normal(0, 1, (40, 40, 20))).astype(np.float32)
    found = prepared(array).astype(np.float64)
    assert float(found.mean()) == pytest.approx(0, abs=1e-6)
    assert float(found.std()) == pytest.approx(1, abs=1e-6)


def test_foreground_is_the_box_of_what_is_brighter_than_the_mean_of_all_parts() -> None:
    planes = np.zeros((6, 9, 8), np.float32)
    planes[1, 2:4, 3:7] = 5
    planes[5, 6, 1] = 5
    planes[3, 0, 0] = 0.01  # brighter than its own part's mean, darker than the volume's
    assert foreground(iter([planes[:2], planes[2:4], planes[4:]])) == ((2, 1), (7, 7))
    assert foreground(iter([np.full((2, 3, 3), 7, np.float32)])) is None


def test_what_to_do_about_a_constant_image_is_true_with_a_card_and_with_a_trained_model() -> None:
    whole = (slice(0, 8), slice(0, 8))
    with pytest.raises(DataError) as caught:
        normalize(np.full((2, 8, 8), 7, np.float32), whole, Prepare(size=(8, 8)), Path("x.nii.gz"))
    assert "constant (7)" in str(caught.value)
    assert "in the card, for a trained model in the card of its training" in str(caught.value)
