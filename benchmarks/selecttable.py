"""The table of `selectbench.py`: what each way to pick a checkpoint would have picked, and what that is worth.

A *run* is one training: its checkpoints, the source model and AdaBN. *Regret* is the best true score among them minus
that of the pick. *Collapsed*: a quarter of AdaBN's true score is lost, or more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from uda.selection import BEFORE, RULE, SCORES, Scores, choose, smoothed, stale

LOST = 0.25
PATIENCE = 3
Record = dict[str, Any]
Pick = Callable[["Run"], Record]


@dataclass(frozen=True)
class Run:
    """One training's candidates, those before adaptation first, then by step."""

    bench: str
    source: str
    seed: int
    variant: str
    records: tuple[Record, ...]

    def of(self, name: str) -> Record:
        """The candidate of that name."""
        return next(one for one in self.records if one["name"] == name)

    @property
    def best(self) -> float:
        """The oracle's true score."""
        return max(float(one["true"]) for one in self.records)

    @property
    def safe(self) -> tuple[Record, ...]:
        """Those before adaptation, and every checkpoint that passed the gates."""
        return tuple(one for one in self.records if not one["faults"])


def scores_of(record: Record, among_safe: bool) -> Scores:
    """A record's scores; its agreement with all candidates' mean, or with that of the safe ones."""
    raw = {one.name: float(record[one.name]) for one in fields(Scores)}
    if among_safe:
        raw["agreement"] = float(record["agreement_safe"])
    return Scores(**raw)


def by_score(name: str, gated: bool) -> Pick:
    """The candidate with the best single score."""

    def pick(run: Run) -> Record:
        some = run.safe if gated else run.records
        return max(some, key=lambda one: scores_of(one, gated).merit(name))

    return pick


def by_rule(names: Sequence[str], early: bool = False, patience: int = PATIENCE) -> Pick:
    """Gates, then the best combined rank; ``early``: of the checkpoints before the training would have ended."""

    def pick(run: Run) -> Record:
        some = until_end(run, names, patience) if early else run.safe
        return run.of(choose({one["name"]: scores_of(one, True) for one in some}, names).name)

    return pick


def until_end(run: Run, names: Sequence[str], patience: int) -> list[Record]:
    """Safe candidates seen before two in a row were unsafe, or none of the last few was better."""
    seen: list[Record] = []
    for record in run.records:
        seen.append(record)
        checkpoints = [one for one in seen if one["name"] not in BEFORE]
        if len(checkpoints) > 1 and all(one["faults"] for one in checkpoints[-2:]):
            break
        trend = smoothed([scores_of(one, True) for one in checkpoints if not one["faults"]])
        if trend and stale(trend, names) >= patience:
            break
    return [one for one in seen if not one["faults"]]


def ways() -> dict[str, Pick]:
    """Every way to pick that the table compares."""
    picks: dict[str, Pick] = {
        "oracle (test labels)": lambda run: max(run.records, key=lambda one: one["true"]),
        "AdaBN, always": lambda run: run.of("adabn"),
        "last step": lambda run: run.records[-1],
    }
    picks |= {name: by_score(name, False) for name in ("entropy", *SCORES)}
    picks |= {f"gates, {name}": by_score(name, True) for name in SCORES}
    picks["guarded: gates, rule"] = by_rule(RULE)
    picks["guarded, with early stop"] = by_rule(RULE, early=True)
    return picks


def summary(runs: Sequence[Run], pick: Pick) -> dict[str, float]:
    """Mean and worst regret, share of collapsed picks, and the worst loss against AdaBN, in points."""
    picked = [float(pick(run)["true"]) for run in runs]
    adabn = [float(run.of("adabn")["true"]) for run in runs]
    regret = [run.best - value for run, value in zip(runs, picked, strict=True)]
    below = [value - before for value, before in zip(picked, adabn, strict=True)]
    lost = [value <= (1 - LOST) * before for value, before in zip(picked, adabn, strict=True)]
    return {
        "mean": float(np.mean(picked)),
        "regret": float(np.mean(regret)),
        "worst regret": float(np.max(regret)),
        "collapsed": 100 * float(np.mean(lost)),
        "against AdaBN": float(np.min(below)),
    }


def correlation(runs: Sequence[Run], name: str) -> float:
    """Spearman's ρ of a score with the truth over a seed's checkpoints, mean over seeds."""
    values = []
    for seed in sorted({run.seed for run in runs}):
        points = [
            (scores_of(one, False).merit(name), one["true"])
            for run in runs
            if run.seed == seed
            for one in run.records[len(BEFORE) :]
        ]
        values.append(float(spearmanr(*zip(*points, strict=True)).statistic))
    return float(np.mean(values))


def table(runs: Sequence[Run]) -> str:
    """Markdown: a block for each benchmark, a line for each way to pick."""
    lines = []
    for bench in dict.fromkeys(run.bench for run in runs):
        some = [run for run in runs if run.bench == bench]
        count = sum(len(run.records) - len(BEFORE) for run in some)
        lost = sum(
            one["true"] <= (1 - LOST) * run.of("adabn")["true"]
            for run in some
            for one in run.records[len(BEFORE) :]
        )
        lines += [
            f"\n**{bench}**: {len(some)} runs, {count} checkpoints, {lost} of them collapsed",
            "",
            "| picked by | ρ | mean score | regret | worst regret | collapsed picks | worst − AdaBN |",
            "|---|---|---|---|---|---|---|",
        ]
        for way, pick in ways().items():
            rho = f"{correlation(some, way):.2f}" if way in ("entropy", *SCORES) else ""
            s = summary(some, pick)
            lines.append(
                f"| {way} | {rho} | {s['mean']:.1f} | {s['regret']:.2f} | {s['worst regret']:.1f} | "
                f"{s['collapsed']:.0f} % | {s['against AdaBN']:+.1f} |"
            )
    return "\n".join(lines)
