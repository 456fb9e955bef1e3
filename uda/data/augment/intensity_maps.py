"""Random maps of intensity: Bézier curves of the whole image or of each class, and location–scale.

An image's own range, from its least to its largest value, is [0, 1] here.

Sources: Zhou et al., Models Genesis, MICCAI 2019 (Bézier maps); Su et al., Rethinking Data Augmentation for
Single-source Domain Generalization in Medical Image Segmentation (SLAug), AAAI 2023 (location–scale, maps by class).
"""

from __future__ import annotations

import torch
from torch import Tensor

from uda.config.augment import Bezier, ClassBezier, LocationScale
from uda.data.augment.draws import Draws
from uda.types import IGNORE

BINS = 64
"""straight pieces of a curve"""
DARK = 0.01
"""share of the range up to which a pixel is empty and keeps its value under the maps of classes"""
CLASSES = IGNORE + 1
"""values that a label may have"""


def bezier(image: Tensor, settings: Bezier, draws: Draws) -> Tensor:
    """Each image ``[n, c, *s]`` under one random Bézier curve, increasing or decreasing; its mean and sd stay."""
    unit, low, span = _unit(image)
    curve = _curves(len(image), 1, settings.inverted, draws)[:, 0]
    return _as_before(_looked_up(unit, curve, None) * span + low, image)


def class_bezier(image: Tensor, label: Tensor, settings: ClassBezier, draws: Draws) -> Tensor:
    """Each class of each image under its own Bézier curve, scale and shift; the image's mean and sd stay.

    A pixel's new value depends on its own value and class alone. Pixels that are empty keep theirs.

    Args:
        image: ``[n, c, *s]``.
        label: ``[n, *s]``, class indices and ``IGNORE``.
    """
    unit, low, span = _unit(image)
    curves = _curves(len(image), CLASSES, settings.inverted, draws)
    curves = _scaled(curves, unit, settings.scale, settings.shift, draws).clamp(0, 1)
    changed = _looked_up(unit, curves.flatten(1), label[:, None].expand(image.shape))
    changed = torch.where(unit <= DARK, unit, changed)
    return _as_before(changed * span + low, image)


def location_scale(image: Tensor, settings: LocationScale, draws: Draws) -> Tensor:
    """Each image times a random factor, plus a random shift that keeps its middle 60 % in its range."""
    unit, low, span = _unit(image)
    shape = (-1, *[1] * (image.dim() - 1))
    value = _scaled(unit.flatten(1)[:, None], unit, settings.scale, settings.shift, draws)
    return value.reshape(image.shape) * span.view(shape) + low.view(shape)


def _unit(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The image in [0, 1], its least value and its range."""
    each = tuple(range(1, image.dim()))
    low, high = image.amin(each, keepdim=True), image.amax(each, keepdim=True)
    span = (high - low).clamp_min(torch.finfo(image.dtype).tiny)
    return (image - low) / span, low, span


def _as_before(changed: Tensor, image: Tensor) -> Tensor:
    """``changed`` with the mean and the sd of ``image``, because networks see standardised images."""
    each = tuple(range(1, image.dim()))
    mean, sd = changed.mean(each, keepdim=True), changed.std(each, keepdim=True)
    gain = image.std(each, keepdim=True) / sd.clamp_min(torch.finfo(image.dtype).tiny)
    return (changed - mean) * gain + image.mean(each, keepdim=True)


def _curves(images: int, rows: int, inverted: float, draws: Draws) -> Tensor:
    """Values ``[n, rows, BINS + 1]`` of cubic Bézier curves from (0, 0) to (1, 1) with two random inner points.

    The inner points are sorted in both coordinates, so a curve increases. A share ``inverted`` is turned upside down.
    """
    points = draws.uniform(2, images, rows, 2).sort(-1).values
    t = torch.linspace(0, 1, BINS // 2 + 1, device=points.device)
    first, second = points[..., :1], points[..., 1:]
    x, y = 3 * (1 - t) ** 2 * t * first + 3 * (1 - t) * t**2 * second + t**3
    at = torch.linspace(0, 1, BINS + 1, device=t.device).expand(*x.shape[:-1], -1).contiguous()
    right = torch.searchsorted(x.contiguous(), at).clamp(1, len(t) - 1)
    x0, x1 = x.gather(-1, right - 1), x.gather(-1, right)
    y0, y1 = y.gather(-1, right - 1), y.gather(-1, right)
    part = (at - x0) / (x1 - x0).clamp_min(1e-7)
    values = torch.lerp(y0, y1, part.clamp(0, 1))
    down = draws.uniform(images, rows, 1) < inverted
    return torch.where(down, 1 - values, values)


def _looked_up(unit: Tensor, curve: Tensor, label: Tensor | None) -> Tensor:
    """Values of a curve ``[n, BINS + 1]``, or of one curve a class ``[n, CLASSES · (BINS + 1)]``, at ``unit``."""
    at = unit.flatten(1) * BINS
    left = at.floor().clamp_(0, BINS - 1)
    part = at - left
    index = left.long()
    if label is not None:
        index += label.flatten(1).long() * (BINS + 1)
    found = torch.lerp(curve.gather(1, index), curve.gather(1, index + 1), part)
    return found.reshape(unit.shape)


def _scaled(values: Tensor, unit: Tensor, scale: float, shift: float, draws: Draws) -> Tensor:
    """Each row of ``values`` ``[n, rows, m]`` times a factor, plus a shift that keeps most of ``unit`` inside."""
    images, rows = values.shape[:2]
    factor = (1 + scale * draws.normal(images, rows, 1)).clamp(1 - scale, 1 + scale)
    sample = unit[..., ::4, ::4].flatten(1)
    ends = torch.tensor([0.2, 0.8], device=unit.device, dtype=unit.dtype)
    low, high = torch.quantile(sample, ends, dim=1)[:, :, None, None]
    offset = torch.clamp(shift * draws.normal(images, rows, 1), -low, 1 - high)
    return values * factor + offset
