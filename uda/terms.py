"""Terms of an objective as a recipe writes them: a loss by name, its weight, its ramp, its parameters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from uda.fields import Amount, Count, Frozen, Rate


class _Term(Frozen):
    weight: Amount = 1.0
    ramp: Literal["constant", "linear", "cosine", "sigmoid"] = "constant"
    ramp_steps: Count = 0
    """Steps over which the weight rises from 0; 0 = at once."""


class CrossEntropyTerm(_Term):
    """Cross-entropy with the source's labels."""

    term: Literal["cross_entropy"] = "cross_entropy"


class DiceTerm(_Term):
    """Soft Dice with the source's labels."""

    term: Literal["dice"] = "dice"


class EntropyTerm(_Term):
    """Entropy of the target prediction."""

    term: Literal["entropy"] = "entropy"
    normalized: bool = True
    class_weights: Literal["uniform", "inverse_ratio"] = "uniform"
    """``inverse_ratio``: ν_c proportional to 1/τ̄_c of the prior, summing to 1 (AdaEnt, AdaMI)."""


class ClassRatioTerm(_Term):
    """Divergence between predicted class ratio and prior."""

    term: Literal["class_ratio_kl"] = "class_ratio_kl"
    direction: Literal["prediction_to_prior", "prior_to_prediction"]
    over: Literal["image", "batch"] = "image"
    kind: Literal["mean", "max_normalized"] = "mean"
    power: Rate = 1.0
    eps: Amount = 1e-10


SOURCE_TERMS = (CrossEntropyTerm, DiceTerm)
Term = Annotated[
    CrossEntropyTerm | DiceTerm | EntropyTerm | ClassRatioTerm, Field(discriminator="term")
]


def needs_prior(term: _Term) -> bool:
    """Whether a term compares with what is known of the target."""
    weighted = isinstance(term, EntropyTerm) and term.class_weights == "inverse_ratio"
    return weighted or isinstance(term, ClassRatioTerm)
