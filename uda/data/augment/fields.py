"""Smooth random fields in the plane: uniform quadratic B-splines over a grid of control points."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def smooth_field(control: Tensor, height: int, width: int, spacing: float) -> Tensor:
    """The spline ``[n, h, w]`` of control values ``[n, rows, columns]``, as many as :func:`control_points` says.

    Args:
        spacing: pixels from one control point to the next.
    """
    down = _basis(height, spacing, control.device)
    across = _basis(width, spacing, control.device)
    return down @ control @ across.T


def control_points(pixels: int, spacing: float) -> int:
    """Control points along an axis of so many pixels; the first lies one spacing before the first pixel."""
    return int((pixels - 1) / spacing + 1.5) + 2


@functools.lru_cache(maxsize=32)
def _basis(pixels: int, spacing: float, device: torch.device) -> Tensor:
    """Weight ``[pixels, points]`` of each control point at each pixel; the weights of a pixel sum to 1."""
    at = torch.arange(pixels, dtype=torch.float64)[:, None] / spacing
    points = torch.arange(control_points(pixels, spacing), dtype=torch.float64) - 1
    distance = (at - points).abs()
    near, far = 0.75 - distance**2, (1.5 - distance).clamp_min(0) ** 2 / 2
    return torch.where(distance <= 0.5, near, far).float().to(device)
