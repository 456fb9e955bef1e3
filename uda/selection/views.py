"""Predictions of a model on unlabelled target images, with and without perturbations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from uda.config.augment import Augment
from uda.data.augment import augment, random_affine
from uda.data.items import Items
from uda.data.seeds import mix
from uda.errors import ModelError
from uda.losses.prediction import most_likely
from uda.networks.heads import head

LONGEST = 128
"""Most pixels along the longer side of the coarse grid."""
BATCH = 8
"""Images per forward pass."""
INTENSITY = Augment(gamma=0.2, contrast=0.1, brightness=0.1, noise=0.05)
GEOMETRY = Augment(rotate=10, scale=0.1, shift=0.05)
DROPPED = 0.3
"""Probability of dropping a feature map."""


@dataclass(frozen=True)
class UnlabelledImages:
    """Some target images. The class gives no access to labels."""

    items: Items
    limit: int
    mirrored: bool = False
    """whether a mirrored image is plausible, as of a street but not of a chest"""

    @property
    def numbers(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Numbers of the items to judge, evenly spread."""
        count = len(self.items)
        chosen = np.rint(np.linspace(0, count - 1, min(self.limit, count)))
        return np.unique(chosen.astype(np.int64))

    @property
    def case(self) -> Tensor:
        """Number of each image's case ``[n]``, from 0 without gaps."""
        cases = self.items.cases(self.items.places(self.numbers))
        numbered: Tensor = torch.unique(cases, return_inverse=True)[1]
        return numbered

    def batches(self) -> Iterator[Tensor]:
        """Batches of the images ``[b, c, *s]``."""
        places = self.items.places(self.numbers)
        for first in range(0, len(places), BATCH):
            yield self.items.image(places[first : first + BATCH])


@dataclass(frozen=True)
class Views:
    """One model's predictions of the same images, on a coarse grid."""

    log_p: Tensor
    """log-probabilities ``[n, k, *g]`` of the unperturbed images, float32"""
    perturbed: tuple[Tensor, ...]
    """labels ``[n, *g]`` for each kind of perturbation, mapped back; -1 outside the transformed image"""

    @property
    def labels(self) -> Tensor:
        """Predicted classes ``[n, *g]``."""
        return most_likely(self.log_p)

    @property
    def finite(self) -> bool:
        """Whether no prediction is NaN or infinite."""
        return bool(self.log_p.isfinite().all())


@torch.inference_mode()
def look(model: nn.Module, images: UnlabelledImages, fabric: Fabric, seed: int) -> Views:
    """Predict the images in evaluation mode; with one seed every model sees the same perturbations.

    Args:
        model: on the fabric's device; its mode is restored afterwards.
        seed: of the perturbations.
    """
    training = model.training
    model.eval()
    kinds = _kinds(model, images.mirrored)
    clean: list[Tensor] = []
    changed: list[list[Tensor]] = [[] for _ in kinds]
    try:
        for number, batch in enumerate(images.batches()):
            image = batch.to(fabric.device)
            clean.append(_grid(_predict(model, image, fabric)).cpu())
            for kind, found in zip(kinds, changed, strict=True):
                generator = torch.Generator(fabric.device)
                generator.manual_seed(mix(seed, "perturbation", kind, number))
                found.append(_perturbed(kind, model, image, fabric, generator).cpu())
    finally:
        model.train(training)
    return Views(torch.cat(clean), tuple(torch.cat(found) for found in changed))


def _kinds(model: nn.Module, mirrored: bool) -> list[str]:
    kinds = ["intensity", "geometry"]
    try:
        head(model)
        kinds.append("features")
    except ModelError:
        pass  # without a known last layer there is no feature perturbation
    return [*kinds, "mirror"] if mirrored else kinds


def _perturbed(
    kind: str, model: nn.Module, image: Tensor, fabric: Fabric, generator: torch.Generator
) -> Tensor:
    """Labels ``[b, *g]`` of perturbed images on the coarse grid."""
    if kind == "intensity":
        image = augment(image, None, INTENSITY, generator)[0]
        return most_likely(_grid(_predict(model, image, fabric)))
    if kind == "mirror":
        return most_likely(_grid(_predict(model, image.flip(-1), fabric).flip(-1)))
    if kind == "features":
        with _dropping(model, generator):
            return most_likely(_grid(_predict(model, image, fabric)))
    affine = random_affine(image, GEOMETRY, generator)
    log_p = _predict(model, _warped(image, affine, "border"), fabric)
    back = _inverse(affine)
    inside = _warped(torch.ones_like(image[:, :1]), back, "zeros") > 0.99
    labels = most_likely(_warped(log_p.exp(), back, "border")).unsqueeze(1)
    return _grid(torch.where(inside, labels, -1))[:, 0]


def _predict(model: nn.Module, image: Tensor, fabric: Fabric) -> Tensor:
    with fabric.autocast():
        logits: Tensor = model(image)
    return logits.float().log_softmax(1)


def _grid(maps: Tensor) -> Tensor:
    """Subsample rows and columns to the coarse grid; a volume keeps all slices."""
    step = max(1, math.ceil(max(maps.shape[-2:]) / LONGEST))
    return maps[..., ::step, ::step]


def _warped(image: Tensor, affine: Tensor, beyond: str) -> Tensor:
    grid = functional.affine_grid(affine, list(image.shape), align_corners=False)
    warped: Tensor = functional.grid_sample(image, grid, "bilinear", beyond, align_corners=False)
    return warped


def _inverse(affine: Tensor) -> Tensor:
    last = torch.zeros_like(affine[:, :1])
    last[..., -1] = 1
    inverse: Tensor = torch.linalg.inv(torch.cat([affine, last], 1))
    return inverse[:, :-1]


@contextmanager
def _dropping(model: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Inside the block each pass drops random maps of the last features and scales the others up."""

    def drop(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        features, *others = inputs
        draw = torch.rand(features.shape[:2], device=features.device, generator=generator)
        kept = (draw >= DROPPED).to(features.dtype) / (1 - DROPPED)
        return (features * kept.view(*kept.shape, *[1] * (features.dim() - 2)), *others)

    handle = head(model).register_forward_pre_hook(drop)
    try:
        yield
    finally:
        handle.remove()


def balanced_pixels(labels: Tensor, classes: int, each: int, seed: int) -> Tensor:
    """Random positions in the flattened ``labels``, up to ``each`` of every class."""
    flat = labels.flatten()
    generator = torch.Generator().manual_seed(mix(seed, "pixels"))
    chosen = []
    for k in range(classes):
        where = (flat == k).nonzero()[:, 0]
        chosen.append(where[torch.randperm(len(where), generator=generator)[:each]])
    return torch.cat(chosen)
