"""Pairwise smoothness over the whole image: the dense CRF as a loss, Tang et al., ECCV 2018."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from uda.losses.bilateral_grid import BilateralGrid, check_grid
from uda.losses.closed_form import with_gradient
from uda.losses.neighbours import check_guidance, check_widths, parts
from uda.losses.prediction import Predicted, predicted
from uda.types import Image, Scalar

MOST_VALUES = 1 << 26
"""values of grids that are in memory at once, 256 MB in float32; the classes take turns where they need more"""


def dense_crf(
    logits: Predicted,
    image: Image,
    sigma_color: float = 0.25,
    sigma_space: float = 100.0,
    spacing: float = 0.5,
    mask: Bool[Tensor, "b *s"] | None = None,
) -> Scalar:
    r"""Weighted share of all pixel pairs of an image that disagree; pairs of like colour weigh more, however far apart.

    Formula: $\frac1B\sum_b \frac{\sum_c p_c^\top W (1 - p_c)}{1^\top W 1}$ with
        $W_{xy} = \exp\left(-\frac{|I_x - I_y|^2}{2\sigma_c^2} - \frac{|x - y|^2}{2\sigma_s^2}\right)$ over all
        pixels x, y of the mask
    Range: [0, 1]; 1 − 1/K for a uniform prediction
    Minimum: 0 for one class, one-hot, wherever W connects
    Collapse: one class everywhere is a minimum; it spreads what another loss knows of some pixels
    Source: Tang et al., On regularized losses for weakly-supervised CNN segmentation, ECCV 2018 (the relaxed energy;
        σ_c = 15 grey levels, σ_s = 100 pixels), divided by the sum of W here, so that it does not grow with the
        image; the kernel is that of Krähenbühl & Koltun, NIPS 2011

    W is not made: :class:`BilateralGrid` filters with a symmetric approximation of it at a cost linear in the number of
    pixels. The value is within 0.5 % of the sum over all pairs, the gradient within some per cent; it is exact for the
    approximated energy. No gradient reaches the image. Pixels outside of the mask have no pairs and no gradient; where
    it is empty the image's value is 0.

    :func:`potts` counts the pairs of a small window exactly, each but that of a pixel with itself.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        image: I ``[b, c, *s]`` of 1 to 3 channels, the guidance; squared differences are summed over channels.
        sigma_color: σ_c in the image's unit; see :func:`potts`. Colours may span 63 σ_c in an image of one channel and
            31 in one of three: beyond that far ones count as equal.
        sigma_space: σ_s in pixels.
        spacing: of the grid's nodes in space, in σ_s; a smaller one is more exact and costs memory. For three channels
            1 is nearly as exact, because colour decides, and takes half of the time.
        mask: pixels that take part; default all.

    Raises:
        DataError: an image of another shape, of more than three channels, or with values that are not finite; a mask
            of another shape.
        ConfigError: a width that is not positive, or a spacing outside (0, 1].

    Example:
        A 2×2 image, class 0 in its left and class 1 in its right column, σ_s = 1. A pixel has weight 1 with itself,
        e^−½ to the sides and e^−1 across: 4 (e^−½ + e^−1) / 4 (1 + 2 e^−½ + e^−1). A step of 1 between the columns,
        σ_c = ½, weakens the pairs that disagree by e^−2.

        >>> import torch
        >>> right = torch.tensor([[-100.0, 100.0], [-100.0, 100.0]])
        >>> logits = torch.stack([-right, right]).unsqueeze(0)
        >>> flat, step = torch.zeros(1, 1, 2, 2), (right > 0).float().expand(1, 1, 2, 2)
        >>> round(float(dense_crf(logits, flat, sigma_color=0.5, sigma_space=1.0)), 4)
        0.3775
        >>> round(float(dense_crf(logits, step, sigma_color=0.5, sigma_space=1.0)), 4)
        0.0759
    """
    prediction = predicted(logits)
    check_widths(sigma_color=sigma_color, sigma_space=sigma_space)
    check_guidance(prediction, image)
    check_grid(prediction, image, spacing, mask)
    p = prediction.p.detach()
    gradient = torch.zeros_like(p, memory_format=torch.contiguous_format)
    values = []
    for part in parts(p):
        inside = None if mask is None else mask[part]
        guidance = image[part].detach().to(p)
        grid = BilateralGrid(guidance, sigma_color, sigma_space, spacing, inside)
        values.append(_energy(p[part].flatten(2), grid, gradient[part].flatten(2), p.shape[0]))
    return with_gradient(prediction.log_p, torch.cat(values).mean(), gradient)


@torch.no_grad()
def _energy(
    p: Float[Tensor, "b k n"], grid: BilateralGrid, gradient: Float[Tensor, "b k n"], batch: int
) -> Float[Tensor, "b"]:
    """Energy of each image; the gradient of its share in the batch, −2 p · Wp / 1ᵀW1 / B, is written into ``gradient``.

    On the nodes: pᵀWp = vᵀBv with v = Sᵀp; and the v of all classes sum to Sᵀ1.
    """
    agreeing = p.new_zeros(p.shape[0])
    everything = p.new_zeros(p.shape[0], grid.nodes)
    blurred = torch.zeros_like(everything)
    for classes in turns(p, grid):
        nodes = grid.splat(p[:, classes])
        smooth = grid.blur(nodes)
        grid.slice(smooth, gradient[:, classes])
        everything += nodes.sum(1)
        blurred += smooth.sum(1)
        agreeing += nodes.mul_(smooth).sum(2).sum(1)
    pairs = (everything * blurred).sum(1)
    total = pairs.clamp_min(torch.finfo(p.dtype).tiny)
    gradient.mul_(p).mul_((-2 / batch / total).view(-1, 1, 1))
    # rounding may leave less than nothing
    return (pairs - agreeing).clamp_min(0) / total


def turns(p: Float[Tensor, "b k n"], grid: BilateralGrid) -> list[slice]:
    """The classes whose grids are in memory together."""
    together = max(1, MOST_VALUES // (p.shape[0] * grid.nodes))
    return [slice(k, k + together) for k in range(0, p.shape[1], together)]
