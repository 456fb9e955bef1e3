"""Agreement of two predictions of the same pixels."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from uda.errors import DataError
from uda.losses.prediction import Predicted, predicted
from uda.types import Scalar


def agreement(logits: Predicted, other_log_p: Float[Tensor, "..."]) -> Scalar:
    r"""Divergence of two predictions from their mean.

    Formula: $\frac{1}{2BN}\sum_{b,x}\sum_{v}\mathrm{KL}(m(x)\,\|\,p_v(x))$ with $m = (p_1 + p_2)/2$
    Range: [0, ∞)
    Minimum: 0, both predictions the same
    Collapse: any prediction that ignores the image; pair it with labels
    Source: Ouyang et al., Causality-inspired Single-source Domain Generalization, IEEE TMI 2022

    The gradient reaches both predictions and their mean.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        other_log_p: log-probabilities of the other prediction of the same pixels, in the same shape.

    Raises:
        DataError: the two differ in shape.

    Example:
        One pixel, p of class 0 being ¾ and ¼, so the mean is ½ and ½: log(½ / ¾) / 2 + log(½ / ¼) / 2 for both.

        >>> import torch
        >>> p = torch.tensor([0.75, 0.25]).log().view(1, 2, 1, 1)
        >>> round(float(agreement(p, p.flip(1))), 4)
        0.1438
    """
    log_p = predicted(logits).log_p
    if log_p.shape != other_log_p.shape:
        raise DataError(
            f"two views have predictions of shapes {list(log_p.shape)} and {list(other_log_p.shape)}",
            expected="one shape",
        )
    log_mean = torch.logaddexp(log_p, other_log_p) - math.log(2)
    return (log_mean.exp() * (log_mean - (log_p + other_log_p) / 2)).sum(1).mean()
