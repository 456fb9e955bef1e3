"""Confidence of a prediction without labels: class ratios and soft Dice of one case, summed over its logits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uda.config.card import PhotoPrepare
from uda.data.geometry import Geometry, entropy_bytes, inside
from uda.losses.prediction import most_likely
from uda.networks.model_file import ModelInfo

RATIO, CONFIDENCE = "ratio/", "confidence/"
SHARE, CONTINUITY, STRAY = "share/", "continuity/", "stray/"
"""prefixes of a structure's name in the measures"""
MEAN = "confidence"
OVERALL = "confidence_overall"


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
        self._shape = _Shape()
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
        if self.depth > 1:
            self._shape.add(found.to(torch.uint8).cpu().numpy(), len(p))
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

    def calibrated(self, info: ModelInfo) -> dict[str, float]:
        """Measures of a volume from 0 to 1 that validation images calibrate (:mod:`uda.networks.limits`).

        ``confidence_overall``, the mean confidence with 0 for a structure that was not found; ``share/<structure>``
        among the pixels of all structures; ``continuity/<structure>``, the Dice of slices a tenth of its length apart;
        ``stray/<structure>``, the share outside its largest connected piece.
        """
        if self.depth < 2 or not self.finite:
            return {}
        measures, classes = self.measures(info), structures_of(info)
        sure = [one for name, one in measures.items() if name.startswith(CONFIDENCE)]
        found = {OVERALL: sum(sure) / len(classes)}
        shown = sum(self._sums[k][0] for k in classes)
        for k in classes:
            name = info.classes[k]
            found[f"{SHARE}{name}"] = float(self._sums[k][0] / shown) if shown else 0.0
            found[f"{CONTINUITY}{name}"] = self._shape.continuity(k)
            if self._sums[k][0]:
                found[f"{STRAY}{name}"] = self._shape.stray(k)
        return found


def worse(measure: str) -> tuple[Literal["low", "high"], ...]:
    """The sides on which a measure of :meth:`CaseStatistics.calibrated` tells a poor prediction.

    Too sure, too smooth or too much in one piece is no fault; a share may be too small or too large.
    """
    if measure.startswith(STRAY):
        return ("high",)
    return ("low", "high") if measure.startswith(SHARE) else ("low",)


class _Shape:
    """Overlap of neighbouring slices and connected pieces of each class, from slices that come one by one."""

    def __init__(self) -> None:
        self._before: NDArray[np.uint8] | None = None
        self._overlaps = np.zeros((1, 2), np.int64)
        self._slices = np.zeros(1, np.int64)
        self._pieces: list[_Pieces] = []

    def add(self, labels: NDArray[np.uint8], classes: int) -> None:
        """Add the next slice ``[h, w]``."""
        self._pieces = self._pieces or [_Pieces() for _ in range(classes)]
        self._slices = self._slices + (np.bincount(labels.ravel(), minlength=classes) > 0)
        for k in range(1, classes):
            self._pieces[k].add(labels == k)
        if self._before is not None:
            same = labels[labels == self._before]
            both, here, before = (
                np.bincount(some.ravel(), minlength=classes)
                for some in (same, labels, self._before)
            )
            self._overlaps = self._overlaps + np.stack([2 * both, here + before], 1)
        self._before = labels

    def continuity(self, k: int) -> float:
        """Dice of a class between slices a tenth of its length apart; 0 where it was not found.

        Where that of neighbouring slices is ``d`` over all pairs, that of slices ``m`` apart is taken as ``d ** m``. So
        images with thin and with thick slices compare.
        """
        both, total = self._overlaps[k]
        return float((both / total) ** (self._slices[k] / 10)) if total else 0.0

    def stray(self, k: int) -> float:
        """Share of a class outside its largest piece."""
        return self._pieces[k].stray() if k else 0.0


class _Pieces:
    """Connected pieces of a mask in 3-D (faces connect), from slices that come one by one; of earlier slices it keeps
    the sizes of their pieces and which touch."""

    def __init__(self) -> None:
        self._sizes: list[NDArray[np.int64]] = []
        self._touching: list[NDArray[np.int64]] = []
        self._count = 0
        self._before: NDArray[np.int64] | None = None

    def add(self, mask: NDArray[np.bool_]) -> None:
        """Add the next slice ``[h, w]``."""
        from scipy.ndimage import label

        pieces, count = label(mask)
        self._sizes.append(np.bincount(pieces.ravel(), minlength=count + 1)[1:])
        numbers = np.where(pieces > 0, pieces.astype(np.int64) + (self._count - 1), -1)
        if self._before is not None:
            touch = (numbers >= 0) & (self._before >= 0)
            pairs = (numbers[touch] << 32) | self._before[touch]
            self._touching.append(np.unique(pairs))
        self._count += count
        self._before = numbers

    def stray(self) -> float:
        """Share of the mask outside its largest piece; 0 of an empty one."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if not self._count:
            return 0.0
        pairs = np.concatenate([*self._touching, np.zeros(0, np.int64)])
        ends = (pairs >> 32, pairs & 0xFFFFFFFF)
        graph = coo_array((np.ones(len(pairs), np.int8), ends), shape=(self._count,) * 2)
        _, piece = connected_components(graph, directed=False)
        sizes = np.bincount(piece, weights=np.concatenate(self._sizes))
        return 1 - float(sizes.max() / sizes.sum())


def _sums(p: Tensor, mask: Tensor) -> Tensor:
    """Sums ``[3]`` of the mask, of the probabilities, and of the probabilities inside the mask."""
    return torch.stack([mask.sum().float(), p.sum(), (p * mask).sum()])


def structures_of(info: ModelInfo) -> range:
    """Indices of the measured classes: all of photographs, all but the background of volumes."""
    photos = isinstance(info.prepare, PhotoPrepare)
    return range(0 if photos else 1, len(info.classes))
