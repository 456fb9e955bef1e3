"""Losses: pure functions of logits ``[b, k, *s]``, computed in float32, one file an idea.

Every loss takes logits or a :class:`Prediction`; several losses of one ``Prediction`` share its ``log_softmax``.
"""

from uda.losses.adversarial import (
    Discriminator,
    adversarial_loss,
    discriminator_loss,
    self_information,
)
from uda.losses.centroids import (
    assign_centroids,
    balanced_pixels,
    centroid_pseudo_labels,
    class_centroids,
)
from uda.losses.class_ratio import (
    class_ratio,
    class_ratio_hinge,
    class_ratio_kl,
    log_class_ratio,
    size_cross_entropy,
)
from uda.losses.classmix import class_mask
from uda.losses.constraints import (
    barrier_t,
    log_barrier,
    ratio_bounds,
    size_bounds,
    tag_bounds,
)
from uda.losses.dual import dual_ascent, dual_class_ratio
from uda.losses.entropy import entropy, max_square, min_entropy
from uda.losses.landmarks import landmark_cross_entropy
from uda.losses.mutual_information import mutual_information
from uda.losses.potts import potts
from uda.losses.prediction import Prediction
from uda.losses.self_training import PseudoLabeler, confidence_weight, mrkld, no_thresholds
from uda.losses.sorted_area import sorted_area
from uda.losses.spatial_prior import spatial_prior_kl
from uda.losses.supervised import (
    cross_entropy,
    dice,
    partial_cross_entropy,
    soft_cross_entropy,
)
from uda.losses.thresholds import ConfidenceHistogram, portion_at

__all__ = [
    "ConfidenceHistogram",
    "Discriminator",
    "Prediction",
    "PseudoLabeler",
    "adversarial_loss",
    "assign_centroids",
    "balanced_pixels",
    "barrier_t",
    "centroid_pseudo_labels",
    "class_centroids",
    "class_mask",
    "class_ratio",
    "class_ratio_hinge",
    "class_ratio_kl",
    "confidence_weight",
    "cross_entropy",
    "dice",
    "discriminator_loss",
    "dual_ascent",
    "dual_class_ratio",
    "entropy",
    "landmark_cross_entropy",
    "log_barrier",
    "log_class_ratio",
    "max_square",
    "min_entropy",
    "mrkld",
    "mutual_information",
    "no_thresholds",
    "partial_cross_entropy",
    "portion_at",
    "potts",
    "ratio_bounds",
    "self_information",
    "size_bounds",
    "size_cross_entropy",
    "soft_cross_entropy",
    "sorted_area",
    "spatial_prior_kl",
    "tag_bounds",
]
