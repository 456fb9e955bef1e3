"""Training objective: the weighted sum of a recipe's terms, whose weights may ramp up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from uda.config.terms import Term
from uda.errors import ConfigError
from uda.files.atomic import grouped, prefixed
from uda.losses import Prediction
from uda.training.parts import PriorTensors, StepInputs, TrainingContext, make_part
from uda.training.parts.part import Images, Neighbours
from uda.types import Batch, Heads


def ramp(term: Term, step: int, weight: float | None = None) -> float:
    """Weight of a term at a step: ``weight`` or the term's own; it rises over ``ramp_steps``, then stays constant.

    ``sigmoid`` is exp(−5 (1 − t)²) of Laine & Aila, Temporal Ensembling, ICLR 2017.
    """
    weight = term.weight if weight is None else weight
    if term.ramp == "constant" or step >= term.ramp_steps:
        return weight
    t = step / term.ramp_steps
    shape = {
        "linear": t,
        "cosine": (1 - math.cos(math.pi * t)) / 2,
        "sigmoid": math.exp(-5 * (1 - t) ** 2),
    }
    return weight * shape[term.ramp]


def _prediction(logits: Heads | None, auxiliary: bool) -> Prediction | None:
    if isinstance(logits, tuple):
        return Prediction(logits[int(auxiliary)])
    return None if logits is None or auxiliary else Prediction(logits)


class Objective:
    """Returns ``(loss, {term: value})`` of one step; the values are detached and unweighted.

    Args:
        terms: settings of one stage's terms.
        prior: the prior's values for the target images, for terms that need them.
        images: returns all target images, for terms that read them when a round begins.
        seed: for all random draws in the terms.
        neighbours: finds the slices before and after target slices, for terms that look at both.

    Raises:
        ConfigError: there are no terms.
        PriorError: the prior lacks values that a term needs.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        prior: PriorTensors | None = None,
        images: Images = tuple,
        seed: int = 0,
        neighbours: Neighbours | None = None,
    ) -> None:
        if not terms:
            raise ConfigError("the objective has no term", expected="at least one")
        self.terms, self.prior = tuple(terms), prior or PriorTensors()
        self.images, self.neighbours, self.seed = images, neighbours, seed
        names = [term.term for term in terms]
        self.names = [
            name if names.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(names)
        ]
        self.parts = [make_part(term, self.prior) for term in self.terms]

    def setup(self, fabric: Fabric, student: nn.Module) -> None:
        """Move the prior's values to the device and build the terms' own networks and state."""
        self.prior = self.prior.to(fabric.device)
        self.parts = [make_part(term, self.prior) for term in self.terms]
        for number, part in enumerate(self.parts):
            seed = self.seed + number
            part.setup(TrainingContext(fabric, student, seed, self.images, self.neighbours))

    def begin(self, step: int) -> None:
        """Start the rounds of terms that begin at this step."""
        for part in self.parts:
            part.begin(step)

    def annotate(self, batch: Batch) -> list[Tensor | None]:
        """Each term's notes ``[b, m, *s]`` on the target images before augmentation, such as pseudo-labels."""
        if batch.target is None:
            return [None] * len(self.parts)
        return [part.annotate(batch.target) for part in self.parts]

    def mix(
        self, batch: Batch, notes: list[Tensor | None], generator: torch.Generator
    ) -> tuple[Batch, list[Tensor | None]]:
        """Let terms paste images of the batch together (ClassMix), and their notes with them."""
        for number, part in enumerate(self.parts):
            batch, notes[number] = part.mix(batch, notes[number], generator)
        return batch, notes

    def __call__(
        self,
        batch: Batch,
        source: Heads | None,
        target: Heads | None,
        step: int,
        notes: Sequence[Tensor | None] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the source and target logits, and the value of each term on the main head.

        Args:
            source: logits ``[b, k, *s]`` of the source images, or those of the main and the auxiliary head.
            target: likewise of the target images.
        """
        views = [
            StepInputs(
                batch, _prediction(source, head), _prediction(target, head), step, auxiliary=head
            )
            for head in (False, True)
        ]
        values: dict[str, Tensor] = {}
        weighted: list[Tensor] = []
        for number, (name, part) in enumerate(zip(self.names, self.parts, strict=True)):
            term, note = self.terms[number], notes[number] if notes else None
            seen = [v.of_drawn() for v in views] if self.terms[number].compares else views
            value = part.value(replace(seen[0], notes=note))
            values[name] = value.detach()
            weighted.append(ramp(term, step) * value)
            if term.aux:
                value = part.value(replace(seen[1], notes=note))
                weighted.append(ramp(term, step, term.aux) * value)
        return torch.stack(weighted).sum(), values

    def after(self, step: int) -> None:
        """Update the terms' own state after the network's update."""
        for part in self.parts:
            part.after(step)

    def state(self) -> dict[str, Tensor]:
        """State of the terms for a checkpoint, each under its number."""
        return {
            name: tensor
            for number, part in enumerate(self.parts)
            for name, tensor in prefixed(str(number), part.state()).items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state` returned."""
        for number, tensors in grouped(state).items():
            self.parts[int(number)].load(tensors)
