"""A class ratio with an uncertainty: the nearest ratio that it allows, against a constrained solver, and its loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, minimize
from torch import Tensor

from uda.errors import PriorError
from uda.losses import class_ratio_kl, nearest_ratio

DIRECTIONS = ("prediction_to_prior", "prior_to_prediction")
seeds = st.integers(0, 2**31)
tolerances = st.floats(0.01, 1.0)


def draw(seed: int, classes: int, images: int = 1) -> tuple[Tensor, Tensor]:
    """Predicted ratio and prior, ``[b, k]`` in float64."""
    rows = np.random.default_rng(seed).dirichlet(np.full(classes, 1.5), (2, images))
    predicted, prior = torch.from_numpy(0.98 * rows + 0.02 / classes)
    return predicted, prior


def divergence(first: np.ndarray, second: np.ndarray) -> float:
    return float((first * (np.log(first) - np.log(second))).sum())


def solved(ratio: np.ndarray, prior: np.ndarray, tolerance: float, direction: str) -> np.ndarray:
    """The allowed ratio of the least divergence, by a general solver that knows nothing of its form."""

    def cost(q: np.ndarray) -> float:
        q = np.maximum(q, 1e-12)
        forward = direction == "prediction_to_prior"
        return divergence(ratio, q) if forward else divergence(q, ratio)

    found = minimize(
        cost,
        prior,
        method="SLSQP",
        bounds=[((1 - tolerance) * p, (1 + tolerance) * p) for p in prior],
        constraints=[LinearConstraint(np.ones((1, len(prior))), 1, 1)],
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assume(found.success)  # the reference may find no way down any more
    solution: np.ndarray = found.x
    return solution


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from([2, 3, 6]), tolerances, st.sampled_from(DIRECTIONS))
def test_no_allowed_ratio_is_nearer_in_either_direction(
    seed: int, classes: int, tolerance: float, direction: str
) -> None:
    ratio, prior = draw(seed, classes)
    found = nearest_ratio(ratio, prior, tolerance)[0].numpy()
    expected = solved(ratio[0].numpy(), prior[0].numpy(), tolerance, direction)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@settings(max_examples=25, deadline=None)
@given(seeds, st.sampled_from([2, 5, 19]), tolerances)
def test_the_nearest_ratio_is_allowed_a_ratio_and_nearest_to_itself(
    seed: int, classes: int, tolerance: float
) -> None:
    ratio, prior = (x.float() for x in draw(seed, classes, images=3))
    found = nearest_ratio(ratio, prior, tolerance)
    torch.testing.assert_close(found.sum(1), torch.ones(3), atol=1e-5, rtol=0)
    assert bool((found >= (1 - tolerance) * prior - 1e-6).all())
    assert bool((found <= (1 + tolerance) * prior + 1e-6).all())
    torch.testing.assert_close(nearest_ratio(found, prior, tolerance), found, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_class_that_has_vanished_and_one_that_the_prior_forbids(dtype: torch.dtype) -> None:
    prior = torch.tensor([[0.5, 0.5, 0.0]], dtype=dtype)
    for row in ([1.0, 0.0, 0.0], [0.2, 0.0, 0.8], [1e-30, 1e-38, 1.0]):
        found = nearest_ratio(torch.tensor([row], dtype=dtype), prior, 0.2)
        torch.testing.assert_close(found, torch.tensor([[0.6, 0.4, 0.0]], dtype=dtype))


def logits_of(ratio: Tensor, pixels: int = 4) -> Tensor:
    """Logits ``[b, k, n]`` of pixels that each have this ratio."""
    return ratio.log().unsqueeze(2).repeat(1, 1, pixels).requires_grad_()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("over", ["image", "batch"])
def test_within_the_tolerance_value_and_gradient_are_exactly_0(direction: Any, over: Any) -> None:
    prior = torch.tensor([[0.8, 0.15, 0.05], [0.7, 0.2, 0.1]])
    logits = logits_of(prior * torch.tensor([[0.99, 1.04, 1.04], [1.02, 0.96, 0.94]]))
    value = class_ratio_kl(logits, prior, direction, over, tolerance=0.1)
    value.backward()
    assert float(value.detach()) == 0
    assert logits.grad is not None
    assert not bool(logits.grad.any())
    assert float(class_ratio_kl(logits, prior, direction, over).detach()) > 1e-5


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from([2, 4]), st.floats(0.01, 0.9), st.sampled_from(DIRECTIONS))
def test_the_value_is_the_least_divergence_to_an_allowed_ratio(
    seed: int, classes: int, tolerance: float, direction: Any
) -> None:
    ratio, prior = draw(seed, classes, images=2)
    expected = []
    for row, known in zip(ratio.numpy(), prior.numpy(), strict=True):
        q = solved(row, known, tolerance, direction)
        pair = (row, q) if direction == "prediction_to_prior" else (q, row)
        expected.append(divergence(*pair))
    value = class_ratio_kl(logits_of(ratio), prior, direction, tolerance=tolerance)
    assert float(value.detach()) == pytest.approx(np.mean(expected), abs=1e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_is_that_of_the_least_divergence(direction: Any, seed: int) -> None:
    """By central differences of the value, whose nearest ratio moves along; float64."""
    ratio, prior = draw(seed, 4)
    logits = logits_of(ratio, pixels=2)
    value = class_ratio_kl(logits, prior, direction, tolerance=0.1)
    assert float(value.detach()) > 1e-3
    assert torch.autograd.gradcheck(
        lambda z: class_ratio_kl(z, prior, direction, tolerance=0.1), logits
    )


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_more_tolerance_never_costs_more_and_little_is_almost_none(direction: Any) -> None:
    ratio, prior = draw(7, 5, images=3)
    logits = logits_of(ratio)

    def cost(tolerance: float) -> float:
        return float(class_ratio_kl(logits, prior, direction, tolerance=tolerance).detach())

    costs = [cost(t) for t in (0.0, 1e-6, 0.1, 0.3, 0.6, 1.0)]
    assert costs[1] == pytest.approx(costs[0], abs=1e-4)
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0]


@pytest.mark.parametrize("tolerance", [-0.1, 1.5, float("nan")])
def test_a_tolerance_outside_0_to_1_is_refused(tolerance: float) -> None:
    with pytest.raises(PriorError, match="tolerance is"):
        class_ratio_kl(torch.zeros(1, 2, 3), torch.tensor([0.5, 0.5]), tolerance=tolerance)
