"""Predictions of a model on unlabelled target images, with and without perturbations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from uda.data.items import Items
from uda.data.seeds import mix
from uda.losses.prediction import most_likely
from uda.selection.perturbations import HELD_OUT, log_probabilities, perturbed, trained_kinds
from uda.selection.stability import Pair

LONGEST = 128
"""Most pixels along the longer side of the coarse grid."""
BATCH = 8
"""Images per forward pass."""
FEW = 32
"""Up to so many images are all perturbed, of more every second one."""
NEIGHBOURS = 3
"""Fewest neighbouring slices that make a stack."""


@dataclass(frozen=True)
class UnlabelledImages:
    """Some target images. The class gives no access to labels."""

    items: Items
    limit: int
    mirrored: bool = False
    """whether a mirrored image is plausible, as of a street but not of a chest"""

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """Numbers of the items to judge, rising.

        Up to half are neighbouring slices, because the shape and the size of a structure show in whole cases alone: of
        evenly spread cases all slices, of long ones the middle, a quarter of the limit at the most. The others are
        evenly spread, because a class ratio needs many cases.
        """
        count = len(self.items)
        if count <= self.limit:
            return np.arange(count)
        stacked = self._stacked()
        others = np.setdiff1d(np.arange(count), stacked)
        wanted = min(self.limit - len(stacked), len(others))
        spread = np.rint(np.linspace(0, len(others) - 1, wanted)).astype(np.int64)
        return np.sort(np.concatenate([stacked, others[spread]]))

    def _stacked(self) -> NDArray[np.int64]:
        """Numbers of neighbouring slices in the middle of some cases; none of volumes or single images."""
        if self.items.depth > 1:
            return np.empty(0, np.int64)
        every = self.items.cases(self.items.places(np.arange(len(self.items)))).numpy()
        starts, sizes = np.unique(every, return_index=True, return_counts=True)[1:]
        lengths = np.minimum(sizes, self.limit // 4)
        able = np.flatnonzero(lengths >= NEIGHBOURS)
        some = min(len(able), self.limit // 2 // max(int(lengths.max()), 1))
        chosen = able[((np.arange(some) + 0.5) * len(able) / max(some, 1)).astype(np.int64)]
        first = starts + (sizes - lengths) // 2
        runs = [np.arange(first[one], first[one] + lengths[one]) for one in chosen]
        return np.concatenate(runs) if runs else np.empty(0, np.int64)

    @cached_property
    def case(self) -> Tensor:
        """Number of each image's case ``[n]``, from 0 without gaps."""
        cases = self.items.cases(self.items.places(self.numbers))
        numbered: Tensor = torch.unique(cases, return_inverse=True)[1]
        return numbered

    def stacks(self, maps: Tensor) -> list[Tensor]:
        """The neighbouring slices of a case among maps of the images: of ``[n, h, w]`` each run of at least
        :data:`NEIGHBOURS` as ``[d, h, w]``, of volumes ``[n, d, h, w]`` each volume."""
        if maps.dim() > 3:
            return list(maps)
        apart = (np.diff(self.numbers) != 1) | (self.case.diff().numpy() != 0)
        parts = torch.tensor_split(maps, (np.flatnonzero(apart) + 1).tolist())
        return [part for part in parts if len(part) >= NEIGHBOURS]

    @property
    def perturbed(self) -> slice:
        """Which of the images are perturbed."""
        return slice(None, None, 1 if len(self.numbers) <= FEW else 2)

    def batches(self, some: slice = slice(None), size: int = BATCH) -> Iterator[Tensor]:
        """Batches of some of the images ``[b, c, *s]``."""
        places = self.items.places(self.numbers)[some]
        for first in range(0, len(places), size):
            yield self.items.image(places[first : first + size])


@dataclass(frozen=True)
class Views:
    """One model's predictions of the same images, on a coarse grid.

    Perturbed images are predicted when they are first asked for: most scores and all gates do without.
    """

    log_p: Tensor
    """log-probabilities ``[n, k, *g]`` of the unperturbed images, float32, on the model's device"""
    under: Callable[[str], Pair]
    """labels without and with a family of perturbations, ``trained`` or ``held_out``"""

    @cached_property
    def labels(self) -> Tensor:
        """Predicted classes ``[n, *g]``."""
        return most_likely(self.log_p)

    @cached_property
    def perturbed(self) -> Pair:
        """Labels without and with perturbations that students are trained under, mapped back; -1 outside the
        transformed image, and where an image was not perturbed."""
        return self.under("trained")

    @cached_property
    def held_out(self) -> Pair:
        """Labels without and with perturbations of the held-out family, likewise."""
        return self.under("held_out")

    @cached_property
    def finite(self) -> bool:
        """Whether no prediction is NaN or infinite."""
        return bool(self.log_p.isfinite().all())


@torch.inference_mode()
def look(model: nn.Module, images: UnlabelledImages, fabric: Fabric, seed: int) -> Views:
    """Predict the images in evaluation mode; with one seed every model sees the same perturbations.

    A family of perturbations costs at most half of a pass over the images more; its kinds take turns.

    Args:
        model: on the fabric's device; its mode is restored afterwards. It must not change before the views are used.
        seed: of the perturbations.
    """
    clean: list[Tensor] = []
    labels: list[Tensor] = []
    with _evaluating(model):
        for batch in images.batches():
            log_p = log_probabilities(model, batch.to(fabric.device), fabric)
            clean.append(_grid(log_p))
            labels.append(most_likely(log_p).to(torch.uint8))

    kinds = {"trained": trained_kinds(model, images.mirrored), "held_out": tuple(HELD_OUT)}
    known = torch.cat(labels)
    return Views(
        torch.cat(clean),
        lambda family: _under(kinds[family], model, images, known, fabric, seed),
    )


@torch.inference_mode()
def _under(
    kinds: Sequence[str],
    model: nn.Module,
    images: UnlabelledImages,
    labels: Tensor,
    fabric: Fabric,
    seed: int,
) -> Pair:
    """Some images under perturbations, the kinds in turns from batch to batch; each gets images if there are enough."""
    some = images.perturbed
    chosen = labels[some]
    size = max(1, min(BATCH, len(chosen) // len(kinds)))
    pairs: list[Pair] = []
    with _evaluating(model):
        for number, (batch, known) in enumerate(
            zip(images.batches(some, size), chosen.split(size), strict=True)
        ):
            kind = kinds[number % len(kinds)]
            generator = torch.Generator(fabric.device)
            generator.manual_seed(mix(seed, "perturbation", kind, number))
            image = batch.to(fabric.device)
            both = perturbed(kind, model, image, known.long(), fabric, generator)
            pairs.append((_grid(both[0]), _grid(both[1])))
    first, second = (torch.full_like(_grid(labels), -1, dtype=torch.long) for _ in range(2))
    first[some] = torch.cat([pair[0] for pair in pairs])
    second[some] = torch.cat([pair[1] for pair in pairs])
    return first, second


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _grid(maps: Tensor) -> Tensor:
    """Subsample rows and columns to the coarse grid; a volume keeps all slices."""
    step = max(1, math.ceil(max(maps.shape[-2:]) / LONGEST))
    return maps[..., ::step, ::step]


def balanced_pixels(labels: Tensor, classes: int, each: int, seed: int) -> Tensor:
    """Random positions in the flattened ``labels``, up to ``each`` of every class, on the CPU."""
    flat = labels.flatten().cpu()
    generator = torch.Generator().manual_seed(mix(seed, "pixels"))
    chosen = []
    for k in range(classes):
        where = (flat == k).nonzero()[:, 0]
        chosen.append(where[torch.randperm(len(where), generator=generator)[:each]])
    return torch.cat(chosen)
