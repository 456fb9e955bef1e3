"""What a network says of whole images: predicted class ratios and mean features, one row an image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from uda.losses import class_ratio
from uda.models import features_of
from uda.prediction import BATCH, inference

Floats = NDArray[np.float64]


def predicted_ratios(model: nn.Module, images: NDArray[np.float32], fabric: Fabric) -> Floats:
    """Mean softmax ``[n, k]`` of each image ``[n, h, w]``; rows sum to 1."""
    with inference(model), fabric.autocast():
        parts = [class_ratio(model(batch).float()).cpu() for batch in _batches(images, fabric)]
    ratios: Floats = torch.cat(parts).double().numpy()
    ratios /= ratios.sum(1, keepdims=True)
    return ratios


def image_features(model: nn.Module, images: NDArray[np.float32], fabric: Fabric) -> Floats:
    """Spatial mean ``[n, d]`` of what enters the network's head, for each image ``[n, h, w]``.

    Raises:
        ModelError: a network whose last layer is not known.
    """
    parts = []
    with inference(model), fabric.autocast(), features_of(model) as seen:
        for batch in _batches(images, fabric):
            model(batch)
            parts.append(seen.pop().float().flatten(2).mean(2).cpu())
    features: Floats = torch.cat(parts).double().numpy()
    return features


def _batches(images: NDArray[np.float32], fabric: Fabric) -> Iterator[Tensor]:
    for first in range(0, len(images), BATCH):
        # a copy: the store's pages are read-only
        yield torch.from_numpy(np.array(images[first : first + BATCH]))[:, None].to(fabric.device)
