"""Superpixels: segmentation, neighbours and descriptions by hand; a known relation is recovered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label as components

from uda.errors import PriorError
from uda.priors.superpixels import (
    classify,
    describe,
    grid_of,
    majority,
    neighbours,
    reduced,
    superpixels,
    surest,
)
from uda.types import IGNORE


def halves(channels: int, height: int = 24, width: int = 36) -> Any:
    """Dark to the left of column 13, bright to the right, with some noise."""
    rng = np.random.default_rng(0)
    image = np.where(np.arange(width) < 13, 40.0, 200.0) + rng.normal(
        0, 3, (channels, height, width)
    )
    return image.astype(np.float32).clip(0, 255)


# Segmentation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("segments", [4, 12, 40])
def test_superpixels_keep_to_an_edge_and_are_in_one_piece(channels: int, segments: int) -> None:
    ids = superpixels(halves(channels), segments)
    assert ids.dtype == np.int16
    assert np.unique(ids).tolist() == list(range(int(ids.max()) + 1))
    assert segments / 2 <= ids.max() + 1 <= 2 * segments
    left, right = set(ids[:, :13].ravel()), set(ids[:, 13:].ravel())
    assert not left & right
    assert all(components(ids == number)[1] == 1 for number in np.unique(ids))


def test_a_slices_unit_and_a_bright_spot_change_nothing() -> None:
    image = halves(1)
    expected = superpixels(image, 12)
    assert (superpixels(image * 7 - 1000, 12) == expected).all()
    spot = image.copy()
    spot[0, 0, 0] = 1e5
    assert (superpixels(spot, 12)[4:, 4:] == expected[4:, 4:]).mean() > 0.9


def test_a_flat_image_is_cut_into_a_grid() -> None:
    for image in (np.zeros((1, 20, 20), np.float32), np.full((3, 20, 20), 9, np.float32)):
        assert 2 <= superpixels(image, 9).max() + 1 <= 18


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(PriorError, match="20000 at most"):
        superpixels(halves(1), 20_001)
    with pytest.raises(PriorError, match="not finite"):
        superpixels(np.full((1, 8, 8), np.nan, np.float32), 4)


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), stride=st.integers(1, 9))
def test_the_coarser_grid_covers_the_image_and_keeps_its_mean(
    height: int, width: int, stride: int
) -> None:
    grid = grid_of((height, width), stride)
    assert all(
        0 <= cells * stride - side < stride
        for cells, side in zip(grid, (height, width), strict=True)
    )
    small = reduced(np.full((2, height, width), 5, np.uint8), grid)
    assert small.shape == (2, *grid)
    np.testing.assert_allclose(small, 5)


# Descriptions --------------------------------------------------------------------------------------

IDS = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 3]], dtype=np.int16)


def test_neighbours_by_hand() -> None:
    assert neighbours(IDS).tolist() == [
        [0, 1, 0, 2],  # left of 0 is the edge
        [0, 1, 1, 2],  # below 1 are one pixel of 2 and one of 3: the first of them
        [2, 3, 0, 2],  # above 2 are two pixels of 0 and one of 1
        [2, 3, 1, 3],
    ]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), segments=st.integers(2, 30))
def test_mirrored_images_have_mirrored_neighbours(seed: int, segments: int) -> None:
    rng = np.random.default_rng(seed)
    image = reduced(rng.uniform(0, 255, (3, 24, 40)), (12, 20))
    ids = superpixels(image, segments)
    assert (neighbours(ids[:, ::-1])[:, [1, 0, 2, 3]] == neighbours(ids)).all()


def test_a_description_is_own_scores_place_and_scores_around() -> None:
    scores = np.stack([IDS, 10 * IDS]).astype(np.float32)
    found = describe(IDS, scores)
    assert found.shape == (4, 12)
    np.testing.assert_allclose(
        found[2], [2, 20, 5 / 6, 3 / 8, 2, 20, 3, 30, 0, 0, 2, 20], rtol=1e-6
    )
    np.testing.assert_allclose(found[0, 2:4], [1 / 3, 1 / 4], rtol=1e-6)


def test_scores_are_averaged_over_a_superpixel() -> None:
    scores = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    np.testing.assert_allclose(describe(IDS, scores)[:, 0], [2.5, 4.5, 9, 11])


def test_the_majority_counts_pixels_of_the_whole_image_and_ignored_ones_too() -> None:
    label = np.zeros((6, 8), np.uint8)
    label[:4, :4] = IGNORE
    label[0, 0] = 7
    label[:4, 4:] = 2
    label[:2, 4:7] = 3
    label[4:, 6] = 5
    label[4, 7] = 5
    assert majority(IDS, label).tolist() == [IGNORE, 2, 0, 5]


# Classes -------------------------------------------------------------------------------------------


def descriptions(seed: int, count: int = 400) -> tuple[Any, Any]:
    """Descriptions around one centre a class, with labels 0, 1 and 4."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(3, size=count)
    centres = np.random.default_rng(99).normal(size=(3, 6)) * 3
    return (centres[kinds] + rng.normal(size=(count, 6))).astype(np.float32), np.array([0, 1, 4])[
        kinds
    ]


def test_classes_are_found_again_through_another_camera() -> None:
    source, labels = descriptions(0)
    target, truth = descriptions(1)
    moved = target * np.array([3, 0.1, 1, 7, 1, 0.5]) + np.arange(6)
    found, confidence = classify(source, labels.astype(np.uint8), moved.astype(np.float32), 0.01)
    assert found.dtype == np.uint8
    assert (found == truth).mean() > 0.97
    assert ((confidence >= 1 / 3) & (confidence <= 1)).all()
    landmarks = surest(found, confidence, 0.5)
    sure = landmarks != IGNORE
    assert sure.sum() == 200
    assert (landmarks[sure] == truth[sure]).mean() > (found == truth).mean() - 1e-9
    assert confidence[sure].min() >= confidence[~sure].max()


def test_superpixels_without_a_label_teach_nothing() -> None:
    source, labels = descriptions(0)
    target, _ = descriptions(1)
    wrong = labels.astype(np.uint8)
    wrong[:100] = IGNORE
    found, _ = classify(source, wrong, target, 0.01)
    assert IGNORE not in found
    other = source.copy()
    other[:100] = other[:100][::-1]  # their order does not matter
    again, _ = classify(other, wrong, target, 0.01)
    assert (found == again).all()


@pytest.mark.parametrize(
    ("source", "labels", "l2", "message"),
    [
        (np.ones((3, 2)), [IGNORE] * 3, 0.01, "no superpixel of the source is labelled"),
        (np.full((3, 2), np.nan), [0, 1, 1], 0.01, "not finite"),
        (np.ones((3, 2)), [0, 1, 1], 0.0, "l2 is 0"),
    ],
)
def test_what_teaches_nothing_is_refused(source: Any, labels: Any, l2: float, message: str) -> None:
    with pytest.raises(PriorError, match=message):
        classify(source, np.array(labels, np.uint8), np.ones((2, 2), np.float32), l2)


@pytest.mark.parametrize(("kept", "expected"), [(1.0, 5), (0.6, 3), (0.01, 1)])
def test_the_kept_share_is_of_the_whole_data_set(kept: float, expected: int) -> None:
    classes, confidence = np.arange(5, dtype=np.uint8), np.array([0.1, 0.9, 0.5, 0.5, 0.2])
    found = surest(classes, confidence, kept)
    assert (found != IGNORE).sum() == expected
    assert found[1] == 1
    assert classes.tolist() == [0, 1, 2, 3, 4]
