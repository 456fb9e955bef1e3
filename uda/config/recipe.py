"""Settings of a recipe, the YAML file of one benchmark table, with every default. They cannot change after reading."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from uda.config.annotations import Kind
from uda.config.augment import Augment, PhotoAugment
from uda.config.fields import Amount, Count, FileName, Frozen, Positive, Rate, RowName, Share
from uda.config.guard import Guard
from uda.config.methods import method_settings
from uda.config.networks import AnyNetwork, Network
from uda.config.postprocess import NO_STEPS, Postprocess
from uda.config.priors import PriorSpec
from uda.config.terms import (
    AdversarialTerm,
    CentroidTerm,
    Knowledge,
    LandmarksTerm,
    PseudoLabelTerm,
    SeedsTerm,
    SourceTerm,
    SpatialPriorTerm,
    Term,
    ViewAgreementTerm,
    ViewConsistencyTerm,
)
from uda.errors import nearest


class Phantom(Frozen):
    """Render the data: a parametric thorax, one subject for each case of the cards' splits."""

    seed: Count = 0


class Streets(Frozen):
    """Render the data: street scenes in the folders of GTA5 and of Cityscapes."""

    source: Positive = 48
    """labelled images in the style of a game"""
    target: Positive = 32
    """images in the style of a camera, to adapt to"""
    test: Positive = 16
    """images in the style of a camera, to test on"""
    size: tuple[Positive, Positive] = (144, 256)
    """rows and columns of an image"""
    seed: Count = 0


Chosen = str | tuple[str, ...]
"""A split of the card by its name, or cases as a card's split lists them: names, or patterns with ``*`` and ``?``."""


def _roles(*roles: str) -> BeforeValidator:
    """A mapping from these roles to cases; a role that is left out is None."""

    def complete(raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        if unknown := [name for name in raw if name not in roles]:
            raise ValueError(f"there is no role {unknown[0]!r}; {nearest(str(unknown[0]), roles)}")
        for role, cases in raw.items():
            listed = list(cases) if isinstance(cases, list | tuple) else [cases]
            if not listed or not all(
                isinstance(case, str | None) and case != "" for case in listed
            ):
                raise ValueError(
                    f"{role} is {cases!r}; give the name of a split of the card, or a list of cases in quotes"
                )
            if len(set(listed)) < len(listed):
                raise ValueError(f"{role} names a case twice")
        return dict.fromkeys(roles) | raw

    return BeforeValidator(complete)


class Splits(Frozen):
    """Which cases play which role, instead of the card's splits of these names."""

    source: Annotated[dict[str, Chosen | None], _roles("train", "validate")] = Field(
        default={}, validate_default=True
    )
    """``train``: cases whose labels train the source model; ``validate``: those on which it is validated."""
    target: Annotated[dict[str, Chosen | None], _roles("adapt", "test", "train")] = Field(
        default={}, validate_default=True
    )
    """``adapt``: cases to adapt to, whose labels no adaptation reads; ``test``: cases to score; ``train``: cases whose
    labels train the row ``target_supervised``, by default those of ``adapt``."""


class Data(Frozen):
    """The two domains and where their files are."""

    LATER: ClassVar[frozenset[str]] = frozenset({"splits"})

    root: str | None = None
    """Folder that the cards' roots are relative to. Not needed with ``phantom`` and ``streets``."""
    source: str
    target: str
    phantom: Phantom | None = None
    streets: Streets | None = None
    size: tuple[Positive, Positive] | None = None
    """Rows and columns of prepared photographs in both domains, instead of the cards' sizes."""
    splits: Splits = Splits()
    """Cases by role, instead of the cards' splits."""

    @model_validator(mode="after")
    def _made_once(self) -> Data:
        if self.phantom is not None and self.streets is not None:
            raise ValueError("phantom and streets are both set; set one of them")
        return self


class Training(Frozen):
    """One run of the training loop."""

    steps: Count
    batch: Positive = 16
    """images of all processes together"""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: Rate
    head_lr: Rate = 1.0
    """Factor of the learning rate of the network's classifiers."""
    weight_decay: Amount = 1e-4
    momentum: Share = 0.9
    """of SGD"""
    schedule: Literal["constant", "cosine", "poly", "step"] = "constant"
    decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """With ``schedule: step``, lr is multiplied by this factor every ``decay_every`` steps."""
    decay_every: Positive = 1000
    warmup: Count = 0
    horizon: Count = 0
    """Steps after which ``cosine`` and ``poly`` reach 0; 0 = ``steps``."""
    clip: Amount = 1.0
    """Largest gradient norm; 0 = no clipping."""
    ema: Share = 0.0
    """Decay of the moving average of weights and buffers that is kept instead of the last ones; 0 = off."""
    objective: Annotated[tuple[Term, ...], Field(min_length=1)]
    augment: Augment = Augment()
    photo: PhotoAugment = PhotoAugment()
    save_every: Positive = 100
    """Steps between checkpoints from which a killed run resumes."""
    snapshot_every: Count = 0
    """Steps between models that are kept beside the last one; 0 = none. An adaptation selects from them; with 0 a
    guarded one judges about eight, and keeps none of them."""
    log_every: Positive = 20
    """Steps between rows of ``metrics.csv``."""

    @model_validator(mode="after")
    def _two_views(self) -> Training:
        agreeing = any(isinstance(term, ViewAgreementTerm) for term in self.objective)
        if agreeing and self.augment.views != 2:
            raise ValueError("term view_agreement compares two views; set augment.views: 2")
        if agreeing and not self.augment.recolours():
            raise ValueError(
                "term view_agreement compares two appearances, and augment changes none; set augment.generalize, or "
                "a change of intensity"
            )
        return self

    @model_validator(mode="after")
    def _reaches(self) -> Training:
        if self.horizon and self.horizon < self.steps:
            raise ValueError(f"horizon {self.horizon} must not be less than steps {self.steps}")
        return self


_READERS = (
    "partial_labels reads points, scribbles, partial and labels, boxes and deepcut read boxes"
)


class _Annotated(Training):
    """A training that may use what somebody marked on its images."""

    annotations: tuple[Kind, ...] = ()
    """What is marked on images that its terms may use: ``points``, ``scribbles``, ``boxes``, ``partial``, ``labels``
    (:mod:`uda.config.annotations`). Each is a ledger entry of its own."""
    annotated_cases: tuple[str, ...] | None = None
    """Cases whose annotations it may use: names, or patterns with ``*`` and ``?``. Default: all that have any."""

    @property
    def marked(self) -> int:
        """Images of a batch that are drawn because they are marked."""
        return self.batch if self.annotations else 0

    @model_validator(mode="after")
    def _annotations_are_read(self) -> _Annotated:
        """Check that terms and annotations need each other, and that enough images are drawn from all."""
        if len(set(self.annotations)) < len(self.annotations):
            raise ValueError(f"annotations names a kind twice: {list(self.annotations)}")
        if self.annotated_cases is not None and not self.annotations:
            raise ValueError(
                "annotated_cases chooses among annotations, but annotations names none"
            )
        read = frozenset(kind for term in self.objective for kind in term.reads())
        if unused := [kind for kind in self.annotations if kind not in read]:
            raise ValueError(f"no term uses annotations of kind {unused}; {_READERS}")
        for term in self.objective:
            if term.reads() and not term.optional and not term.reads() & set(self.annotations):
                listed = ", ".join(sorted(term.reads()))
                raise ValueError(
                    f"term {term.term!r} needs annotations; set annotations to some of {listed}"
                )
        compared = [term.term for term in self.objective if term.compares]
        if compared and self.marked == self.batch:
            raise ValueError(
                f"terms {compared} compare with all images, but every image of a batch is a marked one; set "
                "annotated_share below 1, or a larger batch"
            )
        if "boxes" in self.annotations and self.photo.moves():
            raise ValueError("boxes need whole images; photo.scale, crop and mirror must be off")
        return self


class Pretrain(_Annotated):
    """Training with labels, or with annotations of the source's card in their place."""

    LATER: ClassVar[frozenset[str]] = frozenset({"select", "annotations", "annotated_cases"})
    select: Literal["last", "perturbed"] = "last"
    """Which checkpoint to keep. ``last``: the last one; ``perturbed``: of the snapshots (about ten, with
    ``snapshot_every: 0``) the one with the best Dice or IoU on the source's validation images under strong random
    changes of appearance, which stand for other scanners."""

    @model_validator(mode="after")
    def _labelled(self) -> Pretrain:
        if self.annotations:
            if wrong := [t.term for t in self.objective if isinstance(t, SourceTerm) or t.needs()]:
                raise ValueError(
                    f"terms {wrong} need complete labels or a prior; training on annotations has neither"
                )
        elif wrong := [t.term for t in self.objective if not isinstance(t, SourceTerm)]:
            raise ValueError(
                f"terms {wrong} need unlabelled target images; pretraining has labels only"
            )
        return self


class Adapt(_Annotated):
    """One adaptation variant."""

    preset: str | None = None
    """Name of a published method (`uda.config.methods`); its settings replace the defaults of this variant. With ``+``
    and a method of annotations, ``ratio_teacher+scribbles``, it has the terms of both."""
    prior: str | None = None
    """Name of the prior that its terms use."""
    batchnorm: Literal["train", "frozen", "target", "warmed"] = "train"
    """BatchNorm statistics during adaptation. ``train``: of the batch, running ones follow; ``frozen``: of the source
    model; ``target``: estimated on the target first, then frozen; ``warmed``: estimated first, then as ``train``."""
    freeze_head: bool = False
    """Train everything but the last layer (SHOT)."""
    train: Literal["all", "batchnorm"] = "all"
    """Which weights to train. ``batchnorm``: only scales and shifts of the normalisation layers, whatever their kind
    (TENT); with ``freeze_head`` not those of the last layer."""
    source_free: bool = True
    """True: the stage opens no source file, only the pretrained model."""
    select: Literal["guarded", "last", "oracle"] = "guarded"
    """Which checkpoint to keep. ``guarded``: the best safe one by scores without labels, or the model before adaptation
    if none is better (:mod:`uda.selection`); ``last``: the last one, as published methods do; ``oracle``: the one
    with the best score on the test labels, which is not a method."""
    guard: Guard = Guard()
    """settings of ``select: guarded``"""
    source: RowName | None = None
    """The one source training that it starts from: ``pretrain``, or a name of ``sources``. Default: it starts from
    each of them, a row for each."""
    annotated_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of each batch that is drawn from the marked images; the rest is drawn from all. Terms that compare with a
    prior, and ``mutual_information``, see the rest alone, because marked images are no fair sample."""
    start: Literal["source", "scratch"] = "source"
    """``scratch``: a network of new weights, which shows what the annotations alone are worth."""
    LATER: ClassVar[frozenset[str]] = frozenset(
        {"train", "source", "annotations", "annotated_cases", "annotated_share", "start"}
    )

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or raw.get("preset") is None:
            return raw
        if not isinstance(raw["preset"], str):
            raise ValueError(f"no preset {raw['preset']!r}; give one name, or names joined by +")
        return {**method_settings(raw["preset"]), **raw}

    @property
    def marked(self) -> int:
        """Images of a batch that are drawn because they are marked."""
        return max(1, round(self.batch * self.annotated_share)) if self.annotations else 0

    def needs(self) -> frozenset[Knowledge]:
        """What the terms need from the prior."""
        return frozenset(need for term in self.objective for need in term.needs())

    @model_validator(mode="after")
    def _possible(self) -> Adapt:
        source = [t.term for t in self.objective if isinstance(t, SourceTerm)]
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
        placed = [t.term for t in self.objective if isinstance(t, SpatialPriorTerm)]
        if self.augment.moves() and placed:
            raise ValueError(
                f"terms {placed} depend on the place of pixels; rotate, scale, shift, flip, mirror, shear and elastic "
                "must be off"
            )
        self._check_classmix()
        if self.start == "scratch" and self.select == "guarded":
            raise ValueError(
                "start: scratch begins with a network that knows nothing, which select: guarded would compare with the "
                "source model; set select: last"
            )
        if self.photo.moves() and {"maps", "landmarks", "seeds"} & self.needs():
            raise ValueError(
                "a prior with maps, landmarks or seeds needs whole images; photo.scale, crop and mirror must be off"
            )
        return self

    def _check_classmix(self) -> None:
        """Check that no other term depends on the place of pixels, which pasting images together changes."""
        labels = [t for t in self.objective if isinstance(t, PseudoLabelTerm)]
        pasting = [t for t in labels if t.classmix != "none"]
        if not pasting:
            return
        kinds = CentroidTerm | LandmarksTerm | SeedsTerm | ViewConsistencyTerm
        noted = [t.term for t in self.objective if isinstance(t, kinds)]
        if noted or len(labels) > 1:
            other = noted[0] if noted else "another pseudo_labels"
            raise ValueError(f"classmix pastes images together, which {other} does not support")
        if "boxes" in self.annotations:
            raise ValueError("classmix pastes images together, which boxes do not support")
        if pasting[0].soft:
            raise ValueError("classmix pastes hard labels; soft must be 0")
        if self.source_free and pasting[0].classmix == "source":
            raise ValueError("classmix: source needs source images; set source_free: false")


class Evaluate(Frozen):
    """Contents of the table."""

    LATER: ClassVar[frozenset[str]] = frozenset({"last", "postprocess"})

    distances: bool = True
    """HD95 and ASSD beside Dice."""
    convention: Literal["ours", "sifa", "multi_scale"] = "ours"
    """A second table beside ours. ``sifa``: the same predictions scored as PnP-AdaNet and SIFA did (volumes);
    ``multi_scale``: mean probabilities of every photograph at several ``scales`` and of its mirror images."""
    scales: Annotated[tuple[Rate, ...], Field(min_length=1)] = (0.75, 1.0, 1.25)
    """for ``multi_scale``, relative to the prepared size"""
    subsets: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(
        default_factory=dict
    )
    """Further means over some of the classes, by name: ``13 classes: [road, …]`` (photographs)."""
    oracle: bool = False
    """Add a row per variant for the snapshot with the best score on the test labels. It is not a method."""
    last: bool = False
    """Add a row ``…_last`` for the last snapshot of every training that kept snapshots and chose an earlier step or the
    model before adaptation. A guard may have ended the training before its last step."""
    save_predictions: bool = False
    """Write the predicted label maps."""
    postprocess: Postprocess = NO_STEPS
    """Adds a second row for every row: the same model with these steps, or with those of a named set
    (``recommended``)."""


class Published(Frozen):
    """A row from a paper, printed below ours and never mixed with them."""

    row: str
    dice: Annotated[float, Field(ge=0, le=100)] | None = None
    """mean over structures, in points"""
    miou: Annotated[float, Field(ge=0, le=100)] | None = None
    """mean intersection over union, in points"""
    source: str
    """authors and place of publication"""


class Compute(Frozen):
    """Device, processes and precision. The settings in ``PLACE`` do not change a stage's hash."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: Positive | Literal["auto"] = 1
    """Processes per machine, each with its own device; ``auto``: as many as torchrun or SLURM started."""
    num_nodes: Positive = 1
    """Machines."""
    workers: Count = 0
    """Threads that read and augment photographs; 0 = as many as processors."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    channels_last: bool = True


PLACE = frozenset({"device", "devices", "num_nodes", "workers"})
"""Settings that say where numbers are computed."""


class Recipe(Frozen):
    """A source training or several, any number of priors and adaptation variants, and one table."""

    LATER: ClassVar[frozenset[str]] = frozenset({"sources"})

    name: FileName
    title: str
    expected: str = "not yet measured"
    """The score to expect, and the hardware on which it was measured."""
    seed: Count = 0
    data: Data
    network: AnyNetwork = Network()
    pretrain: Pretrain
    sources: dict[RowName, Pretrain] = Field(default_factory=dict)
    """Further source trainings by name, such as ``generalised``; their settings replace those of ``pretrain``. Each has
    rows of its own, ``generalised_source_only``, ``generalised_adabn`` and ``generalised_`` before each variant."""
    prior: dict[RowName, PriorSpec] = Field(default_factory=dict)
    adapt: dict[RowName, Adapt] = Field(default_factory=dict)
    target_supervised: bool = False
    """Also train on the target's labels with the settings of ``pretrain``: the upper bound."""
    evaluate: Evaluate = Evaluate()
    published: tuple[Published, ...] = ()
    """What papers report for this benchmark."""
    compute: Compute = Compute()

    @model_validator(mode="before")
    @classmethod
    def _like_pretrain(cls, raw: Any) -> Any:
        """Complete each further source training by the settings of ``pretrain``."""
        if not isinstance(raw, dict) or not isinstance(raw.get("sources"), dict):
            return raw
        first = raw["pretrain"] if isinstance(raw.get("pretrain"), dict) else {}
        sources = {
            name: {**first, **one} if isinstance(one, dict) else one
            for name, one in raw["sources"].items()
        }
        return {**raw, "sources": sources}

    @property
    def variants(self) -> dict[str, tuple[str, Adapt]]:
        """Every adapted row: the source training that it starts from (``pretrain``: the first), and its settings."""
        return {row: (source, variant) for row, source, variant in self._adapted()}

    def _adapted(self) -> Iterator[tuple[str, str, Adapt]]:
        """Row, source training and settings of every adaptation."""
        for source in (FIRST, *self.sources):
            for name, variant in self.adapt.items():
                if variant.source in (None, source):
                    shared = variant.source is None and source != FIRST
                    yield f"{source}_{name}" if shared else name, source, variant

    @model_validator(mode="after")
    def _named(self) -> Recipe:
        if FIRST in self.sources:
            raise ValueError(f"sources.{FIRST}: this name is taken")
        for name, variant in self.adapt.items():
            if variant.source not in (None, FIRST, *self.sources):
                known = (FIRST, *self.sources)
                raise ValueError(
                    f"adapt.{name}.source: no source training {variant.source!r}; {nearest(str(variant.source), known)}"
                )
            if variant.prior is not None and variant.prior not in self.prior:
                raise ValueError(
                    f"adapt.{name}.prior: no prior {variant.prior!r}; {nearest(variant.prior, self.prior)}"
                )
        rows = [row for row, *_ in self._adapted()]
        for row in rows:
            if row in RESERVED_ROWS or row.endswith(RESERVED_ENDINGS) or rows.count(row) > 1:
                raise ValueError(
                    f"adapt.{row}: this row name is taken; rename a variant or a source"
                )
        return self


FIRST = "pretrain"
"""name of the first source training"""
RESERVED_ROWS = ("source_only", "adabn", "views", "target_supervised")
"""Row names that no variant may have."""
LAST = "_last"
"""end of the name of the row of a training's last step, beside the step that was chosen"""
RESERVED_ENDINGS = ("_oracle", LAST, *(f"_{row}" for row in RESERVED_ROWS))
