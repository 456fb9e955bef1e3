"""What a scanner or camera does to an image: bias field, low resolution, and masked blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from uda.config.augment import Bias, LowResolution, Mask
from uda.data.augment.draws import Draws
from uda.data.augment.fields import control_points, smooth_field


def bias(image: Tensor, settings: Bias, draws: Draws) -> Tensor:
    """Each image times a smooth field: its distance from its least value times exp(±strength).

    Source: Sudre et al., Longitudinal segmentation of age-related white matter hyperintensities, MedIA 2017 (there a
    polynomial; here a spline).
    """
    height, width = image.shape[-2:]
    points = (control_points(size, settings.spacing) for size in (height, width))
    control = (2 * draws.uniform(len(image), *points) - 1) * settings.strength
    field = smooth_field(control, height, width, settings.spacing).exp()
    low = image.amin(tuple(range(1, image.dim())), keepdim=True)
    return (image - low) * field.view(len(image), *[1] * (image.dim() - 3), height, width) + low


def low_resolution(image: Tensor, settings: LowResolution, draws: Draws) -> Tensor:
    """Each image as if acquired with larger pixels and interpolated: per axis a factor uniform in 1 to ``factor``.

    Along an axis, pixels are means over blocks, between whose centres the result is linear.

    Source: the simulation of low resolution of Isensee et al., nnU-Net, Nature Methods 2021, here axis by axis.
    """
    plane = 1 + (settings.factor - 1) * draws.uniform(len(image), 2)
    image = _along(image, plane[:, 0], image.dim() - 2)
    image = _along(image, plane[:, 1], image.dim() - 1)
    if image.dim() == 5:
        through = 1 + (settings.factor - 1) * draws.uniform(len(image))
        image = _along(image, through, 2)
    return image


def _along(image: Tensor, factor: Tensor, axis: int) -> Tensor:
    """Blocks of ``factor`` ``[n]`` pixels along one axis."""
    size = image.shape[axis]
    at = torch.arange(size, device=image.device, dtype=image.dtype)
    factor = factor.to(image.dtype).view(-1, 1, 1)
    blocks = torch.floor((size - 1) / factor) + 1
    inside = at[None, :, None] < blocks  # of as many blocks as pixels the first few exist
    left = at[None, :, None] * factor
    overlap = torch.minimum(left + factor, at + 1) - torch.maximum(left, at)
    means = overlap.clamp_min(0)
    means = means / means.sum(2, keepdim=True).clamp_min(1e-6)
    place = ((at[:, None] + 0.5) / factor - 0.5).clamp_min(0).minimum(blocks - 1)
    weights = (1 - (place - at).abs()).clamp_min(0) * inside.transpose(1, 2)
    moved = image.movedim(axis, 1)
    lower = weights @ (means @ moved.flatten(2))
    return lower.reshape(moved.shape).movedim(1, axis)


def mask(image: Tensor, settings: Mask, draws: Draws) -> Tensor:
    """Each image with a share of its square blocks at its mean.

    Source: Hoyer et al., MIC: Masked Image Consistency for Context-Enhanced Domain Adaptation, CVPR 2023.
    """
    height, width = image.shape[-2:]
    rows, columns = (-(-size // settings.block) for size in (height, width))
    hidden = draws.uniform(len(image), rows, columns) < settings.ratio
    for axis, size in ((1, height), (2, width)):
        hidden = hidden.repeat_interleave(min(settings.block, size), axis)
    hidden = hidden[:, :height, :width].view(len(image), *[1] * (image.dim() - 3), height, width)
    return torch.where(hidden, image.mean(tuple(range(2, image.dim())), keepdim=True), image)
