"""Scores of how plausible structures are across the slices of a case.

``stacks`` are labels of neighbouring slices of a case, each ``[d, h, w]``; where there are none, as of photographs, a
score is NaN. A structure that no stack shows has the worst value, so that a collapsed model earns nothing. What is a
plausible value depends on the anatomy and the slice distance: compare a checkpoint with AdaBN on the same slices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


def slice_continuity(stacks: Sequence[Tensor], structures: Sequence[int]) -> float:
    """Mean Dice of a structure between neighbouring slices, over the pairs of which either shows it, then over
    structures. 0 to 1.
    """

    def of(masks: Sequence[Tensor]) -> float:
        both = torch.cat([_areas(mask[1:] & mask[:-1]) for mask in masks])
        area = torch.cat([areas[1:] + areas[:-1] for areas in map(_areas, masks)])
        shown = area > 0
        return float((2 * both[shown] / area[shown]).mean()) if shown.any() else 0.0

    return _mean(of, stacks, structures)


def largest_component_share(stacks: Sequence[Tensor], structures: Sequence[int]) -> float:
    """Share of a structure's pixels inside its largest component of a stack (faces, edges and corners connect); the
    mean over the stacks that show it, then over structures. 0 to 1.
    """
    from scipy import ndimage

    def share(mask: Tensor) -> float:
        components, _ = ndimage.label(mask.cpu().numpy(), np.ones((3, 3, 3), bool))
        sizes = np.bincount(components.ravel())[1:]
        return float(sizes.max() / sizes.sum())

    def of(masks: Sequence[Tensor]) -> float:
        shares = [share(mask) for mask in masks if mask.any()]
        return float(np.mean(shares)) if shares else 0.0

    return _mean(of, stacks, structures)


def area_smoothness(stacks: Sequence[Tensor], structures: Sequence[int]) -> float:
    """1 − Σ|a[z+1] − 2a[z] + a[z−1]| / 4Σa[z] of a structure's area a over slices z, both sums over all stacks; the
    mean over structures. 0 (there in every other slice) to 1 (a straight profile).
    """

    def of(masks: Sequence[Tensor]) -> float:
        areas = [_areas(mask) for mask in masks]
        total = float(sum(area.sum() for area in areas))
        bends = float(sum(area.diff(n=2).abs().sum() for area in areas))
        return 1 - bends / (4 * total) if total else 0.0

    return _mean(of, stacks, structures)


def _areas(mask: Tensor) -> Tensor:
    """Pixels of each slice ``[d]``."""
    return mask.flatten(1).sum(1).cpu().double()


def _mean(
    of: Callable[[Sequence[Tensor]], float], stacks: Sequence[Tensor], structures: Sequence[int]
) -> float:
    """Mean over structures of a measure of their masks."""
    if not stacks:
        return math.nan
    return float(np.mean([of([stack == one for stack in stacks]) for one in structures]))
