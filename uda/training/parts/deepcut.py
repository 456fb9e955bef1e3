"""DeepCut: boxes, then training and a dense CRF in turn."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from uda import losses
from uda.config.terms import DeepCutTerm
from uda.losses import Prediction
from uda.losses.prediction import most_likely
from uda.networks.ema import ema_update, frozen_copy
from uda.training.parts.annotated import in_planes
from uda.training.parts.part import Part, StepInputs, TrainingContext, present
from uda.types import IGNORE

SURE = 0.9
"""Probability in the first round of the one class whose box holds a pixel, before the CRF looks at the image."""


class DeepCut(Part):
    """Pseudo-labels inside of boxes (Rajchl et al., IEEE TMI 2017).

    A dense CRF labels the images in each step, from the prediction of a copy of the student that is made when a round
    begins; with ``first: boxes`` in the first round from the boxes. In an image whose boxes are given a class is
    impossible outside of its boxes. The background is possible everywhere. So nothing of the size of an image is kept,
    and a checkpoint holds the copy alone. Images without boxes have no labels.
    """

    term: DeepCutTerm

    def setup(self, context: TrainingContext) -> None:
        self.context, self.copy = context, frozen_copy(context.student)

    def begin(self, step: int) -> None:
        self.from_boxes = self.term.first == "boxes" and step < self.term.round_steps
        if step % self.term.round_steps == 0:
            ema_update(self.copy, self.context.student, 1.0)

    def value(self, inputs: StepInputs) -> Tensor:
        planes = in_planes(inputs.unlabelled.logits, present(inputs.batch.annotation))
        image = present(inputs.batch.target).image
        labels = self._labels(image, planes.boxes, planes.boxed, planes.place)
        return losses.partial_cross_entropy(planes.logits, labels)

    @torch.no_grad()
    def _labels(self, image: Tensor, boxes: Tensor, boxed: Tensor, place: Tensor) -> Tensor:
        """A label of each pixel ``[n, h, w]``; ``IGNORE`` in slices without boxes."""
        given, term = boxed.any(1), self.term
        guidance = image if image.dim() == 4 else image.movedim(2, 1).flatten(0, 1)
        allowed = inside_boxes(boxes, boxed, place)
        if self.from_boxes:
            p = _from_boxes(allowed)
        else:
            with self.context.fabric.autocast():
                logits: Tensor = self.copy(image)
            logits = logits if logits.dim() == 4 else logits.movedim(2, 1).flatten(0, 1)
            p = Prediction(logits).p
        found = losses.mean_field(
            p.clamp_min(torch.finfo(p.dtype).tiny).log(),
            guidance[:, guidance.shape[1] // 2][:, None] if guidance.shape[1] > 3 else guidance,
            term.sigma_color,
            term.sigma_space,
            appearance=term.appearance,
            smoothness=term.smoothness,
            iterations=term.iterations,
            allowed=allowed,
        )
        return most_likely(found).masked_fill(~given[:, None, None], IGNORE)

    def state(self) -> dict[str, Tensor]:
        return dict(self.copy.state_dict())

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.copy.load_state_dict(dict(state))


def inside_boxes(boxes: Tensor, boxed: Tensor, place: Tensor) -> Tensor:
    """Classes that each pixel may have ``[n, k, h, w]``: structures in their boxes, what has no boxes everywhere.

    Args:
        boxes: slice, class, first row and column, last row and column ``[m, 6]``.
        boxed: classes of each slice whose boxes are given ``[n, k]``.
        place: row and column of each pixel before augmentation ``[n, 2, h, w]``.
    """
    allowed = (~boxed)[:, :, None, None].expand(*boxed.shape, *place.shape[2:]).clone()
    at = place.round()
    for image, index, *corners in boxes.tolist():
        row0, column0, row1, column1 = corners
        row, column = at[image]
        inside = (row >= row0) & (row <= row1) & (column >= column0) & (column <= column1)
        allowed[image, index] |= inside
    return allowed


def _from_boxes(allowed: Tensor) -> Tensor:
    """Probabilities of the first round: of the structures whose boxes hold a pixel, or else of what has no boxes."""
    structures = allowed[:, 1:]
    many = structures.sum(1, keepdim=True)
    p = torch.zeros(allowed.shape, device=allowed.device)
    p[:, :1] = torch.where(many > 0, 1 - SURE, 1.0)
    p[:, 1:] = structures * (SURE / many.clamp_min(1))
    return p
