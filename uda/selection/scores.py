"""Label-free scores of a checkpoint: pure functions of what it says of some target images, and their names.

Here are those of how sure and how balanced its probabilities are; :mod:`uda.selection.stability` and
:mod:`uda.selection.shape` have the others. ``log_p`` is ``[n, k, *g]``: log-probabilities on a grid of pixels;
``labels`` are predicted classes ``[n, *g]``; ``case`` ``[n]`` numbers the case of each image; ``structures`` are the
classes that count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from uda import losses
from uda.selection.shape import area_smoothness, largest_component_share, slice_continuity
from uda.selection.stability import (
    before_agreement,
    ensemble_agreement,
    held_out_consistency,
    perturbation_consistency,
    size_variation,
    source_agreement,
)


def mean_entropy(log_p: Tensor) -> float:
    """Mean entropy of a pixel as a share of the largest possible. It falls straight through a collapse.

    Source: Grandvalet & Bengio, Semi-supervised Learning by Entropy Minimization, NeurIPS 2005.
    """
    return float(losses.entropy(log_p))


def ratio_distance(log_p: Tensor, expected: Tensor | None) -> float:
    """KL(τ‖τ̂) of the class ratio predicted over all images ``τ̂`` to the expected one ``τ`` ``[k]``, in nats; NaN where
    none is expected.

    Source: the distance of Bateson et al., Source-relaxed domain adaptation (AdaEnt), MICCAI 2020, as a score.
    """
    if expected is None:
        return math.nan
    prior = expected.to(log_p)[None].expand(len(log_p), -1)
    return float(losses.class_ratio_kl(log_p, prior, direction="prior_to_prediction", over="batch"))


def mean_mutual_information(log_p: Tensor) -> float:
    """Entropy of the mean prediction minus the mean entropy of a pixel, in nats.

    Source: Gomes, Krause & Perona, Discriminative Clustering by Regularized Information Maximization, NeurIPS 2010.
    """
    return -float(losses.mutual_information(log_p))


def neighbourhood_density(sample: Tensor, temperature: float = 0.05) -> float:
    """Soft neighbourhood density: mean entropy of a pixel's similarity to the others.

    Args:
        sample: log-probabilities ``[m, k]`` of a class-balanced sample of pixels.

    Source: Saito et al., Tune it the Right Way: Unsupervised Validation of Domain Adaptation via Soft Neighborhood
    Density, ICCV 2021, eq. 2-4, on normalised class probabilities.
    """
    p = torch.nn.functional.normalize(sample.exp(), dim=1)
    similarity = (p @ p.T) / temperature
    similarity.fill_diagonal_(-math.inf)
    log_q = similarity.log_softmax(1)
    return float(-(log_q.exp() * log_q.nan_to_num(neginf=0.0)).sum(1).mean())


def nuclear_norm(sample: Tensor) -> float:
    """Sum of the singular values of the probabilities ``[m, k]``, divided by its bound √(m·min(m, k)).

    Args:
        sample: log-probabilities ``[m, k]`` of a class-balanced sample of pixels.

    Source: Cui et al., Towards Discriminability and Diversity: Batch Nuclear-norm Maximization, CVPR 2020.
    """
    count, classes = sample.shape
    singular = torch.linalg.svdvals(sample.exp())
    return float(singular.sum() / math.sqrt(count * min(count, classes)))


def soft_dice_confidence(
    labels: Tensor, source_log_p: Tensor, case: Tensor, structures: Sequence[int]
) -> float:
    """How probable another model finds these labels: mean over cases and structures of 2 Σ p ŷ / (Σ p + Σ ŷ).

    Args:
        labels: ``[n, *g]`` of the checkpoint.
        source_log_p: ``[n, k, *g]`` of the other model.

    Source: Borges, Pacheco & Silva, Soft Dice Confidence, 2024 (there with the model's own probabilities).
    """
    cases = int(case.max()) + 1
    values = []
    for structure in structures:
        p = source_log_p[:, structure].exp().flatten(1)
        mask = (labels == structure).to(p.dtype).flatten(1)
        shared, total = (
            torch.zeros(cases, dtype=p.dtype).index_add_(0, case.cpu(), part.sum(1).cpu())
            for part in (p * mask, p + mask)
        )
        values.append((2 * shared / total.clamp_min(1e-6)).mean())
    return float(torch.stack(values).mean())


def _by(function: Callable[..., float], less: bool = False, ranks: bool = True) -> Any:
    """A score: its function, whether less is better, whether it may rank checkpoints."""
    known = {"function": function, "less": less, "ranks": ranks}
    return field(default=math.nan, metadata=known)


@dataclass(frozen=True)
class Scores:
    """What a checkpoint gets; NaN where a score is not known or was not asked for."""

    entropy: float = _by(mean_entropy, less=True, ranks=False)
    ratio_distance: float = _by(ratio_distance, less=True)
    mutual_information: float = _by(mean_mutual_information)
    consistency: float = _by(perturbation_consistency)
    agreement: float = _by(ensemble_agreement)
    density: float = _by(neighbourhood_density)
    nuclear_norm: float = _by(nuclear_norm)
    confidence: float = _by(soft_dice_confidence)
    held_out: float = _by(held_out_consistency)
    size_variation: float = _by(size_variation, less=True)
    continuity: float = _by(slice_continuity)
    largest_component: float = _by(largest_component_share)
    area_smoothness: float = _by(area_smoothness)
    before_agreement: float = _by(before_agreement)
    source_agreement: float = _by(source_agreement)

    def merit(self, name: str) -> float:
        """A score turned so that more is better; what is not finite is worst."""
        value = float(getattr(self, name))
        if not math.isfinite(value):
            return -math.inf
        return -value if _KNOWN[name]["less"] else value


_KNOWN = {score.name: score.metadata for score in fields(Scores)}
BETTER = {name: "smaller" if known["less"] else "larger" for name, known in _KNOWN.items()}
"""which values of a score are better"""
SCORES = tuple(name for name, known in _KNOWN.items() if known["ranks"])
"""what may rank checkpoints; the entropy is in the log alone"""
EVERY = tuple(_KNOWN)
"""the names of all scores"""


def computed(names: Iterable[str], seen: Mapping[str, Callable[[], Any]]) -> Scores:
    """These scores of what is seen of a checkpoint, and of that no more than their functions ask for.

    A score that needs the ``mean`` prediction of all checkpoints is not known yet.

    Args:
        seen: how to get what a function's parameter of that name asks for: ``log_p``, ``labels``, ``case``,
            ``classes``, ``structures``; ``perturbed`` and ``held_out``, labels under perturbations; ``stacks`` of
            neighbouring slices; the ``sample`` ``[m, k]`` of ``log_p`` at a class-balanced sample of pixels; the
            ``expected`` class ratio, or None; ``source_log_p``, what the model before adaptation says, and
            ``before``, its labels together with AdaBN.
    """
    values = {}
    for name in names:
        function = _KNOWN[name]["function"]
        parameters = signature(function).parameters.values()
        needed = [one.name for one in parameters if one.default is one.empty]
        if "mean" not in needed:
            values[name] = function(**{one: seen[one]() for one in needed})
    return Scores(**values)
