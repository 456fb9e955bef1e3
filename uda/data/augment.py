"""Random changes of a whole batch on its device: geometry for image and label alike, intensity for the image."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from uda.config import Augment


def augment(
    image: Tensor, label: Tensor | None, settings: Augment, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Each image of the batch under its own random change.

    Args:
        image: ``[b, c, h, w]`` float.
        label: ``[b, h, w]`` or several maps ``[b, m, h, w]``, or None; resampled by the nearest pixel,
            unchanged where the geometry is.
        generator: on the image's device; the only source of randomness.
    """
    if settings.moves():
        image, label = _warp(image, label, settings, generator)
    return _intensity(image, settings, generator), label


def _uniform(image: Tensor, bound: float, generator: torch.Generator) -> Tensor:
    """``[b]`` uniform in ±bound."""
    draw = torch.rand(image.shape[0], device=image.device, generator=generator)
    return (2 * draw - 1) * bound


def _warp(
    image: Tensor, label: Tensor | None, settings: Augment, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    angle = _uniform(image, math.radians(settings.rotate), generator)
    size = torch.exp(_uniform(image, math.log1p(settings.scale), generator))
    down, right = (_uniform(image, 2 * settings.shift, generator) for _ in range(2))
    flips = [_uniform(image, 1.0, generator) for _ in range(2)]
    mirror_x, mirror_y = (
        torch.where(f < 0, -1.0, 1.0) if settings.flip else torch.ones_like(f) for f in flips
    )
    height, width = image.shape[2:]
    cos, sin = torch.cos(angle) * size, torch.sin(angle) * size
    rows = (
        torch.stack([cos * mirror_x, -sin * mirror_y * height / width, right], 1),
        torch.stack([sin * mirror_x * width / height, cos * mirror_y, down], 1),
    )
    grid = functional.affine_grid(torch.stack(rows, 1), list(image.shape), align_corners=False)
    warped = functional.grid_sample(image, grid, "bilinear", "border", align_corners=False)
    if label is None:
        return warped, None
    maps = label if label.dim() == image.dim() else label[:, None]
    moved = functional.grid_sample(
        maps.to(image.dtype), grid, "nearest", "border", align_corners=False
    )
    return warped, moved.reshape(label.shape).to(label.dtype)


def _intensity(image: Tensor, settings: Augment, generator: torch.Generator) -> Tensor:
    shape = (-1, *[1] * (image.dim() - 1))
    if settings.gamma:
        power = torch.exp(_uniform(image, settings.gamma, generator)).view(shape)
        low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
        span = (high - low).clamp_min(torch.finfo(image.dtype).tiny)
        image = ((image - low) / span) ** power * span + low
    if settings.contrast or settings.brightness or settings.noise:
        mean = image.mean((1, 2, 3), keepdim=True)
        sd = image.std((1, 2, 3), keepdim=True)
        gain = 1 + _uniform(image, settings.contrast, generator).view(shape)
        offset = _uniform(image, settings.brightness, generator).view(shape)
        image = (image - mean) * gain + mean + offset * sd
        if settings.noise:
            strength = _uniform(image, settings.noise, generator).abs().view(shape)
            normal = torch.randn(image.shape, device=image.device, generator=generator)
            image = image + normal * strength * sd
    return image
