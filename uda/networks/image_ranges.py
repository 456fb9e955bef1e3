"""What the images of a model's last domain were like: the range of each measure over its cases."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

INNER = (0.01, 0.99)
"""share of the cases that bounds a range: of few cases the least and the largest, of many no single stray one"""
DIGITS = 6
"""significant ones of a stored value"""


@dataclass(frozen=True)
class Range:
    """Where a measure lay, and in how many cases it was taken."""

    low: float
    high: float
    cases: int

    def as_json(self) -> dict[str, float | int]:
        return {"low": self.low, "high": self.high, "cases": self.cases}


@dataclass(frozen=True)
class ImageRanges:
    """Measures of cases by name: of the images themselves (:mod:`uda.data.traits`), and of what the model finds in
    them (:class:`uda.prediction.trust.Tally`)."""

    ranges: Mapping[str, Range]

    def as_json(self) -> dict[str, Any]:
        return {name: one.as_json() for name, one in self.ranges.items()}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> ImageRanges:
        """Read back :meth:`as_json`.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is something else.
        """
        return cls({str(name): _range(str(name), one) for name, one in raw.items()})


def _range(name: str, raw: Mapping[str, Any]) -> Range:
    found = Range(float(raw["low"]), float(raw["high"]), int(raw["cases"]))
    if not (math.isfinite(found.low) and math.isfinite(found.high) and found.low <= found.high):
        raise ValueError(f"images.{name} goes from {found.low} to {found.high}")
    return found


def ranges_over(cases: Iterable[Mapping[str, float]]) -> ImageRanges:
    """The inner range of each measure over the cases that have it.

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
