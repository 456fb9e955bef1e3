"""Entropy: its range, its optima, its invariances, its gradient, and what it does to a network."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from uda.errors import PriorError
from uda.losses import class_ratio, class_ratio_kl, entropy

seeds = st.integers(0, 2**31)
class_counts = st.sampled_from([2, 3, 19])
spaces = st.sampled_from([(5,), (3, 4), (2, 3, 4)])


def draw(seed: int, classes: int, space: tuple[int, ...], images: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(images, classes, *space, generator=generator)


def reference(logits: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Nats, in float64, one pixel at a time."""
    flat = np.moveaxis(logits.astype(np.float64), 1, -1).reshape(-1, logits.shape[1])
    total = 0.0
    for pixel in flat:
        p = np.exp(pixel - pixel.max())
        p /= p.sum()
        nu = np.ones_like(p) if weights is None else weights
        total -= float(np.sum(nu * p * np.log(p)))
    return total / len(flat)


@settings(max_examples=25, deadline=None)
@given(seeds, class_counts, spaces)
def test_range_is_0_to_1_normalised_and_0_to_log_k_in_nats(
    seed: int, classes: int, space: tuple[int, ...]
) -> None:
    logits = draw(seed, classes, space)
    assert 0 < float(entropy(logits)) < 1
    assert 0 < float(entropy(logits, normalized=False)) < math.log(classes)


@pytest.mark.parametrize("classes", [2, 19])
def test_uniform_is_1_and_one_hot_is_0(classes: int) -> None:
    uniform = torch.zeros(2, classes, 3, 3)
    one_hot = torch.full((2, classes, 3, 3), -200.0)
    one_hot[:, 0] = 200.0
    assert float(entropy(uniform)) == pytest.approx(1, abs=1e-6)
    assert float(entropy(uniform, normalized=False)) == pytest.approx(math.log(classes), abs=1e-5)
    assert float(entropy(one_hot)) == 0


@settings(max_examples=20, deadline=None)
@given(seeds, class_counts, spaces)
def test_value_equals_a_float64_reference(seed: int, classes: int, space: tuple[int, ...]) -> None:
    logits = draw(seed, classes, space)
    weights = np.random.default_rng(seed).dirichlet(np.ones(classes))
    nu = torch.from_numpy(weights).float()
    plain = float(entropy(logits, normalized=False))
    weighted = float(entropy(logits, nu, normalized=False))
    assert plain == pytest.approx(reference(logits.numpy()), rel=1e-5, abs=1e-7)
    assert weighted == pytest.approx(reference(logits.numpy(), weights), rel=1e-4, abs=1e-7)


def test_gradient_equals_finite_differences_of_the_reference() -> None:
    logits = draw(1, 3, (2, 2), images=1).requires_grad_()
    (gradient,) = torch.autograd.grad(entropy(logits, normalized=False), logits)
    base = logits.detach().numpy().astype(np.float64)
    for place in np.ndindex(base.shape):
        step = np.zeros_like(base)
        step[place] = 1e-5
        slope = (reference(base + step) - reference(base - step)) / 2e-5
        assert float(gradient[place]) == pytest.approx(slope, abs=1e-4, rel=1e-3)


@settings(max_examples=20, deadline=None)
@given(seeds, class_counts)
def test_order_of_pixels_and_a_common_constant_do_not_matter(seed: int, classes: int) -> None:
    logits = draw(seed, classes, (12,))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    value = float(entropy(logits))
    assert float(entropy(logits[..., order])) == pytest.approx(value, abs=1e-6)
    assert float(entropy(logits + 7.5)) == pytest.approx(value, abs=1e-5)


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_2d_and_3d_agree_on_the_same_pixels(seed: int) -> None:
    logits = draw(seed, 4, (4, 6))
    volume = logits.reshape(2, 4, 2, 2, 6)
    assert float(entropy(volume)) == pytest.approx(float(entropy(logits)), abs=1e-6)


def test_a_batch_is_the_mean_of_its_halves() -> None:
    logits = draw(3, 4, (5, 5), images=4)
    halves = (entropy(logits[:2]) + entropy(logits[2:])) / 2
    assert float(entropy(logits)) == pytest.approx(float(halves), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_value_and_gradient_are_finite_for_logits_of_1e4(dtype: torch.dtype) -> None:
    logits = (1e4 * torch.sign(draw(4, 5, (4, 4)))).to(dtype).requires_grad_()
    value = entropy(logits)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.dtype == torch.float32
    assert bool(torch.isfinite(value))
    assert bool(torch.isfinite(gradient).all())


def test_half_precision_logits_are_reckoned_in_float32() -> None:
    logits = draw(5, 5, (16, 16)).bfloat16()
    assert float(entropy(logits)) == float(entropy(logits.float()))


def test_masked_pixels_count_neither_in_the_value_nor_in_the_gradient() -> None:
    logits = draw(6, 3, (4, 4)).requires_grad_()
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[0, :2] = True
    value = entropy(logits, mask=mask)
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(value.detach()) == pytest.approx(
        float(entropy(logits[:1, :, :2]).detach()), abs=1e-6
    )
    assert bool((gradient.movedim(1, -1)[~mask] == 0).all())
    assert bool((gradient.movedim(1, -1)[mask] != 0).any())


def test_nothing_unmasked_is_0_with_a_gradient_of_0() -> None:
    logits = draw(7, 3, (4, 4)).requires_grad_()
    value = entropy(logits, mask=torch.zeros(2, 4, 4, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(value.detach()) == 0
    assert bool((gradient == 0).all())


@pytest.mark.usefixtures("as_users_see")
def test_wrong_number_of_class_weights_is_refused() -> None:
    with pytest.raises(PriorError, match=r"class_weights has shape \(3,\)") as caught:
        entropy(torch.zeros(1, 2, 3, 3), torch.ones(3))
    assert "each of the 2 classes" in str(caught.value)


PRIOR = torch.tensor([0.6, 0.3, 0.1])


def train(terms: str) -> torch.Tensor:
    """Predicted class ratio after training a linear model (one gain, one bias per class) on fixed features."""
    features = torch.randn(4, 3, 100, generator=torch.Generator().manual_seed(0))
    gain = torch.ones(1, requires_grad=True)
    bias = torch.tensor([0.3, 0.0, 0.0], requires_grad=True)
    optimizer = torch.optim.SGD([gain, bias], lr=1.0)
    for _ in range(300):
        logits = gain * features + bias[:, None]
        loss = torch.zeros(())
        if "entropy" in terms:
            loss = loss + entropy(logits)
        if "ratio" in terms:
            loss = loss + class_ratio_kl(logits, PRIOR, "prior_to_prediction", "batch")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([gain, bias], 1.0)
        if terms == "entropy":
            gain.grad = None  # the shared bias alone: the way into the one-class solution
        optimizer.step()
    return class_ratio(gain * features + bias[:, None]).mean(0).detach()


def test_alone_it_collapses_onto_the_class_that_leads_at_the_start() -> None:
    assert float(train("entropy")[0]) > 0.98


def test_class_ratio_alone_brings_the_ratio_to_the_prior() -> None:
    torch.testing.assert_close(train("ratio"), PRIOR, atol=0.01, rtol=0)


def test_a_prior_prevents_the_collapse() -> None:
    torch.testing.assert_close(train("entropy and ratio"), PRIOR, atol=0.1, rtol=0)
