"""Agreement between two predictions of the same pixels."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from uda.errors import DataError
from uda.losses.closed_form import with_gradient
from uda.losses.prediction import Predicted, predicted
from uda.types import Scalar


def dice_consistency(
    logits: Predicted, other: Float[Tensor, "b k *s"], mask: Bool[Tensor, "b *s"] | None = None
) -> Scalar:
    r"""Soft Dice loss between a prediction and another one of the same pixels, over the batch, mean over structures.

    Formula: $\frac{1}{K-1}\sum_{c>0} 1 - \frac{2\sum_{b,x} p_c\,q_c}{\sum_{b,x} p_c^2 + \sum_{b,x} q_c^2}$, q the
        other prediction, over the pixels of the mask
    Range: [0, 1]
    Minimum: 0, where p = q for every class c > 0, whether sure or not
    Collapse: background everywhere in both; if q is the network's own, start from a trained one and keep the rate small
    Source: Weihsbach et al., DG-TTA, 2023 (Dice between two views); squares: Milletari et al., V-Net, 3DV 2016

    The squares put the minimum at agreement; with the plain denominator of :func:`dice` it would lie at certainty. A
    class that neither prediction shows costs nothing.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        other: q ``[b, k, *s]``, probabilities; constants, no gradient reaches them.
        mask: pixels that count, ``[b, *s]``; all by default. When none counts the value is 0, with a gradient of 0.

    Raises:
        DataError: another prediction or a mask of another shape.

    Example:
        A 2×2 image, p = (½, ½) everywhere, q sure of class 1 at half of the pixels:
        1 − 2 · (2 · ½) / (4 · ¼ + 2) = ⅓.

        >>> import torch
        >>> ones = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
        >>> round(float(dice_consistency(torch.zeros(1, 2, 2, 2), torch.stack([1 - ones, ones], 1))), 4)
        0.3333
    """
    prediction = predicted(logits)
    batch, classes, *space = prediction.shape
    if other.shape != prediction.shape:
        raise DataError(
            f"the other prediction has shape {tuple(other.shape)}",
            expected=f"{tuple(prediction.shape)}, the shape of the logits",
        )
    if mask is not None and mask.shape != (batch, *space):
        raise DataError(
            f"the mask has shape {tuple(mask.shape)}", expected=f"{(batch, *space)}, one a pixel"
        )
    log_p, axes = prediction.log_p, [0, *range(2, len(prediction.shape))]
    with torch.no_grad():
        p = log_p.exp()
        if mask is not None:
            p *= mask.unsqueeze(1)
        # on masked pixels p is 0, and with it every product and the gradient
        q = other.detach().to(p)
        square = q.square() if mask is None else q.square().mul_(mask.unsqueeze(1))
        total = square.sum(axes).add_(torch.mul(p, p, out=square).sum(axes)).add_(1e-6)
        overlap = 2 * torch.mul(p, q, out=square).sum(axes) + 1e-6
        value = (1 - overlap / total)[1:].mean()
        shape = (1, -1, *[1] * len(space))
        scale = (2 / ((classes - 1) * total)).view(shape)
        gradient = torch.mul(p, (overlap / total).view(shape), out=square).sub_(q).mul_(p)
        gradient.mul_(scale)[:, 0] = 0
    return with_gradient(log_p, value, gradient)
