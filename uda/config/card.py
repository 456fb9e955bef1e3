"""Dataset cards: one flat YAML file with a domain's file paths, preparation, classes and splits."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from uda.config.fields import FileName, Frozen, Orientation, Rate, Side

MOST_CLASSES = 254
"""Most classes of a card: a label map has a byte for each voxel, and two values mean no class."""


class Prepare(Frozen):
    """Preprocessing of a volume into slices. It is saved with the model, so that new images are prepared alike."""

    kind: Literal["volume"] = "volume"
    orientation: Orientation = "RAS"
    """Axis code that the volume is reoriented to without interpolation; ``stored`` keeps the file's axes
    (right for oblique stacks, whose nearest code changes from case to case)."""
    slice_axis: Literal[0, 1, 2] = 2
    spacing: Rate | None = None
    """In-plane pixel size in mm; ``null`` keeps the file's pixels."""
    slice_spacing: Rate | None = None
    """Distance between prepared slices in mm; ``null`` keeps the file's slices."""
    size: tuple[Side, Side]
    """Rows and columns of a prepared slice, in pixels."""
    crop: Literal["center", "foreground"] = "center"
    """Centre of the region of interest: of the image, or of its voxels brighter than the mean."""
    offset: float = 0.0
    """Added to the file's values first, such as -1024 for a CT stored as 0…4095."""
    clip: tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] = (
        0.0,
        100.0,
    )
    """Percentiles of the cropped volume to which intensities are clipped."""
    normalize: Literal["zscore", "minmax", "none"] | tuple[float, float] = "zscore"
    """``zscore``: each volume to zero mean and unit sd; ``minmax``: each volume to [-1, 1]; ``[low, high]``: a fixed
    window (HU) to [-1, 1]; ``none`` keeps the values (of files that are normalised already)."""
    slab: Literal[1, 3] = 1
    """Input channels of a 2-D network: 1 for the slice, 3 for the slice between its two neighbours."""

    @model_validator(mode="after")
    def _ordered(self) -> Prepare:
        if not self.clip[0] < self.clip[1]:
            raise ValueError(f"clip must rise, got {list(self.clip)}")
        if not isinstance(self.normalize, str) and not self.normalize[0] < self.normalize[1]:
            raise ValueError(f"normalize window must rise, got {list(self.normalize)}")
        return self

    @property
    def channels(self) -> int:
        """Input channels of a 2-D network."""
        return self.slab


Triple = tuple[float, float, float]
Byte = Annotated[int, Field(ge=0, le=255)]


class PhotoPrepare(Frozen):
    """Preprocessing of a photograph: the whole picture is resized, stored as 8 bits per colour, then normalised."""

    kind: Literal["photo"]
    size: tuple[Side, Side]
    """Rows and columns of a prepared image, in pixels."""
    mean: Triple = (0.485, 0.456, 0.406)
    """of red, green and blue in [0, 1]; ImageNet's values, which torchvision's backbones expect"""
    sd: tuple[Rate, Rate, Rate] = (0.229, 0.224, 0.225)

    @property
    def channels(self) -> int:
        """Input channels of a network."""
        return 3


def _volume_by_default(raw: Any) -> Any:
    return {"kind": "volume", **raw} if isinstance(raw, dict) else raw


AnyPrepare = Annotated[
    Prepare | PhotoPrepare, Field(discriminator="kind"), BeforeValidator(_volume_by_default)
]

Colour = tuple[Byte, Byte, Byte]
Patterns = Annotated[tuple[str, ...], Field(min_length=1)]
INSIDE = ("inside",)
"""``labels`` of a card whose label maps lie in the image files"""


class DatasetCard(Frozen):
    """One domain: its file paths, how to read the files, the meaning of labels, and the cases of each split."""

    name: FileName
    title: str
    citation: str = ""
    root: str = "."
    """Folder of the files, relative to the recipe's ``data.root`` (or absolute)."""
    images: Patterns
    """Path pattern below the root with ``{case}``; of several patterns the first whose file exists. ``{folder}`` is
    the part of a split's entry before the last ``/``; a folder ``*`` matches any folder. The name's ending gives the
    format: ``.nii``, ``.nii.gz``, ``.nrrd``, ``.tfrecords``, ``.npz``; ``.png``, ``.jpg``, ``.jpeg`` in photo cards."""
    labels: Patterns | None = None
    """Likewise; ``inside`` if the label maps lie in the image files (``.tfrecords``, ``.npz``)."""
    label_bits: Literal[8, 16] = 8
    """16: the class is the first channel of a 16-bit PNG (SYNTHIA)."""
    indexed: Annotated[str, Field(min_length=1)] | None = None
    """Label files with this name ending hold class indices (and 255), not raw values: ``_labelTrainIds.png``."""
    colors: dict[str, Colour] = Field(default_factory=dict)
    """Red, green and blue of each class: for label files in colour, and for pictures."""
    ignore_colors: tuple[Colour, ...] = ()
    """Colours in label files that are ignored."""
    skip: tuple[Literal["unreadable", "mismatched"], ...] = ()
    """Faults for which a training image is skipped, listed and counted, instead of ending the run."""
    modality: Literal["ct", "mr"] | None = None
    """Imaging modality, by which `uda check` judges intensities."""
    axes: dict[Literal["tfrecords", "npz"], Orientation] = Field(default_factory=dict)
    """Axis code of arrays (rows, columns, slices) in formats that store none."""
    tags: str | None = None
    """CSV ``case,slice,<class>,…`` of 0/1: the structures that an image shows. Reading it is supervision."""
    annotations: str | None = None
    """Folder of points, scribbles, boxes, partial or complete labels of some cases, below the card's root
    (docs/annotations.md). Reading it is supervision."""
    classes: Annotated[tuple[FileName, ...], Field(min_length=2, max_length=MOST_CLASSES)]
    """Names in order of their index; class 0 is background except in photo cards."""
    label_values: dict[str, tuple[int, ...]]
    """Raw values of each class in label files; the name ``ignore`` lists values that are ignored."""
    distance_unit: Literal["mm", "voxel"] = "mm"
    prepare: AnyPrepare
    splits: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Case names, with their ``{folder}`` before the last ``/``; ``*`` and ``?`` match every case with an image."""

    @property
    def photos(self) -> bool:
        """Whether its images are photographs, which have no background class."""
        return isinstance(self.prepare, PhotoPrepare)

    @property
    def structures(self) -> tuple[str, ...]:
        """The classes that are scored: all but the background, if there is one."""
        return self.classes if self.photos else self.classes[1:]

    @field_validator("images", "labels", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("images", "labels")
    @classmethod
    def _pattern(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value not in (None, INSIDE) and any("{case}" not in pattern for pattern in value or ()):
            raise ValueError("the pattern must contain {case}")
        if any("*" in pattern.rpartition("/")[2] for pattern in value or ()):
            raise ValueError("* stands for a folder; the file name must not contain it")
        names = {name for pattern in value or () for name in re.findall(r"{([^{}]*)}", pattern)}
        if unknown := names - {"case", "folder"}:
            raise ValueError(
                f"only {{case}} and {{folder}} stand for something, not {sorted(unknown)}"
            )
        return value

    @field_validator("images")
    @classmethod
    def _outside(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value == INSIDE:
            raise ValueError("the pattern must contain {case}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> DatasetCard:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"class names repeat: {list(self.classes)}")
        if unknown := set(self.label_values) - set(self.classes) - {"ignore"}:
            raise ValueError(f"label_values names {sorted(unknown)}, which are not in classes")
        if unknown := set(self.colors) - set(self.classes):
            raise ValueError(f"colors names {sorted(unknown)}, which are not in classes")
        colors = [*self.colors.values(), *self.ignore_colors]
        if len(set(colors)) != len(colors):
            raise ValueError("colors and ignore_colors give one colour to two classes")
        if missing := set(self.classes) - set(self.label_values):
            raise ValueError(f"label_values says nothing about {sorted(missing)}")
        values = [v for group in self.label_values.values() for v in group]
        if len(set(values)) != len(values):
            raise ValueError("label_values gives one raw value to two classes")
        for split, cases in self.splits.items():
            if len(set(cases)) != len(cases):
                raise ValueError(f"split {split!r} names a case twice")
        return self
