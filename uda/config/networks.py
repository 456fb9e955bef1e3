"""Networks as a recipe writes them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from uda.config.fields import FileName, Frozen, Share, Side

Width = Annotated[int, Field(gt=0, le=65_536)]


class _AnyNetwork(Frozen):
    spatial_dims: Literal[2, 3] = 2
    patch: tuple[Side, Side, Side] | None = None
    """Slices, rows and columns that a 3-D network sees at once."""

    @model_validator(mode="after")
    def _patched(self) -> _AnyNetwork:
        if (self.spatial_dims == 3) != (self.patch is not None):
            raise ValueError("patch belongs to spatial_dims: 3, and only there")
        return self


SIZES = {
    "small": (16, 32, 64, 128),
    "base": (16, 32, 64, 128, 256),
    "large": (32, 64, 128, 256, 512),
}
"""Channels of a U-Net from its first level to its deepest."""


class Network(_AnyNetwork):
    """MONAI's residual U-Net."""

    LATER: ClassVar[frozenset[str]] = frozenset({"size"})
    kind: Literal["unet"] = "unet"
    size: Literal["small", "base", "large"] | None = None
    """Channels by name, and parameters in 2-D. ``small``: 16 to 128, 0.4 million; ``base``: 16 to 256, 1.6 million;
    ``large``: 32 to 512, 6.5 million, about three times the time of a step of ``base``."""
    channels: Annotated[tuple[Width, ...], Field(min_length=2, max_length=16)] = (
        16,
        32,
        64,
        128,
        256,
    )
    res_units: Annotated[int, Field(ge=0, le=64)] = 2
    norm: Literal["batch", "instance"] = "batch"
    dropout: Share = 0.0

    @property
    def divisor(self) -> int:
        """Every side of its images is a multiple of it: each level but the first halves them."""
        return int(2 ** (len(self.channels) - 1))

    @model_validator(mode="before")
    @classmethod
    def _of_size(cls, raw: Any) -> Any:
        size = raw.get("size") if isinstance(raw, dict) else None
        if not isinstance(size, str) or size not in SIZES:
            return raw
        channels = SIZES[size]
        if raw.get("channels", channels) not in (channels, list(channels)):
            raise ValueError(
                f"size {size!r} stands for channels {list(channels)}; set one of the two"
            )
        return {**raw, "channels": channels}


class ForeignNetwork(_AnyNetwork):
    """A network that is not ours: a registered Python factory, or a program stored with the weights."""

    kind: Literal["registered", "torchscript", "exported"]
    name: FileName
    """of the factory (:func:`uda.register_network`), or of the file the program came from"""
    one_logit: bool = False
    """It answers with one logit a pixel, that of class 1 of two; read as the logits (0, z)."""
    output: str | int | None = None
    """Which of several outputs holds the logits: a key, or a position."""


class DeepLab(_AnyNetwork):
    """DeepLabV2 or V3 on torchvision's ResNets."""

    kind: Literal["deeplab_v2", "deeplab_v3"]
    backbone: Literal["resnet101", "resnet50", "resnet18", "small"] = "resnet101"
    """``small``: one block a stage at half width, for the CPU."""
    stride: Literal[8, 16] = 8
    """Pixels of the image a pixel of the features."""
    weights: str = "none"
    """Of the backbone before pretraining: ``none``, torchvision's ``imagenet``, or a file of them."""
    auxiliary: bool = False
    """A second classifier on the last stage but one, the field's two heads."""

    @model_validator(mode="after")
    def _flat(self) -> DeepLab:
        if self.spatial_dims != 2:
            raise ValueError(f"{self.kind} sees images; spatial_dims must be 2")
        return self


def _ours_unless_said(raw: Any) -> Any:
    return {"kind": "unet", **raw} if isinstance(raw, dict) else raw


AnyNetwork = Annotated[
    Network | DeepLab | ForeignNetwork,
    Field(discriminator="kind"),
    BeforeValidator(_ours_unless_said),
]
NETWORKS: dict[str, type[AnyNetwork]] = {
    kind: settings
    for settings in get_args(get_args(AnyNetwork)[0])
    for kind in get_args(settings.model_fields["kind"].annotation)
}
"""The settings of each kind."""
