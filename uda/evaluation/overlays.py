"""Overlays for the report: a slice of the worst, the median and the best case with every row's prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uda.data.geometry import Geometry, grey, region, turned, turned_up, upright
from uda.evaluation.dice_hd95 import CaseScore
from uda.files.atomic import atomic_path, write_json
from uda.prediction.volumes import PreparedCase
from uda.types import IGNORE


class Gallery:
    """Keeps one slice of each prediction: the one in which the reference has the most structure pixels."""

    def __init__(self, cases: Sequence[PreparedCase], labels: Sequence[NDArray[np.uint8]]) -> None:
        self.cases = cases
        turned = [_turned(label, c.geometry) for label, c in zip(labels, cases, strict=True)]
        self.at = [int(((t > 0) & (t != IGNORE)).sum((1, 2)).argmax()) for t in turned]
        self.references = [
            _shown(t[at], c.geometry) for t, at, c in zip(turned, self.at, cases, strict=True)
        ]
        self.rows: dict[str, list[NDArray[Any]]] = {}

    def add(self, row: str, predictions: Sequence[NDArray[np.uint8]]) -> None:
        """Keep a row's slices of its label maps, which have the files' axes."""
        self.rows[row] = [
            _shown(_turned(labels, case.geometry)[at], case.geometry)
            for labels, case, at in zip(predictions, self.cases, self.at, strict=True)
        ]

    def write(self, folder: Path, ranked: str, scores: Sequence[CaseScore]) -> None:
        """Write ``overlays.npz`` and ``overlays.json`` of the worst, median and best case by row ``ranked``."""
        means = [_mean(scores, ranked, case.name) for case in self.cases]
        order = np.argsort(means, kind="stable")
        picks = {"worst": order[0], "median": order[len(order) // 2], "best": order[-1]}
        arrays: dict[str, Any] = {}
        entries: list[dict[str, Any]] = []
        for key, (rank, number) in enumerate(picks.items()):
            case, at = self.cases[number], self.at[number]
            image = _turned(case.read_again().array, case.geometry)[at]
            arrays[f"image_{key}"] = _shown(grey(image), case.geometry)
            arrays[f"reference_{key}"] = self.references[number]
            arrays |= {f"{row}__{key}": slices[number] for row, slices in self.rows.items()}
            entries.append(
                {
                    "case": case.name,
                    "slice": case.geometry.own_slice(at),
                    "rank": rank,
                    "row": ranked,
                    "key": str(key),
                    "aspect": _aspect(case.geometry),
                }
            )
        with atomic_path(folder / "overlays.npz") as path:
            np.savez_compressed(path, **arrays)
        write_json(folder / "overlays.json", entries)


def _mean(scores: Sequence[CaseScore], row: str, case: str) -> float:
    dice = [s.dice for s in scores if s.row == row and s.case == case and s.state != "n/a"]
    return float(np.mean(dice)) if dice else 0.0


def _turned(array: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    return turned(array, geometry.turn, geometry.slice_axis)


def _shown(image: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """The region of interest that the network saw, turned as :func:`upright` says."""
    return turned_up(image[region(geometry)], geometry)


def _aspect(geometry: Geometry) -> float:
    """Ratio of height to width of a pixel in the picture."""
    _, row, column = geometry.turned_spacing
    return column / row if upright(geometry)[0] else row / column
