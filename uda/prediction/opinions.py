"""Several predictions of each case, compared slice by slice while they are made, and the mean features of its image.

A case is compared with views of itself, or with what other models and earlier masks say. Of a case one label map
stands in memory beside its image; of the cases before it only numbers of each slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from uda.config.card import PhotoPrepare, Prepare
from uda.data.cases import Case
from uda.data.geometry import Geometry, inside, label_slices
from uda.data.image_files import pixels, read_file
from uda.data.volumes import read_volume
from uda.devices.device import memory_for
from uda.errors import DataError, ModelError, raise_all
from uda.files.atomic import read_json
from uda.losses.prediction import most_likely
from uda.networks.heads import head
from uda.networks.model_file import ModelInfo
from uda.prediction.confidence import structures_of
from uda.prediction.folder import SIGNATURE
from uda.prediction.outcome import Places
from uda.prediction.photos import read_prepared, view_logits
from uda.prediction.suggestion import Floats, Opinions, disputed_share, mean_dice
from uda.prediction.views import PHOTO_VIEWS, VIEWS, View
from uda.prediction.volumes import read_case, view_planes
from uda.selection.overlap import confusion

Planes = Callable[[nn.Module, ModelInfo, View], Iterator[Tensor]]
"""logits ``[n, k, h, w]`` of a case by a model, as a view shows it, in the order of its slices"""


@dataclass(frozen=True)
class Panel:
    """A model, and what its labels are compared with: another model, masks, or without both its own views."""

    model: nn.Module
    info: ModelInfo
    fabric: Fabric
    other: tuple[nn.Module, ModelInfo] | None = None
    masks: Path | None = None
    """a folder of ``uda predict``"""

    @property
    def words(self) -> str:
        """Whose agreement is measured."""
        if self.other is None and self.masks is None:
            return "views"
        other = ["the other model"] * (self.other is not None) + ["the masks"] * bool(self.masks)
        return " and ".join(["the model", *other])

    @property
    def structures(self) -> list[str]:
        """Names of the structures that are compared."""
        return [self.info.classes[k] for k in structures_of(self.info)]

    def check(self, cases: Sequence[Case]) -> None:
        """Refuse another model, or masks, that cannot be compared.

        Raises:
            ModelError: the other model has other classes, or takes other images.
            DataError: the folder holds no masks of these classes, or lacks one of a case.
        """
        if self.other is not None:
            _check_alike(self.info, self.other[1])
        if self.masks is not None:
            self._check_masks(self.masks, cases)

    def _check_masks(self, folder: Path, cases: Sequence[Case]) -> None:
        signature = folder / SIGNATURE
        if not signature.is_file():
            raise DataError(
                f"holds no {SIGNATURE}, so it is no folder of predictions",
                where=folder,
                expected="the --out of `uda predict`",
                fix="predict the images first, or leave --predictions out",
            )
        named = read_json(signature)
        classes = named.get("classes") if isinstance(named, dict) else None
        if classes != list(self.info.classes):
            raise DataError(
                f"the masks have the classes {classes}",
                where=folder,
                expected=f"those of the model, {list(self.info.classes)}",
                fix="give the predictions of a model with the same classes",
            )
        missing = [case for case in cases if not self._places(folder).labels(case.name).is_file()]
        faults = [
            DataError(f"there is no mask of case {case.name!r}", where=folder, fix="predict it")
            for case in missing
        ]
        raise_all(faults, f"the masks in {folder}")

    def _places(self, folder: Path) -> Places:
        return Places(folder, isinstance(self.info.prepare, PhotoPrepare))

    def files(self, case: Case) -> list[Path]:
        """What is read of a case."""
        masks = [] if self.masks is None else [self._places(self.masks).labels(case.name)]
        return [case.image, *masks]

    def opinions(self, case: Case) -> Opinions:
        """Predict one case several times and compare.

        Raises:
            DataError: its image or mask cannot be read or prepared.
            ModelError: a logit is not finite.
            RunError: the memory is too small.
        """
        with memory_for(f"case {case.name!r}"):
            planes, geometry, views = self._opened(case)
            labels, features = self._labels(planes, case)
            rows, columns = inside(geometry)
            labels = labels[:, rows, columns]
            every = [
                _overlaps(labels, found, (rows, columns), len(self.info.classes))
                for found in self._others(planes, geometry, views, case)
            ]
        counts = np.stack(every)[:, :, list(structures_of(self.info))]
        slices = np.array([geometry.stored_slice(i) for i in range(geometry.depth)])
        return Opinions(case.name, slices, mean_dice(counts), disputed_share(counts), features)

    def _opened(self, case: Case) -> tuple[Planes, Geometry, tuple[View, ...]]:
        prepare = self.info.prepare
        if isinstance(prepare, Prepare):
            prepared = read_case(case, prepare)

            def planes(model: nn.Module, info: ModelInfo, view: View) -> Iterator[Tensor]:
                return view_planes(model, info, prepared.slices, self.fabric, view)

            return planes, prepared.geometry, VIEWS
        photo = read_prepared(case, prepare)

        def picture(model: nn.Module, info: ModelInfo, view: View) -> Iterator[Tensor]:
            yield view_logits(model, self.fabric, photo, prepare, view)

        return picture, photo.geometry, PHOTO_VIEWS

    def _labels(self, planes: Planes, case: Case) -> tuple[Tensor, Floats]:
        """The model's labels ``[s, h, w]`` of the image as it is, and its features ``[d]``."""
        found, ratios = list[Tensor](), list[Tensor]()
        with _features(self.model) as seen:
            for logits in planes(self.model, self.info, View()):
                p = logits.softmax(1)
                found.append(most_likely(p).to(torch.uint8))
                ratios.append(p.mean((2, 3)))
        if not all(bool(part.isfinite().all()) for part in ratios):
            raise ModelError(
                "the network's logits are not finite (NaN or infinite)",
                where=case.image,
                fix="if other cases fail too, the weights are broken: use another checkpoint",
            )
        # A network whose last layer is unknown has no features; what it predicts tells images apart, too.
        features: Floats = torch.cat(seen or ratios).double().mean(0).cpu().numpy()
        return torch.cat(found), features

    def _others(
        self, planes: Planes, geometry: Geometry, views: tuple[View, ...], case: Case
    ) -> Iterator[Iterator[Tensor]]:
        """Each other prediction as batches of labels ``[n, h, w]``, -1 where it says nothing."""
        if self.other is not None:
            yield (most_likely(logits) for logits in planes(*self.other, View()))
        if self.masks is not None:
            path = self._places(self.masks).labels(case.name)
            yield iter([_mask(path, geometry, len(self.info.classes)).to(self.fabric.device)])
        if self.other is None and self.masks is None:
            for view in views[1:]:
                yield _seen(planes(self.model, self.info, view), view)


def _check_alike(info: ModelInfo, other: ModelInfo) -> None:
    for what, own, its in (
        ("the classes", list(info.classes), list(other.classes)),
        ("images of the kind", info.prepare.kind, other.prepare.kind),
        ("images of the size", list(info.prepare.size), list(other.prepare.size)),
    ):
        if own != its:
            raise ModelError(
                f"the other model has {what} {its}",
                expected=f"those of the model, {own}",
                fix="give with --with a model for the same task, such as the one before adaptation",
            )


def _seen(planes: Iterator[Tensor], view: View) -> Iterator[Tensor]:
    for logits in planes:
        p, shown = view.back(logits.softmax(1))
        yield most_likely(p).masked_fill_(shown == 0, -1)


def _overlaps(
    labels: Tensor, found: Iterator[Tensor], window: tuple[slice, slice], classes: int
) -> Floats:
    """Per slice and class ``[s, k, 2]`` the pixels that both show and the sum of both sizes."""
    first, parts = 0, []
    for part in found:
        other = part[:, window[0], window[1]].long()
        own = labels[first : first + len(other)].long()
        joint = confusion(own, other, torch.arange(len(other)), classes)
        both = joint.diagonal(dim1=1, dim2=2)
        parts.append(torch.stack([both, joint.sum(1) + joint.sum(2)], -1))
        first += len(other)
    return torch.cat(parts).numpy()


def _mask(path: Path, geometry: Geometry, classes: int) -> Tensor:
    """A mask of ``uda predict`` on the prepared slices ``[s, h, w]``.

    Raises:
        DataError: it cannot be read, has another shape than its image, or values that are no classes.
    """
    array: NDArray[Any]
    if path.suffix == ".png":
        array = pixels(*read_file(path), path)
        array = array[..., None] if array.ndim == 2 else array
    else:
        array = read_volume(path).array
    if array.shape != geometry.shape:
        raise DataError(
            f"the mask has shape {list(array.shape)}",
            where=path,
            expected=f"that of its image, {list(geometry.shape)}",
            fix="predict the images again",
        )
    if array.min() < 0 or array.max() >= classes or (array != np.floor(array)).any():
        raise DataError(
            f"the mask holds values from {array.min():g} to {array.max():g}",
            where=path,
            expected=f"class indices from 0 to {classes - 1}",
            fix="predict the image again",
        )
    return torch.from_numpy(label_slices(array.astype(np.uint8), geometry))


@contextmanager
def _features(model: nn.Module) -> Iterator[list[Tensor]]:
    """Inside the block every pass appends the spatial means ``[b, d]`` of what enters the head; none where the last
    layer is unknown."""
    seen: list[Tensor] = []
    try:
        layer = head(model)
    except ModelError:
        yield seen
        return
    handle = layer.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].float().flatten(2).mean(2))
    )
    try:
        yield seen
    finally:
        handle.remove()
