"""Predict volumes: read and prepare an image in any orientation, get logits and a label map on its own grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from uda.config.card import DatasetCard, Prepare
from uda.config.postprocess import NO_STEPS, Postprocess
from uda.data.cases import Case
from uda.data.geometry import Geometry, Volume, to_file_grid
from uda.data.slabs import slab_of
from uda.data.sources import read_images
from uda.data.traits import Traits, volume_traits
from uda.data.volumes import prepare_image, read_volume, say_remarks
from uda.errors import DataError
from uda.networks.inference import BATCH, PIXELS, inference
from uda.networks.model_file import ModelInfo
from uda.prediction.postprocess import cleaned, smoothed
from uda.prediction.sliding_window import window_planes
from uda.prediction.views import VIEWS, View, mean_over_views


@dataclass(frozen=True)
class PreparedCase:
    """One prepared volume, and the geometry that maps back to the file. The file's own voxels are not kept."""

    case: Case
    slices: NDArray[np.float32]
    """``[s, h, w]``, or ``[s, c, h, w]`` with channels"""
    geometry: Geometry
    traits: Traits
    """measures of the image before preparation"""
    card: DatasetCard | None = None
    header: Any = None
    """of its file, where that is NIfTI: masks are written with the same place"""

    @property
    def name(self) -> str:
        return self.case.name

    def read_again(self) -> Volume:
        """The unprepared image, read from its file again."""
        return _read(self.case, self.card)


def read_case(case: Case, prepare: Prepare, card: DatasetCard | None = None) -> PreparedCase:
    """Read and prepare the image of a case; its label is not touched.

    Args:
        card: describes how to read files that are not NIfTI.

    Raises:
        DataError: the image cannot be read or prepared, or the file holds separate records.
    """
    volume = _read(case, card)
    say_remarks(volume)
    slices, geometry = prepare_image(volume, prepare, case.image)
    traits = volume_traits(volume, geometry)
    return PreparedCase(case, slices, geometry, traits, card, volume.header)


def _read(case: Case, card: DatasetCard | None) -> Volume:
    if card is None:
        return read_volume(case.image)
    volumes = read_images(case, card)
    if len(volumes) != 1:
        raise DataError(
            "records are single slices, each with its neighbours, and not one volume",
            where=case.image,
            expected="a .nii, .nii.gz, .nrrd or .npz file of the whole volume",
            fix="name volume files in the card's images",
        )
    return volumes[0]


def predict_case(
    model: nn.Module,
    info: ModelInfo,
    case: PreparedCase,
    fabric: Fabric,
    steps: Postprocess = NO_STEPS,
) -> NDArray[np.uint8]:
    """Class indices of a case on the file's own grid and axes, after all steps."""
    planes = logit_planes(model, info, case.slices, fabric, steps)
    return cleaned(to_file_grid(planes, case.geometry), info.classes, steps)


def logit_planes(
    model: nn.Module,
    info: ModelInfo,
    slices: NDArray[np.float32],
    fabric: Fabric,
    steps: Postprocess = NO_STEPS,
) -> Iterator[Tensor]:
    """Logits of one case in batches ``[n, k, h, w]`` (float32, on the device) in the order of its slices.

    Args:
        slices: ``[s, h, w]``, or ``[s, c, h, w]`` where each slice is stored with its channels.
        steps: of these ``views`` and ``smooth``; with them the logits are logarithms of mean probabilities.
    """
    views = VIEWS[: steps.views]
    streams = [view_planes(model, info, slices, fabric, view) for view in views]
    planes = mean_over_views(views, streams) if len(views) > 1 else streams[0]
    return smoothed(planes, steps.smooth)


def view_planes(
    model: nn.Module, info: ModelInfo, slices: NDArray[np.float32], fabric: Fabric, view: View
) -> Iterator[Tensor]:
    """Logits of the slices as a view shows them, in batches ``[n, k, h, w]`` on the pixels of the view."""
    forward = partial(_forward, model, fabric)
    if info.network.patch is not None:
        yield from window_planes(
            forward, slices, info.network.patch, view=partial(_slab, fabric, view)
        )
        return
    count, slab = len(slices), info.prepare.channels
    together = max(1, min(BATCH, PIXELS // (slices.shape[-2] * slices.shape[-1])))
    for first in range(0, count, together):
        some = np.arange(first, min(first + together, count))
        image = slices[some] if slices.ndim == 4 else slab_of(slices, some, 0, count, slab)
        yield forward(view.of(torch.from_numpy(image).to(fabric.device)))


def _slab(fabric: Fabric, view: View, slices: NDArray[np.float32]) -> NDArray[np.float32]:
    """Slices ``[n, h, w]`` in a view."""
    if view == View():
        return slices
    seen = view.of(torch.from_numpy(np.array(slices))[None].to(fabric.device))[0]
    return seen.cpu().numpy()


def _forward(model: nn.Module, fabric: Fabric, image: Tensor) -> Tensor:
    """Inference mode and autocast hold inside this call only, so the consumer of the planes keeps its own modes."""
    with inference(model), fabric.autocast():
        logits: Tensor = model(image.to(fabric.device)).float()
    return logits
