"""Losses: pure functions of logits ``[b, k, *s]``, computed in float32, one file an idea.

Every loss takes logits or a :class:`Prediction`; several losses of one ``Prediction`` share its ``log_softmax``.
"""

from uda.losses.adversarial import Discriminator as Discriminator
from uda.losses.adversarial import adversarial_loss as adversarial_loss
from uda.losses.adversarial import discriminator_loss as discriminator_loss
from uda.losses.adversarial import self_information as self_information
from uda.losses.agreement import agreement as agreement
from uda.losses.balanced_assignment import balanced_assignment as balanced_assignment
from uda.losses.balanced_assignment import balanced_cross_entropy as balanced_cross_entropy
from uda.losses.boxes import boxes as boxes
from uda.losses.centroids import assign_centroids as assign_centroids
from uda.losses.centroids import balanced_pixels as balanced_pixels
from uda.losses.centroids import centroid_pseudo_labels as centroid_pseudo_labels
from uda.losses.centroids import class_centroids as class_centroids
from uda.losses.class_ratio import class_ratio as class_ratio
from uda.losses.class_ratio import class_ratio_hinge as class_ratio_hinge
from uda.losses.class_ratio import class_ratio_kl as class_ratio_kl
from uda.losses.class_ratio import log_class_ratio as log_class_ratio
from uda.losses.class_ratio import nearest_ratio as nearest_ratio
from uda.losses.class_ratio import size_cross_entropy as size_cross_entropy
from uda.losses.classmix import class_mask as class_mask
from uda.losses.consistency import dice_consistency as dice_consistency
from uda.losses.constraints import barrier_t as barrier_t
from uda.losses.constraints import log_barrier as log_barrier
from uda.losses.constraints import ratio_bounds as ratio_bounds
from uda.losses.constraints import size_bounds as size_bounds
from uda.losses.constraints import tag_bounds as tag_bounds
from uda.losses.dense_crf import dense_crf as dense_crf
from uda.losses.dual import dual_ascent as dual_ascent
from uda.losses.dual import dual_class_ratio as dual_class_ratio
from uda.losses.entropy import entropy as entropy
from uda.losses.entropy import max_square as max_square
from uda.losses.entropy import min_entropy as min_entropy
from uda.losses.grid_crf import grid_crf as grid_crf
from uda.losses.grid_crf import grid_crf_energy as grid_crf_energy
from uda.losses.grid_crf import grid_crf_labels as grid_crf_labels
from uda.losses.landmarks import landmark_cross_entropy as landmark_cross_entropy
from uda.losses.laplacian import laplacian as laplacian
from uda.losses.latent_distribution import latent_cross_entropy as latent_cross_entropy
from uda.losses.latent_distribution import latent_distribution as latent_distribution
from uda.losses.mean_field import mean_field as mean_field
from uda.losses.mutual_information import mutual_information as mutual_information
from uda.losses.partial_labels import partial_dice as partial_dice
from uda.losses.partial_labels import partial_labels as partial_labels
from uda.losses.potts import potts as potts
from uda.losses.prediction import Prediction as Prediction
from uda.losses.self_training import PseudoLabeler as PseudoLabeler
from uda.losses.self_training import confidence_weight as confidence_weight
from uda.losses.self_training import mrkld as mrkld
from uda.losses.self_training import no_thresholds as no_thresholds
from uda.losses.sorted_area import sorted_area as sorted_area
from uda.losses.spatial_prior import spatial_prior_kl as spatial_prior_kl
from uda.losses.supervised import cross_entropy as cross_entropy
from uda.losses.supervised import dice as dice
from uda.losses.supervised import partial_cross_entropy as partial_cross_entropy
from uda.losses.supervised import soft_cross_entropy as soft_cross_entropy
from uda.losses.thresholds import ConfidenceHistogram as ConfidenceHistogram
from uda.losses.thresholds import portion_at as portion_at

__all__ = [name for name, value in vars().items() if callable(value)]
"""Functions and classes, without the submodules: what ``from uda.losses import *`` brings."""
