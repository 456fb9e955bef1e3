"""Random views of images, and a network's predictions of them, mapped back to the images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from uda.config.augment import Augment
from uda.config.terms import View
from uda.data.augment import augment, random_affine
from uda.data.augment.geometry import inverse_affine, resampled
from uda.losses import Prediction
from uda.losses.prediction import most_likely

_PLACES = ("rotate", "scale", "shift", "mirror")


def predicted_views(
    predict: Callable[[Tensor], Tensor],
    image: Tensor,
    count: int,
    settings: View,
    generator: torch.Generator,
    own: slice = slice(None),
) -> tuple[Tensor, Tensor]:
    """Probabilities of random views of each image, by one forward pass, mapped back to the image's own pixels.

    Args:
        predict: images ``[v·b, c, *s]`` → logits ``[v·b, k, *s]``.
        image: ``[n, c, *s]``; views are drawn for all of them, so that every process draws the same.
        count: v, how many views of each image.
        generator: on the image's device; the only source of randomness.
        own: the b of the n images that are predicted.

    Returns:
        ``[v, b, k, *s]`` probabilities, 0 where a view does not see a pixel; ``[v, b, 1, *s]``, whether it does.
    """
    chosen = dict(settings)
    geometry = Augment(**{name: chosen.pop(name) for name in _PLACES})
    moved = image.repeat(count, *[1] * (image.dim() - 1))
    affine = random_affine(moved, geometry, generator)
    moves = geometry.moves()
    if moves:
        moved = resampled(moved, affine, "border")
    moved = augment(moved, None, Augment(**chosen), generator)[0]
    moved, affine = (
        x.unflatten(0, (count, len(image)))[:, own].flatten(0, 1) for x in (moved, affine)
    )
    p = Prediction(predict(moved)).p
    seen = torch.ones_like(p[:, :1])
    if moves:
        back = inverse_affine(affine)
        seen = (resampled(seen, back, "zeros") > 0.99).to(p)
        p = resampled(p, back, "border") * seen
    return p.unflatten(0, (count, -1)), seen.unflatten(0, (count, -1)) > 0


def mean_of_views(p: Tensor, seen: Tensor) -> Tensor:
    """Mean ``[b, k, *s]`` of the probabilities ``[v, b, k, *s]`` of the views that see a pixel; 0 where none does."""
    return p.sum(0) / seen.sum(0).clamp_min(1)


def size_variation(p: Tensor, seen: Tensor) -> Tensor:
    r"""Coefficient of variation ``[b, k]`` of each class's size over the views; NaN for a class that no view shows.

    Formula: $\mathrm{sd}_v(n_{v,c}) / \mathrm{mean}_v(n_{v,c})$, n the pixels that view v takes for class c, among
        those that all views see; sd with the number of views as denominator
    Source: SHAPE, 2026: how plausible a structure is, by its size over views
    """
    sizes = _taken_for(p, seen.all(0)).flatten(3).sum(3).to(p)
    return sizes.std(0, correction=0) / sizes.mean(0)


def taken_for(p: Tensor, seen: Tensor) -> Tensor:
    """Whether some view takes a pixel for a class, ``[b, k, *s]``."""
    return _taken_for(p, seen).any(0)


def _taken_for(p: Tensor, where: Tensor) -> Tensor:
    """Whether a view takes a pixel for a class, ``[v, b, k, *s]``, at the pixels ``[…, 1, *s]`` alone."""
    classes = torch.arange(p.shape[2], device=p.device).view(-1, *[1] * (p.dim() - 3))
    return (most_likely(p, 2).unsqueeze(2) == classes) & where
