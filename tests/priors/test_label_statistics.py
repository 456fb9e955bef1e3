"""Statistics of labels, their sizes and places: counted by hand, compared with plain loops, never NaN."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from uda.errors import PriorError
from uda.priors import (
    from_source_maps,
    label_maps,
    label_ratios,
    label_table,
    mean_ratios,
    size_distribution,
)
from uda.types import IGNORE

HAND = [
    np.array([[0, 0], [1, 1]], np.uint8),
    np.array([[0, 2], [IGNORE, IGNORE]], np.uint8),
    np.array([[0, 0], [0, 1]], np.uint8),
    np.full((2, 2), IGNORE, np.uint8),
]
LABELS = npst.arrays(
    np.uint8,
    st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6)),
    elements=st.sampled_from([0, 1, 2, IGNORE]),
).filter(lambda labels: bool((labels != IGNORE).any()))


def test_ratios_of_each_slice_by_hand() -> None:
    expected = [[1 / 2, 1 / 2, 0], [1 / 2, 0, 1 / 2], [3 / 4, 1 / 4, 0], [0, 0, 0]]
    np.testing.assert_allclose(label_table(HAND, 3), expected)
    assert label_table([], 3).shape == (0, 3)


def test_sizes_by_hand() -> None:
    sizes = size_distribution(label_table(HAND, 4))
    assert sizes.shown == pytest.approx((1, 2 / 3, 1 / 3, 0))
    # two slices show class 1, with 1/4 and 1/2: quantiles lie on the line between
    steps = [1 / 4 + level / 4 for level in (0.05, 0.25, 0.5, 0.75, 0.95)]
    assert sizes.quantiles[1] == pytest.approx(steps)
    assert sizes.quantiles[2] == (0.5,) * 5
    assert sizes.quantiles[3] == (0.0,) * 5
    assert sizes.faults(4) == []


@settings(max_examples=25, deadline=None)
@given(labels=LABELS)
def test_ratios_and_sizes_agree_with_plain_loops(labels: Any) -> None:
    rows = []
    for label in labels:
        known = [int(v) for v in label.ravel() if v != IGNORE]
        if known:
            rows.append([known.count(c) / len(known) for c in range(4)])
    ratio, presence = label_ratios(labels, 4)
    sizes = size_distribution(label_table(labels, 4))
    assert sizes.faults(4) == []
    for c in range(4):
        seen = [row[c] for row in rows if row[c] > 0]
        assert ratio[c] == pytest.approx(math.fsum(row[c] for row in rows) / len(rows))
        assert presence[c] == pytest.approx(math.fsum(seen) / len(seen) if seen else 0)
        assert sizes.shown[c] == pytest.approx(len(seen) / len(rows))
        expected = np.percentile(seen, (5, 25, 50, 75, 95)) if seen else np.zeros(5)
        assert sizes.quantiles[c] == pytest.approx(expected)


def test_one_pass_over_the_labels_gives_what_two_would() -> None:
    assert mean_ratios(label_table(HAND, 3)) == label_ratios(HAND, 3)


@pytest.mark.parametrize("labels", [[], [np.full((2, 2), IGNORE, np.uint8)]])
def test_no_labelled_pixel_is_refused(labels: list[Any]) -> None:
    with pytest.raises(PriorError, match="no slice has a labelled pixel"):
        size_distribution(label_table(labels, 3))
    with pytest.raises(PriorError, match="no slice has a labelled pixel"):
        label_maps(labels, 3, sigma=1)


# Maps ----------------------------------------------------------------------------------------------


def test_maps_without_smoothing_are_the_shares_of_the_slices() -> None:
    expected = torch.tensor(
        [[[1, 2 / 3], [1 / 2, 0]], [[0, 0], [1 / 2, 1]], [[0, 1 / 3], [0, 0]]], dtype=torch.float32
    )
    torch.testing.assert_close(label_maps(HAND, 3, sigma=0), expected)


def test_a_pixel_without_any_label_gets_the_overall_ratio() -> None:
    labels = [np.array([[0, 0, 1, IGNORE]], np.uint8)]
    found = label_maps(labels, 3, sigma=0)
    torch.testing.assert_close(found[:, 0, 3], torch.tensor([2 / 3, 1 / 3, 0]))
    wide = np.full((1, 200), IGNORE, np.uint8)
    wide[0, :3] = [0, 0, 1]
    far = label_maps([wide], 2, sigma=1)
    torch.testing.assert_close(far[:, 0, -1], torch.tensor([2 / 3, 1 / 3]))
    near = far[:, 0, 4]
    assert near[1] > near[0]  # the nearest labelled pixel is of class 1


@settings(max_examples=25, deadline=None)
@given(labels=LABELS, sigma=st.sampled_from([0.0, 0.5, 1.0, 4.0]))
def test_maps_sum_to_1_at_every_pixel(labels: Any, sigma: float) -> None:
    found = label_maps(labels, 3, sigma)
    assert found.dtype == torch.float32
    assert found.shape == (3, *labels.shape[1:])
    assert bool((found >= 0).all())
    torch.testing.assert_close(found.sum(0), torch.ones(labels.shape[1:]))


def smoothed(labels: Any, classes: int, sigma: float) -> Any:
    """The definition, pixel by pixel: every labelled pixel votes with a Gaussian of its distance."""
    _, height, width = labels.shape
    reach = int(4 * sigma + 0.5)
    votes = np.zeros((classes, height, width))
    for y, x in np.ndindex(height, width):
        for v, u in np.ndindex(height, width):
            if max(abs(y - v), abs(x - u)) <= reach:
                weight = math.exp(-((y - v) ** 2 + (x - u) ** 2) / (2 * sigma**2))
                for c in range(classes):
                    votes[c, y, x] += weight * (labels[:, v, u] == c).sum()
    return votes / votes.sum(0)


@settings(max_examples=10, deadline=None)
@given(labels=LABELS)
def test_smoothing_is_the_definition(labels: Any) -> None:
    expected = smoothed(labels, 3, 2.0)
    np.testing.assert_allclose(label_maps(labels, 3, 2.0).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_border_of_the_image_has_no_say() -> None:
    """A class that fills the image fills its map up to the corner, whatever the smoothing."""
    full = [np.ones((9, 9), np.uint8)]
    for sigma in (0.0, 1.0, 5.0):
        found = label_maps(full, 3, sigma)
        torch.testing.assert_close(found[1], torch.ones(9, 9))
        assert float(found[[0, 2]].abs().max()) == 0


def test_a_prior_with_maps_says_how_they_were_made() -> None:
    maps = label_maps(HAND, 3, 1.5)
    ratio, _ = label_ratios(HAND, 3)
    made = from_source_maps(("a", "b", "c"), ratio, maps, 1.5)
    assert made.maps is maps
    assert made.supervision == ("source_labels",)
    assert "Gaussian of 1.5 pixels" in made.how
    with pytest.raises(PriorError, match="maps have shape"):
        from_source_maps(("a", "b", "c"), ratio, maps[:2], 1.5)
