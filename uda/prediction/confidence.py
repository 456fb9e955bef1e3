"""Confidence of a prediction without labels: class ratios and soft Dice of one case, summed over its logits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uda.config.card import PhotoPrepare
from uda.data.geometry import Geometry, entropy_bytes, inside
from uda.losses.prediction import most_likely
from uda.networks.model_file import ModelInfo

RATIO, CONFIDENCE = "ratio/", "confidence/"
"""prefixes of a structure's name in the measures"""
MEAN = "confidence"


class CaseStatistics:
    r"""Sums of one case, added plane by plane from its logits; memory does not grow with the case.

    Soft Dice confidence of a structure: :math:`2\sum_x p\hat y / (\sum_x p + \sum_x \hat y)` with its softmax ``p``
    and the mask ``ŷ`` of where that is the largest, in 3-D over the whole case (Borges, Pacheco & Silva, 2024). It
    approximates the Dice that the model expects, and is right only as far as the probabilities are. They are not
    calibrated on these images, and training for low entropy raises confidence more than accuracy.

    Sums are over the prepared grid, on which the network predicts and all voxels have one size. Interpolation to
    the file's grid would add nothing. Padding does not count.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.window, self.depth = inside(geometry), geometry.depth
        self.pixels, self.planes, self._shown = 0, 0, 0
        self._sums: NDArray[np.float64] = np.zeros((1, 3))
        self.number = 0
        """the plane with the most structure pixels, or the middle one where nothing is found …"""
        self.plane: NDArray[np.uint8] = np.zeros((2, *geometry.size), np.uint8)
        """… and its classes and entropy ``[2, h, w]``"""

    def watch(self, planes: Iterable[Tensor]) -> Iterator[Tensor]:
        """Add the planes of logits ``[n, k, h, w]`` and yield the logits unchanged."""
        for part in planes:
            for plane in part:
                self.add(plane)
            yield part

    def add(self, logits: Tensor) -> None:
        """Add one plane of logits ``[k, h, w]``."""
        p, largest = logits.softmax(0), most_likely(logits, 0)
        rows, columns = self.window
        inner, found = p[:, rows, columns], largest[rows, columns]
        # float32 is precise enough for the sums of a plane, but not for those of a case.
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
        """Whether every logit was finite."""
        return bool(np.isfinite(self._sums).all())

    def measures(self, info: ModelInfo) -> dict[str, float]:
        """``ratio/<structure>``; ``confidence/<structure>`` where it was found; their mean, ``confidence``."""
        found: dict[str, float] = {}
        if not self.pixels or not self.finite:
            return found
        confidences = []
        for k in structures_of(info):
            hard, soft, shared = self._sums[k]
            found[f"{RATIO}{info.classes[k]}"] = float(hard / self.pixels)
            if hard:
                confidences.append(float(2 * shared / (hard + soft)))
                found[f"{CONFIDENCE}{info.classes[k]}"] = confidences[-1]
        if confidences:
            found[MEAN] = float(np.mean(confidences))
        return found


def _sums(p: Tensor, mask: Tensor) -> Tensor:
    """Sums ``[3]`` of the mask, of the probabilities, and of the probabilities inside the mask."""
    return torch.stack([mask.sum().float(), p.sum(), (p * mask).sum()])


def structures_of(info: ModelInfo) -> range:
    """Indices of the measured classes: all of photographs, all but the background of volumes."""
    photos = isinstance(info.prepare, PhotoPrepare)
    return range(0 if photos else 1, len(info.classes))
