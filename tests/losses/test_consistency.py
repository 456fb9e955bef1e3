"""Soft Dice between two predictions: reference, optimum, mask, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from uda.errors import DataError
from uda.losses import dice, dice_consistency


def draw(
    seed: int, classes: int = 3, space: tuple[int, ...] = (3, 4)
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, another prediction and a mask."""
    generator = torch.Generator().manual_seed(seed)
    logits, other = 2 * torch.randn(2, 2, classes, *space, generator=generator)
    mask = torch.rand(2, *space, generator=generator) < 0.7
    return logits, other.softmax(1), mask


def reference(logits: Tensor, other: Tensor, mask: Tensor) -> float:
    z, q, kept = (x.double().numpy() for x in (logits, other, mask))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    costs = []
    for c in range(1, z.shape[1]):
        a, b = p[:, c][kept > 0], q[:, c][kept > 0]
        costs.append(1 - 2 * (a @ b) / (a @ a + b @ b))
    return float(np.mean(costs))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([2, 3, 19]), st.sampled_from([(5,), (2, 3, 4)]))
def test_value_equals_a_float64_reference(seed: int, classes: int, space: tuple[int, ...]) -> None:
    logits, other, mask = draw(seed, classes, space)
    mask.view(-1)[0] = True
    value = float(dice_consistency(logits, other, mask))
    assert value == pytest.approx(reference(logits, other, mask), abs=1e-4)
    assert 0 <= value <= 1


def test_it_is_0_with_a_gradient_of_0_where_both_agree_however_unsure() -> None:
    logits = draw(0)[0].double().requires_grad_()
    value = dice_consistency(logits, logits.softmax(1))
    value.backward()
    assert float(value.detach()) == pytest.approx(0, abs=1e-12)
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-12


def test_descent_brings_the_prediction_to_the_other_one() -> None:
    logits, other, _ = draw(1)
    free = logits.clone().requires_grad_()
    optimizer = torch.optim.Adam([free], lr=0.1)

    def distance() -> Tensor:
        return (free.detach().softmax(1) - other)[:, 1:].square().mean()

    before = distance()
    for _ in range(60):
        optimizer.zero_grad()
        dice_consistency(free, other).backward()
        optimizer.step()
    assert float(distance()) < 0.1 * float(before)


def test_with_sure_labels_it_is_the_dice_of_squares() -> None:
    """For two sure predictions squares change nothing."""
    generator = torch.Generator().manual_seed(2)
    labels, found = torch.randint(3, (2, 2, 6, 6), generator=generator)
    logits = 200 * torch.nn.functional.one_hot(found, 3).movedim(-1, 1).float()
    other = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    expected = float(dice(logits, labels))
    assert float(dice_consistency(logits, other)) == pytest.approx(expected, abs=1e-6)


def test_masked_pixels_have_no_say_and_no_gradient() -> None:
    logits, other, mask = draw(3)
    mask[0] = False
    wild = other.where(mask.unsqueeze(1), 1 - other)
    leaf = logits.requires_grad_()
    value = dice_consistency(leaf, other, mask)
    assert float(value.detach()) == float(dice_consistency(leaf, wild, mask).detach())
    value.backward()
    assert leaf.grad is not None
    assert not bool(leaf.grad.masked_select(~mask.unsqueeze(1)).any())
    assert bool(leaf.grad.masked_select(mask.unsqueeze(1)).any())
    nothing = dice_consistency(leaf, other, torch.zeros_like(mask))
    assert float(nothing.detach()) == 0


def test_no_gradient_reaches_the_other_prediction() -> None:
    logits, other, _ = draw(4)
    other.requires_grad_()
    dice_consistency(logits.requires_grad_(), other).backward()
    assert other.grad is None


@pytest.mark.usefixtures("as_users_see")
def test_other_shapes_are_refused() -> None:
    logits, other, mask = draw(5)
    with pytest.raises(DataError, match="other prediction has shape"):
        dice_consistency(logits, other[:, :2])
    with pytest.raises(DataError, match="mask has shape"):
        dice_consistency(logits, other, mask[:, :2])
