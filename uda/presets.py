"""Adaptation variants by name, for adapting a model to a folder of images without a recipe.

The class ratio is compared over the batch: one prior for the data set does not hold for each image.
Where a prior knows single images (tags), ``--set objective.1.over=image`` is the published scope.
"""

from __future__ import annotations

from typing import Any

from uda.config import Adapt
from uda.errors import ConfigError, nearest
from uda.recipes import override, parse

DEFAULT = "adabn"

_WEIGHTED = {"term": "entropy", "normalized": False, "class_weights": "inverse_ratio"}
_RATIO = {"term": "class_ratio_kl", "over": "batch"}
_OBJECTIVES: dict[str, list[dict[str, Any]]] = {
    "minent": [{"term": "entropy"}],
    "adaent": [_WEIGHTED, {**_RATIO, "direction": "prior_to_prediction"}],
    "adami": [_WEIGHTED, {**_RATIO, "direction": "prediction_to_prior"}],
}
_STEPS, _BATCH, _LR = 200, 16, 1e-5

METHODS = (DEFAULT, *_OBJECTIVES)


def preset(name: str, overrides: list[str]) -> Adapt | None:
    """The settings behind a method's name, with ``key=value`` changes; None for ``adabn``.

    Raises:
        ConfigError: an unknown name or setting.
    """
    if name == DEFAULT:
        if overrides:
            raise ConfigError(f"adabn has no settings to change: {overrides}")
        return None
    if name not in _OBJECTIVES:
        raise ConfigError(f"there is no method {name!r}", expected=nearest(name, METHODS))
    raw = {
        "steps": _STEPS,
        "batch": _BATCH,
        "lr": _LR,
        "objective": _OBJECTIVES[name],
        "prior": None if name == "minent" else "given",
    }
    settings = parse(Adapt, raw, f"method {name!r}")
    return override(settings, overrides) if overrides else settings
