"""Evaluation: the only module that opens target labels.

Every row of the table predicts the same test cases on their own grids; scores follow :mod:`uda.metrics`.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray

from uda.cards import DatasetCard
from uda.checkpoint import write_text
from uda.compute import deterministic, make_fabric
from uda.config import Compute, Evaluate
from uda.conventions import Sifa
from uda.data.cases import Case
from uda.data.sources import RECORDS, read_label
from uda.data.volumes import check_same_grid, map_labels, write_volume
from uda.errors import DataError
from uda.metrics import CaseScore, score_case, summarise
from uda.models import ModelInfo, check_classes, load_model, union
from uda.overlays import Gallery
from uda.prediction import PreparedCase, predict_case, read_case

RULES = (
    "3-D scores per structure and case on the image's own grid.",
    "Structure in neither reference nor prediction: the case does not count for it (n/a).",
    "Structure in the reference, none predicted: Dice 0, distances = image diagonal (missed).",
    "Structure predicted, none in the reference: Dice 0, no distance (spurious).",
    "HD95: 95th percentile of the surface distances of both directions together. "
    "ASSD: mean of the two directed mean surface distances.",
    "Mean: over structures of the mean over cases. sd: over the cases' means. "
    "Interval: 95 % bootstrap over cases.",
)


@dataclass(frozen=True)
class Row:
    """One line of the table: a model of a stage, and for the oracle its snapshots."""

    name: str
    stage: str
    model: Path


@dataclass(frozen=True)
class Reference:
    """A test case with its labels on the image's grid."""

    case: PreparedCase
    label: NDArray[np.uint8]
    spacing: tuple[float, float, float]


def read_references(cases: Sequence[Case], card: DatasetCard, info: ModelInfo) -> list[Reference]:
    """Test images and labels, checked to lie on one grid.

    Raises:
        DataError: a case without label, a file of records, another grid, a value the card does not name.
    """
    return [_read_reference(case, card, info) for case in cases]


def _read_reference(case: Case, card: DatasetCard, info: ModelInfo) -> Reference:
    if case.label is None:
        raise DataError(
            f"case {case.name!r} has no label, so it cannot be scored",
            where=case.image,
            fix="name labels in the card, or leave the case out of the test split",
        )
    if RECORDS in (case.image.suffix, case.label.suffix):
        raise DataError(
            f"case {case.name!r} is a file of records: single slices, while distances need volumes",
            where=case.image,
            expected="a .nii, .nii.gz or .npz file of the whole volume",
            fix="name volumes in the card's test split",
        )
    prepared = read_case(case, info.prepare, card)
    volume = read_label(case, card)
    check_same_grid(volume, prepared.geometry, case.label)
    label = map_labels(volume.array, card, case.label)
    spacing = prepared.geometry.spacing if card.distance_unit == "mm" else (1.0, 1.0, 1.0)
    return Reference(prepared, label, spacing)


def evaluate(
    rows: Sequence[Row],
    cases: Sequence[Case],
    card: DatasetCard,
    settings: Evaluate,
    compute: Compute,
    out: Path,
    progress: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Score every row, write ``cases.csv`` and the overlays, return the rows of ``metrics.json``.

    Returns:
        ``{"rows": [...]}`` in the form the README documents, with ``data`` and ``rules``; where the settings
        ask for it ``conventions``, the rows by another paper's rules (:mod:`uda.conventions`).
    """
    with deterministic():
        fabric = make_fabric(compute)
        # Adapted models, unlike the first row, carry the target's preparation; all rows see the same images.
        _, info = load_model(rows[-1].model)
        references = read_references(cases, card, info)
        scorer = _Scorer(references, card, settings, fabric, out)
        table: list[dict[str, Any]] = []
        for row in rows:
            progress(row.name)
            table.append(scorer.row(row))
            if settings.oracle and (best := scorer.oracle(row)):
                table.append(best)
    _write_cases(out / "cases.csv", scorer.scores)
    adapted = [r for r in table[1:] if "target_labels" not in r["supervision"]] or table
    ranked = max(adapted, key=lambda r: r["dice"]["mean"] or 0.0)["name"]
    scorer.gallery.write(out, ranked, scorer.scores)
    result = {"rows": table, "rules": list(RULES), "data": {"cases": len(cases)}}
    if scorer.sifa is not None:
        result["conventions"] = {"sifa": scorer.sifa.table()}
    return result


class _Scorer:
    """Predicts and scores rows on the same references."""

    def __init__(
        self,
        references: Sequence[Reference],
        card: DatasetCard,
        settings: Evaluate,
        fabric: Fabric,
        out: Path,
    ) -> None:
        self.references, self.card, self.settings = references, card, settings
        self.fabric, self.out = fabric, out
        self.scores: list[CaseScore] = []
        self.gallery = Gallery([r.case for r in references], [r.label for r in references])
        self.sifa: Sifa | None = None
        if settings.convention == "sifa":
            files = [(r.case.name, r.label, r.case.geometry) for r in references]
            self.sifa = Sifa(files, card.classes, settings.distances)

    def row(self, row: Row, extra: Sequence[str] = ()) -> dict[str, Any]:
        predictions, info = self._predict(row.model)
        scores = self._score(row.name, predictions, self.settings.distances)
        self.scores += scores
        self.gallery.add(row.name, predictions)
        if self.settings.save_predictions:
            for reference, labels in zip(self.references, predictions, strict=True):
                path = self.out / "predictions" / row.name / f"{reference.case.name}.nii.gz"
                write_volume(path, labels, np.asarray(reference.case.geometry.affine))
        supervision = list(union(info.supervision, extra))
        if self.sifa is not None:
            self.sifa.add(row.name, supervision, predictions)
        return {
            "name": row.name,
            "stage": row.stage,
            "supervision": supervision,
            "step": info.step,
            **summarise(scores, self.card.classes[1:]),
        }

    def oracle(self, row: Row) -> dict[str, Any] | None:
        """The snapshot of this row that the test labels like best: what selection could gain at most."""
        best: tuple[float, Path] | None = None
        for path in sorted((row.model.parent / "snapshots").glob("*/model.safetensors")):
            scores = self._score(row.name, self._predict(path)[0], distances=False)
            mean = summarise(scores, self.card.classes[1:])["dice"]["mean"] or 0.0
            if best is None or mean > best[0]:
                best = (mean, path)
        if best is None:
            return None
        chosen = replace(row, name=f"{row.name}_oracle", model=best[1])
        return self.row(chosen, extra=("target_labels",))

    def _predict(self, path: Path) -> tuple[list[NDArray[np.uint8]], ModelInfo]:
        model, info = load_model(path)
        check_classes(info, self.card, path)
        model.to(self.fabric.device)
        return [predict_case(model, info, r.case, self.fabric) for r in self.references], info

    def _score(
        self, row: str, predictions: Sequence[NDArray[np.uint8]], distances: bool
    ) -> list[CaseScore]:
        scores: list[CaseScore] = []
        for reference, labels in zip(self.references, predictions, strict=True):
            scores += score_case(
                labels,
                reference.label,
                self.card.classes,
                reference.spacing,
                row=row,
                case=reference.case.name,
                distances=distances,
            )
        return scores


def _write_cases(path: Path, scores: Sequence[CaseScore]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "case", "structure", "dice", "hd95", "assd", "state"])
    for s in scores:
        numbers = ["" if math.isnan(v) else f"{v:.6f}" for v in (s.dice, s.hd95, s.assd)]
        writer.writerow([s.row, s.case, s.structure, *numbers, s.state])
    write_text(path, text.getvalue())
