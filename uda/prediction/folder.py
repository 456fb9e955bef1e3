"""Predict every image of a folder: one label map per case; finished work is recognised by its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric import Fabric
from torch import nn

from uda.config.card import PhotoPrepare, Prepare
from uda.config.colors import distinct_colors
from uda.config.postprocess import NO_STEPS, Postprocess
from uda.data.cases import Case, folders_of
from uda.data.geometry import label_slices, to_file_maps
from uda.data.hashes import Hashes
from uda.data.traits import Traits
from uda.data.volumes import write_volume
from uda.devices.device import memory_for
from uda.errors import DataError, ModelError, RunError, UdaError
from uda.files.atomic import read_json, write_json
from uda.files.ledger import Ledger
from uda.files.output import output_folder
from uda.networks.model_file import ModelInfo
from uda.prediction.confidence import CaseStatistics, structures_of
from uda.prediction.outcome import STEPS, Outcome, Places, read_record, write_record
from uda.prediction.page import (
    PAGE,
    TABLE,
    photo_picture,
    volume_picture,
    write_picture,
    write_report,
)
from uda.prediction.photos import (
    classes_of,
    entropy_on,
    photo_logits,
    read_prepared,
    write_classes,
    write_grey,
)
from uda.prediction.postprocess import cleaned
from uda.prediction.trust import flags_of
from uda.prediction.volumes import logit_planes, read_case

SIGNATURE = "prediction.json"
"""file that names the model of a folder of predictions"""
VERSION = "2"
"""Increased when the same image, model and settings give another prediction."""


def predict_cases(
    model: nn.Module,
    info: ModelInfo,
    cases: Sequence[Case],
    out: Path,
    fabric: Fabric,
    *,
    entropy: bool = False,
    inputs: Iterable[Path] = (),
    steps: Postprocess = NO_STEPS,
) -> Iterator[Outcome]:
    """Write ``out/<case>.nii.gz`` (of photographs ``.png``) for each case: uint8 class indices on the input's own grid.

    A case that fails is reported and the others go on. A case whose record names the same image, model and settings is
    skipped, so a stopped prediction resumes where it was; any other case is predicted again. ``out/prediction.json``
    holds the classes and the digest of the model. At the end, ``predictions.json`` and ``report.html`` list every case
    of the folder, doubtful cases first. No file is replaced that uda did not write, or that changed since.

    Args:
        entropy: also write ``<case>_entropy`` on the same grid, uint8: 255 (NIfTI readers show 1) where all classes
            are equally likely, 0 where the model is certain and outside its input.
        inputs: further files that ``out`` must lie apart from, such as the model's.
        steps: post-processing. The label map is that after all steps; entropy, confidence and shares are those of the
            mean probabilities over views and slices, before components are removed and holes filled.

    Raises:
        ConfigError: a step does not fit the model's images or classes.
        DataError: the folder is not apart from the inputs or holds the predictions of another model, two files would
            have one name, or a file would be replaced that uda did not write.
        RunError: another process works in the folder, or the disk refuses.
    """
    places = Places(out, isinstance(info.prepare, PhotoPrepare))
    steps.check([info.classes[k] for k in structures_of(info)], places.photos)
    if entropy:
        _check_names(cases, places)
    with output_folder(out, [*inputs, *folders_of(cases)], ["cases"]) as ledger:
        digest = _digest(model, info)
        _check_foreign(ledger, places, cases, entropy)
        _sign(ledger, out / SIGNATURE, {"model": digest, "classes": list(info.classes)})
        made_from = {
            "model": digest,
            "precision": str(fabric.strategy.precision.precision),
            "version": VERSION,
            **({STEPS: str(steps)} if steps.on else {}),
        }
        model.to(fabric.device)
        work = _Work(model, info, places, fabric, entropy, ledger, made_from, steps)
        for case in cases:
            yield _outcome(work, case)
        write_report(places, info)


def _digest(model: nn.Module, info: ModelInfo) -> str:
    """SHA-256 of a model's description and weights."""
    digest = hashlib.sha256(info.to_json().encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _check_foreign(ledger: Ledger, places: Places, cases: Sequence[Case], entropy: bool) -> None:
    """Refuse a folder with foreign files that a prediction would replace, before the first case."""
    names = [case.name for case in cases]
    kept = [path for name in names for path in (*places.maps(name, entropy), places.picture(name))]
    records = [places.record(name) for name in names]
    found = [path for path in kept if not ledger.wrote(path)]
    ledger.check([*found, *records, *(places.out / name for name in (SIGNATURE, TABLE, PAGE))])


def _sign(ledger: Ledger, path: Path, signature: dict[str, Any]) -> None:
    """Write the model's digest and classes; refuse a folder with predictions of another model."""
    if not path.is_file():
        write_json(path, signature)
    elif read_json(path) != signature:
        raise DataError(
            "the folder holds predictions of another model",
            where=path.parent,
            fix="choose another --out, or delete the folder",
        )


@dataclass(frozen=True)
class _Work:
    """The arguments that all cases share."""

    model: nn.Module
    info: ModelInfo
    places: Places
    fabric: Fabric
    entropy: bool
    ledger: Ledger
    made_from: Mapping[str, str]
    steps: Postprocess
    hashes: Hashes = field(default_factory=Hashes)


def _check_names(cases: Sequence[Case], places: Places) -> None:
    labels = {places.labels(case.name): case.name for case in cases}
    for case in cases:
        if (path := places.entropy(case.name)) in labels:
            raise DataError(
                f"the entropy of case {case.name!r} and the label map of {labels[path]!r} are both {path.name}",
                where=case.image,
                fix="rename the image, or predict the two in two folders",
            )


def _outcome(work: _Work, case: Case) -> Outcome:
    places, prepare = work.places, work.info.prepare
    try:
        made_from = {"image": work.hashes.of(case.image), **work.made_from}
        recorded = _recorded(work, case)
        same = recorded is not None and recorded.made_from == made_from
        edited = same and not work.ledger.owns(places.labels(case.name))
        if recorded and same and not (work.entropy and recorded.entropy is None):
            return replace(recorded, skipped=True, edited=edited)
        maps = [*places.maps(case.name, work.entropy), places.picture(case.name)]
        if not same and work.ledger.wrote(places.entropy(case.name)):
            maps.append(places.entropy(case.name))  # of another image, it would mislead
        work.ledger.check(maps[1:] if edited else maps)
        if not same:
            _remove_stale(work, case)
        _remove_record(work, case)
        with memory_for(f"case {case.name!r}"):
            if isinstance(prepare, PhotoPrepare):
                found = _photo(work, case, prepare, made_from, edited)
            else:
                found = _volume(work, case, prepare, made_from, edited)
        return replace(found, edited=edited)
    except RunError:
        raise
    except UdaError as error:
        failed = Outcome(case.name, None, str(error))
        _remove_record(work, case)
        write_record(places, failed)
        return failed


def _recorded(work: _Work, case: Case) -> Outcome | None:
    """The recorded outcome of a case that was predicted; None where the record is not as uda wrote it."""
    if not work.ledger.owns(work.places.record(case.name)):
        return None
    found = read_record(work.places, case.name)
    return None if found is None or found.fault else found


def _remove_stale(work: _Work, case: Case) -> None:
    """Remove the maps of another image of this name, or of other settings: they would mislead."""
    for path in work.places.maps(case.name, entropy=True):
        if work.ledger.owns(path):
            path.unlink()


def _remove_record(work: _Work, case: Case) -> None:
    """Remove the record and the picture of an earlier prediction."""
    for path in (work.places.record(case.name), work.places.picture(case.name)):
        if work.ledger.owns(path):
            path.unlink()


def _check_unchanged(work: _Work, case: Case, made_from: Mapping[str, str]) -> None:
    if work.hashes.of(case.image) != made_from["image"]:
        raise DataError(
            "changed while it was read",
            where=case.image,
            fix="run the same command again",
        )


def _volume(
    work: _Work, case: Case, prepare: Prepare, made_from: Mapping[str, str], edited: bool
) -> Outcome:
    """Predict one volume. The label map is written last, so a case with one is complete.

    Args:
        edited: the label map is there and the user's own; it stays.
    """
    prepared = read_case(case, prepare)
    _check_unchanged(work, case, made_from)
    statistics, affine = CaseStatistics(prepared.geometry), np.asarray(prepared.geometry.affine)
    logits = logit_planes(work.model, work.info, prepared.slices, work.fabric, work.steps)
    planes = statistics.watch(logits)
    labels, entropy = to_file_maps(planes, prepared.geometry, entropy=work.entropy)
    if work.steps.largest or work.steps.holes:
        labels = cleaned(labels, work.info.classes, work.steps)
        statistics.plane[0] = label_slices(labels, prepared.geometry)[statistics.number]
    found = _judged(work, case, prepared.traits, statistics, made_from)
    structures = len(work.info.classes) - 1
    write_picture(work.places.picture(case.name), volume_picture(prepared, statistics, structures))
    if entropy is not None:
        path = work.places.entropy(case.name)
        write_volume(path, entropy, affine, slope=1 / 255, header=prepared.header)
    write_record(work.places, found)
    if not edited:
        write_volume(work.places.labels(case.name), labels, affine, header=prepared.header)
    return found


def _photo(
    work: _Work, case: Case, prepare: PhotoPrepare, made_from: Mapping[str, str], edited: bool
) -> Outcome:
    """Predict one photograph, as :func:`_volume` does a volume."""
    photo, classes = read_prepared(case, prepare), len(work.info.classes)
    _check_unchanged(work, case, made_from)
    statistics = CaseStatistics(photo.geometry)
    logits = photo_logits(work.model, work.fabric, photo, prepare, work.steps)
    statistics.add(logits[0])
    found = _judged(work, case, photo.traits, statistics, made_from)
    write_picture(work.places.picture(case.name), photo_picture(photo, statistics, classes))
    if work.entropy:
        write_grey(work.places.entropy(case.name), entropy_on(logits, photo.size).cpu().numpy())
    write_record(work.places, found)
    if not edited:
        labels = classes_of(logits, photo.size).cpu().numpy()
        write_classes(work.places.labels(case.name), labels, distinct_colors(classes))
    return found


def _judged(
    work: _Work,
    case: Case,
    traits: Traits,
    statistics: CaseStatistics,
    made_from: Mapping[str, str],
) -> Outcome:
    """The outcome of a predicted case, with its measures and flags.

    Raises:
        ModelError: a logit is not finite.
    """
    if not statistics.finite:
        raise ModelError(
            "the network's logits are not finite (NaN or infinite)",
            where=case.image,
            fix="if other cases fail too, the weights are broken: use another checkpoint",
        )
    measures, places = traits | statistics.measures(work.info), work.places
    if work.info.limits is not None:
        measures |= statistics.calibrated(work.info)
    return Outcome(
        case.name,
        places.labels(case.name),
        measures=measures,
        flags=flags_of(measures, work.info),
        entropy=places.entropy(case.name) if work.entropy else None,
        made_from=made_from,
    )
