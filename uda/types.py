"""Tensor shape aliases, and the batches of source and target images.

Axis letters: ``b`` image, ``k`` class, ``c`` channel, ``s`` slice, ``h`` row, ``w`` column, ``d`` depth,
``*s`` any number of spatial axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

IGNORE = 255
"""Label of a pixel that losses and scores skip."""

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
class Batch:
    """Input of one step: labelled source images, unlabelled target images, or both."""

    source: SourceBatch | None = None
    target: TargetBatch | None = None

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.source and self.source.to(device),
            self.target and self.target.to(device),
        )
