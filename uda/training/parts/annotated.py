"""Terms of annotations: what somebody marked on target images."""

from __future__ import annotations

from torch import Tensor

from uda import losses
from uda.config import terms
from uda.training.parts.part import Part, StepInputs


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
