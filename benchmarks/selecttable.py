"""The tables of `selectbench.py`: what each way to pick a checkpoint would have picked, and what that is worth.

A *run* is one training: its checkpoints, the source model and AdaBN. *Regret* is the best true score among them minus
that of the pick. *Collapsed*: a quarter of AdaBN's true score is lost, or more. The criteria were written down before
any checkpoint of the bench was scored, but for the trust region and the last sets of scores: they came when the truth
of seed 0, the very last set also of ordinary seed 1, was known.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from uda.config.guard import IMAGES, SLICES, Guard, Rule
from uda.selection import BEFORE, SCORES, Scores, choose, smoothed, stale
from uda.selection.rule import mean_ranks

LOST = 0.25
"""share of AdaBN's true score whose loss is a collapse"""
POINTS = 0.5
"""points below AdaBN that count as worse"""
COMPARED = ("repeat_agreement",)
"""columns beside the scores: agreement with the same step of a training from another seed, which a guard has not"""
Record = dict[str, Any]
Pick = Callable[["Run"], Record]

RANKED: tuple[tuple[str, ...], ...] = (
    ("consistency", "nuclear_norm"),
    ("held_out", "nuclear_norm"),
    ("held_out", "ratio_distance"),
    ("nuclear_norm", "ratio_distance"),
    ("held_out", "nuclear_norm", "ratio_distance"),
    ("held_out", "size_variation", "ratio_distance"),
    ("held_out", "nuclear_norm", "ratio_distance", "largest_component"),
    ("held_out", "size_variation", "continuity", "largest_component", "area_smoothness"),
    ("held_out", "ratio_distance", "agreement"),
    ("held_out", "ratio_distance", "source_agreement"),
    ("ratio_distance", "largest_component", "source_agreement"),
    ("ratio_distance", "largest_component"),
    ("consistency", "nuclear_norm", "ratio_distance", "largest_component"),
    ("held_out", "ratio_distance", "largest_component"),
    ("held_out", "confidence"),
    ("continuity", "largest_component"),
    ("held_out", "continuity", "largest_component"),
    ("agreement", "continuity", "largest_component"),
    ("nuclear_norm", "continuity", "largest_component"),
    ("held_out", "nuclear_norm", "continuity", "largest_component"),
)
"""sets of scores whose ranks are combined"""
FLOOR = {"distance_floor": 0.001}
NEAR = {"trust_region_floor": 0.1}
CONDITIONS: dict[str, dict[str, Any]] = {
    "": {},
    "distance ≤ 1×": {"distance": 1.0, **FLOOR},
    "distance ≤ 2×": {"distance": 2.0, **FLOOR},
    "distance ≤ 4×": {"distance": 4.0, **FLOOR},
    "distance ≤ 20×": {"distance": 20.0, **FLOOR},
    "trust region 3×, at least 0.1": {"trust_region": 3.0, **NEAR},
    "trust region 4×": {"trust_region": 4.0},
    "trust region 4×, at least 0.1": {"trust_region": 4.0, **NEAR},
    "trust region 5×": {"trust_region": 5.0},
    "trust region 5×, at least 0.1": {"trust_region": 5.0, **NEAR},
    "trust region 6×, at least 0.1": {"trust_region": 6.0, **NEAR},
    "trust region 7×, at least 0.1": {"trust_region": 7.0, **NEAR},
    "margin 0.1": {"margin": 0.1},
    "margin 0.25": {"margin": 0.25},
    "better by all": {"most": 1.0},
    "better by two thirds": {"most": 0.66},
    "better by all, distance ≤ 2×": {"most": 1.0, "distance": 2.0, **FLOOR},
    "margin 0.1, distance ≤ 2×": {"margin": 0.1, "distance": 2.0, **FLOOR},
    "held_out +0.02": {"better": {"held_out": 0.02}},
    "held_out +0.05": {"better": {"held_out": 0.05}},
    "held_out +0.1": {"better": {"held_out": 0.1}},
    "consistency +0.02": {"better": {"consistency": 0.02}},
    "consistency +0.05": {"better": {"consistency": 0.05}},
    "largest_component −0.01": {"better": {"largest_component": -0.01}},
    "held_out +0.02, largest_component −0.01": {
        "better": {"held_out": 0.02, "largest_component": -0.01}
    },
    "held_out +0.05, largest_component −0.02": {
        "better": {"held_out": 0.05, "largest_component": -0.02}
    },
}
"""what a checkpoint has to show against AdaBN; *better by*: of the scores that are ranked"""


def criteria() -> Iterator[tuple[str, Rule]]:
    """Every rule that the table compares, by a name."""
    for ranked, (said, settings) in itertools.product(RANKED, CONDITIONS.items()):
        better = dict.fromkeys(ranked, 0.0) if "most" in settings else {}
        name = " + ".join(ranked) + (f"; {said}" if said else "")
        yield name, Rule(**{"ranked": ranked, "better": better, **settings})


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
    raw = {one.name: float(record.get(one.name, math.nan)) for one in fields(Scores)}
    if among_safe:
        raw["agreement"] = float(record["agreement_safe"])
    return Scores(**raw)


def has(record: Record, name: str) -> bool:
    """Whether a column beside the scores has a value."""
    return math.isfinite(float(record.get(name, math.nan)))


def merit(record: Record, name: str, among_safe: bool = False) -> float:
    """A score turned so that more is better, or a column beside the scores."""
    if name in COMPARED:
        value = float(record.get(name, math.nan))
        return value if math.isfinite(value) else -math.inf
    return scores_of(record, among_safe).merit(name)


def by_score(name: str, gated: bool) -> Pick:
    """The candidate with the best single score."""

    def pick(run: Run) -> Record:
        some = run.safe if gated else run.records
        return max(some, key=lambda one: merit(one, name, gated))

    return pick


def by_rule(rule: Rule, guard: Guard | None = None) -> Pick:
    """Gates, then the rule; with a guard's settings among the checkpoints before it would have ended the training."""

    def pick(run: Run) -> Record:
        some = run.safe if guard is None else until_end(run, rule, guard)
        return run.of(choose({one["name"]: scores_of(one, True) for one in some}, rule).name)

    return pick


def until_end(run: Run, rule: Rule, guard: Guard) -> list[Record]:
    """Safe candidates seen before too many in a row were unsafe, none of the last few was better, or the labels hardly
    changed."""
    seen: list[Record] = []
    for record in run.records:
        seen.append(record)
        checkpoints = [one for one in seen if one["name"] not in BEFORE]
        last = checkpoints[-guard.unsafe :]
        if len(last) == guard.unsafe and all(one["faults"] for one in last):
            break
        trend = smoothed([scores_of(one, True) for one in checkpoints if not one["faults"]])
        if trend and stale(trend, rule.ranked) >= guard.patience:
            break
        if (
            guard.settled is not None
            and record.get("previous_agreement", math.nan) >= guard.settled
        ):
            break
    return [one for one in seen if not one["faults"]]


def ways(runs: Sequence[Run]) -> dict[str, Pick]:
    """Every way to pick among these runs that the table compares."""
    picks: dict[str, Pick] = {
        "oracle (test labels)": lambda run: max(run.records, key=lambda one: one["true"]),
        "AdaBN, always": lambda run: run.of("adabn"),
        "last step": lambda run: run.records[-1],
    }
    known = {name for run in runs for one in run.records for name in COMPARED if has(one, name)}
    single = (*SCORES, *sorted(known))
    picks |= {name: by_score(name, False) for name in ("entropy", *single)}
    picks |= {f"gates, {name}": by_score(name, True) for name in single}
    for name, rule in (("slices", SLICES), ("images", IMAGES)):
        picks[f"the guard's rule for {name}"] = by_rule(rule, Guard())
        picks[f"the guard's rule for {name}, all checkpoints"] = by_rule(rule)
    picks |= {
        f"the guard's rule for slices, settled at {limit}": by_rule(SLICES, Guard(settled=limit))
        for limit in (0.95, 0.97, 0.99)
    }
    picks |= {name: by_rule(rule, Guard()) for name, rule in criteria()}
    return picks


def summary(runs: Sequence[Run], pick: Pick) -> dict[str, float]:
    """Mean true score, gain over AdaBN, mean and worst regret, share of collapsed picks, the worst loss against AdaBN
    and the share of runs that lose more than :data:`POINTS` against it; in points or percent."""
    picked = np.array([float(pick(run)["true"]) for run in runs])
    adabn = np.array([float(run.of("adabn")["true"]) for run in runs])
    regret = np.array([run.best for run in runs]) - picked
    return {
        "mean": float(picked.mean()),
        "gain": float((picked - adabn).mean()),
        "regret": float(regret.mean()),
        "worst regret": float(regret.max()),
        "collapsed": 100 * float((picked <= (1 - LOST) * adabn).mean()),
        "against AdaBN": float((picked - adabn).min()),
        "below AdaBN": 100 * float((picked - adabn < -POINTS).mean()),
    }


def correlation(runs: Sequence[Run], name: str) -> float:
    """Spearman's ρ of a score with the truth over the checkpoints of a source model, mean over source models."""
    values = []
    for where in sorted({(run.source, run.seed) for run in runs}):
        points = [
            (merit(one, name), one["true"])
            for run in runs
            if (run.source, run.seed) == where
            for one in run.records[len(BEFORE) :]
        ]
        values.append(float(spearmanr(*zip(*points, strict=True)).statistic))
    return float(np.mean(values))


def table(runs: Sequence[Run]) -> str:
    """Markdown: a block for each benchmark and kind of source model, a line for each way to pick."""
    lines = []
    for bench in dict.fromkeys(run.bench for run in runs):
        some = [run for run in runs if run.bench == bench]
        kinds = list(dict.fromkeys(run.source for run in some))
        for kind in kinds:
            lines += block(f"{bench}, {kind}", [run for run in some if run.source == kind])
        if len(kinds) > 1:
            lines += block(f"{bench}, {' and '.join(kinds)}", some)
    return "\n".join(lines)


def block(title: str, runs: Sequence[Run]) -> list[str]:
    """The lines of some runs."""
    checkpoints = [(run, one) for run in runs for one in run.records[len(BEFORE) :]]
    lost = sum(one["true"] <= (1 - LOST) * run.of("adabn")["true"] for run, one in checkpoints)
    seeds = ", ".join(str(seed) for seed in sorted({run.seed for run in runs}))
    lines = [
        f"\n**{title}**, seeds {seeds}: {len(runs)} runs, {len(checkpoints)} checkpoints, {lost} of them collapsed",
        "",
        "| picked by | ρ | mean score | − AdaBN | regret | worst regret | collapsed picks | worst − AdaBN | "
        f"> {POINTS} below AdaBN |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for way, pick in ways(runs).items():
        rho = f"{correlation(runs, way):.2f}" if way in ("entropy", *SCORES, *COMPARED) else ""
        s = summary(runs, pick)
        lines.append(
            f"| {way} | {rho} | {s['mean']:.1f} | {s['gain']:+.2f} | {s['regret']:.2f} | "
            f"{s['worst regret']:.1f} | {s['collapsed']:.0f} % | {s['against AdaBN']:+.1f} | {s['below AdaBN']:.0f} % |"
        )
    return lines


def variants(runs: Sequence[Run]) -> str:
    """Markdown: for each source model its trainings, ranked without labels by what the guard kept of each, and true
    scores beside. A training of which a model from before was kept takes no part in the ranking."""
    lines: list[str] = []
    for bench, source, seed in dict.fromkeys((run.bench, run.source, run.seed) for run in runs):
        some = [run for run in runs if (run.bench, run.source, run.seed) == (bench, source, seed)]
        rule = SLICES if has(some[0].of("adabn"), "continuity") else IMAGES
        kept = {run.variant: by_rule(rule, Guard())(run) for run in some}
        adapted = {name: one for name, one in kept.items() if one["name"] not in BEFORE}
        known = adapted | {"adabn": some[0].of("adabn")}
        scores = {name: scores_of(one, True) for name, one in known.items()}
        ranks = mean_ranks(scores, rule.ranked)
        lines += [
            f"\n**{bench}, {source}, seed {seed}**",
            "",
            "| variant | rank | kept | true score |",
            "|---|---|---|---|",
        ]
        for name in sorted(ranks, key=ranks.__getitem__, reverse=True):
            one = known[name]
            lines.append(f"| {name} | {ranks[name]:.1f} | {one['name']} | {one['true']:.1f} |")
        refused = ", ".join(
            f"{name} ({kept[name]['name']})" for name in kept if name not in adapted
        )
        lines += ["", f"Nothing kept of: {refused or 'none'}"]
    return "\n".join(lines)
