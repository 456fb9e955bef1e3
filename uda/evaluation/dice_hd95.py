"""Dice, HD95 and ASSD per case and structure, and their means over cases.

All functions are pure functions of numpy arrays. Definitions:

* Dice = 2|P∩R| / (|P|+|R|), a fraction between 0 and 1.
* The surface of a mask is the mask minus its erosion by the 6- (2-D: 4-) neighbourhood; pixels outside
  the image are background. Distances are between pixel centres, in the unit of ``spacing``.
* HD95 = 95th percentile of the distances of both directions pooled; ASSD = mean of the two directed
  mean distances. These are the definitions of medpy up to 0.4, which most published tables used;
  from 0.5 on its ASSD is the mean of all distances pooled.

A structure that is empty in the reference or in the prediction has a ``State`` of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from uda.errors import DataError
from uda.evaluation.surface_distance import (
    Floats,
    Mask,
    Spacing,
    bounding_box,
    places,
    surface_distances,
)
from uda.report.schema import MEASURES, State

NAN = float("nan")
RESAMPLES = 2000  # bootstrap draws; 50 of them lie beyond each end of a 95 % interval


@dataclass(frozen=True)
class CaseScore:
    """Scores of one structure of one case in one row of the table; NaN if a value is undefined."""

    row: str
    case: str
    structure: str
    dice: float
    hd95: float
    assd: float
    state: State


def _score(
    prediction: Mask, reference: Mask, spacing: Spacing, diagonal: float, distances: bool
) -> tuple[float, float, float, State]:
    """Dice, HD95, ASSD and state of one structure's boolean masks.

    The masks may be a crop of an image with this ``diagonal``. Only the bounding box of their union is scored, which
    changes no value.
    """
    predicted, present = bool(prediction.any()), bool(reference.any())
    if not present:
        return (0.0, NAN, NAN, "spurious") if predicted else (NAN, NAN, NAN, "n/a")
    if not predicted:
        distance = diagonal if distances else NAN
        return 0.0, distance, distance, "missed"
    box = bounding_box(prediction | reference)
    prediction, reference = prediction[box], reference[box]
    shared = np.count_nonzero(prediction & reference)
    dice = 2.0 * shared / (np.count_nonzero(prediction) + np.count_nonzero(reference))
    if not distances:
        return float(dice), NAN, NAN, "ok"
    forth, back = surface_distances(prediction, reference, spacing)
    hd95 = float(np.percentile(np.concatenate([forth, back]), 95))
    return float(dice), hd95, float((forth.mean() + back.mean()) / 2), "ok"


def score_case(
    prediction: npt.NDArray[Any],
    reference: npt.NDArray[Any],
    classes: Sequence[str],
    spacing: Spacing,
    row: str,
    case: str,
    distances: bool = True,
) -> list[CaseScore]:
    """Scores of every structure of one case, in the order of ``classes``.

    Memory holds the masks of one structure at a time, cropped to the bounding box of all structures.

    Args:
        prediction, reference: integer labels of one shape. Pixels that are ``IGNORE`` in the
            reference belong to no structure in either array.
        classes: names by label; label 0 is background and is skipped.
        spacing: distance between pixel centres along each axis; or the matrix ``[d, d]`` whose columns are the
            steps along axes that are not at right angles. Distances have its unit.
        distances: False leaves HD95 and ASSD NaN, and scoring is ten times as fast.
        row, case: names that are copied into the scores.

    Raises:
        DataError: shapes differ, ``spacing`` does not fit them, or a label has no class.
    """
    from uda.types import IGNORE  # imports torch, which readers of scores do not need

    _check_geometry(prediction, reference, spacing, where=case)
    _check_labels(prediction, len(classes), "prediction", case)
    counted = reference != IGNORE
    whole = bool(counted.all())
    _check_labels(reference if whole else reference[counted], len(classes), "reference", case)
    diagonal = image_diagonal(reference.shape, spacing)
    box = bounding_box((prediction > 0) | (reference > 0))
    prediction, reference, counted = prediction[box], reference[box], counted[box]
    scores = []
    for k, name in enumerate(classes[1:], 1):
        predicted = prediction == k
        if not whole:
            predicted &= counted
        values = _score(predicted, reference == k, spacing, diagonal, distances)
        scores.append(CaseScore(row, case, name, *values))
    return scores


def summarise(
    scores: Sequence[CaseScore], classes: Sequence[str], seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Means over the cases of one row, ready for JSON: ``None`` without a defined value, never NaN.

    For each measure: ``mean`` (over structures, of the mean over the cases with a value), ``sd``
    (n-1, over cases, of the case mean), ``ci95`` (percentile bootstrap over cases of ``mean``) and
    ``per_class`` (mean, sd, n, missed, spurious of each structure). ``sd`` and ``ci95`` need two
    cases. The result does not depend on the order of ``scores``.

    Args:
        scores: the scores of one row.
        classes: names of the structures, without the background.
        seed: of the bootstrap.

    Raises:
        DataError: scores are of several rows, of an unknown structure, or twice of one structure and case.
    """
    structures = list(classes)
    cases = sorted({score.case for score in scores})
    _check_scores(scores, structures)
    line = {name: i for i, name in enumerate(cases)}
    column = {name: i for i, name in enumerate(structures)}
    states = {name: [s.state for s in scores if s.structure == name] for name in structures}
    summary: dict[str, dict[str, Any]] = {}
    for measure in MEASURES:
        values = np.full((len(cases), len(structures)), np.nan)
        for score in scores:
            values[line[score.case], column[score.structure]] = getattr(score, measure)
        summary[measure] = _summarise_measure(values, seed)
        summary[measure]["per_class"] = {
            name: {
                **_mean_sd(values[:, column[name]]),
                "missed": states[name].count("missed"),
                "spurious": states[name].count("spurious"),
            }
            for name in structures
        }
    return summary


def image_diagonal(shape: Sequence[int], spacing: Spacing) -> float:
    """Longest diagonal of the image between its outer corners, in the unit of ``spacing``."""
    if np.ndim(spacing) == 1:
        return float(np.linalg.norm(np.multiply(shape, spacing)))
    ways = itertools.product((1, -1), repeat=len(shape))
    diagonals = places(np.array([np.multiply(shape, way) for way in ways]), spacing)
    return float(np.linalg.norm(diagonals, axis=1).max())


def _summarise_measure(values: Floats, seed: int) -> dict[str, Any]:
    """``mean``, ``sd`` and ``ci95`` of ``values`` (cases by structures); NaN is left out."""
    values = values[np.isfinite(values).any(axis=1)]
    n = len(values)
    if n == 0:
        return {"mean": None, "sd": None, "ci95": None}
    mean = float(_mean_of_means(values, np.ones((1, n)))[0])
    if n == 1:
        return {"mean": mean, "sd": None, "ci95": None}
    case_means = _column_means(values.T, np.ones((1, values.shape[1])))[0]
    # Counts of the drawn cases replace 2000 resampled copies by one matrix product.
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    low, high = np.quantile(_mean_of_means(values, draws.astype(float)), [0.025, 0.975])
    return {"mean": mean, "sd": float(case_means.std(ddof=1)), "ci95": [float(low), float(high)]}


def _mean_of_means(values: Floats, weights: Floats) -> Floats:
    """Mean over structures of the weighted mean over cases, without NaNs; one value per draw.

    Every row of ``values`` has a finite value, so every draw has a structure with one.
    """
    return np.asarray(np.nanmean(_column_means(values, weights), axis=1))


def _column_means(values: Floats, weights: Floats) -> Floats:
    """Weighted mean (draws, k) of each column of ``values`` (n, k) without its NaNs.

    ``weights`` (draws, n) counts how often each row was drawn; a column without a drawn value gives NaN.
    """
    counts = np.isfinite(values)
    totals, n = weights @ np.where(counts, values, 0.0), weights @ counts.astype(float)
    return np.asarray(np.divide(totals, n, out=np.full_like(totals, np.nan), where=n > 0))


def _mean_sd(values: Floats) -> dict[str, Any]:
    values = values[np.isfinite(values)]
    return {
        "mean": float(values.mean()) if len(values) else None,
        "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
        "n": len(values),
    }


def _check_geometry(
    prediction: npt.NDArray[Any],
    reference: npt.NDArray[Any],
    spacing: Spacing,
    where: str | None = None,
) -> None:
    if prediction.shape != reference.shape:
        raise DataError(
            f"the prediction has shape {prediction.shape}, the reference {reference.shape}",
            where=where,
            expected="one shape for both",
            fix="resample the prediction to the grid of the reference before scoring",
        )
    steps = np.asarray(spacing, dtype=np.float64)
    sizes = np.linalg.norm(steps, axis=0) if steps.ndim == 2 else steps
    square = steps.shape in ((reference.ndim,), (reference.ndim, reference.ndim))
    if not square or not ((sizes > 0) & (sizes < np.inf)).all():
        raise DataError(
            f"spacing is {tuple(steps.tolist())} for an image with {reference.ndim} axes",
            where=where,
            expected="one positive number per axis, or a square matrix",
            fix="read the spacing from the image header, or give 1 per axis to measure in voxels",
        )


def _check_labels(labels: npt.NDArray[Any], n_classes: int, which: str, case: str) -> None:
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"the {which} holds {labels.dtype} values",
            where=case,
            expected="integer labels",
            fix="take the argmax of the logits, or read the label file as integers",
        )
    if labels.size and not (labels.min() >= 0 and labels.max() < n_classes):
        raise DataError(
            f"the {which} holds labels from {labels.min()} to {labels.max()}",
            where=case,
            expected=f"0 to {n_classes - 1}, the labels of the {n_classes} classes",
            fix="correct the classes or the label map of the dataset card",
        )


def _check_scores(scores: Sequence[CaseScore], structures: Sequence[str]) -> None:
    rows = sorted({score.row for score in scores})
    if len(rows) > 1:
        raise DataError(
            f"scores of several rows: {', '.join(rows)}",
            expected="the scores of one row",
            fix="summarise each row separately",
        )
    unknown = sorted({score.structure for score in scores} - set(structures))
    if unknown:
        raise DataError(
            f"scores of structures without a class: {', '.join(unknown)}",
            expected=f"structures among {', '.join(structures)}",
            fix="pass all classes of score_case without the background",
        )
    seen: set[tuple[str, str]] = set()
    for score in scores:
        if (score.case, score.structure) in seen:
            raise DataError(
                f"structure {score.structure!r} of case {score.case!r} is scored twice",
                expected="one score per case and structure",
                fix="give every case a unique name",
            )
        seen.add((score.case, score.structure))
