"""Recipes and cards: what a YAML file may say, every default, and the loading of both.

A recipe is one benchmark table. A card is one domain. Both are flat files, frozen once read.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from uda.errors import nearest
from uda.fields import Amount, Count, FileName, Frozen, Orientation, Positive, Rate, RowName, Share
from uda.methods import METHODS
from uda.prior_specs import PriorSpec
from uda.terms import SOURCE_TERMS, AdversarialTerm, Knowledge, SpatialPriorTerm, Term


class Prepare(Frozen):
    """How a file becomes slices. It travels with the model, so that new images are treated alike."""

    orientation: Orientation = "RAS"
    """Axis code the volume is turned to without interpolation; ``stored`` keeps the file's axes
    (right for oblique stacks, whose nearest code flips from case to case)."""
    slice_axis: Literal[0, 1, 2] = 2
    spacing: Rate | None = None
    """In-plane pixel size in mm; ``null`` keeps the file's pixels."""
    size: tuple[Positive, Positive]
    """Rows and columns of a prepared slice, in pixels."""
    crop: Literal["center", "foreground"] = "center"
    """Centre of the region of interest: of the image, or of its voxels brighter than the mean."""
    clip: tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] = (
        0.0,
        100.0,
    )
    """Percentiles of the cropped volume to which intensities are clipped."""
    normalize: Literal["zscore", "minmax"] | tuple[float, float] = "zscore"
    """Per volume: zero mean and unit sd, or to [-1, 1]; or a fixed window ``[low, high]`` (HU) to [-1, 1]."""

    @model_validator(mode="after")
    def _ordered(self) -> Prepare:
        if not self.clip[0] < self.clip[1]:
            raise ValueError(f"clip must rise, got {list(self.clip)}")
        if not isinstance(self.normalize, str) and not self.normalize[0] < self.normalize[1]:
            raise ValueError(f"normalize window must rise, got {list(self.normalize)}")
        return self


class DatasetCard(Frozen):
    """One domain: where its files are, how to read them, what the labels mean, who is in which split."""

    name: FileName
    title: str
    citation: str = ""
    root: str = "."
    """Folder of the files, relative to the recipe's ``data.root`` (or absolute)."""
    images: str
    """Path pattern below the root with ``{case}``."""
    labels: str | None = None
    tags: str | None = None
    """CSV ``case,slice,<class>,…`` of 0/1: which structures an image shows. Reading it is supervision."""
    classes: Annotated[tuple[FileName, ...], Field(min_length=2)]
    """Names in order of their index; class 0 is background."""
    label_values: dict[str, tuple[int, ...]]
    """Raw values of each class in label files; the name ``ignore`` marks values that count for nothing."""
    distance_unit: Literal["mm", "voxel"] = "mm"
    prepare: Prepare
    splits: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    @field_validator("images", "labels")
    @classmethod
    def _pattern(cls, value: str | None) -> str | None:
        if value is not None and "{case}" not in value:
            raise ValueError("the pattern must contain {case}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> DatasetCard:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"class names repeat: {list(self.classes)}")
        if unknown := set(self.label_values) - set(self.classes) - {"ignore"}:
            raise ValueError(f"label_values names {sorted(unknown)}, which are not in classes")
        if missing := set(self.classes) - set(self.label_values):
            raise ValueError(f"label_values says nothing about {sorted(missing)}")
        values = [v for group in self.label_values.values() for v in group]
        if len(set(values)) != len(values):
            raise ValueError("label_values gives one raw value to two classes")
        for split, cases in self.splits.items():
            if len(set(cases)) != len(cases):
                raise ValueError(f"split {split!r} names a case twice")
        return self


class Phantom(Frozen):
    """Make the data: a parametric thorax, one subject for each case the cards name."""

    seed: Count = 0


class Data(Frozen):
    """Where the two domains come from."""

    root: str | None = None
    """Folder that the cards' roots are relative to. Not needed with ``phantom``."""
    source: str
    target: str
    phantom: Phantom | None = None


class Network(Frozen):
    """MONAI's residual U-Net."""

    kind: Literal["unet"] = "unet"
    channels: Annotated[tuple[Positive, ...], Field(min_length=2)] = (16, 32, 64, 128, 256)
    res_units: Count = 2
    norm: Literal["batch", "instance"] = "batch"
    dropout: Share = 0.0


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
    gamma: Amount = 0.0
    """intensities in [0, 1] to the power exp(u), u in ±gamma"""
    contrast: Share = 0.0
    brightness: Amount = 0.0
    """in units of the image's own sd"""
    noise: Amount = 0.0
    """largest Gaussian sd, in units of the image's own sd"""

    def moves(self) -> bool:
        """Whether pixels change their places."""
        return bool(self.rotate or self.scale or self.shift or self.flip)


class Training(Frozen):
    """One run of the loop."""

    steps: Count
    batch: Positive = 16
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: Rate
    weight_decay: Amount = 1e-4
    momentum: Share = 0.9
    """of SGD"""
    schedule: Literal["constant", "cosine", "poly"] = "constant"
    warmup: Count = 0
    clip: Amount = 1.0
    """Largest gradient norm; 0 = no clipping."""
    ema: Share = 0.0
    """Decay of the averaged weights and buffers that are kept instead of the last ones; 0 = off."""
    objective: Annotated[tuple[Term, ...], Field(min_length=1)]
    augment: Augment = Augment()
    save_every: Positive = 100
    """Steps between checkpoints from which a killed run goes on."""
    snapshot_every: Count = 0
    """Steps between models kept for selection and for the ``oracle`` row; 0 = none."""
    log_every: Positive = 20


class Pretrain(Training):
    """Training with labels."""

    @model_validator(mode="after")
    def _labelled(self) -> Pretrain:
        if wrong := [t.term for t in self.objective if not isinstance(t, SOURCE_TERMS)]:
            raise ValueError(
                f"terms {wrong} need unlabelled target images; pretraining has labels only"
            )
        return self


class Adapt(Training):
    """One adaptation variant."""

    preset: str | None = None
    """Name of a published method (`uda.methods`) whose settings hold where this variant says nothing."""
    prior: str | None = None
    """Name of the prior its terms use."""
    batchnorm: Literal["train", "frozen", "target", "warmed"] = "train"
    """Statistics during adaptation: of the batch (running ones follow), of the source model, or of
    the target, estimated first and then kept; ``warmed``: estimated first, then of the batch."""
    freeze_head: bool = False
    """Train everything but the last layer (SHOT)."""
    source_free: bool = True
    """True: no source file is opened, only the pretrained model."""

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or raw.get("preset") is None:
            return raw
        if raw["preset"] not in METHODS:
            raise ValueError(f"no preset {raw['preset']!r}; {nearest(str(raw['preset']), METHODS)}")
        return {**METHODS[raw["preset"]], **raw}

    def needs(self) -> frozenset[Knowledge]:
        """What the prior has to know."""
        return frozenset(need for term in self.objective for need in term.needs())

    @model_validator(mode="after")
    def _possible(self) -> Adapt:
        source = [t.term for t in self.objective if isinstance(t, SOURCE_TERMS)]
        both = [t.term for t in self.objective if isinstance(t, AdversarialTerm)]
        if self.source_free and source:
            raise ValueError(f"terms {source} need source labels; set source_free: false")
        if self.source_free and both:
            raise ValueError(f"terms {both} need source images; set source_free: false")
        if not self.source_free and not source:
            raise ValueError("source_free is false but no term uses the source")
        if len(source) == len(self.objective):
            raise ValueError("no term uses the target images")
        if self.needs() and self.prior is None:
            needs = [t.term for t in self.objective if t.needs()]
            raise ValueError(f"terms {needs} need a prior; name one with prior:")
        if self.augment.moves() and any(isinstance(t, SpatialPriorTerm) for t in self.objective):
            raise ValueError(
                "spatial_prior_kl knows where classes lie; rotate, scale, shift and flip must be 0"
            )
        return self


class Evaluate(Frozen):
    """What the table holds."""

    distances: bool = True
    """HD95 and ASSD beside Dice."""
    oracle: bool = False
    """Add a row per variant for the snapshot that the test labels like best. It is not a method."""
    save_predictions: bool = False


class Compute(Frozen):
    """How numbers are computed; ``device`` alone does not change a stage's hash."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    channels_last: bool = True


class Recipe(Frozen):
    """One source training, any number of priors and adaptation variants, one table."""

    name: FileName
    title: str
    expected: str = "not yet measured"
    """The score a reader should see, and on what it was seen."""
    seed: Count = 0
    data: Data
    network: Network = Network()
    pretrain: Pretrain
    prior: dict[RowName, PriorSpec] = Field(default_factory=dict)
    adapt: dict[RowName, Adapt] = Field(default_factory=dict)
    target_supervised: bool = False
    """Also train on the target's labels with the settings of ``pretrain``: the upper bound."""
    evaluate: Evaluate = Evaluate()
    compute: Compute = Compute()

    @model_validator(mode="after")
    def _named(self) -> Recipe:
        for name, variant in self.adapt.items():
            if name in RESERVED_ROWS or name.endswith("_oracle"):
                raise ValueError(f"adapt.{name}: this row name is taken")
            if variant.prior is not None and variant.prior not in self.prior:
                raise ValueError(
                    f"adapt.{name}.prior: no prior {variant.prior!r}; {nearest(variant.prior, self.prior)}"
                )
        return self


RESERVED_ROWS = ("source_only", "adabn", "target_supervised")
