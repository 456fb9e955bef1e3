"""Random shallow convolutional networks as augmentation, alone or blended by a smooth field (GIN, IPA).

Source: Ouyang et al., Causality-inspired Single-source Domain Generalization for Medical Image Segmentation, IEEE TMI
2022.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from uda.config.augment import Convolve
from uda.data.augment.draws import Draws
from uda.data.augment.fields import control_points, smooth_field

LAYERS = 4
HIDDEN = 2
"""channels between two layers"""


def convolve(image: Tensor, settings: Convolve, draws: Draws) -> Tensor:
    """Each image ``[n, c, *s]`` through a random network, or through two that a smooth field blends.

    The kernels lie in the plane. Without ``mix_channels`` every channel goes through the same network alone.
    """
    first = _through(image, settings, draws)
    if not settings.blend:
        return first
    share = _blending(image, settings.spacing, draws)
    return torch.lerp(_through(image, settings, draws), first, share)


def _through(image: Tensor, settings: Convolve, draws: Draws) -> Tensor:
    """One network an image: α · net(x) + (1 − α) · x, α uniform in [0, 1], with the norm of x."""
    moved = image.movedim(1, -3) if settings.mix_channels else image
    width = channels = image.shape[1] if settings.mix_channels else 1
    planes = moved.reshape(1, -1, *image.shape[-2:])
    images, count = len(image), planes.shape[1] // channels
    each = count // images
    for layer in range(LAYERS):
        out = channels if layer == LAYERS - 1 else HIDDEN
        kernel = draws.normal(images, out, width, 3, 3)
        wide = draws.uniform(images, 1, 1, 1, 1) < 0.5
        inner = functional.pad(kernel[..., 1:2, 1:2], (1, 1, 1, 1))
        kernel = torch.where(wide, kernel, inner).repeat_interleave(each, 0)
        shift = draws.normal(images, out).repeat_interleave(each, 0)
        planes = functional.conv2d(
            planes, kernel.flatten(0, 1), shift.flatten(), padding=1, groups=count
        )
        if layer < LAYERS - 1:
            planes = functional.leaky_relu(planes)
        width = out
    alpha = draws.uniform(images).view(-1, *[1] * (image.dim() - 1))
    made = planes.reshape(moved.shape)
    blended = torch.lerp(image, made.movedim(-3, 1) if settings.mix_channels else made, alpha)
    around = tuple(range(1, image.dim()))
    norm, own = (torch.linalg.vector_norm(x, dim=around, keepdim=True) for x in (image, blended))
    rescaled: Tensor = blended * (norm / own.clamp_min(1e-5))
    return rescaled


def _blending(image: Tensor, spacing: float, draws: Draws) -> Tensor:
    """A smooth random field in [0, 1] for each image, shaped to broadcast over it."""
    height, width = image.shape[-2:]
    points = control_points(height, spacing), control_points(width, spacing)
    field = smooth_field(draws.uniform(len(image), *points), height, width, spacing)
    low, high = field.amin((1, 2), keepdim=True), field.amax((1, 2), keepdim=True)
    field = (field - low) / (high - low).clamp_min(1e-6)
    return field.view(len(image), *[1] * (image.dim() - 3), height, width)
