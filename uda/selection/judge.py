"""The judge of an adaptation: looks at the source model, at AdaBN and at every checkpoint, and says which to keep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from uda.config.guard import Guard
from uda.losses.prediction import most_likely
from uda.networks.model_file import load_model
from uda.selection.gates import Expected, faults
from uda.selection.rule import BEFORE, Choice, choose
from uda.selection.scores import Scores, computed, ensemble_agreement
from uda.selection.views import UnlabelledImages, Views, balanced_pixels, look

PIXELS = 200
"""pixels of each class in the balanced sample"""


@dataclass(frozen=True)
class Candidate:
    """A judged model. Probabilities are held in half precision: all candidates stand in memory together."""

    name: str
    step: int
    probabilities: Tensor
    """``[n, k, *g]``"""
    alone: Scores
    """its scores, but for the agreement with the others"""
    faults: tuple[str, ...]

    @property
    def safe(self) -> bool:
        """Whether no gate closed."""
        return not self.faults


class Judge:
    """Judges models on the same images, by the same perturbations.

    Args:
        images: unlabelled target images.
        classes: names, class 0 first.
        structures: the classes that count: of volumes all but the background.
        ratio: expected class ratio ``[k]``; None where neither a prior nor the model knows one.
        source: the model before adaptation, on the fabric's device.
        adabn: the same with the target's BatchNorm statistics; the same object where it has no BatchNorm.
    """

    def __init__(
        self,
        images: UnlabelledImages,
        classes: tuple[str, ...],
        structures: tuple[int, ...],
        ratio: Tensor | None,
        source: nn.Module,
        adabn: nn.Module,
        guard: Guard,
        fabric: Fabric,
        seed: int,
    ) -> None:
        self.images, self.guard, self.fabric, self.seed = images, guard, fabric, seed
        self.source = source
        self.case = images.case
        before = [look(model, images, fabric, seed) for model in (source, adabn)]
        self.source_log_p = before[0].log_p
        self.expected = Expected(
            classes, structures, ratio, before[0].labels, before[1].labels, self.case
        )
        self.pixels = balanced_pixels(before[1].labels, len(classes), PIXELS, seed)
        self.candidates = [
            self._candidate(name, 0, views) for name, views in zip(BEFORE, before, strict=True)
        ]

    def judge(self, path: Path, step: int) -> Candidate:
        """Look at the model of a file and remember it, named by its step."""
        model, _ = load_model(path, known=self.source)
        views = look(model.to(self.fabric.device), self.images, self.fabric, self.seed)
        self.candidates.append(self._candidate(f"{step:06d}", step, views))
        return self.candidates[-1]

    def _candidate(self, name: str, step: int, views: Views) -> Candidate:
        unsafe = () if name in BEFORE else tuple(faults(views, self.expected, self.guard))
        return Candidate(name, step, views.log_p.exp().half(), self._scores(views), unsafe)

    def _scores(self, views: Views) -> Scores:
        if not views.finite:
            return Scores()
        log_p, expected = views.log_p, self.expected
        return computed(
            log_p=log_p,
            labels=views.labels,
            perturbed=views.perturbed,
            case=self.case,
            classes=len(expected.classes),
            structures=expected.structures,
            expected=expected.ratio,
            sample=log_p.movedim(1, -1).reshape(-1, log_p.shape[1])[self.pixels],
            source_log_p=self.source_log_p,
        )

    def scores(self, candidates: Iterable[Candidate] | None = None) -> dict[str, Scores]:
        """Scores of candidates (default: of all that are safe), with their agreement with each other's mean."""
        some = list(candidates or (one for one in self.candidates if one.safe))
        mean = torch.stack([one.probabilities.float() for one in some]).mean(0)
        return {one.name: self._agreed(one, mean) for one in some}

    def _agreed(self, candidate: Candidate, mean: Tensor) -> Scores:
        labels = most_likely(candidate.probabilities)
        count, structures = len(self.expected.classes), self.expected.structures
        agreement = ensemble_agreement(labels, mean, self.case, count, structures)
        return replace(candidate.alone, agreement=agreement)

    def choose(self) -> Choice:
        """Which candidate to keep."""
        return choose(self.scores())
