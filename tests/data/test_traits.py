"""Traits of an image before preparation: they do not depend on the orientation of its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from uda.config.card import Prepare
from uda.data.traits import Traits, photo_traits, volume_traits
from uda.data.volumes import Volume, prepare_image

HERE = Path("image")
RAMP = np.arange(20 * 16 * 10, dtype=np.int16).reshape(20, 16, 10, order="F")


def traits(array: np.ndarray, affine: np.ndarray | None = None, size: int = 16) -> Traits:
    affine = np.diag([2.0, 3.0, 5.0, 1.0]) if affine is None else affine
    volume = Volume(array, affine)
    _, geometry = prepare_image(volume, Prepare(size=(size, size)), HERE)
    return volume_traits(volume, geometry)


def test_sizes_are_those_of_the_whole_file_in_mm() -> None:
    found = traits(RAMP)
    assert {name: found[name] for name in ("slice_mm", "slices", "depth_mm")} == {
        "slice_mm": pytest.approx(5),
        "slices": 10,
        "depth_mm": pytest.approx(50),
    }
    assert found["height_mm"] == pytest.approx(40)
    assert found["width_mm"] == pytest.approx(48)
    assert found["pixel_mm"] == pytest.approx(6**0.5)


def test_intensities_are_those_of_the_file_where_the_network_looks() -> None:
    array = np.full((20, 16, 10), 1000, np.int16)
    array[8:12, 6:10] = np.random.default_rng(0).integers(0, 100, (4, 4, 10))
    found = traits(array, size=4)
    levels = np.percentile(array[8:12, 6:10], (5, 50, 95))
    names = ("intensity_p5", "intensity_p50", "intensity_p95")
    assert [found[name] for name in names] == pytest.approx(levels.tolist())


@pytest.mark.parametrize("codes", ["LPS", "AIR", "SRA", "PIL"])
def test_a_file_with_turned_axes_has_the_same_traits(codes: str) -> None:
    array = np.random.default_rng(0).integers(0, 400, (20, 16, 10)).astype(np.int16)
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(tuple(codes)))
    affine = np.diag([2.0, 3.0, 5.0, 1.0]) @ inv_ornt_aff(turn, array.shape)
    found = traits(apply_orientation(array, turn), affine)
    plain = traits(array)
    assert found.pop("roughness") == pytest.approx(plain.pop("roughness"), rel=0.1)  # either way
    assert found == pytest.approx(plain)


def test_noise_is_rough_and_a_smooth_image_is_not() -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:32, :32]
    smooth = np.repeat((100 * np.sin(rows / 9) + 100 * np.cos(columns / 7))[..., None], 4, 2)
    noise = rng.permutation(smooth.reshape(-1)).reshape(smooth.shape)
    assert traits(smooth, size=32)["roughness"] < 0.06
    assert traits(noise, size=32)["roughness"] > 0.25


def test_scaling_an_image_scales_its_intensities_and_not_its_roughness() -> None:
    array = np.random.default_rng(0).integers(0, 400, (20, 16, 10)).astype(np.int16)
    once, thrice = traits(array), traits(3 * array)
    assert thrice["intensity_p95"] == pytest.approx(3 * once["intensity_p95"])
    assert thrice["roughness"] == pytest.approx(once["roughness"])


def test_intensities_at_the_ends_of_float32_give_finite_traits() -> None:
    array = np.linspace(-3e38, 3e38, 20 * 16 * 10, dtype=np.float32).reshape(20, 16, 10)
    volume = Volume(array, np.eye(4))
    _, geometry = prepare_image(Volume(RAMP, np.eye(4)), Prepare(size=(16, 16)), HERE)
    assert np.isfinite(list(volume_traits(volume, geometry).values())).all()


def test_of_a_photograph_light_colour_and_size_are_known() -> None:
    photo = np.zeros((30, 40, 3), np.uint8)
    photo[...] = (100, 50, 50)
    found = photo_traits(photo)
    assert found["red"] == pytest.approx(0.5)
    assert found["blue"] == pytest.approx(0.25)
    assert found["brightness_p50"] == pytest.approx(0.299 * 100 + 0.701 * 50)
    assert found["roughness"] == 0
    assert (found["height_px"], found["width_px"], found["aspect"]) == (
        30,
        40,
        pytest.approx(4 / 3),
    )


def test_a_black_photograph_has_no_colour_rather_than_an_error() -> None:
    found = photo_traits(np.zeros((3, 4, 3), np.uint8))
    assert found["red"] == found["blue"] == pytest.approx(1 / 3)


def test_a_large_photograph_is_sampled_and_says_nearly_the_same() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), dtype=np.uint8)
    small, large = photo_traits(photo[:300, :400]), photo_traits(photo)
    for name in ("brightness_p5", "brightness_p50", "brightness_p95", "roughness", "red"):
        assert large[name] == pytest.approx(small[name], rel=0.02)
