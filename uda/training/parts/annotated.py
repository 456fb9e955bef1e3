"""Terms of annotations: what somebody marked on target images."""

from __future__ import annotations

import torch
from torch import Tensor

from uda import losses
from uda.config import terms
from uda.training.parts.part import Part, StepInputs, present
from uda.types import IGNORE, OTHER


class PartialLabels(Part):
    """Cross-entropy, and on request Dice, with the marked pixels."""

    term: terms.PartialLabelsTerm

    def value(self, inputs: StepInputs) -> Tensor:
        prediction, annotation = inputs.annotated
        loss = losses.partial_labels(prediction, annotation.label, annotation.labelled)
        if self.term.dice:
            dice = losses.partial_dice(prediction, annotation.label, annotation.labelled)
            loss = loss + self.term.dice * dice
        return loss


class GridCrf(Part):
    """Labels of a grid CRF around the marked pixels, and cross-entropy with them."""

    term: terms.GridCrfTerm

    def value(self, inputs: StepInputs) -> Tensor:
        image, annotation = present(inputs.batch.target).image, inputs.batch.annotation
        prediction, term = inputs.unlabelled, self.term
        if annotation is None:
            seeds = torch.full_like(image[:, 0], IGNORE, dtype=torch.int64)
        else:
            seeds = annotation.label.masked_fill(annotation.label == OTHER, IGNORE)
        return losses.grid_crf(prediction, image, seeds, term.potts, cycles=term.cycles)
