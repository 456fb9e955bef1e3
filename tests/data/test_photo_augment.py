"""Random changes of photographs: each image by its own seed, its label along with it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from uda.config.augment import PhotoAugment
from uda.data import photo_augment
from uda.data.photo_augment import changed
from uda.errors import RunError
from uda.types import IGNORE

FILL = (124, 116, 104)
RNG = np.random.default_rng(0)
LABELS = (np.add.outer(np.arange(48) // 8, np.arange(64) // 8) % 2).astype(np.uint8)
LABELS = np.stack([LABELS, 1 - LABELS, LABELS.T[:48].repeat(2, 1)[:, :64]])
IMAGES = np.repeat(LABELS[:, None] * 200 + 20, 3, axis=1).astype(np.uint8)
NOISY = RNG.integers(0, 256, (6, 3, 24, 32), dtype=np.uint8)
CLASSES = RNG.integers(0, 19, (6, 24, 32), dtype=np.uint8)
EVERYTHING = PhotoAugment(
    scale=(0.5, 2.0),
    crop=(20, 28),
    mirror=True,
    brightness=0.3,
    contrast=0.3,
    saturation=0.3,
    hue=0.1,
    blur=0.5,
    noise=0.5,
)


def both(images: Any, labels: Any, settings: PhotoAugment, seeds: Any, workers: int = 1) -> Any:
    found, moved = changed(images, labels, settings, seeds, FILL, workers)
    assert found.dtype == np.uint8
    assert moved is None or moved.dtype == np.uint8
    return found, moved


def test_no_change_gives_back_the_arrays_and_needs_no_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(photo_augment, "_compose", None)
    monkeypatch.setattr(photo_augment, "opencv", None)
    found = changed(NOISY, CLASSES, PhotoAugment(), range(6), FILL)
    assert found[0] is NOISY
    assert found[1] is CLASSES
    colors = PhotoAugment(hue=0.5, blur=0.9, noise=0.9, contrast=0.9)
    assert changed(NOISY, None, colors, range(6), FILL)[0] is NOISY


def test_the_library_does_not_ask_the_network_for_its_newest_version() -> None:
    both(NOISY, None, PhotoAugment(mirror=True), range(6))
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"
    from albumentations import check_version  # type: ignore[import-untyped]

    assert check_version.opener is None


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 2**63 - 1), min_size=6, max_size=6), st.permutations(range(6)))
def test_an_image_depends_on_its_seed_alone(seeds: list[int], order: list[int]) -> None:
    images, labels = both(NOISY, CLASSES, EVERYTHING, seeds)
    threaded = both(NOISY, CLASSES, EVERYTHING, seeds, workers=3)
    np.testing.assert_array_equal(threaded[0], images)
    np.testing.assert_array_equal(threaded[1], labels)
    turned = both(NOISY[order], CLASSES[order], EVERYTHING, [seeds[i] for i in order])
    np.testing.assert_array_equal(turned[0], images[order])
    np.testing.assert_array_equal(turned[1], labels[order])
    alone = both(NOISY[3:4], CLASSES[3:4], EVERYTHING, seeds[3:4])
    np.testing.assert_array_equal(alone[0][0], images[3])
    np.testing.assert_array_equal(alone[1][0], labels[3])


def test_other_seeds_give_other_images_and_the_inputs_stay() -> None:
    before = NOISY.tobytes(), CLASSES.tobytes()
    found = both(NOISY[[0] * 6], CLASSES[[0] * 6], EVERYTHING, range(6))[0]
    assert len({image.tobytes() for image in found}) == 6
    assert (NOISY.tobytes(), CLASSES.tobytes()) == before


@pytest.mark.parametrize("scale", [(0.4, 0.9), (1.0, 1.0), (1.1, 2.7)])
def test_label_and_image_stay_on_each_other(scale: tuple[float, float]) -> None:
    """Boards of eight pixels: where the changed image is bright, the changed label is 1."""
    moves = PhotoAugment(scale=scale, crop=(40, 50), mirror=True)
    for seed in range(0, 30, 3):
        images, labels = both(IMAGES, LABELS, moves, [seed, seed + 1, seed + 2])
        inside = labels != IGNORE
        sure = inside & ((images[:, 0] < 70) | (images[:, 0] > 170))
        assert sure.sum() > 0.4 * inside.sum()
        np.testing.assert_array_equal(labels[sure], images[:, 0][sure] > 120)
        mismatch = (images[:, 0] > 120) != (labels == 1)
        assert mismatch[inside].mean() < 0.08


def test_mirroring_turns_half_of_the_images_from_left_to_right() -> None:
    images, labels = NOISY[[0] * 40], CLASSES[[0] * 40]
    found, moved = both(images, labels, PhotoAugment(mirror=True), range(40))
    turned = [np.array_equal(image, NOISY[0, :, :, ::-1]) for image in found]
    kept = [np.array_equal(image, NOISY[0]) for image in found]
    assert all(a != b for a, b in zip(turned, kept, strict=True))
    assert 10 < sum(turned) < 30
    for mirrored, label in zip(turned, moved, strict=True):
        np.testing.assert_array_equal(label, CLASSES[0, :, ::-1] if mirrored else CLASSES[0])


def test_a_crop_is_a_piece_of_the_image_anywhere_in_it() -> None:
    rows = np.broadcast_to(np.arange(24, dtype=np.uint8)[:, None], (24, 32))
    columns = np.broadcast_to(np.arange(32, dtype=np.uint8), (24, 32))
    image = np.stack([rows, columns, rows])[None].repeat(200, 0)
    found, labels = both(image, image[:, 1], PhotoAugment(crop=(9, 12)), range(200))
    assert found.shape == (200, 3, 9, 12)
    starts = found[:, :2, 0, 0]
    expected = np.stack(np.meshgrid(np.arange(9), np.arange(12), indexing="ij"))
    np.testing.assert_array_equal(found[:, :2], starts[:, :, None, None] + expected)
    np.testing.assert_array_equal(labels, found[:, 1])
    assert set(starts[:, 0].tolist()) == set(range(16))
    assert set(starts[:, 1].tolist()) == set(range(21))


def test_outside_the_image_a_crop_is_the_mean_colour_and_ignored() -> None:
    moves = PhotoAugment(scale=(0.5, 0.5), crop=(30, 20))
    found, labels = both(NOISY, CLASSES, moves, range(6))
    outside = labels == IGNORE
    assert (outside.sum((1, 2)) == (30 - 12) * 16 + 30 * (20 - 16)).all()
    for channel, value in enumerate(FILL):
        assert (found[:, channel][outside] == value).all()
    assert len({label.tobytes() for label in outside}) > 1  # not always at the same edge
    alone = both(NOISY, None, moves, range(6))
    assert alone[1] is None
    np.testing.assert_array_equal(alone[0], found)


def test_how_large_an_image_becomes_does_not_tell_where_it_is_cut() -> None:
    """If each change had its own stream from the same seed, the changes would be correlated."""
    columns = np.broadcast_to(np.arange(200, dtype=np.uint8), (1, 3, 8, 200)).repeat(300, 0)
    found, _ = both(columns, None, PhotoAugment(scale=(1.0, 3.0), crop=(8, 64)), range(300))
    step = (found[:, 0, 4, -1].astype(float) - found[:, 0, 4, 0]) / 63  # 1 / scale
    start = (found[:, 0, 4, 0] + 0.5) / (200 - 64 * step)  # share of the way
    assert abs(np.corrcoef(step, start)[0, 1]) < 0.2
    assert start.std() > 0.2


COLORS: dict[str, dict[str, float]] = {
    name: {name: value}
    for name, value in {
        "brightness": 0.5,
        "contrast": 0.5,
        "saturation": 0.9,
        "hue": 0.4,
        "blur": 0.999,
        "noise": 0.999,
    }.items()
}


@pytest.mark.parametrize("name", COLORS)
def test_what_is_random_in_colours_leaves_labels_and_target_images_alone(name: str) -> None:
    settings = PhotoAugment.model_validate(COLORS[name])
    found, labels = both(NOISY, CLASSES, settings, range(6))
    assert all((a != b).any() for a, b in zip(found, NOISY, strict=True))
    np.testing.assert_array_equal(labels, CLASSES)
    assert changed(NOISY, None, settings, range(6), FILL)[0] is NOISY
    mirrored = settings.model_copy(update={"mirror": True})
    bare = both(NOISY, None, PhotoAugment(mirror=True), range(6))[0]
    np.testing.assert_array_equal(both(NOISY, None, mirrored, range(6))[0], bare)


def test_blur_and_noise_meet_their_share_of_the_images() -> None:
    images: NDArray[np.uint8] = NOISY[[0] * 60]
    labels = CLASSES[[0] * 60]
    for name in ("blur", "noise"):
        settings = PhotoAugment.model_validate({name: 0.25})
        found = both(images, labels, settings, range(60))[0]
        assert 5 <= sum((image != NOISY[0]).any() for image in found) <= 26


def test_saturation_keeps_grey_grey_and_brightness_keeps_the_hue() -> None:
    grey = np.broadcast_to(NOISY[:, :1], NOISY.shape)
    found = both(grey, CLASSES, PhotoAugment(saturation=0.9, contrast=0.5), range(6))[0]
    assert np.ptp(found.astype(int), axis=1).max() <= 1
    red = np.zeros_like(NOISY)
    red[:, 0] = 100
    found = both(red, CLASSES, PhotoAugment(brightness=0.5), range(6))[0]
    assert not found[:, 1:].any()
    assert found[:, 0].min() >= 50
    assert found[:, 0].max() <= 150


def test_a_store_that_may_not_be_written_is_read(tmp_path: Any) -> None:
    path = tmp_path / "images.npy"
    np.save(path, NOISY)
    stored = np.load(path, mmap_mode="r")
    found = both(stored, CLASSES, EVERYTHING, range(6))[0]
    np.testing.assert_array_equal(found, both(NOISY, CLASSES, EVERYTHING, range(6))[0])


def test_a_change_that_fails_says_for_which_image_and_seed() -> None:
    with pytest.raises(RunError, match=r"where: +\(0, 77\)"):
        both(NOISY[:1], CLASSES[:1, :5], PhotoAugment(mirror=True), [77])
    with pytest.raises(ValueError, match="zip"):
        both(NOISY, CLASSES, EVERYTHING, [1, 2])
