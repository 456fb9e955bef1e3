"""What every stage that trains a network does: run the loop, write snapshots and the model, remove checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from uda.config.card import DatasetCard, PhotoPrepare
from uda.config.recipe import Adapt, Pretrain, Training
from uda.data.annotations.folder import Annotations
from uda.data.annotations.prepared import PreparedAnnotations, prepared
from uda.data.store import Store
from uda.devices.distributed import on_first
from uda.networks.heads import head_parameters
from uda.networks.model_file import MODEL_FILE, ModelInfo, save_model
from uda.prediction.image_ranges import describe_images
from uda.selection.guard import snapshot_file
from uda.training.loop import Batches, fit
from uda.training.objective import Objective
from uda.training.run import StageRun
from uda.training.state import forget_checkpoints


def fit_model(
    run: StageRun,
    fabric: Fabric,
    model: nn.Module,
    info: ModelInfo,
    objective: Objective,
    settings: Training,
    batches: Batches,
    mode: Callable[[nn.Module], object],
    seen: Callable[[int], bool] = lambda step: False,
) -> nn.Module:
    """Run the loop and write its snapshots; ``seen`` gets the step of each and may end the training."""
    model.to(memory_format=memory_format(run, info))

    def snapshot(kept: nn.Module, step: int) -> bool:
        path = snapshot_file(run.folder, step)
        on_first(lambda: save_model(path, kept, replace(info, step=step)))
        return seen(step)

    return fit(
        fabric,
        model,
        objective,
        settings,
        batches,
        replace(run, photos=isinstance(info.prepare, PhotoPrepare)),
        set_mode=mode,
        snapshot=snapshot,
        heads=head_parameters(model) if settings.head_lr != 1 else [],
    )


def finish(run: StageRun, kept: nn.Module, info: ModelInfo, store: Store, fabric: Fabric) -> None:
    """Write the model to keep and remove the training's checkpoints."""
    on_first(lambda: save_model(run.folder / MODEL_FILE, kept, info))
    on_first(lambda: describe_images(run.folder / MODEL_FILE, store, fabric, kept))
    on_first(lambda: forget_checkpoints(run.folder))


def clear(run: StageRun, snapshots: bool) -> None:
    """Remove the training's checkpoints, and the snapshots unless the recipe requests them."""
    forget_checkpoints(run.folder)
    if not snapshots:
        shutil.rmtree(run.folder / "snapshots", ignore_errors=True)


def left_out(store: Store) -> dict[str, Any]:
    """The store's entry of ``stage.json``, where it skipped cases."""
    return {"skipped": store.skipped} if store.skipped else {}


def marked_on(
    store: Store, card: DatasetCard, settings: Pretrain | Adapt, annotations: Annotations | None
) -> PreparedAnnotations | None:
    """The annotations of the kinds that a training names, on the grid of its images; None where it names none."""
    if annotations is None or not settings.annotations:
        return None
    kinds, cases = settings.annotations, settings.annotated_cases
    return prepared(annotations, store, card.classes, card.structures, kinds, cases)


def memory_format(run: StageRun, info: ModelInfo) -> torch.memory_format:
    """How weights lie in memory: channels last is faster for most networks."""
    if not run.compute.channels_last:
        return torch.preserve_format
    return torch.channels_last_3d if info.network.spatial_dims == 3 else torch.channels_last
