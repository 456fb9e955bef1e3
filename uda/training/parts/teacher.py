"""Self-training: a teacher labels the target images as they are, the student learns them augmented."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from uda import losses
from uda.config.terms import PseudoLabelTerm
from uda.data.seeds import mix
from uda.devices.global_batch import all_rows, rows_of
from uda.errors import ConfigError
from uda.files.atomic import grouped, prefixed
from uda.losses import ConfidenceHistogram, Prediction, PseudoLabeler
from uda.networks.ema import ema_update, frozen_copy
from uda.priors import relative_maps
from uda.training.parts.components import outside_largest
from uda.training.parts.part import Part, PriorTensors, StepInputs, TrainingContext, present
from uda.training.parts.views import mean_of_views, predicted_views, size_variation, taken_for
from uda.types import IGNORE, OTHER, Annotation, Batch, TargetBatch


class PseudoLabels(Part):
    """Class-balanced pseudo-labels of a teacher.

    When a round begins, the teacher sees all target images once, a histogram a class turns the round's
    portion into thresholds, and nothing of the size of an image is kept: a batch's labels are predicted
    when it is needed. With ``teacher: round`` they are those of the student at the beginning of the
    round, as in CBST and CRST. With ``views`` above 1 thresholds and labels come from the mean probabilities over
    the views, drawn anew in every step.
    """

    term: PseudoLabelTerm

    def __init__(self, term: PseudoLabelTerm, prior: PriorTensors) -> None:
        super().__init__(term, prior)
        self.maps = relative_maps(present(prior.maps)) if term.spatial else None
        self.log_thresholds: Tensor | None = None

    def setup(self, context: TrainingContext) -> None:
        if self.term.smooth and context.neighbours is None:
            raise ConfigError(
                "the images have no neighbouring slices, so a teacher cannot smooth across them",
                where="pseudo_labels.smooth",
                expected="a 2-D network on slices of volumes",
                fix="set it to 0",
            )
        self.context, self.teacher = context, frozen_copy(context.student)

    def begin(self, step: int) -> None:
        self.step = step
        if step % self.term.round_steps:
            return
        if self.term.teacher == "round":
            ema_update(self.teacher, self.context.student, 1.0)
        term, round_ = self.term, step // self.term.round_steps
        portion = losses.portion_at(round_, term.portion, term.portion_step, term.portion_limit)
        if portion < 1:
            self.log_thresholds = self._histogram().log_thresholds(portion)
        elif self.log_thresholds is None:
            self.log_thresholds = self._every_pixel()

    @torch.no_grad()
    def _every_pixel(self) -> Tensor:
        """Thresholds that every pixel passes, as the class it is most likely of."""
        image = next(iter(self.context.images()))[:1].to(self.context.fabric.device)
        return losses.no_thresholds(self._predict(image).shape[1], image.device)

    @torch.no_grad()
    def _histogram(self) -> ConfidenceHistogram:
        histogram: ConfidenceHistogram | None = None
        for number, images in enumerate(self.context.images()):
            logits = self._mean(images.to(self.context.fabric.device), number)[0]
            if histogram is None:
                histogram = ConfidenceHistogram(logits.shape[1], logits.device)
            histogram.add(logits, self.maps)
        return present(histogram)

    def _predict(self, image: Tensor) -> Tensor:
        with self.context.fabric.autocast():
            logits: Tensor = self.teacher(image)
        return logits

    def _mean(
        self, image: Tensor, *key: int, own: slice = slice(None)
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Logits ``[b, k, *s]`` of the teacher's mean probabilities over views of its ``own`` images; and with
        several views the probabilities of each, and what it sees, as :func:`predicted_views` gives them."""
        logits, term = self._predict(image[own]), self.term
        if term.views == 1:
            return logits, None
        generator = torch.Generator(image.device)
        generator.manual_seed(mix(self.context.seed, "views", self.step, *key))
        views = predicted_views(self._predict, image, term.views - 1, term.view, generator, own)
        first = Prediction(logits).p[None]
        p, seen = (
            torch.cat([a, b]) for a, b in zip((first, first[:, :, :1] >= 0), views, strict=True)
        )
        return mean_of_views(p, seen).clamp_min(torch.finfo(p.dtype).tiny).log(), (p, seen)

    @torch.no_grad()
    def annotate(self, target: TargetBatch) -> Tensor:
        """Weight, then label or the classes' soft labels: ``[b, 1 + (1 or k), *s]``."""
        term, image, own = self.term, target.image, slice(None)
        if term.views > 1:
            image = all_rows(image)
            own = rows_of(len(image))
        logits, views = self._mean(image, own=own)
        if term.smooth:
            logits = self._smoothed(logits, target.index)
        prediction = Prediction(logits)
        labeler = PseudoLabeler(present(self.log_thresholds), self.maps)
        dropped = self._dropped(prediction, views)
        if term.soft:
            labels = labeler.soft(prediction, term.soft)
            labels = labels if dropped is None else labels.masked_fill(dropped[:, None], 0.0)
        else:
            hard = labeler.hard(prediction)
            hard = hard if dropped is None else hard.masked_fill(dropped, IGNORE)
            if term.largest != "off":
                other = IGNORE if term.largest == "ignore" else 0
                hard = hard.masked_fill(outside_largest(hard, logits.shape[1]), other)
            labels = hard[:, None].float()
        if term.confidence == "none":
            weight = torch.ones_like(labels[:, :1])
        else:
            weight = losses.confidence_weight(prediction, term.confidence)[:, None]
        return torch.cat([weight, labels], 1)

    def _smoothed(self, logits: Tensor, index: Tensor) -> Tensor:
        """Logits of the probabilities averaged with those of the slices before and after, where there are any."""
        own, neighbours = Prediction(logits).p, present(self.context.neighbours)
        total, weight = own, torch.ones_like(own[:, :1, :1, :1])
        for offset in (-1, 1):
            image, there = neighbours(index, offset)
            share = there.to(own)[:, None, None, None] * math.exp(-0.5 / self.term.smooth**2)
            p = Prediction(self._predict(image.to(own.device))).p
            total, weight = total + share * p, weight + share
        return (total / weight).clamp_min(torch.finfo(own.dtype).tiny).log()

    def _dropped(
        self, prediction: Prediction, views: tuple[Tensor, Tensor] | None
    ) -> Tensor | None:
        """Pixels ``[b, *s]`` without a label: not sure enough, or of a structure whose size varies over the views."""
        dropped: Tensor | None = None
        if self.term.threshold:
            dropped = prediction.log_p.amax(1) <= math.log(self.term.threshold)
        if self.term.prune and views is not None:
            variation, limit = size_variation(*views), self.term.prune
            most = all_rows(variation).nanquantile(0.5, 0) if limit == "median" else limit
            doubtful = _over_pixels(variation > most, views[0])
            pruned = (taken_for(*views) & doubtful)[:, 1:].any(1)
            dropped = pruned if dropped is None else dropped | pruned
        return dropped

    def mix(
        self, batch: Batch, notes: Tensor | None, generator: torch.Generator
    ) -> tuple[Batch, Tensor | None]:
        if self.term.classmix == "none":
            return batch, notes
        target, written = present(batch.target), present(notes)
        if self.term.classmix == "source":
            source = present(batch.source)
            image, label = source.image, source.label[:, None].to(written.dtype)
            pasted = torch.cat([torch.ones_like(label), label], 1)
        else:  # each image under the one before it
            image, pasted = target.image.roll(1, 0), written.roll(1, 0)
        if image.shape != target.image.shape:
            raise ConfigError(
                f"classmix pastes images {list(image.shape[2:])} onto images {list(target.image.shape[2:])}",
                expected="one size in both domains",
                fix="set photo.crop, or one size with data.size",
            )
        cut = losses.class_mask(pasted[:, 1].long(), generator)[:, None]
        mixed = TargetBatch(torch.where(cut, image, target.image), target.index)
        annotation = batch.annotation and self._pasted(batch.annotation, cut[:, 0])
        moved = replace(batch, target=mixed, annotation=annotation)
        return moved, torch.where(cut, pasted, written)

    def _pasted(self, annotation: Annotation, cut: Tensor) -> Annotation:
        """What is marked on target images under the pasted pixels ``cut`` ``[b, *s]``."""
        label, named = annotation.label, annotation.labelled
        pasted = torch.full_like(label, IGNORE)
        if self.term.classmix == "target":
            alike = (named == named.roll(1, 0)).all(1).view(-1, *[1] * (label.dim() - 1))
            kept = (
                label.roll(1, 0) != OTHER
            ) | alike  # OTHER is none of what its own image's labels name
            pasted = torch.where(kept, label.roll(1, 0), pasted)
        return replace(annotation, label=torch.where(cut, pasted, label))

    def value(self, inputs: StepInputs) -> Tensor:
        notes = present(inputs.notes)
        weight, labels = notes[:, 0], notes[:, 1:]
        if self.term.soft:
            loss = losses.soft_cross_entropy(inputs.unlabelled, labels, weight)
            labelled = labels.sum(1) > 0
        else:
            hard = labels[:, 0].long()
            loss = losses.partial_cross_entropy(inputs.unlabelled, hard, weight)
            labelled = hard != IGNORE
        loss = self.term.cross_entropy * loss
        if self.term.dice:
            loss = loss + self.term.dice * losses.dice(inputs.unlabelled, hard)
        if self.term.mrkld:
            loss = loss + self.term.mrkld * losses.mrkld(inputs.unlabelled, labelled)
        return loss

    def after(self, step: int) -> None:
        if self.term.teacher == "ema":
            ema_update(self.teacher, self.context.student, 1 - self.term.decay)

    def state(self) -> dict[str, Tensor]:
        weights = prefixed("teacher", self.teacher.state_dict())
        return {**weights, "log_thresholds": present(self.log_thresholds)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.teacher.load_state_dict(grouped(state)["teacher"])
        self.log_thresholds = state["log_thresholds"].to(self.context.fabric.device)


def _over_pixels(values: Tensor, p: Tensor) -> Tensor:
    """``[b, k]`` shaped to meet ``[v, b, k, *s]``."""
    return values.view(*values.shape, *[1] * (p.dim() - 3))
