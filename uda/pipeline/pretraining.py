"""Supervised training: of the source model, and of the upper bound on the target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from uda.config.card import DatasetCard
from uda.config.networks import AnyNetwork
from uda.config.recipe import Pretrain
from uda.data.annotations.folder import Annotations
from uda.data.seeds import mix
from uda.data.store import Store
from uda.devices.device import deterministic, make_fabric
from uda.devices.distributed import first_then_all, on_first
from uda.networks.batchnorm import set_mode
from uda.networks.build import build
from uda.networks.heads import use_auxiliary
from uda.networks.model_file import ModelInfo, load_model
from uda.networks.weights import load_backbone_weights
from uda.pipeline.calibration import calibrated
from uda.pipeline.training_stage import clear, finish, fit_model, left_out, marked_on
from uda.pipeline.validation import BestStep, Scores, validation_scores
from uda.priors import label_table, mean_ratios, size_distribution
from uda.selection.guard import snapshot_file
from uda.training.batches import source_batches, target_batches
from uda.training.objective import Objective
from uda.training.run import StageRun

VALIDATIONS = 10
"""About how many snapshots ``select: perturbed`` chooses from in a training whose ``snapshot_every`` is 0."""
Validate = Callable[[nn.Module, int | None], Scores]
"""scores of a model on the validation images, as they are (None) or perturbed from a seed"""


def train_supervised(
    run: StageRun,
    network: AnyNetwork,
    card: DatasetCard,
    store: Store,
    settings: Pretrain,
    ledger: str,
    validation: Store | None = None,
    annotations: Annotations | None = None,
) -> dict[str, Any]:
    """Train a new network on labelled images: pretraining on the source, or the upper bound on the target.

    Args:
        ledger: entry for the labels.
        annotations: what is marked on the images, to train on in place of labels.

    Returns:
        entries of ``stage.json``: the ledger, skipped cases and, with ``validation``, its
        :func:`~uda.pipeline.validation.validation_scores`; with ``select: perturbed`` also those of perturbed images,
        and their mean at every snapshot.
    """
    marked = marked_on(store, card, settings, annotations)
    info = ModelInfo(
        network=network,
        classes=card.classes,
        prepare=card.prepare,
        supervision=(ledger,),
        origin=run.origin,
        step=settings.steps,
    )
    if marked is None:
        labelled = on_first(lambda: label_table(store.labels, len(card.classes)))
        ratio, presence = mean_ratios(labelled)
        sizes = size_distribution(labelled)
        info = replace(info, class_ratio=ratio, presence_ratio=presence, sizes=sizes)
    else:
        words = tuple(word.replace("target_", "source_") for word in marked.supervision)
        info = replace(info, supervision=words)
    model = new_network(run, network, card)
    record: dict[str, Any] = {"supervision": list(info.supervision), **left_out(store)}
    if marked is not None:
        record["annotations"] = marked.record()
    with deterministic():
        fabric = make_fabric(run.compute)
        if marked is None:
            batches = source_batches(store, network, settings, run, fabric)
        else:
            batches = target_batches(store, None, network, settings, run, fabric, marked)
        objective = Objective(settings.objective)
        use_auxiliary(model, any(term.aux for term in settings.objective))
        train = partial(fit_model, run, fabric, model, info, objective)
        if validation is None:
            kept = train(settings, batches, set_mode_train)
        else:

            def validate(trained: nn.Module, perturbed: int | None = None) -> Scores:
                return validation_scores(trained, info, card, validation, fabric, perturbed)

            if settings.select == "perturbed" and settings.steps:
                best = _best_step(run, settings, validate, fabric.device)
                watched = settings.model_copy(update={"snapshot_every": best.every})
                train(watched, batches, set_mode_train, lambda at: on_first(lambda: best.seen(at)))
                step, steps = on_first(best.choice)
                info = replace(info, step=step)
                kept = load_model(snapshot_file(run.folder, step))[0].to(fabric.device)
                record |= {"validation_step": step, "validation_steps": steps}
                record["validation_perturbed"] = on_first(lambda: validate(kept, run.seed))
            else:
                kept = train(settings, batches, set_mode_train)
            name = "validation_iou" if card.photos else "validation_dice"
            record[name] = on_first(lambda: validate(kept))
            if not card.photos and marked is None:
                limits = on_first(
                    lambda: calibrated(kept, info, store, validation, fabric, run.seed)
                )
                info = replace(info, limits=limits)
        finish(run, kept, info, store, fabric)
        on_first(lambda: clear(run, settings.snapshot_every > 0))
    return record


def new_network(run: StageRun, network: AnyNetwork, card: DatasetCard) -> nn.Module:
    """A network with initial weights from the seed, those of the backbone from its file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(run.seed, "initial weights"))
        model = build(network, len(card.classes), card.prepare.channels)
        first_then_all(lambda: load_backbone_weights(model, network))
    return model


def _best_step(
    run: StageRun, settings: Pretrain, validate: Validate, device: torch.device
) -> BestStep:
    every = settings.snapshot_every or max(1, settings.steps // VALIDATIONS)
    return BestStep(lambda model: validate(model, run.seed), run.folder, every, device)


def set_mode_train(model: nn.Module) -> None:
    """Put a network into training mode, BatchNorm included."""
    set_mode(model, "train")
