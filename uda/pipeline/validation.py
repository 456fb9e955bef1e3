"""Validation of a pretrained network on labelled images of its own domain, as they are and perturbed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from uda.config.augment import Augment
from uda.config.card import DatasetCard
from uda.data.augment import augment
from uda.data.items import items_of
from uda.data.seeds import mix
from uda.data.store import Store
from uda.losses.prediction import most_likely
from uda.networks.model_file import ModelInfo, load_model
from uda.prediction.volumes import logit_planes
from uda.selection.guard import snapshot_file

Scores = dict[str, float | None]
PERTURBED = Augment.model_validate(
    {
        "noise": 0.1,
        "bezier": {"p": 1.0, "inverted": 0.2},
        "convolve": {"p": 0.5},
        "bias": {"p": 0.5},
        "low_resolution": {"p": 0.5},
    }
)
"""Changes of appearance that stand for other scanners. A volume gets one change, not one a slice."""
PERTURBED_PHOTOS = PERTURBED.model_copy(
    update={
        "color": 0.25,
        "convolve": Augment.model_validate({"convolve": {"mix_channels": True}}).convolve,
    }
)
TIMES = 3
"""perturbations of each validation case"""


def validation_scores(
    model: nn.Module,
    info: ModelInfo,
    card: DatasetCard,
    store: Store,
    fabric: Fabric,
    perturbed: int | None = None,
) -> Scores:
    """Dice of each structure (photographs: IoU of each class), pooled over all validation images, on the prepared grid.

    Args:
        perturbed: seed of the perturbations, ``TIMES`` a case; None for the images as they are.
    """
    classes = len(info.classes)
    confusion = np.zeros((classes, classes), dtype=np.int64)
    items = items_of(store, info.network.patch)
    for case in store.cases:
        if card.photos:
            image = items.image(np.arange(case.start, case.stop)).numpy()
        else:
            image = store.images[case.start : case.stop]
        label = store.labels[case.start : case.stop]
        counted = label < classes  # leaves out IGNORE
        for seen in _images(image, card.photos, perturbed, case.name):
            planes = [most_likely(p).cpu() for p in logit_planes(model, info, seen, fabric)]
            pairs = classes * label[counted].astype(np.int64) + torch.cat(planes).numpy()[counted]
            confusion += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    hits, sizes = confusion.diagonal(), confusion.sum(0) + confusion.sum(1)
    if card.photos:
        scores = [float(n / (s - n)) if s else None for n, s in zip(hits, sizes, strict=True)]
        return dict(zip(info.classes, scores, strict=True))
    scores = [float(2 * n / s) if s else None for n, s in zip(hits, sizes, strict=True)]
    return dict(list(zip(info.classes, scores, strict=True))[1:])


def _images(
    image: NDArray[np.float32], photos: bool, seed: int | None, case: str
) -> list[NDArray[np.float32]]:
    """A case as it is, or perturbed ``TIMES`` times.

    Args:
        image: ``[s, h, w]``, or ``[s, c, h, w]`` with channels.
    """
    if seed is None:
        return [image]
    whole = torch.from_numpy(np.array(image))  # a copy: the store cannot be written
    whole = whole if whole.dim() == 4 else whole[:, None]
    volume = whole.movedim(0, 1)[None]
    settings, found = PERTURBED_PHOTOS if photos else PERTURBED, []
    for time in range(TIMES):
        generator = torch.Generator().manual_seed(mix(seed, "perturbed", case, time))
        changed = augment(volume, None, settings, generator)[0][0].movedim(0, 1)
        found.append(_like(changed, image))
    return found


def _like(changed: Tensor, image: NDArray[np.float32]) -> NDArray[np.float32]:
    array: NDArray[np.float32] = changed.reshape(image.shape).contiguous().numpy()
    return array


@dataclass
class BestStep:
    """Chooses the snapshot of a pretraining that is best on perturbed validation images.

    It reads snapshots from their files, so a resumed run chooses as an uninterrupted one.

    Args:
        score: of a model on the validation images.
        folder: of the stage.
        every: steps between snapshots.
        device: where to score.
    """

    score: Callable[[nn.Module], Scores]
    folder: Path
    every: int
    device: torch.device
    means: dict[int, float] = field(default_factory=dict)

    def seen(self, step: int) -> bool:
        """Score the snapshot of a step, and earlier ones that a resumed run has not; never ends the training."""
        for number in (*range(self.every, step, self.every), step):
            if number not in self.means:
                model, _ = load_model(snapshot_file(self.folder, number))
                self.means[number] = _mean(self.score(model.to(self.device)))
        return False

    def choice(self) -> tuple[int, list[dict[str, float]]]:
        """The best step, of equals the latest, and the mean score of each."""
        step = max(self.means, key=lambda number: (self.means[number], number))
        return step, [{"step": number, "perturbed": mean} for number, mean in self.means.items()]


def _mean(scores: Scores) -> float:
    """Mean over the structures that the validation images show."""
    known = [value for value in scores.values() if value is not None]
    return float(np.mean(known)) if known else 0.0
