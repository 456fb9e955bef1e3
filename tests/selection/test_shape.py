"""Plausibility across slices: high for a heart-like stack, worst for a collapse, lower for what is over-drawn."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from uda.selection import area_smoothness, largest_component_share, slice_continuity

Score = Callable[[list[Tensor], tuple[int, ...]], float]
SCORES: list[Score] = [slice_continuity, largest_component_share, area_smoothness]
every_score = pytest.mark.parametrize("score", SCORES)


def ball(side: int = 24, depth: int = 25) -> Tensor:
    """A ball of structure 1 around one of structure 2, ``[d, h, w]``."""
    z, y, x = torch.meshgrid(
        torch.linspace(-1, 1, depth),
        *[torch.linspace(-1, 1, side)] * 2,
        indexing="ij",
    )
    distance = (z**2 + y**2 + x**2).sqrt()
    return (distance < 0.9).long() + (distance < 0.6).long()


@every_score
def test_a_ball_is_plausible_and_a_collapse_is_not(score: Score) -> None:
    assert 0.75 < score([ball()], (1, 2)) <= 1
    assert score([torch.zeros_like(ball())], (1, 2)) == 0


@every_score
def test_a_lost_structure_costs_its_share(score: Score) -> None:
    lost = ball().clamp(max=1)
    assert score([lost], (1, 2)) == pytest.approx(score([lost], (1,)) / 2)


@every_score
def test_without_neighbouring_slices_nothing_is_known(score: Score) -> None:
    assert math.isnan(score([], (1, 2)))


@every_score
def test_islands_that_are_drawn_in_every_other_slice_are_worse(score: Score) -> None:
    drawn = ball()
    drawn[::2, :9, :9] = 1
    assert score([drawn], (1, 2)) < score([ball()], (1, 2)) - 0.01


def test_continuity_is_the_dice_of_neighbours_that_show_the_structure() -> None:
    stack = torch.zeros(5, 1, 4, dtype=torch.long)
    stack[1, 0, :2] = 1
    stack[2, 0, 1:] = 1
    # pairs: (0, 2), Dice 0; (2, 3) share one pixel, Dice 2/5; (3, 0), Dice 0; (0, 0) does not count
    assert slice_continuity([stack], (1,)) == pytest.approx(0.4 / 3)
    assert slice_continuity([stack, stack], (1,)) == pytest.approx(0.4 / 3)


def test_the_largest_component_is_three_dimensional_and_of_each_stack() -> None:
    stack = torch.zeros(3, 4, 4, dtype=torch.long)
    stack[0, 0, 0] = stack[1, 1, 1] = stack[2, 0, 0] = 1  # corners connect
    assert largest_component_share([stack], (1,)) == 1
    stack[2, 3, 3] = 1
    assert largest_component_share([stack], (1,)) == pytest.approx(3 / 4)
    other = torch.zeros_like(stack)
    assert largest_component_share([stack, other], (1,)) == pytest.approx(3 / 4)
    other[0, 0, 0] = other[2, 0, 0] = 1
    assert largest_component_share([stack, other], (1,)) == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_smoothness_is_the_formula() -> None:
    areas = torch.tensor([0, 2, 4, 3])
    stack = (torch.arange(4)[None, None] < areas[:, None, None]).long()
    # second differences: 4 - 2·2 + 0 = 0 and 3 - 2·4 + 2 = -3
    assert area_smoothness([stack], (1,)) == pytest.approx(1 - 3 / (4 * 9))


def test_a_structure_in_every_other_slice_has_no_smoothness() -> None:
    stack = torch.zeros(101, 2, 2, dtype=torch.long)
    stack[1::2] = 1
    assert area_smoothness([stack], (1,)) == pytest.approx(0.01, abs=0.01)
