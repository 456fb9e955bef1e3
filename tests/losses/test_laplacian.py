"""Laplacian: its pairs and weights against NumPy, its relation to Potts, its optimum, what it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from uda.errors import ConfigError, DataError
from uda.losses.laplacian import laplacian
from uda.losses.neighbours import grid_pairs
from uda.losses.potts import potts

seeds = st.integers(0, 2**31)
spaces = st.sampled_from([(5,), (3, 4), (2, 3, 4)])
WAYS = st.sampled_from([("grid", 1, 1), ("window", 1, 1), ("window", 2, 1), ("window", 1, 2)])


def draw(seed: int, classes: int, space: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, *space, generator=generator)
    return logits, torch.randn(2, 2, *space, generator=generator)


def reference(logits: np.ndarray, image: np.ndarray, colour: float, far: float, way: Any) -> float:
    """Every ordered pair of pixels, one after the other, in float64."""
    weights, radius, dilation = way
    exponentials = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    p = np.moveaxis(exponentials / exponentials.sum(1, keepdims=True), 1, -1)
    energies = []
    for probability, colours in zip(p, np.moveaxis(image.astype(np.float64), 1, -1), strict=True):
        energy = total = 0.0
        pixels = list(np.ndindex(colours.shape[:-1]))
        for x in pixels:
            for y in pixels:
                offset = np.abs(np.subtract(x, y))
                if weights == "grid":
                    inside, distance = offset.sum() == 1, 0.0
                else:
                    within = 0 < offset.max() <= radius * dilation
                    inside, distance = (
                        within and not (offset % dilation).any(),
                        float(offset @ offset),
                    )
                if inside:
                    difference = colours[x] - colours[y]
                    w = math.exp(
                        -float(difference @ difference) / (2 * colour**2) - distance / (2 * far**2)
                    )
                    energy += w * float(np.square(probability[x] - probability[y]).sum())
                    total += w
        energies.append(energy / total)
    return float(np.mean(energies))


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from([2, 3, 19]), spaces, WAYS, st.floats(0.3, 3), st.floats(0.5, 5))
def test_value_equals_a_float64_sum_over_all_pairs(
    seed: int, classes: int, space: tuple[int, ...], way: Any, colour: float, far: float
) -> None:
    logits, image = draw(seed, classes, space)
    value = float(laplacian(logits, image, way[0], colour, far, *way[1:]))
    expected = reference(logits.numpy(), image.numpy(), colour, far, way)
    assert value == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("space", [(3, 3), (2, 2, 3)])
@pytest.mark.parametrize("way", [("grid", 1, 1), ("window", 2, 1)])
def test_gradient_equals_finite_differences_of_the_sum(space: tuple[int, ...], way: Any) -> None:
    logits, image = draw(1, 2, space)
    leaf = logits.double().requires_grad_()
    value = laplacian(leaf, image.double(), way[0], 1.0, 2.0, *way[1:])
    (gradient,) = torch.autograd.grad(value, leaf)
    base = leaf.detach().numpy()
    for place in np.ndindex(base.shape):
        step = np.zeros_like(base)
        step[place] = 1e-6
        ends = [reference(base + s, image.numpy(), 1.0, 2.0, way) for s in (step, -step)]
        assert float(gradient[place]) == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7)
    assert float(gradient.abs().max()) > 1e-3


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from([2, 3, 19]), spaces)
def test_range_is_0_to_2_and_a_constant_prediction_has_0(
    seed: int, classes: int, space: tuple[int, ...]
) -> None:
    logits, image = draw(seed, classes, space)
    for weights in ("grid", "window"):
        assert 0 <= float(laplacian(logits, image, weights, 1.0)) <= 2
        assert 0 <= float(laplacian(1e4 * logits, image, weights, 1.0)) <= 2 + 1e-6
        constant = logits.flatten(2)[..., :1].expand(*logits.shape[:2], math.prod(space))
        value = laplacian(constant.reshape(logits.shape), image, weights, 1.0)
        assert float(value) == pytest.approx(0, abs=1e-6)


def test_one_class_everywhere_has_exactly_0() -> None:
    logits, image = draw(2, 3, (6, 6))
    one_class = torch.zeros_like(logits)
    one_class[:, 1] = 300.0
    assert float(laplacian(one_class, image)) == 0
    assert float(laplacian(one_class, image, "window")) == 0


def test_hard_labels_cost_twice_what_they_cost_in_potts_and_unsure_ones_nothing() -> None:
    logits, image = draw(3, 3, (6, 6))
    hard = 1e4 * logits
    value = float(laplacian(hard, image, "window", 1.0, 2.0, 2))
    assert value == pytest.approx(2 * float(potts(hard, image, 1.0, 2.0, 2)), rel=1e-5)
    unsure = torch.zeros_like(logits)
    assert float(potts(unsure, image)) == pytest.approx(2 / 3)
    assert float(laplacian(unsure, image)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("space", "count"), [((3, 4), 17), ((2, 3, 4), 46), ((1, 5), 4)])
def test_the_grid_has_every_pair_that_shares_a_face_once(
    space: tuple[int, ...], count: int
) -> None:
    grid = np.arange(math.prod(space)).reshape(space)
    listed = [
        (int(a), int(b))
        for here, there, _ in grid_pairs(space)
        for a, b in zip(grid[here].ravel(), grid[there].ravel(), strict=True)
    ]
    places = list(np.ndindex(space))
    assert len({frozenset(pair) for pair in listed}) == len(listed) == count
    for a, b in listed:
        assert np.abs(np.subtract(places[a], places[b])).sum() == 1


def test_the_value_of_noise_does_not_grow_with_the_image() -> None:
    values = [float(laplacian(*draw(4, 3, (side, side)), sigma_color=1.0)) for side in (32, 128)]
    assert values[0] == pytest.approx(values[1], rel=0.1)


def test_what_is_known_of_one_pixel_spreads_to_those_of_its_colour_and_stops_at_the_edge() -> None:
    """The seeds are held by cross-entropy; all other pixels know nothing at first."""
    image = (torch.arange(10) >= 5).float().expand(1, 1, 4, 10)
    logits = torch.zeros(1, 2, 4, 10, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        log_p = logits.log_softmax(1)
        seeds_ = -(log_p[0, 0, 2, 0] + log_p[0, 1, 1, 9])
        (seeds_ + 10 * laplacian(logits, image, sigma_color=0.25)).backward()
        optimizer.step()
    p = logits.detach().softmax(1)[0, 1]
    assert float(p[:, :5].max()) < 0.25
    assert float(p[:, 5:].min()) > 0.75


def test_no_gradient_reaches_the_image() -> None:
    logits, image = draw(7, 2, (4, 4))
    image.requires_grad_()
    laplacian(logits.requires_grad_(), image).backward()
    assert image.grad is None
    assert logits.grad is not None


@pytest.mark.parametrize(
    "image", [torch.zeros(1, 1, 1, 1), torch.tensor([0.0, 1e4]).view(1, 1, 1, 2)]
)
def test_where_no_pair_has_a_weight_it_is_0_with_a_gradient_of_0(image: Tensor) -> None:
    logits = torch.randn(1, 3, *image.shape[2:]).requires_grad_()
    value = laplacian(logits, image)
    assert float(value.detach()) == 0
    assert bool((torch.autograd.grad(value, logits)[0] == 0).all())


# bad input


@pytest.mark.usefixtures("as_users_see")
def test_weights_of_another_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="weights is 'dense'"):
        laplacian(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4), "dense")


@pytest.mark.usefixtures("as_users_see")
@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (2, 1, 4, 5), (2, 4, 4)])
def test_an_image_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="the image has shape"):
        laplacian(torch.zeros(2, 3, 4, 4), torch.zeros(shape))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_image_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(DataError, match="not finite"):
        laplacian(torch.zeros(1, 2, 4, 4), torch.full((1, 1, 4, 4), value))


@pytest.mark.parametrize(
    "setting",
    [{"sigma_color": 0.0}, {"sigma_space": -1.0}, {"radius": 0}, {"dilation": 0}],
)
def test_a_window_that_cannot_be_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        laplacian(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4), **setting)
