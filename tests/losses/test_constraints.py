"""Size constraints: bounds, barrier, sorted area and what makes bounds, against NumPy and against theory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from uda.errors import ConfigError, PriorError
from uda.losses.class_ratio import class_ratio
from uda.losses.constraints import (
    barrier,
    barrier_t,
    log_barrier,
    ratio_bounds,
    size_bounds,
    tag_bounds,
)
from uda.losses.entropy import entropy
from uda.losses.sorted_area import _nth_by_selecting, _nth_by_sorting, sorted_area

seeds = st.integers(0, 2**31)
class_counts = st.sampled_from([2, 3, 19])
spaces = st.sampled_from([(5,), (3, 4), (2, 3, 4)])
scopes = st.sampled_from(["image", "batch"])


def draw(seed: int, classes: int, space: tuple[int, ...], images: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(images, classes, *space, generator=generator)


def draw_bounds(seed: int, classes: int, images: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Around a random ratio that is none of the prediction's; ``[b, k]``."""
    rng = np.random.default_rng(seed)
    ratio = rng.dirichlet(np.ones(classes), images)
    margin = rng.uniform(0, 0.3, (images, 1))
    return ratio * (1 - margin), np.minimum(ratio * (1 + margin), 1)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """``[b, k, n]`` in float64."""
    flat = logits.astype(np.float64).reshape(*logits.shape[:2], -1)
    p = np.exp(flat - flat.max(1, keepdims=True))
    return np.asarray(p / p.sum(1, keepdims=True))


def sizes(
    logits: np.ndarray, lower: np.ndarray, upper: np.ndarray, over: str, classes: Any
) -> list[tuple[float, float, float]]:
    """(V, l, u) of each bounded class of each row."""
    v = probabilities(logits).mean(2)
    lower, upper = np.broadcast_to(lower, v.shape), np.broadcast_to(upper, v.shape)
    if over == "batch":
        v, lower, upper = (x.mean(0, keepdims=True) for x in (v, lower, upper))
    chosen = range(v.shape[1]) if classes is None else classes
    return [(v[b, c], lower[b, c], upper[b, c]) for b in range(len(v)) for c in chosen]


def reference_bounds(
    logits: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    squared: bool = True,
    over: str = "image",
    classes: Any = None,
) -> float:
    power = 2 if squared else 1
    terms = []
    for v, low, high in sizes(logits, lower, upper, over, classes):
        terms.append((low - v if v < low else v - high if v > high else 0.0) ** power)
    return float(np.mean(terms))


def reference_psi(z: float, t: float) -> float:
    if z <= -1 / t**2:
        return -math.log(-z) / t
    return t * z - math.log(1 / t**2) / t + 1 / t


def reference_barrier(
    logits: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    t: float,
    over: str = "image",
    classes: Any = None,
) -> float:
    found = sizes(logits, lower, upper, over, classes)
    return float(
        np.mean([reference_psi(v - u, t) + reference_psi(low - v, t) for v, low, u in found])
    )


def reference_area(logits: np.ndarray, areas: np.ndarray) -> float:
    p = probabilities(logits)
    batch, classes, pixels = p.shape
    areas = np.broadcast_to(areas, (batch, classes))
    terms = []
    for b, c in itertools.product(range(batch), range(classes)):
        step = np.zeros(pixels)
        step[pixels - int(np.round(areas[b, c] * pixels)) :] = 1
        terms.append(np.mean((np.sort(p[b, c]) - step) ** 2))
    return float(np.mean(terms))


def assert_slopes(
    loss: Callable[[Tensor], Tensor], reference: Callable[[np.ndarray], float], logits: Tensor
) -> None:
    """The gradient of the loss equals finite differences of the reference."""
    leaf = logits.double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    base = leaf.detach().numpy()
    slopes = np.zeros_like(base)
    for place in np.ndindex(base.shape):
        step = np.zeros_like(base)
        step[place] = 1e-6
        slopes[place] = (reference(base + step) - reference(base - step)) / 2e-6
    np.testing.assert_allclose(gradient.numpy(), slopes, atol=1e-7)
    assert float(np.abs(slopes).max()) > 1e-4


def tensors(*arrays: np.ndarray) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(array).float() for array in arrays)


def train(loss: Callable[[Tensor], Tensor], classes: int = 2, steps: int = 150) -> Tensor:
    """Logits of a 1×1 convolution on a fixed random image of four channels, trained with the loss alone."""
    torch.manual_seed(0)
    image, network = torch.randn(2, 4, 8, 8), torch.nn.Conv2d(4, classes, 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(network(image)).backward()
        optimizer.step()
    return network(image).detach()


# size_bounds and log_barrier against the references


@settings(max_examples=25, deadline=None)
@given(seeds, class_counts, spaces, scopes, st.booleans(), st.sampled_from([None, [1], [1, 0]]))
def test_both_penalties_equal_a_float64_reference(
    seed: int, classes: int, space: tuple[int, ...], over: Any, squared: bool, chosen: Any
) -> None:
    logits, bounds = draw(seed, classes, space), draw_bounds(seed, classes)
    given_bounds = tensors(*bounds)
    value = float(size_bounds(logits, *given_bounds, squared, over, chosen))
    expected = reference_bounds(logits.numpy(), *bounds, squared, over, chosen)
    assert value == pytest.approx(expected, rel=1e-4, abs=1e-6)
    value = float(log_barrier(logits, *given_bounds, 5.0, over, chosen))
    expected = reference_barrier(logits.numpy(), *bounds, 5.0, over, chosen)
    assert value == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("over", ["image", "batch"])
@pytest.mark.parametrize("squared", [True, False])
def test_gradient_of_size_bounds_equals_finite_differences(over: Any, squared: bool) -> None:
    logits, (low, high) = draw(1, 3, (2, 2)), draw_bounds(1, 3)
    assert_slopes(
        lambda z: size_bounds(z, *(torch.from_numpy(x) for x in (low, high)), squared, over),
        lambda z: reference_bounds(z, low, high, squared, over),
        logits,
    )


@pytest.mark.parametrize("t", [2.0, 5.0, 50.0])
def test_gradient_of_log_barrier_equals_finite_differences(t: float) -> None:
    logits, (low, high) = draw(2, 3, (2, 2)), draw_bounds(2, 3)
    assert_slopes(
        lambda z: log_barrier(z, *(torch.from_numpy(x) for x in (low, high)), t),
        lambda z: reference_barrier(z, low, high, t),
        logits,
    )


# size_bounds


@settings(max_examples=20, deadline=None)
@given(seeds, class_counts, scopes, st.booleans())
def test_it_is_0_with_gradient_0_inside_the_bounds_and_in_0_to_1_elsewhere(
    seed: int, classes: int, over: Any, squared: bool
) -> None:
    logits = draw(seed, classes, (3, 4)).requires_grad_()
    inside = ratio_bounds(class_ratio(logits).detach(), 0.1)
    value = size_bounds(logits, *inside, squared, over)
    assert float(value.detach()) == 0
    assert bool((torch.autograd.grad(value, logits)[0] == 0).all())
    away = tensors(*draw_bounds(seed, classes))
    assert 0 <= float(size_bounds(logits, *away, squared, over).detach()) <= 1


def test_uniform_and_one_hot_predictions_miss_by_hand_reckoned_amounts() -> None:
    bounds = torch.tensor([0.5, 0.0, 0.0, 0.0]), torch.tensor([1.0, 0.125, 0.125, 0.125])
    # V = 1/4 each: the first lacks 1/4, the others have 1/8 too much
    uniform = torch.zeros(1, 4, 2, 2)
    assert float(size_bounds(uniform, *bounds)) == pytest.approx((1 / 16 + 3 / 64) / 4)
    assert float(size_bounds(uniform, *bounds, squared=False)) == pytest.approx(5 / 8 / 4)
    one_hot = torch.zeros(1, 4, 2, 2)
    one_hot[:, 1] = 200.0
    expected = (0.5**2 + 0.875**2) / 4
    assert float(size_bounds(one_hot, *bounds)) == pytest.approx(expected)


def test_over_the_batch_images_may_leave_the_bounds_that_their_mean_meets() -> None:
    logits = torch.tensor([[[99.0], [-99.0]], [[-99.0], [99.0]]])
    bounds = torch.tensor([0.4, 0.4]), torch.tensor([0.6, 0.6])
    assert float(size_bounds(logits, *bounds, over="batch")) == 0
    assert float(size_bounds(logits, *bounds, over="image")) == pytest.approx(0.16)
    assert float(log_barrier(logits, *bounds, 5.0, over="batch")) == pytest.approx(
        -2 * math.log(0.1) / 5
    )
    assert float(log_barrier(logits, *bounds, 5.0)) > 2


@pytest.mark.parametrize("loss", [size_bounds, lambda *x: log_barrier(*x, t=5.0)])
def test_one_row_of_bounds_for_all_images_equals_the_same_row_for_each(loss: Any) -> None:
    logits, (low, high) = draw(3, 3, (4, 4)), tensors(*draw_bounds(3, 3, 1))
    rows = loss(logits, low.expand(2, 3), high.expand(2, 3))
    assert float(loss(logits, low[0], high[0])) == float(rows)


def test_only_the_given_classes_are_bounded() -> None:
    logits, bounds = draw(4, 4, (4, 4)), tensors(*draw_bounds(4, 4))
    single = [float(size_bounds(logits, *bounds, classes=[c])) for c in range(4)]
    assert float(size_bounds(logits, *bounds, classes=[3, 1])) == pytest.approx(
        (single[1] + single[3]) / 2
    )
    assert float(size_bounds(logits, *bounds)) == pytest.approx(sum(single) / 4)
    assert len(set(single)) > 1


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize(("low", "high"), [(0.7, 0.8), (0.05, 0.1)])
def test_it_moves_a_network_into_the_bounds(squared: bool, low: float, high: float) -> None:
    bounds = torch.tensor([1 - high, low]), torch.tensor([1 - low, high])
    before, after = (
        class_ratio(train(lambda z: size_bounds(z, *bounds, squared), steps=steps))[:, 1]
        for steps in (1, 150)
    )
    assert not bool(((before > low) & (before < high)).any())
    assert bool(((after > low - 0.01) & (after < high + 0.01)).all())


def test_a_suppressed_class_leaves_the_image_and_an_included_one_stays() -> None:
    shown = torch.tensor([[True, False, True], [True, True, False]])
    bounds = tag_bounds(shown, pixels=64)

    def loss(logits: Tensor) -> Tensor:
        return size_bounds(logits, *bounds, squared=False)

    torch.manual_seed(0)
    logits = torch.randn(2, 3, 64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        loss(logits).backward()
        optimizer.step()
    found = class_ratio(logits.detach())
    assert bool((found[~shown] < 0.01).all())
    assert bool((found[shown] >= 1 / 64).all())


# log_barrier


@settings(max_examples=25, deadline=None)
@given(st.floats(0.5, 100.0))
def test_both_pieces_of_the_barrier_meet_with_one_value_and_the_slope_t(t: float) -> None:
    edge, step = -1 / t**2, 1e-6 / t**2
    z = torch.tensor([edge - step, edge, edge + step], dtype=torch.float64, requires_grad=True)
    psi = barrier(z, t)
    (slope,) = torch.autograd.grad(psi.sum(), z)
    expected = [reference_psi(x, t) for x in z.tolist()]
    np.testing.assert_allclose(psi.detach().numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(psi.detach().diff().numpy() / step, t, rtol=1e-4)
    np.testing.assert_allclose(slope.numpy(), t, rtol=1e-5)


def test_outside_the_bounds_it_rises_with_slope_t_and_inside_it_fades_as_t_grows() -> None:
    bounds = torch.tensor([0.0, 0.1]), torch.tensor([1.0, 0.3])

    def value(share: float, t: float) -> float:
        logits = torch.tensor([[[math.log(1 - share)], [math.log(share)]]])
        return float(log_barrier(logits, *bounds, t, classes=[1]))

    for t in (5.0, 50.0):
        rise = (value(0.9, t) - value(0.8, t)) / 0.1
        away = (math.log(0.8) - math.log(0.7)) / t / 0.1  # of the bound on the other side
        assert rise == pytest.approx(t - away, rel=1e-3)
    inside = [value(0.2, t) for t in (5.0, 50.0, 500.0)]
    assert inside == pytest.approx([-2 * math.log(0.1) / t for t in (5.0, 50.0, 500.0)], rel=1e-4)
    assert value(0.2, 5.0) < value(0.12, 5.0) < value(0.1, 5.0) < value(0.05, 5.0)


@settings(max_examples=20, deadline=None)
@given(seeds, class_counts, st.floats(1.0, 50.0))
def test_the_barrier_is_never_negative_and_below_its_stated_maximum_for_t_from_1_on(
    seed: int, classes: int, t: float
) -> None:
    bounds = tensors(*draw_bounds(seed, classes))
    sure = 1e4 * torch.sign(draw(seed, classes, (3, 4)))
    value = float(log_barrier(sure, *bounds, t))
    assert 0 <= value <= 2 * (t + (1 + 2 * math.log(t)) / t) + 1e-4


@pytest.mark.parametrize(("low", "high"), [(0.7, 0.8), (0.05, 0.1)])
def test_the_barrier_moves_a_network_inside_the_bounds(low: float, high: float) -> None:
    bounds = torch.tensor([1 - high, low]), torch.tensor([1 - low, high])
    steps = iter(range(400))
    logits = train(lambda z: log_barrier(z, *bounds, barrier_t(next(steps), every=10)), steps=300)
    found = class_ratio(logits)[:, 1]
    assert bool(((found > low) & (found < high)).all())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 5000), st.integers(1, 200))
def test_t_never_falls_and_never_passes_its_limit(step: int, every: int) -> None:
    now, later = barrier_t(step, every=every), barrier_t(step + every, every=every)
    assert 5 <= now <= later <= 50
    assert later == pytest.approx(min(50, 1.1 * now))


def test_t_with_a_growth_of_1_stays_and_a_start_above_the_limit_is_cut() -> None:
    assert barrier_t(10**6, growth=1.0) == 5
    assert barrier_t(0, start=80.0) == 50


@pytest.mark.parametrize(
    "wrong",
    [
        {"step": -1},
        {"start": 0.0},
        {"start": math.nan},
        {"growth": 0.9},
        {"every": 0},
        {"limit": 0.0},
        {"limit": math.nan},
    ],
)
def test_a_schedule_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="t cannot follow"):
        barrier_t(**{"step": 0, **wrong})


@pytest.mark.parametrize("t", [0.0, -1.0, math.inf, math.nan])
def test_a_t_that_is_not_positive_is_refused(t: float) -> None:
    with pytest.raises(ConfigError, match="t is"):
        log_barrier(torch.zeros(1, 2, 3), torch.zeros(2), torch.ones(2), t)


# what makes bounds


def test_tags_become_suppression_and_inclusion_image_by_image() -> None:
    low, high = tag_bounds(torch.tensor([[True, True], [True, False]]), pixels=10)
    torch.testing.assert_close(low, torch.tensor([[0.1, 0.1], [0.1, 0.0]]))
    torch.testing.assert_close(high, torch.tensor([[1.0, 1.0], [1.0, 0.0]]))


@settings(max_examples=20, deadline=None)
@given(seeds, class_counts, st.floats(0, 2))
def test_ratio_bounds_hold_the_ratio_and_stay_fractions(
    seed: int, classes: int, margin: float
) -> None:
    ratio = torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(classes), 3))
    ratio[0] = torch.eye(classes)[0]
    low, high = ratio_bounds(ratio, margin)
    assert bool(((low >= 0) & (low <= ratio) & (ratio <= high) & (high <= 1)).all())
    assert bool((high[ratio == 0] == 0).all())
    free = (ratio > 0) & (ratio * (1 + margin) < 1)
    torch.testing.assert_close(high[free], (ratio * (1 + margin))[free])


def test_tags_and_ratios_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(PriorError, match="shows no class at all") as caught:
        tag_bounds(torch.tensor([[True, False], [False, False]]), 4)
    assert "background" in str(caught.value.fix)
    with pytest.raises(PriorError, match="0 pixels"):
        tag_bounds(torch.tensor([True]), 0)
    with pytest.raises(PriorError, match="1\\.5 is not a fraction"):
        ratio_bounds(torch.tensor([1.5, -0.5]), 0.1)
    with pytest.raises(ConfigError, match="margin is -0\\.1"):
        ratio_bounds(torch.tensor([0.5, 0.5]), -0.1)


# sorted_area


@settings(max_examples=25, deadline=None)
@given(seeds, class_counts, spaces)
def test_sorted_area_equals_a_float64_reference_that_sorts(
    seed: int, classes: int, space: tuple[int, ...]
) -> None:
    logits = draw(seed, classes, space)
    areas = np.random.default_rng(seed).dirichlet(np.ones(classes), 2)
    value = float(sorted_area(logits, torch.from_numpy(areas)))
    # in float64 as the loss sees them: a · N may lie next to a half
    seen = torch.from_numpy(areas).float().numpy()
    assert value == pytest.approx(reference_area(logits.numpy(), seen), rel=1e-4, abs=1e-6)
    assert 0 <= value <= 1


def test_gradient_of_sorted_area_equals_finite_differences_of_the_reference() -> None:
    areas = np.array([[0.6, 0.3, 0.1], [0.2, 0.0, 0.8]])
    assert_slopes(
        lambda z: sorted_area(z, torch.from_numpy(areas)),
        lambda z: reference_area(z, areas),
        draw(5, 3, (2, 3)),
    )


@pytest.mark.parametrize("area", [0.0, 0.25, 0.5, 1.0])
def test_equal_probabilities_share_the_step_and_the_value_is_that_of_any_order(area: float) -> None:
    areas = np.array([area, 1 - area])
    logits = torch.zeros(1, 2, 8, dtype=torch.float64)
    logits[0, 0, :2] = 3.0  # two pixels apart from six equal ones
    logits.requires_grad_()
    value = sorted_area(logits, torch.from_numpy(areas))
    assert float(value.detach()) == pytest.approx(reference_area(logits.detach().numpy(), areas))
    (gradient,) = torch.autograd.grad(value, logits)
    for group in (gradient[0, :, :2], gradient[0, :, 2:]):
        assert bool((group == group[:, :1]).all())
    # moving all equal pixels together does not change the order, so there the slope is exact
    step = torch.zeros_like(logits)
    step[0, 0, 2:] = 1e-6
    base = logits.detach()
    ends = [reference_area((base + s).numpy(), areas) for s in (step, -step)]
    slope = (ends[0] - ends[1]) / 2e-6
    assert float((gradient * step / 1e-6).sum()) == pytest.approx(slope, abs=1e-7)


@settings(max_examples=25, deadline=None)
@given(seeds, st.sampled_from([torch.float32, torch.float64]), st.booleans())
def test_selecting_finds_what_sorting_finds(seed: int, dtype: torch.dtype, tied: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    p = (4 * torch.randn(5, 40, generator=generator, dtype=dtype)).softmax(0)
    p = (4 * p).round() / 4 if tied else p
    counts = torch.randint(41, (5,), generator=generator).to(dtype)
    counts[:3] = torch.tensor([0, 1, 40])
    expected = [
        sorted(row, reverse=True)[int(n) - 1] if n else math.inf
        for row, n in zip(p.tolist(), counts.tolist(), strict=True)
    ]
    assert _nth_by_sorting(p, counts).tolist() == expected
    assert _nth_by_selecting(p, counts).tolist() == expected


@pytest.mark.parametrize("classes", [2, 19])
def test_a_sure_prediction_with_the_wanted_areas_costs_nothing(classes: int) -> None:
    winners = torch.arange(classes).repeat_interleave(2)
    logits = 200.0 * torch.nn.functional.one_hot(winners, classes).T.float().unsqueeze(0)
    areas = torch.full((classes,), 1 / classes)
    assert float(sorted_area(logits, areas)) == pytest.approx(0, abs=1e-9)
    # one class everywhere: it has 1 − 1/K too much, each other lacks 1/K
    logits[:, 0] = 500.0
    expected = (1 - 1 / classes) * 2 / classes
    assert float(sorted_area(logits, areas)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("classes", [2, 19])
def test_a_uniform_prediction_costs_the_mean_square_to_the_step(classes: int) -> None:
    share, areas = 1 / classes, torch.full((classes,), 1 / classes)
    expected = (1 - share) * share**2 + share * (1 - share) ** 2
    value = float(sorted_area(torch.zeros(2, classes, classes, 3), areas))
    assert value == pytest.approx(expected, rel=1e-5)


def test_it_makes_a_network_sure_of_the_wanted_area_where_bounds_are_content_with_faint_ones() -> (
    None
):
    area = torch.tensor([0.75, 0.25])
    sure = train(lambda z: sorted_area(z, area), steps=300)
    won = (sure.argmax(1) == 1).float().mean((1, 2))
    torch.testing.assert_close(won, torch.full((2,), 0.25), atol=0.1, rtol=0)
    faint = torch.tensor([3.0, 1.0]).log().view(1, 2, 1, 1).expand(2, 2, 8, 8)
    assert float(size_bounds(faint, 0.99 * area, 1.01 * area)) == 0
    assert float(sorted_area(faint, area)) > 0.1
    assert float(entropy(sure)) < 0.5 * float(entropy(faint))


# bad input

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "lower": lambda z, given: size_bounds(z, given, torch.ones(2)),
    "upper": lambda z, given: log_barrier(z, torch.zeros(2), given, 5.0),
    "areas": sorted_area,
}


@pytest.mark.usefixtures("as_users_see")
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", [(3,), (1, 2), (3, 2), (2, 2, 1), ()])
def test_fractions_of_another_shape_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(PriorError, match=f"{name} has shape") as caught:
        LOSSES[name](torch.zeros(2, 2, 3, 3), torch.full(shape, 0.5))
    assert "(2,) for all images or (2, 2)" in str(caught.value)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("wrong", [600.0, 1.01, -0.1, math.nan, math.inf])
def test_what_is_no_fraction_of_the_image_is_refused(name: str, wrong: float) -> None:
    with pytest.raises(PriorError, match=f"{wrong:g} is not a fraction of the image") as caught:
        LOSSES[name](torch.zeros(2, 2, 3, 3), torch.tensor([0.5, wrong]))
    assert "divide pixel counts" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("lower", "upper", "what"),
    [
        ([0.5, 0.4], [1.0, 0.3], "lower bound of class 1 is above"),
        ([0.6, 0.6], [1.0, 1.0], "lower bounds of an image sum to 1.2"),
        ([0.0, 0.0], [0.5, 0.25], "upper bounds of an image sum to 0.75"),
    ],
)
def test_bounds_that_no_image_can_meet_are_refused(
    lower: list[float], upper: list[float], what: str
) -> None:
    with pytest.raises(PriorError, match=what):
        size_bounds(torch.zeros(1, 2, 4), torch.tensor(lower), torch.tensor(upper))


def test_bounds_of_some_classes_need_not_fill_the_image() -> None:
    bounds = torch.zeros(2), torch.tensor([0.0, 0.25])
    assert float(size_bounds(torch.zeros(1, 2, 4), *bounds, classes=[1])) == pytest.approx(1 / 16)


@pytest.mark.parametrize("classes", [[], [2], [-1], [0, 0]])
def test_classes_that_are_not_there_are_refused(classes: list[int]) -> None:
    with pytest.raises(PriorError, match="the bounded classes are"):
        size_bounds(torch.zeros(1, 2, 4), torch.zeros(2), torch.ones(2), classes=classes)
