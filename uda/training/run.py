"""Where and how a stage runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from uda.config.recipe import Compute
from uda.training.loop import Run


@dataclass(frozen=True)
class Workplace:
    """Where and how a stage runs."""

    folder: Path
    stage: str
    seed: int
    compute: Compute
    origin: dict[str, str]
    quiet: bool = True

    @property
    def run(self) -> Run:
        return Run(self.seed, self.stage, self.folder, self.quiet)
