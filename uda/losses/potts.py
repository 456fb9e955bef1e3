"""Pairwise smoothness that stops at the image's edges: Tang et al., ECCV 2018."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from uda.losses.closed_form import with_gradient
from uda.losses.neighbours import (
    Pair,
    add_neighbours,
    check_counts,
    check_guidance,
    check_widths,
    parts,
    window_pairs,
)
from uda.losses.prediction import Predicted, predicted
from uda.types import Image, Scalar


def potts(
    logits: Predicted,
    image: Image,
    sigma_color: float = 0.25,
    sigma_space: float = 3.0,
    radius: int = 3,
    dilation: int = 1,
) -> Scalar:
    r"""Weighted share of neighbouring pixel pairs that disagree; pairs of like colour weigh more.

    Formula: $\frac1B\sum_b \frac{\sum_{x,y} w(x,y)\,(1 - \sum_c p_c(x)\,p_c(y))}{\sum_{x,y} w(x,y)}$ with
        $w = \exp\left(-\frac{|I_x - I_y|^2}{2\sigma_c^2} - \frac{|x - y|^2}{2\sigma_s^2}\right)$
    Range: [0, 1]; 1 − 1/K for a uniform prediction
    Minimum: one class, one-hot, on each part of the image that pairs of weight above 0 connect
    Collapse: one class everywhere is a minimum; it smooths what another loss finds, and never stands alone
    Source: Tang et al., On regularized losses for weakly-supervised CNN segmentation, ECCV 2018 (relaxed dense
        Potts), normalised and within a window

    The pairs are those within a window and inside the image, in two or three dimensions. The weights depend on
    the image alone, no gradient reaches it. Where no pair has a weight (a single pixel, or colours so far apart
    that w underflows) the image's value is 0, with a gradient of 0.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        image: I ``[b, c, *s]``, the guidance; squared differences are summed over channels.
        sigma_color: σ_c in the image's unit. The default suits images divided by their standard deviation:
            it is the usual 15 grey levels of an 8-bit photograph, whose standard deviation is about 60.
        sigma_space: σ_s in pixels.
        radius: the window reaches this many steps along every axis.
        dilation: pixels in a step; 2 and more reach farther for the same cost.

    Raises:
        DataError: an image of another shape, or with values that are not finite.
        ConfigError: a width, radius or dilation that is not positive.

    Example:
        A 2×2 image, class 0 in its left and class 1 in its right column, σ_s = 1. With w = e^−½ to the sides and
        e^−1 across, the two vertical pairs agree and the others do not: (2 e^−½ + 2 e^−1) / (4 e^−½ + 2 e^−1).
        A step of 1 between the columns, σ_c = ½, weakens the pairs that disagree by e^−2.

        >>> import torch
        >>> right = torch.tensor([[-100.0, 100.0], [-100.0, 100.0]])
        >>> logits = torch.stack([-right, right]).unsqueeze(0)
        >>> flat, step = torch.zeros(1, 1, 2, 2), (right > 0).float().expand(1, 1, 2, 2)
        >>> round(float(potts(logits, flat, sigma_color=0.5, sigma_space=1.0)), 4)
        0.6163
        >>> round(float(potts(logits, step, sigma_color=0.5, sigma_space=1.0)), 4)
        0.1786
    """
    prediction = predicted(logits)
    check_widths(sigma_color=sigma_color, sigma_space=sigma_space)
    check_counts(radius=radius, dilation=dilation)
    check_guidance(prediction, image)
    p = prediction.p.detach()
    scaled = image.detach().to(p) / (math.sqrt(2) * sigma_color)
    pairs = list(window_pairs(p.shape[2:], radius, dilation, sigma_space))
    gradient = torch.zeros_like(p, memory_format=torch.contiguous_format)
    values = [_energy(p[part], scaled[part], pairs, gradient[part]) for part in parts(p)]
    return with_gradient(prediction.log_p, torch.cat(values).mean(), gradient.div_(p.shape[0]))


@torch.no_grad()
def _energy(
    p: Tensor, image: Tensor, pairs: Sequence[Pair], gradient: Tensor
) -> Float[Tensor, "b"]:
    """Energy of each image; its gradient by log p, −2 p · Wp / Σw, is written into ``gradient``."""
    p = p.contiguous()
    spread = gradient
    add_neighbours(p, image, pairs, spread)
    axes = list(range(1, p.dim()))
    # Σ_c Wp_c = W1, because Σ_c p_c = 1
    total = spread.sum(axes).clamp_min(torch.finfo(p.dtype).tiny)
    disagreeing = (1 - p).mul_(spread).sum(axes)
    spread.mul_(p).mul_((-2 / total).view(-1, *[1] * len(axes)))
    return disagreeing / total
