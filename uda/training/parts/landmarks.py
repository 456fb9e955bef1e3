"""The curriculum's second term: superpixels whose class the prior knows, wherever augmentation moves them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from uda import losses
from uda.training.parts.part import Part, View, present
from uda.types import TargetBatch


class Landmarks(Part):
    """Cross-entropy of superpixels (Zhang et al., ICCV 2017).

    The superpixels are noted on the images as they are, so that they move along under the augmentation.
    """

    @torch.no_grad()
    def annotate(self, target: TargetBatch) -> Tensor:
        """The superpixel of each pixel, ``[b, 1, h, w]``."""
        segments = present(self.known.segments)[target.index]
        return functional.interpolate(segments[:, None].float(), target.image.shape[2:])

    def value(self, view: View) -> Tensor:
        segments = present(view.notes)[:, 0].long()
        classes = present(self.known.landmarks)[present(view.batch.target).index]
        return losses.landmark_cross_entropy(view.unlabelled, segments, classes)
