"""Dense CRF: the energy on the grid against the sum over all pairs, its gradient, masks, symmetries, its limits."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from uda.errors import ConfigError, DataError
from uda.losses.bilateral_grid import BilateralGrid
from uda.losses.dense_crf import dense_crf
from uda.losses.potts import potts

seeds = st.integers(0, 2**31)


def kernel(image: np.ndarray, colour: float, far: float) -> np.ndarray:
    """W of one image ``[c, *s]`` in float64, every pair."""
    space = image.shape[1:]
    place = np.stack([axis.ravel() for axis in np.indices(space)], 1)
    exponent = np.zeros((math.prod(space),) * 2)
    for values, width in ((image.reshape(len(image), -1).T, colour), (place, far)):
        for column in values.astype(np.float64).T:
            exponent -= np.square(column[:, None] - column) / (2 * width**2)
    return np.exp(exponent)


def reference(
    logits: Tensor, image: Tensor, colour: float, far: float, mask: Tensor | None = None
) -> tuple[float, np.ndarray]:
    """Energy of a batch from the whole matrix, and its gradient by the logits."""
    values, gradients = [], []
    for i in range(len(logits)):
        z = logits[i].double().flatten(1).numpy()
        p = np.exp(z - z.max(0))
        p /= p.sum(0)
        w = kernel(image[i].numpy(), colour, far)
        if mask is not None:
            inside = mask[i].flatten().numpy()
            w = w * inside * inside[:, None]
        total, spread = w.sum(), p @ w
        values.append(float((p @ w * (1 - p)).sum() / total))
        by_p = -2 * spread / total
        gradients.append(p * (by_p - (p * by_p).sum(0)) / len(logits))
    return float(np.mean(values)), np.stack(gradients).reshape(logits.shape)


def scene(
    seed: int, space: tuple[int, ...], channels: int = 1, classes: int = 3, kind: str = "disc"
) -> tuple[Tensor, Tensor]:
    """Two images of unit sd and random logits: a disc on a ramp with noise, or noise alone."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(2, channels, *space, generator=generator)
    if kind == "disc":
        axes = torch.meshgrid(*[torch.linspace(-1, 1, size) for size in space], indexing="ij")
        disc = (torch.stack([axis.square() for axis in axes]).sum(0) < 0.4).float()
        tints = torch.linspace(2, -1, channels).view(-1, *[1] * len(space))
        image = disc * tints + 0.5 * axes[-1] + 0.05 * image
        image = (image - image.mean()) / image.std()
    return 2 * torch.randn(2, classes, *space, generator=generator), image


def value_and_gradient(logits: Tensor, image: Tensor, *given: Any, **named: Any) -> Any:
    leaf = logits.clone().requires_grad_()
    value = dense_crf(leaf, image, *given, **named)
    return float(value.detach()), torch.autograd.grad(value, leaf)[0]


# the approximation

SCENES = [
    ((40, 40), 1, 0.25, 100.0),  # one node in space a pixel
    ((40, 40), 1, 0.25, 10.0),
    ((40, 40), 1, 0.5, 4.0),
    ((40, 40), 1, 0.1, 20.0),
    ((24, 32), 2, 0.25, 10.0),
    ((24, 24), 3, 0.25, 100.0),
    ((24, 24), 3, 0.5, 8.0),
    ((8, 12, 12), 1, 0.25, 5.0),
    ((1, 60), 1, 0.25, 10.0),
]


@pytest.mark.parametrize("kind", ["disc", "noise"])
@pytest.mark.parametrize(("space", "channels", "colour", "far"), SCENES)
def test_value_and_gradient_are_near_those_of_the_sum_over_all_pairs(
    space: tuple[int, ...], channels: int, colour: float, far: float, kind: str
) -> None:
    logits, image = scene(0, space, channels, kind=kind)
    value, gradient = value_and_gradient(logits, image, colour, far)
    expected, slope = reference(logits, image, colour, far)
    assert value == pytest.approx(expected, rel=5e-3)
    error = np.linalg.norm(gradient.numpy() - slope) / np.linalg.norm(slope)
    assert error < 0.1


def test_a_finer_grid_is_nearer_to_the_sum() -> None:
    logits, image = scene(1, (40, 40))
    _, slope = reference(logits, image, 0.25, 10.0)
    errors = [
        np.linalg.norm(value_and_gradient(logits, image, 0.25, 10.0, spacing)[1].numpy() - slope)
        for spacing in (1.0, 0.5, 0.25)
    ]
    assert errors[0] > 2 * errors[1] > 2 * errors[2]


@settings(max_examples=25, deadline=None)
@given(seeds, st.sampled_from([(6, 7), (3, 4, 5)]), st.floats(0.3, 2), st.floats(0.5, 200))
def test_the_matrix_of_the_grid_is_symmetric_has_ones_on_its_diagonal_and_no_negative_eigenvalue(
    seed: int, space: tuple[int, ...], colour: float, far: float
) -> None:
    image = scene(seed, space)[1].double()
    pixels = math.prod(space)
    identity = torch.eye(pixels, dtype=torch.float64).expand(2, -1, -1)
    matrix = BilateralGrid(image, colour, far).filtered(identity)
    torch.testing.assert_close(matrix, matrix.transpose(1, 2))
    torch.testing.assert_close(matrix.diagonal(dim1=1, dim2=2), torch.ones(2, pixels).double())
    assert float(torch.linalg.eigvalsh(matrix).min()) > -1e-9
    for i in range(2):
        exact = kernel(image[i].numpy(), colour, far)
        assert float((matrix[i] - torch.from_numpy(exact)).abs().max()) < 0.06


def test_where_every_pixel_and_colour_is_a_node_the_kernel_is_exact() -> None:
    steps = torch.arange(64.0).view(1, 1, 8, 8) / 10
    identity = torch.eye(64, dtype=torch.float64).unsqueeze(0)
    matrix = BilateralGrid(steps.double(), 1.0, 2.0).filtered(identity)
    np.testing.assert_allclose(matrix[0].numpy(), kernel(steps[0].numpy(), 1.0, 2.0), atol=1e-6)


def test_splat_and_slice_are_adjoint() -> None:
    _, image = scene(2, (9, 11), channels=2)
    grid = BilateralGrid(image.double(), 0.3, 4.0)
    pixels, nodes = torch.randn(2, 3, 99).double(), torch.randn(2, 3, grid.nodes).double()
    spread = grid.slice(nodes, torch.zeros_like(pixels))
    torch.testing.assert_close((grid.splat(pixels) * nodes).sum(), (pixels * spread).sum())


@pytest.mark.parametrize("far", [100.0, 10.0])
def test_both_ways_through_space_are_taken(far: float) -> None:
    _, image = scene(0, (40, 40))
    assert BilateralGrid(image, 0.25, far).nearest == (far == 100.0)


@pytest.mark.parametrize("far", [100.0, 5.0])
def test_the_gradient_is_that_of_the_value(far: float) -> None:
    logits, image = scene(3, (40, 40))
    leaf = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: dense_crf(z, image, 0.25, far), leaf, fast_mode=True)


# what it means


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from([2, 3, 19]), st.sampled_from([(5,), (3, 4), (2, 3, 4)]))
def test_range_is_0_to_1_and_a_uniform_prediction_has_1_less_1_over_k(
    seed: int, classes: int, space: tuple[int, ...]
) -> None:
    logits, image = scene(seed, space, classes=classes, kind="noise")
    assert 0 <= float(dense_crf(logits, image, 1.0)) <= 1
    assert 0 <= float(dense_crf(1e4 * logits, image, 1.0)) <= 1
    uniform = float(dense_crf(torch.zeros_like(logits), image, 1.0))
    assert uniform == pytest.approx(1 - 1 / classes, rel=1e-5)


@pytest.mark.parametrize("far", [100.0, 5.0])
def test_one_class_everywhere_has_exactly_0(far: float) -> None:
    logits, image = scene(2, (40, 40))
    one_class = torch.zeros_like(logits)
    one_class[:, 1] = 300.0
    assert float(dense_crf(one_class, image, sigma_space=far)) == 0


def test_the_value_does_not_depend_on_the_size_of_the_image() -> None:
    """Twice the pixels of the same scene, with σ_s twice as large."""
    values = []
    for side in (32, 64, 128):
        column = (torch.arange(side) + 0.5) / side
        image = (column > 0.5).float().expand(1, 1, side, side)
        logits = 8 * torch.stack([column - 0.4, 0.4 - column]).view(1, 2, 1, side)
        values.append(
            float(dense_crf(logits.expand(1, 2, side, side), image, sigma_space=side / 4))
        )
    assert values[1:] == pytest.approx(values[:1] * 2, rel=0.02)


def test_far_pixels_of_one_colour_agree_where_a_window_does_not_reach() -> None:
    image = torch.zeros(1, 1, 32, 32)
    image[..., 2:6, 2:6] = image[..., 26:30, 26:30] = 4.0
    labels = (image > 0).float()
    torn = labels.clone()
    torn[..., 26:30, 26:30] = 0
    both, one = (100 * torch.cat([1 - label, label], 1) for label in (labels, torn))
    assert float(dense_crf(one, image)) > 10 * float(dense_crf(both, image))
    # the window sees the second blob's border, which the image shows
    assert float(potts(one, image)) == pytest.approx(float(potts(both, image)), abs=1e-6)


def test_seeds_grow_over_their_colour_however_far() -> None:
    image = torch.zeros(1, 1, 24, 24)
    image[..., 4:10, 4:10] = image[..., 14:20, 14:20] = 2.0
    logits = torch.zeros(1, 2, 24, 24, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.2)
    for _ in range(100):
        optimizer.zero_grad()
        log_p = logits.log_softmax(1)
        known = -(log_p[0, 1, 6, 6] + log_p[0, 0, 0, 0])
        (known + 20 * dense_crf(logits, image)).backward()
        optimizer.step()
    assert torch.equal(logits.detach().argmax(1), (image[:, 0] > 1).long())


@pytest.mark.parametrize("far", [100.0, 6.0])
def test_mirrors_transposition_and_the_order_of_classes_change_nothing(far: float) -> None:
    logits, image = scene(4, (40, 40))
    value, gradient = value_and_gradient(logits, image, 0.5, far)
    for axis in (2, 3):
        other, turned = value_and_gradient(logits.flip(axis), image.flip(axis), 0.5, far)
        assert other == pytest.approx(value, abs=1e-5)
        torch.testing.assert_close(turned.flip(axis), gradient, atol=1e-7, rtol=1e-2)
    turned = dense_crf(logits.transpose(2, 3), image.transpose(2, 3), 0.5, far)
    assert float(turned) == pytest.approx(value, abs=1e-5)
    assert float(dense_crf(logits[:, [2, 0, 1]], image, 0.5, far)) == pytest.approx(value, abs=1e-6)


def test_only_differences_of_colour_in_units_of_sigma_count() -> None:
    logits, image = scene(5, (12, 12))
    value = float(dense_crf(logits, image, 0.7))
    assert float(dense_crf(logits, 10 * image + 30, 7.0)) == pytest.approx(value, abs=1e-5)
    assert float(dense_crf(logits, image, 0.2)) != pytest.approx(value, abs=1e-3)


# masks


@pytest.mark.parametrize("channels", [1, 2])
def test_a_mask_leaves_the_pairs_of_its_pixels(channels: int) -> None:
    logits, image = scene(6, (24, 24), channels)
    mask = torch.rand(2, 24, 24, generator=torch.Generator().manual_seed(1)) < 0.6
    value, gradient = value_and_gradient(logits, image, 0.25, 10.0, mask=mask)
    expected, slope = reference(logits, image, 0.25, 10.0, mask)
    assert value == pytest.approx(expected, rel=5e-3)
    assert np.linalg.norm(gradient.numpy() - slope) < 0.1 * np.linalg.norm(slope)
    assert bool((gradient[~mask.unsqueeze(1).expand_as(gradient)] == 0).all())


def test_pixels_outside_of_the_mask_may_have_any_colour() -> None:
    logits, image = scene(7, (16, 16))
    mask = torch.ones(2, 16, 16, dtype=torch.bool)
    mask[:, 12:] = False
    padded = image.masked_fill(~mask.unsqueeze(1), 1e6)
    value = float(dense_crf(logits, padded, mask=mask))
    assert value == float(dense_crf(logits, image.masked_fill(~mask.unsqueeze(1), -7.0), mask=mask))
    assert value == pytest.approx(reference(logits, image, 0.25, 100.0, mask)[0], rel=5e-3)


def test_a_full_mask_is_no_mask_and_an_empty_one_has_0_with_a_gradient_of_0() -> None:
    logits, image = scene(8, (12, 12))
    full = torch.ones(2, 12, 12, dtype=torch.bool)
    value, gradient = value_and_gradient(logits, image)
    other, same = value_and_gradient(logits, image, mask=full)
    assert other == pytest.approx(value, abs=1e-6)
    torch.testing.assert_close(same, gradient)
    nothing, slope = value_and_gradient(logits, image, mask=~full)
    assert nothing == 0
    assert bool((slope == 0).all())


# images at the edge


def test_a_constant_image_counts_nearness_alone() -> None:
    logits, image = scene(9, (20, 20))
    value = float(dense_crf(logits, torch.full_like(image, 3.7), 0.25, 6.0))
    assert value == pytest.approx(
        reference(logits, torch.zeros_like(image), 0.25, 6.0)[0], rel=5e-3
    )


def test_pixels_without_another_of_their_colour_pair_with_themselves_alone() -> None:
    logits = torch.tensor([[[2.0, -1.0, 0.5], [0.0, 0.0, 0.0]]])
    p = logits.softmax(1)
    alone = float((1 - p.square().sum(1)).mean())
    for image in (torch.tensor([[[0.0, 1e4, -1e4]]]), torch.tensor([[[0.0, 1e38, -1e38]]])):
        assert float(dense_crf(logits, image)) == pytest.approx(alone, abs=1e-6)


def test_beyond_63_sigmas_far_colours_count_as_equal() -> None:
    logits, _ = scene(10, (1, 6), classes=2)
    image = torch.tensor([0.0, 0.1, 0.2, 0.3, 1000.0, 2000.0]).expand(2, 1, 1, 6)
    merged = image.clamp_max(1000.0)
    assert float(dense_crf(logits, image)) != pytest.approx(
        reference(logits, image, 0.25, 100.0)[0], abs=1e-3
    )
    assert float(dense_crf(logits, image, sigma_color=40.0)) == pytest.approx(
        reference(logits, image, 40.0, 100.0)[0], rel=5e-3
    )
    assert float(dense_crf(logits, merged, sigma_color=40.0)) != pytest.approx(
        float(dense_crf(logits, image, sigma_color=40.0)), abs=1e-3
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_image_is_compared_in_float32(dtype: torch.dtype) -> None:
    logits, image = scene(11, (8, 8))
    half = image.to(dtype)
    assert float(dense_crf(logits, half)) == float(dense_crf(logits, half.float()))


def test_classes_that_take_turns_have_the_same_value_and_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits, image = scene(12, (12, 12), channels=2, classes=5)
    value, gradient = value_and_gradient(logits, image)
    monkeypatch.setattr(sys.modules[dense_crf.__module__], "MOST_VALUES", 1)
    other, same = value_and_gradient(logits, image)
    assert other == pytest.approx(value, abs=1e-6)
    torch.testing.assert_close(same, gradient)


def test_the_whole_batch_at_once_equals_image_by_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU."""
    for channels, far in ((1, 100.0), (3, 6.0)):
        logits, image = scene(13, (40, 40), channels)
        value, gradient = value_and_gradient(logits, image, 0.3, far)
        monkeypatch.setattr(sys.modules[dense_crf.__module__], "parts", lambda p: [slice(None)])
        other, same = value_and_gradient(logits, image, 0.3, far)
        monkeypatch.undo()
        assert other == pytest.approx(value, abs=1e-6)
        torch.testing.assert_close(same, gradient)


def test_channels_last_logits_have_the_same_value_and_gradient() -> None:
    logits, image = scene(14, (12, 10))
    last = torch.channels_last
    value, gradient = value_and_gradient(logits, image)
    other, same = value_and_gradient(
        logits.contiguous(memory_format=last), image.contiguous(memory_format=last)
    )
    assert other == pytest.approx(value, abs=1e-7)
    torch.testing.assert_close(same, gradient)


def test_no_gradient_reaches_the_image() -> None:
    logits, image = scene(15, (8, 8))
    image.requires_grad_()
    dense_crf(logits.requires_grad_(), image).backward()
    assert image.grad is None
    assert logits.grad is not None


# bad input


@pytest.mark.usefixtures("as_users_see")
@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (2, 1, 4, 5), (2, 4, 4)])
def test_an_image_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="the image has shape"):
        dense_crf(torch.zeros(2, 3, 4, 4), torch.zeros(shape))


@pytest.mark.usefixtures("as_users_see")
def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(DataError, match="the mask has shape") as caught:
        dense_crf(torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4), mask=torch.ones(2, 4) > 0)
    assert "(2, 4, 4)" in str(caught.value.expected)


def test_an_image_of_four_channels_is_refused_with_the_remedy() -> None:
    with pytest.raises(DataError, match="4 channels") as caught:
        dense_crf(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, 4))
    assert "potts" in str(caught.value.fix)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_image_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(DataError, match="not finite"):
        dense_crf(torch.zeros(1, 2, 4, 4), torch.full((1, 1, 4, 4), value))


@pytest.mark.parametrize(
    "setting",
    [
        {"sigma_color": 0.0},
        {"sigma_space": -1.0},
        {"sigma_color": math.nan},
        {"sigma_space": math.inf},
        {"spacing": 0.0},
        {"spacing": 1.5},
    ],
)
def test_a_setting_that_cannot_be_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        dense_crf(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4), **setting)
