"""Settings of data augmentation: of a batch on the device, and of photographs on the host."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from uda.config.fields import Amount, Frozen, Positive, Probability, Rate, Share


class Augment(Frozen):
    """Augmentation of a batch on the device; each bound is the half-width of a uniform draw."""

    rotate: Amount = 0.0
    """degrees"""
    scale: Share = 0.0
    """relative"""
    shift: Share = 0.0
    """fraction of the image"""
    flip: bool = False
    """mirror each in-plane axis with probability 1/2"""
    mirror: bool = False
    """swap left and right with probability 1/2"""
    gamma: Amount = 0.0
    """intensities in [0, 1] to the power exp(u), u in ±gamma"""
    contrast: Share = 0.0
    brightness: Amount = 0.0
    """in units of the image's sd"""
    noise: Amount = 0.0
    """largest Gaussian sd, in units of the image's sd"""
    color: Share = 0.0
    """multiply each channel by its own factor in 1 ± color"""
    blur: Amount = 0.0
    """largest Gaussian sd, in pixels"""

    def moves(self) -> bool:
        """Whether pixels change place."""
        return bool(self.rotate or self.scale or self.shift or self.flip or self.mirror)


class PhotoAugment(Frozen):
    """Augmentation of photographs by albumentations, in worker threads, before a batch is assembled.

    Source images and their labels get all changes. Target images get only ``scale``, ``crop`` and ``mirror``:
    only the student sees random colours (``augment``).
    """

    scale: tuple[Rate, Rate] = (1.0, 1.0)
    """least and largest factor by which the image is resized first"""
    crop: tuple[Positive, Positive] | None = None
    """rows and columns of a random crop; outside the image it has the mean colour and the label ``IGNORE``"""
    mirror: bool = False
    """swap left and right with probability 1/2"""
    brightness: Share = 0.0
    contrast: Share = 0.0
    saturation: Share = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    blur: Probability = 0.0
    """probability of a Gaussian blur"""
    noise: Probability = 0.0
    """probability of sensor noise"""

    def moves(self) -> bool:
        """Whether pixels change place."""
        return self.scale != (1.0, 1.0) or self.crop is not None or self.mirror

    @model_validator(mode="after")
    def _ordered(self) -> PhotoAugment:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale must list the least factor first, got {list(self.scale)}")
        if self.scale != (1.0, 1.0) and self.crop is None:
            raise ValueError("scale needs a crop, which gives the images of a batch one size")
        return self
