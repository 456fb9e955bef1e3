"""Limits of a prediction's measures beyond which its Dice is likely too low, as stored in a model file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DICE = 0.7
"""mean Dice below which a prediction should be flagged"""
FEWEST = 5
"""least number of poor predictions beyond a limit; fewer say too little"""


@dataclass(frozen=True)
class Limits:
    """The accepted range, within 0 and 1, of each measure that tells poor predictions from others."""

    dice: float
    """mean Dice below which a prediction counts as poor"""
    predictions: int
    """number of labelled predictions behind the limits"""
    poor: int
    """how many of them were poor"""
    accepted: Mapping[str, tuple[float, float]]

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "accepted": {k: list(ends) for k, ends in self.accepted.items()}}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Limits:
        """Read back :meth:`as_json`.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: ``raw`` has another form.
        """
        dice, accepted = float(raw["dice"]), {}
        for name, ends in raw["accepted"].items():
            low, high = (float(end) for end in ends)
            if not 0 <= low <= high <= 1:  # NaN compares false
                raise ValueError(f"limits.{name} goes from {low} to {high}")
            accepted[str(name)] = (low, high)
        if not 0 <= dice <= 1:
            raise ValueError(f"limits.dice is {dice}")
        return cls(dice, int(raw["predictions"]), int(raw["poor"]), accepted)


def limits_from(
    measures: Sequence[Mapping[str, float]], dice: Sequence[float], least: float = DICE
) -> Limits:
    """The tightest limit on each side of each measure beyond which all predictions are poor.

    It lies halfway between the last prediction that is not poor and the next poor one. A measure with fewer than
    :data:`FEWEST` poor predictions beyond it gets none. Several measures flag together, so a limit that allowed for
    some false alarms would add up to many.

    Args:
        measures: of predictions, each between 0 and 1.
        dice: their mean Dice, between 0 and 1.
        least: Dice below which a prediction is poor.

    Example:
        >>> sure = [{"confidence": n / 20} for n in range(20)]
        >>> limits_from(sure, [n / 20 for n in range(20)]).accepted
        {'confidence': (0.675, 1.0)}
    """
    poor = np.array(dice) < least
    accepted = {}
    for name in sorted({name for one in measures for name in one}):
        known = np.array([name in one for one in measures])
        values = np.array([one[name] for one in measures if name in one])
        low, high = _cut(values, poor[known]), -_cut(-values, poor[known])
        if math.isfinite(low) or math.isfinite(high):
            accepted[name] = (round(max(0.0, low), 6), round(min(1.0, high), 6))
    return Limits(least, len(measures), int(poor.sum()), accepted)


def _cut(values: NDArray[np.float64], poor: NDArray[np.bool_]) -> float:
    """The limit on the low side; -inf if there is none."""
    if poor.all():
        return -math.inf
    end = values[~poor].min()
    beyond = values[poor & (values < end)]
    return float((beyond.max() + end) / 2) if len(beyond) >= FEWEST else -math.inf
