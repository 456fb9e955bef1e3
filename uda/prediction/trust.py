"""Whether a prediction is to be trusted, without a label: is the case like the images the model was last trained on,
does it hold the structures in their usual sizes, and how sure is the model?

All are numbers by name: what an image is like (:mod:`uda.data.traits`) and what is found in it
(:class:`uda.prediction.confidence.Tally`). A model file knows the range of each over its own images. A case outside
of a range, widened by a margin, is flagged. Margins are wide on purpose: a range over a few dozen cases says little of its ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from uda.config.card import PhotoPrepare
from uda.networks.image_ranges import ImageRanges
from uda.networks.model_file import ModelInfo
from uda.prediction.confidence import CONFIDENCE, MEAN, RATIO, structures_of

Kind = Literal["intensity", "field of view", "class ratio", "confidence"]
KINDS: tuple[Kind, ...] = get_args(Kind)

SPAN = 0.25
"""margin of intensities, in spans between the lowest and the highest of the model's images"""
SHARE = 0.05
"""margin of the shares of red and blue"""
LENGTHS, ROUGHNESS, RATIOS = 1.25, 2.0, 2.0
"""factors, up and down: of sizes and spacings, of roughness, of a structure's share of the image"""
TRAINED_RATIOS = 4.0
"""the same of a share where only that of the training labels is known"""
LESS_SURE = 0.1
"""how much less confident than of its own images a model may be"""
LEAST_SURE = 0.7
"""least mean confidence where those of its own images are not known"""

NOTHING = "none of the structures is found"
OWN = "in the model's own images"
LABELS = "on average in the labels it was trained with"
FIXED = "expected of any model"

WORDS: dict[str, tuple[str, str]] = {
    "intensity_p5": ("intensity, 5th percentile", ""),
    "intensity_p50": ("median intensity", ""),
    "intensity_p95": ("intensity, 95th percentile", ""),
    "brightness_p5": ("brightness, 5th percentile", "of 255"),
    "brightness_p50": ("median brightness", "of 255"),
    "brightness_p95": ("brightness, 95th percentile", "of 255"),
    "roughness": ("roughness", ""),
    "red": ("share of red", "%"),
    "blue": ("share of blue", "%"),
    "pixel_mm": ("pixel size", "mm"),
    "slice_mm": ("slice distance", "mm"),
    "slices": ("number of slices", ""),
    "height_mm": ("height of a slice", "mm"),
    "width_mm": ("width of a slice", "mm"),
    "depth_mm": ("length of the stack", "mm"),
    "height_px": ("height", "pixels"),
    "width_px": ("width", "pixels"),
    "aspect": ("width over height", ""),
}
"""of a measure's name: words and unit; those that are shares are shown in percent"""

_LIGHT = (
    "check light, exposure and colour; where all images of a camera are like this, adapt the model"
)
_CAMERA = "check that it is the same kind of camera; crop or resize it as the model's images were"
FIXES: dict[str, str] = {
    "intensity": "check that it is the same kind of image: modality, sequence, units, contrast agent; where all images "
    "of a scanner are like this, adapt the model to them",
    "brightness_p5": _LIGHT,
    "brightness_p50": _LIGHT,
    "brightness_p95": _LIGHT,
    "red": _LIGHT,
    "blue": _LIGHT,
    "roughness": "look at the image: noise, blur, or something else than the model's images show",
    "field of view": "check the voxel size in its header, and that it shows the same part of the body as the model's "
    "images; crop it, or have it imaged as they were",
    "height_px": _CAMERA,
    "width_px": _CAMERA,
    "aspect": _CAMERA,
    "class ratio": "look at the picture: a part missed, something else taken for it, or an unusual patient",
    "confidence": "the model itself is unsure: look at the picture and correct the mask",
}
"""what to do, by a measure's name or else by its kind"""


@dataclass(frozen=True)
class Expectation:
    """What is accepted of a measure, and the usual range it was made of."""

    low: float
    high: float
    seen: tuple[float, float]
    where: str
    """that range is from"""
    cases: int = 0
    """images it is of"""


@dataclass(frozen=True)
class Flag:
    """A reason not to trust a case as it is."""

    kind: Kind
    measure: str
    value: float
    low: float
    high: float
    """what is accepted: ``low`` to ``high``"""
    usual: str
    """what is usual, in words …"""
    where: str
    """… and where that is from"""
    fix: str
    """what its reader can do"""

    @property
    def what(self) -> str:
        """The fault in a sentence."""
        if not self.usual:
            return NOTHING
        if self.measure.startswith(RATIO) and not self.value:
            return f"{self.measure.removeprefix(RATIO)} is not found"
        usual = f"{self.usual} {self.where}"
        return f"{words(self.measure)} is {in_words(self.measure, self.value)} ({usual})"

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


def flags_of(measures: Mapping[str, float], info: ModelInfo) -> tuple[Flag, ...]:
    """Every reason not to trust a case, by kind.

    Args:
        measures: its traits, and what a tally counted.
    """
    found = list(_outside(measures, info))
    if not any(measures.get(f"{RATIO}{info.classes[k]}") for k in structures_of(info)):
        found = [flag for flag in found if flag.kind != "class ratio"]
        found.append(Flag("class ratio", RATIO, 0.0, 0.0, 1.0, "", "", FIXES["class ratio"]))
    return tuple(sorted(found, key=lambda flag: KINDS.index(flag.kind)))


def _outside(measures: Mapping[str, float], info: ModelInfo) -> Iterator[Flag]:
    for name, expected in expectations(info).items():
        if name in measures and not expected.low <= measures[name] <= expected.high:
            kind, usual = kind_of(name), in_words(name, *expected.seen)
            ends, fix = (expected.low, expected.high), FIXES.get(name, FIXES[kind])
            yield Flag(kind, name, measures[name], *ends, usual, expected.where, fix)


def kind_of(measure: str) -> Kind:
    """What a measure speaks of."""
    if measure.startswith(RATIO):
        return "class ratio"
    if measure == MEAN or measure.startswith(CONFIDENCE):
        return "confidence"
    if measure.startswith(("intensity", "brightness")) or measure in ("roughness", "red", "blue"):
        return "intensity"
    return "field of view"


def words(measure: str) -> str:
    """A measure's name for a reader."""
    if measure.startswith(RATIO):
        return f"share of {measure.removeprefix(RATIO)}"
    if measure.startswith(CONFIDENCE):
        return f"confidence of {measure.removeprefix(CONFIDENCE)}"
    return WORDS.get(measure, (measure, ""))[0]


def in_words(measure: str, *values: float) -> str:
    """A value, or the two ends of a range, with the unit: ``1.2 to 3.4 %``."""
    unit = "%" if measure.startswith(RATIO) else WORDS.get(measure, ("", ""))[1]
    scale = 100 if unit == "%" else 1
    ends = list(dict.fromkeys(_number(scale * value) for value in values))
    return " ".join([" to ".join(ends), unit]).strip()


def _number(value: float) -> str:
    """As many digits as a reader needs."""
    if value and abs(value) < 0.01:
        return "below 0.01" if value > 0 else "above -0.01"
    if abs(value) >= 100:
        return f"{value:.0f}"
    if value == round(value):
        return f"{value:.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def unknown(info: ModelInfo) -> tuple[Kind, ...]:
    """What cannot be judged with this model, because its images were never measured. No case is cleared of it."""
    return () if info.images is not None else ("intensity", "field of view")


def expectations(info: ModelInfo) -> dict[str, Expectation]:
    """What is accepted of each measure that the model knows."""
    if info.images is None:
        return _of_training_labels(info)
    span = _span(info.images)
    found = {}
    for name in sorted(info.images.ranges, key=lambda name: _place(name, info)):
        seen = info.images.ranges[name]
        if name.startswith(CONFIDENCE) and isinstance(info.prepare, PhotoPrepare):
            continue  # a rare class in a street says little of the whole
        if name.startswith(RATIO) and not seen.high:
            continue  # never found: nothing is known of its size
        low, high = accepted(name, seen.low, seen.high, span)
        found[name] = Expectation(low, high, (seen.low, seen.high), OWN, seen.cases)
    return found


def _place(name: str, info: ModelInfo) -> tuple[int, int, str]:
    """Order of measures for a reader: by kind, then as :data:`WORDS` or the model's classes stand."""
    listed = [*WORDS, *info.classes]
    key = name.partition("/")[2] or name
    return KINDS.index(kind_of(name)), listed.index(key) if key in listed else -1, name


def accepted(name: str, low: float, high: float, span: float) -> tuple[float, float]:
    """A range over a model's images, widened by the margin of its measure.

    Args:
        span: between the lowest and the highest intensity of those images.
    """
    kind = kind_of(name)
    if kind == "confidence":
        return max(0.0, low - LESS_SURE), 1.0
    if name in ("red", "blue"):
        return low - SHARE, high + SHARE
    if kind == "intensity" and name != "roughness":
        return low - SPAN * span, high + SPAN * span
    factor = {"roughness": ROUGHNESS}.get(name, RATIOS if kind == "class ratio" else LENGTHS)
    return low / factor, high * factor


def _span(images: ImageRanges) -> float:
    levels = [one for name, one in images.ranges.items() if "ness_p" in name or "sity_p" in name]
    if not levels:
        return 0.0
    return max(one.high for one in levels) - min(one.low for one in levels)


def _of_training_labels(info: ModelInfo) -> dict[str, Expectation]:
    """Without images: what the training labels say of sizes, and a fixed least confidence."""
    found = {MEAN: Expectation(LEAST_SURE, 1.0, (LEAST_SURE, 1.0), FIXED)}
    if info.class_ratio is None or isinstance(info.prepare, PhotoPrepare):
        return found
    for k in structures_of(info):
        if ratio := info.class_ratio[k]:
            low, high = ratio / TRAINED_RATIOS, ratio * TRAINED_RATIOS
            found[f"{RATIO}{info.classes[k]}"] = Expectation(low, high, (ratio, ratio), LABELS)
    return found
