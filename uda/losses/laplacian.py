"""Graph-Laplacian smoothness: pixels that look alike have like probabilities (Weston et al., ICML 2008)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from uda.errors import ConfigError
from uda.losses.closed_form import with_gradient
from uda.losses.neighbours import (
    Pair,
    add_neighbours,
    check_counts,
    check_guidance,
    check_widths,
    grid_pairs,
    parts,
    window_pairs,
)
from uda.losses.prediction import Predicted, predicted
from uda.types import Image, Scalar

Weights: TypeAlias = Literal["grid", "window"]


def laplacian(
    logits: Predicted,
    image: Image,
    weights: Weights = "grid",
    sigma_color: float = 0.25,
    sigma_space: float = 3.0,
    radius: int = 3,
    dilation: int = 1,
) -> Scalar:
    r"""Mean squared distance between the predictions of neighbouring pixels; pairs of like colour weigh more.

    Formula: $\frac1B\sum_b \frac{\sum_{x,y} w(x,y)\,\sum_c (p_c(x) - p_c(y))^2}{\sum_{x,y} w(x,y)}$ with
        $w = \exp\left(-\frac{|I_x - I_y|^2}{2\sigma_c^2}\right)$ for the grid and
        $w = \exp\left(-\frac{|I_x - I_y|^2}{2\sigma_c^2} - \frac{|x - y|^2}{2\sigma_s^2}\right)$ for the window
    Range: [0, 2]
    Minimum: 0 for one prediction, sure or unsure, on each part of the image that pairs of weight above 0 connect
    Collapse: any constant prediction is a minimum, the uniform one too; it spreads what another loss knows
    Source: Zhu, Ghahramani & Lafferty, ICML 2003, and Belkin, Niyogi & Sindhwani, JMLR 2006 (the energy fᵀLf of a
        graph); Weston, Ratle & Collobert, Deep learning via semi-supervised embedding, ICML 2008 (as a loss);
        divided by Σw here, so that it is a mean over pairs and does not grow with the image

    Where two pixels have the same one-hot prediction or two different ones, a pair costs twice what it costs in
    :func:`potts`. In between they differ: Potts asks two unsure pixels to decide, this loss only to agree.
    No gradient reaches the image. Where no pair has a weight the image's value is 0, with a gradient of 0.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        image: I ``[b, c, *s]``, the guidance; squared differences are summed over channels.
        weights: ``grid``: pairs that share a face, 4 neighbours of a pixel in 2-D and 6 in 3-D; ``window``: pairs
            within a window, which nearness weighs too.
        sigma_color: σ_c in the image's unit; see :func:`potts`.
        sigma_space: σ_s in pixels; of the window.
        radius: the window reaches this many steps along every axis.
        dilation: pixels in a step of the window.

    Raises:
        DataError: an image of another shape, or with values that are not finite.
        ConfigError: other weights, or a width, radius or dilation that is not positive.

    Example:
        A 2×2 image, class 0 in its left and class 1 in its right column. On the grid two pairs agree, two differ
        by 1 + 1: a mean of 1. A step of 1 between the columns, σ_c = ½, gives the pairs that differ the weight
        e^−2: 2 · 2 e^−2 / (2 + 2 e^−2).

        >>> import torch
        >>> right = torch.tensor([[-100.0, 100.0], [-100.0, 100.0]])
        >>> logits = torch.stack([-right, right]).unsqueeze(0)
        >>> flat, step = torch.zeros(1, 1, 2, 2), (right > 0).float().expand(1, 1, 2, 2)
        >>> float(laplacian(logits, flat))
        1.0
        >>> round(float(laplacian(logits, step, sigma_color=0.5)), 4)
        0.2384
    """
    prediction = predicted(logits)
    check_widths(sigma_color=sigma_color, sigma_space=sigma_space)
    check_counts(radius=radius, dilation=dilation)
    check_guidance(prediction, image)
    p = prediction.p.detach()
    scaled = image.detach().to(p) / (math.sqrt(2) * sigma_color)
    space = p.shape[2:]
    if weights == "grid":
        pairs = list(grid_pairs(space))
    elif weights == "window":
        pairs = list(window_pairs(space, radius, dilation, sigma_space))
    else:
        raise ConfigError(f"weights is {weights!r}", expected="'grid' or 'window'")
    gradient = torch.zeros_like(p, memory_format=torch.contiguous_format)
    values = [_energy(p[part], scaled[part], pairs, gradient[part]) for part in parts(p)]
    return with_gradient(prediction.log_p, torch.cat(values).mean(), gradient.div_(p.shape[0]))


@torch.no_grad()
def _energy(
    p: Tensor, image: Tensor, pairs: Sequence[Pair], gradient: Tensor
) -> Float[Tensor, "b"]:
    """Energy of each image, 2 Σ_c pᵀLp / Σw; its gradient by log p, 4 p · Lp / Σw, is written into ``gradient``.

    L = D − W, where D = W1 = Σ_c Wp_c, because Σ_c p_c = 1.
    """
    p = p.contiguous()
    add_neighbours(p, image, pairs, gradient)
    axes = list(range(1, p.dim()))
    degree = gradient.sum(1, keepdim=True)
    total = degree.sum(axes).clamp_min(4 * torch.finfo(p.dtype).tiny)  # so that 4 / total is finite
    laplace = torch.addcmul(gradient.neg_(), p, degree, out=gradient)
    laplace.mul_(p)
    energy = 2 * laplace.sum(axes) / total
    laplace.mul_((4 / total).view(-1, *[1] * len(axes)))
    return energy
