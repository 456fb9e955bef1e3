"""The dual of the data set's class ratio: bound, saddle point, no bias, ascent, and training in small batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from uda.errors import PriorError
from uda.losses.class_ratio import class_ratio, class_ratio_kl
from uda.losses.dual import dual_ascent, dual_class_ratio

seeds = st.integers(0, 2**31)
class_counts = st.sampled_from([2, 3, 19])
spaces = st.sampled_from([(5,), (3, 4), (2, 3, 4)])


def draw(seed: int, classes: int, space: tuple[int, ...], images: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(images, classes, *space, generator=generator)


def draw_prior(seed: int, classes: int, images: int = 2) -> Tensor:
    drawn = np.random.default_rng(seed).dirichlet(np.full(classes, 3.0), images)
    return torch.from_numpy(drawn * 0.99 + 0.01 / classes)


def draw_dual(seed: int, classes: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed + 1).uniform(0, 4, classes))


def reference(logits: np.ndarray, prior: np.ndarray, log_dual: np.ndarray) -> float:
    flat = logits.astype(np.float64).reshape(*logits.shape[:2], -1)
    p = np.exp(flat - flat.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    ratio, tau = p.mean((0, 2)), prior.mean(0)
    beta = -np.exp(log_dual)
    return float(np.sum(tau * (ratio * beta + 1 + np.log(-beta))) + np.sum(tau * np.log(tau)))


@settings(max_examples=25, deadline=None)
@given(seeds, class_counts, spaces)
def test_value_equals_a_float64_reference(seed: int, classes: int, space: tuple[int, ...]) -> None:
    logits, prior, dual = (
        draw(seed, classes, space),
        draw_prior(seed, classes),
        draw_dual(seed, classes),
    )
    expected = reference(logits.numpy(), prior.numpy(), dual.numpy())
    value = float(dual_class_ratio(logits, prior.float(), dual.float()))
    assert value == pytest.approx(expected, rel=1e-4, abs=1e-4)
    exact = float(dual_class_ratio(logits.double(), prior, dual))
    assert exact == pytest.approx(reference(logits.double().numpy(), prior.numpy(), dual.numpy()))


def test_gradients_of_logits_and_dual_equal_finite_differences_of_the_reference() -> None:
    logits, prior, dual = draw(1, 3, (2, 2)).double(), draw_prior(1, 3), draw_dual(1, 3)
    leaves = (logits.requires_grad_(), dual.requires_grad_())
    found = torch.autograd.grad(dual_class_ratio(leaves[0], prior, leaves[1]), leaves)
    base = [leaf.detach().numpy() for leaf in leaves]
    for which in (0, 1):
        for place in np.ndindex(base[which].shape):
            ends = []
            for sign in (1, -1):
                moved = [array.copy() for array in base]
                moved[which][place] += sign * 1e-5
                ends.append(reference(moved[0], prior.numpy(), moved[1]))
            slope = (ends[0] - ends[1]) / 2e-5
            assert float(found[which][place]) == pytest.approx(slope, abs=1e-8)


@settings(max_examples=25, deadline=None)
@given(seeds, class_counts)
def test_it_never_exceeds_the_divergence_and_meets_it_at_the_best_dual(
    seed: int, classes: int
) -> None:
    logits, prior = draw(seed, classes, (3, 4)).double(), draw_prior(seed, classes)
    divergence = float(class_ratio_kl(logits, prior, "prior_to_prediction", "batch"))
    best = -class_ratio(logits).mean(0).log()
    assert float(dual_class_ratio(logits, prior, best)) == pytest.approx(divergence, abs=1e-9)
    for other in (draw_dual(seed, classes), best + 0.1, best - 0.1):
        assert float(dual_class_ratio(logits, prior, other)) < divergence + 1e-12
    at_best = best.requires_grad_()
    (slope,) = torch.autograd.grad(dual_class_ratio(logits, prior, at_best), at_best)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-9, rtol=0)


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_its_mean_over_batches_is_its_value_on_the_data_set_and_the_divergences_is_not(
    seed: int,
) -> None:
    logits = 3 * draw(seed, 3, (3,), images=12).double()
    prior, dual = draw_prior(seed, 3)[0], draw_dual(seed, 3)
    batches = logits.split(2)
    each = [float(dual_class_ratio(batch, prior, dual)) for batch in batches]
    assert sum(each) / 6 == pytest.approx(float(dual_class_ratio(logits, prior, dual)), abs=1e-9)

    def divergence(batch: Tensor) -> float:
        return float(class_ratio_kl(batch, prior, "prior_to_prediction", "batch"))

    assert sum(map(divergence, batches)) / 6 > divergence(logits) + 1e-4  # Jensen


def test_its_gradient_over_batches_is_the_gradient_on_the_data_set() -> None:
    logits, prior, dual = draw(2, 3, (3,), images=6).double(), draw_prior(2, 3)[0], draw_dual(2, 3)
    shared = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)

    def gradient(batch: Tensor) -> Tensor:
        return torch.autograd.grad(dual_class_ratio(batch + shared, prior, dual), shared)[0]

    each = torch.stack([gradient(batch) for batch in logits.split(2)])
    torch.testing.assert_close(each.mean(0), gradient(logits))


def test_priors_of_images_are_averaged() -> None:
    logits, prior, dual = draw(3, 3, (4,)), draw_prior(3, 3).float(), draw_dual(3, 3).float()
    rows = float(dual_class_ratio(logits, prior, dual))
    assert rows == pytest.approx(float(dual_class_ratio(logits, prior.mean(0), dual)), abs=1e-6)


def test_a_class_with_prior_0_is_left_alone() -> None:
    logits = draw(4, 3, (4,)).requires_grad_()
    prior = torch.tensor([0.6, 0.4, 0.0])
    values = [
        dual_class_ratio(logits, prior, torch.tensor([0.5, 1.0, third])) for third in (0.0, 20.0)
    ]
    assert float(values[0].detach()) == float(values[1].detach())


def test_it_is_finite_for_a_class_that_has_vanished_however_large_its_dual() -> None:
    logits = torch.zeros(1, 2, 4)
    logits[:, 1] = -1e4
    logits.requires_grad_()
    dual = torch.tensor([0.0, 80.0])
    value = dual_class_ratio(logits, torch.tensor([0.5, 0.5]), dual)
    (gradient,) = torch.autograd.grad(value, logits)
    # ½(−1 + 1 + 0) + ½(0 + 1 + 80) − log 2
    assert float(value.detach()) == pytest.approx(40.5 - math.log(2), rel=1e-5)
    assert bool(torch.isfinite(gradient).all())


def test_a_step_by_hand() -> None:
    # shares 1, ¼ and 1/16 move a fifth of the way to ½, ¼ and ¾
    dual = torch.tensor([1.0, 4.0, 16.0]).log()
    found = dual_ascent(dual, torch.tensor([0.5, 0.25, 0.75]), rate=0.2)
    torch.testing.assert_close((-found).exp(), torch.tensor([0.9, 0.25, 0.2]))


@settings(max_examples=10, deadline=None)
@given(seeds, class_counts)
def test_a_small_step_is_a_step_along_the_gradient_of_each_classs_problem(
    seed: int, classes: int
) -> None:
    dual, ratio = draw_dual(seed, classes).requires_grad_(), draw_prior(seed, classes, 1)[0]
    problem = (1 + dual - ratio * dual.exp()).sum()  # α β + 1 + log(−β), β = −exp(λ)
    (gradient,) = torch.autograd.grad(problem, dual)
    found = (dual_ascent(dual, ratio, rate=1e-6) - dual.detach()) / 1e-6
    torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6)


def test_ratios_of_images_are_averaged() -> None:
    ratio = torch.tensor([[0.9, 0.1], [0.5, 0.5]])
    dual = torch.tensor([0.1, 0.8])
    assert torch.equal(dual_ascent(dual, ratio, 0.1), dual_ascent(dual, ratio.mean(0), 0.1))


def test_the_dual_carries_no_gradient_and_the_old_one_is_left_as_it_was() -> None:
    dual = torch.zeros(3, requires_grad=True)
    found = dual_ascent(dual, class_ratio(draw(5, 3, (4,)).requires_grad_()), 0.1)
    assert not found.requires_grad
    assert bool((dual == 0).all())


@settings(max_examples=10, deadline=None)
@given(seeds, class_counts)
def test_ascent_ends_where_the_dual_is_the_inverse_of_the_mean_ratio(
    seed: int, classes: int
) -> None:
    ratio = draw_prior(seed, classes, 1)[0]
    dual = torch.zeros(classes, dtype=torch.float64)
    for _ in range(600):
        dual = dual_ascent(dual, ratio, 0.1)
    torch.testing.assert_close(dual.exp(), 1 / ratio, rtol=1e-3, atol=0)


def test_ascent_on_single_batches_finds_the_ratio_of_the_data_set() -> None:
    # class 1 fills a tenth of the pixels, all of them in one image of ten
    images = torch.tensor([[1.0, 0.0]] * 9 + [[0.0, 1.0]])
    dual, shares = torch.zeros(2), []
    order = torch.Generator().manual_seed(0)
    for step in range(3000):
        dual = dual_ascent(dual, images[int(torch.randint(10, (), generator=order))], rate=0.02)
        if step >= 500:
            shares.append((-dual).exp())
    found = torch.stack(shares)
    torch.testing.assert_close(found.mean(0), torch.tensor([0.9, 0.1]), atol=0.02, rtol=0)
    assert float(found[:, 1].amax()) < 0.3


def test_the_dual_stays_between_0_and_20() -> None:
    dual = torch.tensor([0.0, 1.0])
    for _ in range(200):
        dual = dual_ascent(dual, torch.tensor([1.0, 0.0]), rate=0.2)
    assert dual.tolist() == [0.0, 20.0]
    assert dual_ascent(dual, torch.tensor([0.0, 1.0]), rate=1.0).tolist() == [20.0, 0.0]


def test_a_class_that_comes_back_is_believed_at_once() -> None:
    dual = dual_ascent(torch.tensor([0.0, 20.0]), torch.tensor([0.9, 0.1]), rate=0.05)
    torch.testing.assert_close((-dual).exp(), torch.tensor([0.995, 0.005]), rtol=1e-4, atol=0)


def train(with_dual: bool) -> tuple[Tensor, Tensor]:
    """Ratio of each of two images after training gain and bias of a pixel classifier in batches of one image.

    Nine tenths of the pixels of image 0 and one tenth of those of image 1 belong to class 0. The classifier starts
    out right about the pixels, but so biased that class 0 covers nearly all of both. The prior is right: ½.
    """
    types = torch.tensor([[1.0] * 18 + [-1.0] * 2, [1.0] * 2 + [-1.0] * 18])
    features = torch.stack([types, -types], 1)
    gain = torch.tensor(1.5, requires_grad=True)
    bias = torch.tensor([3.0, 0.0], requires_grad=True)
    prior, dual = torch.tensor([0.5, 0.5]), -torch.tensor([0.5, 0.5]).log()
    optimizer = torch.optim.Adam([gain, bias], lr=0.02)
    for step in range(400):
        logits = gain * features[[step % 2]] + bias[:, None]
        optimizer.zero_grad()
        if with_dual:
            dual_class_ratio(logits, prior, dual).backward()
            dual = dual_ascent(dual, class_ratio(logits), rate=0.05)
        else:
            class_ratio_kl(logits, prior, "prior_to_prediction", "batch").backward()
        optimizer.step()
    ratio = class_ratio(gain * features + bias[:, None]).detach()
    return ratio, dual


def test_in_batches_of_one_image_the_dual_holds_the_data_set_to_the_prior_and_not_the_image() -> (
    None
):
    ratio, dual = train(with_dual=True)
    torch.testing.assert_close(ratio.mean(0), torch.tensor([0.5, 0.5]), atol=0.05, rtol=0)
    torch.testing.assert_close((-dual).exp(), torch.tensor([0.5, 0.5]), atol=0.1, rtol=0)
    assert float(ratio[0, 0]) > 0.75
    assert float(ratio[1, 0]) < 0.25


def test_in_batches_of_one_image_the_divergence_makes_all_images_alike() -> None:
    ratio, _ = train(with_dual=False)
    assert float((ratio[0, 0] - ratio[1, 0]).abs()) < 0.2


@pytest.mark.usefixtures("as_users_see")
@pytest.mark.parametrize("shape", [(3,), (1,), (2, 2), ()])
def test_a_dual_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PriorError, match="log_dual has shape") as caught:
        dual_class_ratio(torch.zeros(2, 2, 3), torch.tensor([0.5, 0.5]), torch.zeros(shape))
    assert "2 classes" in str(caught.value)


@pytest.mark.parametrize("bad", [81.0, -math.inf, math.nan])
def test_a_dual_whose_exponential_does_not_exist_is_refused(bad: float) -> None:
    with pytest.raises(PriorError, match="log_dual is") as caught:
        dual_class_ratio(torch.zeros(2, 2, 3), torch.tensor([0.5, 0.5]), torch.tensor([0.0, bad]))
    assert "dual_ascent" in str(caught.value)


@pytest.mark.parametrize("rate", [0.0, -1.0, 1.5, math.nan])
def test_a_rate_outside_0_to_1_is_refused(rate: float) -> None:
    with pytest.raises(PriorError, match="rate is"):
        dual_ascent(torch.zeros(2), torch.tensor([0.5, 0.5]), rate)


@pytest.mark.usefixtures("as_users_see")
@pytest.mark.parametrize("shape", [(3,), (2, 3), (), (1, 1, 2)])
def test_a_ratio_of_other_classes_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PriorError, match="ratio has shape"):
        dual_ascent(torch.zeros(2), torch.ones(shape), 0.1)
