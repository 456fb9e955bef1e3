"""Predict photographs: logits of a whole image at once, class indices on the file's pixels, PNG files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from uda.config.card import PhotoPrepare
from uda.config.postprocess import NO_STEPS, Postprocess
from uda.data.cases import Case
from uda.data.geometry import Geometry
from uda.data.images import photo_geometry, read_photo, resize_photo
from uda.data.traits import Traits, photo_traits
from uda.files.atomic import atomic_path
from uda.networks.inference import inference
from uda.prediction.views import View, log_p

Classes = NDArray[np.uint8]


@dataclass(frozen=True)
class PreparedPhoto:
    """One photograph, resized for the network."""

    case: Case
    planes: NDArray[np.uint8]
    """``[3, h, w]``"""
    geometry: Geometry
    traits: Traits
    """measures of the photograph before it was resized"""

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the file."""
        return self.geometry.shape[:2]


def read_prepared(case: Case, prepare: PhotoPrepare) -> PreparedPhoto:
    """Decode and resize a photograph; its label is not touched.

    Raises:
        DataError: the photograph cannot be read.
    """
    photo = read_photo(case.image)
    planes = np.ascontiguousarray(resize_photo(photo, prepare.size).transpose(2, 0, 1))
    geometry = photo_geometry(photo.shape[:2], prepare.size)
    return PreparedPhoto(case, planes, geometry, photo_traits(photo))


def photo_logits(
    model: nn.Module,
    fabric: Fabric,
    photo: PreparedPhoto,
    prepare: PhotoPrepare,
    steps: Postprocess = NO_STEPS,
) -> Tensor:
    """Logits ``[1, k, h, w]`` (float32, on the device) at the prepared size.

    Args:
        steps: with two views the logits are logarithms of the mean probabilities of the image and its mirror image.
    """
    image = _image(fabric, photo, prepare)
    logits = _forward(model, fabric, image)
    if steps.views == 1:
        return logits
    mirrored = _forward(model, fabric, image.flip(-1)).flip(-1)
    return log_p((logits.softmax(1) + mirrored.softmax(1)) / 2)


def view_logits(
    model: nn.Module, fabric: Fabric, photo: PreparedPhoto, prepare: PhotoPrepare, view: View
) -> Tensor:
    """Logits ``[1, k, h, w]`` of a photograph as a view shows it, on the pixels of the view."""
    return _forward(model, fabric, view.of(_image(fabric, photo, prepare)))


def classes_of(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Argmax of logits ``[1, k, h, w]`` after bilinear interpolation to a file's pixels: uint8 ``[*size]``."""
    best = functional.interpolate(logits[:, :1], size, mode="bilinear")[0, 0]
    classes = torch.zeros(size, dtype=torch.uint8, device=logits.device)
    for k in range(1, logits.shape[1]):  # all classes at this size would need too much memory
        one = functional.interpolate(logits[:, k : k + 1], size, mode="bilinear")[0, 0]
        classes.masked_fill_(one > best, k)
        torch.maximum(best, one, out=best)
    return classes


def entropy_of(logits: Tensor) -> Tensor:
    """Entropy ``[h, w]`` of logits ``[1, k, h, w]`` at each pixel, as a share of log k."""
    log_p = functional.log_softmax(logits[0], 0)
    return -(log_p.exp() * log_p).sum(0) / float(np.log(logits.shape[1]))


def entropy_on(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Entropy of logits ``[1, k, h, w]`` interpolated to a file's pixels: uint8 ``[*size]``, 255 is log k.

    From the logits of :func:`classes_of`: :math:`\\log s - t/s` with the sums s of :math:`e^{l_k}` and t of
    :math:`l_k e^{l_k}`, which are computed one class at a time.
    """
    largest = total = weighted = torch.zeros(size, device=logits.device)
    for k in range(logits.shape[1]):
        one = functional.interpolate(logits[:, k : k + 1], size, mode="bilinear")[0, 0]
        largest = one if k == 0 else torch.maximum(largest, one)
    for k in range(logits.shape[1]):
        one = functional.interpolate(logits[:, k : k + 1], size, mode="bilinear")[0, 0] - largest
        total, weighted = total + one.exp(), weighted + one * one.exp()
    share: Tensor = (total.log() - weighted / total) * (255 / float(np.log(logits.shape[1])))
    return share.round().clamp(0, 255).to(torch.uint8)


def multi_scale_classes(
    model: nn.Module,
    fabric: Fabric,
    photo: PreparedPhoto,
    prepare: PhotoPrepare,
    scales: Sequence[float],
) -> Tensor:
    """Argmax of the mean softmax over scales of the prepared image and its mirror image: uint8 ``[*size]``."""
    image = _image(fabric, photo, prepare)
    total = torch.zeros(())
    for part in _probabilities(model, fabric, image, photo.size, scales):
        total = part if total.dim() == 0 else total.add_(part)
    return total[0].max(0).indices.to(torch.uint8)


def _probabilities(
    model: nn.Module, fabric: Fabric, image: Tensor, size: tuple[int, int], scales: Sequence[float]
) -> Iterator[Tensor]:
    for scale in scales:
        rows, columns = (max(1, round(scale * side)) for side in image.shape[-2:])
        scaled = functional.interpolate(image, (rows, columns), mode="bilinear", antialias=True)
        for mirrored in (False, True):
            logits = _forward(model, fabric, scaled.flip(-1) if mirrored else scaled)
            whole = functional.interpolate(logits, size, mode="bilinear").softmax(1)
            yield whole.flip(-1) if mirrored else whole


def _image(fabric: Fabric, photo: PreparedPhoto, prepare: PhotoPrepare) -> Tensor:
    planes = torch.from_numpy(photo.planes)[None].to(fabric.device)
    mean, sd = (
        torch.tensor(v, device=fabric.device)[:, None, None] for v in (prepare.mean, prepare.sd)
    )
    return planes.float().div_(255).sub_(mean).div_(sd)


def _forward(model: nn.Module, fabric: Fabric, image: Tensor) -> Tensor:
    with inference(model), fabric.autocast():
        logits: Tensor = model(image).float()
    return logits


def write_classes(path: Path, classes: Classes, colors: Sequence[tuple[int, int, int]]) -> None:
    """Write class indices as a PNG with a palette, atomically.

    Args:
        colors: RGB of each class, for display; the pixel values are the indices.
    """
    image = Image.fromarray(classes)
    image.putpalette([value for color in colors for value in color])
    _write_png(path, image)


def write_grey(path: Path, values: NDArray[np.uint8]) -> None:
    """Write ``[h, w]`` as a grey PNG, atomically."""
    _write_png(path, Image.fromarray(values))


def _write_png(path: Path, image: Image.Image) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        image.save(file, format="PNG")


def shown_size(size: tuple[int, int], longest: int = 640) -> tuple[int, int]:
    """Rows and columns of a picture on a page, with at most ``longest`` pixels on a side."""
    factor = min(1.0, longest / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def shown_labels(classes: Any, size: tuple[int, int]) -> Classes:
    """Class indices ``[h, w]`` at another size, by the nearest pixel."""
    rows, columns = (
        (2 * np.arange(to) + 1) * full // (2 * to)
        for full, to in zip(classes.shape, size, strict=True)
    )
    picked: Classes = np.asarray(classes)[rows][:, columns]
    return picked
