"""What makes a checkpoint unsafe, whatever its scores are: lost or grown structures, drift, numbers that are none."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from uda.config.guard import Guard
from uda.selection.overlap import structure_dice
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

    def dice(self, labels: Tensor, others: Tensor) -> Tensor:
        """Dice ``[structures]`` of two models' labels."""
        return structure_dice(labels, others, self.case, len(self.classes), self.structures)

    def range(self, structure: int) -> tuple[float, float]:
        """Least and largest ratio between which a structure is expected: the prior's and AdaBN's."""
        found = _share(self.adabn, structure)
        known = found if self.ratio is None else float(self.ratio[structure])
        return min(found, known), max(found, known)


def _share(labels: Tensor, structure: int) -> float:
    return int((labels == structure).sum()) / labels.numel()


def faults(views: Views, expected: Expected, guard: Guard) -> list[str]:
    """Why a checkpoint is not safe, a sentence each; none for a safe one."""
    if not views.finite:
        return ["its predictions are not finite"]
    told = [
        sentence
        for structure in expected.structures
        if (sentence := _ratio_fault(views.labels, structure, expected, guard.factor))
    ]
    return told + _drifted(views.labels, expected, guard.overlap)


def _ratio_fault(labels: Tensor, structure: int, expected: Expected, factor: float) -> str | None:
    name = expected.classes[structure]
    low, high = expected.range(structure)
    ratio = _share(labels, structure)
    if ratio == 0 and low >= FOUND:
        return f"{name} is not found any more"
    least, most = low / factor, min(1.0, max(high, FOUND) * factor)
    if least <= ratio <= most:
        return None
    return (
        f"{name} takes {100 * ratio:.3g} % of the pixels, expected {100 * least:.3g} to "
        f"{100 * most:.3g} %"
    )


def _drifted(labels: Tensor, expected: Expected, share: float) -> list[str]:
    """Structures that are elsewhere now than both models before adaptation had found them.

    How far is too far is measured by how far those two are from each other: where they agree, a structure is known.
    """
    kept = torch.maximum(
        expected.dice(labels, expected.source), expected.dice(labels, expected.adabn)
    )
    least = share * expected.dice(expected.source, expected.adabn)
    return [
        f"{expected.classes[structure]} overlaps by Dice {now:.3f} with where it was before adaptation, "
        f"expected {limit:.3f} or more"
        for structure, now, limit in zip(
            expected.structures, kept.tolist(), least.tolist(), strict=True
        )
        if now < limit
    ]
