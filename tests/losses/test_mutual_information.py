"""Mutual information: range, optima, what α and the scope do, and that it does not collapse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from uda.losses.class_ratio import class_ratio, class_ratio_kl
from uda.losses.entropy import entropy
from uda.losses.mutual_information import mutual_information

seeds = st.integers(0, 2**31)
class_counts = st.sampled_from([2, 3, 19])
spaces = st.sampled_from([(5,), (3, 4), (2, 3, 4)])
scopes = st.sampled_from(["image", "batch"])
alphas = st.sampled_from([0.0, 0.1, 1.0, 2.5])


def draw(seed: int, classes: int, space: tuple[int, ...], images: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(images, classes, *space, generator=generator)


def shannon(q: np.ndarray) -> float:
    return -float(np.sum(q * np.log(q)))


def reference(logits: np.ndarray, alpha: float, over: str) -> float:
    flat = np.moveaxis(logits.astype(np.float64), 1, -1)
    flat = flat.reshape(len(logits), -1, logits.shape[1])
    p = np.exp(flat - flat.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    groups = [np.concatenate(list(p))] if over == "batch" else list(p)
    values = []
    for group in groups:
        conditional = np.mean([shannon(pixel) for pixel in group])
        values.append(-(shannon(group.mean(0)) - alpha * conditional))
    return float(np.mean(values))


def sure(labels: Tensor, classes: int) -> Tensor:
    """Logits that are certain of the labels ``[b, n]``."""
    return 200.0 * torch.nn.functional.one_hot(labels, classes).movedim(-1, 1).float()


@settings(max_examples=25, deadline=None)
@given(seeds, class_counts, spaces, alphas, scopes)
def test_value_equals_a_float64_reference(
    seed: int, classes: int, space: tuple[int, ...], alpha: float, over: Any
) -> None:
    logits = draw(seed, classes, space)
    expected = reference(logits.numpy(), alpha, over)
    assert float(mutual_information(logits, alpha, over)) == pytest.approx(expected, abs=1e-5)
    exact = float(mutual_information(logits.double(), alpha, over))
    assert exact == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("over", ["image", "batch"])
def test_gradient_equals_finite_differences_of_the_reference(over: Any) -> None:
    logits = draw(1, 3, (2, 2)).double().requires_grad_()
    (gradient,) = torch.autograd.grad(mutual_information(logits, 0.5, over), logits)
    base = logits.detach().numpy()
    for place in np.ndindex(base.shape):
        step = np.zeros_like(base)
        step[place] = 1e-5
        slope = (reference(base + step, 0.5, over) - reference(base - step, 0.5, over)) / 2e-5
        assert float(gradient[place]) == pytest.approx(slope, abs=1e-9, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(seeds, class_counts, spaces, alphas, scopes)
def test_range(seed: int, classes: int, space: tuple[int, ...], alpha: float, over: Any) -> None:
    value = float(mutual_information(draw(seed, classes, space), alpha, over))
    assert -math.log(classes) - 1e-6 < value < max(0.0, alpha - 1) * math.log(classes) + 1e-6


@pytest.mark.parametrize("classes", [2, 19])
@pytest.mark.parametrize("over", ["image", "batch"])
def test_values_of_balanced_uniform_and_collapsed_predictions(classes: int, over: Any) -> None:
    every_class = torch.arange(classes).repeat(2, 3)
    balanced = mutual_information(sure(every_class, classes), over=over)
    assert float(balanced) == pytest.approx(-math.log(classes), abs=1e-5)
    collapsed = mutual_information(sure(0 * every_class, classes), over=over)
    assert float(collapsed) == pytest.approx(0, abs=1e-6)
    for alpha in (0.5, 1.0, 2.0):
        undecided = mutual_information(torch.zeros(2, classes, 4), alpha, over)
        assert float(undecided) == pytest.approx((alpha - 1) * math.log(classes), abs=1e-5)


def test_images_of_one_class_each_are_well_over_the_batch_and_ill_over_the_image() -> None:
    logits = sure(torch.tensor([[0, 0, 0], [1, 1, 1]]), 2)
    assert float(mutual_information(logits, over="batch")) == pytest.approx(-math.log(2), abs=1e-6)
    assert float(mutual_information(logits, over="image")) == pytest.approx(0, abs=1e-6)


@settings(max_examples=10, deadline=None)
@given(seeds, class_counts)
def test_it_is_a_uniform_prior_on_the_ratio_plus_entropy(seed: int, classes: int) -> None:
    logits = draw(seed, classes, (4, 5))
    uniform = torch.full((classes,), 1 / classes)
    prior = class_ratio_kl(logits, uniform, "prediction_to_prior", "batch", eps=0.0)
    expected = float(prior) - math.log(classes) + 0.3 * float(entropy(logits, normalized=False))
    assert float(mutual_information(logits, 0.3)) == pytest.approx(expected, abs=1e-5)


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_over_images_a_batch_is_the_mean_of_its_halves_and_over_the_batch_it_is_less(
    seed: int,
) -> None:
    logits = draw(seed, 3, (5,), images=4)
    for over in ("image", "batch"):
        halves = [float(mutual_information(logits[s], over=over)) for s in (slice(2), slice(2, 4))]
        whole = float(mutual_information(logits, over=over))
        if over == "image":
            assert whole == pytest.approx(sum(halves) / 2, abs=1e-6)
        else:  # Jensen: the ratio of more images is nearer to uniform
            assert whole < sum(halves) / 2 - 1e-6


def train_bias(alpha: float) -> Tensor:
    """Class ratio after training one bias a class on fixed features, from one where class 0 leads."""
    features = 3 * torch.randn(4, 3, 100, generator=torch.Generator().manual_seed(0))
    bias = torch.tensor([3.0, 0.0, 0.0], requires_grad=True)
    optimizer = torch.optim.Adam([bias], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        mutual_information(features + bias[:, None], alpha).backward()
        optimizer.step()
    return class_ratio(features + bias[:, None]).mean(0).detach()


def test_it_leads_from_one_class_to_equal_sizes() -> None:
    torch.testing.assert_close(train_bias(1.0), torch.full((3,), 1 / 3), atol=0.05, rtol=0)


def test_entropy_with_too_much_weight_still_collapses() -> None:
    assert float(train_bias(20.0)[0]) > 0.95


def test_descent_on_free_logits_makes_every_pixel_sure_and_the_classes_equal() -> None:
    logits = draw(6, 3, (6,)).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        mutual_information(logits).backward()
        optimizer.step()
    assert float(mutual_information(logits.detach())) == pytest.approx(-math.log(3), abs=0.05)
    counts = logits.argmax(1).flatten().bincount()
    assert 3 <= int(counts.amin()) <= int(counts.amax()) <= 5
