"""Batches of a training step, drawn as a function of (seed, stage, step)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from uda.config.networks import AnyNetwork
from uda.config.recipe import Adapt, Pretrain, Training
from uda.data.annotations.prepared import PreparedAnnotations
from uda.data.items import Items, Slices, items_of
from uda.data.sampling import (
    Share,
    batch_indices,
    positions_of,
    shuffled_batches,
    source_batch,
    target_batch,
)
from uda.data.seeds import mix
from uda.data.store import Store
from uda.networks.batchnorm import BATCHNORM_BATCH
from uda.training.loop import Batches
from uda.training.run import StageRun
from uda.types import Batch, TargetBatch


def source_batches(
    store: Store, network: AnyNetwork, settings: Training, run: StageRun, fabric: Fabric
) -> Batches:
    """Batches of labelled images."""
    items = items_of(store, network.patch, settings.photo, run.compute.workers)
    draw, pin = _draw(len(items), settings, mix(run.seed, run.stage, "source"), fabric)
    return lambda step: Batch(source=source_batch(items, *draw(step), pin))


def target_batches(
    store: Store,
    source: Store | None,
    network: AnyNetwork,
    settings: Adapt | Pretrain,
    run: StageRun,
    fabric: Fabric,
    annotations: PreparedAnnotations | None = None,
) -> Batches:
    """Batches of unlabelled target images, with ``source`` also of labelled source images.

    Args:
        annotations: what is marked on the target; ``annotated_share`` of each batch are images that are marked.
    """
    items = items_of(store, network.patch, settings.photo, run.compute.workers)
    if annotations is None:
        draw, pin = _draw(len(items), settings, mix(run.seed, run.stage, "target"), fabric)
        drawn: Batches = lambda step: Batch(target=target_batch(items, *draw(step), pin))  # noqa: E731
    else:
        drawn = _annotated_batches(items, annotations, settings, run, fabric)
    if source is None:
        return drawn
    both = source_batches(source, network, settings, run, fabric)
    return lambda step: replace(drawn(step), source=both(step).source)


def _annotated_batches(
    items: Items,
    annotations: PreparedAnnotations,
    settings: Adapt | Pretrain,
    run: StageRun,
    fabric: Fabric,
) -> Batches:
    """Batches of target images with what is marked on them; the images that were drawn from all come first."""
    rank, world = fabric.global_rank, fabric.world_size
    seed, count = mix(run.seed, run.stage, "target"), settings.batch
    share = Share(count - settings.marked, count, annotations.items(items))

    def drawn(step: int) -> Batch:
        positions = positions_of(count // world, step, rank, world)
        numbers, seeds = share.indices(len(items), positions, seed)
        places = items.places(numbers, seeds)
        image, label = items.labelled(places, seeds, annotations.labels)
        target = TargetBatch(image, items.index(places))
        annotation = annotations.of(items, places, label, share.drawn)
        if fabric.device.type == "cuda":
            target = TargetBatch(target.image.pin_memory(), target.index.pin_memory())
            annotation = annotation.mapped(Tensor.pin_memory)
        return Batch(target=target, annotation=annotation)

    return drawn


Draw = Callable[[int], tuple[NDArray[np.int64], list[int]]]
"""step → item numbers of this process's rows of the batch, and a seed for each item"""


def _draw(count: int, settings: Training, seed: int, fabric: Fabric) -> tuple[Draw, bool]:
    """The function that draws batches, and whether to pin their memory."""
    rank, world = fabric.global_rank, fabric.world_size
    batch = settings.batch // world

    def draw(step: int) -> tuple[NDArray[np.int64], list[int]]:
        positions = positions_of(batch, step, rank, world)
        numbers = batch_indices(count, batch, step, seed, rank, world)
        return numbers, [mix(seed, "place", int(position)) for position in positions]

    return draw, fabric.device.type == "cuda"


def neighbours_of(items: Slices, index: Tensor, offset: int) -> tuple[Tensor, Tensor]:
    """The slices ``offset`` further in their cases than slices ``index`` ``[b]`` of the store.

    Returns:
        images ``[b, c, h, w]``, and whether the case goes so far ``[b]``; where not, the image is the slice itself.
    """
    places = index.cpu().numpy()
    moved = np.clip(places + offset, 0, len(items) - 1)
    there = (moved == places + offset) & (items.cases(moved) == items.cases(places)).numpy()
    return items.image(np.where(there, moved, places)), torch.from_numpy(there)


def all_images(items: Items, run: StageRun) -> Iterator[Tensor]:
    """Batches of every image once, shuffled so that each batch mixes cases."""
    return shuffled_batches(items, BATCHNORM_BATCH, mix(run.seed, run.stage, "batchnorm"))
