"""Priors as a recipe writes them: which knowledge, from whom.

The first line of each kind's docstring is its line in ``uda prior --help``.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from uda.config.fields import Amount, Frozen, Positive, Probability, Rate

Told = Literal["anatomical", "target_sizes"]
"""Ledger entry: textbook values, or sizes measured on the target's own cases."""


class SourceRatioPrior(Frozen):
    """Mean class ratio of the source's labelled slices."""

    kind: Literal["source_labels"] = "source_labels"


class SpatialPrior(Frozen):
    """Class ratio, and maps of where each class lies in the source.

    A map says how often its class is at each pixel of the source's labelled slices.
    """

    kind: Literal["spatial"] = "spatial"
    sigma: Amount = 4.0
    """sd of the Gaussian that smooths the maps, in pixels of a prepared slice; 0 = no smoothing"""


class TagPrior(Frozen):
    """Per image: which structures it shows, from a CSV of tags.

    A structure that the image does not show has ratio 0; the others have their mean ratio in source slices that
    show them; background takes the rest.
    """

    kind: Literal["target_tags"] = "target_tags"


class CamPrior(Frozen):
    """As target_tags, with seeds: pixels of known class.

    A classifier of the tags on the network's features says by its class activation maps which pixels its answers come
    from.
    """

    kind: Literal["cam"] = "cam"
    foreground: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Seeds of a structure are where its map is at least this share of its largest value in the image."""
    background: Probability = 0.05
    """Seeds of background are where no structure's map is above this share."""
    min_accuracy: Probability = 0.7
    """A structure's map is used if the classifier has at least this balanced accuracy on cases that it was not fitted
    to; 0.5 is chance. 0 = always."""
    l2: Rate = 0.1
    """weight decay of the classifier"""
    stride: Positive = 4
    """Pixels of the prepared image along one pixel of the stored seeds."""

    @model_validator(mode="after")
    def _possible(self) -> CamPrior:
        if self.background > self.foreground:
            raise ValueError("background is above foreground; it must be at most as large")
        return self


class SizePrior(Frozen):
    """Volume of each structure in ml.

    It becomes a share of the prepared target volumes.
    """

    kind: Literal["sizes_ml"] = "sizes_ml"
    sizes_ml: dict[str, Rate]
    supervision: Told = "anatomical"


class AreaPrior(Frozen):
    """Mean area of each structure in mm², over all slices.

    A slice that does not show the structure counts as 0. The area becomes a share of a prepared target slice.
    """

    kind: Literal["areas_mm2"] = "areas_mm2"
    areas_mm2: dict[str, Rate]
    supervision: Told = "anatomical"


class PredictedPrior(Frozen):
    """Mean softmax of the model on the target images.

    The source model predicts, before it adapts.
    """

    kind: Literal["predicted"] = "predicted"
    batchnorm: Literal["source", "target"] = "source"
    """Domain of the BatchNorm statistics that it predicts with."""
    per_image: bool = False
    """Also keep the ratio of each image."""


class ImageLevelPrior(Frozen):
    """Per image: class ratio, predicted from network features.

    The label distributions of the curriculum: learned from the source images, for each target image.
    """

    kind: Literal["image_level"] = "image_level"
    method: Literal["nearest", "logistic", "ridge"] = "nearest"
    """Mean ratio of the nearest source images, or a regression fitted to the source images."""
    neighbours: Positive = 5
    """of ``nearest``"""
    l2: Rate = 0.01
    """weight decay of ``logistic`` and ``ridge``"""


class LandmarkPrior(Frozen):
    """As image_level, with the classes of the surest superpixels.

    The superpixels are the curriculum's second term.
    """

    kind: Literal["landmarks"] = "landmarks"
    method: Literal["nearest", "logistic", "ridge"] = "logistic"
    """for the label distributions, as in ``image_level``"""
    neighbours: Positive = 5
    l2: Rate = 0.01
    segments: Positive = 100
    """superpixels per image"""
    kept: Annotated[float, Field(gt=0, le=1)] = 0.6
    """share of the superpixels to keep, the most certain ones of the whole data set"""
    stride: Positive = 4
    """Pixels of the prepared image along one pixel of the stored superpixel maps."""


class SizeCsvPrior(Frozen):
    """Per image: pixel counts of each class, from a CSV.

    The CSV has a column ``val_ids`` and one of bracketed lists.
    """

    kind: Literal["size_csv"] = "size_csv"
    file: Annotated[str, Field(min_length=1)]
    """Relative to the recipe's ``data.root`` (or absolute)."""
    column: Annotated[str, Field(min_length=1)]
    """Name of the column with the lists."""
    supervision: Literal["target_sizes", "target_labels", "source_labels", "anatomical"] = (
        "target_sizes"
    )
    """Ledger entry of the sizes: counted by a reader, from target labels, or predicted by a model of the source."""


AnyPrior = (
    SourceRatioPrior
    | SpatialPrior
    | TagPrior
    | CamPrior
    | SizePrior
    | AreaPrior
    | PredictedPrior
    | ImageLevelPrior
    | LandmarkPrior
    | SizeCsvPrior
)
PriorSpec = Annotated[AnyPrior, Field(discriminator="kind")]

KINDS: dict[str, type[AnyPrior]] = {
    spec.model_fields["kind"].default: spec for spec in get_args(AnyPrior)
}
NEEDS_SOURCE = (SpatialPrior, ImageLevelPrior, LandmarkPrior)
"""kinds that need the labelled source images, not only the model"""
NEEDS_TARGET = (
    CamPrior,
    SizePrior,
    AreaPrior,
    PredictedPrior,
    ImageLevelPrior,
    LandmarkPrior,
    SizeCsvPrior,
)
"""kinds that need the target images"""
NEEDS_TAGS = (TagPrior, CamPrior)
"""kinds that need the tags of the target images"""
RUNS_NETWORK = (CamPrior, PredictedPrior, ImageLevelPrior, LandmarkPrior)
"""kinds that run the network, so their stage's hash covers seed and compute settings"""
