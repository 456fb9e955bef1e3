"""Losses with labels, for source training, scribbles, points and pseudo-labels."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from uda.errors import DataError, PriorError
from uda.losses.inspection import readable
from uda.losses.prediction import Predicted, Prediction, predicted
from uda.types import IGNORE, Labels, Scalar


def cross_entropy(logits: Predicted, labels: Labels) -> Scalar:
    r"""Mean of −log p of the label over the pixels that are not IGNORE.

    Formula: $-\frac{1}{|\Omega|}\sum_{x\in\Omega}\log p_{y(x)}(x)$, Ω the batch's pixels that are not IGNORE
    Range: [0, ∞); log K for a uniform prediction
    Minimum: every labelled pixel one-hot at its label
    Collapse: none, the labels hold it; a class counts as much as it has pixels, so a rare one can be given up
    Source: Ronneberger et al., U-Net, MICCAI 2015, eq. 1, without the pixel weights

    When every pixel is IGNORE the value is 0, with a gradient of 0.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        labels: ``[b, *s]``, 0 … k−1 or IGNORE.

    Raises:
        DataError: labels of another shape, or with a value that is no class.

    Example:
        A 2×2 image of two classes: sure and right, p = 3/4 and right, undecided, and one pixel without
        label; (0 + 0.2877 + 0.6931) / 3.

        >>> import torch
        >>> first = torch.tensor([[100.0, 0.0], [0.0, 0.0]])
        >>> second = torch.tensor([[0.0, 3.0], [1.0, 5.0]]).log().clamp_min(0)
        >>> logits = torch.stack([first, second]).unsqueeze(0)
        >>> round(float(cross_entropy(logits, torch.tensor([[[0, 1], [0, 255]]]))), 4)
        0.3269
    """
    return partial_cross_entropy(logits, labels)


def partial_cross_entropy(
    logits: Predicted, labels: Labels, weights: Float[Tensor, "b *s"] | None = None
) -> Scalar:
    r"""Cross-entropy over the labelled pixels alone: scribbles, points or pseudo-labels.

    Formula: $-\frac{1}{|\Omega|}\sum_{x\in\Omega} w(x)\log p_{y(x)}(x)$, Ω the batch's pixels that are not IGNORE
    Range: [0, ∞)
    Minimum: every labelled pixel of weight above 0 one-hot at its label
    Collapse: says nothing of unlabelled pixels: a class without labels vanishes, and wrong pseudo-labels confirm
        themselves; pair it with a size constraint or :func:`potts`
    Source: Tang et al., Normalized cut loss, CVPR 2018 (scribbles); weights: Tranheden et al., DACS, WACV 2021

    The weights do not enter the denominator, so that low confidence lowers the loss. When no pixel is
    labelled the value is 0, with a gradient of 0.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        labels: ``[b, *s]``, 0 … k−1 or IGNORE.
        weights: w ``[b, *s]`` ≥ 0, 1 by default; constants, no gradient reaches them.

    Raises:
        DataError: labels of another shape, or with a value that is no class.
        PriorError: weights of another shape, negative or not finite.

    Example:
        A 2×2 image, undecided between two classes; one pixel is labelled with confidence 1, one with 1/2:
        (1 + 1/2) · 0.6931 / 2.

        >>> import torch
        >>> labels = torch.tensor([[[0, 255], [255, 1]]])
        >>> weights = torch.tensor([[[1.0, 1.0], [1.0, 0.5]]])
        >>> round(float(partial_cross_entropy(torch.zeros(1, 2, 2, 2), labels, weights)), 4)
        0.5199
    """
    prediction = predicted(logits)
    valid = _labelled(prediction, labels)
    known = labels.long().where(valid, 0).unsqueeze(1)
    # gather, because nll_loss2d has no deterministic kernel on CUDA
    chosen = prediction.log_p.gather(1, known).squeeze(1).where(valid, 0.0)
    if weights is not None:
        chosen = chosen * _checked_weights(prediction, weights).to(chosen)
    return -chosen.sum() / valid.sum().clamp_min(1)


def soft_cross_entropy(
    logits: Predicted,
    soft: Float[Tensor, "b k *s"],
    weights: Float[Tensor, "b *s"] | None = None,
) -> Scalar:
    r"""Cross-entropy with soft labels, over the pixels that have one.

    Formula: $-\frac{1}{|\Omega|}\sum_{x\in\Omega} w(x)\sum_c y_c(x)\log p_c(x)$, Ω the batch's pixels with Σ_c y_c > 0
    Range: [0, ∞); at least the mean weighted entropy of the soft labels
    Minimum: p = y at every pixel that has a soft label of weight above 0
    Collapse: as sure of itself as its soft labels: made of its own prediction they confirm it
    Source: Zou et al., Confidence regularized self-training (CRST), ICCV 2019 (soft pseudo-labels)

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        soft: y ``[b, k, *s]``, probabilities; 0 in all classes at a pixel without label. Constants, no
            gradient reaches them. When no pixel has a label the value is 0, with a gradient of 0.
        weights: w ``[b, *s]`` ≥ 0, 1 by default; they do not enter the denominator.

    Raises:
        DataError: soft labels of another shape, or that are no probabilities.
        PriorError: weights of another shape, negative or not finite.

    Example:
        A 2×2 image with p = (1/4, 3/4) everywhere: a hard label (0.2877), a soft one of 1/2 (0.8370), two
        pixels without.

        >>> import torch
        >>> logits = torch.tensor([1.0, 3.0]).log().view(1, 2, 1, 1).expand(1, 2, 2, 2)
        >>> soft = torch.tensor([[[[0.0, 0.5], [0.0, 0.0]], [[1.0, 0.5], [0.0, 0.0]]]])
        >>> round(float(soft_cross_entropy(logits, soft)), 4)
        0.5623
    """
    prediction = predicted(logits)
    log_p = prediction.log_p
    if soft.shape != prediction.shape:
        raise DataError(
            f"the soft labels have shape {tuple(soft.shape)}",
            expected=f"{tuple(prediction.shape)}, the shape of the logits",
        )
    soft = soft.detach().to(log_p)
    mass = soft.sum(1)
    _check_probabilities(soft, mass)
    pixel = (soft * log_p).sum(1)
    if weights is not None:
        pixel = pixel * _checked_weights(prediction, weights).to(pixel)
    return -pixel.sum() / (mass > 0).sum().clamp_min(1)


def dice(logits: Predicted, labels: Labels, include_background: bool = False) -> Scalar:
    r"""Soft Dice loss, sums over the batch, mean over classes.

    Formula: $\frac{1}{K-1}\sum_{c>0} 1 - \frac{2\sum_{b,x} p_c\,y_c}{\sum_{b,x} p_c + \sum_{b,x} y_c}$,
        y the one-hot labels, over the pixels that are not IGNORE
    Range: [0, 1]
    Minimum: every labelled pixel one-hot at its label
    Collapse: none, the labels hold it; where p is near one-hot and wrong its gradient vanishes, so pair it with
        :func:`cross_entropy`
    Source: Milletari et al., V-Net, 3DV 2016, with the plain denominator

    Summing over the batch keeps the loss of a class defined on images that do not show it; a class that
    is neither present nor predicted in the whole batch costs nothing.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        labels: ``[b, *s]``, 0 … k−1 or IGNORE. When all are IGNORE the value is 0, with a gradient of 0.
        include_background: count class 0 too.

    Raises:
        DataError: labels of another shape, or with a value that is no class.

    Example:
        A 2×2 image, undecided between two classes; class 1 has two of four pixels:
        1 − 2 · (2 · 1/2) / (4 · 1/2 + 2).

        >>> import torch
        >>> labels = torch.tensor([[[0, 1], [1, 0]]])
        >>> round(float(dice(torch.zeros(1, 2, 2, 2), labels)), 4)
        0.5
    """
    prediction = predicted(logits)
    valid = _labelled(prediction, labels).unsqueeze(1)
    wide = prediction.logits
    wide = wide if wide.dtype == torch.float64 else wide.float()
    # softmax, not prediction.p: its last bits are those of every model trained so far
    p = wide.softmax(1).where(valid, 0.0)
    classes = torch.arange(p.shape[1], device=p.device).view(-1, *[1] * (p.dim() - 2))
    y = (labels.unsqueeze(1) == classes) & valid
    axes = [0, *range(2, p.dim())]
    # in this order, because autograd then adds both gradients in place
    total = p.sum(axes) + y.sum(axes, dtype=p.dtype)
    overlap = p.where(y, 0.0).sum(axes)
    per_class = 1 - (2 * overlap + 1e-6) / (total + 1e-6)
    return per_class[0 if include_background else 1 :].mean()


def _labelled(prediction: Prediction, labels: Tensor) -> Bool[Tensor, "b *s"]:
    """Where labels are not IGNORE; what is neither a class nor IGNORE is refused."""
    batch, classes, *space = prediction.shape
    if labels.shape != (batch, *space):
        raise DataError(
            f"the labels have shape {tuple(labels.shape)}",
            expected=f"{(batch, *space)}, one label for each pixel of the logits",
        )
    valid = labels != IGNORE
    if readable(labels) and bool((((labels < 0) | (labels >= classes)) & valid).any()):
        wrong = sorted(set(labels[valid & ((labels < 0) | (labels >= classes))].tolist()))
        raise DataError(
            f"the labels hold {', '.join(map(str, wrong[:5]))}",
            expected=f"0 … {classes - 1} for the {classes} classes, or {IGNORE} for no label",
            fix="map the label values in the data set's card",
        )
    return valid


def _checked_weights(prediction: Prediction, weights: Tensor) -> Float[Tensor, "b *s"]:
    """Pixel weights as constants."""
    batch, _, *space = prediction.shape
    if weights.shape != (batch, *space):
        raise PriorError(
            f"the pixel weights have shape {tuple(weights.shape)}",
            expected=f"{(batch, *space)}, one weight for each pixel of the logits",
        )
    if readable(weights) and not bool(((weights >= 0) & weights.isfinite()).all()):
        raise PriorError(
            "a pixel weight is negative or not finite", expected="weights of 0 or more"
        )
    return weights.detach()


def _check_probabilities(soft: Tensor, mass: Tensor) -> None:
    if not readable(soft):
        return
    tolerance = 0.02  # what rounding to bfloat16 does to a sum of probabilities
    sound = (mass == 0) | ((mass - 1).abs() <= tolerance)
    if not bool(sound.all()) or bool((soft < 0).any()):
        raise DataError(
            "the soft labels are no probabilities",
            expected="values of 0 or more that sum over the classes to 1, or to 0 at a pixel without label",
        )
