"""Latent distributions: the optimum against a general solver and against what proves one, and what they are for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from uda.errors import ConfigError, PriorError
from uda.losses import (
    latent_cross_entropy,
    latent_distribution,
    nearest_ratio,
    ratio_bounds,
    tag_bounds,
)
from uda.losses.class_factors import _Pixels, _Problem

seeds = st.integers(0, 2**31)
class_counts = st.sampled_from([2, 3, 6])
spaces = st.sampled_from([(7,), (3, 5), (2, 3, 4)])
KINDS = ("around the prediction", "around another", "equal", "lower", "upper", "tags")
kinds = st.sampled_from(KINDS)


def draw(seed: int, classes: int, space: tuple[int, ...], images: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(images, classes, *space, generator=generator, dtype=torch.float64)


def draw_bounds(seed: int, logits: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Bounds ``[b, k]`` in float64 that some image meets."""
    images, classes = logits.shape[:2]
    random = np.random.default_rng(seed)
    ratio = torch.from_numpy(0.97 * random.dirichlet(np.ones(classes), images) + 0.03 / classes)
    ratio = ratio / ratio.sum(1, keepdim=True)
    if kind == "around the prediction":
        return ratio_bounds(logits.softmax(1).flatten(2).mean(2), 0.3)
    if kind == "around another":
        return ratio_bounds(ratio, 0.2)
    if kind == "equal":
        return ratio, ratio
    if kind == "lower":
        return 0.9 * ratio, torch.ones_like(ratio)
    if kind == "upper":
        return torch.zeros_like(ratio), (1.1 * ratio).clamp_max(1)
    shown = torch.from_numpy(random.random((images, classes)) < 0.6)
    shown[:, 0] = True
    lower, upper = tag_bounds(shown, pixels=logits[0, 0].numel())
    return lower.double(), upper.double()


def sizes(u: Tensor) -> Tensor:
    return u.double().flatten(2).mean(2)


def divergence(first: Tensor, second: Tensor) -> float:
    """Mean over images and pixels of KL(first‖second), in float64."""
    first, second = first.double(), second.double()
    terms = torch.xlogy(first, first) - torch.xlogy(first, second)
    return float(terms.sum(1).mean())


def reference(p: np.ndarray, lower: np.ndarray, upper: np.ndarray, slack: float) -> np.ndarray:
    """u of one image ``[k, n]`` from the dual with a variable for each bound, by a general solver."""
    classes = len(p)

    def assigned(duals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weighted = p * np.exp(duals[:classes] - duals[classes:])[:, None]
        return weighted, weighted.sum(0)

    def cost(duals: np.ndarray) -> tuple[float, np.ndarray]:
        weighted, total = assigned(duals)
        mean = (weighted / total).mean(1)
        value = np.log(total).mean() - lower @ duals[:classes] + upper @ duals[classes:]
        return float(value), np.concatenate([mean - lower, upper - mean])

    found = minimize(
        cost,
        np.zeros(2 * classes),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, min(slack, 60.0))] * (2 * classes),
        options={"ftol": 1e-16, "gtol": 1e-9, "maxiter": 5000, "maxfun": 20000, "maxcor": 30},
    )
    weighted, total = assigned(found.x)
    u: np.ndarray = weighted / total
    return u


def references(logits: Tensor, lower: Tensor, upper: Tensor, slack: float = math.inf) -> Tensor:
    p = logits.softmax(1).flatten(2).numpy()
    each = [reference(*row, slack) for row in zip(p, lower.numpy(), upper.numpy(), strict=True)]
    return torch.from_numpy(np.stack(each)).view(logits.shape)


@settings(max_examples=40, deadline=None)
@given(seeds, class_counts, spaces, kinds)
def test_it_equals_what_a_general_solver_finds(
    seed: int, classes: int, space: tuple[int, ...], kind: str
) -> None:
    logits = draw(seed, classes, space)
    lower, upper = draw_bounds(seed, logits, kind)
    expected = references(logits, lower, upper)
    found = latent_distribution(logits, lower, upper)
    # the general solver is the less exact one
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    p = logits.softmax(1)
    assert divergence(found, p) == pytest.approx(divergence(expected, p), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(seeds, class_counts, spaces, st.sampled_from(KINDS[:5]), st.sampled_from([0.2, 1.0, 3.0]))
def test_with_a_slack_it_equals_what_a_general_solver_finds(
    seed: int, classes: int, space: tuple[int, ...], kind: str, slack: float
) -> None:
    logits = draw(seed, classes, space)
    lower, upper = draw_bounds(seed, logits, kind)
    found = latent_distribution(logits, lower, upper, slack)
    torch.testing.assert_close(found, references(logits, lower, upper, slack), atol=2e-5, rtol=0)


@settings(max_examples=60, deadline=None)
@given(seeds, st.sampled_from([2, 3, 6, 19]), spaces, kinds)
def test_it_has_the_form_the_sizes_and_the_signs_that_prove_an_optimum(
    seed: int, classes: int, space: tuple[int, ...], kind: str
) -> None:
    """The Karush–Kuhn–Tucker conditions, which suffice because the problem is convex."""
    logits = draw(seed, classes, space)
    lower, upper = draw_bounds(seed, logits, kind)
    if bool((lower.sum(1) > 1 - 1e-6).any()) and kind != "equal":
        return  # as many classes as pixels: λ is not finite
    u = latent_distribution(logits, lower, upper)
    torch.testing.assert_close(u.sum(1), torch.ones_like(u[:, 0]), atol=1e-12, rtol=0)
    assert bool((sizes(u) >= lower - 1e-10).all())
    assert bool((sizes(u) <= upper + 1e-10).all())
    for image in range(len(u)):
        bounds = zip(lower[image].tolist(), upper[image].tolist(), strict=True)
        open_classes = [c for c, (_, high) in enumerate(bounds) if high > 0]
        ratio = (u[image].log() - logits[image].log_softmax(0)).flatten(1)[open_classes]
        factors = ratio - ratio[:1]
        # one factor a class: the same in every pixel
        torch.testing.assert_close(factors, factors[:, :1].expand_as(factors), atol=1e-9, rtol=0)
        assert float(u[image][[c for c in range(classes) if c not in open_classes]].sum()) == 0
        dual, size = factors[:, 0], sizes(u)[image][open_classes]
        held_up = (size - lower[image][open_classes]) < 1e-9
        held_down = (upper[image][open_classes] - size) < 1e-9
        inside = dual[~held_up & ~held_down]
        # all classes inside share one λ, those held up have more and those held down less
        assert bool((dual[held_up & ~held_down][:, None] >= inside - 1e-8).all())
        assert bool((dual[held_down & ~held_up][:, None] <= inside + 1e-8).all())
        if len(inside):
            assert float(inside.max() - inside.min()) < 1e-8


@settings(max_examples=30, deadline=None)
@given(seeds, class_counts, spaces, kinds)
def test_no_distribution_of_allowed_sizes_is_nearer(
    seed: int, classes: int, space: tuple[int, ...], kind: str
) -> None:
    """And by as much as the Pythagorean inequality of divergences says."""
    logits = draw(seed, classes, space)
    lower, upper = draw_bounds(seed, logits, kind)
    p, u = logits.softmax(1), latent_distribution(logits, lower, upper)
    other = latent_distribution(draw(seed + 1, classes, space), lower, upper)
    assert divergence(other, p) >= divergence(other, u) + divergence(u, p) - 1e-8


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from([2, 5, 19]), kinds, st.sampled_from([0.3, 3.0, 10.0]))
def test_float32_meets_the_bounds_to_1e_6(seed: int, classes: int, kind: str, scale: float) -> None:
    logits = scale / 2 * draw(seed, classes, (16, 24))
    lower, upper = draw_bounds(seed, logits, kind)
    u = latent_distribution(logits.float(), lower.float(), upper.float())
    assert u.dtype == torch.float32
    assert bool((sizes(u) >= lower - 1e-6).all())
    assert bool((sizes(u) <= upper + 1e-6).all())
    exact = latent_distribution(logits, lower, upper)
    assert float((u - exact).abs().mean()) < 1e-5


def test_where_all_pixels_are_alike_the_answer_is_the_nearest_ratio() -> None:
    p = torch.tensor([0.7, 0.2, 0.1])
    logits = p.log().view(1, 3, 1).expand(1, 3, 5)
    u = latent_distribution(logits, torch.zeros(3), torch.tensor([0.5, 1.0, 1.0]))
    torch.testing.assert_close(u[0, :, 0], torch.tensor([1 / 2, 1 / 3, 1 / 6]))
    u = latent_distribution(logits, torch.tensor([0.0, 0.6, 0.0]), torch.ones(3))
    torch.testing.assert_close(u[0, :, 4], torch.tensor([0.35, 0.6, 0.05]))


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from([2, 3, 6]), st.floats(0.01, 0.9))
def test_the_guess_of_the_sizes_is_the_nearest_ratio(
    seed: int, classes: int, tolerance: float
) -> None:
    rows = torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(classes), (2, 3)))
    mean, prior = 0.98 * rows + 0.02 / classes
    problem = _Problem.of((1 - tolerance) * prior, (1 + tolerance) * prior, math.inf)
    shares, rest = problem.nearest(mean.log(), torch.zeros_like(mean))
    torch.testing.assert_close(shares, nearest_ratio(mean, prior, tolerance), atol=1e-9, rtol=0)
    assert bool((rest.isnan() | (rest == 0)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_prediction_within_its_bounds_is_returned_without_a_gradient(dtype: torch.dtype) -> None:
    logits = draw(1, 3, (4, 5)).to(dtype).requires_grad_()
    p = logits.detach().softmax(1)
    lower, upper = ratio_bounds(sizes(p), 0.01)
    u = latent_distribution(logits, lower, upper)
    assert not u.requires_grad
    tiny = 1e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(u, p, atol=tiny, rtol=0)
    latent_cross_entropy(logits, lower, upper).backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < tiny


def test_a_suppressed_class_has_exactly_0_even_where_the_prediction_is_sure_of_it() -> None:
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 2] = 300.0
    u = latent_distribution(logits, *tag_bounds(torch.tensor([True, True, False]), pixels=4))
    assert bool((u[:, 2] == 0).all())
    torch.testing.assert_close(u[:, :2], torch.full((1, 2, 2, 2), 0.5))
    assert bool(
        torch.isfinite(latent_cross_entropy(logits, torch.zeros(3), u.new_tensor([1, 1, 0])))
    )


@pytest.mark.parametrize("absent", [30.0, 200.0, 5000.0])
def test_a_class_that_is_nowhere_likely_gets_its_pixel(absent: float) -> None:
    """p is e^−30, or less than float32 holds: the pixel goes where it is the least unlikely."""
    logits = 0.1 * draw(3, 4, (16, 16), images=1).float()
    logits[:, 3] -= absent
    logits[0, 3, 5, 6] += 20
    lower, upper = tag_bounds(torch.ones(4, dtype=torch.bool), pixels=256)
    u = latent_distribution(logits, lower, upper)
    assert float(sizes(u)[0, 3]) == pytest.approx(1 / 256, abs=1e-6)
    assert float(u[0, 3, 5, 6]) > 0.99


def confident(classes: int, scale: float) -> Tensor:
    """Smooth regions with a little noise: almost one-hot nearly everywhere."""
    generator = torch.Generator().manual_seed(classes)
    coarse = torch.randn(3, classes, 4, 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic")
    return scale * (fine + 0.1 * torch.randn(fine.shape, generator=generator))


@pytest.mark.parametrize("classes", [2, 5, 19])
@pytest.mark.parametrize("scale", [10.0, 100.0, 1000.0])
def test_confident_predictions_meet_their_bounds_too(classes: int, scale: float) -> None:
    logits = confident(classes, scale)
    ratio = 1 / torch.arange(1.0, classes + 1)
    ratio = ratio / ratio.sum()
    tags = torch.ones(classes, dtype=torch.bool)
    tags[1:2] = classes == 2
    for lower, upper in (
        (ratio, ratio),
        ratio_bounds(ratio, 0.1),
        ratio_bounds(ratio, 0.5),
        tag_bounds(tags, pixels=1024),
    ):
        u = latent_distribution(logits, lower, upper)
        assert bool((sizes(u) >= lower - 1e-6).all())
        assert bool((sizes(u) <= upper + 1e-6).all())


@pytest.mark.parametrize("kind", KINDS)
def test_it_takes_few_passes_over_the_pixels(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    passes = []
    moments = _Pixels.moments

    def counted(pixels: _Pixels, dual: Tensor) -> Any:
        passes.append(1)
        return moments(pixels, dual)

    monkeypatch.setattr(_Pixels, "moments", counted)
    logits = draw(4, 5, (64, 64), images=4)
    latent_distribution(logits, *draw_bounds(4, logits, kind))
    assert len(passes) <= 7  # to 1e-11, in float64


def test_a_slack_bounds_the_factors_and_a_large_one_is_none() -> None:
    logits = draw(6, 3, (4, 4))
    lower, upper = torch.tensor([0.0, 0.0, 0.9]), torch.ones(3)
    hard = latent_distribution(logits, lower, upper)
    torch.testing.assert_close(latent_distribution(logits, lower, upper, 50.0), hard)
    last = sizes(logits.softmax(1))[:, 2]
    for slack in (0.1, 0.5, 2.0):
        u = latent_distribution(logits, lower, upper, slack)
        odds = (u[:, 2] / u[:, 0]).log() - (logits[:, 2] - logits[:, 0])
        torch.testing.assert_close(odds, torch.full_like(odds, slack), atol=1e-9, rtol=0)
        assert bool((sizes(u)[:, 2] > last).all())
        last = sizes(u)[:, 2]
    assert bool((last < 0.9).all())
    torch.testing.assert_close(sizes(hard)[:, 2], torch.full((2,), 0.9).double())


def test_bounds_over_the_batch_let_single_images_leave_them() -> None:
    logits = draw(7, 3, (4, 4))
    logits[0, 0] += 3
    lower = torch.tensor([[0.2, 0.2, 0.2], [0.4, 0.4, 0.0]]).double()
    upper = torch.full((3,), 0.5).double()
    u = latent_distribution(logits, lower, upper, over="batch")
    mean = sizes(u).mean(0)
    assert bool((mean >= lower.mean(0) - 1e-9).all())
    assert bool((mean <= upper + 1e-9).all())
    assert float(sizes(u)[0, 0]) > 0.6
    together = logits.transpose(0, 1).flatten(1).unsqueeze(0)
    alone = latent_distribution(together, lower.mean(0), upper)
    expected = alone.view(3, 2, 4, 4).transpose(0, 1)
    torch.testing.assert_close(u, expected)


@pytest.mark.parametrize("written", [[0.333, 0.333, 0.333], [0.3336, 0.3336, 0.3336]])
def test_ratios_written_with_few_digits_are_scaled_to_the_whole(written: list[float]) -> None:
    bounds = torch.tensor(written)
    u = latent_distribution(draw(8, 3, (4, 4)), bounds, bounds)
    torch.testing.assert_close(sizes(u), torch.full((2, 3), 1 / 3).double())


def test_the_gradient_is_the_prediction_less_its_labels() -> None:
    logits = draw(9, 4, (3, 4)).requires_grad_()
    lower, upper = draw_bounds(9, logits.detach(), "around another")
    value = latent_cross_entropy(logits, lower, upper)
    value.backward()
    p, u = logits.detach().softmax(1), latent_distribution(logits, lower, upper)
    torch.testing.assert_close(logits.grad, (p - u) / (2 * 12))
    assert float(value.detach()) == pytest.approx(float(-(u * p.log()).sum(1).mean()))


@settings(max_examples=10, deadline=None)
@given(seeds, kinds)
def test_its_gradient_is_that_of_the_least_divergence(seed: int, kind: str) -> None:
    """Whose labels move along with the logits: the distance of the prediction from what is allowed."""
    logits = draw(seed, 3, (4,), images=1)
    lower, upper = draw_bounds(seed, logits, kind)
    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(latent_cross_entropy(leaf, lower, upper), leaf)
    for place in np.ndindex(logits.shape):
        ends = []
        for sign in (1, -1):
            moved = logits.clone()
            moved[place] += sign * 1e-4
            u = latent_distribution(moved, lower, upper)
            ends.append(divergence(u, moved.softmax(1)))
        assert float(gradient[place]) == pytest.approx((ends[0] - ends[1]) / 2e-4, abs=1e-5)


def test_training_brings_the_sizes_within_the_bounds() -> None:
    logits = draw(10, 3, (8, 8)).float().requires_grad_()
    lower, upper = torch.tensor([0.1, 0.5, 0.1]), torch.tensor([0.3, 0.7, 0.3])
    optimizer = torch.optim.SGD([logits], lr=200.0)
    for _ in range(60):
        optimizer.zero_grad()
        latent_cross_entropy(logits, lower, upper).backward()
        optimizer.step()
    size = sizes(logits.detach().softmax(1))
    assert bool((size > lower - 0.01).all())
    assert bool((size < upper + 0.01).all())


@pytest.mark.usefixtures("as_users_see")
@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        ([0.6, 0.6], [1.0, 1.0], "lower bounds of an image sum to 1.2"),
        ([0.0, 0.0], [0.4, 0.4], "upper bounds of an image sum to 0.8"),
        ([0.5, 0.0], [0.4, 1.0], "lower bound of class 0 is above"),
        ([0.0, 0.0], [1.5, 1.0], "1.5 is not a fraction"),
        ([0.0, float("nan")], [1.0, 1.0], "nan is not a fraction"),
        ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], r"lower has shape \(3,\)"),
    ],
)
@pytest.mark.parametrize("call", [latent_distribution, latent_cross_entropy])
@pytest.mark.parametrize("over", ["image", "batch"])
def test_bounds_that_no_image_can_meet_are_refused(
    call: Any, over: str, lower: list[float], upper: list[float], message: str
) -> None:
    with pytest.raises(PriorError, match=message):
        call(torch.zeros(1, 2, 3), torch.tensor(lower), torch.tensor(upper), over=over)


@pytest.mark.parametrize("slack", [0.0, -1.0, float("nan")])
def test_a_slack_that_is_not_positive_is_refused(slack: float) -> None:
    with pytest.raises(ConfigError, match="slack is"):
        latent_cross_entropy(torch.zeros(1, 2, 3), torch.zeros(2), torch.ones(2), slack)
