"""Settings of data augmentation: of a batch on the device, and of photographs on the host."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from uda.config.fields import Amount, Frozen, Positive, Probability, Rate, Share, Strength


class _Change(Frozen):
    """A change that some images of a batch get."""

    p: Probability = 0.5
    """share of the images"""


class Elastic(_Change):
    """Elastic deformation in the plane."""

    displacement: Annotated[float, Field(gt=0, le=1000)] = 6.0
    """largest displacement of a control point, in pixels"""
    spacing: Annotated[float, Field(ge=4)] = 48.0
    """pixels between two control points"""


class Bezier(_Change):
    """A random Bézier curve of intensity."""

    inverted: Probability = 0.0
    """probability that the curve decreases"""


class ClassBezier(_Change):
    """A curve, a scale and a shift for each class of a labelled image; images without labels stay as they are."""

    inverted: Probability = 0.5
    scale: Share = 0.1
    """sd and largest deviation of the factor from 1"""
    shift: Strength = 0.5
    """sd of the shift, as a share of the image's range"""


class LocationScale(_Change):
    """A random factor and a random shift of intensity."""

    scale: Share = 0.1
    """sd and largest deviation of the factor from 1"""
    shift: Strength = 0.5
    """sd of the shift, as a share of the image's range"""


class Convolve(_Change):
    """Random shallow convolutional networks."""

    blend: bool = True
    """two networks, blended by a smooth field (IPA); else one (GIN)"""
    spacing: Annotated[float, Field(ge=4)] = 48.0
    """pixels between two control points of that field"""
    mix_channels: bool = False
    """whether a network sees all channels together: colours, but not neighbouring slices"""


class Bias(_Change):
    """A smooth multiplicative field."""

    strength: Annotated[float, Field(gt=0, le=10)] = 0.4
    """largest logarithm of the field at a control point"""
    spacing: Annotated[float, Field(ge=4)] = 64.0
    """pixels between two control points"""


class LowResolution(_Change):
    """Larger pixels along each axis, interpolated."""

    factor: Annotated[float, Field(gt=1, le=100)] = 3.0
    """largest ratio of the pixel sizes"""


class Mask(_Change):
    """Hidden blocks, for consistency with a teacher that sees them (MIC)."""

    p: Probability = 1.0
    block: Annotated[int, Field(ge=2)] = 32
    """side of a block in pixels"""
    ratio: Share = 0.7
    """share of the blocks"""


class Augment(Frozen):
    """Augmentation of a batch on the device.

    Each number is the half-width of a uniform draw for every image; a change with settings of its own happens to a
    share of the images.
    """

    LATER: ClassVar[frozenset[str]] = frozenset(
        {
            "generalize",
            "views",
            "shear",
            "elastic",
            "class_bezier",
            "bezier",
            "location_scale",
            "convolve",
            "bias",
            "low_resolution",
            "mask",
        }
    )
    generalize: Literal["light", "strong", "photo_light", "photo_strong"] | None = None
    """A named set of changes for a source model that has to travel (:data:`GENERALIZE`); settings beside it replace
    those of the set."""
    views: Literal[1, 2] = 1
    """2: every labelled image twice in a batch, under one geometry and two appearances."""

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
    gamma: Strength = 0.0
    """intensities in [0, 1] to the power exp(u), u in ±gamma"""
    contrast: Share = 0.0
    brightness: Strength = 0.0
    """in units of the image's sd"""
    noise: Strength = 0.0
    """largest Gaussian sd, in units of the image's sd"""
    color: Share = 0.0
    """multiply each channel by its own factor in 1 ± color"""
    blur: Strength = 0.0
    """largest Gaussian sd, in pixels"""
    shear: Annotated[float, Field(ge=0, le=45)] = 0.0
    """degrees, in the plane"""
    elastic: Elastic | None = None
    class_bezier: ClassBezier | None = None
    bezier: Bezier | None = None
    """An image that ``class_bezier`` has changed stays as it is."""
    location_scale: LocationScale | None = None
    convolve: Convolve | None = None
    bias: Bias | None = None
    low_resolution: LowResolution | None = None
    mask: Mask | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_set(cls, raw: Any) -> Any:
        name = raw.get("generalize") if isinstance(raw, dict) else None
        return {**GENERALIZE[name], **raw} if isinstance(name, str) and name in GENERALIZE else raw

    def _left_out(self) -> frozenset[str]:
        named = GENERALIZE[self.generalize] if self.generalize else {}
        return (
            self.LATER - named.keys()
        )  # switched off beside a named set, a change has to be listed

    def recolours(self) -> bool:
        """Whether intensities change."""
        return any(value for name, value in self if name not in {"generalize", "views", *_MOVING})

    def moves(self) -> bool:
        """Whether pixels change place."""
        return any(getattr(self, name) for name in _MOVING)


_MOVING = ("rotate", "scale", "shift", "flip", "mirror", "shear", "elastic")
_GEOMETRY = {"rotate": 30, "scale": 0.2, "shift": 0.1}
_PHOTO = {"color": 0.25, "gamma": 0.3, "blur": 1.5}
"""without geometry, which photographs have in ``photo``"""
GENERALIZE: dict[str, dict[str, Any]] = {
    "light": {
        **_GEOMETRY,
        "noise": 0.1,
        "bezier": {"p": 0.5},
        "location_scale": {"p": 0.5, "shift": 0.1},
        "bias": {"p": 0.3, "strength": 0.3},
        "low_resolution": {"p": 0.3, "factor": 2.0},
    },
    # a quarter each, but for the rest: one curve; a curve a class; a curve and convolutions; a curve a class and
    # convolutions (SLAug's global and local maps, GIN under IPA)
    "strong": {
        **_GEOMETRY,
        "shear": 10,
        "elastic": {"p": 0.3},
        "noise": 0.1,
        "class_bezier": {"p": 0.5},
        "bezier": {"p": 1.0},
        "location_scale": {"p": 0.5, "shift": 0.1},
        "convolve": {"p": 0.5},
        "bias": {"p": 0.3},
        "low_resolution": {"p": 0.3},
    },
    "photo_light": {
        **_PHOTO,
        "noise": 0.1,
        "bezier": {"p": 0.5},
        "bias": {"p": 0.3, "strength": 0.3},
    },
    "photo_strong": {
        **_PHOTO,
        "noise": 0.2,
        "bezier": {"p": 0.5},
        "location_scale": {"p": 0.5, "shift": 0.1},
        "convolve": {"p": 0.5, "mix_channels": True},
        "bias": {"p": 0.5, "strength": 0.6},
        "low_resolution": {"p": 0.3},
    },
}
"""Named sets of :attr:`Augment.generalize`. Labels move with the image; nothing here needs an image of the target."""


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
