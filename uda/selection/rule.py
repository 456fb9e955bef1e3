"""The rule: of the safe checkpoints the one of the best combined rank, or what was there before adaptation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from uda.selection.scores import Scores

RULE = ("consistency", "nuclear_norm")
"""scores whose ranks are combined; `benchmarks/selectbench.py` measures what each is worth"""
BEFORE = ("source", "adabn")
"""candidates that no adaptation made"""


@dataclass(frozen=True)
class Choice:
    """Which candidate to keep, and why."""

    name: str
    ranks: Mapping[str, float]
    """mean rank of each candidate that could be chosen, the better the larger"""
    rule: tuple[str, ...] = RULE
    """scores that were combined"""

    @property
    def fallback(self) -> bool:
        """Whether no checkpoint of the adaptation was better than what was there before."""
        return self.name in BEFORE


def mean_ranks(scores: Mapping[str, Scores], names: Sequence[str] = RULE) -> dict[str, float]:
    """Mean over scores of a candidate's rank, 1 the worst; equal scores share their mean rank."""
    merits = np.array([[one.merit(name) for name in names] for one in scores.values()])
    ranks = np.stack([_ranks(column) for column in merits.T], 1).mean(1)
    return dict(zip(scores, ranks.tolist(), strict=True))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.stats import rankdata

    ranks: NDArray[np.float64] = rankdata(values)
    return ranks


def choose(scores: Mapping[str, Scores], names: Sequence[str] = RULE) -> Choice:
    """The candidate of the best mean rank; of equals AdaBN, then the source model, then the earliest checkpoint.

    Args:
        scores: of the source model (``source``), of AdaBN (``adabn``) and of every safe checkpoint in the order of
            its steps.
    """
    ranks = mean_ranks(scores, names)
    order = [*reversed(BEFORE), *(name for name in ranks if name not in BEFORE)]
    return Choice(
        max((name for name in order if name in ranks), key=lambda name: ranks[name]),
        ranks,
        tuple(names),
    )


def smoothed(scores: Sequence[Scores]) -> list[Scores]:
    """Each checkpoint's scores averaged with those of the one before it."""
    return [
        Scores(*((x + y) / 2 for x, y in zip(astuple(one), astuple(before), strict=True)))
        for before, one in zip([*scores[:1], *scores], scores, strict=False)
    ]


def stale(scores: Sequence[Scores], names: Sequence[str] = RULE) -> int:
    """How many checkpoints have come since the best one, by the combined rank among them."""
    ranks = list(mean_ranks({str(n): one for n, one in enumerate(scores)}, names).values())
    return len(ranks) - 1 - ranks.index(max(ranks))
