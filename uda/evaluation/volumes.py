"""Scoring of volumes: Dice, HD95 and ASSD of structures in 3-D (:mod:`uda.evaluation.dice_hd95`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uda.config.card import DatasetCard, PhotoPrepare
from uda.config.postprocess import NO_STEPS, Postprocess
from uda.data.cases import Case
from uda.data.sources import RECORDS, read_label
from uda.data.volumes import check_same_grid, map_labels, write_volume
from uda.devices.distributed import gather_shares, on_first, share, this_process
from uda.errors import DataError, ModelError
from uda.evaluation.dice_hd95 import CaseScore, score_case, summarise
from uda.evaluation.overlays import Gallery
from uda.evaluation.rows import Row, Task
from uda.evaluation.sifa import Sifa
from uda.evaluation.surface_distance import Spacing
from uda.files.atomic import write_text
from uda.files.csv_files import csv_text
from uda.networks.model_file import ModelInfo, check_classes, load_model, union
from uda.prediction.volumes import PreparedCase, predict_case, read_case

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
class Reference:
    """A test case with its reference labels on the image's grid."""

    case: PreparedCase
    label: NDArray[np.uint8]
    spacing: Spacing


def read_references(cases: Sequence[Case], card: DatasetCard, info: ModelInfo) -> list[Reference]:
    """Read test images and labels and check that they have one grid.

    Raises:
        DataError: a case has no label, its file holds records, its grids differ, or the card lacks a label value.
        ModelError: the model's images are photographs.
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
            f"case {case.name!r} is a file of records with single slices, but distances need volumes",
            where=case.image,
            expected="a .nii, .nii.gz, .nrrd or .npz file of the whole volume",
            fix="name volumes in the card's test split",
        )
    if isinstance(info.prepare, PhotoPrepare):
        raise ModelError(
            "the model's images are photographs, but the card's are volumes", where=case.image
        )
    prepared = read_case(case, info.prepare, card)
    volume = read_label(case, card)
    check_same_grid(volume, prepared.geometry, case.label)
    label = map_labels(volume.array, card, case.label)
    spacing = prepared.geometry.steps if card.distance_unit == "mm" else (1.0, 1.0, 1.0)
    return Reference(prepared, label, spacing)


class VolumeScorer:
    """Predicts and scores rows on the same volumes, each read once; see :class:`uda.evaluation.rows.Scorer`."""

    measure = "dice"
    rules = RULES

    def __init__(self, task: Task) -> None:
        cases, card, settings = task.cases, task.card, task.settings
        own = share(len(cases), this_process())
        # The first process draws pictures and holds all cases; the others hold only those that they predict.
        held = cases if this_process().first else [cases[number] for number in own]
        references = read_references(held, card, task.info)
        self.own = [references[number] for number in own] if this_process().first else references
        self.count = len(cases)
        self.references, self.card, self.settings = references, card, settings
        self.fabric, self.out, self.trust_code = task.fabric, task.out, task.trust_code
        self.scores: list[CaseScore] = []
        self.gallery = Gallery([r.case for r in references], [r.label for r in references])
        self.sifa: Sifa | None = None
        if settings.convention == "sifa":
            files = [(r.case.name, r.label, r.case.geometry) for r in references]
            self.sifa = Sifa(files, card.classes, settings.distances)

    def row(self, row: Row, extra: Sequence[str] = ()) -> dict[str, Any]:
        own, info = self._predict(row.model, row.steps)
        scores = self._score(row.name, own, self.settings.distances)
        predictions = gather_shares(own, self.count)
        return on_first(lambda: self._add(row, extra, info, predictions, scores))

    def _add(
        self,
        row: Row,
        extra: Sequence[str],
        info: ModelInfo,
        predictions: Sequence[NDArray[np.uint8]],
        scores: Sequence[CaseScore],
    ) -> dict[str, Any]:
        """Keep scores, pictures and label maps of a row on the first process; returns the row for JSON."""
        self.scores += scores
        self.gallery.add(row.name, predictions)
        if self.settings.save_predictions:
            for reference, labels in zip(self.references, predictions, strict=True):
                path = self.out / "predictions" / row.name / f"{reference.case.name}.nii.gz"
                case = reference.case
                affine = np.asarray(case.geometry.affine)
                write_volume(path, labels, affine, header=case.header)
        supervision = list(union(info.supervision, extra))
        if self.sifa is not None:
            self.sifa.add(row.name, supervision, predictions)
        return {
            "name": row.name,
            "stage": row.stage,
            "supervision": supervision,
            "step": info.step,
            **summarise(scores, self.card.structures),
        }

    def mean(self, model: Path) -> float:
        scores = self._score(model.stem, self._predict(model)[0], distances=False)
        return on_first(lambda: summarise(scores, self.card.structures)["dice"]["mean"] or 0.0)

    def conventions(self) -> dict[str, Any]:
        sifa = self.sifa
        return {} if sifa is None else on_first(lambda: {"sifa": sifa.table()})

    def write(self, ranked: str) -> None:
        _write_cases(self.out / "cases.csv", self.scores)
        self.gallery.write(self.out, ranked, self.scores)

    def _predict(
        self, path: Path, steps: Postprocess = NO_STEPS
    ) -> tuple[list[NDArray[np.uint8]], ModelInfo]:
        """Label maps of this process's cases."""
        model, info = load_model(path, trust_code=self.trust_code)
        check_classes(info, self.card, path)
        model.to(self.fabric.device)
        return [predict_case(model, info, r.case, self.fabric, steps) for r in self.own], info

    def _score(
        self, row: str, predictions: Sequence[NDArray[np.uint8]], distances: bool
    ) -> list[CaseScore]:
        """Scores of all processes' cases in their order, on the first process; [] on the others."""
        own = [
            score_case(
                labels,
                reference.label,
                self.card.classes,
                reference.spacing,
                row=row,
                case=reference.case.name,
                distances=distances,
            )
            for reference, labels in zip(self.own, predictions, strict=True)
        ]
        return [score for scores in gather_shares(own, self.count) for score in scores]


def _write_cases(path: Path, scores: Sequence[CaseScore]) -> None:
    rows = [["row", "case", "structure", "dice", "hd95", "assd", "state"]]
    for s in scores:
        numbers = ["" if math.isnan(v) else f"{v:.6f}" for v in (s.dice, s.hd95, s.assd)]
        rows.append([s.row, s.case, s.structure, *numbers, s.state])
    write_text(path, csv_text(rows))
