"""The Gaussian kernel of position and colour over the whole image, on a grid: Chen, Paris & Durand, SIGGRAPH 2007."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from uda.errors import ConfigError, DataError
from uda.types import Image

LEVELS = {1: 64, 2: 48, 3: 32}
"""nodes along each colour axis, by the number of channels"""
COARSEST = 1.0
"""largest distance of two nodes along a colour axis, in σ_c"""
FINEST = 0.05
"""smallest one"""
LARGEST = 1e30
"""of a colour in σ_c; no difference of two colours overflows"""


def check_grid(spacing: float, image: Image) -> None:
    """Refuse what no grid can be made of.

    Raises:
        ConfigError: a spacing outside (0, 1].
        DataError: an image of more than three channels.
    """
    if not 0 < spacing <= 1:
        raise ConfigError(f"spacing is {spacing}", expected="above 0, at most 1")
    if image.shape[1] not in LEVELS:
        raise DataError(
            f"the image has {image.shape[1]} channels",
            expected="1 to 3, because the grid has an axis for each",
            fix="use potts, which takes any number",
        )


class BilateralGrid:
    r"""W ≈ S B Sᵀ with $w(x,y) = \exp\left(-\frac{|I_x - I_y|^2}{2\sigma_c^2} - \frac{|x - y|^2}{2\sigma_s^2}\right)$.

    A row of S holds the multilinear weights of a pixel in the cell of the grid where its position and its colour lie.
    B is a Gaussian between nodes, one factor an axis, narrower than w by the mean variance f (1 − f) of the
    interpolation at both ends. Each row of S is scaled so that w(x, x) = 1. The product is symmetric, and its cost is
    linear in the number of pixels.

    Along a colour axis as many nodes as :data:`LEVELS` says cover the image's colours. Colours that span more than
    so many σ_c are cut to a stretch of that length around the mean.

    Args:
        image: I ``[b, c, *s]``; finite.
        sigma_color: σ_c in the image's unit.
        sigma_space: σ_s in pixels.
        spacing: largest distance of two nodes along an axis of space, in σ_s; never less than a pixel.
        mask: ``[b, *s]``, the pixels that take part; the other rows and columns of W are 0.

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
        check_grid(spacing, image)
        batch, channels, *space = image.shape
        self.factors: list[Tensor] = []
        """B of each axis, ``[m, m]`` or ``[b, m, m]``; those of space first"""
        place = image.new_zeros((), dtype=torch.long)
        corners = image.new_ones(1, *[1] * len(space))
        for axis, size in enumerate(space):
            shape = [size if a == axis else 1 for a in range(len(space))]
            lower, ends, factor = _axis_of_space(size, sigma_space, spacing, image)
            place = place * factor.shape[-1] + lower.view(shape)
            corners = (corners.unsqueeze(1) * ends.view(2, *shape)).flatten(0, 1)
            self.factors.append(factor)
        pixels = math.prod(space)
        self.corners = corners.flatten(1)
        """weights of the corners of a pixel's cell in space, ``[2^d, n]``"""
        inside = None if mask is None else mask.reshape(batch, 1, pixels)
        lower, ends, factors = _axes_of_color(image.flatten(2), sigma_color, inside)
        place = place.reshape(1, pixels)
        for channel in range(channels):
            place = place * LEVELS[channels] + lower[:, channel]
            self.factors.append(factors[:, channel])
        self.place = place.unsqueeze(1)
        """node at the lowest corner of each pixel's cell, ``[b, 1, n]``"""
        self.ends = ends
        """weights of the two ends of a pixel's cell along each colour axis, ``[b, c, 2, n]``"""
        self.sizes = [factor.shape[-1] for factor in self.factors]

    @property
    def nodes(self) -> int:
        """Nodes of an image's grid."""
        return math.prod(self.sizes)

    def _cells(self) -> Iterator[tuple[int, Tensor]]:
        """Each corner of a cell: how far its node is from the lowest one, and the weights of the pixels ``[b, 1, n]``."""
        strides = [math.prod(self.sizes[axis + 1 :]) for axis in range(len(self.sizes))]
        axes = self.ends.shape[1]
        for color in product((0, 1), repeat=axes):
            weights = self.ends[:, 0, color[0]]
            for channel in range(1, axes):
                weights = weights * self.ends[:, channel, color[channel]]
            for number, corner in enumerate(product((0, 1), repeat=len(strides) - axes)):
                offset = sum(a * b for a, b in zip((*corner, *color), strides, strict=True))
                yield offset, (weights * self.corners[number]).unsqueeze(1)

    def splat(self, planes: Float[Tensor, "b k n"]) -> Float[Tensor, "b k g"]:
        """Sᵀ of each plane: values on the nodes."""
        nodes = planes.new_zeros(*planes.shape[:2], self.nodes)
        index = self.place.expand(planes.shape)
        for offset, weights in self._cells():
            nodes[..., offset:].scatter_add_(2, index, planes * weights)
        return nodes

    def blur(self, nodes: Float[Tensor, "b k g"]) -> Float[Tensor, "b k g"]:
        """B of values on the nodes."""
        shape, blurred = nodes.shape, nodes.unflatten(2, self.sizes)
        for factor in reversed(self.factors):
            left = blurred.shape
            flat = blurred.reshape(shape[0], -1, left[-1])
            # the axis comes to the front, so that the next one is the last
            blurred = (flat @ factor).view(left).movedim(-1, 2)
        return blurred.reshape(shape)

    def slice(
        self, nodes: Float[Tensor, "b k g"], into: Float[Tensor, "b k n"]
    ) -> Float[Tensor, "b k n"]:
        """Add S of values on the nodes to ``into``."""
        index = self.place.expand(into.shape)
        for offset, weights in self._cells():
            into.addcmul_(nodes[..., offset:].gather(2, index), weights)
        return into

    def filtered(self, planes: Float[Tensor, "b k n"]) -> Float[Tensor, "b k n"]:
        """W of each plane."""
        return self.slice(self.blur(self.splat(planes)), torch.zeros_like(planes))


def _axis_of_space(
    size: int, sigma: float, spacing: float, like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Lower node ``[n]`` and weights ``[2, n]`` of each pixel, and B of the nodes from the first to the last pixel."""
    count = max(2, 1 + math.ceil((size - 1) / max(spacing * sigma, 1.0)))
    between = max(size - 1, 1) / (count - 1)
    # float64 on the host: the places are the same on every device
    at = torch.arange(size, dtype=torch.float64) / between
    lower = at.floor().clamp_max_(count - 2)
    past = at - lower
    step = torch.tensor([between / sigma], dtype=torch.float64)
    ends, factor = _interpolation(past, step, (past * (1 - past)).mean(0, keepdim=True), count)
    return lower.long().to(like.device), ends.to(like), factor.to(like)


def _axes_of_color(
    colors: Float[Tensor, "b c n"], sigma: float, inside: Bool[Tensor, "b 1 n"] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Lower node ``[b, c, n]`` and weights ``[b, c, 2, n]`` of each pixel, and B ``[b, c, m, m]``."""
    count = LEVELS[colors.shape[1]]
    colors = (colors / sigma).clamp_(-LARGEST, LARGEST)
    if inside is None:
        share = torch.full_like(colors[:, :1], 1 / colors.shape[2])
    else:
        share = inside.to(colors)
        share = share / share.sum(2, keepdim=True).clamp_min(1)
        colors = torch.where(inside, colors, (colors * share).sum(2, keepdim=True))
    least, most = colors.amin(2, keepdim=True), colors.amax(2, keepdim=True)
    step = ((most - least) / (count - 1)).clamp(FINEST, COARSEST)
    length = step * (count - 1)
    middle = (colors * share).sum(2, keepdim=True)
    start = torch.minimum(torch.maximum(middle - length / 2, least), most - length)
    at = ((colors - start) / step).clamp_(0, count - 1)
    lower = at.floor().clamp_max_(count - 2)
    past = at.sub_(lower)
    spread = (past * (1 - past) * share).sum(2, keepdim=True)
    ends, factor = _interpolation(past, step, spread, count)
    if inside is not None:
        ends[:, 0] *= inside
    return lower.long(), ends, factor


def _interpolation(past: Tensor, step: Tensor, spread: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Weights of the two ends of each cell and B between all nodes.

    Args:
        past: f, how far a point is into its cell, 0 to 1.
        step: distance of two nodes in σ, ``[*, 1]``.
        spread: mean of f (1 − f), the variance that interpolation adds, in squared steps, ``[*, 1]``.
        count: m, nodes.

    Returns:
        ``[*, 2, n]`` and ``[*, m, m]``.
    """
    precision = 1 / (1 / step.square() - 2 * spread)
    number = torch.arange(count, dtype=past.dtype, device=past.device)
    factor = torch.exp((number[:, None] - number).square() * (-precision / 2).unsqueeze(-1))
    neighbour = torch.exp(-precision / 2)
    near = 1 - past
    # so that the kernel of a point with itself is 1
    scale = (near.square() + past.square() + 2 * neighbour * near * past).rsqrt_()
    return torch.stack([near * scale, past * scale], -2), factor
