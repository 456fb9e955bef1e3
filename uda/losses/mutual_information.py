"""Mutual information between pixels and classes: sure pixels, varied classes."""

from __future__ import annotations

from uda.losses.class_ratio import Over, log_class_ratio, log_mean
from uda.losses.entropy import entropy
from uda.losses.prediction import Predicted, predicted
from uda.types import Scalar


def mutual_information(logits: Predicted, alpha: float = 1.0, over: Over = "batch") -> Scalar:
    r"""Negative mutual information between pixel and class: each pixel one class, all classes equally often.

    Formula: $-(H(\hat\tau) - \frac{\alpha}{BN}\sum_{b,x} H(p(x)))$ with $H(q) = -\sum_c q_c\log q_c$ and τ̂ the mean
        of p over the batch, or over each image, whose values are then averaged
    Range: [−log K, 0] for α = 1; [−log K, max(0, α − 1) log K] in general
    Minimum: −log K, every pixel one-hot and every class on as many pixels as any other
    Collapse: one class everywhere has the value 0, the largest there is for α ≤ 1; but the marginal is drawn to
        equal sizes, which is wrong where one class covers most of the image
    Source: Gomes, Krause & Perona, NIPS 2010; information maximisation in Liang et al., SHOT, ICML 2020; α: Boudiaf
        et al., TIM, NeurIPS 2020

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        alpha: α, the weight of the pixels' entropy; 1 gives mutual information.
        over: ``batch``: one marginal for the batch; ``image``: one for each image, then the mean of the
            values, which asks that every image shows every class.

    Returns:
        Scalar, in nats.

    Example:
        One 2×2 image, p of class 0 being ½, ¾, ¾ and 1. The marginal (¾, ¼) has the entropy 0.5623, the pixels
        on average (0.6931 + 2 · 0.5623 + 0) / 4 = 0.4544.

        >>> import torch
        >>> p = torch.tensor([[0.5, 0.75], [0.75, 1.0]])
        >>> logits = torch.stack([p, 1 - p])[None].clamp_min(1e-30).log()
        >>> round(float(mutual_information(logits)), 4)
        -0.1079
    """
    prediction = predicted(logits)
    log_ratio = log_class_ratio(prediction)
    if over == "batch":
        log_ratio = log_mean(log_ratio)
    negentropy = (log_ratio.exp() * log_ratio).sum(1).mean()
    return negentropy + alpha * entropy(prediction, normalized=False)
