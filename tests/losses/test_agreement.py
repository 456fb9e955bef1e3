"""Agreement of two predictions: against scipy, its minimum, its gradient."""

from __future__ import annotations

import pytest
import torch
from scipy.special import rel_entr, softmax

from uda.errors import DataError
from uda.losses import agreement


def two(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 2, 4, 5, 6, generator=generator, dtype=torch.float64) * 3
    first, second = logits.log_softmax(2)
    return first, second


def test_it_is_the_mean_divergence_of_the_mean_from_both() -> None:
    first, second = two()
    p, q = (softmax(z.numpy(), 1) for z in (first, second))
    mean = (p + q) / 2
    expected = (rel_entr(mean, p) + rel_entr(mean, q)).sum(1).mean() / 2
    assert float(agreement(first, second)) == pytest.approx(expected, rel=1e-12)
    assert float(agreement(second, first)) == pytest.approx(expected, rel=1e-12)


def test_it_is_0_for_equal_predictions_and_else_above() -> None:
    first, second = two()
    assert float(agreement(first, first)) == pytest.approx(0, abs=1e-12)
    assert float(agreement(first + 7, first)) == pytest.approx(0, abs=1e-12)
    assert float(agreement(first, second)) > 0.1


def test_the_gradient_reaches_both() -> None:
    pair = tuple(z.requires_grad_() for z in two())
    assert torch.autograd.gradcheck(agreement, pair)


def test_predictions_of_two_shapes_are_refused() -> None:
    first, second = two()
    with pytest.raises(DataError, match="two views have predictions of shapes"):
        agreement(first, second[:1])
