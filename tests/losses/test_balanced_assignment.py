"""Balanced assignments: Sinkhorn–Knopp by hand, their marginals, their limits, and the latent distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor

from uda.errors import ConfigError, PriorError
from uda.losses import balanced_assignment, balanced_cross_entropy, latent_distribution

seeds = st.integers(0, 2**31)
class_counts = st.sampled_from([2, 3, 6])
spaces = st.sampled_from([(7,), (3, 5), (2, 3, 4)])
scopes = st.sampled_from(["image", "batch"])


def draw(seed: int, classes: int, space: tuple[int, ...], images: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(images, classes, *space, generator=generator, dtype=torch.float64)


def draw_prior(seed: int, classes: int, images: int = 2) -> Tensor:
    rows = np.random.default_rng(seed).dirichlet(np.full(classes, 2.0), images)
    return torch.from_numpy(0.97 * rows + 0.03 / classes)


def sinkhorn(log_p: np.ndarray, ratio: np.ndarray, epsilon: float) -> np.ndarray:
    """q ``[k, n]``: columns scaled to 1 and rows to their share, in turn, until nothing moves."""
    q = np.exp((log_p - log_p.max(0)) / epsilon)
    for _ in range(200_000):
        before = q
        q = q * (ratio * q.shape[1] / q.sum(1))[:, None]
        q = q / q.sum(0)
        if np.abs(q - before).max() < 1e-15:
            break
    return q


def marginals(q: Tensor) -> Tensor:
    return q.double().flatten(2).mean(2)


@settings(max_examples=30, deadline=None)
@given(seeds, class_counts, spaces, st.sampled_from([0.5, 1.0, 3.0]))
def test_it_equals_sinkhorn_run_to_its_end(
    seed: int, classes: int, space: tuple[int, ...], epsilon: float
) -> None:
    logits, prior = draw(seed, classes, space), draw_prior(seed, classes)
    found = balanced_assignment(logits, prior, epsilon, "image").flatten(2)
    log_p = logits.log_softmax(1).flatten(2).numpy()
    each = [sinkhorn(*row, epsilon) for row in zip(log_p, prior.numpy(), strict=True)]
    torch.testing.assert_close(found, torch.from_numpy(np.stack(each)), atol=1e-8, rtol=0)


@settings(max_examples=15, deadline=None)
@given(seeds, class_counts)
def test_over_the_batch_it_is_that_of_one_large_image(seed: int, classes: int) -> None:
    logits, prior = draw(seed, classes, (3, 4)), draw_prior(seed, classes)
    found = balanced_assignment(logits, prior, 0.3, "batch")
    together = logits.transpose(0, 1).flatten(1).unsqueeze(0)
    alone = balanced_assignment(together, prior.mean(0), 0.3, "image")
    torch.testing.assert_close(found, alone.view(classes, 2, 3, 4).transpose(0, 1))
    torch.testing.assert_close(marginals(found).mean(0), prior.mean(0), atol=1e-10, rtol=0)


@settings(max_examples=25, deadline=None)
@given(seeds, class_counts, spaces, scopes)
def test_with_epsilon_1_it_is_the_latent_distribution_of_exact_sizes(
    seed: int, classes: int, space: tuple[int, ...], over: Any
) -> None:
    logits, prior = draw(seed, classes, space), draw_prior(seed, classes)
    found = balanced_assignment(logits, prior, 1.0, over)
    expected = latent_distribution(logits, prior, prior, over=over)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("classes", [2, 5, 19])
@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("over", ["image", "batch"])
def test_marginals_are_exact_for_confident_predictions_and_a_small_epsilon(
    classes: int, scale: float, over: Any
) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits = scale * torch.randn(3, classes, 24, 24, generator=generator)
    prior = draw_prior(classes, classes, images=3).float()
    q = balanced_assignment(logits, prior, 0.05, over)
    assert q.dtype == torch.float32
    torch.testing.assert_close(q.sum(1), torch.ones(3, 24, 24), atol=1e-6, rtol=0)
    found, wanted = marginals(q), prior.double()
    if over == "batch":
        found, wanted = found.mean(0), wanted.mean(0)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_1e4_leave_it_finite(dtype: torch.dtype) -> None:
    logits = (1e4 * torch.sign(draw(3, 4, (6, 6)))).to(dtype).requires_grad_()
    prior = torch.tensor([0.4, 0.3, 0.2, 0.1])
    q = balanced_assignment(logits, prior, 0.05)
    assert bool(torch.isfinite(q).all())
    torch.testing.assert_close(marginals(q).mean(0), prior.double(), atol=1e-6, rtol=0)
    value = balanced_cross_entropy(logits, prior, 0.05)
    value.backward()
    assert bool(torch.isfinite(value.detach()))
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


def test_a_class_the_prior_forbids_gets_exactly_0() -> None:
    logits = draw(4, 3, (5, 5))
    logits[:, 1] += 5
    q = balanced_assignment(logits, torch.tensor([0.7, 0.0, 0.3]), 0.1)
    assert bool((q[:, 1] == 0).all())
    assert float(marginals(q).mean(0)[2]) == pytest.approx(0.3, abs=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_with_a_small_epsilon_it_agrees_as_well_as_optimal_transport(seed: int) -> None:
    """Σ q log p at most ε log K a pixel below that of the linear programme without entropy."""
    classes, pixels = 3, 12
    logits, prior = draw(seed, classes, (pixels,), images=1), draw_prior(seed, classes, 1)
    log_p = logits.log_softmax(1)[0].numpy()
    columns = np.kron(np.ones((1, classes)), np.eye(pixels))
    rows = np.kron(np.eye(classes), np.full((1, pixels), 1 / pixels))
    best = linprog(
        -log_p.ravel(),
        A_eq=np.vstack([columns, rows]),
        b_eq=np.concatenate([np.ones(pixels), prior[0].numpy()]),
    )
    assert best.success
    gaps = []
    for epsilon in (0.5, 0.05, 0.001):
        q = balanced_assignment(logits, prior, epsilon, "image")[0].numpy()
        gaps.append((-best.fun - float((q * log_p).sum())) / pixels)
        assert -1e-9 <= gaps[-1] <= epsilon * np.log(classes)
    assert gaps == sorted(gaps, reverse=True)
    hard = np.sort(q, axis=0)[-1]
    assert (hard > 0.99).sum() >= pixels - classes + 1  # a vertex has few pixels between classes


def test_the_prediction_itself_is_balanced_where_its_ratio_is_the_prior() -> None:
    logits = draw(5, 4, (6, 6)).requires_grad_()
    prior = logits.detach().softmax(1).flatten(2).mean(2)
    torch.testing.assert_close(
        balanced_assignment(logits, prior, 1.0, "image"), logits.detach().softmax(1)
    )
    balanced_cross_entropy(logits, prior, 1.0, "image").backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-11


def test_the_gradient_is_the_prediction_less_its_labels() -> None:
    logits = draw(6, 3, (3, 4)).requires_grad_()
    prior = draw_prior(6, 3)
    value = balanced_cross_entropy(logits, prior, 0.2)
    value.backward()
    p, q = logits.detach().softmax(1), balanced_assignment(logits, prior, 0.2)
    torch.testing.assert_close(logits.grad, (p - q) / (2 * 12))
    assert float(value.detach()) == pytest.approx(float(-(q * p.log()).sum(1).mean()))


def test_training_ends_at_sure_predictions_of_the_priors_ratio() -> None:
    logits = draw(7, 3, (8, 8)).float().requires_grad_()
    prior = torch.tensor([0.6, 0.3, 0.1])
    optimizer = torch.optim.SGD([logits], lr=200.0)
    for _ in range(40):
        optimizer.zero_grad()
        balanced_cross_entropy(logits, prior).backward()
        optimizer.step()
    p = logits.detach().softmax(1)
    torch.testing.assert_close(marginals(p).mean(0), prior.double(), atol=0.01, rtol=0)
    assert float(p.amax(1).mean()) > 0.95


@pytest.mark.usefixtures("as_users_see")
@pytest.mark.parametrize("call", [balanced_assignment, balanced_cross_entropy])
@pytest.mark.parametrize(
    "prior", [[0.5, 0.6], [1.5, -0.5], [0.2, 0.3, 0.5], [[0.5, 0.5], [0.5, 0.5]]]
)
def test_a_prior_that_is_none_is_refused(call: Any, prior: list[Any]) -> None:
    with pytest.raises(PriorError, match="the prior"):
        call(torch.zeros(1, 2, 3), torch.tensor(prior))


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan"), float("inf")])
def test_an_epsilon_that_is_not_positive_is_refused(epsilon: float) -> None:
    with pytest.raises(ConfigError, match="epsilon is"):
        balanced_assignment(torch.zeros(1, 2, 3), torch.tensor([0.5, 0.5]), epsilon)
