"""Centroid pseudo-labels: the balanced sample, the centroids, the assignment, and when they beat the prediction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from uda.errors import DataError
from uda.losses import (
    assign_centroids,
    balanced_pixels,
    centroid_pseudo_labels,
    class_centroids,
)
from uda.types import IGNORE

seeds = st.integers(0, 2**31)
class_counts = st.sampled_from([2, 3, 19])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(seed: int, n: int, d: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and probabilities that have something to do with one another."""
    generator = seeded(seed)
    features = torch.randn(n, d, generator=generator)
    to_classes = torch.randn(d, classes, generator=generator)
    noise = torch.randn(n, classes, generator=generator)
    return features, (features @ to_classes + noise).softmax(1)


def clusters(seed: int, per_class: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Features around three directions, of very different lengths, and the truth."""
    generator = seeded(seed)
    truth = torch.arange(3).repeat_interleave(per_class)
    directions = torch.eye(3)[truth] * 3 + 0.5 * torch.randn(len(truth), 3, generator=generator)
    return directions * torch.rand(len(truth), 1, generator=generator).add(0.05), truth


def reference(features: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SHOT pixel by pixel: labels and centroids."""
    unit = [f / np.linalg.norm(f) for f in features.astype(np.float64)]
    classes = p.shape[1]

    def nearest(centroids: list[np.ndarray]) -> list[int]:
        cosine = [[f @ c / np.linalg.norm(c) for c in centroids] for f in unit]
        return [int(np.argmax(row)) for row in cosine]

    soft = [
        sum(p[i, k] * unit[i] for i in range(len(unit))) / p[:, k].sum() for k in range(classes)
    ]
    first = nearest(soft)
    hard = []
    for k in range(classes):
        own = [unit[i] for i in range(len(unit)) if first[i] == k]
        hard.append(np.mean(own, axis=0) if own else soft[k])
    labels = nearest(hard)
    return np.array(labels), np.stack([c / np.linalg.norm(c) for c in hard])


# ------------------------------------------------------------------------------------------- balanced sample


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(0, 300), class_counts, st.integers(0, 20))
def test_the_sample_holds_the_smaller_of_what_there_is_and_what_is_asked_for(
    seed: int, n: int, classes: int, per_class: int
) -> None:
    generator = seeded(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    labels[torch.rand(n, generator=generator) < 0.2] = IGNORE
    drawn = balanced_pixels(labels, classes, per_class, generator)
    there = torch.bincount(labels[labels != IGNORE], minlength=classes)
    taken = torch.bincount(labels[drawn], minlength=classes)
    assert torch.equal(taken, there.clamp_max(per_class))
    assert bool((drawn.diff() > 0).all())  # rising, so none twice


def test_the_same_generator_draws_the_same_and_another_one_others() -> None:
    labels = torch.zeros(1000, dtype=torch.long)
    first, again, other = (balanced_pixels(labels, 1, 50, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_pixel_of_a_class_is_as_likely_to_be_drawn() -> None:
    labels = torch.tensor([0, 1, 0, 0, 1, 0, 0])
    generator, hits = seeded(2), torch.zeros(7)
    for _ in range(2000):
        hits[balanced_pixels(labels, 2, 1, generator)] += 1
    # one of five, and one of two; the standard deviation of a count of 400 in 2000 is 18
    torch.testing.assert_close(hits[labels == 0], torch.full((5,), 400.0), atol=75, rtol=0)
    torch.testing.assert_close(hits[labels == 1], torch.full((2,), 1000.0), atol=95, rtol=0)


# ------------------------------------------------------------------------------------ centroids and assignment


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(2, 40), st.integers(2, 6), class_counts)
def test_labels_and_centroids_equal_a_float64_reference(
    seed: int, n: int, d: int, classes: int
) -> None:
    features, p = draw(seed, n, d, classes)
    features, p = features.double(), p.double()
    labels, centroids = centroid_pseudo_labels(features, p)
    expected_labels, expected = reference(features.numpy(), p.numpy())
    np.testing.assert_allclose(centroids.numpy(), expected, atol=1e-9)
    assert np.array_equal(labels.numpy(), expected_labels)
    single = class_centroids(features.float(), p.float())
    assert single.dtype == torch.float32
    assert torch.equal(class_centroids(features, p), centroids)
    torch.testing.assert_close(single.norm(dim=1), torch.ones(classes))


@settings(max_examples=20, deadline=None)
@given(seeds, class_counts)
def test_only_directions_matter_and_classes_and_pixels_may_be_renamed(
    seed: int, classes: int
) -> None:
    features, p = (tensor.double() for tensor in draw(seed, 40, 5, classes))
    labels, centroids = centroid_pseudo_labels(features, p)
    generator = seeded(seed)
    length = torch.rand(40, 1, generator=generator).double() + 0.1
    close = {"atol": 1e-9, "rtol": 0.0}
    torch.testing.assert_close(class_centroids(features * length, p), centroids, **close)
    order = torch.randperm(40, generator=generator)
    moved, moved_centroids = centroid_pseudo_labels(features[order], p[order])
    torch.testing.assert_close(moved_centroids, centroids, **close)
    assert torch.equal(moved, labels[order])
    names = torch.randperm(classes, generator=generator)
    renamed, renamed_centroids = centroid_pseudo_labels(features, p[:, names])
    torch.testing.assert_close(renamed_centroids, centroids[names], **close)
    assert torch.equal(names[renamed], labels)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator).double())[0]
    turned, turned_centroids = centroid_pseudo_labels(features @ turn, p)
    torch.testing.assert_close(turned_centroids, centroids @ turn, **close)
    assert torch.equal(turned, labels)


def test_a_step_by_hand() -> None:
    """Four pixels at 0°, 90°, 90° and 45°; the last is predicted as class 0 and lies between."""
    features = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 5.0], [1.0, 1.0]])
    p = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.8, 0.2]])
    # soft: class 0 at (1 + .8/√2, .8/√2)/1.8, 19.9°; class 1 at (.2/√2, 2 + .2/√2)/2.2, 86.2°; 45° goes to class 0
    labels, centroids = centroid_pseudo_labels(features, p)
    assert labels.tolist() == [0, 1, 1, 0]
    # hard: the middle of 0° and 45°, and 90°
    angle = np.deg2rad(22.5)
    expected = torch.tensor([[np.cos(angle), np.sin(angle)], [0.0, 1.0]]).float()
    torch.testing.assert_close(centroids, expected)


def test_features_correct_a_prediction_that_is_often_wrong() -> None:
    features, truth = clusters(3)
    generator = seeded(4)
    p = torch.full((len(truth), 3), 0.2)
    p[torch.arange(len(truth)), truth] += 0.4
    wrong = torch.rand(len(truth), generator=generator) < 0.35
    p[wrong] = p[wrong].roll(1, dims=1)
    labels, _ = centroid_pseudo_labels(features, p)
    assert float((p.argmax(1) == truth).float().mean()) < 0.75
    assert float((labels == truth).float().mean()) > 0.98


def test_the_balanced_sample_saves_a_class_that_is_rare() -> None:
    """97 % background whose soft votes drown the rare class: on the balanced sample its centroid is its own."""
    features, truth = clusters(5, per_class=1000)
    keep = torch.cat([torch.arange(1000), torch.arange(1000, 1015), torch.arange(2000, 2015)])
    features, truth = features[keep], truth[keep]
    p = torch.full((len(truth), 3), 0.3)
    p[torch.arange(len(truth)), truth] += 0.1
    chosen = balanced_pixels(p.argmax(1), 3, 15, seeded(6))
    own = torch.eye(3)
    all_pixels = (class_centroids(features, p) * own).sum(1)[1:]
    balanced = (class_centroids(features[chosen], p[chosen]) * own).sum(1)[1:]
    assert bool((balanced > 0.9).all())
    assert bool((balanced > all_pixels - 0.02).all())
    labels = assign_centroids(features, class_centroids(features[chosen], p[chosen]))
    assert float((labels == truth).float().mean()) > 0.95


def test_an_image_is_assigned_as_its_pixels_are_in_2d_and_in_3d() -> None:
    pixels, _ = draw(7, 2 * 24, 5, 3)
    centroids = torch.randn(4, 5, generator=seeded(8))
    flat = assign_centroids(pixels, centroids)
    for space in ((4, 6), (2, 3, 4)):
        images = pixels.view(2, *space, 5).movedim(-1, 1)
        assert torch.equal(assign_centroids(images, centroids), flat.view(2, *space))


def test_the_length_of_a_centroid_does_not_matter() -> None:
    pixels, _ = draw(9, 50, 5, 3)
    centroids = torch.randn(4, 5, generator=seeded(10))
    stretched = centroids * torch.tensor([[0.01], [1.0], [5.0], [300.0]])
    assert torch.equal(assign_centroids(pixels, stretched), assign_centroids(pixels, centroids))


def test_a_class_that_nobody_is_near_keeps_its_soft_centroid() -> None:
    features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    # class 2 is a little of everything, so that each pixel is nearer to another class
    p = torch.tensor([[0.9, 0.0, 0.1], [0.9, 0.0, 0.1], [0.0, 0.9, 0.1]])
    labels, centroids = centroid_pseudo_labels(features, p)
    assert labels.tolist() == [0, 0, 1]
    unit = torch.nn.functional.normalize(features, dim=1)
    mean = unit.mean(0)
    torch.testing.assert_close(centroids[2], mean / mean.norm())


def test_a_class_without_any_probability_takes_no_pixel() -> None:
    features, _ = clusters(11)
    features = (
        -features.abs()
    )  # every cosine with a centroid of zeros would be larger than the others
    p = torch.full((len(features), 4), 1 / 3)
    p[:, 2] = 0
    labels, centroids = centroid_pseudo_labels(features, p)
    assert bool((centroids[2] == 0).all())
    assert not bool((labels == 2).any())
    against = assign_centroids(-features, torch.eye(3) * torch.tensor([[-1.0], [-1.0], [0.0]]))
    assert not bool((against == 2).any())


def test_probabilities_near_underflow_still_have_a_direction() -> None:
    features, truth = clusters(12)
    p = torch.full((len(truth), 3), 1e-36)
    p[:, 0] = 1.0
    p[truth == 1, 1] = 1e-30
    centroids = class_centroids(features, p)
    assert bool(torch.isfinite(centroids).all())
    torch.testing.assert_close(centroids.norm(dim=1), torch.ones(3))
    assert int(centroids[1].argmax()) == 1


def test_features_of_zeros_and_extreme_ones_give_no_nan() -> None:
    features = torch.tensor([[0.0, 0.0], [1e18, 0.0], [0.0, 1e-18], [-1e18, 1e18]])
    p = torch.full((4, 2), 0.5)
    labels, centroids = centroid_pseudo_labels(features, p)
    assert bool(torch.isfinite(centroids).all())
    assert bool(((labels == 0) | (labels == 1)).all())


def test_one_pixel_has_the_label_that_it_is_predicted_as_when_that_is_certain() -> None:
    labels, centroids = centroid_pseudo_labels(
        torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 1.0]])
    )
    assert labels.tolist() == [1]
    torch.testing.assert_close(centroids, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_reckoned_in_float32(dtype: torch.dtype) -> None:
    features, p = draw(13, 60, 5, 3)
    half = features.to(dtype)
    labels, centroids = centroid_pseudo_labels(half, p)
    expected_labels, expected = centroid_pseudo_labels(half.float(), p)
    assert torch.equal(centroids, expected)
    assert torch.equal(labels, expected_labels)


def test_no_gradient_flows_through_labels_or_centroids() -> None:
    features, p = draw(14, 20, 5, 3)
    centroids = class_centroids(features.requires_grad_(), p.requires_grad_())
    assert not centroids.requires_grad
    assert not assign_centroids(features, centroids).requires_grad


@pytest.mark.usefixtures("as_users_see")
def test_what_is_refused() -> None:
    with pytest.raises(DataError, match="features of 4 pixels and probabilities of 3"):
        class_centroids(torch.ones(4, 2), torch.ones(3, 2))
    with pytest.raises(DataError, match="features of 0 pixels"):
        centroid_pseudo_labels(torch.ones(0, 2), torch.ones(0, 2))
    with pytest.raises(DataError, match="3 features a pixel, 2 in the centroids"):
        assign_centroids(torch.ones(1, 3, 4, 4), torch.ones(2, 2))
