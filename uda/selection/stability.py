"""Scores of how little a model's labels change: under perturbations, and beside other models.

``labels`` are ``[n, *g]``, -1 where nothing is known; ``case`` ``[n]`` numbers the case of each image, over whose
images an overlap or a size is taken together. ``structures`` are the classes that count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from uda.losses.prediction import most_likely
from uda.selection.overlap import confusion, structure_dice

Pair = tuple[Tensor, Tensor]
"""labels of images and of the same images perturbed, pixel by pixel, each ``[n, *g]``"""


def perturbation_consistency(
    labels: Tensor,
    perturbed: Sequence[Tensor],
    case: Tensor,
    classes: int,
    structures: Sequence[int],
) -> float:
    """Mean Dice between the labels of images and those of the same images perturbed, turned back.

    Source: Talks & Kreshuk, Ranking pre-trained segmentation models for zero-shot transferability, 2025, with the
    Dice of each case.
    """
    if not perturbed:
        return math.nan
    each = [structure_dice(labels, other, case, classes, structures).mean() for other in perturbed]
    return float(torch.stack(each).mean())


def held_out_consistency(
    held_out: Pair, case: Tensor, classes: int, structures: Sequence[int]
) -> float:
    """Mean Dice between labels with and without perturbations of a family that no student is trained under.

    Source: as :func:`perturbation_consistency`; a student that is trained to be consistent under rotations and grey
    values earns that score whether it is right or not.
    """
    return float(structure_dice(*held_out, case, classes, structures).mean())


def size_variation(held_out: Pair, case: Tensor, classes: int, structures: Sequence[int]) -> float:
    """Coefficient of variation of a structure's size in a case with and without perturbation, |a − b| / (a + b); the
    mean over the cases that show the structure, then over structures. 0 to 1; a structure that no case shows has 1.

    Source: the size criterion of SHAPE (2026), there of each class over the views of an image.
    """
    counts = confusion(*held_out, case, classes)
    first, second = counts.sum(2), counts.sum(1)
    total = first + second
    shown = total > 0
    each = torch.where(shown, (first - second).abs() / total.clamp_min(1), 0.0).sum(0)
    mean = torch.where(shown.any(0), each / shown.sum(0).clamp_min(1), 1.0)
    return float(mean[list(structures)].mean())


def ensemble_agreement(
    labels: Tensor, mean: Tensor, case: Tensor, classes: int, structures: Sequence[int]
) -> float:
    """Dice between a checkpoint's labels and those of the mean prediction ``[n, k, *g]`` of all checkpoints.

    Source: Hu, Luo, Liang & Foo, Towards Reliable Model Selection for Unsupervised Domain Adaptation (EnsV),
    NeurIPS 2024, with Dice in place of accuracy.
    """
    return float(structure_dice(labels, most_likely(mean), case, classes, structures).mean())


def before_agreement(
    labels: Tensor, before: Tensor, case: Tensor, classes: int, structures: Sequence[int]
) -> float:
    """Dice with the labels ``before`` ``[n, *g]`` of the mean prediction of source model and AdaBN.

    Source: as :func:`ensemble_agreement`, with the two models before adaptation as ensemble.
    """
    return float(structure_dice(labels, before, case, classes, structures).mean())


def source_agreement(
    log_p: Tensor, source_log_p: Tensor, case: Tensor, classes: int, structures: Sequence[int]
) -> float:
    """Dice between a checkpoint's labels and those of its mean prediction with the source model: how much of what it
    says stands when the source model has half of the vote. Both ``[n, k, *g]``.

    Source: as :func:`ensemble_agreement`, with these two as ensemble.
    """
    both = most_likely(log_p.exp() + source_log_p.exp())
    return float(structure_dice(most_likely(log_p), both, case, classes, structures).mean())
