"""Checkpoint selection for adaptation without labels: scores, safety gates and the selection rule.

No code here can read a label: :class:`UnlabelledImages` holds images and the number of their case, and every
score is a function of predictions.
"""

from uda.selection.gates import Expected, faults
from uda.selection.judge import Candidate, Judge
from uda.selection.rule import BEFORE, RULE, Choice, choose, mean_ranks, smoothed, stale
from uda.selection.scores import (
    SCORES,
    Scores,
    ensemble_agreement,
    mean_entropy,
    mean_mutual_information,
    neighbourhood_density,
    nuclear_norm,
    perturbation_consistency,
    ratio_distance,
    soft_dice_confidence,
    structure_dice,
)
from uda.selection.views import UnlabelledImages, Views, balanced_pixels, look

__all__ = [
    "BEFORE",
    "RULE",
    "SCORES",
    "Candidate",
    "Choice",
    "Expected",
    "Judge",
    "Scores",
    "UnlabelledImages",
    "Views",
    "balanced_pixels",
    "choose",
    "ensemble_agreement",
    "faults",
    "look",
    "mean_entropy",
    "mean_mutual_information",
    "mean_ranks",
    "neighbourhood_density",
    "nuclear_norm",
    "perturbation_consistency",
    "ratio_distance",
    "smoothed",
    "soft_dice_confidence",
    "stale",
    "structure_dice",
]
