"""Limits of a prediction's measures beyond which its Dice is likely too low, as stored in a model file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

DICE = 0.7
"""mean Dice below which a prediction should be flagged"""
FEWEST = 5
"""least number of poor predictions beyond a limit; fewer say too little"""
Worse = Callable[[str], Sequence[Literal["low", "high"]]]
"""gives the sides of a measure on which a prediction may be poor"""
FALSE_ALARMS = 0.1
"""share of the sound predictions of new cases that all limits together may flag, as far as cases are alike"""


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

    @property
    def all_poor(self) -> bool:
        """Whether every prediction was poor, and enough were made to say so."""
        return self.poor == self.predictions >= FEWEST

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
    measures: Sequence[Mapping[str, float]],
    dice: Sequence[float],
    cases: Sequence[str],
    worse: Worse = lambda measure: ("low", "high"),
    least: float = DICE,
) -> Limits:
    """The limits beyond which all known predictions are poor, those that find most of them first.

    A limit on a side of a measure lies halfway between the last prediction that is not poor and the next poor one, with
    at least :data:`FEWEST` poor ones beyond it. A sound prediction of a new case is beyond one limit with a chance of
    about ``1 / (n + 1)``, with ``n`` cases that have a sound one, and several limits add up: so many are taken that the
    sum stays within :data:`FALSE_ALARMS`. Limits that find the same predictions count too, because an adaptation may
    make one measure look sound and not the others.

    Args:
        measures: of predictions, each between 0 and 1.
        dice: their mean Dice, between 0 and 1.
        cases: the case that each is of.
        worse: the sides of a measure on which a prediction may be poor.
        least: Dice below which a prediction is poor.

    Example:
        >>> sure, people = [n / 40 for n in range(40)], [str(n) for n in range(40)]
        >>> limits_from([{"confidence": value} for value in sure], sure, people).accepted
        {'confidence': (0.6875, 1.0)}
    """
    poor = np.array(dice) < least
    sides = _sides(measures, poor, worse)
    sides.sort(key=lambda one: -int(one.beyond.sum()))
    sound = len({case for case, bad in zip(cases, poor, strict=True) if not bad})
    accepted: dict[str, tuple[float, float]] = {}
    for side in sides[: int(FALSE_ALARMS * (sound + 1))]:
        low, high = accepted.get(side.name, (0.0, 1.0))
        end = round(side.end, 6)
        accepted[side.name] = (end, high) if side.low else (low, end)
    return Limits(least, len(measures), int(poor.sum()), dict(sorted(accepted.items())))


class _Side(NamedTuple):
    """A possible limit on one side of a measure."""

    name: str
    low: bool
    """whether predictions below it are flagged, or those above"""
    end: float
    beyond: NDArray[np.bool_]
    """the predictions that it flags"""


def _sides(
    measures: Sequence[Mapping[str, float]], poor: NDArray[np.bool_], worse: Worse
) -> list[_Side]:
    """Every possible limit, by the names of the measures."""
    found = []
    for name in sorted({name for one in measures for name in one}):
        values = np.array([one.get(name, math.nan) for one in measures])
        for end_of in worse(name):
            low = end_of == "low"
            signed = values if low else -values
            sound = signed[~poor & ~np.isnan(signed)]
            if not len(sound):
                continue
            beyond = poor & (signed < sound.min())
            if beyond.sum() >= FEWEST:
                end = float(signed[beyond].max() + sound.min()) / 2
                found.append(_Side(name, low, end if low else -end, beyond))
    return found
