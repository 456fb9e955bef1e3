"""Pairs of neighbouring pixels, and weights that say how much a pair looks alike: what pairwise losses share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from types import EllipsisType
from typing import TypeAlias

from torch import Tensor

from uda.errors import ConfigError, DataError
from uda.losses.inspection import readable
from uda.losses.prediction import Prediction
from uda.types import Image

Region: TypeAlias = tuple[EllipsisType | slice, ...]
Pair: TypeAlias = tuple[Region, Region, float]
"""one end of every pair with the same offset, the other end, the exponent of their distance"""


def window_pairs(
    space: Sequence[int], radius: int, dilation: int, sigma_space: float
) -> Iterator[Pair]:
    """Both ends of every pair within a window, an offset and its opposite once, with the exponent of their distance.

    Args:
        space: size of the image.
        radius: steps along each axis.
        dilation: pixels in a step.
        sigma_space: σ_s of the exponent |x − y|² / 2σ_s², in pixels.
    """
    for steps in product(range(-radius, radius + 1), repeat=len(space)):
        if steps > (0,) * len(space):
            offset = [dilation * step for step in steps]
            far = sum(o * o for o in offset) / (2 * sigma_space**2)
            yield from _shifted(space, offset, far)


def grid_pairs(space: Sequence[int]) -> Iterator[Pair]:
    """Both ends of every pair that shares a face: 4 neighbours in 2-D, 6 in 3-D; the exponent is 0."""
    for axis in range(len(space)):
        yield from _shifted(space, [int(a == axis) for a in range(len(space))], 0.0)


def _shifted(space: Sequence[int], offset: Sequence[int], far: float) -> Iterator[Pair]:
    """The pairs with this offset, if any is inside the image."""
    if all(abs(o) < size for o, size in zip(offset, space, strict=True)):
        here = tuple(
            slice(max(-o, 0), size - max(o, 0)) for o, size in zip(offset, space, strict=True)
        )
        there = tuple(
            slice(max(o, 0), size - max(-o, 0)) for o, size in zip(offset, space, strict=True)
        )
        yield (..., *here), (..., *there), far


def add_neighbours(p: Tensor, image: Tensor, pairs: Sequence[Pair], into: Tensor) -> None:
    """Add W p to ``into``, where w = exp(−|I_x − I_y|² − exponent) of each pair.

    W is symmetric, so that half of the offsets serve both ends of a pair.

    Args:
        p: ``[b, k, *s]``, contiguous.
        image: I ``[b, c, *s]``, divided by √2 σ_c.
        pairs: each pair once.
        into: ``[b, k, *s]``, changed in place.
    """
    for here, there, far in pairs:
        weight = image[here] - image[there]
        weight = weight.square_().sum(1, keepdim=True).add_(far).neg_().exp_()
        into[here].addcmul_(p[there], weight)
        into[there].addcmul_(p[here], weight)


def check_guidance(prediction: Prediction, image: Image) -> None:
    """Refuse an image that cannot guide the prediction.

    Raises:
        DataError: an image of another shape, or with values that are not finite.
    """
    batch, _, *space = prediction.shape
    if image.shape[:1] != (batch,) or list(image.shape[2:]) != space:
        raise DataError(
            f"the image has shape {tuple(image.shape)}",
            expected=f"({batch}, channels, {', '.join(map(str, space))}), the pixels of the logits",
        )
    if readable(image) and not bool(image.isfinite().all()):
        raise DataError("the image has values that are not finite", fix="repair the image file")


def parts(p: Tensor) -> list[slice]:
    """The images that are worked on together: one stays in the cache of a CPU, a GPU wants few large kernels."""
    return [slice(None)] if p.is_cuda else [slice(i, i + 1) for i in range(p.shape[0])]


def check_widths(**widths: float) -> None:
    """Refuse a standard deviation that is not a positive number.

    Raises:
        ConfigError: the first such width.
    """
    for name, value in widths.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"{name} is {value}", expected="a positive number")


def check_counts(**counts: int) -> None:
    """Refuse a count below 1.

    Raises:
        ConfigError: the first such count.
    """
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"{name} is {count}", expected="a whole number of at least 1")
