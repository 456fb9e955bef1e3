"""Distribution of class sizes over labelled slices, as stored in model files and priors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
"""levels of the quantiles"""


@dataclass(frozen=True)
class SizeDistribution:
    """Per class: how often a labelled slice shows it, and its size in the slices that do."""

    shown: tuple[float, ...]
    """share of the labelled slices that show the class"""
    quantiles: tuple[tuple[float, ...], ...]
    """the class's ratio at :data:`LEVELS`, among the slices that show it; zeros if none does"""

    def as_json(self) -> dict[str, Any]:
        return {"levels": LEVELS, "shown": self.shown, "quantiles": self.quantiles}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> SizeDistribution:
        """Read back :meth:`as_json`.

        Raises:
            ValueError, KeyError, TypeError: ``raw`` has another form.
        """
        if tuple(raw["levels"]) != LEVELS:
            raise ValueError(f"quantiles at {raw['levels']!r}, not at {list(LEVELS)}")
        return cls(
            shown=tuple(float(share) for share in raw["shown"]),
            quantiles=tuple(tuple(float(q) for q in row) for row in raw["quantiles"]),
        )

    def faults(self, classes: int) -> list[str]:
        """Reasons why this cannot be a distribution over this many classes, one sentence each."""
        found = [
            f"sizes.{name} has {len(rows)} entries"
            for name, rows in (("shown", self.shown), ("quantiles", self.quantiles))
            if len(rows) != classes
        ]
        if not all(0 <= share <= 1 for share in self.shown):  # NaN compares false
            found.append(f"sizes.shown is {list(self.shown)}")
        for number, row in enumerate(self.quantiles):
            rising = all(low <= high for low, high in pairwise(row))
            if len(row) != len(LEVELS) or not rising or not all(_is_share(q) for q in row):
                found.append(f"sizes.quantiles.{number} is {list(row)}")
        return found


def _is_share(value: float) -> bool:
    return math.isfinite(value) and 0 <= value <= 1
