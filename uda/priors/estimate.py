"""Estimate a prior of any kind from the model and, where the kind needs them, target and source data."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import nn

from uda.config.card import DatasetCard, PhotoPrepare
from uda.config.priors import (
    AreaPrior,
    CamPrior,
    ImageLevelPrior,
    LandmarkPrior,
    PredictedPrior,
    PriorSpec,
    SizeCsvPrior,
    SizePrior,
    SourceRatioPrior,
    SpatialPrior,
    TagPrior,
)
from uda.config.recipe import Compute
from uda.data.cases import names_of
from uda.data.items import Slices, items_of
from uda.data.sampling import shuffled_batches
from uda.data.seeds import mix
from uda.data.store import Store
from uda.data.tags import read_tags
from uda.devices.device import deterministic, make_fabric
from uda.errors import DataError, PriorError
from uda.networks.batchnorm import BATCHNORM_BATCH, estimate_batchnorm
from uda.networks.model_file import ModelInfo, Trained, card_of
from uda.priors import (
    Landmarks,
    Prior,
    Seeds,
    from_areas_mm2,
    from_image_level,
    from_predictions,
    from_size_counts,
    from_sizes_ml,
    from_source_labels,
    from_source_maps,
    from_tags,
    image_level_ratios,
    label_maps,
    label_table,
    mean_ratios,
    presence_ratio,
    read_sizes,
    select_tags,
    size_distribution,
)
from uda.priors.class_activation import fit_tags, held_out_accuracy, told, usable
from uda.priors.network_evidence import (
    activation_seeds,
    example_images,
    image_features,
    predicted_ratios,
    superpixel_features,
)
from uda.priors.prior import listed
from uda.priors.superpixels import classify, majority, rowed, surest

SOURCE_IMAGES = 200
"""labelled images that train the landmark classifier, evenly spread over the source"""
EXAMPLES = 4
"""images in the picture of landmarks or seeds"""

T = TypeVar("T")


@dataclass(frozen=True)
class Evidence:
    """The inputs of a prior beside the model; each kind needs some of them."""

    target: Store | None = None
    """unlabelled target images"""
    source: Store | None = None
    """labelled source images"""
    tags: Mapping[tuple[str, int], Sequence[bool]] | None = None
    """(case, slice index) → which structures the slice shows"""
    sizes: Path | None = None
    """CSV file of pixel counts"""


def make_prior(
    spec: PriorSpec, parent: Trained, evidence: Evidence, compute: Compute, seed: int
) -> Prior:
    """A prior for the classes of the parent model, of the kind that ``spec`` sets.

    Args:
        compute, seed: used by the kinds that run the network; the seed orders the batches.

    Raises:
        PriorError: the model or the evidence lacks what this kind needs, or holds impossible values.
    """
    model, info = parent.network, parent.info
    match spec:
        case SizePrior():
            geometries = [case.geometry for case in _needed(evidence.target, spec.kind).cases]
            prior = from_sizes_ml(info.classes, spec.sizes_ml, geometries, spec.supervision)
        case AreaPrior():
            geometries = [case.geometry for case in _needed(evidence.target, spec.kind).cases]
            prior = from_areas_mm2(info.classes, spec.areas_mm2, geometries, spec.supervision)
        case PredictedPrior():
            prior = _predicted(spec, model, info, evidence, compute, seed)
        case ImageLevelPrior() | LandmarkPrior():
            prior = _image_level(spec, model, info, evidence, compute, seed)
        case CamPrior():
            prior = _cam(spec, model, info, evidence, compute, seed)
        case SizeCsvPrior():
            prior = _counted(spec, info, evidence)
        case SpatialPrior():
            prior = _spatial(spec, info, evidence)
        case SourceRatioPrior() | TagPrior():
            prior = _from_model(spec, info, evidence, parent.path)
    photos = isinstance(info.prepare, PhotoPrepare)
    return replace(prior, photos=photos).validate(info.classes)


def _from_model(
    spec: SourceRatioPrior | TagPrior, info: ModelInfo, evidence: Evidence, parent: Path
) -> Prior:
    """From the class ratios of the training labels, which the model file holds."""
    ratio = info.presence_ratio if isinstance(spec, TagPrior) else info.class_ratio
    if ratio is None:
        raise PriorError(
            "the model does not know the class ratio of its training labels",
            where=parent,
            fix="use a prior of sizes, of predictions, or your own prior.json",
        )
    if isinstance(spec, TagPrior):
        tags = _needed(evidence.tags, spec.kind)
        return from_tags(info.classes, ratio, tags, info.sizes)
    return from_source_labels(info.classes, ratio, info.sizes)


def _spatial(spec: SpatialPrior, info: ModelInfo, evidence: Evidence) -> Prior:
    source = _needed(evidence.source, spec.kind)
    table = label_table(source.labels, len(info.classes))
    maps = label_maps(source.labels, len(info.classes), spec.sigma)
    ratio, _ = mean_ratios(table)
    return from_source_maps(info.classes, ratio, maps, spec.sigma, size_distribution(table))


def _predicted(
    spec: PredictedPrior,
    model: nn.Module,
    info: ModelInfo,
    evidence: Evidence,
    compute: Compute,
    seed: int,
) -> Prior:
    target = _needed(evidence.target, spec.kind)
    if spec.per_image:
        _refuse_3d(info, spec.kind)
    with deterministic():
        fabric = make_fabric(compute)
        model.to(fabric.device)
        items = items_of(target, info.network.patch)
        images = shuffled_batches(items, BATCHNORM_BATCH, mix(seed, "batchnorm"))
        target_statistics = spec.batchnorm == "target" and estimate_batchnorm(
            model, images, fabric.device
        )
        ratios = predicted_ratios(model, items, fabric)
    return from_predictions(
        info.classes,
        ratios,
        target.places(),
        per_image=spec.per_image,
        batchnorm="target" if target_statistics else "source",
    )


def _image_level(
    spec: ImageLevelPrior | LandmarkPrior,
    model: nn.Module,
    info: ModelInfo,
    evidence: Evidence,
    compute: Compute,
    seed: int,
) -> Prior:
    source, target = _needed(evidence.source, spec.kind), _needed(evidence.target, spec.kind)
    _refuse_3d(info, spec.kind)
    table = label_table(source.labels, len(info.classes))
    sizes = size_distribution(table)
    labelled = table.sum(1) > 0
    with deterministic():
        fabric = make_fabric(compute)
        model.to(fabric.device)
        source_features = image_features(model, Slices(source), fabric)
        target_features = image_features(model, Slices(target), fabric)
        landmarks = None
        if isinstance(spec, LandmarkPrior):
            landmarks = _landmarks(spec, model, source, source.labels, target, fabric, seed)
    ratios = image_level_ratios(
        spec.method,
        source_features[labelled],
        table[labelled],
        target_features,
        neighbours=spec.neighbours,
        l2=spec.l2,
    )
    prior = from_image_level(info.classes, ratios, target.places(), spec.method, sizes)
    if landmarks is None:
        return prior
    how = "; superpixel classes by logistic regression from class scores in and around them"
    return replace(prior, landmarks=landmarks, how=prior.how + how)


def _cam(
    spec: CamPrior,
    model: nn.Module,
    info: ModelInfo,
    evidence: Evidence,
    compute: Compute,
    seed: int,
) -> Prior:
    """From image tags, with seeds by class activation maps of a classifier of these tags.

    The network has the target's BatchNorm statistics. A model that does not know the class ratio of its training labels
    predicts it, on the images that show a structure.
    """
    target, tags = _needed(evidence.target, spec.kind), _needed(evidence.tags, spec.kind)
    _refuse_3d(info, spec.kind)
    places = target.places()
    if untagged := [place for place in places if place not in tags]:
        raise PriorError(
            f"there are no tags of {len(untagged)} of {len(places)} target images: {listed(untagged)}",
            expected="a line for each target image",
            fix="add their lines to the tags",
        )
    table = np.array([tags[place] for place in places], dtype=bool)
    names = card_of(info).structures
    with deterministic():
        fabric = make_fabric(compute)
        model.to(fabric.device)
        items = Slices(target)
        images = shuffled_batches(items, BATCHNORM_BATCH, mix(seed, "batchnorm"))
        estimate_batchnorm(model, images, fabric.device)
        features = image_features(model, items, fabric)
        classifier = fit_tags(features, table, spec.l2)
        accuracy = held_out_accuracy(features, table, [case for case, _ in places], spec.l2)
        used = usable(names, table, accuracy, spec.min_accuracy)
        right = float(((classifier.logits(features) > 0) == table).mean())
        classifier = replace(classifier, weights=classifier.weights * used[:, None])
        numbers = [info.classes.index(name) for name in names]
        drawn = np.flatnonzero(table[:, used].any(1))
        shown = drawn[np.unique(np.linspace(0, len(drawn) - 1, EXAMPLES).astype(int))]
        labels, maps = activation_seeds(
            model, items, classifier, table, numbers, spec, shown, fabric
        )
        ratio = info.presence_ratio
        if ratio is None:
            ratio = presence_ratio(predicted_ratios(model, items, fabric), table, numbers)
    prior = from_tags(info.classes, ratio, tags, info.sizes)
    if info.presence_ratio is None:
        how = (
            "image tags; a shown structure has its mean predicted ratio in the images that show it"
        )
        prior = replace(prior, supervision=("target_tags",), how=how)
    seeds = Seeds(
        tuple(places),
        labels,
        example_images(target, shown),
        maps[:, torch.from_numpy(used)],
        tuple(number for number, one in zip(numbers, used, strict=True) if one),
        tuple(shown.tolist()),
    )
    how = f"{prior.how}; {told(names, accuracy, used, right)}"
    return replace(prior, seeds=seeds, how=how)


def _landmarks(
    spec: LandmarkPrior,
    model: nn.Module,
    source: Store,
    labels: NDArray[np.uint8],
    target: Store,
    fabric: Fabric,
    seed: int,
) -> Landmarks:
    """The superpixels of the target images, and the classes of the most confident ones.

    Each domain is described with its own BatchNorm statistics: with the source's statistics, a network can take a
    dark target sky for a road with high confidence. The model keeps the target's statistics afterwards.
    """
    few = np.unique(np.linspace(0, len(source) - 1, min(SOURCE_IMAGES, len(source))).astype(int))
    settings = (spec.segments, spec.stride, fabric)
    ids, source_rows = superpixel_features(model, Slices(source), few, *settings)
    source_classes = [majority(ids[at], labels[number]) for at, number in enumerate(few)]
    images = shuffled_batches(Slices(target), BATCHNORM_BATCH, mix(seed, "batchnorm"))
    estimate_batchnorm(model, images, fabric.device)
    every = np.arange(len(target))
    ids, target_rows = superpixel_features(model, Slices(target), every, *settings)
    answer = classify(
        np.concatenate(source_rows),
        np.concatenate(source_classes),
        np.concatenate(target_rows),
        spec.l2,
    )
    shown = np.unique(np.linspace(0, len(target) - 1, min(EXAMPLES, len(target))).astype(int))
    return Landmarks(
        tuple(target.places()),
        torch.from_numpy(ids),
        torch.from_numpy(rowed(surest(*answer, spec.kept), [len(rows) for rows in target_rows])),
        example_images(target, shown),
        tuple(shown.tolist()),
    )


def _refuse_3d(info: ModelInfo, kind: str) -> None:
    """Refuse a prior of single slices from a network that sees patches of volumes."""
    if info.network.spatial_dims == 3:
        raise PriorError(
            f"a prior of kind {kind!r} asks the network about single slices, and this one is 3-D",
            fix="use a prior for the data set as a whole (per_image: false), or a 2-D network",
        )


def _counted(spec: SizeCsvPrior, info: ModelInfo, evidence: Evidence) -> Prior:
    target, path = _needed(evidence.target, spec.kind), _needed(evidence.sizes, spec.kind)
    pixels = math.prod(info.prepare.size)
    counts = read_sizes(path, spec.column, info.classes, pixels)
    return from_size_counts(info.classes, counts, target.places(), spec.supervision, path)


def card_tags(card: DatasetCard, root: Path) -> Mapping[tuple[str, int], Sequence[bool]]:
    """The tags of a card's ``adapt`` split.

    Raises:
        PriorError: the card names no tags file.
        DataError: the tags cannot be read, or name a case that the card does not have.
    """
    if card.tags is None:
        raise PriorError(f"card {card.name!r} names no tags file", fix="add `tags:` to the card")
    path = root / card.root / card.tags
    names = {split: set(cases) for split, cases in card.splits.items()}
    for split, cases in names.items():
        with contextlib.suppress(DataError):  # a pattern that fits no file
            cases |= set(names_of(card, root / card.root, split))
    known = {name for cases in names.values() for name in cases}
    return select_tags(read_tags(path, card.structures), names.get("adapt", ()), known, path)


def _needed(value: T | None, kind: str) -> T:
    """The value; an error where a kind of :mod:`uda.config.priors` lacks an input."""
    if value is None:
        raise PriorError(
            f"a prior of kind {kind!r} needs images, tags or sizes that were not given",
            fix="give them, or use another kind",
        )
    return value
