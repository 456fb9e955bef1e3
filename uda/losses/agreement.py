"""Agreement of two predictions of the same pixels."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from uda.errors import DataError
from uda.losses.prediction import Predicted, Prediction, predicted
from uda.types import Scalar


def agreement(logits: Predicted, other: Float[Tensor, "..."] | Prediction) -> Scalar:
    r"""Divergence of two predictions from their mean.

    Formula: $\frac{1}{2BN}\sum_{b,x}\sum_{v}\mathrm{KL}(m(x)\,\|\,p_v(x))$ with $m = (p_1 + p_2)/2$
    Range: [0, ∞)
    Minimum: 0, both predictions the same
    Collapse: any prediction that ignores the image; pair it with labels
    Source: Ouyang et al., Causality-inspired Single-source Domain Generalization, IEEE TMI 2022

    The gradient reaches both predictions and their mean.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        other: likewise, of the same pixels.

    Raises:
        DataError: the two differ in shape.

    Example:
        One pixel, p of class 0 being ¾ and ¼, so the mean is ½ and ½: log(½ / ¾) / 2 + log(½ / ¼) / 2 for both.

        >>> import torch
        >>> p = torch.tensor([0.75, 0.25]).log().view(1, 2, 1, 1)
        >>> round(float(agreement(p, p.flip(1))), 4)
        0.1438
    """
    first, second = predicted(logits), predicted(other)
    if first.shape != second.shape:
        raise DataError(
            f"two views have predictions of shapes {list(first.shape)} and {list(second.shape)}",
            expected="one shape",
        )
    log_mean = torch.logaddexp(first.log_p, second.log_p) - math.log(2)
    difference = log_mean - (first.log_p + second.log_p) / 2
    return (log_mean.exp() * difference).sum(1).mean()
