"""Which candidate to keep: the best combined rank among AdaBN and what is better than AdaBN by the rule's criteria.

The settings of :class:`uda.config.guard.Rule` make a family of rules. With none of its criteria a safe checkpoint
competes with the models before adaptation by ranks alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field

import numpy as np
from numpy.typing import NDArray

from uda.config.guard import Rule
from uda.selection.scores import Scores

RULE = Rule().ranked
"""scores whose ranks are combined; `benchmarks/selectbench.py` measures what each is worth"""
BEFORE = ("source", "adabn")
"""candidates that no adaptation made"""
DEFAULT = Rule()


@dataclass(frozen=True)
class Choice:
    """Which candidate to keep, and why."""

    name: str
    ranks: Mapping[str, float]
    """mean rank of each candidate that could be chosen, the better the larger"""
    rule: tuple[str, ...] = RULE
    """scores that were combined"""
    refused: Mapping[str, str] = field(default_factory=dict)
    """why a candidate may not replace AdaBN, a sentence each"""

    @property
    def fallback(self) -> bool:
        """Whether no checkpoint of the adaptation was better than what was there before."""
        return self.name in BEFORE


def needed(rule: Rule) -> tuple[str, ...]:
    """The scores that a rule reads."""
    distance = () if rule.distance is None else ("ratio_distance",)
    region = () if rule.trust_region is None else ("before_agreement",)
    return tuple(dict.fromkeys((*rule.ranked, *rule.better, *distance, *region)))


def mean_ranks(scores: Mapping[str, Scores], names: Sequence[str] = RULE) -> dict[str, float]:
    """Mean over scores of a candidate's rank, 1 the worst; equal scores share their mean rank."""
    merits = np.array([[one.merit(name) for name in names] for one in scores.values()])
    ranks = np.stack([_ranks(column) for column in merits.T], 1).mean(1)
    return dict(zip(scores, ranks.tolist(), strict=True))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.stats import rankdata

    ranks: NDArray[np.float64] = rankdata(values)
    return ranks


def choose(scores: Mapping[str, Scores], rule: Rule = DEFAULT) -> Choice:
    """The candidate of the best mean rank among AdaBN and those that are better than AdaBN by the rule's criteria; of
    equals AdaBN, then the source model, then the earliest checkpoint. A checkpoint has to rank above the source model
    too, even where that may not replace AdaBN. With ``latest`` the last checkpoint, if there is one.

    Args:
        scores: of the source model (``source``), of AdaBN (``adabn``) and of every safe checkpoint in the order of
            its steps.
    """
    ranks = mean_ranks(scores, rule.ranked)
    trained = [name for name in scores if name not in BEFORE]
    if rule.latest and trained:
        return Choice(trained[-1], ranks, rule.ranked)
    refused = {
        name: why
        for name in scores
        if name != "adabn" and "adabn" in scores and (why := _refused(name, scores, ranks, rule))
    }
    order = [*reversed(BEFORE), *(name for name in ranks if name not in BEFORE)]
    able = [name for name in order if name in ranks and name not in refused]
    return Choice(max(able, key=lambda name: ranks[name]), ranks, rule.ranked, refused)


def _refused(
    name: str, scores: Mapping[str, Scores], ranks: Mapping[str, float], rule: Rule
) -> str:
    """Why a candidate may not replace AdaBN; empty if it may."""
    one, adabn = scores[name], scores["adabn"]
    if name != "source" and "source" in scores and ranks[name] <= ranks["source"]:
        return f"its mean rank, {ranks[name]:.2f}, is not above the source model's, {ranks['source']:.2f}"
    known = [score for score in rule.better if math.isfinite(adabn.merit(score))]
    gains = {score: one.merit(score) - adabn.merit(score) for score in known}
    worse = [score for score in known if not gains[score] > rule.better[score]]
    if len(known) - len(worse) < rule.most * len(known):
        told = [
            f"{score} ({gains[score]:+.3g}, expected over {rule.better[score]:+g})"
            for score in worse
        ]
        return f"it is not enough better than AdaBN by {', '.join(told)}"
    lead = (ranks[name] - ranks["adabn"]) / max(len(ranks) - 1, 1)
    if rule.margin and lead < rule.margin:
        return (
            f"its rank is {lead:.2f} of the ranks above AdaBN's, expected {rule.margin:.2f} or more"
        )
    if rule.distance is not None and math.isfinite(adabn.ratio_distance):
        most = max(rule.distance * adabn.ratio_distance, rule.distance_floor)
        if not one.ratio_distance <= most:
            return (
                f"its distance to the expected class ratio is {one.ratio_distance:.2g}, expected at most "
                f"{most:.2g}"
            )
    if rule.trust_region is not None and math.isfinite(adabn.before_agreement):
        most = max(rule.trust_region * (1 - adabn.before_agreement), rule.trust_region_floor)
        if not 1 - one.before_agreement <= most:
            return (
                f"its labels are {1 - one.before_agreement:.3f} from those before adaptation (1 − Dice), expected at "
                f"most {most:.3f}"
            )
    return ""


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
