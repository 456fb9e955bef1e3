"""How far two label maps agree, and how large structures are, case by case.

Maps are ``[n, *g]`` with -1 where nothing is known; ``case`` ``[n]`` numbers the case of each image from 0. Pixels are
counted on the device of the maps; what is computed from the counts is the same on every device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def confusion(first: Tensor, second: Tensor, case: Tensor, classes: int) -> Tensor:
    """How many pixels of a case have each pair of classes: ``[cases, classes, classes]`` float64 on the CPU."""
    known = (first >= 0) & (second >= 0)
    number = case.to(first.device).view(-1, *[1] * (first.dim() - 1)).expand_as(first)
    joint = (number * classes + first) * classes + second
    cases = int(case.max()) + 1
    counts = torch.bincount(joint[known], minlength=cases * classes**2)
    return counts.cpu().double().view(cases, classes, classes)


def structure_dice(
    first: Tensor, second: Tensor, case: Tensor, classes: int, structures: Sequence[int]
) -> Tensor:
    """Dice ``[structures]`` of two label maps, mean over the cases in which either shows the structure.

    A structure that neither shows in any case has 0: a network that has lost it agrees with nothing.
    """
    counts = confusion(first, second, case, classes)
    both = counts.diagonal(dim1=1, dim2=2)
    either = counts.sum(1) + counts.sum(2)
    shown = either > 0
    dice = torch.where(shown, 2 * both / either.clamp_min(1), 0.0).sum(0)
    return (dice / shown.sum(0).clamp_min(1))[list(structures)]
