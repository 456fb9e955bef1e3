"""Augmentation of a whole batch on its device: geometry for image and label, intensity for the image."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from uda.config.augment import Augment
from uda.types import Batch, SourceBatch, TargetBatch


def augment(
    image: Tensor, label: Tensor | None, settings: Augment, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Each image of the batch under its own random change.

    Args:
        image: ``[b, c, h, w]`` or ``[b, c, d, h, w]`` float.
        label: ``[b, *s]``, or several maps ``[b, m, *s]``, or None; resampled by nearest neighbour, and unchanged
            without geometric changes.
        generator: on the image's device; the only source of randomness.
    """
    if settings.moves():
        image, label = _warp(image, label, settings, generator)
    return _intensity(image, settings, generator), label


def augment_batch(
    batch: Batch,
    notes: list[Tensor | None],
    settings: Augment,
    generator: torch.Generator,
) -> tuple[Batch, list[Tensor | None]]:
    """The batch under random changes; labels and notes ``[b, m, *s]`` get the geometry of their images."""
    source, target = batch.source, batch.target
    if source is not None:
        image, label = augment(source.image, source.label, settings, generator)
        source = SourceBatch(image, source.label if label is None else label)
    if target is not None:
        written = [note for note in notes if note is not None]
        image, moved = augment(
            target.image, torch.cat(written, 1) if written else None, settings, generator
        )
        target = TargetBatch(image, target.index)
        if moved is not None:
            parts = iter(moved.split([note.shape[1] for note in written], 1))
            notes = [None if note is None else next(parts) for note in notes]
    return Batch(source, target), notes


def _uniform(image: Tensor, bound: float, generator: torch.Generator) -> Tensor:
    """``[b]`` values, uniform in ±bound."""
    draw = torch.rand(image.shape[0], device=image.device, generator=generator)
    return (2 * draw - 1) * bound


def _warp(
    image: Tensor, label: Tensor | None, settings: Augment, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    affine = random_affine(image, settings, generator)
    grid = functional.affine_grid(affine, list(image.shape), align_corners=False)
    warped = functional.grid_sample(image, grid, "bilinear", "border", align_corners=False)
    if label is None:
        return warped, None
    maps = label if label.dim() == image.dim() else label[:, None]
    moved = functional.grid_sample(
        maps.to(image.dtype), grid, "nearest", "border", align_corners=False
    )
    return warped, moved.reshape(label.shape).to(label.dtype)


def random_affine(image: Tensor, settings: Augment, generator: torch.Generator) -> Tensor:
    """Affine maps from output to input coordinates, ``[b, 2, 3]`` or ``[b, 3, 4]``, in half image sizes.

    In 3-D the rotation is about the slice axis alone, because slices are often many times thicker than pixels.
    """
    axes = image.dim() - 2
    angle = _uniform(image, math.radians(settings.rotate), generator)
    size = torch.exp(_uniform(image, math.log1p(settings.scale), generator))
    down, right, *through = (_uniform(image, 2 * settings.shift, generator) for _ in range(axes))
    flips = [_uniform(image, 1.0, generator) for _ in range(axes)]
    either = [settings.flip or settings.mirror, *[settings.flip] * (axes - 1)]
    mirror_x, mirror_y, *mirror_z = (
        torch.where(f < 0, -1.0, 1.0) if on else torch.ones_like(f)
        for f, on in zip(flips, either, strict=True)
    )
    height, width = image.shape[-2:]
    cos, sin = torch.cos(angle) * size, torch.sin(angle) * size
    none = [torch.zeros_like(size)] * (axes - 2)
    rows = [
        torch.stack([cos * mirror_x, -sin * mirror_y * height / width, *none, right], 1),
        torch.stack([sin * mirror_x * width / height, cos * mirror_y, *none, down], 1),
    ]
    for mirror, shift in zip(mirror_z, through, strict=True):
        zero = torch.zeros_like(size)
        rows.append(torch.stack([zero, zero, size * mirror, shift], 1))
    return torch.stack(rows, 1)


def _intensity(image: Tensor, settings: Augment, generator: torch.Generator) -> Tensor:
    shape = (-1, *[1] * (image.dim() - 1))
    each = tuple(range(1, image.dim()))
    if settings.color:
        gains = torch.rand(image.shape[:2], device=image.device, generator=generator)
        image = image * (1 + (2 * gains - 1) * settings.color).view(*gains.shape, *shape[2:])
    if settings.gamma:
        power = torch.exp(_uniform(image, settings.gamma, generator)).view(shape)
        low, high = image.amin(each, keepdim=True), image.amax(each, keepdim=True)
        span = (high - low).clamp_min(torch.finfo(image.dtype).tiny)
        image = ((image - low) / span) ** power * span + low
    if settings.contrast or settings.brightness or settings.noise or settings.blur:
        mean = image.mean(each, keepdim=True)
        sd = image.std(each, keepdim=True)
        gain = 1 + _uniform(image, settings.contrast, generator).view(shape)
        offset = _uniform(image, settings.brightness, generator).view(shape)
        image = (image - mean) * gain + mean + offset * sd
        if settings.blur:
            sd = _uniform(image, settings.blur, generator).abs()
            image = _blurred(image, sd, math.ceil(3 * settings.blur))
        if settings.noise:
            strength = _uniform(image, settings.noise, generator).abs().view(shape)
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
