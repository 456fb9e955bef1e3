"""The curriculum's second term: superpixels whose class the prior knows, wherever augmentation moves them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from uda import losses
from uda.training.parts.part import Part, StepInputs, present
from uda.types import TargetBatch


class Landmarks(Part):
    """Cross-entropy of superpixels (Zhang et al., ICCV 2017).

    The superpixels are noted on the images as they are, so that they move along under the augmentation.
    """

    @torch.no_grad()
    def annotate(self, target: TargetBatch) -> Tensor:
        """The superpixel of each pixel, ``[b, 1, h, w]``."""
        segments = present(self.prior.segments)[target.index]
        return functional.interpolate(segments[:, None].float(), target.image.shape[2:])

    def value(self, inputs: StepInputs) -> Tensor:
        segments = present(inputs.notes)[:, 0].long()
        classes = present(self.prior.landmarks)[present(inputs.batch.target).index]
        return losses.landmark_cross_entropy(inputs.unlabelled, segments, classes)
