"""Tensor shape aliases, and the batches of source and target images.

Axis letters: ``b`` image, ``k`` class, ``c`` channel, ``s`` slice, ``h`` row, ``w`` column, ``d`` depth,
``*s`` any number of spatial axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

IGNORE = 255
"""Label of a pixel that losses and scores skip."""
OTHER = 254
"""Label of a pixel that is of none of the classes that its case's labels name."""

OTHER = 254
"""Label of a pixel that is of none of the classes that its case's labels name."""

Logits: TypeAlias = Float[Tensor, "b k *s"]
Heads: TypeAlias = Tensor | tuple[Tensor, Tensor]
"""Logits of the network's head, or of its main and its auxiliary head."""
Labels: TypeAlias = Int[Tensor, "b *s"]
Image: TypeAlias = Float[Tensor, "b c *s"]
Ratio: TypeAlias = Float[Tensor, "k"] | Float[Tensor, "b k"]
Scalar: TypeAlias = Float[Tensor, ""]


@dataclass(frozen=True)
class SourceBatch:
    """Source images with their labels."""

    image: Image
    label: Labels

    def to(self, device: torch.device) -> SourceBatch:
        return SourceBatch(
            self.image.to(device, non_blocking=True), self.label.to(device, non_blocking=True)
        )


@dataclass(frozen=True)
class TargetBatch:
    """Target images without labels. The class has no label field, so no objective can read one.

    ``index`` numbers the slices of the target set in the order of its store, ``[b]`` or in 3-D ``[b, d]``.
    A term looks up an image's prior with it.
    """

    image: Image
    index: Int[Tensor, "b"] | Int[Tensor, "b d"]

    def to(self, device: torch.device) -> TargetBatch:
        return TargetBatch(
            self.image.to(device, non_blocking=True), self.index.to(device, non_blocking=True)
        )


@dataclass(frozen=True)
class Annotation:
    """What somebody marked on the target images of a batch. A stage whose settings name no annotations has none."""

    label: Labels
    """a class, ``OTHER`` or ``IGNORE``, which says nothing"""
    labelled: Bool[Tensor, "b k"]
    """classes that the labels of each image name; ``OTHER`` is none of them"""
    drawn: int
    """the first so many images were drawn from all, the others because somebody marked them"""
    boxes: Int[Tensor, "b m 6"] | None = None
    """slice of the item, class, first row and column, last row and column; class −1 fills up the rows"""
    boxed: Bool[Tensor, "b d k"] | None = None
    """classes of each of the item's slices (in 2-D one) whose boxes are all given"""
    place: Float[Tensor, "b a *s"] | None = None
    """slice of the item (in 3-D), row and column of each pixel before augmentation, on the grid of the boxes"""

    def to(self, device: torch.device) -> Annotation:
        return self.mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Annotation:
        """Every tensor changed."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {
            n: change(v) if isinstance(v, Tensor) else v for n, v in values.items()
        }
        return Annotation(**changed)


@dataclass(frozen=True)
class Batch:
    """Input of one step: labelled source images, unlabelled target images, or both."""

    source: SourceBatch | None = None
    target: TargetBatch | None = None
    annotation: Annotation | None = None
    """of the target images"""

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.source and self.source.to(device),
            self.target and self.target.to(device),
            self.annotation and self.annotation.to(device),
        )
