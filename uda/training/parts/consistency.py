"""Agreement between the student's prediction and the network's predictions of other views of the image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from uda import losses
from uda.config.terms import ViewConsistencyTerm
from uda.data.seeds import mix
from uda.devices.global_batch import all_rows, rows_of
from uda.losses import Prediction
from uda.networks.ema import ema_update, frozen_copy
from uda.training.parts.part import Part, StepInputs, TrainingContext, present
from uda.training.parts.views import mean_of_views, predicted_views
from uda.types import TargetBatch


class ViewConsistency(Part):
    """Consistency between the student's augmented image and random views of it.

    In every step a copy of the student predicts the views in evaluation mode and without gradients. Their mean is
    mapped to the image, and augmentation moves it along with the image. So the gradient runs through one of the two
    predictions, each network call of the loop stays as it is, and nothing has to be kept in a checkpoint.
    """

    term: ViewConsistencyTerm

    def setup(self, context: TrainingContext) -> None:
        self.context, self.copy = context, frozen_copy(context.student)

    def begin(self, step: int) -> None:
        self.step = step
        ema_update(self.copy, self.context.student, 1.0)

    def _predict(self, image: Tensor) -> Tensor:
        with self.context.fabric.autocast():
            logits: Tensor = self.copy(image)
        return logits

    @torch.no_grad()
    def annotate(self, target: TargetBatch) -> Tensor:
        """Whether a view sees a pixel, then the mean probabilities of the views: ``[b, 1 + k, *s]``."""
        image = all_rows(target.image)
        generator = torch.Generator(image.device)
        generator.manual_seed(mix(self.context.seed, "views", self.step))
        own, term = rows_of(len(image)), self.term
        p, seen = predicted_views(self._predict, image, term.views, term.view, generator, own)
        return torch.cat([seen.any(0).to(p), mean_of_views(p, seen)], 1)

    def value(self, inputs: StepInputs) -> Tensor:
        notes, prediction = present(inputs.notes), inputs.unlabelled
        seen, other = notes[:, 0] > 0, notes[:, 1:]
        if self.term.loss == "dice":
            return losses.dice_consistency(prediction, other, seen)
        share = self.term.views / (1 + self.term.views)
        log_other = other.clamp_min(torch.finfo(other.dtype).tiny).log() + math.log(share)
        log_mean = torch.logaddexp(
            prediction.log_p + math.log1p(-share), log_other.to(prediction.log_p)
        )
        return losses.entropy(Prediction(log_mean), mask=seen)
