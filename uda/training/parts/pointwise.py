"""Parts that are a loss of the current predictions and nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from uda import losses
from uda.config import terms
from uda.errors import PriorError
from uda.training.parts.part import Part, PriorTensors, StepInputs, present

GIVEN: dict[str, Callable[[PriorTensors, StepInputs], Tensor]] = {
    "labels": lambda prior, inputs: inputs.labelled[1].label,
    "image": lambda prior, inputs: present(inputs.batch.target).image,
    "prior": lambda prior, inputs: inputs.ratio(prior),
    "sizes": lambda prior, inputs: inputs.ratio(prior),
    "areas": lambda prior, inputs: inputs.ratio(prior),
    "maps": lambda prior, inputs: present(prior.maps),
}
"""What a loss gets beside the prediction, by the name of its parameter."""


class Pointwise(Part):
    """A term that is the loss of its name.

    The loss sees the source's prediction where it has a parameter ``labels``, else the target's. Its other parameters
    are found by their names: in ``GIVEN``, or among the term's settings.
    """

    def __init__(self, term: Any, prior: PriorTensors) -> None:
        super().__init__(term, prior)
        self.loss: Callable[..., Tensor] = getattr(losses, term.term)
        names = inspect.signature(self.loss).parameters
        self.given = [name for name in names if name in GIVEN]
        self.settings = {name: getattr(term, name) for name in names if hasattr(term, name)}

    def value(self, inputs: StepInputs) -> Tensor:
        prediction = inputs.labelled[0] if "labels" in self.given else inputs.unlabelled
        given = {name: GIVEN[name](self.prior, inputs) for name in self.given}
        return self.loss(prediction, **self.settings | given | self.derived(inputs))

    def derived(self, inputs: StepInputs) -> dict[str, Any]:
        """Parameters of the loss that are made from the term's settings."""
        return {}


class ViewAgreement(Part):
    """Agreement of the first and the second views of the labelled images."""

    def value(self, inputs: StepInputs) -> Tensor:
        first, second = inputs.labelled[0].log_p.chunk(2)
        return losses.agreement(first, second)


class Entropy(Pointwise):
    """Entropy, with the term's rule for class weights."""

    term: terms.EntropyTerm

    def __init__(self, term: terms.EntropyTerm, prior: PriorTensors) -> None:
        super().__init__(term, prior)
        if term.class_weights == "inverse_ratio":
            _check_inverse_ratio(present(prior.ratio))

    def derived(self, inputs: StepInputs) -> dict[str, Any]:
        rule = self.term.class_weights
        if rule == "uniform":
            return {"class_weights": None}
        if rule == "inverse_ratio":
            return {"class_weights": _inverse_ratio(present(self.prior.ratio))}
        return {"class_weights": torch.tensor(rule, device=inputs.unlabelled.p.device)}


class Bounded(Pointwise):
    """A loss of sizes between bounds."""

    term: terms.SizeBoundsTerm | terms.LogBarrierTerm | terms.LatentDistributionTerm

    def derived(self, inputs: StepInputs) -> dict[str, Any]:
        lower, upper = self.bounds(inputs)
        made: dict[str, Any] = {"lower": lower, "upper": upper}
        if isinstance(self.term, terms.LogBarrierTerm):
            start, growth, every = self.term.start, self.term.growth, self.term.every
            made["t"] = losses.barrier_t(inputs.step, start, growth, every, self.term.limit)
        return made

    def bounds(self, inputs: StepInputs) -> tuple[Tensor, Tensor]:
        """Lower and upper bound of each class's share of the image."""
        if self.term.bounds == "quantiles":
            largest = present(self.prior.largest)
            return torch.zeros_like(largest), largest  # any structure may be out of the picture
        ratio = inputs.ratio(self.prior)
        if self.term.bounds == "tags":
            return losses.tag_bounds(ratio > 0, inputs.unlabelled.shape[2:].numel())
        return losses.ratio_bounds(ratio, self.term.margin)


class LatentDistribution(Bounded):
    """Cross-entropy with the nearest distribution of sizes between bounds."""

    def value(self, inputs: StepInputs) -> Tensor:
        lower, upper = self.bounds(inputs)
        return losses.latent_cross_entropy(inputs.unlabelled, lower, upper, over=self.term.over)


class BalancedAssignment(Part):
    """Cross-entropy with pseudo-labels of the prior's class ratio."""

    term: terms.BalancedAssignmentTerm

    def value(self, inputs: StepInputs) -> Tensor:
        ratio, term = inputs.ratio(self.prior), self.term
        return losses.balanced_cross_entropy(inputs.unlabelled, ratio, term.epsilon, term.over)


def _inverse_ratio(prior: Tensor) -> Tensor:
    """ν_c = (1/τ̄_c) / Σ (1/τ̄) of the prior's mean over images (AdaEnt, AdaMI)."""
    inverse = 1 / prior.mean(0)
    return inverse / inverse.sum()


def _check_inverse_ratio(prior: Tensor) -> None:
    """Refuse a prior whose inverse is infinite."""
    if bool((prior.mean(0) <= 0).any()):
        raise PriorError(
            "a class has ratio 0 in the prior, so its entropy weight 1/τ̄ is infinite",
            fix="use class_weights: uniform",
        )
