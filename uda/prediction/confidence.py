"""What a model finds in a case and how sure it is of it, summed while its logits pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uda.config.card import PhotoPrepare
from uda.data.geometry import Geometry, entropy_bytes, inside
from uda.networks.model_file import ModelInfo

RATIO, CONFIDENCE = "ratio/", "confidence/"
"""before a structure's name"""
MEAN = "confidence"


class Tally:
    r"""Watches the logits of one case plane by plane and keeps sums over all of it, exact however large it is.

    Soft Dice confidence of a structure: :math:`2\sum_x p\hat y / (\sum_x p + \sum_x \hat y)` with its softmax ``p``
    and the mask ``ŷ`` of where that is the largest, in 3-D over the whole case (Borges, Pacheco & Silva, 2024). It is
    about the Dice that the model itself expects, and right only as far as its probabilities are. They are not
    calibrated on these images, and training for low entropy makes a model surer, not only better.

    Sums are over the prepared grid, where the network speaks: interpolating its answer to the file's grid adds
    nothing, and all voxels there have one size. Padding does not count.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.window, self.depth = inside(geometry), geometry.depth
        self.pixels, self.planes, self._shown = 0, 0, 0
        self._sums: NDArray[np.float64] = np.zeros((1, 3))
        self.number = 0
        """the plane with most of the structures, or the middle one where nothing is found …"""
        self.plane: NDArray[np.uint8] = np.zeros((2, *geometry.size), np.uint8)
        """… and its classes and entropy ``[2, h, w]``"""

    def watch(self, planes: Iterable[Tensor]) -> Iterator[Tensor]:
        """Pass logits ``[n, k, h, w]`` on as they are."""
        for part in planes:
            for plane in part:
                self.add(plane)
            yield part

    def add(self, logits: Tensor) -> None:
        """Count one plane, logits ``[k, h, w]``."""
        p, largest = logits.softmax(0), logits.argmax(0)
        rows, columns = self.window
        inner, found = p[:, rows, columns], largest[rows, columns]
        # In float32 the sums of a plane are exact enough, those of a case would not be.
        sums = torch.stack([_sums(ratio, found == k) for k, ratio in enumerate(inner)])
        counted = sums.cpu().double().numpy()
        self._sums = self._sums + counted
        self.pixels += found.numel()
        shown = found.numel() - int(counted[0, 0])
        if shown > self._shown or (not self._shown and self.planes <= self.depth // 2):
            both = torch.stack([largest.to(torch.uint8), entropy_bytes(p[None])[0]])
            self._shown, self.number, self.plane = shown, self.planes, both.cpu().numpy()
        self.planes += 1

    @property
    def finite(self) -> bool:
        """Whether every logit was a number."""
        return bool(np.isfinite(self._sums).all())

    def measures(self, info: ModelInfo) -> dict[str, float]:
        """``ratio/<structure>``; where it was found ``confidence/<structure>``; their mean, ``confidence``."""
        found: dict[str, float] = {}
        if not self.pixels or not self.finite:
            return found
        sure = []
        for k in structures_of(info):
            hard, soft, shared = self._sums[k]
            found[f"{RATIO}{info.classes[k]}"] = float(hard / self.pixels)
            if hard:
                sure.append(float(2 * shared / (hard + soft)))
                found[f"{CONFIDENCE}{info.classes[k]}"] = sure[-1]
        if sure:
            found[MEAN] = float(np.mean(sure))
        return found


def _sums(p: Tensor, mask: Tensor) -> Tensor:
    """``[3]``: of the mask, of the probabilities, of those inside the mask."""
    return torch.stack([mask.sum().float(), p.sum(), (p * mask).sum()])


def structures_of(info: ModelInfo) -> range:
    """The classes that count: of photographs all, of volumes all but the background."""
    photos = isinstance(info.prepare, PhotoPrepare)
    return range(0 if photos else 1, len(info.classes))
