"""Potts: the pairs it counts and their weights against NumPy, its symmetries, its optimum, what it refuses."""

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
from uda.losses.neighbours import window_pairs
from uda.losses.potts import _energy, potts

seeds = st.integers(0, 2**31)
class_counts = st.sampled_from([2, 3, 19])
spaces = st.sampled_from([(5,), (3, 4), (2, 3, 4)])


def draw(
    seed: int, classes: int, space: tuple[int, ...], images: int = 2, channels: int = 2
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, *space, generator=generator)
    return logits, torch.randn(images, channels, *space, generator=generator)


def reference(
    logits: np.ndarray,
    image: np.ndarray,
    sigma_color: float = 1.0,
    sigma_space: float = 2.0,
    radius: int = 1,
    dilation: int = 1,
) -> float:
    """Every ordered pair of pixels, one after the other, in float64."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    p = exponentials / exponentials.sum(1, keepdims=True)
    energies = []
    # pixels first, so that a pixel's index is a row
    p, image = np.moveaxis(p, 1, -1), np.moveaxis(image.astype(np.float64), 1, -1)
    for probability, colour in zip(p, image, strict=True):
        energy = total = 0.0
        pixels = list(np.ndindex(colour.shape[:-1]))
        for x in pixels:
            for y in pixels:
                offset = np.abs(np.subtract(x, y))
                if not offset.any() or (offset % dilation).any():
                    continue
                if offset.max() > radius * dilation:
                    continue
                difference = colour[x] - colour[y]
                w = math.exp(
                    -float(difference @ difference) / (2 * sigma_color**2)
                    - float(offset @ offset) / (2 * sigma_space**2)
                )
                energy += w * (1 - float(probability[x] @ probability[y]))
                total += w
        energies.append(energy / total)
    return float(np.mean(energies))


WINDOWS = st.sampled_from([(1, 1), (2, 1), (1, 2), (3, 1)])


@settings(max_examples=20, deadline=None)
@given(seeds, class_counts, spaces, WINDOWS, st.floats(0.3, 3), st.floats(0.5, 5))
def test_value_equals_a_float64_sum_over_allwindow_pairs(
    seed: int, classes: int, space: tuple[int, ...], window: Any, colour: float, far: float
) -> None:
    logits, image = draw(seed, classes, space)
    value = float(potts(logits, image, colour, far, *window))
    expected = reference(logits.numpy(), image.numpy(), colour, far, *window)
    assert value == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("space", [(3, 3), (2, 2, 3)])
@pytest.mark.parametrize("window", [(1, 1), (2, 1), (1, 2)])
def test_gradient_equals_finite_differences_of_the_sum(
    space: tuple[int, ...], window: tuple[int, int]
) -> None:
    logits, image = draw(1, 2, space)
    leaf = logits.double().requires_grad_()
    value = potts(leaf, image.double(), 1.0, 2.0, *window)
    (gradient,) = torch.autograd.grad(value, leaf)
    base = leaf.detach().numpy()
    for place in np.ndindex(base.shape):
        step = np.zeros_like(base)
        step[place] = 1e-6
        ends = [reference(base + s, image.numpy(), 1.0, 2.0, *window) for s in (step, -step)]
        assert float(gradient[place]) == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7)
    assert float(gradient.abs().max()) > 1e-3


@settings(max_examples=20, deadline=None)
@given(seeds, class_counts, spaces)
def test_range_is_0_to_1_and_a_uniform_prediction_has_1_less_1_over_k(
    seed: int, classes: int, space: tuple[int, ...]
) -> None:
    logits, image = draw(seed, classes, space)
    assert 0 <= float(potts(logits, image, 1.0)) <= 1
    assert 0 <= float(potts(1e4 * logits, image, 1.0)) <= 1 + 1e-6
    uniform = float(potts(torch.zeros_like(logits), image, 1.0))
    assert uniform == pytest.approx(1 - 1 / classes, rel=1e-5)


def test_pairs_that_all_disagree_have_1_and_one_class_everywhere_has_exactly_0() -> None:
    flat = torch.zeros(1, 1, 2)
    opposite = torch.tensor([[[200.0, -200.0], [-200.0, 200.0]]])
    assert float(potts(opposite, flat)) == pytest.approx(1)
    logits, image = draw(2, 3, (6, 6))
    one_class = torch.zeros_like(logits)
    one_class[:, 1] = 300.0
    assert float(potts(one_class, image)) == 0


def test_a_boundary_costs_less_where_the_image_has_an_edge() -> None:
    left, middle = (
        200.0 * torch.stack([-side, side]).unsqueeze(0)
        for side in (torch.where(torch.arange(8) < edge, -1.0, 1.0).expand(8, 8) for edge in (2, 4))
    )
    image = torch.where(torch.arange(8) < 4, 0.0, 1.0).expand(1, 1, 8, 8)
    assert float(potts(middle, image)) < 0.05 * float(potts(left, image))
    flat = torch.zeros_like(image)
    assert float(potts(middle, flat)) > float(potts(left, flat))


@settings(max_examples=15, deadline=None)
@given(seeds, st.sampled_from([(3, 4), (2, 3, 4)]))
def test_mirrors_transposition_and_the_order_of_classes_change_nothing(
    seed: int, space: tuple[int, ...]
) -> None:
    logits, image = draw(seed, 3, space)
    value = float(potts(logits, image, 1.0))
    for axis in range(2, logits.dim()):
        mirrored = potts(logits.flip(axis), image.flip(axis), 1.0)
        assert float(mirrored) == pytest.approx(value, abs=1e-6)
    turned = potts(logits.transpose(2, 3), image.transpose(2, 3), 1.0)
    assert float(turned) == pytest.approx(value, abs=1e-6)
    assert float(potts(logits[:, [2, 0, 1]], image, 1.0)) == pytest.approx(value, abs=1e-6)


def test_only_differences_of_colour_in_units_of_sigma_count() -> None:
    logits, image = draw(3, 3, (5, 5))
    value = float(potts(logits, image, 0.7))
    assert float(potts(logits, 10 * image + 3, 7.0)) == pytest.approx(value, abs=1e-5)
    assert float(potts(logits, image, 0.3)) != pytest.approx(value, abs=1e-3)
    twice = torch.cat([image, image], 1)  # two channels more: distances grow by √2
    assert float(potts(logits, twice, 0.7 * math.sqrt(2))) == pytest.approx(value, abs=1e-5)


def test_a_window_beyond_the_image_counts_the_pairs_that_are_inside() -> None:
    logits, image = draw(4, 2, (3, 3))
    all_pairs = float(potts(logits, image, 1.0, radius=2))
    assert float(potts(logits, image, 1.0, radius=9)) == pytest.approx(all_pairs, abs=1e-6)
    assert float(potts(logits, image, 1.0, radius=1)) != pytest.approx(all_pairs, abs=1e-4)


def test_dilation_counts_far_pairs_and_no_near_ones() -> None:
    columns = torch.arange(6) % 2
    stripes = 100.0 * torch.stack([columns, 1 - columns]).float().view(1, 2, 1, 6)
    flat = torch.zeros(1, 1, 1, 6)
    assert float(potts(stripes, flat, radius=1)) == pytest.approx(1)
    assert float(potts(stripes, flat, radius=1, dilation=2)) == pytest.approx(0, abs=1e-6)


def test_every_pair_within_the_window_is_listed_once() -> None:
    grid = np.arange(5 * 6 * 7).reshape(5, 6, 7)
    listed = [
        (int(a), int(b))
        for here, there, _ in window_pairs((5, 6, 7), 2, 1, 3.0)
        for a, b in zip(grid[here].ravel(), grid[there].ravel(), strict=True)
    ]
    places = list(np.ndindex(grid.shape))
    expected = {
        frozenset((i, j))
        for i, a in enumerate(places)
        for j, b in enumerate(places)
        if i != j and np.abs(np.subtract(a, b)).max() <= 2
    }
    assert len(listed) == len(expected)
    assert {frozenset(pair) for pair in listed} == expected


def test_the_whole_batch_at_once_equals_image_by_image() -> None:
    logits, image = draw(5, 3, (4, 5), images=3)
    p, pairs = logits.softmax(1), list(window_pairs((4, 5), 2, 1, 3.0))
    together, apart = torch.zeros_like(p), torch.zeros_like(p)
    energies = _energy(p, image, pairs, together)
    for i in range(3):
        part = slice(i, i + 1)
        torch.testing.assert_close(
            _energy(p[part], image[part], pairs, apart[part])[0], energies[i]
        )
    torch.testing.assert_close(apart, together)


def test_channels_last_logits_have_the_same_value_and_gradient() -> None:
    logits, image = draw(6, 3, (6, 5))
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        leaf = logits.contiguous(memory_format=layout).requires_grad_()
        value = potts(leaf, image.contiguous(memory_format=layout), 1.0)
        found.append((float(value.detach()), torch.autograd.grad(value, leaf)[0]))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-7)
    torch.testing.assert_close(found[0][1], found[1][1])


def test_no_gradient_reaches_the_image() -> None:
    logits, image = draw(7, 2, (4, 4))
    image.requires_grad_()
    potts(logits.requires_grad_(), image, 1.0).backward()
    assert image.grad is None
    assert logits.grad is not None


@pytest.mark.parametrize(
    "image", [torch.zeros(1, 1, 1, 1), torch.tensor([0.0, 1e4]).view(1, 1, 1, 2)]
)
def test_where_no_pair_has_a_weight_it_is_0_with_a_gradient_of_0(image: Tensor) -> None:
    logits = torch.randn(1, 3, *image.shape[2:]).requires_grad_()
    value = potts(logits, image)
    assert float(value.detach()) == 0
    assert bool((torch.autograd.grad(value, logits)[0] == 0).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_image_is_compared_in_float32(dtype: torch.dtype) -> None:
    logits, image = draw(8, 3, (5, 5))
    half = image.to(dtype)
    assert float(potts(logits, half)) == float(potts(logits, half.float()))


def descend(start: Tensor, image: Tensor) -> Tensor:
    """Labels of free logits that began at these labels."""
    logits = torch.stack([1.0 - start, start.float()]).unsqueeze(0).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        potts(logits, image).backward()
        optimizer.step()
    return logits.detach().argmax(1)[0]


def test_descent_cleans_noise_and_stops_at_the_edges_of_the_image() -> None:
    truth = (torch.arange(12) >= 6).long().expand(12, 12)
    wrong = torch.rand(12, 12, generator=torch.Generator().manual_seed(9)) < 0.3
    cleaned = descend(torch.where(wrong, 1 - truth, truth), truth.float().view(1, 1, 12, 12))
    assert torch.equal(cleaned, truth)


def test_descent_keeps_an_island_that_the_image_shows_and_dissolves_one_that_it_does_not() -> None:
    island = torch.zeros(12, 12, dtype=torch.long)
    island[4:7, 4:7] = 1
    image = island.float().view(1, 1, 12, 12)
    assert torch.equal(descend(island, image), island)
    assert not bool(descend(island, torch.zeros_like(image)).any())


def test_alone_it_collapses_a_network_to_one_class() -> None:
    torch.manual_seed(0)
    image, network = torch.randn(2, 3, 8, 8), torch.nn.Conv2d(3, 3, 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    shares = []
    for _ in range(200):
        logits = network(image)
        shares.append(float(logits.argmax(1).flatten().bincount(minlength=3).max()) / 128)
        optimizer.zero_grad()
        potts(logits, image, sigma_color=2.0).backward()
        optimizer.step()
    assert shares[0] < 0.9
    assert shares[-1] == 1


# bad input


@pytest.mark.usefixtures("as_users_see")
@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (2, 1, 4, 5), (2, 4, 4), (2, 1, 4, 4, 1)])
def test_an_image_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="the image has shape") as caught:
        potts(torch.zeros(2, 3, 4, 4), torch.zeros(shape))
    assert "(2, channels, 4, 4)" in str(caught.value.expected)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_image_that_is_not_finite_is_refused(value: float) -> None:
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 2, 2] = value
    with pytest.raises(DataError, match="not finite"):
        potts(torch.zeros(1, 2, 4, 4), image)


@pytest.mark.parametrize(
    "setting",
    [
        {"sigma_color": 0.0},
        {"sigma_space": -1.0},
        {"sigma_color": math.nan},
        {"sigma_space": math.inf},
        {"radius": 0},
        {"dilation": 0},
    ],
)
def test_a_window_that_cannot_be_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        potts(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4), **setting)
