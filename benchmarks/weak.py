"""What a minute of annotation buys: Dice against the seconds that somebody would need, as a table and a figure.

    uda run cardiac_bssfp_lge_weak data.root=FOLDER --seeds 0,1,2
    python benchmarks/weak.py checkpoints/cardiac_bssfp_lge_weak --root FOLDER --figure docs/weak_labels.png

Prints Markdown. The seconds are counted: every tag, click, stroke and box of the recipe's target, and every drawn
case, times what the literature says that one takes (``SECONDS``). A row is Dice over the test cases, mean ± sd over the
seeds' folders, as the guard kept it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from uda.config.loading import load_recipe
from uda.config.priors import TagPrior
from uda.config.recipe import Adapt, Recipe
from uda.data.annotations.folder import Annotations
from uda.data.annotations.prepared import chosen
from uda.files.atomic import read_json
from uda.pipeline.domains import Domains
from uda.priors.estimate import card_tags
from uda.report.schema import METRICS_FILE
from uda.types import IGNORE

SECONDS = {
    "tag": (1.0, "a structure of an image is there or not: Bearman et al., ECCV 2016"),
    "click": (2.4, "Bearman et al., ECCV 2016"),
    "stroke": (10.9, "a squiggle on one class: Bearman et al., ECCV 2016"),
    "box": (7.0, "by extreme points: Papadopoulos et al., ICCV 2017"),
    "case": (
        600.0,
        "both ventricles of a cardiac stack: Bai et al., JCMR 2018, 20 minutes for two",
    ),
}
"""seconds of one mark, and who measured them"""
NAMES = {
    "none": "none",
    "tags": "tags",
    "points": "points",
    "boxes": "boxes",
    "scribbles": "scribbles",
    "partial": "one structure",
    "full_1": "one case",
    "full_3": "three cases",
}
COLOURS = ("#0072b2", "#d55e00", "#009e73")


@dataclass(frozen=True)
class Cost:
    """What a row's annotations take."""

    counts: Mapping[str, float]
    """kind of mark → how many"""

    @property
    def seconds(self) -> float:
        return sum(count * SECONDS[kind][0] for kind, count in self.counts.items())

    def __str__(self) -> str:
        told = [f"{count:.3g} {kind}{'s' * (count != 1)}" for kind, count in self.counts.items()]
        return ", ".join(told).replace("boxs", "boxes") or "–"


def cost_of(variant: Adapt, recipe: Recipe, domains: Domains) -> Cost:
    """The marks that a variant trains on."""
    counts: dict[str, float] = {}
    if variant.prior is not None and isinstance(recipe.prior[variant.prior], TagPrior):
        tags = card_tags(domains.target, domains.root)
        counts["tag"] = sum(len(shown) for shown in tags.values())
    if variant.annotations:
        given = domains.annotations(domains.target, "adapt")
        structures = len(domains.target.structures)
        for kind in variant.annotations:
            mark, count = _counted(kind, given, structures, variant.annotated_cases)
            counts[mark] = counts.get(mark, 0) + count
    return Cost(counts)


def _counted(
    kind: str, given: Annotations, structures: int, cases: Sequence[str] | None
) -> tuple[str, float]:
    """The kind of mark, and how many there are of it."""
    held = getattr(given, kind)
    own = [case for case in held if chosen(case, cases)]
    if kind in ("points", "boxes"):
        return {"points": "click", "boxes": "box"}[kind], sum(len(held[case]) for case in own)
    if kind == "scribbles":
        return "stroke", sum(_strokes(held[case]) for case in own)
    if kind == "partial":
        return "case", sum(len(held[case].named) / structures for case in own)
    return "case", len(own)


def _strokes(scribble: np.ndarray) -> int:
    """Classes that are scribbled in each slice; slices lie on the last axis of this data set."""
    planes = np.moveaxis(scribble, -1, 0)
    return sum(len(set(np.unique(plane).tolist()) - {IGNORE}) for plane in planes)


def dice_of(folders: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """Row → its entry of the table in each seed's folder."""
    found: dict[str, list[dict[str, Any]]] = {}
    for folder in folders:
        for row in read_json(folder / "evaluate" / METRICS_FILE)["rows"]:
            found.setdefault(row["name"], []).append(row)
    return found


def mean_sd(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def lines(
    recipe: Recipe, costs: Mapping[str, Cost], rows: Mapping[str, list[dict[str, Any]]]
) -> Iterator[str]:
    sources = ["", *(f"{name}_" for name in recipe.sources)]
    structures = list(next(iter(rows.values()))[0]["dice"]["per_class"])
    titles = [name.removesuffix("_") or "ordinary" for name in sources]
    yield f"| annotations | marks | minutes | {' | '.join(f'{title} source' for title in titles)} |"
    yield f"|---|---|---|{'---|' * len(sources)}"
    for name, cost in costs.items():
        cells = []
        for source in sources:
            own = rows.get(source + name)
            if own is None:
                cells.append("not run")
                continue
            scores = [100 * row["dice"]["mean"] for row in own]
            classes = " / ".join(
                mean_sd([100 * row["dice"]["per_class"][c]["mean"] for row in own]).split(" ")[0]
                for c in structures
            )
            cells.append(f"{mean_sd(scores)} ({classes})")
        shown = NAMES.get(name, name)
        yield f"| {shown} | {cost} | {cost.seconds / 60:.0f} | {' | '.join(cells)} |"
    baselines = {name: rows[name] for name in rows if name.endswith(("source_only", "adabn"))}
    told = [
        f"{name} {mean_sd([100 * row['dice']['mean'] for row in own])}"
        for name, own in baselines.items()
    ]
    yield ""
    yield f"In brackets {' / '.join(structures)}. Baselines: {', '.join(told)}."


def draw(
    recipe: Recipe,
    costs: Mapping[str, Cost],
    rows: Mapping[str, list[dict[str, Any]]],
    path: Path,
) -> None:
    """The figure: minutes on a logarithmic axis, a colour for each source model, a line for no annotation."""
    figure = Figure(figsize=(8.6, 4.6), layout="constrained")
    axes = figure.subplots()
    for colour, source in zip(COLOURS, ("", *(f"{n}_" for n in recipe.sources)), strict=False):
        title = f"{source.removesuffix('_') or 'ordinary'} source model"
        points = []
        for name, cost in costs.items():
            own = [100 * row["dice"]["mean"] for row in rows.get(source + name, ())]
            if own:
                spread = statistics.stdev(own) if len(own) > 1 else 0.0
                points.append((name, cost.seconds / 60, statistics.mean(own), spread))
        for name, minutes, mean, spread in points:
            if not minutes:
                axes.axhline(mean, color=colour, linestyle="dashed", linewidth=1)
                axes.text(
                    0.99,
                    mean,
                    "no annotation",
                    transform=axes.get_yaxis_transform(),
                    color=colour,
                    ha="right",
                    va="bottom",
                    fontsize=8,
                )
                continue
            axes.errorbar(
                minutes,
                mean,
                spread,
                color=colour,
                marker="o",
                capsize=3,
                linestyle="none",
                label=title if name == "tags" else None,
            )
            axes.annotate(
                NAMES.get(name, name),
                (minutes, mean),
                xytext=(6, 5),
                textcoords="offset points",
                fontsize=8,
                color=colour,
            )
    axes.set_xscale("log")
    axes.set(xlabel="minutes of annotation", ylabel="Dice on p01–p10, mean ± sd over seeds")
    axes.set_xticks([5, 10, 20, 40, 80, 160], labels=["5", "10", "20", "40", "80", "160"])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    figure.savefig(path, dpi=120)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder with seed-0, seed-1, …")
    parser.add_argument("--root", required=True, help="folder of the data")
    parser.add_argument("--recipe", default="cardiac_bssfp_lge_weak")
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args(words)
    recipe = load_recipe(given.recipe, [f"data.root={given.root}"])
    domains = Domains(recipe, given.run)
    folders = sorted(given.run.glob("seed-*")) or [given.run]
    folders = [one for one in folders if (one / "evaluate" / METRICS_FILE).is_file()]
    if not folders:
        raise SystemExit(f"{given.run} has no finished table")
    rows = dice_of(folders)
    costs = {name: cost_of(variant, recipe, domains) for name, variant in recipe.adapt.items()}
    print(f"{len(folders)} seeds\n")
    for line in lines(recipe, costs, rows):
        print(line)
    print("\nSeconds: " + "; ".join(f"{n} {s:g} ({who})" for n, (s, who) in SECONDS.items()) + ".")
    if given.figure is not None:
        draw(recipe, costs, rows, given.figure)


if __name__ == "__main__":
    main()
