"""Ranges of image measures over the cases of a model's last domain, as stored in its model file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

INNER = (0.01, 0.99)
"""quantiles that bound a range: near the extremes of few cases, and unaffected by one outlier among many"""
DIGITS = 6
"""significant digits of a stored value"""


@dataclass(frozen=True)
class Range:
    """The range of a measure, and the number of cases behind it."""

    low: float
    high: float
    cases: int

    def as_json(self) -> dict[str, float | int]:
        return {"low": self.low, "high": self.high, "cases": self.cases}


@dataclass(frozen=True)
class ImageRanges:
    """Ranges by the name of the measure: traits of the images (:mod:`uda.data.traits`), and measures of the
    predictions in them (:class:`uda.prediction.confidence.CaseStatistics`)."""

    ranges: Mapping[str, Range]

    def as_json(self) -> dict[str, Any]:
        return {name: one.as_json() for name, one in self.ranges.items()}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> ImageRanges:
        """Read back :meth:`as_json`.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: ``raw`` has another form.
        """
        return cls({str(name): _range(str(name), one) for name, one in raw.items()})


def _range(name: str, raw: Mapping[str, Any]) -> Range:
    found = Range(float(raw["low"]), float(raw["high"]), int(raw["cases"]))
    if not (math.isfinite(found.low) and math.isfinite(found.high) and found.low <= found.high):
        raise ValueError(f"images.{name} goes from {found.low} to {found.high}")
    return found


def ranges_over(cases: Iterable[Mapping[str, float]]) -> ImageRanges:
    """The range of each measure between its :data:`INNER` quantiles over the cases that have it.

    Example:
        >>> ranges_over([{"slices": 10.0}, {"slices": 30.0}, {}]).ranges["slices"]
        Range(low=10.2, high=29.8, cases=2)
    """
    values: dict[str, list[float]] = {}
    for case in cases:
        for name, value in case.items():
            values.setdefault(name, []).append(value)
    found = {}
    for name, some in sorted(values.items()):
        low, high = (_rounded(float(end)) for end in np.quantile(some, INNER))
        found[name] = Range(low, high, len(some))
    return ImageRanges(found)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
