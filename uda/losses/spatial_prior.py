"""Spatial priors: where in the image each class is to be expected."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from uda.errors import PriorError
from uda.losses.class_ratio import Direction, Over
from uda.losses.inspection import readable
from uda.losses.prediction import Predicted, predicted
from uda.types import Scalar


def spatial_prior_kl(
    logits: Predicted,
    maps: Float[Tensor, "k *s"] | Float[Tensor, "b k *s"],
    direction: Direction = "prior_to_prediction",
    over: Over = "batch",
    eps: float = 1e-10,
) -> Scalar:
    r"""Divergence, pixel by pixel, between what is predicted there and how often each class is there.

    Formula: $\frac1N\sum_x\sum_c\pi_c(x)\left(\log\pi_c(x)-\log\bar p_c(x)\right)$, or with p̄ and π exchanged in
        the direction ``prediction_to_prior``; p̄ is p averaged over the batch, or p of each image
    Range: [0, ∞), above 0 by −K·eps at the least in the direction ``prediction_to_prior``
    Minimum: p̄ = π at every pixel
    Collapse: over single images the minimum is the prior itself, whatever the image shows; over the batch only the
        mean of the images is held to it
    Source: the spatial prior of Zou et al., CBST, ECCV 2018 (CBST-SP), as a term of the loss

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        maps: π, frequency of each class at each pixel, ``[k, *s]`` for all images or ``[b, k, *s]``; sums to 1 over
            classes.
        direction: ``prior_to_prediction`` leaves classes with π = 0 alone; ``prediction_to_prior`` suppresses them
            with the slope −log eps.
        over: ``batch``: p and π are averaged over the batch, pixel by pixel, first; ``image``: each image by itself.
        eps: added to π inside the logarithm of ``prediction_to_prior``.

    Returns:
        Scalar, in nats: the mean over pixels, and over images where they count by themselves.

    Raises:
        PriorError: maps of another shape, that are not frequencies, or with a 0 where it makes the value infinite.

    Example:
        A 2×2 image, undecided between two classes. The upper row is known to be class 0 (log 2 a pixel), the lower
        row is either (0): (2 · 0.6931 + 2 · 0) / 4.

        >>> import torch
        >>> maps = torch.tensor([[[1.0, 1.0], [0.5, 0.5]], [[0.0, 0.0], [0.5, 0.5]]])
        >>> round(float(spatial_prior_kl(torch.zeros(1, 2, 2, 2), maps)), 4)
        0.3466
    """
    prediction = predicted(logits)
    maps = _frequencies(prediction.shape, maps).to(prediction.log_p)
    log_p = prediction.log_p
    if over == "batch":
        maps = maps.mean(0, keepdim=True)
        if len(log_p) > 1:
            log_p = _LogMean.apply(log_p)
    pixels = log_p.numel() // log_p.shape[1]
    if direction == "prior_to_prediction":
        images = len(log_p) // len(maps)
        return (images * torch.xlogy(maps, maps).sum() - (maps * log_p).sum()) / pixels
    if eps == 0 and readable(maps) and bool((maps <= 0).any()):
        raise PriorError(
            "the maps have a zero, which makes prediction_to_prior infinite",
            expected="every class above 0 at every pixel, or eps > 0",
            fix="set eps=1e-10 (a hard suppression) or use prior_to_prediction",
        )
    value: Tensor = _Divergence.apply(log_p, (maps + eps).log())
    return value / pixels


def _frequencies(shape: torch.Size, maps: Tensor) -> Tensor:
    """The maps as ``[1, k, *s]`` or ``[b, k, *s]``."""
    if maps.shape not in (shape, shape[1:]):
        raise PriorError(
            f"maps of shape {tuple(maps.shape)} for logits of shape {tuple(shape)}",
            expected=f"{tuple(shape[1:])} for all images or {tuple(shape)}, one set an image",
            fix="bring the maps to the grid and to the classes of the model",
        )
    maps = maps if maps.dim() == len(shape) else maps.unsqueeze(0)
    if readable(maps) and not bool((maps >= 0).all() & ((maps.sum(1) - 1).abs() < 1e-3).all()):
        raise PriorError(
            "the maps are no frequencies: a value is negative, or a pixel does not sum to 1",
            expected="maps that sum to 1 over the classes at every pixel",
            fix="relative maps (divided by their spatial mean) are for PseudoLabeler, not for this loss",
        )
    return maps


class _LogMean(torch.autograd.Function):
    """Logarithm of the mean of p over the batch, keeping nothing but log p and the result."""

    @staticmethod
    def forward(ctx: Any, log_p: Tensor) -> Tensor:
        mean = log_p.logsumexp(0, keepdim=True).sub_(math.log(len(log_p)))
        ctx.save_for_backward(log_p, mean)
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        log_p, mean = ctx.saved_tensors
        share: Tensor = (log_p - mean).exp_()
        return share.mul_(gradient / len(log_p))


class _Divergence(torch.autograd.Function):
    """Σ p (log p − r), keeping nothing but log p."""

    @staticmethod
    def forward(ctx: Any, log_p: Tensor, log_reference: Tensor) -> Tensor:
        ctx.save_for_backward(log_p, log_reference)
        return (log_p - log_reference).mul_(log_p.exp()).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        log_p, log_reference = ctx.saved_tensors
        slope = (log_p - log_reference).add_(1.0).mul_(log_p.exp())
        return slope.mul_(gradient), None
