"""Segmenting every image of a folder: one file each, a failed one reported, a stopped run going on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric
from torch import nn

from uda.cards import PhotoPrepare
from uda.checkpoint import read_json, write_json
from uda.colors import distinct_colors
from uda.data.cases import Case
from uda.data.volumes import write_volume
from uda.errors import DataError, RunError, UdaError
from uda.models import ModelInfo
from uda.photos import classes_of, photo_logits, read_prepared, write_classes
from uda.prediction import predict_case, read_case


def _sign(path: Path, model: nn.Module, info: ModelInfo) -> None:
    """Say what the folder holds, or refuse a folder that holds something else."""
    digest = hashlib.sha256(info.to_json().encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    said = {"model": digest.hexdigest(), "classes": list(info.classes)}
    if path.is_file() and read_json(path) != said:
        raise DataError(
            "the folder holds predictions of another model",
            where=path.parent,
            fix="choose another --out, or delete the folder",
        )
    write_json(path, said)


@dataclass(frozen=True)
class Outcome:
    """What became of one case."""

    case: str
    file: Path | None
    fault: str = ""
    skipped: bool = False


def predict_cases(
    model: nn.Module, info: ModelInfo, cases: Sequence[Case], out: Path, fabric: Fabric
) -> Iterator[Outcome]:
    """Write ``out/<case>.nii.gz`` (of photographs ``.png``) for each case: uint8 class indices on the input's own grid.

    A case that fails is reported and the others go on; one whose file exists is skipped, so a stopped
    prediction goes on where it was. ``out/prediction.json`` says what the indices mean and which model
    they are from.

    Raises:
        DataError: the folder holds the predictions of another model.
        RunError: the disk refuses.
    """
    _sign(out / "prediction.json", model, info)
    model.to(fabric.device)
    ending = ".png" if isinstance(info.prepare, PhotoPrepare) else ".nii.gz"
    for case in cases:
        path = out / f"{case.name}{ending}"
        if path.is_file():
            yield Outcome(case.name, path, skipped=True)
            continue
        try:
            _predict(model, info, case, path, fabric)
        except RunError:
            raise
        except UdaError as fault:
            yield Outcome(case.name, None, str(fault))
        else:
            yield Outcome(case.name, path)


def _predict(model: nn.Module, info: ModelInfo, case: Case, path: Path, fabric: Fabric) -> None:
    """Segment one image into one file."""
    if isinstance(info.prepare, PhotoPrepare):
        photo = read_prepared(case, info.prepare)
        found = classes_of(photo_logits(model, fabric, photo, info.prepare), photo.size)
        write_classes(path, found.cpu().numpy(), distinct_colors(len(info.classes)))
        return
    prepared = read_case(case, info.prepare)
    labels = predict_case(model, info, prepared, fabric)
    write_volume(path, labels, np.asarray(prepared.geometry.affine))
