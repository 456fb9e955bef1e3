"""Losses with labels, for source training."""

from __future__ import annotations

from torch.nn import functional

from uda.types import IGNORE, Labels, Logits, Scalar


def cross_entropy(logits: Logits, labels: Labels) -> Scalar:
    """Mean of −log p of the label over the pixels that are not IGNORE; 0 with a gradient of 0 when all are.

    Example:
        >>> import torch
        >>> labels = torch.tensor([[[0, 255]]])
        >>> round(float(cross_entropy(torch.zeros(1, 2, 1, 2), labels)), 4)
        0.6931
    """
    valid = labels != IGNORE
    log_p = logits.float().log_softmax(1)
    known = labels.long().where(valid, 0).unsqueeze(1)
    # gather, because nll_loss2d has no deterministic kernel on CUDA
    chosen = log_p.gather(1, known).squeeze(1).where(valid, 0.0)
    return -chosen.sum() / valid.sum().clamp_min(1)


def dice(logits: Logits, labels: Labels, include_background: bool = False) -> Scalar:
    r"""Soft Dice loss :math:`1 - \frac{2 \sum p\,y}{\sum p + \sum y}`, sums over the batch, mean over classes.

    Summing over the batch keeps the loss of a class defined on images that do not show it; a class that
    is neither present nor predicted in the whole batch costs nothing. Source: Milletari et al., V-Net,
    3DV 2016, with the plain denominator.

    Example:
        >>> import torch
        >>> labels = torch.tensor([[[0, 1]]])
        >>> round(float(dice(torch.zeros(1, 2, 1, 2), labels)), 4)
        0.5
    """
    classes = logits.shape[1]
    valid = (labels != IGNORE).unsqueeze(1)
    p = logits.float().softmax(1) * valid
    known = labels.long().where(labels != IGNORE, 0)
    y = functional.one_hot(known, classes).movedim(-1, 1).to(p) * valid
    axes = [0, *range(2, p.dim())]
    overlap, total = (p * y).sum(axes), p.sum(axes) + y.sum(axes)
    per_class = 1 - (2 * overlap + 1e-6) / (total + 1e-6)
    return per_class[0 if include_background else 1 :].mean()
