"""The work of the stages that adapt a network or estimate a prior.

Every function gets all input as arguments and writes only into its stage's folder.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from uda.config.card import DatasetCard
from uda.config.guard import Guard
from uda.config.priors import PriorSpec
from uda.config.recipe import Adapt
from uda.data.annotations.folder import Annotations
from uda.data.items import Items, Slices, items_of
from uda.data.seeds import mix
from uda.data.store import Store
from uda.devices.device import deterministic, make_fabric
from uda.devices.distributed import on_first
from uda.errors import ModelError, NotFiniteError, PriorError
from uda.networks.batchnorm import copy_statistics, estimate_batchnorm, layers, set_mode
from uda.networks.heads import head, use_auxiliary
from uda.networks.model_file import (
    MODEL_FILE,
    ModelInfo,
    Trained,
    check_classes,
    save_model,
)
from uda.networks.normalization import normalization_only
from uda.pipeline.network_fit import check_adaptation
from uda.pipeline.pretraining import new_network
from uda.pipeline.training_stage import (
    clear,
    finish,
    fit_model,
    left_out,
    marked_on,
    memory_format,
)
from uda.prediction.image_ranges import describe_images, with_ranges
from uda.priors import PRIOR_FILE, Prior
from uda.priors.estimate import Evidence, make_prior
from uda.selection import Judge, UnlabelledImages
from uda.selection.guard import JUDGEMENTS, Watch
from uda.training.batches import all_images, neighbours_of, target_batches
from uda.training.objective import Objective
from uda.training.parts import PriorTensors
from uda.training.run import StageRun

SOURCE_AGAIN = ("source_images",)
"""Ledger entry of a stage that is not source-free."""
ADABN_BATCHES = 16
"""Batches of BATCHNORM_BATCH images that the guard's AdaBN is estimated on where the training estimates none; of a
larger target these are a random sample."""


def adabn(run: StageRun, parent: Trained, store: Store, card: DatasetCard) -> dict[str, Any]:
    """Write the source model with BatchNorm statistics of the target (AdaBN); nothing else changes."""
    model, info = parent.network, _starting_from(parent, run, card, ("none",))
    with deterministic():
        fabric = make_fabric(run.compute)
        model.to(fabric.device)
        images = all_images(items_of(store, info.network.patch), run)
        estimated = estimate_batchnorm(model, images, fabric.device)
        save_model(run.folder / MODEL_FILE, model, with_ranges(model, info, store, fabric))
    return {"supervision": list(info.supervision), "batchnorm": estimated}


def adapt(
    run: StageRun,
    parent: Trained,
    store: Store,
    card: DatasetCard,
    settings: Adapt,
    prior: Prior | None,
    source: Store | None = None,
    annotations: Annotations | None = None,
) -> dict[str, Any]:
    """Adapt the parent model to unlabelled target images with one variant's objective.

    Args:
        source: labelled source images; None if the variant is source-free.
        annotations: what is marked on target images; None if the variant names no kind.

    Returns:
        entries of ``stage.json``.

    Raises:
        ConfigError: a term needs to know where classes lie, and the network is 3-D.
        ModelError: the parent's classes differ from the card's, or the network lacks the layers to train.
        PriorError: the prior does not fit the classes or the images.
    """
    marked = marked_on(store, card, settings, annotations)
    used = (
        *(prior.supervision if prior else ()),
        *(() if settings.source_free else SOURCE_AGAIN),
        *(marked.supervision if marked else ()),
    )
    info = _starting_from(parent, run, card, used)
    guarded = settings.select == "guarded"
    # The guard compares checkpoints with the model before adaptation, so it must stay unchanged.
    model = copy.deepcopy(parent.network) if guarded else parent.network
    if settings.start == "scratch":
        model = new_network(run, info.network, card)
        info = replace(info, supervision=used)
    items = items_of(store, info.network.patch)
    check_adaptation(settings, info.network)
    tensors = prior_tensors(prior.validate(info.classes), store) if prior else None
    neighbours = (
        partial(neighbours_of, items) if isinstance(items, Slices) and not card.photos else None
    )
    objective = Objective(
        settings.objective,
        tensors,
        lambda: all_images(items, run),
        mix(run.seed, run.stage),
        neighbours,
    )
    if settings.freeze_head:
        head(model).requires_grad_(False)
    use_auxiliary(model, any(term.aux for term in settings.objective))
    if settings.train == "batchnorm":
        normalization_only(model)
    warmed: nn.Module | None = None
    with deterministic():
        fabric = make_fabric(run.compute)
        if settings.batchnorm in ("target", "warmed"):
            model.to(fabric.device)
            images = all_images(items, run)
            on_first(lambda: estimate_batchnorm(model, images, fabric.device))
            if guarded:  # now, before the statistics follow the training
                warmed = copy.deepcopy(parent.network)
                copy_statistics(model, warmed)
        batches = target_batches(store, source, info.network, settings, run, fabric, marked)

        def mode(trained: nn.Module) -> None:
            set_mode(trained, settings.batchnorm)

        train = partial(fit_model, run, fabric, model, info, objective)
        every = settings.snapshot_every or max(1, settings.steps // JUDGEMENTS)
        watched = settings.model_copy(update={"snapshot_every": every})
        selection: dict[str, Any] = {}
        if guarded:
            guard = settings.guard.annotated() if marked else settings.guard
            judge = _judge_maker(run, parent, items, card, guard, prior, fabric, warmed)
            watch = Watch(judge, run.folder, every, guard)
            try:
                train(watched, batches, mode, watch.seen)
            except NotFiniteError as error:
                watch.failed(error)
            selection["selection"] = watch.keep(info)
            on_first(lambda: describe_images(run.folder / MODEL_FILE, store, fabric, model))
            on_first(lambda: clear(run, settings.snapshot_every > 0))
        else:
            oracle = settings.select == "oracle"
            kept = train(watched if oracle else settings, batches, mode)
            finish(run, kept, replace(info, step=settings.steps), store, fabric)
    supervision = {"supervision": list(info.supervision), "source_free": settings.source_free}
    bare = {} if layers(model) else {"batchnorm": False}
    if bare and selection and selection["selection"]["kept"] == "adabn":
        selection["selection"]["kept"] = "source"  # the same weights
    told = {"annotations": marked.record()} if marked else {}
    return {**supervision, **bare, **selection, **told, **left_out(store)}


def _starting_from(
    parent: Trained, run: StageRun, card: DatasetCard, used: Sequence[str]
) -> ModelInfo:
    """Description of the adapted model: the parent's ledger with the entries ``used``, the card's preparation.

    Raises:
        ModelError: the parent's classes differ from the card's.
    """
    check_classes(parent.info, card, parent.path)
    return replace(parent.info.with_supervision(used), prepare=card.prepare, origin=run.origin)


def _judge_maker(
    run: StageRun,
    parent: Trained,
    items: Items,
    card: DatasetCard,
    guard: Guard,
    prior: Prior | None,
    fabric: Fabric,
    warmed: nn.Module | None,
) -> Callable[[], tuple[Judge, tuple[nn.Module, nn.Module]]]:
    """A function that builds a variant's judge, the source model and the AdaBN model.

    Args:
        warmed: the source model with the target's statistics, where the training has estimated them.
    """

    def make() -> tuple[Judge, tuple[nn.Module, nn.Module]]:
        source, info = parent.network.to(fabric.device), parent.info
        layout = memory_format(run, info)
        if warmed is None:
            adabn = copy.deepcopy(source)
            images = all_images(items, replace(run, stage="adabn"))  # the order of stage adabn
            with contextlib.suppress(ModelError):  # a traced program keeps the source's statistics
                estimate_batchnorm(adabn, islice(images, ADABN_BATCHES), fabric.device)
        else:
            adabn = warmed.to(fabric.device)
        for one in (source, adabn):
            one.to(memory_format=layout)
        ratio = prior.ratio if prior else info.class_ratio
        judge = Judge(
            UnlabelledImages(items, guard.images, mirrored=card.photos),
            info.classes,
            tuple(info.classes.index(name) for name in card.structures),
            None if ratio is None else torch.tensor(ratio),
            source,
            adabn,
            guard,
            fabric,
            run.seed,
            layout,
        )
        return judge, (source, adabn)

    return make


def prior_tensors(prior: Prior, store: Store) -> PriorTensors:
    """A prior's ratios, maps, sizes, landmarks and seeds for the images of a store.

    Raises:
        PriorError: its maps differ from the images in size, or it has no entry for some images.
    """
    if prior.maps is not None and prior.maps.shape[1:] != store.size:
        raise PriorError(
            f"the prior's maps have size {tuple(prior.maps.shape[1:])}",
            expected=f"the size of the prepared target images, {store.size}",
            fix="estimate the spatial prior with this model's preparation",
        )
    largest = None
    if prior.sizes is not None:
        largest = torch.tensor([1.0, *(row[-1] for row in prior.sizes.quantiles[1:])])
    segments, classes = prior.landmarks.of(store.places()) if prior.landmarks else (None, None)
    ratio = prior.table(store.places(), store.file_places())
    seeds = prior.seeds.of(store.places()) if prior.seeds else None
    return PriorTensors(ratio, prior.maps, largest, segments, classes, seeds=seeds)


def estimate_prior(
    run: StageRun, spec: PriorSpec, parent: Trained, evidence: Evidence
) -> dict[str, Any]:
    """Estimate one prior of a recipe and write its files."""
    prior = make_prior(spec, parent, evidence, run.compute, mix(run.seed, run.stage))
    prior.save(run.folder / PRIOR_FILE)
    return {"supervision": list(prior.supervision)}
