"""What a network says of whole images: predicted class ratios and mean features, one row an image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from uda.data.items import Items
from uda.losses import class_ratio
from uda.models import features_of
from uda.prediction import BATCH, inference

Floats = NDArray[np.float64]


def predicted_ratios(model: nn.Module, items: Items, fabric: Fabric) -> Floats:
    """Mean softmax ``[n, k]`` of each item; rows sum to 1."""
    with inference(model), fabric.autocast():
        parts = [class_ratio(model(batch).float()).cpu() for batch in _batches(items, fabric)]
    ratios: Floats = torch.cat(parts).double().numpy()
    ratios /= ratios.sum(1, keepdims=True)
    return ratios


def image_features(model: nn.Module, items: Items, fabric: Fabric) -> Floats:
    """Spatial mean ``[n, d]`` of what enters the network's head, for each item.

    Raises:
        ModelError: a network whose last layer is not known.
    """
    parts = []
    with inference(model), fabric.autocast(), features_of(model) as seen:
        for batch in _batches(items, fabric):
            model(batch)
            parts.append(seen.pop().float().flatten(2).mean(2).cpu())
    features: Floats = torch.cat(parts).double().numpy()
    return features


def _batches(items: Items, fabric: Fabric) -> Iterator[Tensor]:
    """Every item in order, about ``BATCH`` slices at a time."""
    numbers, count = np.arange(len(items)), max(1, BATCH // items.depth)
    for first in range(0, len(items), count):
        yield items.image(items.places(numbers[first : first + count])).to(fabric.device)
