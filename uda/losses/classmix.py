"""ClassMix: half of the classes of one image, cut out to be pasted onto another."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from uda.types import IGNORE, Labels


@torch.no_grad()
def class_mask(labels: Labels, generator: torch.Generator) -> Bool[Tensor, "b *s"]:
    """The pixels of a random half of the classes that each image shows, rounded up.

    No host waits for the device. Pixels that are ``IGNORE`` are never chosen.

    Args:
        labels: ``[b, *s]`` class indices below ``IGNORE``.
        generator: on the labels' device.

    Source: Olsson et al., ClassMix, WACV 2021; of labelled source images: Tranheden et al., DACS, WACV 2021

    Example:
        Of two classes one is chosen, whole.

        >>> import torch
        >>> labels = torch.tensor([[[0, 0], [1, 255]]])
        >>> mask = class_mask(labels, torch.Generator().manual_seed(0))
        >>> sorted(set(labels[mask].tolist())) in ([0], [1]), bool(mask[0, 1, 1])
        (True, False)
    """
    flat = labels.flatten(1)
    shown = torch.zeros(len(flat), IGNORE + 1, device=flat.device)
    shown.scatter_(1, flat, 1.0)
    shown[:, IGNORE] = 0
    draw = torch.rand(shown.shape, device=flat.device, generator=generator)
    rank = draw.masked_fill(shown == 0, 2.0).argsort(1).argsort(1)
    chosen = rank < ((shown.sum(1, keepdim=True) + 1) // 2)
    return chosen.gather(1, flat).view(labels.shape)
