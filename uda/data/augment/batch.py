"""All random changes of a batch, in their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from uda.config.augment import Augment
from uda.data.augment.acquisition import bias, low_resolution, mask
from uda.data.augment.convolutions import convolve
from uda.data.augment.draws import Draws
from uda.data.augment.geometry import warp
from uda.data.augment.intensity import simple_changes
from uda.data.augment.intensity_maps import bezier, class_bezier, location_scale
from uda.types import Annotation, Batch, SourceBatch, TargetBatch

Change = Callable[[Tensor, Any, Draws], Tensor]
STYLES: dict[str, Change] = {
    "location_scale": location_scale,
    "convolve": convolve,
    "bias": bias,
}
"""Changes of appearance after the maps of intensity, by the name of their settings."""
ACQUISITION: dict[str, Change] = {"low_resolution": low_resolution, "mask": mask}
"""Changes after all others."""


def augment(
    image: Tensor,
    label: Tensor | None,
    settings: Augment,
    generator: torch.Generator,
    stream: str = "image",
) -> tuple[Tensor, Tensor | None]:
    """Each image of the batch under its own random change.

    Args:
        image: ``[b, c, h, w]`` or ``[b, c, d, h, w]`` float.
        label: ``[b, *s]``, or several maps ``[b, m, *s]``, or None; resampled by nearest neighbour, and unchanged
            without geometric changes.
        generator: on the image's device, seeded for this call; with ``stream`` the only source of randomness.
        stream: name of the images; others get other changes.

    Returns:
        image and label; with ``views: 2`` and a label ``[b, *s]`` twice as many, first all first views.
    """
    draws = _Streams(generator, stream, image)
    if settings.moves():
        image, label = warp(image, label, settings, generator, draws.of("elastic"))
    labelled = label is not None and label.dim() == image.dim() - 1
    if settings.views == 2 and label is not None and labelled:
        image, label = torch.cat([image, image]), torch.cat([label, label])
        draws = _Streams(generator, stream, image)
    image = _mapped(image, label if labelled else None, settings, draws)
    image = _each(STYLES, image, settings, draws)
    image = simple_changes(image, settings, generator)
    return _each(ACQUISITION, image, settings, draws), label


def augment_batch(
    batch: Batch,
    notes: list[Tensor | None],
    settings: Augment,
    generator: torch.Generator,
) -> tuple[Batch, list[Tensor | None]]:
    """The batch under random changes; labels, notes ``[b, m, *s]`` and annotations get the geometry of their images."""
    source, target, annotation = batch.source, batch.target, batch.annotation
    if source is not None:
        image, label = augment(source.image, source.label, settings, generator, "source")
        source = SourceBatch(image, source.label if label is None else label)
    if target is not None:
        written = [note for note in notes if note is not None]
        marked = _maps(annotation)
        maps = [*written, *marked]
        together = torch.cat(maps, 1) if maps else None
        image, moved = augment(target.image, together, settings, generator, "target")
        target = TargetBatch(image, target.index)
        if moved is not None:
            parts = iter(moved.split([one.shape[1] for one in maps], 1))
            notes = [None if note is None else next(parts) for note in notes]
            annotation = _with_maps(annotation, list(parts))
    return Batch(source, target, annotation), notes


def _maps(annotation: Annotation | None) -> list[Tensor]:
    """What of an annotation moves with its images, ``[b, m, *s]``."""
    if annotation is None:
        return []
    label = annotation.label[:, None].float()
    return [label] if annotation.place is None else [label, annotation.place]


def _with_maps(annotation: Annotation | None, maps: list[Tensor]) -> Annotation | None:
    if annotation is None:
        return None
    label = maps[0][:, 0].to(annotation.label.dtype)
    return replace(annotation, label=label, place=maps[1] if len(maps) > 1 else None)


class _Streams:
    """The draws of each kind of change of one batch."""

    def __init__(self, generator: torch.Generator, stream: str, image: Tensor) -> None:
        self.seed, self.stream = generator.initial_seed(), stream
        self.count, self.device = len(image), image.device

    def of(self, kind: str) -> Draws:
        return Draws(self.seed, f"{self.stream} {kind}", self.count, self.device)


def _mapped(image: Tensor, label: Tensor | None, settings: Augment, draws: _Streams) -> Tensor:
    """Maps of intensity: by class for some labelled images, of the whole image for some of the others."""
    rest = None
    if settings.class_bezier is not None and label is not None:
        chosen, rest = draws.of("classes").chosen(settings.class_bezier.p)
        of_classes, own = settings.class_bezier, draws.of("class_bezier")
        image = _some(
            image, chosen, lambda some: class_bezier(some, label[chosen], of_classes, own)
        )
    if settings.bezier is not None:
        curve, own = settings.bezier, draws.of("bezier")
        chosen, _ = own.chosen(curve.p, rest)
        image = _some(image, chosen, lambda some: bezier(some, curve, own))
    return image


def _each(changes: dict[str, Change], image: Tensor, settings: Augment, draws: _Streams) -> Tensor:
    for name, change in changes.items():
        own = getattr(settings, name)
        if own is not None:
            image = _some_of(change, image, own, draws.of(name))
    return image


def _some_of(change: Change, image: Tensor, settings: Any, draws: Draws) -> Tensor:
    chosen, _ = draws.chosen(settings.p)
    return _some(image, chosen, lambda some: change(some, settings, draws))


def _some(image: Tensor, chosen: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The batch with the chosen images changed."""
    if not len(chosen):
        return image
    return image.index_copy(0, chosen, change(image.index_select(0, chosen)))
