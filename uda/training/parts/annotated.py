"""Terms of annotations: what somebody marked on target images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from uda import losses
from uda.config import terms
from uda.losses.prediction import Predicted
from uda.training.parts.part import Part, StepInputs, present
from uda.types import IGNORE, OTHER, Annotation


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


class Boxes(Part):
    """Bounding boxes as constraints, wherever augmentation moves them."""

    term: terms.BoxesTerm

    def value(self, inputs: StepInputs) -> Tensor:
        prediction, annotation = inputs.annotated
        planes = in_planes(prediction.logits, annotation)
        if prediction.shape == planes.logits.shape:
            planes = replace(planes, logits=prediction)  # shared with other losses
        term = self.term
        weights = (term.outside, term.tight, term.size)
        return losses.boxes(
            planes.logits,
            planes.boxes,
            planes.boxed,
            planes.place,
            term.width,
            term.filled,
            weights=weights,
        )


@dataclass(frozen=True)
class Planes:
    """Slices of a batch with their boxes."""

    logits: Predicted
    """``[n, k, h, w]``"""
    boxes: Tensor
    """slice, class, first row and column, last row and column ``[m, 6]``"""
    boxed: Tensor
    """``[n, k]``"""
    place: Tensor
    """row and column of each pixel before augmentation ``[n, 2, h, w]``"""


def in_planes(logits: Tensor, annotation: Annotation) -> Planes:
    """Slices of images ``[b, k, h, w]`` or ``[b, k, d, h, w]``, each with the boxes of the slice that it was before
    augmentation. Boxes are given by slice, and augmentation turns volumes in their planes alone."""
    boxes, boxed, place = (
        present(x) for x in (annotation.boxes, annotation.boxed, annotation.place)
    )
    there = boxes[..., 1] >= 0
    if logits.dim() == 4:
        image = torch.arange(len(boxes), device=boxes.device).view(-1, 1).expand(there.shape)
        rows = torch.cat([image[there][:, None], boxes[there][:, 1:]], 1)
        return Planes(logits, rows, boxed[:, 0], place)
    classes, depth = logits.shape[1:3]
    planes = logits.movedim(2, 1).flatten(0, 1)
    at = place[:, 0].flatten(2)[:, :, 0].round().long().clamp(0, boxed.shape[1] - 1)  # [b, d]
    shown = at[:, :, None] == boxes[:, None, :, 0]
    image, plane, box = (shown & there[:, None]).nonzero(as_tuple=True)
    rows = torch.cat([(image * depth + plane)[:, None], boxes[image, box, 1:]], 1)
    own = boxed.gather(1, at[:, :, None].expand(-1, -1, classes)).flatten(0, 1)
    return Planes(planes, rows, own, place[:, 1:].movedim(2, 1).flatten(0, 1))
