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
from uda.training.parts.part import Known, Part, View, present

GIVEN: dict[str, Callable[[Known, View], Tensor]] = {
    "labels": lambda known, view: view.labelled[1].label,
    "image": lambda known, view: present(view.batch.target).image,
    "prior": lambda known, view: view.ratio(known),
    "sizes": lambda known, view: view.ratio(known),
    "areas": lambda known, view: view.ratio(known),
    "maps": lambda known, view: present(known.maps),
}
"""What a loss gets beside the prediction, by the name of its parameter."""


class Pointwise(Part):
    """A term that is the loss of its name.

    The loss sees the source's prediction where it has a parameter ``labels``, else the target's. Its other parameters
    are found by their names: in ``GIVEN``, or among the term's settings.
    """

    def __init__(self, term: Any, known: Known) -> None:
        super().__init__(term, known)
        self.loss: Callable[..., Tensor] = getattr(losses, term.term)
        names = inspect.signature(self.loss).parameters
        self.given = [name for name in names if name in GIVEN]
        self.settings = {name: getattr(term, name) for name in names if hasattr(term, name)}

    def value(self, view: View) -> Tensor:
        prediction = view.labelled[0] if "labels" in self.given else view.unlabelled
        given = {name: GIVEN[name](self.known, view) for name in self.given}
        return self.loss(prediction, **self.settings | given | self.derived(view))

    def derived(self, view: View) -> dict[str, Any]:
        """Parameters of the loss that are made from the term's settings."""
        return {}


class Entropy(Pointwise):
    """Entropy, with the term's rule for class weights."""

    term: terms.EntropyTerm

    def __init__(self, term: terms.EntropyTerm, known: Known) -> None:
        super().__init__(term, known)
        if term.class_weights == "inverse_ratio":
            _check_inverse_ratio(present(known.ratio))

    def derived(self, view: View) -> dict[str, Any]:
        rule = self.term.class_weights
        if rule == "uniform":
            return {"class_weights": None}
        if rule == "inverse_ratio":
            return {"class_weights": _inverse_ratio(present(self.known.ratio))}
        return {"class_weights": torch.tensor(rule, device=view.unlabelled.p.device)}


class Bounded(Pointwise):
    """A loss of sizes between bounds."""

    term: terms.SizeBoundsTerm | terms.LogBarrierTerm

    def derived(self, view: View) -> dict[str, Any]:
        lower, upper = self.bounds(view)
        made: dict[str, Any] = {"lower": lower, "upper": upper}
        if isinstance(self.term, terms.LogBarrierTerm):
            start, growth, every = self.term.start, self.term.growth, self.term.every
            made["t"] = losses.barrier_t(view.step, start, growth, every, self.term.limit)
        return made

    def bounds(self, view: View) -> tuple[Tensor, Tensor]:
        """Lower and upper bound of each class's share of the image."""
        if self.term.bounds == "quantiles":
            largest = present(self.known.largest)
            return torch.zeros_like(largest), largest  # any structure may be out of the picture
        ratio = view.ratio(self.known)
        if self.term.bounds == "tags":
            return losses.tag_bounds(ratio > 0, view.unlabelled.shape[2:].numel())
        return losses.ratio_bounds(ratio, self.term.margin)


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
