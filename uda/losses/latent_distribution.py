"""Latent distributions: the labels nearest to the prediction that satisfy the size constraints."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from uda.errors import ConfigError
from uda.losses.class_factors import with_shares
from uda.losses.class_ratio import Over
from uda.losses.closed_form import with_gradient
from uda.losses.constraints import checked_bounds
from uda.losses.prediction import Predicted, Prediction, predicted
from uda.types import Ratio, Scalar


def latent_distribution(
    logits: Predicted,
    lower: Ratio,
    upper: Ratio,
    slack: float = math.inf,
    over: Over = "image",
) -> Float[Tensor, "b k *s"]:
    r"""The distribution nearest to the prediction among those whose class sizes are within bounds.

    Formula: $\arg\min_u \frac1N\sum_x \mathrm{KL}(u(x)\Vert p(x))$ with
        $l_c \le \frac1N\sum_x u_c(x) \le h_c$ for each class, l the lower and h the upper bounds; it is
        $u_c(x) = p_c(x)\,e^{\lambda_c} / \sum_j p_j(x)\,e^{\lambda_j}$
    Range: [0, 1]; sums to 1 over the classes of each pixel
    Source: Pathak, Krähenbühl & Darrell, Constrained convolutional neural networks, ICCV 2015: the step in the latent
        distribution, its dual, and the slack variables; solved by Newton's method, not by gradient ascent

    λ is above 0 for a class that its lower bound holds up, below 0 for one that its upper bound holds down, and 0 for
    every other. So a prediction within the bounds is returned as it is. Means over the pixels meet the bounds to 1e-6
    (float64: 1e-10). A class with an upper bound of 0 gets exactly 0. Few images take more than ten passes over the
    pixels; see :mod:`uda.losses.class_factors`. Log-probabilities that differ by thousands within an image of a few
    pixels may take more than are made, and then the sizes come as near as they came.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        lower, upper: l and h as fractions of the image, ``[k]`` for every image or ``[b, k]``; see :func:`tag_bounds`
            and :func:`ratio_bounds`.
        slack: β, what a bound that is missed by the whole image costs. |λ| ≤ β then: where the prediction is so far off
            that more is needed, sizes stay outside. Infinite: never. An upper bound of 0 holds in either case.
        over: ``image``: sizes are those of each image; ``batch``: sizes, l and h are averaged over the batch.

    Returns:
        u, without a gradient; float32, or float64 for logits in float64.

    Raises:
        PriorError: bounds of another shape, outside [0, 1], a lower one above its upper one, or bounds that no
            image can meet because they sum to more or less than the whole.
        ConfigError: a slack that is not positive.

    Example:
        A 1×2 image with p = ½ and 1/10 for class 1, which should have at least ½: e^λ = 3 makes them 3/4 and 1/4. With
        a slack of log 2 they stop at 2/3 and 2/11.

        >>> import torch
        >>> logits = torch.tensor([[[[0.5, 0.9]], [[0.5, 0.1]]]]).log()
        >>> bounds = torch.tensor([0.0, 0.5]), torch.tensor([1.0, 1.0])
        >>> latent_distribution(logits, *bounds)[0, 1]
        tensor([[0.7500, 0.2500]])
        >>> latent_distribution(logits, *bounds, slack=math.log(2))[0, 1]
        tensor([[0.6667, 0.1818]])
    """
    if not slack > 0:
        raise ConfigError(f"slack is {slack}", expected="a positive number; published: 2")
    prediction = predicted(logits)
    bounds = checked_bounds(prediction, lower, upper, over)
    return with_shares(prediction.log_p, *bounds, slack=slack, over=over)


def latent_cross_entropy(
    logits: Predicted,
    lower: Ratio,
    upper: Ratio,
    slack: float = math.inf,
    over: Over = "image",
) -> Scalar:
    r"""Cross-entropy to the nearest distribution whose class sizes are within bounds.

    Formula: $-\frac{1}{BN}\sum_{b,x}\sum_c u_c(x)\log p_c(x)$, u the :func:`latent_distribution`, held constant
    Range: [0, ∞)
    Minimum: p one-hot and its sizes within the bounds
    Collapse: inside the bounds u = p and no gradient is left: it keeps sizes, and pixels as they are
    Source: Pathak, Krähenbühl & Darrell, Constrained convolutional neural networks, ICCV 2015: the step in the
        network's parameters

    The gradient by the logits is (p − u) / BN. It is also that of the divergence KL(u‖p), which the released code
    reports and which is this value less the entropy of u.

    Args:
        logits, lower, upper, slack, over: see :func:`latent_distribution`.

    Raises:
        PriorError: see :func:`latent_distribution`.
        ConfigError: a slack that is not positive.

    Example:
        The image of :func:`latent_distribution`, u = (¼, ¾) and (¾, ¼): −½ (log ½ + ¾ log 9/10 + ¼ log 1/10).

        >>> import torch
        >>> logits = torch.tensor([[[[0.5, 0.9]], [[0.5, 0.1]]]]).log()
        >>> bounds = torch.tensor([0.0, 0.5]), torch.tensor([1.0, 1.0])
        >>> round(float(latent_cross_entropy(logits, *bounds)), 4)
        0.6739
    """
    prediction = predicted(logits)
    return constant_cross_entropy(
        prediction, latent_distribution(prediction, lower, upper, slack, over)
    )


def constant_cross_entropy(prediction: Prediction, labels: Float[Tensor, "b k *s"]) -> Scalar:
    """Mean cross-entropy to labels made from the prediction, which become the gradient in place."""
    log_p = prediction.log_p
    with torch.no_grad():
        pixels = log_p.numel() / log_p.shape[1]
        gradient = labels.div_(-pixels)
        value = (gradient * log_p).sum()
    return with_gradient(log_p, value, gradient)
