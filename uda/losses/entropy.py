"""Losses that make each pixel sure of itself: entropy, min-entropy, maximum squares. Each alone can collapse."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from uda.errors import DataError, PriorError
from uda.losses.inspection import readable
from uda.losses.prediction import Predicted, Prediction, predicted, winners
from uda.types import Scalar


def entropy(
    logits: Predicted,
    class_weights: Float[Tensor, "k"] | None = None,
    normalized: bool = True,
    mask: Bool[Tensor, "b *s"] | None = None,
) -> Scalar:
    r"""Mean Shannon entropy of the pixels' class probabilities.

    Formula: $-\frac{1}{BN}\sum_{b,x}\sum_c \nu_c\,p_c\log p_c$, divided by $\log K$ when ``normalized``
    Range: [0, 1], or [0, log K] nats when not ``normalized``, with ν = 1
    Minimum: 0, every pixel one-hot
    Collapse: one class everywhere is a minimum too, and descent alone gets there; pair it with a prior
    Source: Grandvalet & Bengio, NIPS 2004; normalised: Vu et al., ADVENT, CVPR 2019, eq. 3; weighted:
        Bateson et al., AdaEnt, MICCAI 2020, and AdaMI, MedIA 2022

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        class_weights: ν ``[k]``, not negative; AdaEnt and AdaMI take ν_c = (1/τ̄_c) / Σ (1/τ̄) with
            ``normalized=False``.
        normalized: divide by log K, so that a uniform prediction has entropy 1 (ADVENT); else nats.
            A single class has entropy 0 either way.
        mask: pixels that count, ``[b, *s]``. When none counts the value is 0, with a gradient of 0.

    Returns:
        Scalar.

    Raises:
        PriorError: the weights do not match the classes, or one is negative or not finite.
        DataError: the mask does not match the pixels.

    Example:
        One 2×2 image, p of class 0 being ½, ¾, ¾ and 1. In bits, which normalising makes of two
        classes, the pixels have 1, 0.8113, 0.8113 and 0; their mean is 0.6556.

        >>> import torch
        >>> p = torch.tensor([[0.5, 0.75], [0.75, 1.0]])
        >>> logits = torch.stack([p, 1 - p])[None].clamp_min(1e-30).log()
        >>> round(float(entropy(logits)), 4)
        0.6556
        >>> mask = torch.tensor([[[True, False], [False, True]]])
        >>> round(float(entropy(logits, mask=mask)), 4)
        0.5
    """
    prediction = predicted(logits)
    weights = None if class_weights is None else _class_weights(prediction, class_weights)
    if mask is not None:
        _check_mask(prediction, mask)
    pixel: Tensor = _PixelEntropy.apply(prediction.log_p, prediction.p.detach(), weights)
    classes = prediction.shape[1]
    scale = math.log(classes) if normalized and classes > 1 else 1.0
    if mask is None:
        return pixel.mean() / scale
    return (pixel * mask).sum() / mask.sum().clamp_min(1) / scale


def min_entropy(logits: Predicted) -> Scalar:
    r"""Mean min-entropy: how far the winning class of each pixel is from being certain.

    Formula: $-\frac{1}{BN}\sum_{b,x}\log\max_c p_c$
    Range: [0, log K] nats, never above the Shannon entropy
    Minimum: 0, every pixel one-hot
    Collapse: one class everywhere is a minimum too, as for :func:`entropy`
    Source: Rényi entropy of infinite order; the cross-entropy with the hard pseudo-labels argmax p of
        self-training, Lee, ICML workshops 2013

    Where several classes share the maximum they share the gradient, so that a uniform pixel is pushed
    nowhere.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.

    Returns:
        Scalar.

    Example:
        One 2×2 image, p of class 0 being ½, ¾, ¾ and 1: (log 2 + 2 log 4/3 + 0) / 4 = 0.3171.

        >>> import torch
        >>> p = torch.tensor([[0.5, 0.75], [0.75, 1.0]])
        >>> logits = torch.stack([p, 1 - p])[None].clamp_min(1e-30).log()
        >>> round(float(min_entropy(logits)), 4)
        0.3171
    """
    pixel: Tensor = _PixelMaximum.apply(predicted(logits).log_p)
    return -pixel.mean()


def max_square(logits: Predicted, image_weighted: bool = False, ratio: float = 0.2) -> Scalar:
    r"""Maximum squares: certainty whose gradient does not blow up on pixels that are already sure.

    Formula: $-\frac{1}{2BN}\sum_{b,x}\sum_c p_c^2$; ``image_weighted``:
        $-\frac{1}{2BK}\sum_{b,x} w_b(x)\sum_c p_c^2$ with
        $w_b(x) = 1/\max(n_j^{\alpha} N^{1-\alpha}, 1)$, where $n_j$ of the image's $N$ pixels are predicted
        as the class $j = \arg\max_c p_c(x)$
    Range: [−1/2, −1/(2K)]; ``image_weighted``: [−K^(α−1)/2, 0)
    Minimum: every pixel one-hot; ``image_weighted``: and the classes of equal size
    Collapse: one class everywhere is a minimum too; the weights soften that, they do not prevent it
    Source: Chen, Xue & Cai, Domain Adaptation for Semantic Segmentation with Maximum Squares Loss,
        ICCV 2019

    The code released with the paper lacks the factor ½ in the weighted form, and so has twice this value.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        image_weighted: pixels of classes that cover little of their image weigh more. The weights are
            constants: no gradient runs through them.
        ratio: α, from 0 (all pixels weigh 1/N) to 1 (all classes weigh the same).

    Returns:
        Scalar, negative.

    Raises:
        PriorError: ``ratio`` outside [0, 1].

    Example:
        One 2×2 image, p of class 0 being ½, ¾, ¾ and 1: Σ p² is ½, ⅝, ⅝ and 1, whose mean is 0.6875.
        Class 0 wins in all four pixels (the first one is a tie), so each weighs 1/4, and Σ w Σ p² is 0.6875
        again, now divided by 2K = 4.

        >>> import torch
        >>> p = torch.tensor([[0.5, 0.75], [0.75, 1.0]])
        >>> logits = torch.stack([p, 1 - p])[None].clamp_min(1e-30).log()
        >>> round(float(max_square(logits)), 4)
        -0.3438
        >>> round(float(max_square(logits, image_weighted=True)), 4)
        -0.1719
    """
    if not 0 <= ratio <= 1:
        raise PriorError(f"ratio is {ratio}", expected="a number from 0 to 1; published: 0.2")
    prediction = predicted(logits)
    pixel: Tensor = _PixelSquare.apply(prediction.log_p, prediction.p.detach())
    if not image_weighted:
        return -pixel.mean() / 2
    weighted = pixel * _rarity(prediction, ratio)
    return -weighted.sum() / (2 * prediction.shape[0] * prediction.shape[1])


@torch.no_grad()
def _rarity(prediction: Prediction, ratio: float) -> Float[Tensor, "b *s"]:
    """1 / max(n^ratio N^(1−ratio), 1) of each pixel, n the pixels of its image with the same winning class."""
    winner = prediction.log_p.max(1).indices  # on the CPU many times as fast as argmax
    flat = winner.flatten(1)
    # one comparison a class, because bincount waits for the device and scatter_add has no fixed order there
    counts = torch.stack([(flat == c).sum(1) for c in range(prediction.shape[1])], 1)
    size = counts.to(prediction.p) ** ratio * flat.shape[1] ** (1 - ratio)
    weight: Tensor = 1 / size.clamp_min(1)
    return weight.gather(1, flat).view_as(winner)


class _PixelEntropy(Function):
    """−Σ_c ν_c p_c log p_c of each pixel, ``[b, *s]``; keeps log p and p alone, which all losses share."""

    @staticmethod
    def forward(ctx: Any, log_p: Tensor, p: Tensor, weights: Tensor | None) -> Tensor:
        ctx.save_for_backward(log_p, p)
        ctx.weights = weights
        product = p * log_p
        if weights is not None:
            product *= weights
        return product.sum(1).neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        log_p, p = ctx.saved_tensors
        gradient = torch.addcmul(p, p, log_p).mul_(slope.neg().unsqueeze(1))
        if ctx.weights is not None:
            gradient *= ctx.weights
        return gradient, None, None


class _PixelSquare(Function):
    """Σ_c p_c² of each pixel, ``[b, *s]``; differentiable in log p, of which p is the exponential."""

    @staticmethod
    def forward(ctx: Any, log_p: Tensor, p: Tensor) -> Tensor:
        ctx.save_for_backward(p)
        return p.square().sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        (p,) = ctx.saved_tensors
        gradient: Tensor = p.square()
        return gradient.mul_(2 * slope.unsqueeze(1)), None


class _PixelMaximum(Function):
    """max_c log p_c of each pixel, ``[b, *s]``; its gradient needs no more than the one tensor it fills."""

    @staticmethod
    def forward(ctx: Any, log_p: Tensor) -> Tensor:
        top = log_p.amax(1, keepdim=True)
        ctx.save_for_backward(log_p)
        return top.squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (log_p,) = ctx.saved_tensors
        return winners(log_p).mul_(slope.unsqueeze(1))


def _class_weights(prediction: Prediction, weights: Tensor) -> Tensor:
    """ν, shaped to multiply ``[b, k, *s]``."""
    if weights.shape != prediction.shape[1:2]:
        raise PriorError(
            f"class_weights has shape {tuple(weights.shape)}",
            expected=f"one weight for each of the {prediction.shape[1]} classes",
        )
    if readable(weights) and not bool((weights.isfinite() & (weights >= 0)).all()):
        raise PriorError(
            f"class_weights are {[round(float(w), 4) for w in weights]}",
            expected="finite weights that are not negative",
            fix="give a class with ratio 0 a finite weight, or leave class_weights away",
        )
    return weights.detach().to(prediction.log_p).view(-1, *[1] * (len(prediction.shape) - 2))


def _check_mask(prediction: Prediction, mask: Tensor) -> None:
    pixels = (prediction.shape[0], *prediction.shape[2:])
    if mask.shape != pixels:
        raise DataError(
            f"the mask has shape {tuple(mask.shape)}",
            expected=f"{pixels}, images and pixels of the logits",
        )
