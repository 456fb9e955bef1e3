"""One's own model on one's own images: adapt, predict, score, without any recipe."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from uda.config.card import DatasetCard
from uda.config.default_method import default_method, preset
from uda.config.loading import load_card
from uda.config.methods import DEFAULT
from uda.config.priors import SourceRatioPrior
from uda.config.recipe import PLACE, Adapt, Compute, Evaluate
from uda.data.cases import cases_in, cases_of
from uda.data.store import Store, content_key, open_store
from uda.devices.device import make_fabric, memory_for
from uda.devices.distributed import world
from uda.errors import ConfigError
from uda.evaluation.evaluate import evaluate as score
from uda.evaluation.rows import Row
from uda.files.atomic import fingerprint, sha256_of, write_json
from uda.files.links import check_links
from uda.files.stage_folder import StageFolder, lock
from uda.networks.model_file import ModelInfo, load_model
from uda.pipeline.environment import environment
from uda.pipeline.stages import adabn as adabn_stage
from uda.pipeline.stages import adapt as adapt_stage
from uda.prediction.folder import predict_cases
from uda.prediction.outcome import Outcome
from uda.priors import PRIOR_FILE, Prior
from uda.priors.estimate import Evidence, make_prior
from uda.report.adaptation import write_adaptation
from uda.selection.guard import MODEL_FILE
from uda.training.run import Workplace

DEFAULT_COMPUTE = Compute()
PathLike = str | Path


def adapt(
    model: PathLike,
    target: PathLike,
    out: PathLike,
    *,
    method: str | Adapt = DEFAULT,
    overrides: Sequence[str] = (),
    prior: Prior | None = None,
    seed: int = 0,
    compute: Compute = DEFAULT_COMPUTE,
    restart: bool = False,
    quiet: bool = True,
) -> Path:
    """Adapt a trained model to a folder of unlabelled images, without its source data.

    Args:
        model: ``model.safetensors`` (or the folder that holds it).
        target: folder of NIfTI images, or a pattern such as ``scans/*_image.nii.gz``.
        out: folder of the result; complete or absent, a killed call goes on.
        method: a name of :data:`uda.config.methods.OWN`, or settings of your own.
        overrides: ``key=value`` changes of the method's settings.
        prior: defaults to the class ratio of the model's training labels.

    Returns:
        the path of the adapted ``model.safetensors``.

    Raises:
        UdaError: a bad model, image, prior or setting; nothing is left half-written.
    """
    _check_alone()
    model, target, out = Path(model), Path(target), Path(out)
    _, info = load_model(model)
    card = card_of(info)
    if method == DEFAULT:
        method = default_method(card.photos, prior is not None or info.class_ratio is not None)
    settings = preset(method, list(overrides)) if isinstance(method, str) else method
    if settings is not None and settings.prior is not None:
        prior = (prior or _own_prior(model)).validate(info.classes)
    cases = cases_in(target, card.photos)
    make_fabric(compute)  # a device that is not there is refused before anything is written
    record: dict[str, Any] = {
        "stage": "adapt",
        "settings": settings.model_dump(mode="json") if settings else "adabn",
        "seed": seed,
        "compute": compute.model_dump(mode="json", exclude=set(PLACE)),
        "parents": {
            "model": _file_hash(model),
            "prior": prior.fingerprint() if prior else fingerprint(None),
        },
        "data": {"target": content_key(card, cases)},
    }
    folder = StageFolder(out, fingerprint(record))
    for written in (out, *out.parent.glob(f".{out.name}.*")):
        check_links(written)
    with lock(out.parent, f".{out.name}.lock"), memory_for("adapt"):
        recorded = folder.recorded()
        if recorded is not None and recorded.get("hash") == folder.hash and not restart:
            return out / MODEL_FILE
        started, work = time.monotonic(), folder.begin(restart)
        store = open_store(card, cases, work / "store", record["data"]["target"], compute.workers)
        origin = {"method": method if isinstance(method, str) else "settings of the caller"}
        place = Workplace(work, "adapt", seed, compute, origin, quiet)
        said = _adapt_in(place, model, store, card, settings, prior)
        record |= {"hash": folder.hash, "seconds": round(time.monotonic() - started, 2)}
        record |= {**said, "environment": environment(compute)}
        write_adaptation(work, out.resolve().name, record)
        folder.commit(record)
    return out / MODEL_FILE


def _check_alone() -> None:
    if world().size > 1:
        raise ConfigError(
            f"{world().size} processes were started, and one's own model is the work of one",
            fix="start it without torchrun; recipes run on several processes",
        )


def _adapt_in(
    place: Workplace,
    model: Path,
    store: Store,
    card: DatasetCard,
    settings: Adapt | None,
    prior: Prior | None,
) -> dict[str, Any]:
    """Do the work of :func:`adapt` in its folder, which ends with model and prior, without the store."""
    if settings is None:
        said = adabn_stage(place, model, store, card)
    else:
        said = adapt_stage(place, model, store, card, settings, prior)
    if prior is not None:
        prior.save(place.folder / PRIOR_FILE)
    shutil.rmtree(place.folder / "store")
    return said


def _file_hash(model: Path) -> str:
    return sha256_of(model / MODEL_FILE if model.is_dir() else model)


def _own_prior(model: Path) -> Prior:
    """The class ratio of the model's training labels."""
    return make_prior(SourceRatioPrior(), model, Evidence(), DEFAULT_COMPUTE, seed=0)


def card_of(info: ModelInfo) -> DatasetCard:
    """A card for images that are read as the model's own were."""
    return DatasetCard(
        name="target",
        title="images of a folder",
        images="{case}",
        classes=info.classes,
        label_values={name: (index,) for index, name in enumerate(info.classes)},
        prepare=info.prepare,
    )


def predict(
    model: PathLike,
    images: PathLike,
    out: PathLike,
    *,
    entropy: bool = False,
    compute: Compute = DEFAULT_COMPUTE,
) -> Iterator[Outcome]:
    """Segment every image of a folder onto its own grid; yields one outcome per case as it is done.

    An outcome says how sure the model is of the case, and why it is not to be trusted if anything about it is
    unusual. After the last one ``out/predictions.json`` and ``out/report.html`` tell of all.

    Args:
        entropy: also write where the model is unsure, ``<case>_entropy`` beside each label map.

    Raises:
        ModelError, DataError, RunError: no model, no images, or a disk that refuses.
    """
    _check_alone()
    network, info = load_model(Path(model))
    cases = cases_in(Path(images), card_of(info).photos)
    fabric, folder = make_fabric(compute), check_links(Path(out), ["cases"])
    return predict_cases(network, info, cases, folder, fabric, entropy=entropy)


def evaluate_model(
    model: Path,
    card: str,
    root: Path | None,
    out: Path,
    *,
    split: str = "test",
    compute: Compute = DEFAULT_COMPUTE,
) -> dict[str, Any]:
    """Score one model on a labelled split of a card; writes ``out/evaluate`` and returns its metrics."""
    _check_alone()
    domain = load_card(card)
    cases = cases_of(domain, root, split, labels=True)
    folder = check_links(out, ["evaluate"]) / "evaluate"
    rows = [Row("model", "given", model / MODEL_FILE if model.is_dir() else model)]
    with memory_for("evaluate"):
        result = score(rows, cases, domain, Evaluate(), compute, folder)
    metrics = {
        "recipe": f"{model.stem} on {domain.name}/{split}",
        "classes": list(domain.structures),
        "colors": {name: list(color) for name, color in domain.colors.items()},
        "distance_unit": domain.distance_unit,
        "rows": result["rows"],
        "environment": environment(compute),
        "data": {**result["data"], "fingerprint": content_key(domain, cases)},
        "rules": result["rules"],
    }
    write_json(folder / "metrics.json", metrics)
    return metrics
