"""Default method, and settings of a named method, for adapting a model to a folder without a recipe.

Terms compare the class ratio over the batch, because one prior for the data set does not hold for each image.
For a prior with values per image (tags), ``--set objective.1.over=image`` is the published scope.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from uda.config.annotations import LABELS, Kind
from uda.config.loading import override, parse
from uda.config.methods import DEFAULT, METHODS, OWN, SOURCE_FREE, WEAK, method_settings
from uda.config.recipe import Adapt
from uda.errors import ConfigError, nearest

_SHORT = {"steps": 200, "batch": 16, "lr": 1e-5}
_LONG = {"steps": 400, "batch": 8, "lr": 1e-4}
"""for the default methods; measured in ``benchmarks/RESULTS.md``"""
_SLOW = {**_LONG, "lr": 3e-5}
"""for a source model that is good already; not measured yet"""
_LENGTHS = {
    **dict.fromkeys(
        (
            *("ratio_teacher", "slice_teacher", "slice_view_teacher", "mean_teacher"),
            *("street_ratio_teacher", "street_teacher"),
        ),
        _LONG,
    ),
    **dict.fromkeys(("ratio_teacher_soft", "threshold_teacher", "view_teacher"), _SLOW),
    "tent": {**_LONG, "lr": 1e-3},
    **dict.fromkeys(WEAK, _LONG),
}


def default_method(photos: bool, ratio_known: bool) -> str:
    """The default method: an EMA teacher, with the class ratio as constraint if ``ratio_known``."""
    if photos:
        return "street_ratio_teacher" if ratio_known else "street_teacher"
    return "ratio_teacher" if ratio_known else "mean_teacher"


FITTING: dict[Kind, str] = {
    "labels": "labels",
    "scribbles": "scribbles_crf",
    "points": "points",
    "partial": "partial",
}
"""the method that fits annotations of a kind; of several kinds the first decides, and reads them all"""


def completed(name: str, usual: str, kinds: Collection[Kind], photos: bool = False) -> str:
    """A method's name with ``default`` replaced, alone by what fits the annotations, before a ``+`` by ``usual``.

    Args:
        kinds: of annotations that are there.

    Example:
        >>> completed("default", "ratio_teacher", ["boxes", "points"])
        'ratio_teacher+points+deepcut'
        >>> completed("default+boxes", "ratio_teacher", ["boxes", "points"])
        'ratio_teacher+boxes'
    """
    first, plus, joined = name.partition("+")
    if first != DEFAULT:
        return name
    if plus:
        return f"{usual}+{joined}"
    fitting = [method for kind, method in FITTING.items() if kind in kinds][:1]
    if photos and fitting == ["scribbles_crf"]:
        fitting = ["scribbles"]  # a dense CRF of colours is slow
    return "+".join([usual, *fitting, *(["deepcut"] if "boxes" in kinds else [])])


def check_used(settings: Adapt | None, kinds: Collection[Kind], where: Path | None) -> None:
    """Refuse annotations that no term reads, and settings that name annotations of a kind that is not there.

    Args:
        kinds: of annotations that are there.
        where: their folder; None: none were given.

    Raises:
        ConfigError: names the kinds.
    """
    named = settings.annotations if settings else ()
    if where is None and named:
        raise ConfigError(
            f"the method trains on annotations of kind {', '.join(named)}, but none were given",
            expected="a folder of annotations",
            fix="give it with --annotations FOLDER",
        )
    if where is not None and kinds and not named:
        raise ConfigError(
            f"the method uses no annotations, but there are {', '.join(kinds)}",
            where=where,
            fix=f"leave --method out, or join one: --method {DEFAULT}+{FITTING.get(next(iter(kinds)), 'deepcut')}",
        )
    if missing := [kind for kind in named if where is not None and kind not in kinds]:
        raise ConfigError(
            f"there are no annotations of kind {', '.join(missing)}",
            where=where,
            expected=f"{', '.join(named)}, which the method reads; there are {', '.join(kinds) or 'none'}",
            fix="add them, or choose another method",
        )


def preset(name: str, overrides: list[str], kinds: Collection[Kind] = ()) -> Adapt | None:
    """Settings of a method by its name, with ``key=value`` changes; None for ``adabn``, which has none.

    Args:
        kinds: of annotations that are there; terms that read the class of pixels read all of these kinds.

    Raises:
        ConfigError: the name or a setting is unknown, or the method needs source images.
    """
    if name == "adabn":
        if overrides:
            raise ConfigError(f"adabn has no settings to change: {overrides}")
        return None
    first, *joined = name.split("+")
    if first in METHODS and first not in SOURCE_FREE:
        raise ConfigError(
            f"method {first!r} needs the source's images, but only a folder of target images is given",
            expected=f"one of {', '.join(OWN)}",
            fix=f"write a recipe with a variant `preset: {name}`",
        )
    if first not in METHODS:
        raise ConfigError(f"there is no method {first!r}", expected=nearest(first, OWN))
    if unknown := [one for one in joined if one not in WEAK]:
        raise ConfigError(
            f"there is no method {unknown[0]!r} of weak labels", expected=nearest(unknown[0], WEAK)
        )
    raw: dict[str, Any] = {"preset": name, **_LENGTHS.get(first, _SHORT), "prior": "given"}
    if marked := method_settings(name).get("annotations"):
        of_pixels = [kind for kind in marked if kind in LABELS]
        there = [kind for kind in LABELS if kind in kinds and of_pixels]
        raw["annotations"] = [*(there or of_pixels), *(kind for kind in marked if kind == "boxes")]
    if joined and "annotations" in raw:  # a third of marked images beside those of the method
        raw |= {"batch": raw["batch"] * 3 // 2, "annotated_share": 1 / 3}
    settings = parse(Adapt, raw, f"method {name!r}")
    settings = override(settings, overrides) if overrides else settings
    return settings if settings.needs() else settings.model_copy(update={"prior": None})
