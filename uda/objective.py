"""An objective: weighted, ramped terms of source and target predictions, one number to minimise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from uda import losses
from uda.errors import ConfigError, PriorError
from uda.terms import CrossEntropyTerm, DiceTerm, EntropyTerm, Term, needs_prior
from uda.types import Batch

T = TypeVar("T")


def ramp(term: Term, step: int) -> float:
    """Weight of a term at a step: rises from 0 over ``ramp_steps``, then constant.

    ``sigmoid`` is the exp(−5 (1 − t)²) of Laine & Aila, Temporal Ensembling, ICLR 2017.
    """
    if term.ramp == "constant" or step >= term.ramp_steps:
        return term.weight
    t = step / term.ramp_steps
    shape = {
        "linear": t,
        "cosine": (1 - math.cos(math.pi * t)) / 2,
        "sigmoid": math.exp(-5 * (1 - t) ** 2),
    }
    return term.weight * shape[term.ramp]


class Objective:
    """``(loss, {term: value})`` of one step; values are detached and unweighted.

    Args:
        terms: of one recipe stage.
        prior: ratios ``[n, k]`` of the target images in store order, where a term needs them.
    """

    def __init__(self, terms: Sequence[Term], prior: Tensor | None = None) -> None:
        self.terms = tuple(terms)
        names = [term.term for term in terms]
        self.names = [
            name if names.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(names)
        ]
        if prior is None and any(needs_prior(term) for term in terms):
            raise PriorError("a term needs a prior and none was given", fix="name one with prior:")
        self.prior = prior
        self.class_weights = None if prior is None else _inverse_ratio(prior, self.terms)

    def to(self, device: torch.device) -> Objective:
        """Move the prior to the device, once."""
        if self.prior is not None:
            self.prior = self.prior.to(device)
        if self.class_weights is not None:
            self.class_weights = self.class_weights.to(device)
        return self

    def __call__(
        self, batch: Batch, source: Tensor | None, target: Tensor | None, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the logits of the batch's source and target images."""
        values: dict[str, Tensor] = {}
        total: Tensor | None = None
        for name, term in zip(self.names, self.terms, strict=True):
            value = self._value(term, batch, source, target)
            values[name] = value.detach()
            weighted = ramp(term, step) * value
            total = weighted if total is None else total + weighted
        if total is None:
            raise PriorError("the objective has no term")
        return total, values

    def _value(
        self, term: Term, batch: Batch, source: Tensor | None, target: Tensor | None
    ) -> Tensor:
        if isinstance(term, CrossEntropyTerm | DiceTerm):
            loss = losses.cross_entropy if isinstance(term, CrossEntropyTerm) else losses.dice
            return loss(_present(source), _present(batch.source).label)
        logits = _present(target)
        if isinstance(term, EntropyTerm):
            weights = self.class_weights if term.class_weights == "inverse_ratio" else None
            return losses.entropy(logits, weights, term.normalized)
        prior = _present(self.prior)[_present(batch.target).index]
        return losses.class_ratio_kl(
            logits, prior, term.direction, term.over, term.kind, term.power, term.eps
        )


def _inverse_ratio(prior: Tensor, terms: Sequence[Term]) -> Tensor | None:
    """ν_c = (1/τ̄_c) / Σ (1/τ̄) of the prior's mean over images (AdaEnt, AdaMI)."""
    if not any(isinstance(t, EntropyTerm) and t.class_weights == "inverse_ratio" for t in terms):
        return None
    mean = prior.mean(0)
    if bool((mean <= 0).any()):
        raise PriorError(
            "a class has ratio 0 in the prior, so its entropy weight 1/τ̄ is infinite",
            fix="use class_weights: uniform",
        )
    return (1 / mean) / (1 / mean).sum()


def _present(value: T | None) -> T:
    """What a validated recipe guarantees to be there."""
    if value is None:
        raise ConfigError("a term needs images of a domain that this stage does not read")
    return value
