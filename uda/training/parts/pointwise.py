"""Parts that are a loss of the current predictions and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from uda import losses
from uda.config import terms
from uda.config.fields import Frozen
from uda.errors import PriorError
from uda.training.parts.part import Known, Part, View, present

AnyTerm = TypeVar("AnyTerm")
Loss: TypeAlias = Callable[[AnyTerm, Known, View], Tensor]


def _cross_entropy(term: terms.CrossEntropyTerm, known: Known, view: View) -> Tensor:
    prediction, source = view.labelled
    return losses.cross_entropy(prediction, source.label)


def _partial_cross_entropy(term: terms.PartialCrossEntropyTerm, known: Known, view: View) -> Tensor:
    prediction, source = view.labelled
    return losses.partial_cross_entropy(prediction, source.label)


def _dice(term: terms.DiceTerm, known: Known, view: View) -> Tensor:
    prediction, source = view.labelled
    return losses.dice(prediction, source.label)


def _entropy(term: terms.EntropyTerm, known: Known, view: View) -> Tensor:
    prediction = view.unlabelled
    weights: Tensor | None = None
    if term.class_weights == "inverse_ratio":
        weights = _inverse_ratio(present(known.ratio))
    elif term.class_weights != "uniform":
        weights = torch.tensor(term.class_weights, device=prediction.p.device)
    return losses.entropy(prediction, weights, term.normalized)


def _min_entropy(term: terms.MinEntropyTerm, known: Known, view: View) -> Tensor:
    return losses.min_entropy(view.unlabelled)


def _max_square(term: terms.MaxSquareTerm, known: Known, view: View) -> Tensor:
    return losses.max_square(view.unlabelled, term.image_weighted, term.ratio)


def _mutual_information(term: terms.MutualInformationTerm, known: Known, view: View) -> Tensor:
    return losses.mutual_information(view.unlabelled, term.alpha, term.over)


def _class_ratio_kl(term: terms.ClassRatioTerm, known: Known, view: View) -> Tensor:
    return losses.class_ratio_kl(
        view.unlabelled,
        view.ratio(known),
        term.direction,
        term.over,
        term.kind,
        term.power,
        term.eps,
    )


def _class_ratio_hinge(term: terms.ClassRatioHingeTerm, known: Known, view: View) -> Tensor:
    return losses.class_ratio_hinge(view.unlabelled, view.ratio(known), term.mu, term.over)


def _size_cross_entropy(term: terms.SizeCrossEntropyTerm, known: Known, view: View) -> Tensor:
    return losses.size_cross_entropy(view.unlabelled, view.ratio(known), term.kind, term.power)


def _size_bounds(term: terms.SizeBoundsTerm, known: Known, view: View) -> Tensor:
    lower, upper = _bounds_of(term, known, view)
    return losses.size_bounds(view.unlabelled, lower, upper, term.squared, term.over)


def _log_barrier(term: terms.LogBarrierTerm, known: Known, view: View) -> Tensor:
    lower, upper = _bounds_of(term, known, view)
    t = losses.barrier_t(view.step, term.start, term.growth, term.every, term.limit)
    return losses.log_barrier(view.unlabelled, lower, upper, t, term.over)


def _bounds_of(
    term: terms.SizeBoundsTerm | terms.LogBarrierTerm, known: Known, view: View
) -> tuple[Tensor, Tensor]:
    """Lower and upper bound of each class's share of the image."""
    if term.bounds == "quantiles":
        largest = present(known.largest)
        return torch.zeros_like(largest), largest  # any structure may be out of the picture
    ratio = view.ratio(known)
    if term.bounds == "tags":
        pixels = view.unlabelled.shape[2:].numel()
        return losses.tag_bounds(ratio > 0, pixels)
    return losses.ratio_bounds(ratio, term.margin)


def _sorted_area(term: terms.SortedAreaTerm, known: Known, view: View) -> Tensor:
    return losses.sorted_area(view.unlabelled, view.ratio(known))


def _spatial_prior_kl(term: terms.SpatialPriorTerm, known: Known, view: View) -> Tensor:
    return losses.spatial_prior_kl(view.unlabelled, present(known.maps), term.direction, term.over)


def _potts(term: terms.PottsTerm, known: Known, view: View) -> Tensor:
    image = present(view.batch.target).image
    return losses.potts(
        view.unlabelled, image, term.sigma_color, term.sigma_space, term.radius, term.dilation
    )


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


_LOSSES: dict[type[Frozen], Loss[Any]] = {
    terms.CrossEntropyTerm: _cross_entropy,
    terms.PartialCrossEntropyTerm: _partial_cross_entropy,
    terms.DiceTerm: _dice,
    terms.EntropyTerm: _entropy,
    terms.MinEntropyTerm: _min_entropy,
    terms.MaxSquareTerm: _max_square,
    terms.MutualInformationTerm: _mutual_information,
    terms.ClassRatioTerm: _class_ratio_kl,
    terms.ClassRatioHingeTerm: _class_ratio_hinge,
    terms.SizeCrossEntropyTerm: _size_cross_entropy,
    terms.SizeBoundsTerm: _size_bounds,
    terms.LogBarrierTerm: _log_barrier,
    terms.SortedAreaTerm: _sorted_area,
    terms.SpatialPriorTerm: _spatial_prior_kl,
    terms.PottsTerm: _potts,
}


class Pointwise(Part):
    """A term whose value is a function of what it knows and sees."""

    def __init__(self, term: terms.Term, known: Known) -> None:
        if isinstance(term, terms.EntropyTerm) and term.class_weights == "inverse_ratio":
            _check_inverse_ratio(present(known.ratio))
        self.term, self.known, self.loss = term, known, _LOSSES[type(term)]

    def value(self, view: View) -> Tensor:
        return self.loss(self.term, self.known, view)
