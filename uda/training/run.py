"""Seed, folder, compute settings and origin of a stage's run."""

from __future__ import annotations

from dataclasses import dataclass

from uda.config.recipe import Compute
from uda.training.loop import Run


@dataclass(frozen=True, kw_only=True)
class StageRun(Run):
    """A run of the loop inside a stage."""

    compute: Compute
    origin: dict[str, str]
    """entry ``origin`` of its model files: recipe or method, stage, seed"""

    @property
    def name(self) -> str:
        return self.origin.get("stage", self.stage)
