"""Bilinear enlargement that repeats itself bit for bit on every device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits ``[b, k, h, w]`` at another size, corners not aligned; float32 even under autocast.

    On a GPU torch's own backward either differs from run to run or, where deterministic kernels are asked for, is a
    scatter that sorts every pixel; two matrix products stand in then. On the CPU torch's own is deterministic.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if not logits.is_cpu and torch.are_deterministic_algorithms_enabled():
        return by_matrices(logits, size)
    return functional.interpolate(logits, size, mode="bilinear", align_corners=False)


def by_matrices(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The same map as ``interpolate(image, size, mode="bilinear")``, as a product with rows and one with columns."""
    with torch.autocast(image.device.type, enabled=False):
        rows, columns = (_weights(image.shape[a], size[a - 2], image) for a in (2, 3))
        return rows @ (image @ columns.T)


def _weights(length: int, enlarged: int, like: Tensor) -> Tensor:
    """How much each of ``length`` pixels counts for each of ``enlarged``: a hat round the place it comes from."""
    place = (torch.arange(enlarged, device=like.device, dtype=like.dtype) + 0.5) * (
        length / enlarged
    ) - 0.5
    pixel = torch.arange(length, device=like.device, dtype=like.dtype)
    return (1 - (place.clamp(0, length - 1)[:, None] - pixel).abs()).clamp(min=0)
