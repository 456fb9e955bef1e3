"""Landmark superpixels: against a loop over superpixels, and what counts for nothing."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from uda.errors import DataError, PriorError
from uda.losses import landmark_cross_entropy
from uda.types import IGNORE


def brute(logits: Tensor, segments: Tensor, classes: Tensor) -> float:
    """One superpixel after the other, in plain probabilities."""
    p = logits.double().softmax(1)
    terms = [
        -math.log(float(p[b, int(classes[b, s])][segments[b] == s].mean()))
        for b in range(classes.shape[0])
        for s in range(classes.shape[1])
        if int(classes[b, s]) != IGNORE and bool((segments[b] == s).any())
    ]
    return sum(terms) / len(terms) if terms else 0.0


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999),
    batch=st.integers(1, 3),
    classes=st.sampled_from([2, 5, 19]),
    count=st.integers(1, 12),
    volume=st.booleans(),
    spread=st.floats(0.1, 8),
)
def test_it_is_a_loop_over_the_superpixels(
    seed: int, batch: int, classes: int, count: int, volume: bool, spread: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    space = (3, 4, 5) if volume else (6, 7)
    logits = spread * torch.randn(batch, classes, *space, generator=generator)
    segments = torch.randint(-1, count + 2, (batch, *space), generator=generator)
    known = torch.randint(classes, (batch, count), generator=generator)
    known[torch.rand(batch, count, generator=generator) < 0.4] = IGNORE
    found = float(landmark_cross_entropy(logits, segments, known))
    assert found == pytest.approx(brute(logits, segments, known), rel=1e-5, abs=1e-6)


def test_a_superpixel_weighs_the_same_whatever_its_size() -> None:
    """One of 15 pixels and one of a single pixel: (−log ½ − log ¼) / 2, not a mean over pixels."""
    p = torch.full((1, 2, 4, 4), 0.5)
    p[0, :, 0, 0] = torch.tensor([0.25, 0.75])
    segments = torch.ones(1, 4, 4, dtype=torch.long)
    segments[0, 0, 0] = 0
    found = landmark_cross_entropy(p.log(), segments, torch.zeros(1, 2, dtype=torch.long))
    assert float(found) == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_only_the_mean_over_a_superpixel_has_to_be_its_class() -> None:
    """¾ of the pixels are sure of the class, ¼ of another: −log ¾, where a loss of pixels would be huge."""
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 0] = torch.tensor([[90.0, 90.0], [90.0, -90.0]])
    segments = torch.zeros(1, 2, 2, dtype=torch.long)
    found = landmark_cross_entropy(logits, segments, torch.zeros(1, 1, dtype=torch.long))
    assert float(found) == pytest.approx(-math.log(0.75))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
@pytest.mark.parametrize(
    ("segments", "known"),
    [
        ([[0, 1], [1, 0]], [IGNORE, IGNORE]),
        ([[7, 7], [7, 7]], [0, 1]),
    ],
    ids=["no class is known", "no pixel is in a superpixel"],
)
def test_nothing_known_is_0_with_a_gradient_of_0(
    segments: list[list[int]], known: list[int], dtype: torch.dtype
) -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    labels = torch.tensor([known], dtype=torch.uint8)
    loss = landmark_cross_entropy(logits, torch.tensor([segments], dtype=dtype), labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(loss.detach()) == 0
    assert not gradient.any()


def test_pixels_outside_of_landmarks_have_no_gradient() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    segments = torch.arange(16).view(1, 4, 4).expand(2, -1, -1) // 4
    known = torch.tensor([[0, IGNORE, 2, IGNORE], [IGNORE, 1, IGNORE, IGNORE]])
    (gradient,) = torch.autograd.grad(landmark_cross_entropy(logits, segments, known), logits)
    touched = gradient.abs().sum((1, 3)) > 0
    assert touched.tolist() == [[True, False, True, False], [False, True, False, False]]


def test_it_trains_pixels_to_the_class_of_their_superpixel() -> None:
    logits = torch.zeros(1, 3, 4, 4, requires_grad=True)
    segments = torch.arange(16).view(1, 4, 4) // 8
    known = torch.tensor([[2, 1]])
    for _ in range(50):
        loss = landmark_cross_entropy(logits, segments, known)
        (gradient,) = torch.autograd.grad(loss, logits)
        logits = (logits - 2 * gradient).detach().requires_grad_()
    assert torch.equal(logits.argmax(1), known[0][segments])


def test_the_order_of_addition_cannot_matter_to_the_last_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 5, 4096, 2, generator=generator) * 4
    segments = torch.randint(3, (1, 4096, 2), generator=generator)
    known = torch.tensor([[0, 1, 2]])
    order = torch.randperm(4096, generator=generator)
    value = landmark_cross_entropy(logits, segments, known)
    assert torch.equal(
        landmark_cross_entropy(logits[:, :, order], segments[:, order], known), value
    )


@pytest.mark.usefixtures("as_users_see")
@pytest.mark.parametrize(
    ("segments", "classes", "told"),
    [
        ((2, 4, 5), (2, 3), "segments of shape"),
        ((1, 4, 4), (2, 3), "segments of shape"),
        ((2, 4, 4), (1, 3), "classes of shape"),
        ((2, 4, 4), (2, 0), "classes of shape"),
        ((2, 4, 4), (2,), "classes of shape"),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(
    segments: tuple[int, ...], classes: tuple[int, ...], told: str
) -> None:
    zeros = torch.zeros(segments, dtype=torch.long), torch.zeros(classes, dtype=torch.long)
    with pytest.raises(DataError, match=told):
        landmark_cross_entropy(torch.zeros(2, 3, 4, 4), *zeros)


@pytest.mark.parametrize("wrong", [3, 254])
def test_a_class_that_the_logits_do_not_have_is_refused(wrong: int) -> None:
    segments = torch.zeros(1, 2, 2, dtype=torch.long)
    with pytest.raises(PriorError, match="superpixel is of class 0 to"):
        landmark_cross_entropy(
            torch.zeros(1, 3, 2, 2), segments, torch.tensor([[0, wrong, IGNORE]])
        )
