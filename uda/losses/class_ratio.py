"""Class ratios: what share of the pixels is predicted as each class, and how far that is from a prior."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from uda.errors import PriorError
from uda.types import Logits, Ratio, Scalar

Direction = Literal["prediction_to_prior", "prior_to_prediction"]
Over = Literal["image", "batch"]
Kind = Literal["mean", "max_normalized"]


def class_ratio(logits: Logits, kind: Kind = "mean", power: float = 1.0) -> Float[Tensor, "b k"]:
    r"""Predicted proportion τ̂ of each class in each image.

    ``mean``: :math:`\hat\tau_c = \frac1N \sum_x p_c(x)`. ``max_normalized``:
    :math:`r_c(x) = (p_c / \max_j p_j)^{power}`, summed over pixels and normalised over classes
    (Zhang et al., ICCV 2017, eq. 6 with power 5; Bateson et al., MedIA 2022 with power 1).

    Example:
        >>> import torch
        >>> class_ratio(torch.tensor([[[[0.0, 100.0]], [[0.0, 0.0]]]]))
        tensor([[0.7500, 0.2500]])
    """
    return log_class_ratio(logits, kind, power).exp()


def log_class_ratio(
    logits: Logits, kind: Kind = "mean", power: float = 1.0
) -> Float[Tensor, "b k"]:
    """log τ̂, finite for any finite logits: a class that is nowhere likely does not underflow to log 0."""
    log_p = logits.float().log_softmax(1).flatten(2)
    if kind == "mean":
        return log_p.logsumexp(2) - math.log(log_p.shape[2])
    relative = power * (log_p - log_p.amax(1, keepdim=True))
    return relative.logsumexp(2).log_softmax(1)


def class_ratio_kl(
    logits: Logits,
    prior: Ratio,
    direction: Direction = "prediction_to_prior",
    over: Over = "image",
    kind: Kind = "mean",
    power: float = 1.0,
    eps: float = 1e-10,
) -> Scalar:
    r"""Divergence between the predicted class ratio τ̂ and the prior τ.

    ``prediction_to_prior``: :math:`\sum_c \hat\tau_c (\log\hat\tau_c - \log(\tau_c + \epsilon))`
    (AdaMI, Bateson et al. 2022). A class with τ = 0 is suppressed with the constant slope −log ε,
    23.03 for ε = 1e-10. ``prior_to_prediction``: :math:`\sum_c \tau_c (\log\tau_c - \log\hat\tau_c)`
    (AdaEnt, Bateson et al. 2020; PaNN; the curriculum size loss); classes with τ = 0 are left alone.

    Args:
        logits: ``[b, k, *s]``.
        prior: ``[k]`` for every image, or ``[b, k]``, one for each.
        over: ``image``: divergence per image, then the mean; ``batch``: τ̂ and τ are averaged over the
            batch first, so that single images may differ from the prior.
        kind, power: see :func:`class_ratio`.
        eps: ε above; 0 gives the exact divergence, for priors without zeros.

    Returns:
        Non-negative scalar (to within ε), 0 exactly where τ̂ = τ.

    Raises:
        PriorError: wrong number of classes or images, or a zero in the prior where it makes the value infinite.

    Example:
        >>> import torch
        >>> logits = torch.zeros(1, 2, 1, 2)
        >>> round(float(class_ratio_kl(logits, torch.tensor([0.75, 0.25]), "prior_to_prediction")), 4)
        0.1308
    """
    prior = _aligned(logits, prior)
    log_ratio = log_class_ratio(logits, kind, power)
    if over == "batch":
        log_ratio = log_ratio.logsumexp(0, keepdim=True) - math.log(log_ratio.shape[0])
        prior = prior.mean(0, keepdim=True)
    if direction == "prior_to_prediction":
        return (torch.xlogy(prior, prior) - prior * log_ratio).sum(1).mean()
    if eps == 0 and not prior.is_cuda and bool((prior <= 0).any()):
        raise PriorError(
            "the prior has a zero, which makes prediction_to_prior infinite",
            expected="every class above 0, or eps > 0",
            fix="set eps=1e-10 (a hard suppression) or use prior_to_prediction",
        )
    return (log_ratio.exp() * (log_ratio - (prior + eps).log())).sum(1).mean()


def _aligned(logits: Tensor, prior: Tensor) -> Tensor:
    """The prior as float32 ``[b, k]``."""
    batch, classes = logits.shape[:2]
    if prior.shape not in ((classes,), (batch, classes)):
        raise PriorError(
            f"the prior has shape {tuple(prior.shape)}",
            expected=f"({classes},) for all images or ({batch}, {classes}), one row an image",
            fix="make the prior for the classes of this model",
        )
    return prior.float().expand(batch, classes)
