"""Balanced pseudo-labels: the assignment of pixels to classes that has the prior's class ratio."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from uda.errors import ConfigError
from uda.losses.class_factors import with_shares
from uda.losses.class_ratio import Over, aligned
from uda.losses.latent_distribution import constant_cross_entropy
from uda.losses.prediction import Predicted, predicted
from uda.types import Ratio, Scalar


def balanced_assignment(
    logits: Predicted, prior: Ratio, epsilon: float = 0.05, over: Over = "batch"
) -> Float[Tensor, "b k *s"]:
    r"""Pseudo-labels that agree with the prediction as well as labels of the prior's class ratio can.

    Formula: $\arg\max_q \sum_x\sum_c q_c(x)\log p_c(x) + \epsilon\sum_x H(q(x))$ with
        $\frac1N\sum_x q_c(x) = \tau_c$; it is $q_c(x) \propto p_c(x)^{1/\epsilon}\,a_c$ with one factor a class
    Range: [0, 1]; sums to 1 over the classes of each pixel
    Source: Asano, Rupprecht & Vedaldi, Self-labelling via simultaneous clustering and representation learning, ICLR
        2020, with their λ = 1/ε; Jabi et al., Deep clustering: on the link between discriminative models and K-means,
        TPAMI 2021; both with uniform τ

    This is optimal transport with an entropy, which Sinkhorn–Knopp solves by scaling rows and columns in turn. Here
    Newton's method finds the factors, in logarithms: means over the pixels are τ to 1e-6 (float64: 1e-10), for
    confident predictions and a small ε too. With ε = 1 it is :func:`latent_distribution` with both bounds at τ. As ε
    falls, labels get hard. A class with τ = 0 gets exactly 0.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        prior: τ, ``[k]`` for every image, or ``[b, k]``, one for each.
        epsilon: ε, weight of the entropy; published: 1/25.
        over: ``batch``: the batch together has the mean τ; ``image``: each image has its own.

    Returns:
        q, without a gradient; float32, or float64 for logits in float64.

    Raises:
        PriorError: wrong number of classes or images; a prior that is negative or does not sum to 1.
        ConfigError: an epsilon that is not positive.

    Example:
        A 1×2 image with p = ½ and 1/10 for class 1, which should have ½. Odds of 1 and 1/9, times 3, are 3 and 1/3.
        With ε = ½ odds are squared: 1 and 1/81, times 9.

        >>> import torch
        >>> logits = torch.tensor([[[[0.5, 0.9]], [[0.5, 0.1]]]]).log()
        >>> prior = torch.tensor([0.5, 0.5])
        >>> balanced_assignment(logits, prior, epsilon=1.0)[0, 1]
        tensor([[0.7500, 0.2500]])
        >>> balanced_assignment(logits, prior, epsilon=0.5)[0, 1]
        tensor([[0.9000, 0.1000]])
    """
    if not 0 < epsilon < math.inf:
        raise ConfigError(f"epsilon is {epsilon}", expected="a positive number; published: 0.04")
    prediction = predicted(logits)
    ratio = aligned(prediction.log_p, prior, "the prior").cpu().double()
    ratio = ratio / ratio.sum(1, keepdim=True)
    return with_shares(prediction.log_p, ratio, ratio, epsilon=epsilon, over=over)


def balanced_cross_entropy(
    logits: Predicted, prior: Ratio, epsilon: float = 0.05, over: Over = "batch"
) -> Scalar:
    r"""Cross-entropy to pseudo-labels that have the prior's class ratio.

    Formula: $-\frac{1}{BN}\sum_{b,x}\sum_c q_c(x)\log p_c(x)$, q the :func:`balanced_assignment`, held constant
    Range: [0, ∞)
    Minimum: p one-hot with the class ratio τ
    Collapse: none onto one class, but a wrong prior is obeyed as well as a right one, and labels confirm themselves
    Source: Asano, Rupprecht & Vedaldi, Self-labelling via simultaneous clustering and representation learning, ICLR
        2020; Jabi et al., TPAMI 2021

    The gradient by the logits is (p − q) / BN.

    Args:
        logits, prior, epsilon, over: see :func:`balanced_assignment`.

    Raises:
        PriorError: see :func:`balanced_assignment`.
        ConfigError: an epsilon that is not positive.

    Example:
        The image of :func:`balanced_assignment`, q = (1/10, 9/10) and (9/10, 1/10) for ε = ½:
        −½ (log ½ + 9/10 log 9/10 + 1/10 log 1/10).

        >>> import torch
        >>> logits = torch.tensor([[[[0.5, 0.9]], [[0.5, 0.1]]]]).log()
        >>> round(float(balanced_cross_entropy(logits, torch.tensor([0.5, 0.5]), epsilon=0.5)), 4)
        0.5091
    """
    prediction = predicted(logits)
    return constant_cross_entropy(prediction, balanced_assignment(prediction, prior, epsilon, over))
