"""A small run as the stages write it, for tests of the report and of hostile names."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from uda.evaluation.dice_hd95 import CaseScore, summarise
from uda.evaluation.sifa import SIFA_RULES
from uda.evaluation.sifa import summarise as by_sifa
from uda.report.files import read_metrics

STRUCTURES = ["myo", "lv & <rv>"]


HOSTILE = "<script>alert('p01')</script>"


ROWS = {
    # Not in the order of the table, on purpose.
    "target_supervised": (["source_labels", "target_labels"], 0.9),
    "minent_oracle": (["none", "target_labels"], 0.75),
    "minent": (["none"], 0.7),
    "adami_with_a_name_that_is_far_too_long_for_a_figure": (["target_sizes", "anatomical"], 0.6),
    "adabn": (["none"], 0.5),
    "source_only": (["none"], 0.3),
}


def case_scores(row: str, mean: float) -> list[CaseScore]:
    draw = np.random.default_rng(len(row))
    scores = []
    for case in (HOSTILE, "p02", "p03", "p04"):
        for name in STRUCTURES:
            dice = float(np.clip(mean + draw.normal(0, 0.05), 0, 1))
            scores.append(CaseScore(row, case, name, dice, 10 * (1 - dice), 5 * (1 - dice), "ok"))
    if row == "source_only":
        scores[0] = CaseScore(row, HOSTILE, "myo", 0.0, 99.0, 99.0, "missed")
        scores[2] = CaseScore(row, "p02", "myo", 0.0, math.nan, math.nan, "spurious")
        scores[3] = CaseScore(row, "p02", STRUCTURES[1], math.nan, math.nan, math.nan, "n/a")
    return scores


def write_run(run: Path) -> dict[str, Any]:
    """A small run folder as the stages write it; returns the content of ``metrics.json``."""
    evaluate = run / "evaluate"
    evaluate.mkdir(parents=True)
    rows, lines = [], []
    for name, (supervision, mean) in ROWS.items():
        scores = case_scores(name, mean)
        row = {"name": name, "stage": f"adapt-{name}", "supervision": supervision, "step": 100}
        rows.append({**row, **summarise(scores, STRUCTURES)})
        for s in scores:
            numbers = ["" if math.isnan(v) else v for v in (s.dice, s.hd95, s.assd)]
            lines.append([s.row, s.case, s.structure, *numbers, s.state])
    metrics = {
        "recipe": "cardiac $x_1$ <b>",
        "classes": STRUCTURES,
        "distance_unit": "mm",
        "rows": rows,
        "environment": {"uda": "0.1.0", "device": "cpu", "seed": 0, "threads": 2},
        "data": {"cases": 4, "fingerprint": "abc"},
        "rules": ["missed: Dice 0 & distance = diagonal"],
    }
    (evaluate / "metrics.json").write_text(json.dumps(metrics))
    with (evaluate / "cases.csv").open("w", newline="") as file:
        head = ["row", "case", "structure", "dice", "hd95", "assd", "state"]
        csv.writer(file).writerows([head, *lines])
    write_overlays(evaluate)
    write_stages(run)
    return metrics


EXTRA = ("conventions", "published")


PUBLISHED = [
    {"row": "unadapted <i>", "dice": 13.2, "source": "abstract of PnP-AdaNet"},
    {"row": "PnP-AdaNet", "dice": 63.9, "source": "abstract of PnP-AdaNet"},
    {"row": "no number", "dice": None, "source": "another & paper"},
]


def with_papers(run: Path, convention: bool = True) -> dict[str, Any]:
    """The run's metrics with published rows and, if asked, the rows by the convention of SIFA."""
    metrics = read_metrics(run)
    metrics["published"] = copy.deepcopy(PUBLISHED)
    if convention:
        rows = [
            {
                "name": name,
                "supervision": supervision,
                **by_sifa(case_scores(name, mean), STRUCTURES),
            }
            for name, (supervision, mean) in ROWS.items()
        ]
        metrics["conventions"] = {"sifa": {"rules": list(SIFA_RULES), "rows": rows}}
    (run / "evaluate" / "metrics.json").write_text(json.dumps(metrics))
    return metrics


def write_overlays(evaluate: Path) -> None:
    image = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (16, 1))
    labels = np.zeros((16, 24), np.uint8)
    labels[:6, :6], labels[8:12, 8:20] = 1, 2
    arrays = {"image_0": image, "reference_0": labels}
    arrays |= {f"{name}__0": np.roll(labels, i, 1) for i, name in enumerate(ROWS)}
    entry = {"case": HOSTILE, "slice": 7, "rank": "worst", "row": "minent", "aspect": 1.5}
    np.savez(evaluate / "overlays.npz", **arrays)  # type: ignore[arg-type]
    (evaluate / "overlays.json").write_text(json.dumps([{**entry, "key": "0"}]))


def write_stages(run: Path) -> None:
    for stage in ("pretrain", "adapt-minent"):
        (run / stage).mkdir()
        record = {
            "stage": stage,
            "hash": f"hash-of-{stage}",
            "parents": {} if stage == "pretrain" else {"pretrain": "hash-of-pretrain"},
            "seconds": 65.2,
            "supervision": ["none"],
        }
        (run / stage / "stage.json").write_text(json.dumps(record))
        lines = [f"{i},{1 / i},0.001,{0.5 / i}," for i in range(1, 201)]
        (run / stage / "metrics.csv").write_text("\n".join(["step,loss,lr,a,b", *lines]) + "\n")


class Reader(HTMLParser):
    """Collects what a browser would load, run or show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.alts: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), "an event handler is a script"
            collected = {"src": self.sources, "alt": self.alts, "href": self.links}.get(name)
            if collected is not None:
                collected.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def rendered(shown: Table, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def of_seed(metrics: dict[str, Any], seed: int, dice: float) -> dict[str, Any]:
    """The same run with another seed, where minent has ``dice`` everywhere."""
    run = copy.deepcopy(metrics)
    run["environment"]["seed"] = seed
    row = next(row for row in run["rows"] if row["name"] == "minent")
    row["dice"]["mean"] = dice
    row["dice"]["per_class"]["myo"]["mean"] = dice + 0.1
    return run
