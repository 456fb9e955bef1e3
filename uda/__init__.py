"""Adapt a trained segmentation network to unlabelled images of another domain."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from uda import losses, priors
    from uda.api import adapt, estimate_prior, evaluate, predict, pretrain, suggest
    from uda.config.loading import load_recipe
    from uda.networks.foreign import register_network
    from uda.networks.importing import import_model
    from uda.pipeline.run import run

_MODULES = {
    "adapt": "uda.api",
    "estimate_prior": "uda.api",
    "evaluate": "uda.api",
    "import_model": "uda.networks.importing",
    "predict": "uda.api",
    "pretrain": "uda.api",
    "register_network": "uda.networks.foreign",
    "run": "uda.pipeline.run",
    "suggest": "uda.api",
    "load_recipe": "uda.config.loading",
}
__all__ = [
    "adapt",
    "estimate_prior",
    "evaluate",
    "import_model",
    "load_recipe",
    "losses",
    "predict",
    "pretrain",
    "priors",
    "register_network",
    "run",
    "suggest",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``import uda`` loads no other module."""
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name in __all__:
        return importlib.import_module(f"uda.{name}")
    raise AttributeError(f"module 'uda' has no attribute {name!r}")
