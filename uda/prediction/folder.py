"""Predict every image of a folder: one label map per case, failed cases are reported, a stopped run resumes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric
from torch import nn

from uda.config.card import PhotoPrepare, Prepare
from uda.config.colors import distinct_colors
from uda.data.cases import Case
from uda.data.geometry import to_file_maps
from uda.data.traits import Traits
from uda.data.volumes import write_volume
from uda.devices.device import memory_for
from uda.errors import DataError, ModelError, RunError, UdaError
from uda.files.atomic import read_json, write_json
from uda.networks.model_file import ModelInfo
from uda.prediction.confidence import CaseStatistics
from uda.prediction.outcome import Outcome, Places, read_record, write_record
from uda.prediction.page import photo_picture, volume_picture, write_picture, write_report
from uda.prediction.photos import (
    classes_of,
    entropy_on,
    photo_logits,
    read_prepared,
    write_classes,
    write_grey,
)
from uda.prediction.trust import flags_of
from uda.prediction.volumes import logit_planes, read_case


def _sign(path: Path, model: nn.Module, info: ModelInfo) -> None:
    """Write the model's digest and classes; refuse a folder with predictions of another model."""
    digest = hashlib.sha256(info.to_json().encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    signature = {"model": digest.hexdigest(), "classes": list(info.classes)}
    if path.is_file() and read_json(path) != signature:
        raise DataError(
            "the folder holds predictions of another model",
            where=path.parent,
            fix="choose another --out, or delete the folder",
        )
    write_json(path, signature)


def predict_cases(
    model: nn.Module,
    info: ModelInfo,
    cases: Sequence[Case],
    out: Path,
    fabric: Fabric,
    *,
    entropy: bool = False,
) -> Iterator[Outcome]:
    """Write ``out/<case>.nii.gz`` (of photographs ``.png``) for each case: uint8 class indices on the input's own grid.

    A case that fails is reported and the others go on. A case with a complete prediction is skipped, so a stopped
    prediction resumes where it was. ``out/prediction.json`` holds the classes and the digest of the model. At the
    end, ``predictions.json`` and ``report.html`` list every case of the folder, doubtful cases first.

    Args:
        entropy: also write ``<case>_entropy`` on the same grid, uint8: 255 (NIfTI readers show 1) where all classes
            are equally likely, 0 where the model is certain and outside its input.

    Raises:
        DataError: the folder holds the predictions of another model, or two files would have one name.
        RunError: the disk refuses.
    """
    _sign(out / "prediction.json", model, info)
    model.to(fabric.device)
    places = Places(out, isinstance(info.prepare, PhotoPrepare))
    if entropy:
        _check_names(cases, places)
    work = _Work(model, info, places, fabric, entropy)
    for case in cases:
        yield _outcome(work, case)
    write_report(places, info)


@dataclass(frozen=True)
class _Work:
    """The arguments that all cases share."""

    model: nn.Module
    info: ModelInfo
    places: Places
    fabric: Fabric
    entropy: bool


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
    recorded = read_record(work.places, case.name)
    if recorded and not recorded.fault and not (work.entropy and recorded.entropy is None):
        return replace(recorded, skipped=True)
    prepare = work.info.prepare
    try:
        with memory_for(f"case {case.name!r}"):
            if isinstance(prepare, PhotoPrepare):
                return _photo(work, case, prepare)
            return _volume(work, case, prepare)
    except RunError:
        raise
    except UdaError as error:
        failed = Outcome(case.name, None, str(error))
        write_record(work.places, failed)
        return failed


def _volume(work: _Work, case: Case, prepare: Prepare) -> Outcome:
    """Predict one volume. The label map is written last, so a case with one is complete."""
    prepared = read_case(case, prepare)
    statistics, affine = CaseStatistics(prepared.geometry), np.asarray(prepared.geometry.affine)
    planes = statistics.watch(logit_planes(work.model, work.info, prepared.slices, work.fabric))
    labels, entropy = to_file_maps(planes, prepared.geometry, entropy=work.entropy)
    found = _judged(work, case, prepared.traits, statistics)
    structures = len(work.info.classes) - 1
    write_picture(work.places.picture(case.name), volume_picture(prepared, statistics, structures))
    if entropy is not None:
        path = work.places.entropy(case.name)
        write_volume(path, entropy, affine, slope=1 / 255, header=prepared.header)
    write_record(work.places, found)
    write_volume(work.places.labels(case.name), labels, affine, header=prepared.header)
    return found


def _photo(work: _Work, case: Case, prepare: PhotoPrepare) -> Outcome:
    """Predict one photograph. The label map is written last, so a case with one is complete."""
    photo, classes = read_prepared(case, prepare), len(work.info.classes)
    statistics = CaseStatistics(photo.geometry)
    logits = photo_logits(work.model, work.fabric, photo, prepare)
    statistics.add(logits[0])
    found = _judged(work, case, photo.traits, statistics)
    write_picture(work.places.picture(case.name), photo_picture(photo, statistics, classes))
    if work.entropy:
        write_grey(work.places.entropy(case.name), entropy_on(logits, photo.size).cpu().numpy())
    write_record(work.places, found)
    labels = classes_of(logits, photo.size).cpu().numpy()
    write_classes(work.places.labels(case.name), labels, distinct_colors(classes))
    return found


def _judged(work: _Work, case: Case, traits: Traits, statistics: CaseStatistics) -> Outcome:
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
    return Outcome(
        case.name,
        places.labels(case.name),
        measures=measures,
        flags=flags_of(measures, work.info),
        entropy=places.entropy(case.name) if work.entropy else None,
    )
