"""Flag predictions that may be wrong, without labels: unusual images, class ratios and shapes, low confidence.

A case has named measures: of the image (:mod:`uda.data.traits`) and of the prediction
(:class:`uda.prediction.confidence.CaseStatistics`). The model file holds the range of each measure over the images of
its last domain. A case outside a range, widened by a margin, is flagged. Margins are wide on purpose, because a few
dozen cases estimate the ends of a range poorly. Where the source had validation images, the file also holds limits
that tell predictions with a Dice below 70 from others there (:mod:`uda.networks.limits`); they replace the ranges.
Where all predictions were as poor there, every case is flagged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from uda.config.card import PhotoPrepare
from uda.networks.image_ranges import ImageRanges
from uda.networks.model_file import ModelInfo
from uda.prediction.confidence import (
    CONFIDENCE,
    CONTINUITY,
    MEAN,
    OVERALL,
    RATIO,
    SHARE,
    STRAY,
    structures_of,
)

Kind = Literal["model", "intensity", "field of view", "class ratio", "confidence", "shape"]
KINDS: tuple[Kind, ...] = get_args(Kind)

SPAN = 0.25
"""margin of intensities, as a share of the distance from the lowest to the highest of the model's images"""
COLOURS = 0.05
"""margin of the shares of red and blue"""
LENGTHS, ROUGHNESS, RATIOS = 1.25, 2.0, 2.0
"""margins as factors, up and down: of sizes and spacings, of roughness, of a structure's ratio"""
TRAINED_RATIOS = 4.0
"""the factor for a structure's ratio where the model file holds only that of the training labels"""
LESS_SURE = 0.1
"""margin of confidence below that on the model's own images"""
LEAST_SURE = 0.7
"""lowest accepted mean confidence where that on the model's own images is unknown"""

ALL_POOR = "all {count} predictions of the source's own labelled images had a Dice below {dice:.0f}"
NOTHING = "none of the structures is found"
OWN = "in the model's own images"
LABELS = "on average in the labels it was trained with"
FIXED = "expected of any model"
CALIBRATED = "where source images have a Dice of {dice:.0f} or more"

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
    OVERALL: ("confidence over all structures", ""),
}
"""name of a measure → its words and unit; shares are shown in percent"""

PREFIXES = {
    CONFIDENCE: "confidence of {}",
    SHARE: "share of {} among the structures",
    CONTINUITY: "agreement of slices a tenth of its length apart in {}",
    STRAY: "share of {} outside its largest piece",
}
"""words of a measure of one structure"""

_LIGHT = (
    "check light, exposure and colour; where all images of a camera are like this, adapt the model"
)
_CAMERA = "check that it is the same kind of camera; crop or resize it as the model's images were"
FIXES: dict[str, str] = {
    "model": "no limit tells good predictions of this model from poor ones: train the source model longer, and look at "
    "its Dice on validation images",
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
    "shape": "look at the picture: a piece elsewhere, or slices that do not continue each other",
    "class ratio": "look at the picture: a part missed, something else taken for it, or an unusual patient",
    "confidence": "the model itself is unsure: look at the picture and correct the mask",
}
"""remedy by the name of a measure, or else by its kind"""


@dataclass(frozen=True)
class Expectation:
    """The accepted range of a measure, and the usual range it derives from."""

    low: float
    high: float
    seen: tuple[float, float]
    """the usual range"""
    where: str
    """the origin of the usual range"""
    cases: int = 0
    """number of images behind the usual range, or of predictions behind a calibrated limit"""
    calibrated: bool = False
    """whether labelled source predictions set the range; it is the usual one then"""


@dataclass(frozen=True)
class Flag:
    """A measure of a case outside its accepted range."""

    kind: Kind
    measure: str
    value: float
    low: float
    high: float
    """the accepted range is ``low`` to ``high``"""
    usual: str
    """the usual range, in words"""
    where: str
    """the origin of the usual range"""
    fix: str
    """the remedy"""

    @property
    def what(self) -> str:
        """One sentence on what is unusual."""
        if self.kind == "model":
            return self.where
        if not self.usual:
            return NOTHING
        if self.measure.startswith(RATIO) and not self.value:
            return f"{self.measure.removeprefix(RATIO)} is not found"
        usual = f"{self.usual} {self.where}"
        return f"{words(self.measure)} is {in_words(self.measure, self.value)} ({usual})"

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


def flags_of(measures: Mapping[str, float], info: ModelInfo) -> tuple[Flag, ...]:
    """Every flag of a case, ordered by kind.

    Args:
        measures: the traits of its image, and those of its prediction
            (:meth:`uda.prediction.confidence.CaseStatistics.measures`).
    """
    found = [*_poor_model(info), *_outside(measures, info)]
    if not any(measures.get(f"{RATIO}{info.classes[k]}") for k in structures_of(info)):
        found = [flag for flag in found if flag.kind != "class ratio"]
        found.append(Flag("class ratio", RATIO, 0.0, 0.0, 1.0, "", "", FIXES["class ratio"]))
    return tuple(sorted(found, key=lambda flag: KINDS.index(flag.kind)))


def _poor_model(info: ModelInfo) -> Iterator[Flag]:
    limits = info.limits
    if limits is not None and limits.all_poor:
        told = ALL_POOR.format(count=limits.predictions, dice=100 * limits.dice)
        yield Flag("model", "limits", 0.0, 0.0, 1.0, "", told, FIXES["model"])


def _outside(measures: Mapping[str, float], info: ModelInfo) -> Iterator[Flag]:
    for name, expected in expectations(info).items():
        if name in measures and not expected.low <= measures[name] <= expected.high:
            kind, usual = kind_of(name), in_words(name, *expected.seen)
            ends, fix = (expected.low, expected.high), FIXES.get(name, FIXES[kind])
            yield Flag(kind, name, measures[name], *ends, usual, expected.where, fix)


def kind_of(measure: str) -> Kind:
    """The kind of a measure."""
    if measure.startswith((RATIO, SHARE)):
        return "class ratio"
    if measure.startswith((CONTINUITY, STRAY)):
        return "shape"
    if measure in (MEAN, OVERALL) or measure.startswith(CONFIDENCE):
        return "confidence"
    if measure.startswith(("intensity", "brightness")) or measure in ("roughness", "red", "blue"):
        return "intensity"
    return "field of view"


def words(measure: str) -> str:
    """The name of a measure in words."""
    if measure.startswith(RATIO):
        return f"share of {measure.removeprefix(RATIO)}"
    for prefix, said in PREFIXES.items():
        if measure.startswith(prefix):
            return said.format(measure.removeprefix(prefix))
    return WORDS.get(measure, (measure, ""))[0]


def in_words(measure: str, *values: float) -> str:
    """A value, or both ends of a range, with the unit: ``1.2 to 3.4 %``."""
    unit = "%" if measure.startswith((RATIO, SHARE, STRAY)) else WORDS.get(measure, ("", ""))[1]
    scale = 100 if unit == "%" else 1
    ends = list(dict.fromkeys(_number(scale * value) for value in values))
    return " ".join([" to ".join(ends), unit]).strip()


def _number(value: float) -> str:
    """A number in the fewest useful digits."""
    if value and abs(value) < 0.01:
        return "below 0.01" if value > 0 else "above -0.01"
    if abs(value) >= 100:
        return f"{value:.0f}"
    if value == round(value):
        return f"{value:.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def unknown(info: ModelInfo) -> tuple[Kind, ...]:
    """The kinds that cannot be judged because the model file has no image ranges. No case is cleared of them."""
    return () if info.images is not None else ("intensity", "field of view")


def expectations(info: ModelInfo) -> dict[str, Expectation]:
    """The accepted range of each measure that the model file has a range or a calibrated limit for."""
    found = _of_images(info)
    if info.limits is not None:
        where = CALIBRATED.format(dice=100 * info.limits.dice)
        for name, ends in info.limits.accepted.items():
            found[name] = Expectation(*ends, ends, where, info.limits.predictions, calibrated=True)
    return {name: found[name] for name in sorted(found, key=lambda name: _place(name, info))}


def _of_images(info: ModelInfo) -> dict[str, Expectation]:
    """The ranges over the model's own images, widened."""
    if info.images is None:
        return _of_training_labels(info)
    span = _span(info.images)
    found = {}
    for name, seen in info.images.ranges.items():
        if name.startswith(CONFIDENCE) and isinstance(info.prepare, PhotoPrepare):
            continue  # a rare class in a street says little about the whole image
        if name.startswith(RATIO) and not seen.high:
            continue  # never found, so its size is unknown
        low, high = accepted(name, seen.low, seen.high, span)
        found[name] = Expectation(low, high, (seen.low, seen.high), OWN, seen.cases)
    return found


def _place(name: str, info: ModelInfo) -> tuple[int, int, str]:
    """Sort key of a measure: its kind, then its position in :data:`WORDS` or among the model's classes."""
    listed = [*WORDS, *info.classes]
    key = name.partition("/")[2] or name
    return KINDS.index(kind_of(name)), listed.index(key) if key in listed else -1, name


def accepted(name: str, low: float, high: float, span: float) -> tuple[float, float]:
    """The accepted range of a measure: its range over the model's images, widened by a margin.

    Args:
        span: distance from the lowest to the highest intensity of those images.
    """
    kind = kind_of(name)
    if kind == "confidence":
        return max(0.0, low - LESS_SURE), 1.0
    if name in ("red", "blue"):
        return low - COLOURS, high + COLOURS
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
    """Without image ranges: class ratios of the training labels, and a fixed lowest confidence."""
    found = {MEAN: Expectation(LEAST_SURE, 1.0, (LEAST_SURE, 1.0), FIXED)}
    if info.class_ratio is None or isinstance(info.prepare, PhotoPrepare):
        return found
    for k in structures_of(info):
        if ratio := info.class_ratio[k]:
            low, high = ratio / TRAINED_RATIOS, ratio * TRAINED_RATIOS
            found[f"{RATIO}{info.classes[k]}"] = Expectation(low, high, (ratio, ratio), LABELS)
    return found
