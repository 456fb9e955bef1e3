"""The judge of an adaptation: looks at the source model, at AdaBN and at every checkpoint, and says which to keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from uda.config.guard import IMAGES, SLICES, Guard
from uda.losses.prediction import most_likely
from uda.networks.model_file import load_model
from uda.selection.gates import Expected, faults
from uda.selection.rule import BEFORE, Choice, choose, needed
from uda.selection.scores import EVERY, Scores, computed
from uda.selection.stability import ensemble_agreement
from uda.selection.views import UnlabelledImages, Views, balanced_pixels, look

PIXELS = 200
"""pixels of each class in the balanced sample"""


@dataclass(frozen=True)
class Candidate:
    """A judged model."""

    name: str
    step: int
    labels: Tensor
    """``[n, *g]``"""
    probabilities: Tensor | None
    """``[n, k, *g]`` in half precision, because those of all candidates stand in memory together; None where no score
    asks for them"""
    alone: Scores
    """its scores, but for the agreement with the others"""
    faults: tuple[str, ...]

    @property
    def safe(self) -> bool:
        """Whether no gate closed."""
        return not self.faults


class Judge:
    """Judges models on the same images, by the same perturbations.

    Its ``rule`` is the one for neighbouring slices or the one for images without neighbours, with the changes of the
    guard's settings.

    The gates see the images as they are. What they reject gets no score, and of the others only the scores that the
    rule reads are computed, because each family of perturbations costs as much as the images themselves.

    Args:
        images: unlabelled target images.
        classes: names, class 0 first.
        structures: the classes that count: of volumes all but the background.
        ratio: expected class ratio ``[k]``; None where neither a prior nor the model knows one.
        source: the model before adaptation, on the fabric's device.
        adabn: the same with the target's BatchNorm statistics; the same object where it has no BatchNorm.
        memory_format: of the judged networks' weights.
        every: compute all scores, also of what the gates reject: for measuring what scores are worth.
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
        memory_format: torch.memory_format = torch.preserve_format,
        every: bool = False,
    ) -> None:
        self.images, self.guard, self.fabric, self.seed = images, guard, fabric, seed
        self.source, self.every, self.memory_format = source, every, memory_format
        self.case = images.case.to(fabric.device)
        before = [look(model, images, fabric, seed) for model in (source, adabn)]
        usual = SLICES if images.stacks(before[0].labels) else IMAGES
        self.rule = guard.rule.over(usual) if guard.rule else usual
        self.names = EVERY if every else needed(self.rule)
        self.source_log_p = before[0].log_p
        self.before = most_likely(before[0].log_p.exp() + before[1].log_p.exp())
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
        model.to(self.fabric.device).to(memory_format=self.memory_format)
        views = look(model, self.images, self.fabric, self.seed)
        self.candidates.append(self._candidate(f"{step:06d}", step, views))
        return self.candidates[-1]

    def agreement(self, first: Candidate, second: Candidate) -> float:
        """Dice between the labels of two candidates, mean over structures."""
        return float(self.expected.dice(first.labels.long(), second.labels.long()).mean())

    def _candidate(self, name: str, step: int, views: Views) -> Candidate:
        unsafe = () if name in BEFORE else tuple(faults(views, self.expected, self.guard))
        judged = views.finite and (self.every or not unsafe)
        kept = views.log_p.exp().half().cpu() if "agreement" in self.names else None
        scores = computed(self.names, self._seen(views)) if judged else Scores()
        return Candidate(name, step, views.labels.to(torch.uint8), kept, scores, unsafe)

    def _seen(self, views: Views) -> dict[str, Callable[[], Any]]:
        """How to get what scores ask for, by the names of their parameters."""
        expected = self.expected

        def sample() -> Tensor:
            pixels = views.log_p.movedim(1, -1).flatten(0, -2)
            return pixels[self.pixels.to(pixels.device)].cpu()

        return {
            "log_p": lambda: views.log_p,
            "labels": lambda: views.labels,
            "perturbed": lambda: views.perturbed[1:],
            "held_out": lambda: views.held_out,
            "stacks": lambda: self.images.stacks(views.labels),
            "sample": sample,
            "case": lambda: self.case,
            "classes": lambda: len(expected.classes),
            "structures": lambda: expected.structures,
            "expected": lambda: expected.ratio,
            "source_log_p": lambda: self.source_log_p,
            "before": lambda: self.before,
        }

    def scores(self, candidates: Iterable[Candidate] | None = None) -> dict[str, Scores]:
        """Scores of candidates (default: of all that are safe), with their agreement with each other's mean if the
        rule reads it."""
        some = list(candidates or (one for one in self.candidates if one.safe))
        known = [one.probabilities.float() for one in some if one.probabilities is not None]
        if not known:
            return {one.name: one.alone for one in some}
        mean = torch.stack(known).mean(0)
        return {one.name: self._agreed(one, mean) for one in some}

    def _agreed(self, candidate: Candidate, mean: Tensor) -> Scores:
        labels = candidate.labels.long().cpu()
        count, structures = len(self.expected.classes), self.expected.structures
        agreement = ensemble_agreement(labels, mean, self.case.cpu(), count, structures)
        return replace(candidate.alone, agreement=agreement)

    def choose(self) -> Choice:
        """Which candidate to keep."""
        return choose(self.scores(), self.rule)
