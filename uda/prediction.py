"""Prediction: a model, an image in any orientation, a label map on the image's own grid."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from uda.checkpoint import read_json, write_json
from uda.config import Prepare
from uda.data.cases import Case
from uda.data.geometry import Geometry, to_file_grid
from uda.data.volumes import prepare_image, read_volume, write_volume
from uda.errors import DataError, RunError, UdaError
from uda.models import ModelInfo

BATCH = 16


@dataclass(frozen=True)
class PreparedCase:
    """One volume ready for the network, and the way back."""

    name: str
    path: Path
    slices: NDArray[np.float32]
    geometry: Geometry


def read_case(case: Case, prepare: Prepare) -> PreparedCase:
    """Read and prepare the image of a case; its label is not touched."""
    slices, geometry = prepare_image(read_volume(case.image), prepare, case.image)
    return PreparedCase(case.name, case.image, slices, geometry)


@contextmanager
def inference(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode without gradients; its mode returns afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield model
    finally:
        model.train(training)


def predict_case(model: nn.Module, case: PreparedCase, fabric: Fabric) -> NDArray[np.uint8]:
    """Class indices on the file's own grid and axes."""
    return to_file_grid(predict_slices(model, case.slices, fabric), case.geometry)


def predict_slices(model: nn.Module, slices: NDArray[np.float32], fabric: Fabric) -> Tensor:
    """Logits ``[s, k, h, w]`` (float32, on the device) of prepared slices ``[s, h, w]``."""
    with inference(model), fabric.autocast():
        parts = [
            model(
                torch.from_numpy(slices[first : first + BATCH])[:, None].to(fabric.device)
            ).float()
            for first in range(0, len(slices), BATCH)
        ]
    return torch.cat(parts)


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
    """Write ``out/<case>.nii.gz`` for each case, uint8 class indices on the input's own grid.

    A case that fails is reported and the others go on; one whose file exists is skipped, so a stopped
    prediction goes on where it was. ``out/prediction.json`` says what the indices mean and which model
    they are from.

    Raises:
        DataError: the folder holds the predictions of another model.
        RunError: the disk refuses.
    """
    _sign(out / "prediction.json", model, info)
    model.to(fabric.device)
    for case in cases:
        path = out / f"{case.name}.nii.gz"
        if path.is_file():
            yield Outcome(case.name, path, skipped=True)
            continue
        try:
            prepared = read_case(case, info.prepare)
            labels = predict_case(model, prepared, fabric)
            write_volume(path, labels, np.asarray(prepared.geometry.affine))
        except RunError:
            raise
        except UdaError as fault:
            yield Outcome(case.name, None, str(fault))
        else:
            yield Outcome(case.name, path)
