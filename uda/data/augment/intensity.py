"""Simple random changes of intensity: factors, gamma, contrast, brightness, blur, noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from uda.config.augment import Augment
from uda.data.augment.geometry import uniform


def simple_changes(image: Tensor, settings: Augment, generator: torch.Generator) -> Tensor:
    """Random colour factors, gamma, contrast, brightness, blur and noise, in this order."""
    shape = (-1, *[1] * (image.dim() - 1))
    each = tuple(range(1, image.dim()))
    if settings.color:
        gains = torch.rand(image.shape[:2], device=image.device, generator=generator)
        image = image * (1 + (2 * gains - 1) * settings.color).view(*gains.shape, *shape[2:])
    if settings.gamma:
        power = torch.exp(uniform(image, settings.gamma, generator)).view(shape)
        low, high = image.amin(each, keepdim=True), image.amax(each, keepdim=True)
        span = (high - low).clamp_min(torch.finfo(image.dtype).tiny)
        image = ((image - low) / span) ** power * span + low
    if settings.contrast or settings.brightness or settings.noise or settings.blur:
        mean = image.mean(each, keepdim=True)
        sd = image.std(each, keepdim=True)
        gain = 1 + uniform(image, settings.contrast, generator).view(shape)
        offset = uniform(image, settings.brightness, generator).view(shape)
        image = (image - mean) * gain + mean + offset * sd
        if settings.blur:
            width = uniform(image, settings.blur, generator).abs()
            radius = min(math.ceil(3 * settings.blur), max(image.shape[-2:]))
            image = _blurred(image, width, radius)
        if settings.noise:
            strength = uniform(image, settings.noise, generator).abs().view(shape)
            normal = torch.randn(image.shape, device=image.device, generator=generator)
            image = image + normal * strength * sd
    return image


def _blurred(image: Tensor, sd: Tensor, radius: int) -> Tensor:
    """Each image blurred along rows and columns by a Gaussian with its own ``sd`` ``[b]`` in pixels."""
    at = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    weights = torch.exp(-((at / sd.clamp_min(1e-3)[:, None]) ** 2) / 2)
    weights = weights / weights.sum(1, keepdim=True)
    count = math.prod(image.shape[1:-2])
    planes = image.reshape(1, -1, *image.shape[-2:])
    each = weights.repeat_interleave(count, 0)[:, None]
    for kernel, pad in (
        (each[..., None, :], (radius, radius, 0, 0)),
        (each[..., None], (0, 0, radius, radius)),
    ):
        wide = functional.pad(planes, pad, mode="replicate")
        planes = functional.conv2d(wide, kernel, groups=planes.shape[1])
    return planes.reshape(image.shape)
