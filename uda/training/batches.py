"""Which images a step sees: batches by number, drawn from (seed, stage, step)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from uda.config.networks import AnyNetwork
from uda.config.recipe import Training
from uda.data.items import Items, items_of
from uda.data.sampling import (
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
from uda.types import Batch


def source_batches(
    store: Store, network: AnyNetwork, settings: Training, run: StageRun, fabric: Fabric
) -> Batches:
    """Labelled images, as training sees them."""
    items = items_of(store, network.patch, settings.photo, run.compute.workers)
    draw, pin = _draw(len(items), settings, mix(run.seed, run.stage, "source"), fabric)
    return lambda step: Batch(source=source_batch(items, *draw(step), pin))


def target_batches(
    store: Store,
    source: Store | None,
    network: AnyNetwork,
    settings: Training,
    run: StageRun,
    fabric: Fabric,
) -> Batches:
    """Unlabelled images, and with ``source`` labelled ones beside them."""
    items = items_of(store, network.patch, settings.photo, run.compute.workers)
    draw, pin = _draw(len(items), settings, mix(run.seed, run.stage, "target"), fabric)
    if source is None:
        return lambda step: Batch(target=target_batch(items, *draw(step), pin))
    both = source_batches(source, network, settings, run, fabric)
    return lambda step: Batch(both(step).source, target_batch(items, *draw(step), pin))


Draw = Callable[[int], tuple[NDArray[np.int64], list[int]]]
"""step → which items stand in this process's share of the batch, and a seed for each"""


def _draw(count: int, settings: Training, seed: int, fabric: Fabric) -> tuple[Draw, bool]:
    """How batches are drawn, and whether their memory is to be pinned."""
    rank, world = fabric.global_rank, fabric.world_size
    batch = settings.batch // world

    def draw(step: int) -> tuple[NDArray[np.int64], list[int]]:
        positions = positions_of(batch, step, rank, world)
        numbers = batch_indices(count, batch, step, seed, rank, world)
        return numbers, [mix(seed, "place", int(position)) for position in positions]

    return draw, fabric.device.type == "cuda"


def all_images(items: Items, run: StageRun) -> Iterator[Tensor]:
    """Every image once, in a shuffled order so that each batch mixes cases."""
    return shuffled_batches(items, BATCHNORM_BATCH, mix(run.seed, run.stage, "batchnorm"))
