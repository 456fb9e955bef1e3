"""Test-time views: the same slices turned, scaled or mirrored in their plane, and their predictions mapped back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class View:
    """A rotation and a scaling about the centre of a slice, both in pixels; interpolation is bilinear."""

    degrees: float = 0.0
    scale: float = 1.0
    mirrored: bool = False
    """left and right change places first"""

    def of(self, image: Tensor) -> Tensor:
        """An image ``[n, c, h, w]`` in this view; beyond its border the nearest pixel repeats."""
        image = image.flip(-1) if self.mirrored else image
        if not self._moves:
            return image
        return _sampled(image, _grid(image, self.degrees, 1 / self.scale))

    def back(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """What was predicted in this view, on the pixels of the image.

        Args:
            p: probabilities ``[n, k, h, w]``.

        Returns:
            probabilities ``[n, k, h, w]``, and ``[h, w]`` with 1 where the view shows the pixel, else 0.
        """
        if not self._moves:
            return p.flip(-1) if self.mirrored else p, p.new_ones(p.shape[-2:])
        grid = _grid(p, -self.degrees, self.scale)
        height, width = p.shape[-2:]
        last = grid.new_tensor([1 - 1 / width, 1 - 1 / height]) + 1e-5
        found, shown = _sampled(p, grid), (grid.abs() <= last).all(-1).to(p.dtype)
        return (found.flip(-1), shown.flip(-1)) if self.mirrored else (found, shown)

    @property
    def _moves(self) -> bool:
        return self.degrees != 0 or self.scale != 1


VIEWS = (View(), View(degrees=10), View(degrees=-10), View(scale=1.1), View(scale=1 / 1.1))
"""The image itself first. :attr:`uda.config.postprocess.Postprocess.views` says why these."""
PHOTO_VIEWS = (View(), View(mirrored=True), View(scale=1.1), View(scale=1 / 1.1))
"""The photograph itself first; a street stays one in the mirror, but is not turned."""


def mean_over_views(views: Sequence[View], streams: Sequence[Iterator[Tensor]]) -> Iterator[Tensor]:
    """Logarithms ``[n, k, h, w]`` of the mean probabilities over views; each pixel's mean is over those that show it.

    Args:
        views: the image itself first, which shows every pixel.
        streams: logits ``[n, k, h, w]`` predicted in each view, the same slices in each turn.
    """
    for logits in streams[0]:
        total, count = logits.softmax(1), logits.new_ones(logits.shape[-2:])
        for view, stream in zip(views[1:], streams[1:], strict=True):
            p, shown = view.back(next(stream).softmax(1))
            total, count = total + p * shown, count + shown
        yield log_p(total / count)


def log_p(p: Tensor) -> Tensor:
    """Logarithms of probabilities, which are logits of the same probabilities; finite where the probabilities are."""
    return p.clamp_min(torch.finfo(p.dtype).tiny).log()


def _grid(like: Tensor, degrees: float, factor: float) -> Tensor:
    """Where each pixel ``[h, w, 2]`` of the result is sampled, as ``grid_sample`` counts: x, y from −1 to 1.

    Without matrix products, which some devices compute with 10 bits.
    """
    height, width = like.shape[-2:]
    cos, sin = (factor * f(math.radians(degrees)) for f in (math.cos, math.sin))
    y = torch.arange(height, device=like.device, dtype=like.dtype)[:, None] - (height - 1) / 2
    x = torch.arange(width, device=like.device, dtype=like.dtype) - (width - 1) / 2
    return torch.stack([(cos * x - sin * y) * (2 / width), (sin * x + cos * y) * (2 / height)], -1)


def _sampled(values: Tensor, grid: Tensor) -> Tensor:
    many = grid.expand(len(values), *grid.shape)
    return functional.grid_sample(values, many, "bilinear", "border", align_corners=False)
