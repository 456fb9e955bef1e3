"""Random changes of training images as a recipe writes them: of a batch on the device, of photographs on the host."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from uda.config.fields import Amount, Frozen, Positive, Probability, Rate, Share


class Augment(Frozen):
    """Random changes of a batch on the device; each bound is the half-width of a uniform draw."""

    rotate: Amount = 0.0
    """degrees"""
    scale: Share = 0.0
    """relative"""
    shift: Share = 0.0
    """fraction of the image"""
    flip: bool = False
    """mirror each in-plane axis with probability 1/2"""
    mirror: bool = False
    """left and right change places with probability 1/2"""
    gamma: Amount = 0.0
    """intensities in [0, 1] to the power exp(u), u in ±gamma"""
    contrast: Share = 0.0
    brightness: Amount = 0.0
    """in units of the image's own sd"""
    noise: Amount = 0.0
    """largest Gaussian sd, in units of the image's own sd"""
    color: Share = 0.0
    """each channel by a factor of its own in 1 ± color"""
    blur: Amount = 0.0
    """largest Gaussian sd, in pixels"""

    def moves(self) -> bool:
        """Whether pixels change their places."""
        return bool(self.rotate or self.scale or self.shift or self.flip or self.mirror)


class PhotoAugment(Frozen):
    """Random changes of photographs by albumentations, in worker threads, before a batch is put together.

    Source images meet all of them, together with their labels; target images only ``scale``, ``crop`` and
    ``mirror``: what is random in their colours is for the student alone (``augment``).
    """

    scale: tuple[Rate, Rate] = (1.0, 1.0)
    """smallest and largest factor by which the image is resized first"""
    crop: tuple[Positive, Positive] | None = None
    """rows and columns cut out at random; what lies outside the image is the mean colour, and ignored"""
    mirror: bool = False
    """left and right change places with probability 1/2"""
    brightness: Share = 0.0
    contrast: Share = 0.0
    saturation: Share = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    blur: Probability = 0.0
    """probability of a Gaussian blur"""
    noise: Probability = 0.0
    """probability of sensor noise"""

    def moves(self) -> bool:
        """Whether pixels change their places."""
        return self.scale != (1.0, 1.0) or self.crop is not None or self.mirror

    @model_validator(mode="after")
    def _ordered(self) -> PhotoAugment:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale must not fall, got {list(self.scale)}")
        if self.scale != (1.0, 1.0) and self.crop is None:
            raise ValueError("scale needs a crop, which makes the images of a batch one size")
        return self
