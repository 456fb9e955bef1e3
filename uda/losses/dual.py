"""The class ratio of a whole data set, unbiased from batches, by primal–dual updates."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from uda.errors import PriorError
from uda.losses.class_ratio import aligned, log_class_ratio, log_mean, shown
from uda.losses.inspection import readable
from uda.losses.prediction import Predicted, predicted
from uda.types import Ratio, Scalar

LOG_DUAL_LIMIT = 20.0
"""Largest λ that :func:`dual_ascent` returns: the optimum of a class with 2 pixels in a thousand million."""


def dual_class_ratio(logits: Predicted, prior: Ratio, log_dual: Float[Tensor, "k"]) -> Scalar:
    r"""KL(τ‖τ̂) of the whole data set's class ratio, from one batch at a time and without bias.

    Formula: $\sum_c \tau_c (\hat\tau_c\beta_c + 1 + \log(-\beta_c)) + \sum_c \tau_c\log\tau_c$ with
        $\beta_c = -e^{\lambda_c}$, τ̂ and τ averaged over the batch
    Range: (−∞, KL(τ‖τ̂)]
    Minimum: none by itself for fixed λ; at the saddle point with :func:`dual_ascent`, 0 where τ̂ = τ
    Collapse: none onto one class while λ is kept up to date
    Source: Zhou et al., Prior-aware Neural Network, ICCV 2019, from
        $-\log\alpha = \max_\beta (\alpha\beta + 1 + \log(-\beta))$

    It is affine in τ̂. So for fixed λ its mean over batches is its value on the data set, which is not true of
    the logarithm in :func:`class_ratio_kl`: a batch that happens to lack a class costs no more than its share.
    At the best λ, $e^{\lambda_c} = 1/\hat\tau_c$, it equals KL(τ‖τ̂). Differentiable in logits and λ.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        prior: τ, ``[k]`` for every image, or ``[b, k]``, one for each.
        log_dual: λ, ``[k]``, at most 80 in size; starts at 0, or at −log τ, where the logits get no gradient.

    Returns:
        Scalar.

    Raises:
        PriorError: wrong number of classes or images; a prior that is negative or does not sum to 1; λ not
            finite or so large that $e^\lambda$ overflows.

    Example:
        One 2×2 image, p of class 0 being ½, ¾, ¾ and 1, so τ̂ = (¾, ¼), with the prior (½, ½). λ = log(1/τ̂)
        gives the divergence ½ log 2/3 + ½ log 2 = 0.1438; any other λ gives less: λ = log(1/τ) has
        ½(−3/2 + 1 + log 2) + ½(−1/2 + 1 + log 2) − log 2 = 0.

        >>> import torch
        >>> p = torch.tensor([[0.5, 0.75], [0.75, 1.0]])
        >>> logits = torch.stack([p, 1 - p])[None].clamp_min(1e-30).log()
        >>> prior = torch.tensor([0.5, 0.5])
        >>> round(float(dual_class_ratio(logits, prior, -torch.tensor([0.75, 0.25]).log())), 4)
        0.1438
        >>> abs(round(float(dual_class_ratio(logits, prior, -prior.log())), 4))
        0.0
    """
    prediction = predicted(logits)
    prior = aligned(prediction.log_p, prior, "the prior").mean(0)
    log_dual = _checked_dual(log_dual, prior)
    log_ratio = log_mean(log_class_ratio(prediction)).squeeze(0)
    terms = prior * (1 + log_dual - (log_dual + log_ratio).exp())
    return (terms + torch.xlogy(prior, prior)).sum()


@torch.no_grad()
def dual_ascent(log_dual: Float[Tensor, "k"], ratio: Ratio, rate: float) -> Float[Tensor, "k"]:
    r"""λ after one step of ascent on :func:`dual_class_ratio`, each class on its own problem.

    Formula: $e^{-\lambda_c} \leftarrow (1-\eta)\,e^{-\lambda_c} + \eta\,\hat\tau_c$, then λ kept within [0, 20]
    Source: dual variables of Zhou et al., Prior-aware Neural Network, ICCV 2019; the size of the step is ours

    To first order in η this is the gradient step $\lambda_c + \eta\,(1 - \hat\tau_c e^{\lambda_c})$, not weighted by
    τ, so that rare classes are followed as fast as frequent ones. Taken in $-1/\beta_c = e^{-\lambda_c}$ and scaled
    by the curvature there, it cannot overshoot, and because it is linear in τ̂ its fixed point is
    $e^{-\lambda_c} = \mathrm{E}[\hat\tau_c]$ however unevenly a class is spread over the batches. A plain step on λ
    leaves every bound after one batch full of a rare class, and clipping it moves the fixed point: with a clip
    at ±1, a class that shows in less than half of the batches has none.

    The interval holds every optimum: τ̂ ≤ 1 gives λ ≥ 0, and 20 stands for 2 pixels in a thousand million.

    Args:
        log_dual: λ, ``[k]``.
        ratio: τ̂ of the batch, ``[k]``, or ``[b, k]`` of its images.
        rate: η, above 0 and at most 1; 1/η is about the number of batches that λ remembers.

    Returns:
        The new λ, ``[k]``; no gradient runs through it.

    Raises:
        PriorError: ratio and λ are not of the same classes; ``rate`` is not in (0, 1].

    Example:
        One 2×2 image, p of class 0 being ½, ¾, ¾ and 1, so τ̂ = (¾, ¼). From λ = (log 2, log 4), which stands for
        shares (½, ¼), half a step leads to (⅝, ¼).

        >>> import torch
        >>> from uda.losses import class_ratio
        >>> p = torch.tensor([[0.5, 0.75], [0.75, 1.0]])
        >>> logits = torch.stack([p, 1 - p])[None].clamp_min(1e-30).log()
        >>> log_dual = dual_ascent(torch.tensor([2.0, 4.0]).log(), class_ratio(logits), rate=0.5)
        >>> (-log_dual).exp()
        tensor([0.6250, 0.2500])
    """
    if not 0 < rate <= 1:
        raise PriorError(f"rate is {rate}", expected="a number above 0, at most 1, such as 0.05")
    if log_dual.dim() != 1 or ratio.dim() not in (1, 2) or ratio.shape[-1:] != log_dual.shape:
        raise PriorError(
            f"ratio has shape {tuple(ratio.shape)} and log_dual {tuple(log_dual.shape)}",
            expected="(k,) or (b, k) for the ratio and (k,) for log_dual",
        )
    share = ratio.to(log_dual).reshape(-1, log_dual.shape[0]).mean(0)
    # λ − log(1 − η + η τ̂ e^λ), which does not lose e^−λ when it is small
    stepped = log_dual - torch.log1p(rate * (share * log_dual.exp() - 1))
    return stepped.clamp(0, LOG_DUAL_LIMIT)


def _checked_dual(log_dual: Tensor, prior: Tensor) -> Tensor:
    """λ ``[k]`` in the kind of number of the prior."""
    if log_dual.shape != prior.shape:
        raise PriorError(
            f"log_dual has shape {tuple(log_dual.shape)}",
            expected=f"one number for each of the {prior.shape[0]} classes",
        )
    if readable(log_dual) and not bool((log_dual.abs() <= 80).all()):
        raise PriorError(
            f"log_dual is {shown(log_dual)}",
            expected="numbers from -80 to 80, whose exponential float32 can hold",
            fix="start from -log of the prior and change it with dual_ascent",
        )
    return log_dual.to(prior)
