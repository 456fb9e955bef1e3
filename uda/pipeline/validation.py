"""Validation scores of a pretrained network on labelled images of its own domain."""

from __future__ import annotations

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from uda.config.card import DatasetCard
from uda.data.items import items_of
from uda.data.store import Store
from uda.losses.prediction import most_likely
from uda.networks.model_file import ModelInfo
from uda.prediction.volumes import logit_planes


def validation_scores(
    model: nn.Module, info: ModelInfo, card: DatasetCard, store: Store, fabric: Fabric
) -> dict[str, dict[str, float | None]]:
    """Dice per structure (photographs: IoU per class), pooled over all validation images, on the prepared grid."""
    classes = len(info.classes)
    confusion = np.zeros((classes, classes), dtype=np.int64)
    items = items_of(store, info.network.patch)
    for case in store.cases:
        if card.photos:
            image = items.image(np.arange(case.start, case.stop)).numpy()
        else:
            image = store.images[case.start : case.stop]
        planes = [most_likely(p).cpu() for p in logit_planes(model, info, image, fabric)]
        label = store.labels[case.start : case.stop]
        counted = label < classes  # leaves out IGNORE
        pairs = classes * label[counted].astype(np.int64) + torch.cat(planes).numpy()[counted]
        confusion += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    hits, sizes = confusion.diagonal(), confusion.sum(0) + confusion.sum(1)
    if card.photos:
        scores = [float(n / (s - n)) if s else None for n, s in zip(hits, sizes, strict=True)]
        return {"validation_iou": dict(zip(info.classes, scores, strict=True))}
    scores = [float(2 * n / s) if s else None for n, s in zip(hits, sizes, strict=True)]
    return {"validation_dice": dict(list(zip(info.classes, scores, strict=True))[1:])}
