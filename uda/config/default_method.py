"""Default method, and settings of a named method, for adapting a model to a folder without a recipe.

Terms compare the class ratio over the batch, because one prior for the data set does not hold for each image.
For a prior with values per image (tags), ``--set objective.1.over=image`` is the published scope.
"""

from __future__ import annotations

from typing import Any

from uda.config.loading import override, parse
from uda.config.methods import METHODS, OWN, SOURCE_FREE
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
}


def default_method(photos: bool, ratio_known: bool) -> str:
    """The default method: an EMA teacher, with the class ratio as constraint if ``ratio_known``."""
    if photos:
        return "street_ratio_teacher" if ratio_known else "street_teacher"
    return "ratio_teacher" if ratio_known else "mean_teacher"


def preset(name: str, overrides: list[str]) -> Adapt | None:
    """Settings of a method by its name, with ``key=value`` changes; None for ``adabn``, which has none.

    Raises:
        ConfigError: the name or a setting is unknown, or the method needs source images.
    """
    if name == "adabn":
        if overrides:
            raise ConfigError(f"adabn has no settings to change: {overrides}")
        return None
    if name in METHODS and name not in SOURCE_FREE:
        raise ConfigError(
            f"method {name!r} needs the source's images, but only a folder of target images is given",
            expected=f"one of {', '.join(OWN)}",
            fix=f"write a recipe with a variant `preset: {name}`",
        )
    if name not in METHODS:
        raise ConfigError(f"there is no method {name!r}", expected=nearest(name, OWN))
    raw: dict[str, Any] = {"preset": name, **_LENGTHS.get(name, _SHORT), "prior": "given"}
    settings = parse(Adapt, raw, f"method {name!r}")
    settings = override(settings, overrides) if overrides else settings
    return settings if settings.needs() else settings.model_copy(update={"prior": None})
