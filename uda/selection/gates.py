"""What makes a checkpoint unsafe, whatever its scores are: lost or grown structures, drift, numbers that are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from uda.guard_specs import Guard
from uda.selection.scores import structure_dice
from uda.selection.views import Views

FOUND = 1e-4
"""ratio from which a structure counts as found by the model before adaptation"""


@dataclass(frozen=True)
class Expected:
    """What is known before adaptation, per class."""

    classes: tuple[str, ...]
    structures: tuple[int, ...]
    """classes that count"""
    ratio: Tensor | None
    """``[k]`` of the prior, or of the model's training labels"""
    source: Tensor
    """labels ``[n, *g]`` of the source model"""
    adabn: Tensor
    """labels ``[n, *g]`` of the source model with the target's statistics"""
    case: Tensor
    """``[n]``"""

    def range(self, structure: int) -> tuple[float, float]:
        """Least and largest ratio between which a structure is expected: the prior's and AdaBN's."""
        found = float((self.adabn == structure).double().mean())
        known = found if self.ratio is None else float(self.ratio[structure])
        return min(found, known), max(found, known)


def faults(views: Views, expected: Expected, guard: Guard) -> list[str]:
    """Why a checkpoint is not safe, a sentence each; none for a safe one."""
    if not views.finite:
        return ["its predictions are not finite"]
    labels, classes = views.labels, len(expected.classes)
    told = [
        sentence
        for structure in expected.structures
        if (sentence := _ratio_fault(labels, structure, expected, guard.factor))
    ]
    kept = torch.stack(
        [
            structure_dice(labels, before, expected.case, classes, expected.structures)
            for before in (expected.source, expected.adabn)
        ]
    ).amax(0)
    return told + _drifted(kept, expected, guard.overlap)


def _ratio_fault(labels: Tensor, structure: int, expected: Expected, factor: float) -> str | None:
    name = expected.classes[structure]
    low, high = expected.range(structure)
    ratio = float((labels == structure).double().mean())
    if ratio == 0 and low >= FOUND:
        return f"{name} is not found any more"
    if low / factor <= ratio <= max(high, FOUND) * factor:
        return None
    return (
        f"{name} takes {100 * ratio:.3g} % of the pixels, expected {100 * low / factor:.3g} to "
        f"{100 * high * factor:.3g} %"
    )


def _drifted(kept: Tensor, expected: Expected, least: float) -> list[str]:
    """Structures that the model found before adaptation, and now finds elsewhere."""
    names: Sequence[tuple[int, float]] = list(zip(expected.structures, kept.tolist(), strict=True))
    return [
        f"{expected.classes[k]} overlaps by Dice {dice:.2f} with where it was before adaptation"
        for k, dice in names
        if dice < least and expected.range(k)[0] >= FOUND
    ]
