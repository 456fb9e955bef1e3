"""Recipes: what the YAML of one benchmark table may say, and every default. Frozen once read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from uda.errors import nearest
from uda.fields import Amount, Count, FileName, Frozen, Positive, Rate, RowName, Share
from uda.methods import METHODS
from uda.prior_specs import PriorSpec
from uda.terms import SOURCE_TERMS, AdversarialTerm, Knowledge, SpatialPriorTerm, Term


class Phantom(Frozen):
    """Make the data: a parametric thorax, one subject for each case the cards name."""

    seed: Count = 0


class Streets(Frozen):
    """Make the data: rendered street scenes in the folders of GTA5 and of Cityscapes."""

    source: Positive = 48
    """images like those of a game, with labels"""
    target: Positive = 32
    """images like those of a camera, to adapt to"""
    test: Positive = 16
    size: tuple[Positive, Positive] = (144, 256)
    """rows and columns of an image"""
    seed: Count = 0


class Data(Frozen):
    """Where the two domains come from."""

    root: str | None = None
    """Folder that the cards' roots are relative to. Not needed with ``phantom`` and ``streets``."""
    source: str
    target: str
    phantom: Phantom | None = None
    streets: Streets | None = None
    size: tuple[Positive, Positive] | None = None
    """Rows and columns of prepared photographs in both domains, instead of the cards' own."""

    @model_validator(mode="after")
    def _made_once(self) -> Data:
        if self.phantom is not None and self.streets is not None:
            raise ValueError("data are made by phantom or by streets, not by both")
        return self


class _AnyNetwork(Frozen):
    spatial_dims: Literal[2, 3] = 2
    patch: tuple[Positive, Positive, Positive] | None = None
    """Slices, rows and columns that a 3-D network sees at once."""

    @model_validator(mode="after")
    def _patched(self) -> _AnyNetwork:
        if (self.spatial_dims == 3) != (self.patch is not None):
            raise ValueError("patch belongs to spatial_dims: 3, and only there")
        return self


class Network(_AnyNetwork):
    """MONAI's residual U-Net."""

    kind: Literal["unet"] = "unet"
    channels: Annotated[tuple[Positive, ...], Field(min_length=2)] = (16, 32, 64, 128, 256)
    res_units: Count = 2
    norm: Literal["batch", "instance"] = "batch"
    dropout: Share = 0.0


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
    blur: Share = 0.0
    """probability of a Gaussian blur"""
    noise: Share = 0.0
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


class Training(Frozen):
    """One run of the loop."""

    steps: Count
    batch: Positive = 16
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """of all processes together"""
    lr: Rate
    head_lr: Rate = 1.0
    """Factor of the learning rate of the network's classifiers."""
    weight_decay: Amount = 1e-4
    momentum: Share = 0.9
    """of SGD"""
    schedule: Literal["constant", "cosine", "poly", "step"] = "constant"
    decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Of ``schedule: step``: lr is multiplied by it every ``decay_every`` steps."""
    decay_every: Positive = 1000
    warmup: Count = 0
    horizon: Count = 0
    """Steps after which ``cosine`` and ``poly`` would reach 0; 0 = ``steps``."""
    clip: Amount = 1.0
    """Largest gradient norm; 0 = no clipping."""
    ema: Share = 0.0
    """Decay of the averaged weights and buffers that are kept instead of the last ones; 0 = off."""
    objective: Annotated[tuple[Term, ...], Field(min_length=1)]
    augment: Augment = Augment()
    photo: PhotoAugment = PhotoAugment()
    save_every: Positive = 100
    """Steps between checkpoints from which a killed run goes on."""
    snapshot_every: Count = 0
    """Steps between models kept for selection and for the ``oracle`` row; 0 = none."""
    log_every: Positive = 20

    @model_validator(mode="after")
    def _reaches(self) -> Training:
        if self.horizon and self.horizon < self.steps:
            raise ValueError(f"horizon ends before the training's {self.steps} steps")
        return self


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
        fixed = [t.term for t in self.objective if isinstance(t, SpatialPriorTerm)]
        if self.augment.moves() and fixed:
            raise ValueError(
                f"{fixed} knows where classes lie; rotate, scale, shift, flip and mirror must be off"
            )
        if self.photo.moves() and {"maps", "landmarks"} & self.needs():
            raise ValueError(
                "a prior that knows where classes lie needs whole images; photo.scale, crop and mirror must be off"
            )
        return self


class Evaluate(Frozen):
    """What the table holds."""

    distances: bool = True
    """HD95 and ASSD beside Dice."""
    convention: Literal["ours", "sifa", "multi_scale"] = "ours"
    """A second table beside ours. ``sifa``: the same predictions scored as PnP-AdaNet and SIFA did (volumes);
    ``multi_scale``: mean probabilities of every photograph at several ``scales`` and of its mirror images."""
    scales: Annotated[tuple[Rate, ...], Field(min_length=1)] = (0.75, 1.0, 1.25)
    """of ``multi_scale``, relative to the prepared size"""
    subsets: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(
        default_factory=dict
    )
    """Further means over some of the classes, by name: ``13 classes: [road, …]`` (photographs)."""
    oracle: bool = False
    """Add a row per variant for the snapshot that the test labels like best. It is not a method."""
    save_predictions: bool = False


class Published(Frozen):
    """A row of somebody's paper, printed below ours and never mixed with them."""

    row: str
    dice: Annotated[float, Field(ge=0, le=100)] | None = None
    """mean over structures, in points"""
    miou: Annotated[float, Field(ge=0, le=100)] | None = None
    """mean intersection over union, in points"""
    source: str
    """who published it, and where"""


class Compute(Frozen):
    """How numbers are computed. Where they are (``PLACE``) does not change a stage's hash."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: Positive | Literal["auto"] = 1
    """Processes on this machine, each with a device of its own; torchrun and SLURM say it themselves."""
    num_nodes: Positive = 1
    workers: Count = 0
    """Threads that read and change photographs; 0 = as many as the processors."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    channels_last: bool = True


PLACE = frozenset({"device", "devices", "num_nodes", "workers"})


class Recipe(Frozen):
    """One source training, any number of priors and adaptation variants, one table."""

    name: FileName
    title: str
    expected: str = "not yet measured"
    """The score a reader should see, and on what it was seen."""
    seed: Count = 0
    data: Data
    network: AnyNetwork = Network()
    pretrain: Pretrain
    prior: dict[RowName, PriorSpec] = Field(default_factory=dict)
    adapt: dict[RowName, Adapt] = Field(default_factory=dict)
    target_supervised: bool = False
    """Also train on the target's labels with the settings of ``pretrain``: the upper bound."""
    evaluate: Evaluate = Evaluate()
    published: tuple[Published, ...] = ()
    """What papers report for this benchmark."""
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
