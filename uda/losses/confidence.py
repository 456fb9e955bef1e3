"""How sure a network is of the winning class of each pixel, to the last bit, for thresholds and labels alike."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from uda.errors import PriorError
from uda.losses.inspection import readable
from uda.types import IGNORE


def confidences(logits: Tensor, maps: Tensor | None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """log q = r − v, for as many pixels at a time as a cache holds: r ``[b, k, n]``, v and argmax p ``[b, n]``.

    v = −log max p = log(1 + Σ exp(z_c − z_max)) over the other classes, which does not round to 0 before exp does;
    r is z_c − z_max, plus log map where there are maps.
    """
    flat = logits.detach().flatten(2)
    batch, classes, pixels = flat.shape
    if maps is not None:
        if maps.shape not in (logits.shape, logits.shape[1:]):
            raise PriorError(
                f"maps of shape {tuple(maps.shape)} for logits of shape {tuple(logits.shape)}",
                expected=f"{tuple(logits.shape[1:])}, or {tuple(logits.shape)} with one set an image",
                fix="bring the maps to the grid and to the classes of the logits",
            )
        maps = maps.to(flat.device).reshape(-1, classes, pixels)
    step = max(1, (1 << 22 if flat.is_cuda else 1 << 18) // (batch * classes))
    for start in range(0, pixels, step):
        part = slice(start, start + step)
        z = flat[..., part].float()
        relative = z - z.amax(1, keepdim=True)
        winner = first(relative == 0)
        others, *rest = relative.exp().scatter_(1, winner.unsqueeze(1), 0.0).unbind(1)
        for other in rest:  # one by one: the order of sum() depends on the number of pixels
            others += other
        if maps is not None:
            relative += maps[..., part].to(relative).log()
        yield relative, others.log1p_(), winner


def first(hit: Tensor) -> Tensor:
    """Index of the first class that hits, ``[b, k, n]`` → ``[b, n]``; the last where none does."""
    classes = hit.shape[1]
    # as an amax of bytes: argmax over an axis that is not the last is 10 times slower on the CPU
    kind = torch.uint8 if classes <= IGNORE else torch.int32
    rest = torch.arange(classes - 1, -1, -1, dtype=kind, device=hit.device).view(1, -1, 1)
    return classes - 1 - (hit * rest).amax(1).long()


def check_maps(maps: Tensor) -> None:
    """Whether maps can weigh probabilities."""
    if readable(maps) and not (float(maps.amin()) >= 0 and float(maps.amax()) < math.inf):
        raise PriorError(
            "the maps hold a value that is negative or not finite",
            expected="how likely each class is at each pixel, 0 or more",
        )
