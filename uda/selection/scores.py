"""Label-free scores of a checkpoint: pure functions of what it says of some target images.

``log_p`` is ``[n, k, *g]``: log-probabilities on a grid of pixels; ``labels`` are predicted classes ``[n, *g]``, -1
where nothing is known; ``case`` ``[n]`` numbers the case of each image, over whose images an overlap is taken
together (3-D Dice). ``structures`` are the classes that count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from uda import losses
from uda.losses.prediction import most_likely


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


def structure_dice(
    first: Tensor, second: Tensor, case: Tensor, classes: int, structures: Sequence[int]
) -> Tensor:
    """Dice ``[structures]`` of two label maps, mean over the cases in which either shows the structure.

    A structure that neither shows in any case has 0: a network that has lost it agrees with nothing.
    """
    known = (first >= 0) & (second >= 0)
    number = case.view(-1, *[1] * (first.dim() - 1)).expand_as(first)
    cases = int(case.max()) + 1
    joint = (number * classes + first) * classes + second
    counts = torch.bincount(joint[known], minlength=cases * classes**2).double()
    confusion = counts.view(cases, classes, classes)
    both = confusion.diagonal(dim1=1, dim2=2)
    either = confusion.sum(1) + confusion.sum(2)
    shown = either > 0
    dice = torch.where(shown, 2 * both / either.clamp_min(1), 0.0).sum(0)
    return (dice / shown.sum(0).clamp_min(1))[list(structures)]


def perturbation_consistency(
    labels: Tensor,
    perturbed: Sequence[Tensor],
    case: Tensor,
    classes: int,
    structures: Sequence[int],
) -> float:
    """Mean Dice between the labels of images and those of the same images perturbed, turned back.

    Source: Talks & Kreshuk, Ranking pre-trained segmentation models for zero-shot transferability, 2025, with the
    Dice of each case.
    """
    if not perturbed:
        return math.nan
    each = [structure_dice(labels, other, case, classes, structures).mean() for other in perturbed]
    return float(torch.stack(each).mean())


def ensemble_agreement(
    labels: Tensor, mean: Tensor, case: Tensor, classes: int, structures: Sequence[int]
) -> float:
    """Dice between a checkpoint's labels and those of the mean prediction ``[n, k, *g]`` of all checkpoints.

    Source: Hu, Luo, Liang & Foo, Towards Reliable Model Selection for Unsupervised Domain Adaptation (EnsV),
    NeurIPS 2024, with Dice in place of accuracy.
    """
    return float(structure_dice(labels, most_likely(mean), case, classes, structures).mean())


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
            torch.zeros(cases, dtype=p.dtype).index_add_(0, case, part.sum(1))
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
    """What a checkpoint gets; NaN where a score is not known."""

    entropy: float = _by(mean_entropy, less=True, ranks=False)
    ratio_distance: float = _by(ratio_distance, less=True)
    mutual_information: float = _by(mean_mutual_information)
    consistency: float = _by(perturbation_consistency)
    agreement: float = _by(ensemble_agreement)
    density: float = _by(neighbourhood_density)
    nuclear_norm: float = _by(nuclear_norm)
    confidence: float = _by(soft_dice_confidence)

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


def computed(**seen: Any) -> Scores:
    """Every score of what is seen of a checkpoint, by the names of its function's parameters; not yet the one that
    needs the ``mean`` prediction of all checkpoints.

    Args:
        seen: ``log_p``, ``labels``, ``perturbed``, ``case``, ``classes``, ``structures``; the ``sample`` ``[m, k]`` of
            ``log_p`` at a class-balanced sample of pixels; the ``expected`` class ratio, or None; ``source_log_p``,
            what the model before adaptation says.
    """
    values = {}
    for name, known in _KNOWN.items():
        parameters = signature(known["function"]).parameters.values()
        needed = [one.name for one in parameters if one.default is one.empty]
        if "mean" not in needed:
            values[name] = known["function"](**{one: seen[one] for one in needed})
    return Scores(**values)
