"""Methods for adapting a model to a folder of images without a recipe.

The class ratio is compared over the batch: one prior for the data set does not hold for each image.
Where a prior knows single images (tags), ``--set objective.1.over=image`` is the published scope.
"""

from __future__ import annotations

from typing import Any

from uda.config import Adapt
from uda.errors import ConfigError, nearest
from uda.methods import METHODS, SOURCE_FREE
from uda.recipes import override, parse

DEFAULT = "adabn"
_STEPS, _BATCH, _LR = 200, 16, 1e-5


def preset(name: str, overrides: list[str]) -> Adapt | None:
    """The settings behind a method's name, with ``key=value`` changes; None for ``adabn``.

    Raises:
        ConfigError: an unknown name or setting, or a method that needs source images.
    """
    if name == DEFAULT:
        if overrides:
            raise ConfigError(f"adabn has no settings to change: {overrides}")
        return None
    if name in METHODS and name not in SOURCE_FREE:
        raise ConfigError(
            f"method {name!r} needs the source's images, and a folder of target images is all there is",
            expected=f"one of {', '.join(SOURCE_FREE)}",
            fix=f"write a recipe with a variant `preset: {name}`",
        )
    if name not in METHODS:
        raise ConfigError(f"there is no method {name!r}", expected=nearest(name, SOURCE_FREE))
    raw: dict[str, Any] = {
        "preset": name,
        "steps": _STEPS,
        "batch": _BATCH,
        "lr": _LR,
        "prior": "given",
    }
    settings = parse(Adapt, raw, f"method {name!r}")
    settings = override(settings, overrides) if overrides else settings
    return settings if settings.needs() else settings.model_copy(update={"prior": None})
