"""Geometry of a whole batch: each image and its label under one random affine map and elastic field."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from uda.config.augment import Augment, Elastic
from uda.data.augment.draws import Draws
from uda.data.augment.fields import control_points, smooth_field


def uniform(image: Tensor, bound: float, generator: torch.Generator) -> Tensor:
    """``[b]`` values, uniform in ±bound."""
    draw = torch.rand(image.shape[0], device=image.device, generator=generator)
    return (2 * draw - 1) * bound


def warp(
    image: Tensor,
    label: Tensor | None,
    settings: Augment,
    generator: torch.Generator,
    draws: Draws,
) -> tuple[Tensor, Tensor | None]:
    """Image, bilinear, and label, by nearest neighbour, under one random map each; outside, the border's values.

    Args:
        generator: draws the affine maps.
        draws: of the elastic deformation.
    """
    affine = random_affine(image, settings, generator)
    grid = functional.affine_grid(affine, list(image.shape), align_corners=False)
    if settings.elastic is not None:
        grid = _deformed(grid, settings.elastic, draws)
    warped = functional.grid_sample(image, grid, "bilinear", "border", align_corners=False)
    if label is None:
        return warped, None
    maps = label if label.dim() == image.dim() else label[:, None]
    moved = functional.grid_sample(
        maps.to(image.dtype), grid, "nearest", "border", align_corners=False
    )
    return warped, moved.reshape(label.shape).to(label.dtype)


def _deformed(grid: Tensor, settings: Elastic, draws: Draws) -> Tensor:
    """A sampling grid ``[b, *s, axes]`` plus smooth displacements in the plane for some images."""
    chosen, _ = draws.chosen(settings.p)
    height, width = grid.shape[-3:-1]
    points = control_points(height, settings.spacing), control_points(width, settings.spacing)
    control = (2 * draws.uniform(2 * len(chosen), *points) - 1) * settings.displacement
    across, down = smooth_field(control, height, width, settings.spacing).chunk(2)
    moved = torch.stack([across * (2 / width), down * (2 / height)], -1)
    moved = functional.pad(moved, (0, grid.shape[-1] - 2))
    if grid.dim() == 5:
        moved = moved[:, None].expand(-1, grid.shape[1], -1, -1, -1)
    return grid.index_add(0, chosen, moved)


def random_affine(image: Tensor, settings: Augment, generator: torch.Generator) -> Tensor:
    """Affine maps from output to input coordinates, ``[b, 2, 3]`` or ``[b, 3, 4]``, in half image sizes.

    In 3-D rotation and shear are in the plane alone, because slices are often many times thicker than pixels.
    """
    axes = image.dim() - 2
    angle = uniform(image, math.radians(settings.rotate), generator)
    size = torch.exp(uniform(image, math.log1p(settings.scale), generator))
    down, right, *through = (uniform(image, 2 * settings.shift, generator) for _ in range(axes))
    flips = [uniform(image, 1.0, generator) for _ in range(axes)]
    either = [settings.flip or settings.mirror, *[settings.flip] * (axes - 1)]
    mirror_x, mirror_y, *mirror_z = (
        torch.where(f < 0, -1.0, 1.0) if on else torch.ones_like(f)
        for f, on in zip(flips, either, strict=True)
    )
    height, width = image.shape[-2:]
    cos, sin = torch.cos(angle) * size, torch.sin(angle) * size
    to_x, to_y = -sin, cos  # of a step along y
    if settings.shear:
        shear = torch.tan(uniform(image, math.radians(settings.shear), generator))
        to_x, to_y = to_x + cos * shear, to_y + sin * shear
    none = [torch.zeros_like(size)] * (axes - 2)
    rows = [
        torch.stack([cos * mirror_x, to_x * mirror_y * height / width, *none, right], 1),
        torch.stack([sin * mirror_x * width / height, to_y * mirror_y, *none, down], 1),
    ]
    for mirror, shift in zip(mirror_z, through, strict=True):
        zero = torch.zeros_like(size)
        rows.append(torch.stack([zero, zero, size * mirror, shift], 1))
    return torch.stack(rows, 1)


def resampled(image: Tensor, affine: Tensor, beyond: str) -> Tensor:
    """Images under affine maps of :func:`random_affine`, bilinear.

    Args:
        beyond: what lies outside an image: ``border``, its last values, or ``zeros``.
    """
    grid = functional.affine_grid(affine, list(image.shape), align_corners=False)
    found: Tensor = functional.grid_sample(image, grid, "bilinear", beyond, align_corners=False)
    return found


def inverse_affine(affine: Tensor) -> Tensor:
    """Affine maps ``[b, d, d + 1]`` the other way; ``inv_ex`` does not make the host wait."""
    last = torch.zeros_like(affine[:, :1])
    last[..., -1] = 1
    inverse: Tensor = torch.linalg.inv_ex(torch.cat([affine, last], 1)).inverse
    return inverse[:, :-1]
