"""Rows of the table and the interface of their scorers, for volumes and photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lightning_fabric import Fabric

from uda.config.card import DatasetCard
from uda.config.postprocess import NO_STEPS, Postprocess
from uda.config.recipe import Evaluate
from uda.data.cases import Case
from uda.networks.model_file import MODEL_FILE, ModelInfo


@dataclass(frozen=True)
class Row:
    """One row of the table: the model of a stage."""

    name: str
    stage: str
    model: Path
    oracle: bool = False
    """whether to score the stage's best snapshot by the test labels instead of its model"""
    source: str = ""
    """the recipe's further source training that the model comes from; empty: its first"""
    steps: Postprocess = NO_STEPS
    """post-processing of its predictions"""


def snapshots_in(folder: Path) -> list[Path]:
    """Model files of a stage's snapshots in the order of their steps."""
    return sorted((folder / "snapshots").glob(f"*/{MODEL_FILE}"))


@dataclass(frozen=True)
class Task:
    """Test cases and settings that all rows of a table share."""

    cases: Sequence[Case]
    card: DatasetCard
    info: ModelInfo
    """of the model whose preparation is applied to every row's images"""
    settings: Evaluate
    fabric: Fabric
    workers: int
    """threads that read photographs ahead; 0 = as many as processors"""
    out: Path
    trust_code: bool = False
    """whether the rows' models may be TorchScript programs"""


class Scorer(Protocol):
    """Predicts and scores rows on the same test images."""

    @property
    def measure(self) -> str:
        """Key of a row's main score, ``dice`` or ``iou``; its value has a ``mean``."""

    @property
    def rules(self) -> tuple[str, ...]:
        """Rules of scoring for readers of the table, one sentence each."""

    def row(self, row: Row, extra: Sequence[str] = ()) -> dict[str, Any]:
        """Scores of a row, ready for JSON; its ledger gets the ``extra`` entries."""

    def mean(self, model: Path) -> float:
        """Main score of a model, without adding a row."""

    def conventions(self) -> dict[str, Any]:
        """The rows so far by each other convention, by its name."""

    def write(self, ranked: str) -> None:
        """Write scores of each image, and pictures of the worst, the median and the best image by row ``ranked``."""
