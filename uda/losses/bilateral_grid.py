"""The Gaussian kernel of position and colour over the whole image, on a grid: Chen, Paris & Durand, SIGGRAPH 2007."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from uda.errors import ConfigError, DataError
from uda.losses.prediction import Prediction
from uda.types import Image

LEVELS = {1: 64, 2: 48, 3: 32}
"""nodes along each colour axis, by the number of channels"""
COARSEST, FINEST = 1.0, 0.05
"""largest and smallest distance of two nodes along a colour axis, in σ_c"""
LARGEST = 1e30
"""a colour in σ_c, so that no difference of two overflows"""
FINER = 4
"""How much closer nodes in space lie where a pixel has one of them. With 4, a pixel is at most σ/16 from its node at
the default spacing; its gradient is then up to 6 % off the sum over all pairs, and up to 3 % with corners of cells."""


def check_grid(prediction: Prediction, image: Image, spacing: float, mask: Tensor | None) -> None:
    """Refuse what no grid can be made of.

    Raises:
        ConfigError: a spacing outside (0, 1].
        DataError: an image of more than three channels, or a mask of another shape than the pixels'.
    """
    if not 0 < spacing <= 1:
        raise ConfigError(f"spacing is {spacing}", expected="above 0, at most 1")
    if image.shape[1] not in LEVELS:
        raise DataError(
            f"the image has {image.shape[1]} channels",
            expected="1 to 3, because the grid has an axis for each",
            fix="use potts, which takes any number",
        )
    pixels = (prediction.shape[0], *prediction.shape[2:])
    if mask is not None and mask.shape != pixels:
        raise DataError(
            f"the mask has shape {tuple(mask.shape)}", expected=f"{pixels}, one value a pixel"
        )


class BilateralGrid:
    r"""W ≈ S B Sᵀ with $w(x,y) = \exp\left(-\frac{|I_x - I_y|^2}{2\sigma_c^2} - \frac{|x - y|^2}{2\sigma_s^2}\right)$.

    A row of S holds the multilinear weights of a pixel in the cell of the grid in which its position and its colour
    lie, scaled so that w(x, x) = 1. B is a Gaussian between nodes, one factor an axis, narrower than w by the variance
    that S adds at both ends. The product is symmetric; its cost is linear in the number of pixels.

    Along each colour axis a number of nodes (64, 48 or 32 for 1, 2 or 3 channels) covers the image's colours. Colours
    that span more than as many σ_c, less one, are cut to a stretch of that length around their mean. In space, a pixel
    has the nearest node alone where a grid that is four times finer has no more nodes than the image has pixels.

    Args:
        image: I ``[b, c, *s]``; finite.
        sigma_color: σ_c in the image's unit.
        sigma_space: σ_s in pixels.
        spacing: largest distance of two nodes along an axis of space, in σ_s; it is never less than a pixel.
        mask: ``[b, *s]``, the pixels that take part; the rows and columns of the others are 0.

    Source: Chen, Paris & Durand, Real-time edge-aware image processing with the bilateral grid, SIGGRAPH 2007

    Example:
        Three pixels in a row at σ_s = 1, the last of another colour: e^−½ between the first two.

        >>> import torch
        >>> grid = BilateralGrid(torch.tensor([[[0.0, 0.0, 9.0]]]), 1.0, 1.0)
        >>> grid.filtered(torch.tensor([[[1.0, 0.0, 0.0]]])).round(decimals=4)
        tensor([[[1.0000, 0.6065, 0.0000]]])
    """

    def __init__(
        self,
        image: Image,
        sigma_color: float,
        sigma_space: float,
        spacing: float = 0.5,
        mask: Bool[Tensor, "b *s"] | None = None,
    ) -> None:
        batch, channels, *space = image.shape
        pixels, levels = math.prod(space), LEVELS[channels]
        widths = [spacing * sigma_space / FINER] * len(space)
        self.nearest = math.prod(map(_count, space, widths)) * levels**channels <= pixels
        """whether a pixel has the weight of one node in space"""
        axis_of_space = _nearest if self.nearest else _linear
        self.factors: list[Tensor] = []
        """B of each axis, those of space first: ``[m, m]``, or ``[b, m, m]``"""
        place = torch.zeros((), dtype=torch.long, device=image.device)
        corners = image.new_ones(1, *[1] * len(space))
        for axis, size in enumerate(space):
            shape = [size if a == axis else 1 for a in range(len(space))]
            lower, ends, factor = axis_of_space(size, sigma_space, spacing, image)
            place = place * len(factor) + lower.view(shape)
            corners = (corners.unsqueeze(1) * ends.view(-1, *shape)).flatten(0, 1)
            self.factors.append(factor)
        self.corners = corners.flatten(1)
        """weights of the corners of a pixel's cell in space, ``[2^d, n]`` or ``[1, n]``"""
        inside = None if mask is None else mask.reshape(batch, 1, pixels)
        lower, self.ends, factors = _axes_of_color(image.flatten(2), sigma_color, inside)
        """``ends``: weights of the two ends of a pixel's cell along each colour axis, ``[b, c, 2, n]``"""
        place = place.reshape(1, pixels)
        for channel in range(channels):
            place = place * levels + lower[:, channel]
            self.factors.append(factors[:, channel])
        self.place = place.unsqueeze(1)
        """node at the lowest corner of each pixel's cell, ``[b, 1, n]``"""
        self.sizes = [factor.shape[-1] for factor in self.factors]
        """m of each axis"""

    @property
    def nodes(self) -> int:
        """g, nodes of an image."""
        return math.prod(self.sizes)

    def splat(self, planes: Float[Tensor, "b k n"]) -> Float[Tensor, "b k g"]:
        """Sᵀ of each plane: values on the nodes."""
        nodes = planes.new_zeros(*planes.shape[:2], self.nodes)
        index = self.place.expand(planes.shape)
        for offset, weights in self._corners():
            nodes[..., offset:].scatter_add_(2, index, planes * weights)
        return nodes

    def blur(self, nodes: Float[Tensor, "b k g"]) -> Float[Tensor, "b k g"]:
        """B of values on the nodes."""
        batch, planes, _ = nodes.shape
        for axis, factor in enumerate(self.factors):
            size, after = self.sizes[axis], math.prod(self.sizes[axis + 1 :])
            if factor.dim() == 2:  # the same for all images
                blurred = factor @ nodes.view(-1, size, after)
            elif after == 1:  # B is symmetric
                blurred = nodes.view(batch, -1, size) @ factor
            else:
                blurred = factor.unsqueeze(1) @ nodes.view(batch, -1, size, after)
            nodes = blurred.view(batch, planes, -1)
        return nodes

    def slice(
        self, nodes: Float[Tensor, "b k g"], into: Float[Tensor, "b k n"]
    ) -> Float[Tensor, "b k n"]:
        """Add S of values on the nodes to ``into``."""
        index = self.place.expand(into.shape)
        for offset, weights in self._corners():
            into.addcmul_(nodes[..., offset:].gather(2, index), weights)
        return into

    def filtered(self, planes: Float[Tensor, "b k n"]) -> Float[Tensor, "b k n"]:
        """W of each plane."""
        return self.slice(self.blur(self.splat(planes)), torch.zeros_like(planes))

    def _corners(self) -> Iterator[tuple[int, Tensor]]:
        """How far a corner of a cell is from the lowest one in the list of nodes, and its weights ``[b, 1, n]``."""
        strides = [math.prod(self.sizes[axis + 1 :]) for axis in range(len(self.sizes))]
        channels = self.ends.shape[1]
        for color in product((0, 1), repeat=channels):
            weights = self.ends[:, 0, color[0]]
            for channel in range(1, channels):
                weights = weights * self.ends[:, channel, color[channel]]
            for number, corner in enumerate(self.corners):
                bits = (number >> axis & 1 for axis in reversed(range(len(strides) - channels)))
                offset = sum(a * b for a, b in zip((*bits, *color), strides, strict=True))
                yield offset, (weights * corner).unsqueeze(1)


def _count(size: int, width: float) -> int:
    """Nodes from the first to the last pixel that are no farther apart than a width, or a pixel."""
    return 1 + math.ceil((size - 1) / max(width, 1.0))


def _linear(size: int, sigma: float, spacing: float, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two nodes around each pixel: the lower one ``[n]``, the weights ``[2, n]`` and B ``[m, m]``."""
    count = max(2, _count(size, spacing * sigma))
    between = max(size - 1, 1) / (count - 1)
    at = torch.arange(size, dtype=like.dtype, device=like.device) / between
    lower = at.floor().clamp_max_(count - 2)
    past = at - lower
    step, spread = like.new_full((1,), between / sigma), (past - past.square()).mean(0, True)
    return lower.long(), *_interpolation(past, step, spread, count)


def _nearest(
    size: int, sigma: float, spacing: float, like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The node that is nearest to each pixel: its number ``[n]``, the weight 1 ``[1, n]`` and B ``[m, m]``."""
    count = _count(size, spacing * sigma / FINER)
    # every node has the same number of pixels, give or take one
    at = (torch.arange(size, dtype=like.dtype, device=like.device) + 0.5) * (count / size) - 0.5
    node = at.round().clamp_(0, count - 1)
    spread = (at - node).square().mean(0, True)
    step = like.new_full((1,), size / count / sigma)
    return node.long(), like.new_ones(1, size), _gaussian(_precision(step, spread), count)


def _axes_of_color(
    colors: Float[Tensor, "b c n"], sigma: float, inside: Bool[Tensor, "b 1 n"] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The nodes around each colour: the lower one ``[b, c, n]``, weights ``[b, c, 2, n]`` and B ``[b, c, m, m]``."""
    count = LEVELS[colors.shape[1]]
    colors = (colors / sigma).clamp_(-LARGEST, LARGEST)
    share = None
    if inside is not None:
        share = inside.to(colors)
        share /= share.sum(2, keepdim=True).clamp_min_(1)
        colors = torch.where(inside, colors, _mean(colors, share))
    least, most = colors.amin(2, keepdim=True), colors.amax(2, keepdim=True)
    step = ((most - least) / (count - 1)).clamp_(FINEST, COARSEST)
    length = step * (count - 1)
    start = torch.maximum(_mean(colors, share) - length / 2, least)
    at = ((colors - torch.minimum(start, most - length)) / step).clamp_(0, count - 1)
    lower = at.floor().clamp_max_(count - 2)
    past = at.sub_(lower)
    ends, factor = _interpolation(past, step, _mean(past - past.square(), share), count)
    if inside is not None:
        ends[:, 0] *= inside
    return lower.long(), ends, factor


def _mean(values: Float[Tensor, "b c n"], share: Tensor | None) -> Float[Tensor, "b c 1"]:
    """Mean over all pixels, or over those that have a share."""
    if share is None:
        return values.mean(2, keepdim=True)
    return (values * share).sum(2, keepdim=True)


def _interpolation(past: Tensor, step: Tensor, spread: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Weights of the two ends of each cell ``[*, 2, n]``, and B ``[*, m, m]``.

    Args:
        past: f ``[*, n]``, how far a pixel is into its cell, 0 to 1.
        step, spread: see :func:`_precision`; the spread is the mean of f (1 − f).
        count: m, nodes.
    """
    precision = _precision(step, spread)
    near, neighbour = 1 - past, torch.exp(-precision / 2)
    # so that the kernel of a pixel with itself is 1
    scale = (near.square() + past.square()).addcmul_(near * past, 2 * neighbour).rsqrt_()
    return torch.stack([near * scale, past * scale], -2), _gaussian(precision, count)


def _precision(step: Tensor, spread: Tensor) -> Tensor:
    """1 / variance of B, ``[*, 1]``, so that B and the weights at its two ends have the variance of the kernel.

    Args:
        step: distance of two nodes in σ, at most 1.
        spread: variance of the weights at one end, at most ¼.
    """
    return 1 / (step.square().reciprocal() - 2 * spread)


def _gaussian(precision: Tensor, count: int) -> Tensor:
    """exp(−½ precision (i − j)²) between all nodes, ``[*, m, m]``."""
    number = torch.arange(count, dtype=precision.dtype, device=precision.device)
    return torch.exp((number[:, None] - number).square() * (-precision / 2).unsqueeze(-1))
