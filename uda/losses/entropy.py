"""Entropy of the prediction: Grandvalet & Bengio, NIPS 2005; Vu et al., ADVENT, CVPR 2019, eq. 3."""

from __future__ import annotations

import math

from jaxtyping import Bool, Float
from torch import Tensor

from uda.errors import PriorError
from uda.types import Logits, Scalar


def entropy(
    logits: Logits,
    class_weights: Float[Tensor, "k"] | None = None,
    normalized: bool = True,
    mask: Bool[Tensor, "b *s"] | None = None,
) -> Scalar:
    r"""Mean over pixels of :math:`-\sum_c \nu_c\, p_c \log p_c`.

    Alone it has the one-class prediction as a minimum and gets there; pair it with a prior.

    Args:
        logits: ``[b, k, *s]``.
        class_weights: ν ``[k]``; AdaEnt and AdaMI take ν_c = (1/τ̄_c) / Σ (1/τ̄) with ``normalized=False``.
        normalized: divide by log k, so that a uniform prediction has entropy 1 (ADVENT); else nats.
        mask: pixels that count, ``[b, *s]``. When none counts the value is 0, with a gradient of 0.

    Returns:
        Scalar in [0, 1] (normalised, ν = 1) or [0, log k] nats.

    Raises:
        PriorError: the weights do not match the classes.

    Example:
        A 1×2 image: one pixel undecided between two classes, one sure.

        >>> import torch
        >>> logits = torch.tensor([[[[0.0, 100.0]], [[0.0, 0.0]]]])
        >>> round(float(entropy(logits)), 4)
        0.5
    """
    log_p = logits.float().log_softmax(1)
    plogp = log_p.exp() * log_p
    if class_weights is not None:
        if class_weights.shape != logits.shape[1:2]:
            raise PriorError(
                f"class_weights has shape {tuple(class_weights.shape)}",
                expected=f"one weight for each of the {logits.shape[1]} classes",
            )
        plogp = plogp * class_weights.to(plogp).view(1, -1, *[1] * (logits.dim() - 2))
    pixel = -plogp.sum(1)
    scale = math.log(logits.shape[1]) if normalized else 1.0
    if mask is None:
        return pixel.mean() / scale
    return (pixel * mask).sum() / mask.sum().clamp_min(1) / scale
