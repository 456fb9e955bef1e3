"""Class ratio and what compares it with a prior: optimum, direction, scope, gradient, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from uda.errors import PriorError
from uda.losses.class_ratio import (
    class_ratio,
    class_ratio_hinge,
    class_ratio_kl,
    log_class_ratio,
    size_cross_entropy,
)

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
@pytest.mark.parametrize("kind", [("mean", 1.0), ("max_normalized", 1.0), ("max_normalized", 5.0)])
def test_gradient_equals_finite_differences_of_the_reference(
    direction: Any, over: Any, kind: Any
) -> None:
    logits, prior = draw(1, 3, (2, 2)).double().requires_grad_(), draw_prior(1, 3)
    value = class_ratio_kl(logits, torch.from_numpy(prior), direction, over, *kind)
    (gradient,) = torch.autograd.grad(value, logits)
    compare(gradient, logits, lambda z: reference(z, prior, direction, over, *kind))


def compare(gradient: torch.Tensor, logits: torch.Tensor, function: Any) -> None:
    """The gradient with central differences of a function of the logits as a NumPy array."""
    base = logits.detach().numpy()
    for place in np.ndindex(base.shape):
        step = np.zeros_like(base)
        step[place] = 1e-5
        slope = (function(base + step) - function(base - step)) / 2e-5
        assert float(gradient[place]) == pytest.approx(slope, abs=1e-8, rel=1e-6)


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


@settings(max_examples=15, deadline=None)
@given(seeds, class_counts, kinds)
def test_the_logarithm_equals_the_logarithm_of_the_ratio(
    seed: int, classes: int, kind: Any
) -> None:
    logits = draw(seed, classes, (3, 4))
    expected = class_ratio(logits, *kind).log()
    torch.testing.assert_close(log_class_ratio(logits, *kind), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["mean", "max_normalized"])
def test_the_logarithm_of_a_class_that_underflows_is_finite_and_so_is_its_gradient(
    kind: Any,
) -> None:
    logits = torch.tensor([[[0.0, 0.0], [-1e4, -2e4]]], requires_grad=True)
    found = log_class_ratio(logits, kind)
    expected = torch.tensor([[0.0, -1e4 - math.log(2)]])
    torch.testing.assert_close(found.detach(), expected)
    (gradient,) = torch.autograd.grad(found[0, 1], logits)
    # all of it at the pixel where the class is least unlikely
    torch.testing.assert_close(gradient, torch.tensor([[[-1.0, 0.0], [1.0, 0.0]]]))


def test_with_a_high_power_the_ratio_is_that_of_the_winning_classes() -> None:
    logits = draw(7, 3, (30,))
    winners = torch.nn.functional.one_hot(logits.argmax(1), 3).float().mean(1)
    found = class_ratio(logits, "max_normalized", 1e4)
    torch.testing.assert_close(found, winners, atol=0.01, rtol=0)


@pytest.mark.parametrize("power", [0.0, -1.0, math.inf, math.nan])
def test_a_power_that_is_no_power_is_refused(power: float) -> None:
    with pytest.raises(PriorError, match="power is"):
        class_ratio(torch.zeros(1, 2, 3), "max_normalized", power)


def reference_hinge(logits: np.ndarray, prior: np.ndarray, mu: float, over: str) -> float:
    ratio = reference_ratio(logits, "mean", 1.0)
    if over == "batch":
        ratio, prior = ratio.mean(0, keepdims=True), prior.mean(0, keepdims=True)
    return float(
        np.mean([np.maximum(0, mu * t - r).sum() for t, r in zip(prior, ratio, strict=True)])
    )


@settings(max_examples=25, deadline=None)
@given(seeds, class_counts, spaces, scopes, st.sampled_from([0.0, 0.5, 0.8, 1.0]))
def test_hinge_equals_a_float64_reference_and_stays_in_its_range(
    seed: int, classes: int, space: tuple[int, ...], over: Any, mu: float
) -> None:
    logits, prior = 3 * draw(seed, classes, space), draw_prior(seed, classes)
    value = float(class_ratio_hinge(logits, torch.from_numpy(prior).float(), mu, over))
    assert value == pytest.approx(reference_hinge(logits.numpy(), prior, mu, over), abs=1e-6)
    assert 0 <= value <= mu


@pytest.mark.parametrize("over", ["image", "batch"])
def test_gradient_of_the_hinge_equals_finite_differences_of_the_reference(over: Any) -> None:
    logits, prior = draw(1, 3, (2, 2)).double().requires_grad_(), draw_prior(1, 3)
    value = class_ratio_hinge(logits, torch.from_numpy(prior), 0.9, over)
    assert float(value.detach()) > 0.01
    (gradient,) = torch.autograd.grad(value, logits)
    compare(gradient, logits, lambda z: reference_hinge(z, prior, 0.9, over))


def test_hinge_is_0_with_a_gradient_of_0_as_soon_as_every_class_has_its_share_of_the_prior() -> (
    None
):
    logits = torch.zeros(2, 2, 4, requires_grad=True)
    value = class_ratio_hinge(logits, torch.tensor([0.9, 0.1]))  # ½ is more than 0.45
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(value.detach()) == 0
    assert bool((gradient == 0).all())
    assert float(class_ratio_hinge(logits.detach(), torch.tensor([0.9, 0.1]), mu=1.0)) > 0


def test_hinge_of_one_class_everywhere_is_mu_times_the_prior_of_the_others() -> None:
    logits = torch.zeros(1, 19, 4)
    logits[:, 0] = 200.0
    prior = torch.full((19,), 1 / 19)
    assert float(class_ratio_hinge(logits, prior)) == pytest.approx(0.5 * 18 / 19, abs=1e-6)


def test_hinge_over_the_batch_never_exceeds_the_mean_over_its_halves() -> None:
    logits = torch.tensor([[[9.0], [-9.0]], [[-9.0], [9.0]]])
    prior = torch.tensor([0.5, 0.5])
    for over, expected in (("image", 0.25), ("batch", 0.0)):
        value = class_ratio_hinge(logits, prior, 0.5, over)
        assert float(value) == pytest.approx(expected, abs=1e-6)
    halves = [float(class_ratio_hinge(half, prior, 0.5, "batch")) for half in logits.split(1)]
    assert sum(halves) / 2 == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize("mu", [-0.1, 1.1, math.nan])
def test_a_mu_outside_0_to_1_is_refused(mu: float) -> None:
    with pytest.raises(PriorError, match="mu is"):
        class_ratio_hinge(torch.zeros(1, 2, 3), torch.tensor([0.5, 0.5]), mu)


def reference_size(logits: np.ndarray, sizes: np.ndarray, kind: str, power: float) -> float:
    ratio = reference_ratio(logits, kind, power)
    return float(np.mean(-(sizes * np.log(ratio)).sum(1)))


@settings(max_examples=20, deadline=None)
@given(seeds, class_counts, spaces, kinds)
def test_size_cross_entropy_equals_a_float64_reference_and_is_a_divergence_plus_an_entropy(
    seed: int, classes: int, space: tuple[int, ...], kind: Any
) -> None:
    logits, prior = draw(seed, classes, space), draw_prior(seed, classes)
    sizes = torch.from_numpy(prior).float()
    value = float(size_cross_entropy(logits, sizes, *kind))
    assert value == pytest.approx(reference_size(logits.numpy(), prior, *kind), rel=1e-4, abs=1e-5)
    own = -float((sizes * sizes.log()).sum(1).mean())
    divergence = float(class_ratio_kl(logits, sizes, "prior_to_prediction", "image", *kind))
    assert value == pytest.approx(own + divergence, abs=1e-4)
    assert value > own - 1e-6


@pytest.mark.parametrize("kind", [("mean", 1.0), ("max_normalized", 5.0)])
def test_gradient_of_size_cross_entropy_equals_finite_differences_of_the_reference(
    kind: Any,
) -> None:
    logits, sizes = draw(1, 3, (2, 2)).double().requires_grad_(), draw_prior(1, 3)
    value = size_cross_entropy(logits, torch.from_numpy(sizes), *kind)
    (gradient,) = torch.autograd.grad(value, logits)
    compare(gradient, logits, lambda z: reference_size(z, sizes, *kind))


@pytest.mark.parametrize("classes", [2, 19])
def test_size_cross_entropy_of_a_uniform_prediction_is_log_k(classes: int) -> None:
    sizes = torch.from_numpy(draw_prior(8, classes, 1)[0]).float()
    value = size_cross_entropy(torch.zeros(1, classes, 5), sizes)
    assert float(value) == pytest.approx(math.log(classes), abs=1e-5)


@pytest.mark.parametrize("loss", [class_ratio_kl, class_ratio_hinge, size_cross_entropy])
@pytest.mark.parametrize(
    "prior",
    [[0.5, 0.6], [1.5, -0.5], [math.nan, 1.0], [0.0, 0.0], [130.0, 126.0], [math.inf, 0.0]],
    ids=["more than the image", "negative", "nan", "nothing", "pixels", "infinite"],
)
def test_a_prior_that_is_no_distribution_is_refused(loss: Any, prior: list[float]) -> None:
    with pytest.raises(PriorError, match="no distribution over the classes") as caught:
        loss(torch.zeros(1, 2, 3), torch.tensor(prior))
    assert "sum to 1" in str(caught.value)


@pytest.mark.usefixtures("as_users_see")
@pytest.mark.parametrize("loss", [class_ratio_hinge, size_cross_entropy])
def test_every_comparison_refuses_other_numbers_of_classes(loss: Any) -> None:
    with pytest.raises(PriorError, match=r"has shape \(3,\)") as caught:
        loss(torch.zeros(2, 2, 3), torch.full((3,), 1 / 3))
    assert "(2,) for all images or (2, 2)" in str(caught.value)


@pytest.mark.parametrize("eps", [-1e-3, math.nan])
def test_an_eps_below_0_is_refused(eps: float) -> None:
    with pytest.raises(PriorError, match="eps is"):
        class_ratio_kl(torch.zeros(1, 2, 3), torch.tensor([0.5, 0.5]), eps=eps)


def train(loss: Any) -> torch.Tensor:
    """Class ratio that a small network predicts for two images after descent on a loss of them."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 3, 1)
    )
    with torch.no_grad():
        network[2].bias.copy_(torch.tensor([4.0, 0.0, 0.0]))  # nearly all class 0
    image = torch.randn(2, 1, 8, 8)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        loss(network(image)).backward()
        optimizer.step()
    return class_ratio(network(image).detach()).mean(0)


PRIOR = torch.tensor([0.2, 0.5, 0.3])


def test_size_cross_entropy_brings_a_small_network_to_the_sizes() -> None:
    found = train(lambda logits: size_cross_entropy(logits, PRIOR))
    torch.testing.assert_close(found, PRIOR, atol=0.03, rtol=0)


def test_hinge_lifts_every_class_of_a_small_network_to_half_its_prior() -> None:
    found = train(lambda logits: class_ratio_hinge(logits, PRIOR))
    assert bool((found >= 0.5 * PRIOR - 0.01).all())
