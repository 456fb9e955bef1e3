"""Scoring of the same predictions as PnP-AdaNet and SIFA did on MM-WHS, for comparison with their numbers.

It leaves out two faults of the released code: SIFA's predicts slices in batches of 128 and leaves the rest of a
volume empty, and its use of medpy stops at a structure that was not found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from uda.data.geometry import Geometry, label_slices
from uda.evaluation.dice_hd95 import CaseScore, score_case

SIFA_RULES = (
    "Scored on the prepared grid: reference and prediction of the table above, both brought there by the "
    "nearest pixel. What lies outside the crop is not scored.",
    "Distances in voxels, whatever their size.",
    "Dice and ASSD per structure: mean and population sd (division by n) over the volumes. "
    "Overall: mean of the structures' means.",
    "ASSD: mean of the two directed mean surface distances, as medpy had it then "
    "(since version 0.5 it is the mean of all distances).",
    "Every slice is scored; SIFA's code leaves out those after the last full batch of 128.",
    "A missed structure has Dice 0 and no distance, and is counted as missed; the original code stops there. "
    "A structure without reference: Dice 0 and no distance where some was predicted, else it does not count.",
)

Labels = NDArray[np.uint8]


class Sifa:
    """Rows by the convention of PnP-AdaNet and SIFA.

    Args:
        cases: name, label map in the file's axes and geometry of each test case.
        classes: names by label; label 0 is background.
        distances: False leaves out ASSD.
    """

    def __init__(
        self,
        cases: Iterable[tuple[str, Labels, Geometry]],
        classes: Sequence[str],
        distances: bool = True,
    ) -> None:
        self.cases = [(name, label_slices(label, geo), geo) for name, label, geo in cases]
        self.classes, self.distances = classes, distances
        self.rows: list[dict[str, Any]] = []

    def add(self, row: str, supervision: Sequence[str], predictions: Iterable[Labels]) -> None:
        """Add a row: score its label maps, one per case, in the files' axes."""
        scores: list[CaseScore] = []
        for labels, (name, reference, geometry) in zip(predictions, self.cases, strict=True):
            found = label_slices(labels, geometry)
            voxels = (1.0,) * reference.ndim
            scores += score_case(found, reference, self.classes, voxels, row, name, self.distances)
        measures = summarise(scores, self.classes[1:])
        self.rows.append({"name": row, "supervision": list(supervision), **measures})

    def table(self) -> dict[str, Any]:
        """Rules and rows, ready for JSON."""
        return {"rules": list(SIFA_RULES), "rows": self.rows}


def summarise(scores: Sequence[CaseScore], structures: Sequence[str]) -> dict[str, Any]:
    """Dice and ASSD of each structure over the cases of one row, and the mean over structures."""
    return {measure: _measure(scores, structures, measure) for measure in ("dice", "assd")}


def _measure(
    scores: Sequence[CaseScore], structures: Sequence[str], measure: Literal["dice", "assd"]
) -> dict[str, Any]:
    per_class = {}
    for name in structures:
        of_class = [score for score in scores if score.structure == name]
        # Our rules give a missed structure the image diagonal as distance; here it has none.
        found = [s for s in of_class if measure == "dice" or s.state == "ok"]
        values = np.array([getattr(score, measure) for score in found], dtype=np.float64)
        values = values[np.isfinite(values)]
        per_class[name] = {
            "mean": float(values.mean()) if len(values) else None,
            "sd": float(values.std(ddof=0)) if len(values) else None,
            "n": len(values),
            "missed": sum(score.state == "missed" for score in of_class),
        }
    means = [one["mean"] for one in per_class.values() if one["mean"] is not None]
    return {"mean": float(np.mean(means)) if means else None, "per_class": per_class}
