"""Seeds: pixels whose class the prior knows, wherever augmentation moves them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from uda import losses
from uda.training.parts.part import Part, StepInputs, present
from uda.types import TargetBatch


class Seeds(Part):
    """Cross-entropy with seeds (the seeding loss of Kolesnikov & Lampert, ECCV 2016, over the batch's seeds).

    The seeds are noted on the images as they are, so that they move along under the augmentation.
    """

    @torch.no_grad()
    def annotate(self, target: TargetBatch) -> Tensor:
        """The class of each pixel, ``[b, 1, h, w]``; ``IGNORE`` where it is not known."""
        seeds = present(self.prior.seeds)[target.index]
        return functional.interpolate(seeds[:, None].float(), target.image.shape[2:])

    def value(self, inputs: StepInputs) -> Tensor:
        seeds = present(inputs.notes)[:, 0].long()
        return losses.partial_cross_entropy(inputs.unlabelled, seeds)
