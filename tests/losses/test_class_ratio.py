"""Class ratio and its divergence from a prior: optimum, direction, scope, gradient, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from uda.errors import PriorError
from uda.losses import class_ratio, class_ratio_kl

seeds = st.integers(0, 2**31)
class_counts = st.sampled_from([2, 3, 19])
spaces = st.sampled_from([(5,), (3, 4), (2, 3, 4)])
directions = st.sampled_from(["prediction_to_prior", "prior_to_prediction"])
scopes = st.sampled_from(["image", "batch"])
kinds = st.sampled_from([("mean", 1.0), ("max_normalized", 1.0), ("max_normalized", 5.0)])
DIRECTIONS = ("prediction_to_prior", "prior_to_prediction")


def draw(seed: int, classes: int, space: tuple[int, ...], images: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(images, classes, *space, generator=generator)


def draw_prior(seed: int, classes: int, images: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(classes, 3.0), images) * 0.99 + (
        0.01 / classes
    )


def reference_ratio(logits: np.ndarray, kind: str, power: float) -> np.ndarray:
    """``[b, k]`` in float64, straight from the definition."""
    flat = logits.astype(np.float64).reshape(*logits.shape[:2], -1)
    p = np.exp(flat - flat.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    if kind == "mean":
        return p.mean(2)
    r = ((p / p.max(1, keepdims=True)) ** power).sum(2)
    return r / r.sum(1, keepdims=True)


def reference(
    logits: np.ndarray,
    prior: np.ndarray,
    direction: str,
    over: str,
    kind: str = "mean",
    power: float = 1.0,
) -> float:
    ratio = reference_ratio(logits, kind, power)
    if over == "batch":
        ratio, prior = ratio.mean(0, keepdims=True), prior.mean(0, keepdims=True)
    if direction == "prediction_to_prior":
        terms = ratio * (np.log(ratio) - np.log(prior + 1e-10))
    else:
        terms = prior * (np.log(prior) - np.log(ratio))
    return float(terms.sum(1).mean())


@settings(max_examples=25, deadline=None)
@given(seeds, class_counts, spaces, kinds)
def test_ratio_is_positive_sums_to_1_and_equals_a_float64_reference(
    seed: int, classes: int, space: tuple[int, ...], kind: Any
) -> None:
    logits = draw(seed, classes, space)
    ratio = class_ratio(logits, *kind)
    assert bool((ratio > 0).all())
    torch.testing.assert_close(ratio.sum(1), torch.ones(2), atol=1e-5, rtol=0)
    expected = reference_ratio(logits.numpy(), *kind)
    np.testing.assert_allclose(ratio.numpy(), expected, rtol=1e-4, atol=1e-7)


def test_ratio_by_hand_in_both_kinds() -> None:
    # pixel 1: p = (3/4, 1/4); pixel 2: p = (1/2, 1/2)
    logits = torch.tensor([[[math.log(3.0), 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(class_ratio(logits), torch.tensor([[0.625, 0.375]]))
    # relative to the largest: (1, 1/3) and (1, 1), summed (2, 4/3), normalised (0.6, 0.4)
    torch.testing.assert_close(class_ratio(logits, "max_normalized"), torch.tensor([[0.6, 0.4]]))
    # squared: (1, 1/9) and (1, 1), summed (2, 10/9)
    expected = torch.tensor([[18 / 28, 10 / 28]])
    torch.testing.assert_close(class_ratio(logits, "max_normalized", 2.0), expected)


@settings(max_examples=40, deadline=None)
@given(seeds, class_counts, spaces, directions, scopes, kinds)
def test_value_equals_a_float64_reference(
    seed: int, classes: int, space: tuple[int, ...], direction: Any, over: Any, kind: Any
) -> None:
    logits, prior = draw(seed, classes, space), draw_prior(seed, classes)
    value = float(class_ratio_kl(logits, torch.from_numpy(prior).float(), direction, over, *kind))
    expected = reference(logits.numpy(), prior, direction, over, *kind)
    assert value == pytest.approx(expected, rel=1e-3, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(seeds, class_counts, directions, scopes, kinds)
def test_it_is_never_negative_and_0_where_the_prediction_has_the_prior(
    seed: int, classes: int, direction: Any, over: Any, kind: Any
) -> None:
    logits = draw(seed, classes, (3, 4))
    prior = torch.from_numpy(draw_prior(seed, classes)).float()
    assert float(class_ratio_kl(logits, prior, direction, over, *kind)) > -1e-6
    own = class_ratio(logits, *kind)
    assert float(class_ratio_kl(logits, own, direction, over, *kind)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("over", ["image", "batch"])
@pytest.mark.parametrize("kind", ["mean", "max_normalized"])
def test_gradient_equals_finite_differences_of_the_reference(
    direction: Any, over: Any, kind: Any
) -> None:
    logits, prior = draw(1, 3, (2, 2)).requires_grad_(), draw_prior(1, 3)
    ratios = torch.from_numpy(prior).float()
    value = class_ratio_kl(logits, ratios, direction, over, kind)
    (gradient,) = torch.autograd.grad(value, logits)
    base = logits.detach().numpy().astype(np.float64)
    for place in np.ndindex(base.shape):
        step = np.zeros_like(base)
        step[place] = 1e-5
        ends = [reference(base + s, prior, direction, over, kind) for s in (step, -step)]
        slope = (ends[0] - ends[1]) / 2e-5
        assert float(gradient[place]) == pytest.approx(slope, abs=1e-4, rel=1e-3)


@settings(max_examples=20, deadline=None)
@given(seeds, class_counts, directions, scopes)
def test_order_of_pixels_and_a_common_constant_do_not_matter(
    seed: int, classes: int, direction: Any, over: Any
) -> None:
    logits, prior = draw(seed, classes, (12,)), torch.from_numpy(draw_prior(seed, classes)).float()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    value = float(class_ratio_kl(logits, prior, direction, over))
    shuffled = float(class_ratio_kl(logits[..., order], prior, direction, over))
    raised = float(class_ratio_kl(logits + 7.5, prior, direction, over))
    assert shuffled == pytest.approx(value, abs=1e-5)
    assert raised == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_2d_and_3d_agree_on_the_same_pixels(direction: Any) -> None:
    logits, prior = draw(2, 4, (4, 6)), torch.from_numpy(draw_prior(2, 4)).float()
    flat = float(class_ratio_kl(logits, prior, direction))
    volume = float(class_ratio_kl(logits.reshape(2, 4, 2, 2, 6), prior, direction))
    assert volume == pytest.approx(flat, abs=1e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_over_images_a_batch_is_the_mean_of_its_halves_and_over_the_batch_it_is_not(
    direction: Any,
) -> None:
    logits, prior = draw(3, 3, (5,), images=4), torch.from_numpy(draw_prior(3, 3, 4)).float()

    def split(over: Any) -> tuple[float, float]:
        halves = [
            float(class_ratio_kl(logits[part], prior[part], direction, over))
            for part in (slice(0, 2), slice(2, 4))
        ]
        return float(class_ratio_kl(logits, prior, direction, over)), sum(halves) / 2

    whole, mean_of_halves = split("image")
    assert whole == pytest.approx(mean_of_halves, abs=1e-6)
    whole, mean_of_halves = split("batch")
    assert whole < mean_of_halves - 1e-3  # Jensen: the ratio of more images lies nearer


def test_over_the_batch_images_may_differ_from_the_prior_that_their_mean_has() -> None:
    logits = torch.tensor([[[9.0], [-9.0]], [[-9.0], [9.0]]])
    prior = torch.tensor([0.5, 0.5])
    assert float(class_ratio_kl(logits, prior, over="batch")) == pytest.approx(0, abs=1e-6)
    assert float(class_ratio_kl(logits, prior, over="image")) == pytest.approx(
        math.log(2), abs=1e-3
    )


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_one_prior_for_all_images_equals_the_same_row_for_each(direction: Any) -> None:
    logits, prior = draw(4, 3, (4, 4)), torch.tensor([0.5, 0.3, 0.2])
    one = class_ratio_kl(logits, prior, direction)
    rows = class_ratio_kl(logits, prior.expand(2, 3), direction)
    assert float(one) == float(rows)


def test_an_absent_class_is_suppressed_with_the_slope_minus_log_eps() -> None:
    # K = 2, τ = (1, 0): d/dτ̂₁ of τ̂₁ (log τ̂₁ − log ε) + τ̂₀ (log τ̂₀ − 0), less the entropy's own slope
    values = []
    for share in (1e-3, 2e-3):
        logits = torch.tensor([[[math.log1p(-share)], [math.log(share)]]])
        value = float(class_ratio_kl(logits, torch.tensor([1.0, 0.0])))
        own = share * math.log(share) + (1 - share) * math.log1p(-share)
        values.append(value - own)
    slope = (values[1] - values[0]) / 1e-3
    assert slope == pytest.approx(-math.log(1e-10), rel=1e-3)
    assert slope == pytest.approx(23.03, abs=0.03)


def test_an_absent_class_is_left_alone_in_the_other_direction() -> None:
    prior = torch.tensor([0.5, 0.5, 0.0])
    logits = torch.tensor([[[0.0], [0.0], [-50.0]]])
    assert float(class_ratio_kl(logits, prior, "prior_to_prediction")) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("over", ["image", "batch"])
@pytest.mark.parametrize("kind", ["mean", "max_normalized"])
def test_value_and_gradient_are_finite_for_logits_of_1e4(
    dtype: torch.dtype, direction: Any, over: Any, kind: Any
) -> None:
    signs = torch.sign(draw(5, 4, (4, 4)))
    signs[:, 3] = -1  # a class that is nowhere likely
    logits = (1e4 * signs).to(dtype).requires_grad_()
    prior = torch.tensor([0.7, 0.2, 0.0, 0.1])
    value = class_ratio_kl(logits, prior, direction, over, kind)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.dtype == torch.float32
    assert bool(torch.isfinite(value))
    assert bool(torch.isfinite(gradient).all())


def test_a_class_that_has_vanished_is_still_called_back() -> None:
    logits = torch.zeros(1, 2, 4)
    logits[:, 1] = -200.0  # p underflows in float32
    logits.requires_grad_()
    value = class_ratio_kl(logits, torch.tensor([0.5, 0.5]), "prior_to_prediction")
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(value.detach()) == pytest.approx(0.5 * 200 - math.log(2), rel=1e-4)
    assert bool((gradient[:, 1] < -0.1).all())


@pytest.mark.usefixtures("as_users_see")
@pytest.mark.parametrize("shape", [(3,), (1, 2), (3, 2), (2, 2, 1), ()])
def test_a_prior_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PriorError, match="the prior has shape") as caught:
        class_ratio_kl(torch.zeros(2, 2, 3, 3), torch.ones(shape))
    assert "(2,) for all images or (2, 2)" in str(caught.value)


def test_a_zero_in_the_prior_is_refused_when_eps_is_0() -> None:
    logits, prior = torch.zeros(1, 2, 3), torch.tensor([1.0, 0.0])
    with pytest.raises(PriorError, match="has a zero") as caught:
        class_ratio_kl(logits, prior, eps=0.0)
    assert "eps" in str(caught.value.fix)
    value = class_ratio_kl(logits, prior, "prior_to_prediction", eps=0.0)
    assert float(value) == pytest.approx(math.log(2), abs=1e-6)


def test_eps_0_gives_the_exact_divergence() -> None:
    logits = torch.tensor([[[math.log(3.0)], [0.0]]])
    value = class_ratio_kl(logits, torch.tensor([0.5, 0.5]), eps=0.0)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(value) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("over", ["image", "batch"])
def test_descent_on_free_logits_reaches_the_prior(direction: Any, over: Any) -> None:
    logits = draw(6, 3, (6,)).requires_grad_()
    prior = torch.tensor([0.7, 0.2, 0.1])
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        class_ratio_kl(logits, prior, direction, over).backward()
        optimizer.step()
    ratio = class_ratio(logits).detach()
    found = ratio.mean(0, keepdim=True) if over == "batch" else ratio
    torch.testing.assert_close(found, prior.expand_as(found), atol=0.01, rtol=0)
