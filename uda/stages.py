"""What each training stage does: read its parents' files, build, train, write its own.

Every function here gets all it needs as arguments and writes only into the folder it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from uda.cards import DatasetCard, PhotoPrepare
from uda.compute import deterministic, make_fabric
from uda.config import Adapt, Compute, Training
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
from uda.errors import ConfigError, PriorError
from uda.heads import head, head_parameters, use_auxiliary
from uda.models import ModelInfo, build, check_classes, load_backbone, load_model, save_model
from uda.network_specs import AnyNetwork
from uda.norms import estimate_batchnorm, has_batchnorm, set_mode
from uda.objective import Objective
from uda.parts import Known
from uda.priors import Prior, label_table, mean_ratios, size_distribution
from uda.trainer import RESUME_FILE, Batches, Run, fit
from uda.types import Batch
from uda.validation import validation_scores
from uda.world import first_then_all, on_first

MODEL_FILE = "model.safetensors"
BATCHNORM_BATCH = 32
"""slices"""
SOURCE_AGAIN = ("source_images",)
"""ledger of a stage that is not source-free"""


@dataclass(frozen=True)
class Workplace:
    """Where and how a stage runs."""

    folder: Path
    stage: str
    seed: int
    compute: Compute
    origin: dict[str, str]
    quiet: bool = True

    @property
    def run(self) -> Run:
        return Run(self.seed, self.stage, self.folder, self.quiet)


def train_supervised(
    place: Workplace,
    network: AnyNetwork,
    card: DatasetCard,
    store: Store,
    settings: Training,
    ledger: str,
    validation: Store | None = None,
) -> dict[str, Any]:
    """Train a fresh network on labelled slices: pretraining on the source, or the upper bound on the target.

    Returns:
        what belongs into ``stage.json``: the ledger and, with ``validation``, its 2-D Dice per class.
    """
    labelled = on_first(lambda: label_table(store.labels, len(card.classes)))
    ratio, presence = mean_ratios(labelled)
    info = ModelInfo(
        network=network,
        classes=card.classes,
        prepare=card.prepare,
        supervision=(ledger,),
        class_ratio=ratio,
        presence_ratio=presence,
        origin=place.origin,
        sizes=size_distribution(labelled),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(place.seed, "initial weights"))
        model = build(network, len(card.classes), card.prepare.channels)
        first_then_all(lambda: load_backbone(model, network))
    with deterministic():
        fabric = make_fabric(place.compute)
        batches = _source_batches(store, network, settings, place, fabric)
        objective = Objective(settings.objective)
        use_auxiliary(model, any(term.aux for term in settings.objective))
        kept = _train(place, fabric, model, info, objective, settings, batches, set_mode_train)
        record: dict[str, Any] = {"supervision": list(info.supervision), **_left_out(store)}
        if validation is not None:
            record |= on_first(lambda: validation_scores(kept, info, card, validation, fabric))
    return record


def _left_out(store: Store) -> dict[str, Any]:
    return {"skipped": store.skipped} if store.skipped else {}


def set_mode_train(model: nn.Module) -> None:
    """Training mode, BatchNorm included."""
    set_mode(model, "train")


def adabn(place: Workplace, parent: Path, store: Store, card: DatasetCard) -> dict[str, Any]:
    """The source model with the target's BatchNorm statistics and nothing else."""
    model, info = load_model(parent)
    check_classes(info, card, parent)
    info = replace(info.told(("none",)), prepare=card.prepare, origin=place.origin)
    with deterministic():
        fabric = make_fabric(place.compute)
        model.to(fabric.device)
        if has_batchnorm(model):
            estimate_batchnorm(model, _all_images(_items(store, info), place), fabric.device)
    save_model(place.folder / MODEL_FILE, model, info)
    return {"supervision": list(info.supervision), "batchnorm": has_batchnorm(model)}


def adapt(
    place: Workplace,
    parent: Path,
    store: Store,
    card: DatasetCard,
    settings: Adapt,
    prior: Prior | None,
    source: Store | None = None,
) -> dict[str, Any]:
    """Adapt the parent model to unlabelled slices by one variant's objective."""
    model, info = load_model(parent)
    check_classes(info, card, parent)
    told = (*(prior.supervision if prior else ()), *(() if settings.source_free else SOURCE_AGAIN))
    info = replace(info.told(told), prepare=card.prepare, origin=place.origin)
    items = _items(store, info)
    if {"maps", "landmarks"} & settings.needs() and info.network.spatial_dims == 3:
        raise ConfigError(
            "a spatial prior says where a class lies in a slice; a 3-D network sees patches anywhere",
            expected="terms without maps and landmarks",
            fix="leave cbst_sp, spatial_prior_kl and landmarks out, or use a 2-D network",
        )
    known = known_of(prior.validate(info.classes), store) if prior else None
    objective = Objective(
        settings.objective, known, lambda: _all_images(items, place), mix(place.seed, place.stage)
    )
    if settings.freeze_head:
        head(model).requires_grad_(False)
    use_auxiliary(model, any(term.aux for term in settings.objective))
    with deterministic():
        fabric = make_fabric(place.compute)
        if settings.batchnorm in ("target", "warmed"):
            model.to(fabric.device)
            images = _all_images(items, place)
            on_first(lambda: estimate_batchnorm(model, images, fabric.device))
        batches = _target_batches(store, source, info.network, settings, place, fabric)

        def mode(trained: nn.Module) -> None:
            set_mode(trained, settings.batchnorm)

        _train(place, fabric, model, info, objective, settings, batches, mode)
    said = {"supervision": list(info.supervision), "source_free": settings.source_free}
    return {**said, **_left_out(store)}


def known_of(prior: Prior, store: Store) -> Known:
    """What a prior tells of the images of a store.

    Raises:
        PriorError: its maps have another size than the images, or it misses some of the images.
    """
    if prior.maps is not None and prior.maps.shape[1:] != store.size:
        raise PriorError(
            f"the prior's maps are {tuple(prior.maps.shape[1:])}",
            expected=f"the size of the prepared target images, {store.size}",
            fix="make the spatial prior with this model's preparation",
        )
    largest = None
    if prior.sizes is not None:
        largest = torch.tensor([1.0, *(row[-1] for row in prior.sizes.quantiles[1:])])
    segments, classes = prior.landmarks.of(store.places()) if prior.landmarks else (None, None)
    ratio = prior.table(store.places(), store.file_places())
    return Known(ratio, prior.maps, largest, segments, classes)


def _train(
    place: Workplace,
    fabric: Fabric,
    model: nn.Module,
    info: ModelInfo,
    objective: Objective,
    settings: Training,
    batches: Batches,
    mode: Callable[[nn.Module], object],
) -> nn.Module:
    """Run the loop, keep snapshots on the way and the model at the end, drop the resume file."""
    if place.compute.channels_last:
        solid = info.network.spatial_dims == 3
        model.to(memory_format=torch.channels_last_3d if solid else torch.channels_last)

    def snapshot(kept: nn.Module, step: int) -> bool:
        path = place.folder / "snapshots" / f"{step:06d}" / MODEL_FILE
        on_first(lambda: save_model(path, kept, replace(info, step=step)))
        return False

    heads = head_parameters(model) if settings.head_lr != 1 else []
    kept = fit(
        fabric,
        model,
        objective,
        settings,
        batches,
        replace(place.run, photos=isinstance(info.prepare, PhotoPrepare)),
        set_mode=mode,
        snapshot=snapshot,
        every=settings.snapshot_every,
        heads=heads,
    )
    final = replace(info, step=settings.steps)
    on_first(lambda: save_model(place.folder / MODEL_FILE, kept, final))
    on_first(lambda: (place.folder / RESUME_FILE).unlink(missing_ok=True))
    return kept


def _source_batches(
    store: Store, network: AnyNetwork, settings: Training, place: Workplace, fabric: Fabric
) -> Batches:
    items = items_of(store, network.patch, settings.photo, place.compute.workers)
    draw, pin = _draw(len(items), settings, mix(place.seed, place.stage, "source"), fabric)
    return lambda step: Batch(source=source_batch(items, *draw(step), pin))


def _target_batches(
    store: Store,
    source: Store | None,
    network: AnyNetwork,
    settings: Training,
    place: Workplace,
    fabric: Fabric,
) -> Batches:
    items = items_of(store, network.patch, settings.photo, place.compute.workers)
    draw, pin = _draw(len(items), settings, mix(place.seed, place.stage, "target"), fabric)
    if source is None:
        return lambda step: Batch(target=target_batch(items, *draw(step), pin))
    both = _source_batches(source, network, settings, place, fabric)
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


def _items(store: Store, info: ModelInfo) -> Items:
    return items_of(store, info.network.patch)


def _all_images(items: Items, place: Workplace) -> Iterator[Tensor]:
    """Every image once, in a shuffled order so that each batch mixes cases."""
    return shuffled_batches(items, BATCHNORM_BATCH, mix(place.seed, place.stage, "batchnorm"))
