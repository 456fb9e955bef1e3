"""Prediction: a model, an image in any orientation, a label map on the image's own grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from uda.config.card import DatasetCard, Prepare
from uda.data.cases import Case
from uda.data.geometry import Geometry, Volume, to_file_grid
from uda.data.slabs import slab_of
from uda.data.sources import read_images
from uda.data.traits import Traits, volume_traits
from uda.data.volumes import prepare_image, read_volume
from uda.errors import DataError
from uda.networks.inference import BATCH, PIXELS, inference
from uda.networks.model_file import ModelInfo
from uda.prediction.sliding_window import window_planes


@dataclass(frozen=True)
class PreparedCase:
    """One volume ready for the network, and the way back. The file's own voxels are not kept."""

    case: Case
    slices: NDArray[np.float32]
    geometry: Geometry
    traits: Traits
    """what the image was like before preparation"""
    card: DatasetCard | None = None

    @property
    def name(self) -> str:
        return self.case.name

    def read_again(self) -> Volume:
        """The image as it lies in its file."""
        return _read(self.case, self.card)


def read_case(case: Case, prepare: Prepare, card: DatasetCard | None = None) -> PreparedCase:
    """Read and prepare the image of a case; its label is not touched.

    Args:
        card: says how files that are not NIfTI are read.

    Raises:
        DataError: it cannot be read or prepared, or it is no volume but separate records.
    """
    volume = _read(case, card)
    slices, geometry = prepare_image(volume, prepare, case.image)
    return PreparedCase(case, slices, geometry, volume_traits(volume, geometry), card)


def _read(case: Case, card: DatasetCard | None) -> Volume:
    if card is None:
        return read_volume(case.image)
    volumes = read_images(case, card)
    if len(volumes) != 1:
        raise DataError(
            "records are single slices, each with its neighbours, and not one volume",
            where=case.image,
            expected="a .nii, .nii.gz or .npz file of the whole volume",
            fix="name the volumes in the card's images",
        )
    return volumes[0]


def predict_case(
    model: nn.Module, info: ModelInfo, case: PreparedCase, fabric: Fabric
) -> NDArray[np.uint8]:
    """Class indices on the file's own grid and axes."""
    return to_file_grid(logit_planes(model, info, case.slices, fabric), case.geometry)


def logit_planes(
    model: nn.Module, info: ModelInfo, slices: NDArray[np.float32], fabric: Fabric
) -> Iterator[Tensor]:
    """Logits of one case as parts ``[n, k, h, w]`` (float32, on the device) in the order of its slices.

    Args:
        slices: ``[s, h, w]``, or ``[s, c, h, w]`` where each slice is stored with its channels.
    """
    forward = partial(_forward, model, fabric)
    if info.network.patch is not None:
        yield from window_planes(forward, slices, info.network.patch)
        return
    count, slab = len(slices), info.prepare.channels
    together = max(1, min(BATCH, PIXELS // (slices.shape[-2] * slices.shape[-1])))
    for first in range(0, count, together):
        some = np.arange(first, min(first + together, count))
        image = slices[some] if slices.ndim == 4 else slab_of(slices, some, 0, count, slab)
        yield forward(torch.from_numpy(image))


def _forward(model: nn.Module, fabric: Fabric, image: Tensor) -> Tensor:
    """The modes hold for the network alone: whoever reads the planes between two calls keeps its own."""
    with inference(model), fabric.autocast():
        logits: Tensor = model(image.to(fabric.device)).float()
    return logits
