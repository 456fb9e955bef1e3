"""The functions behind ``import uda``: recipes stage by stage, and one's own model on one's own images."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uda.config.loading import load_card, override, parse
from uda.config.priors import KINDS, NEEDS_SOURCE, NEEDS_TARGET, PriorSpec
from uda.config.recipe import Compute, Recipe
from uda.data.cases import cases_in, cases_of
from uda.data.store import Store, open_store
from uda.data.tags import read_tags
from uda.errors import PriorError
from uda.files.atomic import read_json
from uda.networks.model_file import ModelInfo, check_classes, load_model
from uda.own import DEFAULT_COMPUTE, PathLike, adapt, card_of, evaluate_model, predict
from uda.pipeline import run as pipeline
from uda.priors import Prior, select_tags
from uda.priors.estimate import Evidence, make_prior


def pretrain(recipe: Recipe, out: PathLike | None = None) -> Path:
    """Run a recipe's source training, if it is not there yet; returns its stage folder."""
    return pipeline.run(recipe, out, until="pretrain")[-1].folder


def evaluate(recipe: Recipe, out: PathLike | None = None) -> dict[str, Any]:
    """Run a recipe up to its table and return the content of ``metrics.json``."""
    folder = pipeline.run(recipe, out, until="evaluate")[-1].folder
    metrics: dict[str, Any] = read_json(folder / "metrics.json")
    return metrics


def estimate_prior(
    model: PathLike,
    *,
    tags: PathLike | None = None,
    sizes_ml: Mapping[str, float] | None = None,
    areas_mm2: Mapping[str, float] | None = None,
    sizes_csv: PathLike | None = None,
    column: str | None = None,
    predicted: bool = False,
    image_level: str | None = None,
    landmarks: bool = False,
    spatial: bool = False,
    target: PathLike | None = None,
    source: str | None = None,
    root: PathLike | None = None,
    supervision: str | None = None,
    overrides: Sequence[str] = (),
    compute: Compute = DEFAULT_COMPUTE,
) -> Prior:
    """A prior for a model's classes: from its training labels, or as one of the arguments says.

    Args:
        model: the trained model; it knows the class ratio of its training labels.
        tags: CSV ``case,slice,<structures>`` of the target images.
        sizes_ml: structure → ml; needs ``target``, for the images' physical size.
        areas_mm2: structure → mean area in mm² over all slices; needs ``target``.
        sizes_csv: CSV of pixel counts per image; needs ``column`` and ``target``.
        predicted: from the model's own predictions on ``target``.
        image_level: ``nearest``, ``logistic`` or ``ridge``: per image of ``target``, from ``source``.
        landmarks: likewise, and with the classes of the surest superpixels.
        spatial: with maps of where each class lies in ``source``.
        target: folder (or pattern) of the target images.
        source: card of labelled images (split ``train``), below ``root``.
        supervision: what to write into the ledger where somebody gave sizes.
        overrides: ``key=value`` changes of the settings of this kind (:mod:`uda.config.priors`).

    Raises:
        UdaError: two kinds at once, something that the kind needs is missing, or numbers that cannot be
            true.
    """
    given: dict[str, dict[str, Any] | None] = {
        "target_tags": None if tags is None else {},
        "sizes_ml": None if sizes_ml is None else {"sizes_ml": sizes_ml},
        "areas_mm2": None if areas_mm2 is None else {"areas_mm2": areas_mm2},
        "size_csv": None if sizes_csv is None else {"file": str(sizes_csv), "column": column},
        "predicted": {} if predicted else None,
        "image_level": None if image_level is None else {"method": image_level},
        "landmarks": {} if landmarks else None,
        "spatial": {} if spatial else None,
    }
    asked = {kind: raw for kind, raw in given.items() if raw is not None} or {"source_labels": {}}
    if len(asked) > 1:
        raise PriorError(f"two kinds of prior at once: {', '.join(asked)}", expected="one of them")
    ((kind, raw),) = asked.items()
    told = {} if supervision is None else {"supervision": supervision}
    spec = parse(KINDS[kind], {**raw, **told}, f"a prior of kind {kind!r}")
    spec = override(spec, overrides) if overrides else spec
    _, info = load_model(Path(model))
    with tempfile.TemporaryDirectory(prefix="uda-") as folder:
        evidence = Evidence(
            target=_target_store(info, target, Path(folder), spec),
            source=_source_store(info, source, root, Path(folder), spec),
            tags=None if tags is None else _tags_of(info, Path(tags), target),
            sizes=None if sizes_csv is None else Path(sizes_csv),
        )
        return make_prior(spec, Path(model), evidence, compute, seed=0)


def _target_store(
    info: ModelInfo, target: PathLike | None, folder: Path, spec: PriorSpec
) -> Store | None:
    if not isinstance(spec, NEEDS_TARGET):
        return None
    if target is None:
        raise PriorError(
            f"a prior of kind {spec.kind!r} needs the target images",
            fix="give their folder: target=FOLDER (--target FOLDER)",
        )
    card = card_of(info)
    return open_store(card, cases_in(Path(target), card.photos), folder, workers=0)


def _source_store(
    info: ModelInfo, source: str | None, root: PathLike | None, folder: Path, spec: PriorSpec
) -> Store | None:
    if not isinstance(spec, NEEDS_SOURCE):
        return None
    if source is None:
        raise PriorError(
            f"a prior of kind {spec.kind!r} needs the labelled source images",
            fix="give their card: source=CARD (--source CARD --root FOLDER)",
        )
    card = load_card(source)
    check_classes(info, card, source)
    if card.prepare.size != info.prepare.size:
        raise PriorError(
            f"slices of card {card.name!r} are {list(card.prepare.size)}",
            where=source,
            expected=f"prepare.size {list(info.prepare.size)}, as the model's images have",
        )
    return open_store(card, cases_of(card, root, "train", labels=True), folder)


def _tags_of(
    info: ModelInfo, path: Path, target: PathLike | None
) -> Mapping[tuple[str, int], Sequence[bool]]:
    """The tags of a file; with ``target`` they may name its images alone."""
    tags = read_tags(path, info.classes[1:])
    if target is None:
        return tags
    names = {case.name for case in cases_in(Path(target))}
    return select_tags(tags, names, names, path)


__all__ = [
    "adapt",
    "estimate_prior",
    "evaluate",
    "evaluate_model",
    "predict",
    "pretrain",
]
