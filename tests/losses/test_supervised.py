"""Cross-entropy and Dice with labels: references, IGNORE, optimum, and that they train."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from uda.losses import cross_entropy, dice
from uda.types import IGNORE

seeds = st.integers(0, 2**31)
class_counts = st.sampled_from([2, 3, 19])
spaces = st.sampled_from([(5,), (3, 4), (2, 3, 4)])


def draw(
    seed: int, classes: int, space: tuple[int, ...], ignored: float = 0.2
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, *space, generator=generator)
    labels = torch.randint(classes, (2, *space), generator=generator)
    labels[torch.rand(2, *space, generator=generator) < ignored] = IGNORE
    labels.view(-1)[0] = classes - 1  # at least one pixel counts
    return logits, labels


def reference_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    flat = np.moveaxis(logits.astype(np.float64), 1, -1).reshape(-1, logits.shape[1])
    losses = []
    for pixel, label in zip(flat, labels.ravel(), strict=True):
        if label != IGNORE:
            losses.append(np.log(np.exp(pixel - pixel.max()).sum()) + pixel.max() - pixel[label])
    return float(np.mean(losses))


def reference_dice(logits: np.ndarray, labels: np.ndarray, first: int = 1) -> float:
    flat = np.moveaxis(logits.astype(np.float64), 1, -1).reshape(-1, logits.shape[1])
    flat, truth = flat[labels.ravel() != IGNORE], labels.ravel()[labels.ravel() != IGNORE]
    p = np.exp(flat) / np.exp(flat).sum(1, keepdims=True)
    scores = []
    for k in range(first, logits.shape[1]):
        y = truth == k
        scores.append((2 * p[y, k].sum() + 1e-6) / (p[:, k].sum() + y.sum() + 1e-6))
    return 1 - float(np.mean(scores))


REFERENCES: dict[Any, Any] = {cross_entropy: reference_cross_entropy, dice: reference_dice}
BOTH = pytest.mark.parametrize("loss", [cross_entropy, dice], ids=["cross_entropy", "dice"])


@BOTH
@settings(max_examples=20, deadline=None)
@given(seeds, class_counts, spaces)
def test_value_equals_a_float64_reference(
    loss: Any, seed: int, classes: int, space: tuple[int, ...]
) -> None:
    logits, labels = draw(seed, classes, space)
    expected = REFERENCES[loss](logits.numpy(), labels.numpy())
    assert float(loss(logits, labels)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@BOTH
def test_gradient_equals_finite_differences_of_the_reference(loss: Any) -> None:
    logits, labels = draw(1, 3, (2, 3))
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, labels), logits)
    base = logits.detach().numpy().astype(np.float64)
    for place in np.ndindex(base.shape):
        step = np.zeros_like(base)
        step[place] = 1e-5
        ends = [REFERENCES[loss](base + s, labels.numpy()) for s in (step, -step)]
        assert float(gradient[place]) == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-4)


@settings(max_examples=10, deadline=None)
@given(seeds, class_counts)
def test_cross_entropy_equals_torch_with_ignore_index(seed: int, classes: int) -> None:
    logits, labels = draw(seed, classes, (4, 5))
    expected = functional.cross_entropy(logits, labels, ignore_index=IGNORE)
    assert float(cross_entropy(logits, labels)) == pytest.approx(float(expected), abs=1e-5)


def test_background_counts_in_dice_only_when_asked() -> None:
    logits, labels = draw(2, 3, (4, 4))
    value = float(dice(logits, labels, include_background=True))
    assert value == pytest.approx(reference_dice(logits.numpy(), labels.numpy(), 0), abs=1e-5)
    assert value != pytest.approx(float(dice(logits, labels)), abs=1e-3)


@BOTH
def test_everything_ignored_is_0_with_a_gradient_of_0(loss: Any) -> None:
    logits = draw(3, 3, (4, 4))[0].requires_grad_()
    value = loss(logits, torch.full((2, 4, 4), IGNORE))
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(value.detach()) == pytest.approx(0, abs=1e-6)
    assert bool((gradient == 0).all())


@BOTH
def test_an_ignored_pixel_changes_neither_value_nor_gradient(loss: Any) -> None:
    logits, labels = draw(4, 3, (4, 4))
    other = logits.clone()
    other.movedim(1, -1)[labels == IGNORE] += torch.tensor([5.0, -3.0, 1.0])
    assert bool((labels == IGNORE).any())
    assert float(loss(other, labels)) == float(loss(logits, labels))
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, labels), logits)
    assert bool((gradient.movedim(1, -1)[labels == IGNORE] == 0).all())


@BOTH
@pytest.mark.parametrize("classes", [2, 19])
def test_the_truth_costs_nothing(loss: Any, classes: int) -> None:
    labels = torch.arange(classes).repeat(2, 2).reshape(2, 2, classes)
    logits = 100.0 * functional.one_hot(labels, classes).movedim(-1, 1).float()
    assert float(loss(logits, labels)) == pytest.approx(0, abs=1e-6)


@BOTH
def test_order_of_pixels_and_a_common_constant_do_not_matter(loss: Any) -> None:
    logits, labels = draw(5, 3, (12,))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(5))
    value = float(loss(logits, labels))
    assert float(loss(logits[..., order], labels[..., order])) == pytest.approx(value, abs=1e-6)
    assert float(loss(logits + 7.5, labels)) == pytest.approx(value, abs=1e-5)


@BOTH
def test_2d_and_3d_agree_on_the_same_pixels(loss: Any) -> None:
    logits, labels = draw(6, 4, (4, 6))
    volume = loss(logits.reshape(2, 4, 2, 2, 6), labels.reshape(2, 2, 2, 6))
    assert float(volume) == pytest.approx(float(loss(logits, labels)), abs=1e-6)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_value_and_gradient_are_finite_for_logits_of_1e4(loss: Any, dtype: torch.dtype) -> None:
    logits, labels = draw(7, 4, (4, 4))
    large = (1e4 * torch.sign(logits)).to(dtype).requires_grad_()
    value = loss(large, labels)
    (gradient,) = torch.autograd.grad(value, large)
    assert value.dtype == torch.float32
    assert bool(torch.isfinite(value))
    assert bool(torch.isfinite(gradient).all())


def test_cross_entropy_of_a_uniform_prediction_is_log_k() -> None:
    labels = torch.tensor([[0, 1, 18]])
    value = float(cross_entropy(torch.zeros(1, 19, 3), labels))
    assert value == pytest.approx(math.log(19), abs=1e-5)


def test_a_class_that_is_neither_there_nor_predicted_costs_no_dice() -> None:
    labels = torch.tensor([[0, 1]])
    logits = torch.tensor([[[50.0, -50.0], [-50.0, 50.0], [-200.0, -200.0]]])
    assert float(dice(logits, labels)) == pytest.approx(0, abs=1e-6)


def test_dice_of_a_class_is_defined_on_an_image_that_lacks_it() -> None:
    labels = torch.tensor([[0, 0], [1, 1]])
    logits = torch.tensor([[[50.0, 50.0], [-50.0, -50.0]], [[-50.0, -50.0], [50.0, 50.0]]])
    assert float(dice(logits, labels)) == pytest.approx(0, abs=1e-6)


@BOTH
def test_descent_on_free_logits_finds_the_labels(loss: Any) -> None:
    logits, labels = draw(8, 3, (3, 3))
    logits.requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(100):
        optimizer.zero_grad()
        loss(logits, labels).backward()
        optimizer.step()
    valid = labels != IGNORE
    assert bool((logits.argmax(1)[valid] == labels[valid]).all())
