"""Stability under held-out perturbations and beside other models: a perfect, a collapsed, an over-drawn prediction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from uda.selection import (
    before_agreement,
    held_out_consistency,
    size_variation,
    source_agreement,
)

CLASSES, STRUCTURES = 3, (1, 2)


def scene() -> tuple[Tensor, Tensor]:
    """Labels of four images of two cases, each with a square of both structures; and the cases."""
    labels = torch.zeros(4, 8, 8, dtype=torch.long)
    labels[:, 1:4, 1:4] = 1
    labels[:, 5:8, 4:8] = 2
    return labels, torch.tensor([0, 0, 1, 1])


def overdrawn(labels: Tensor) -> Tensor:
    drawn = labels.clone()
    drawn[:, 1:5, 1:6] = 1
    return drawn


def sure(labels: Tensor, logit: float = 20.0) -> Tensor:
    return (functional.one_hot(labels, CLASSES).movedim(-1, 1) * logit).log_softmax(1)


def test_held_out_consistency_is_one_where_nothing_changes_and_zero_after_a_collapse() -> None:
    labels, case = scene()
    assert held_out_consistency((labels, labels), case, CLASSES, STRUCTURES) == 1
    lost = torch.zeros_like(labels)
    assert held_out_consistency((lost, lost), case, CLASSES, STRUCTURES) == 0
    changed = held_out_consistency((labels, overdrawn(labels)), case, CLASSES, STRUCTURES)
    assert changed == pytest.approx((2 * 9 / (9 + 20) + 1) / 2)


def test_a_size_that_stays_varies_by_0_and_a_lost_structure_by_1() -> None:
    labels, case = scene()
    lost = torch.zeros_like(labels)
    assert size_variation((labels, labels), case, CLASSES, STRUCTURES) == 0
    assert size_variation((labels, labels.roll(1, -1)), case, CLASSES, STRUCTURES) == 0
    assert size_variation((lost, lost), case, CLASSES, STRUCTURES) == 1
    assert size_variation((labels, lost), case, CLASSES, STRUCTURES) == 1


def test_size_variation_is_the_coefficient_of_variation_of_the_two_sizes_in_each_case() -> None:
    labels, case = scene()
    drawn = labels.clone()
    drawn[2:] = overdrawn(labels[2:])
    sizes = torch.tensor([2.0 * 9, 2.0 * 20])
    coefficient = float(sizes.std(correction=0) / sizes.mean())
    # structure 1 varies in the second case alone, structure 2 in none
    expected = (coefficient / 2 + 0) / 2
    assert size_variation((labels, drawn), case, CLASSES, STRUCTURES) == pytest.approx(expected)


def test_a_case_without_the_structure_does_not_count_for_its_size() -> None:
    labels, case = scene()
    labels[2:] = 0
    drawn = labels.clone()
    drawn[:2] = overdrawn(labels[:2])
    expected = ((20 - 9) / (20 + 9) + 0) / 2
    assert size_variation((labels, drawn), case, CLASSES, STRUCTURES) == pytest.approx(expected)


def test_what_lies_outside_a_moved_image_does_not_count() -> None:
    labels, case = scene()
    moved = labels.clone()
    moved[:, :, :4] = -1
    assert size_variation((labels, moved), case, CLASSES, STRUCTURES) == pytest.approx(0.5)
    assert held_out_consistency((labels, moved), case, CLASSES, (2,)) == 1


def test_agreement_with_the_models_before_is_lost_by_a_collapse_and_lowered_by_drawing_more() -> (
    None
):
    labels, case = scene()
    assert before_agreement(labels, labels, case, CLASSES, STRUCTURES) == 1
    drawn = before_agreement(overdrawn(labels), labels, case, CLASSES, STRUCTURES)
    assert 0.5 < drawn < 1
    assert before_agreement(torch.zeros_like(labels), labels, case, CLASSES, STRUCTURES) == 0


def test_what_an_unsure_source_model_does_not_contest_stands() -> None:
    labels, case = scene()
    drawn = overdrawn(labels)
    unsure = sure(labels, 0.5)
    assert source_agreement(sure(drawn), unsure, case, CLASSES, STRUCTURES) == 1
    # a source model that is surer than the checkpoint takes the additional pixels back
    timid = source_agreement(sure(drawn, 1.0), sure(labels), case, CLASSES, STRUCTURES)
    assert timid == pytest.approx((2 * 9 / (9 + 20) + 1) / 2)
    lost = sure(torch.zeros_like(labels))
    assert source_agreement(lost, sure(labels), case, CLASSES, STRUCTURES) < 0.1
