"""The public functions of ``import uda``: run recipes, and adapt, predict and score with a single model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from uda.config.card import DatasetCard
from uda.config.default_method import check_used, completed, default_method, preset
from uda.config.loading import load_card, override, parse
from uda.config.methods import DEFAULT
from uda.config.postprocess import NO_STEPS, Postprocess, steps_named
from uda.config.priors import KINDS, SourceRatioPrior, TagPrior
from uda.config.recipe import PLACE, Adapt, Compute, Evaluate, Recipe
from uda.data.annotations.folder import Annotations, find_annotations, read_annotations
from uda.data.annotations.grids import grids_of
from uda.data.cases import Case, card_root, cases_in, cases_of, folders_of
from uda.data.hashes import Hashes
from uda.data.store import content_key, open_store
from uda.devices.device import make_fabric, memory_for
from uda.devices.distributed import this_process
from uda.errors import ConfigError, DataError, ModelError, PriorError
from uda.evaluation.evaluate import evaluate as score
from uda.evaluation.evaluate import metrics_of
from uda.evaluation.rows import Row
from uda.files.apart import check_apart
from uda.files.atomic import read_json, write_json
from uda.files.digests import fingerprint
from uda.files.links import check_links
from uda.files.output import lock, output_folder
from uda.networks.model_file import MODEL_FILE, Trained, card_of, load_model, model_path
from uda.pipeline import run as pipeline
from uda.pipeline import stages
from uda.pipeline.environment import environment
from uda.pipeline.stage_protocol import Stage, run_stage
from uda.prediction.folder import predict_cases
from uda.prediction.opinions import Panel
from uda.prediction.outcome import Outcome
from uda.prediction.suggestion import (
    Opinions,
    Suggestion,
    check_counts,
    check_place,
    suggestions,
    write_suggestions,
)
from uda.priors import PRIOR_FILE, Prior
from uda.priors.estimate import Evidence, make_prior
from uda.priors.from_files import prior_of
from uda.report.adaptation import write_adaptation
from uda.report.schema import METRICS_FILE
from uda.training.run import StageRun

DEFAULT_COMPUTE = Compute()
PathLike = str | Path
RESULTS = (METRICS_FILE, "cases.csv", "overlays.npz", "overlays.json")
"""files of an evaluation"""


def pretrain(recipe: Recipe, out: PathLike | None = None) -> Path:
    """Run a recipe's source training unless it is complete; returns its stage folder."""
    return pipeline.run(recipe, out, until="pretrain")[-1].folder


def evaluate(recipe: Recipe, out: PathLike | None = None) -> dict[str, Any]:
    """Run the stages that a recipe's table depends on and return the content of ``metrics.json``."""
    folder = pipeline.run(recipe, out, until="evaluate")[-1].folder
    metrics: dict[str, Any] = read_json(folder / METRICS_FILE)
    return metrics


def adapt(
    model: PathLike,
    target: PathLike,
    out: PathLike,
    *,
    method: str | Adapt = DEFAULT,
    overrides: Sequence[str] = (),
    prior: Prior | None = None,
    annotations: PathLike | None = None,
    seed: int = 0,
    compute: Compute = DEFAULT_COMPUTE,
    restart: bool = False,
    quiet: bool = True,
    trust_code: bool = False,
) -> Path:
    """Adapt a trained model to a folder of unlabelled images, without its source data.

    Args:
        model: ``model.safetensors``, or the folder that holds it.
        target: folder of images (NIfTI, or photographs for such a model), or a pattern such as
            ``scans/*_image.nii.gz``.
        out: folder of the result, complete or absent; a killed call resumes.
        method: a name of :data:`uda.config.methods.OWN`, or settings.
        overrides: ``key=value`` changes of a named method's settings.
        prior: by default the class ratio of the model's training labels, if the method needs a prior; with tags
            among the annotations that of the tags.
        annotations: folder of what is marked on some of the images (docs/annotations.md). The default method is then
            joined with the one that fits them, ``ratio_teacher+scribbles_crf``; ``default+boxes`` names another one.
        restart: run again from the start, even if the result is complete.
        trust_code: run the code of a model that is a TorchScript program, which can do whatever you can.

    Returns:
        the path of the adapted ``model.safetensors``.

    Raises:
        UdaError: the model, an image, the prior or a setting is invalid; no partial result stays in ``out``.
    """
    _check_alone()
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed is {seed}", expected="0 or more, below 2**63")
    target, out = Path(target), Path(out)
    hashes, given = Hashes(), model_path(Path(model))
    of_model = hashes.of(given) if given.is_file() else ""
    parent = Trained.load(Path(model), trust_code=trust_code)
    card = card_of(parent.info)
    cases = cases_in(target, card.photos)
    marked = None if annotations is None else _annotations_of(Path(annotations), card, cases)
    kinds = () if marked is None else marked.kinds
    if prior is None and marked is not None and marked.tags:
        prior = make_prior(TagPrior(), parent, Evidence(tags=marked.tags), compute, seed=0)
    if isinstance(method, str):
        knows_ratio = prior is not None or parent.info.class_ratio is not None
        method = completed(method, default_method(card.photos, knows_ratio), kinds, card.photos)
    settings = preset(method, list(overrides), kinds) if isinstance(method, str) else method
    check_used(settings, kinds, None if annotations is None else Path(annotations))
    prior = _prior_for(settings, prior, parent)
    inputs = [given, *folders_of(cases), *(() if annotations is None else [Path(annotations)])]
    check_apart(out, inputs)
    make_fabric(compute)  # refuses a missing device before anything is written
    key = content_key(card, cases, hashes)

    def body(work: Path) -> dict[str, Any]:
        store = open_store(card, cases, work / "store", key, compute.workers, hashes)
        origin = {"method": method if isinstance(method, str) else "settings of the caller"}
        run = StageRun(seed, "adapt", work, quiet, compute=compute, origin=origin)
        if settings is None:
            record = stages.adabn(run, parent, store, card)
        else:
            record = stages.adapt(run, parent, store, card, settings, prior, annotations=marked)
        if prior is not None:
            prior.save(work / PRIOR_FILE)
        shutil.rmtree(work / "store")
        return record

    stage = Stage(
        name="adapt",
        settings=settings.model_dump(mode="json") if settings else "adabn",
        parents=(),
        data=lambda: {"target": key} | ({} if marked is None else {"annotations": marked.digest}),
        body=body,
        also={"seed": seed, "compute": compute.model_dump(mode="json", exclude=set(PLACE))},
        page=lambda work, record: write_adaptation(work, out.resolve().name, record, card.photos),
    )
    parents = {
        "model": of_model,
        "prior": prior.fingerprint() if prior else fingerprint(None),
    }
    if hashes.of(given) != of_model:
        raise ModelError("changed while it was read", where=given, fix="run the same command again")
    for written in (out, *out.parent.glob(f".{out.name}.*")):
        check_links(written)
    with lock(out.parent, f".{out.name}.lock"):
        run_stage(stage, out, parents, compute, restart=restart)
    return out / MODEL_FILE


def _annotations_of(folder: Path, card: DatasetCard, cases: Sequence[Case]) -> Annotations:
    return read_annotations(find_annotations(folder, card.photos), card, grids_of(cases, card))


def _check_alone() -> None:
    if this_process().size > 1:
        raise ConfigError(
            f"{this_process().size} processes were started, but work on a single model runs in one",
            fix="start one process: without torchrun, and with `srun -n 1`; recipes run on several processes",
        )


def _prior_for(settings: Adapt | None, given: Prior | None, parent: Trained) -> Prior | None:
    """The prior of an adaptation: that given, or the class ratio of the model's training labels where it needs one."""
    if settings is None and given is not None:
        raise ConfigError(
            "method 'adabn' uses no prior",
            fix="leave the prior out (--prior), or choose another method",
        )
    if settings is None or settings.prior is None:
        return given
    own = given or make_prior(SourceRatioPrior(), parent, Evidence(), DEFAULT_COMPUTE, seed=0)
    return own.validate(parent.info.classes)


def predict(
    model: PathLike,
    images: PathLike,
    out: PathLike,
    *,
    entropy: bool = False,
    postprocess: Postprocess | str | Mapping[str, Any] = NO_STEPS,
    compute: Compute = DEFAULT_COMPUTE,
    trust_code: bool = False,
) -> Iterator[Outcome]:
    """Segment every image of a folder on its own grid; yields one outcome per case as it is done.

    An outcome holds the model's confidence on the case, and flags what is unusual about it. After the last case
    ``out/predictions.json`` and ``out/report.html`` summarise all.

    Args:
        model: ``model.safetensors``, or the folder that holds it.
        images: folder of images, or a pattern.
        entropy: also write an entropy map ``<case>_entropy`` beside each label map.
        postprocess: steps such as ``{"views": 5, "largest": True}``, or ``"recommended"``
            (:class:`uda.config.postprocess.Postprocess`).
        trust_code: run the code of a model that is a TorchScript program, which can do whatever you can.

    Raises:
        ConfigError: there is no such step, or it does not fit the model.
        ModelError, DataError, RunError: there is no valid model, there are no images, or writing fails.
    """
    _check_alone()
    steps = _steps(postprocess)
    network, info = load_model(Path(model), trust_code=trust_code)
    cases = cases_in(Path(images), card_of(info).photos)
    fabric, inputs = make_fabric(compute), [model_path(Path(model))]
    return predict_cases(
        network, info, cases, Path(out), fabric, entropy=entropy, inputs=inputs, steps=steps
    )


def _steps(given: Postprocess | str | Mapping[str, Any]) -> Postprocess:
    if isinstance(given, str):
        return steps_named(given)
    return given if isinstance(given, Postprocess) else parse(Postprocess, given, "postprocess")


def suggest(
    model: PathLike,
    images: PathLike,
    out: PathLike | None = None,
    *,
    k: int = 3,
    slices: int = 3,
    other: PathLike | None = None,
    predictions: PathLike | None = None,
    compute: Compute = DEFAULT_COMPUTE,
    trust_code: bool = False,
    done: Callable[[Opinions], object] | None = None,
) -> list[Suggestion]:
    """Which cases of a folder, and which slices of these, to annotate: best first, each with the reason.

    The score of a slice is 1 − the Dice between the model's labels and those of the same image seen otherwise, turned
    back; with ``other`` or ``predictions`` between them and those. The cases stand for the others of the folder, those
    with much disagreement before all; their slices lie apart.

    Args:
        model: ``model.safetensors``, or the folder that holds it.
        images: folder of images, or a pattern.
        out: CSV ``rank,case,slice,score,why`` to write; a file that uda did not write is never replaced.
        k: number of cases to suggest.
        slices: number of slices in each of them.
        other: a model to compare with, such as the one before adaptation.
        predictions: folder of :func:`predict` to compare with.
        trust_code: run the code of models that are TorchScript programs, which can do whatever you can.
        done: called with each case's numbers once it is predicted.

    Raises:
        ConfigError: fewer than one case or slice is asked for.
        ModelError, DataError, RunError: there is no valid model, the other has other classes, an image or mask cannot
            be read, another file has the place of ``out``, or writing fails.
    """
    _check_alone()
    check_counts(k, slices)
    network, info = load_model(Path(model), trust_code=trust_code)
    cases = cases_in(Path(images), card_of(info).photos)
    inputs = [model_path(Path(model)), *folders_of(cases)]
    fabric, second = make_fabric(compute), None
    if other is not None:
        inputs.append(model_path(Path(other)))
        loaded, described = load_model(Path(other), trust_code=trust_code)
        second = (loaded.to(fabric.device), described)
    masks = None if predictions is None else Path(predictions)
    if out is not None:
        check_apart(Path(out), [*inputs, *([masks] if masks else [])])
        check_place(Path(out))
    panel = Panel(network.to(fabric.device), info, fabric, second, masks)
    panel.check(cases)
    opinions, hashes = [], Hashes()
    for case in cases:
        before = {path: hashes.of(path) for path in panel.files(case)}
        opinions.append(panel.opinions(case))
        if changed := [path for path, digest in before.items() if hashes.of(path) != digest]:
            raise DataError(
                "changed while it was read", where=changed[0], fix="run the same command again"
            )
        if done is not None:
            done(opinions[-1])
    found = suggestions(opinions, panel.structures, k, slices, panel.words)
    if out is not None:
        write_suggestions(Path(out), found)
    return found


def evaluate_model(
    model: Path,
    card: str,
    root: Path | None,
    out: Path,
    *,
    split: str = "test",
    steps: Postprocess = NO_STEPS,
    compute: Compute = DEFAULT_COMPUTE,
    trust_code: bool = False,
) -> dict[str, Any]:
    """Score one model on a labelled split of a card; writes ``out/evaluate`` and returns its metrics.

    Args:
        steps: adds a row of the same model with this post-processing.
        trust_code: run the code of a model that is a TorchScript program, which can do whatever you can.
    """
    _check_alone()
    domain = load_card(card)
    steps.check(domain.structures, domain.photos)
    cases = cases_of(domain, root, split, labels=True)
    given, hashes = model_path(model), Hashes()
    inputs = [given, *folders_of(cases)]
    check_apart(out, inputs)
    check_links(out, ["evaluate"])
    make_fabric(compute)  # refuses a missing device before anything is written
    with output_folder(out / "evaluate") as ledger:
        ledger.check(ledger.folder / name for name in RESULTS)
        key = content_key(domain, cases, hashes)
        with memory_for("evaluate"):
            rows = [Row("model", "given", given)]
            settings = Evaluate(postprocess=steps)
            result = score(rows, cases, domain, settings, compute, ledger.folder, trust_code)
        if content_key(domain, cases, hashes) != key:
            raise DataError(
                f"an image or label of {domain.name}/{split} changed while it was read",
                where=card_root(domain, root),
                fix="run the same command again",
            )
        title = f"{model.stem} on {domain.name}/{split}"
        metrics = metrics_of(title, domain, result, environment(compute), key)
        write_json(ledger.folder / METRICS_FILE, metrics)
    return metrics


def estimate_prior(
    model: PathLike,
    *,
    tags: PathLike | None = None,
    sizes_ml: Mapping[str, float] | None = None,
    areas_mm2: Mapping[str, float] | None = None,
    sizes_csv: PathLike | None = None,
    column: str | None = None,
    cam: bool = False,
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
    trust_code: bool = False,
) -> Prior:
    """A prior for a model's classes: from its training labels, or as one of the arguments says.

    Args:
        model: the trained model; it knows the class ratio of its training labels.
        tags: CSV ``case,slice,<structures>`` of the target images.
        cam: with ``tags`` and ``target``: also the seeds of class activation maps.
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
        trust_code: run the code of a model that is a TorchScript program, which can do whatever you can.

    Raises:
        UdaError: two kinds at once, something that the kind needs is missing, or numbers that cannot be
            true.
    """
    given: dict[str, dict[str, Any] | None] = {
        "target_tags": None if tags is None or cam else {},
        "cam": {} if cam else None,
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
    if supervision is not None:
        raw["supervision"] = supervision
    spec = parse(KINDS[kind], raw, f"a prior of kind {kind!r}")
    spec = override(spec, overrides) if overrides else spec
    return prior_of(
        model,
        spec,
        tags=tags,
        target=target,
        source=source,
        root=root,
        compute=compute,
        trust_code=trust_code,
    )
