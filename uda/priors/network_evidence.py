"""Run a network on images for priors: class ratios, mean features, class activation maps, superpixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from uda.config.priors import CamPrior
from uda.data.items import Items, Numbers, Slices
from uda.data.store import Store
from uda.losses import class_ratio
from uda.networks.heads import features_of
from uda.networks.inference import BATCH, PIXELS, inference
from uda.networks.resize import upsample
from uda.priors.class_activation import (
    TagClassifier,
    Tags,
    activation_maps,
    found_by,
    relative_activation,
    seeds_of,
)
from uda.priors.superpixels import Ids, describe, grid_of, reduced, superpixels

EXAMPLE = 512
"""longest side of an example image, in pixels"""

Floats = NDArray[np.float64]


def predicted_ratios(model: nn.Module, items: Items, fabric: Fabric) -> Floats:
    """Mean softmax ``[n, k]`` of each item; rows sum to 1."""
    with inference(model), fabric.autocast():
        parts = [class_ratio(model(batch).float()).cpu() for batch in _batches(items, fabric)]
    ratios: Floats = torch.cat(parts).double().numpy()
    ratios /= ratios.sum(1, keepdims=True)
    return ratios


def image_features(model: nn.Module, items: Items, fabric: Fabric) -> Floats:
    """Spatial mean ``[n, d]`` of the features that enter the network's head, for each item.

    Raises:
        ModelError: the network's last layer is unknown.
    """
    parts = []
    with inference(model), fabric.autocast(), features_of(model) as seen:
        for batch in _batches(items, fabric):
            model(batch)
            parts.append(seen.pop().float().flatten(2).mean(2).cpu())
    features: Floats = torch.cat(parts).double().numpy()
    return features


def activation_seeds(
    model: nn.Module,
    items: Slices,
    classifier: TagClassifier,
    tags: Tags,
    classes: Sequence[int],
    settings: CamPrior,
    examples: Numbers,
    fabric: Fabric,
) -> tuple[Tensor, Tensor]:
    """Seeds ``[n, h', w']`` uint8 of all items, and the relative maps ``[m, s, h', w']`` uint8 of some.

    The maps get the grid of the seeds before they are rectified. Where the classifier does not find a structure in an
    image, its map there is 0: a wrong answer says nothing of places.

    Args:
        tags: ``[n, s]`` which structures each item shows; the maps of others are 0.
        classes: class number of each structure; if class 0 is one, there is no class of background.
        examples: ``[m]`` the items whose maps to return.

    Raises:
        ModelError: the network's last layer is unknown.
    """
    grid, first = grid_of(items.store.size, settings.stride), 0
    weights, bias = (
        torch.from_numpy(values).float().to(fabric.device)
        for values in (classifier.weights, classifier.bias)
    )
    background = None if 0 in classes else settings.background
    seeds, kept = [], []
    with inference(model), features_of(model) as seen:
        for batch in _batches(items, fabric):
            with fabric.autocast():
                model(batch)
            raw = activation_maps(seen.pop().float(), weights)
            found = found_by(raw, bias)[:, :, None, None]
            maps = relative_activation(_resized(raw, grid)) * found
            rows = np.arange(first, first + len(batch))
            shown = torch.from_numpy(tags[rows]).to(fabric.device)
            seeds.append(seeds_of(maps, shown, classes, settings.foreground, background).cpu())
            visible = (maps * shown[:, :, None, None] * 255).round().to(torch.uint8)
            kept.append(visible[torch.from_numpy(np.isin(rows, examples)).to(fabric.device)].cpu())
            first += len(batch)
    return torch.cat(seeds), torch.cat(kept)


def _resized(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps ``[b, s, h, w]`` on another grid: means where it is coarser, interpolated where it is finer."""
    coarser = min(maps.shape[2], grid[0]), min(maps.shape[3], grid[1])
    return upsample(adaptive_avg_pool2d(maps, coarser), grid)


def superpixel_features(
    model: nn.Module, items: Slices, numbers: Numbers, segments: int, stride: int, fabric: Fabric
) -> tuple[Ids, list[NDArray[np.float32]]]:
    """Superpixels ``[m, h', w']`` of some images, and the descriptions ``[s, d]`` of each image's superpixels.

    Args:
        numbers: ``[m]`` the images.
        segments: approximate number of superpixels per image.
        stride: pixels of the image per pixel of the coarser grid ``[h', w']``.
    """
    grid = grid_of(items.store.size, stride)
    ids, described = np.empty((len(numbers), *grid), np.int16), []
    together = max(1, min(BATCH, PIXELS // (items.store.size[0] * items.store.size[1])))
    for first in range(0, len(numbers), together):
        some = numbers[first : first + together]
        with inference(model), fabric.autocast():
            p = model(items.image(some).to(fabric.device)).float().softmax(1)
            scores = adaptive_avg_pool2d(p, grid).cpu().numpy()
        for at, number in enumerate(some):
            image = reduced(_picture(items.store, number), grid)
            ids[first + at] = found = superpixels(image, segments)
            described.append(describe(found, scores[at]))
    return ids, described


def example_images(store: Store, numbers: Numbers) -> Tensor:
    """Some images ``[m, c, h, w]`` uint8 for pictures; the longer side has :data:`EXAMPLE` pixels at most."""
    grid = grid_of(store.size, -(-max(store.size) // EXAMPLE))
    shown = []
    for number in numbers:
        image = reduced(_picture(store, number), grid)
        if store.scale is None:
            low, high = np.percentile(image, (1, 99))
            image = (image - low) * (255 / max(high - low, 1e-6))
        shown.append(np.rint(image.clip(0, 255)).astype(np.uint8))
    return torch.from_numpy(np.stack(shown))


def _picture(store: Store, number: int) -> NDArray[Any]:
    """The visible image ``[c, h, w]``: red, green and blue, or the slice without its neighbours."""
    image: NDArray[Any] = np.asarray(store.images[number])
    if store.scale is not None:
        return image
    return image[None] if image.ndim == 2 else image[len(image) // 2][None]


def _batches(items: Items, fabric: Fabric) -> Iterator[Tensor]:
    """Every item in order, in batches of about ``BATCH`` slices."""
    numbers, count = np.arange(len(items)), max(1, BATCH // items.depth)
    for first in range(0, len(items), count):
        yield items.image(items.places(numbers[first : first + count])).to(fabric.device)
