"""What a row of the table is, and what scores one: the same for volumes and for photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lightning_fabric import Fabric

from uda.config.card import DatasetCard
from uda.config.recipe import Evaluate
from uda.data.cases import Case
from uda.networks.model_file import MODEL_FILE, ModelInfo


@dataclass(frozen=True)
class Row:
    """One line of the table: a model of a stage, and for the oracle its snapshots."""

    name: str
    stage: str
    model: Path
    oracle: bool = False
    """whether the row is the best of its snapshots by the test labels instead of its model"""


def snapshots_in(folder: Path) -> list[Path]:
    """Models of a stage's snapshots in the order of their steps."""
    return sorted((folder / "snapshots").glob(f"*/{MODEL_FILE}"))


@dataclass(frozen=True)
class Task:
    """What all rows of a table are scored on, and how."""

    cases: Sequence[Case]
    card: DatasetCard
    info: ModelInfo
    """of the model whose preparation every row's images get"""
    settings: Evaluate
    fabric: Fabric
    workers: int
    """threads that read photographs ahead; 0 = as many as the processors"""
    out: Path


class Scorer(Protocol):
    """Predicts and scores rows on the same test images."""

    @property
    def measure(self) -> str:
        """Key of a row's main score: ``dice`` or ``iou``, with a ``mean`` in it."""

    @property
    def rules(self) -> tuple[str, ...]:
        """What a reader of the table has to know, sentence by sentence."""

    def row(self, row: Row, extra: Sequence[str] = ()) -> dict[str, Any]:
        """The row's scores, ready for JSON, and ``extra`` entries of its ledger."""

    def mean(self, model: Path) -> float:
        """The main score of a model that stands in no row."""

    def conventions(self) -> dict[str, Any]:
        """The rows so far by another paper's rules, by its name."""

    def write(self, ranked: str) -> None:
        """Scores of each image, and pictures of the worst, the median and the best one of row ``ranked``."""
