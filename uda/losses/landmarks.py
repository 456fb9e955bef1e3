"""Landmarks: superpixels whose class is thought to be known, each against the mean prediction of its pixels."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Integer
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from uda.errors import DataError, PriorError
from uda.losses.inspection import readable
from uda.losses.prediction import Predicted, predicted
from uda.types import IGNORE, Scalar

UNIT = 2.0**40
"""One in fixed point: 2²² pixels of p = 1 fit into 63 bits."""


def landmark_cross_entropy(
    logits: Predicted, segments: Integer[Tensor, "b *s"], classes: Integer[Tensor, "b s"]
) -> Scalar:
    r"""Cross-entropy between the class of a superpixel and the mean prediction of its pixels.

    Formula: $-\frac{1}{n}\sum_{i} \log \frac{1}{|S_i|} \sum_{x \in S_i} p_{c_i}(x)$ over the n superpixels
        $S_i$ of the batch that have a class $c_i$ and a pixel
    Range: [0, ∞)
    Minimum: 0, where every pixel of these superpixels is surely of its superpixel's class
    Collapse: none onto one class as long as the superpixels are of several; a wrong class is learned as well as
        a right one, and what lies outside of the superpixels is free
    Source: Zhang, David & Gong, ICCV 2017, and Zhang et al., TPAMI 2019 (landmark superpixels)

    The mean comes before the logarithm: a superpixel that is mostly of its class may keep a few pixels of another.
    A superpixel's sum is taken in fixed point: integers add to the same bits in whatever order a device adds them.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        segments: superpixel of each pixel, ``[b, *s]``; a number outside of ``classes`` is none.
        classes: class of each superpixel of each image, ``[b, s]``; ``IGNORE`` = not known.

    Returns:
        Scalar, in nats; 0 with a gradient of 0 when no superpixel has a class.

    Raises:
        DataError: shapes that do not belong together.
        PriorError: a class that the logits do not have.

    Example:
        One image of three superpixels. The first is of class 0, with p = ¾ and ¼ there: −log ½. The second is of
        class 1, with p = 1 there: 0. The third has no class. (0.6931 + 0) / 2:

        >>> import torch
        >>> p = torch.tensor([[0.75, 0.25, 0.0, 0.9]])
        >>> logits = torch.stack([p, 1 - p])[None].clamp_min(1e-30).log()
        >>> landmark_cross_entropy(logits, torch.tensor([[[0, 0, 1, 2]]]), torch.tensor([[0, 1, 255]]))
        tensor(0.3466)
    """
    prediction = predicted(logits)
    log_p = prediction.log_p.flatten(2)
    _check(prediction.shape, segments, classes)
    count = classes.shape[1]
    flat = segments.detach().flatten(1).long()
    outside = (flat < 0) | (flat >= count)
    wanted = classes.long().gather(1, flat.clamp(0, count - 1)).masked_fill(outside, IGNORE)
    # one more superpixel an image for the pixels of none
    none = wanted == IGNORE
    rows = torch.arange(len(flat), device=flat.device).unsqueeze(1)
    cell = (flat.masked_fill(none, count) + rows * (count + 1)).flatten()
    value: Tensor = _CrossEntropy.apply(log_p, wanted, cell, len(flat) * (count + 1), count + 1)
    return value


class _CrossEntropy(Function):
    """The loss of ``log_p`` ``[b, k, n]``, with the class of each pixel ``[b, n]`` and its cell ``[b·n]``."""

    @staticmethod
    def forward(
        ctx: Any, log_p: Tensor, wanted: Tensor, cell: Tensor, cells: int, every: int
    ) -> Tensor:
        v = log_p.gather(1, wanted.clamp_max(log_p.shape[1] - 1).unsqueeze(1)).flatten()
        # v of a class the logits lack is refused or, unread, only finite
        top = v.new_full((cells,), -math.inf).scatter_reduce_(0, cell, v, "amax")
        top = top.masked_fill(top == -math.inf, 0.0)
        fixed = (v - top[cell]).exp_().mul_(UNIT).round_().long()
        total = fixed.new_zeros(cells).index_add_(0, cell, fixed).to(v) / UNIT
        pixels = fixed.new_zeros(cells).index_add_(0, cell, torch.ones_like(cell))
        counted = pixels > 0
        counted[every - 1 :: every] = False
        log_sum = total.where(counted, 1.0).log_() + top
        n = counted.sum().clamp_min(1)
        log_mean = log_sum - pixels.clamp_min(1).to(v).log_()
        ctx.save_for_backward(log_p, wanted, cell, log_sum, counted / n)
        return -log_mean.masked_fill(~counted, 0.0).sum() / n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        log_p, wanted, cell, log_sum, weight = ctx.saved_tensors
        classes = torch.arange(log_p.shape[1], device=log_p.device).view(1, -1, 1)
        b, _, pixels = log_p.shape
        share = (log_p - log_sum[cell].view(b, 1, pixels)).clamp_max_(0.0).exp_()
        share.mul_((weight.to(log_p) * -slope)[cell].view(b, 1, pixels))
        return share.masked_fill_(wanted.unsqueeze(1) != classes, 0.0), None, None, None, None


def _check(shape: torch.Size, segments: Tensor, classes: Tensor) -> None:
    """Refuse what does not belong together."""
    if segments.shape != (shape[0], *shape[2:]):
        raise DataError(
            f"segments of shape {tuple(segments.shape)} for logits of shape {tuple(shape)}",
            expected="one number a pixel, [b, *s]",
        )
    if classes.dim() != 2 or len(classes) != shape[0] or not classes.shape[1]:
        raise DataError(
            f"classes of shape {tuple(classes.shape)} for {shape[0]} images",
            expected="one class a superpixel, [b, s]",
        )
    known = classes[classes != IGNORE] if readable(classes) else classes[:0]
    if known.numel() and not 0 <= int(known.min()) <= int(known.max()) < shape[1]:
        raise PriorError(
            f"a superpixel is of class {int(known.min())} to {int(known.max())}",
            expected=f"0 to {shape[1] - 1}, or {IGNORE} where it is not known",
            fix="make the prior for the classes of this model",
        )
