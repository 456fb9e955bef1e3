"""SHOT's pseudo-labels: the nearest class centroid in the features of the last round's network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from uda import losses
from uda.config.terms import CentroidTerm
from uda.data.seeds import mix
from uda.files.atomic import grouped, prefixed
from uda.losses import Prediction
from uda.losses.prediction import most_likely
from uda.networks.ema import ema_update, frozen_copy
from uda.networks.heads import features_of
from uda.training.parts.part import Part, StepInputs, TrainingContext, present
from uda.types import TargetBatch


class CentroidLabels(Part):
    """Cross-entropy with centroid pseudo-labels (Liang et al., SHOT, ICML 2020).

    SHOT makes one label an image; a segmentation has too many pixels for that, so the centroids come
    from a sample that holds as many pixels of each predicted class, and every pixel is then assigned.
    Labels live on the grid of the features.
    """

    term: CentroidTerm
    centroids: Tensor | None = None

    def setup(self, context: TrainingContext) -> None:
        self.context, self.teacher = context, frozen_copy(context.student)

    @torch.no_grad()
    def begin(self, step: int) -> None:
        if step % self.term.round_steps:
            return
        ema_update(self.teacher, self.context.student, 1.0)
        device = self.context.fabric.device
        generator = torch.Generator(device)
        generator.manual_seed(mix(self.context.seed, "centroid pixels", step))
        sampled: list[tuple[Tensor, Tensor]] = []
        for images in self.context.images():
            features, p = self._features(images.to(device))
            chosen = losses.balanced_pixels(most_likely(p), p.shape[1], self.term.pixels, generator)
            sampled.append((features[chosen], p[chosen]))
        features, p = (torch.cat(parts) for parts in zip(*sampled, strict=True))
        self.centroids = losses.class_centroids(features, p)

    def _predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``[b, d, *s]`` and logits ``[b, k, *s]`` of the round's network."""
        with features_of(self.teacher) as seen, self.context.fabric.autocast():
            logits: Tensor = self.teacher(image)
        return seen[0].float(), logits

    def _features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``[n, d]`` and probabilities ``[n, k]`` of every pixel of the features' grid."""
        features, logits = self._predict(image)
        p, space = Prediction(logits).p, features.shape[2:]
        if len(space) == 2:
            p = functional.adaptive_avg_pool2d(p, (space[0], space[1]))
        else:
            p = functional.adaptive_avg_pool3d(p, (space[0], space[1], space[2]))
        return features.movedim(1, -1).flatten(0, -2), p.movedim(1, -1).flatten(0, -2)

    @torch.no_grad()
    def annotate(self, target: TargetBatch) -> Tensor:
        image = target.image
        features, _ = self._predict(image)
        labels = losses.assign_centroids(features, present(self.centroids))
        return functional.interpolate(labels[:, None].float(), image.shape[2:], mode="nearest")

    def value(self, inputs: StepInputs) -> Tensor:
        return losses.partial_cross_entropy(inputs.unlabelled, present(inputs.notes)[:, 0].long())

    def state(self) -> dict[str, Tensor]:
        weights = prefixed("teacher", self.teacher.state_dict())
        return {**weights, "centroids": present(self.centroids)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.teacher.load_state_dict(grouped(state)["teacher"])
        self.centroids = state["centroids"].to(self.context.fabric.device)
