"""Checkpoint selection for adaptation without labels: scores, safety gates and the selection rule.

No code here can read a label: :class:`UnlabelledImages` holds images and the number of their case, and every
score is a function of predictions.
"""

from uda.selection.gates import Expected, faults
from uda.selection.judge import Candidate, Judge
from uda.selection.overlap import structure_dice
from uda.selection.rule import BEFORE, RULE, Choice, choose, mean_ranks, needed, smoothed, stale
from uda.selection.scores import (
    EVERY,
    SCORES,
    Scores,
    mean_entropy,
    mean_mutual_information,
    neighbourhood_density,
    nuclear_norm,
    ratio_distance,
    soft_dice_confidence,
)
from uda.selection.shape import area_smoothness, largest_component_share, slice_continuity
from uda.selection.stability import (
    before_agreement,
    ensemble_agreement,
    held_out_consistency,
    perturbation_consistency,
    size_variation,
    source_agreement,
)
from uda.selection.views import UnlabelledImages, Views, balanced_pixels, look

__all__ = [
    "BEFORE",
    "EVERY",
    "RULE",
    "SCORES",
    "Candidate",
    "Choice",
    "Expected",
    "Judge",
    "Scores",
    "UnlabelledImages",
    "Views",
    "area_smoothness",
    "balanced_pixels",
    "before_agreement",
    "choose",
    "ensemble_agreement",
    "faults",
    "held_out_consistency",
    "largest_component_share",
    "look",
    "mean_entropy",
    "mean_mutual_information",
    "mean_ranks",
    "needed",
    "neighbourhood_density",
    "nuclear_norm",
    "perturbation_consistency",
    "ratio_distance",
    "size_variation",
    "slice_continuity",
    "smoothed",
    "soft_dice_confidence",
    "source_agreement",
    "stale",
    "structure_dice",
]
