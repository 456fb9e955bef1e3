"""Augmentation of a whole batch on its device: geometry for image and label, then the image's appearance.

Each kind of change has its settings in :mod:`uda.config.augment`. Every draw comes from the seed of the step.
"""

from uda.data.augment.batch import augment, augment_batch
from uda.data.augment.geometry import random_affine

__all__ = ["augment", "augment_batch", "random_affine"]
