"""Precision and recall of the flags of `uda predict` on labelled test cases, without and with calibrated limits.

    python benchmarks/trust.py RUN --recipe cardiac_bssfp_lge_methods --root FOLDER [--csv FILE]

Every model of a run folder predicts the recipe's test cases. A flag is right where the mean Dice of the case is below
70. Flags of the image (intensity, field of view) are the same on both sides; `on prediction` leaves them out. A row's
limits are those of the source training that it starts from, calibrated on its labelled images.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

from uda.config.loading import load_recipe
from uda.config.recipe import Compute, Recipe
from uda.data.geometry import to_file_maps
from uda.devices.device import make_fabric
from uda.evaluation.dice_hd95 import score_case
from uda.evaluation.volumes import Reference, read_references
from uda.files.atomic import write_text
from uda.files.csv_files import csv_text
from uda.networks.limits import DICE, Limits
from uda.networks.model_file import MODEL_FILE, Trained
from uda.pipeline.domains import Domains
from uda.prediction.confidence import CaseStatistics
from uda.prediction.trust import Flag, flags_of
from uda.prediction.volumes import logit_planes

ABOUT_IMAGE = ("intensity", "field of view")
SIDES = ("ranges", "limits")


@dataclass(frozen=True)
class Case:
    """A predicted case: its Dice, and its flags without and with calibrated limits."""

    row: str
    name: str
    dice: float
    ranges: tuple[Flag, ...]
    limits: tuple[Flag, ...]

    def flagged(self, side: str, about_image: bool) -> bool:
        flags: tuple[Flag, ...] = getattr(self, side)
        return any(about_image or flag.kind not in ABOUT_IMAGE for flag in flags)


def models(run: Path) -> dict[str, Path]:
    """Model files by row, in the order of the table."""
    stages = sorted(path.parent.name for path in run.glob(f"*/{MODEL_FILE}"))
    stages.sort(key=lambda stage: (stage != "pretrain", stage != "adabn"))
    source = {"pretrain": "source_only"}
    return {source.get(stage, stage.removeprefix("adapt-")): run / stage for stage in stages}


def predicted(
    row: str, trained: Trained, references: Sequence[Reference], fabric: Fabric
) -> Iterator[Case]:
    """Every test case by one model."""
    model, info = trained.network.to(fabric.device), trained.info
    for reference in references:
        case = reference.case
        statistics = CaseStatistics(case.geometry)
        planes = statistics.watch(logit_planes(model, info, case.slices, fabric))
        labels, _ = to_file_maps(planes, case.geometry, entropy=False)
        scores = score_case(
            labels,
            reference.label,
            info.classes,
            reference.spacing,
            row=row,
            case=case.name,
            distances=False,
        )
        measures = case.traits | statistics.measures(info)
        calibrated_measures = measures | statistics.calibrated(info)
        yield Case(
            row,
            case.name,
            float(np.nanmean([one.dice for one in scores])),
            flags_of(measures, replace(info, limits=None)),
            flags_of(calibrated_measures, info),
        )


def line(name: str, cases: Sequence[Case], about_image: bool) -> str:
    """Poor cases, and for each side the flagged ones with precision and recall."""
    poor = [case.dice < DICE for case in cases]
    cells = [f"{sum(poor)} of {len(cases)}"]
    for side in SIDES:
        flagged = [case.flagged(side, about_image) for case in cases]
        right = sum(f and p for f, p in zip(flagged, poor, strict=True))
        precision, recall = (f"{right / n:.2f}" if n else "–" for n in (sum(flagged), sum(poor)))
        cells += [str(sum(flagged)), precision, recall]
    return f"| {name} | {' | '.join(cells)} |"


def table(cases: Sequence[Case]) -> str:
    """Two tables in Markdown: flags on the prediction, and all flags."""
    heads = [f"{side}: {what}" for side in SIDES for what in ("flagged", "precision", "recall")]
    lines = []
    for title, about_image in (("on prediction", False), ("all flags", True)):
        lines += [f"| {title} | Dice below {100 * DICE:.0f} | {' | '.join(heads)} |"]
        lines += [f"|{'---|' * (2 + len(heads))}"]
        for row in dict.fromkeys(case.row for case in cases):
            lines.append(line(row, [case for case in cases if case.row == row], about_image))
        lines += [line("all rows", cases, about_image), ""]
    return "\n".join(lines)


def listed(cases: Sequence[Case]) -> str:
    """A line a case as CSV, with the measures that were flagged on the prediction."""
    rows = [["row", "case", "dice", *SIDES]]
    for case in cases:
        sides = (
            [flag.measure for flag in flags if flag.kind not in ABOUT_IMAGE]
            for flags in (case.ranges, case.limits)
        )
        rows.append([case.row, case.name, f"{case.dice:.4f}", *(" ".join(side) for side in sides)])
    return csv_text(rows)


def measured(run: Path, recipe: Recipe) -> tuple[dict[str, Limits], list[Case]]:
    """The limits and every case of every row.

    Raises:
        SystemExit: a row's source training had no validation images.
    """
    fabric = make_fabric(Compute(device="cpu"))
    domains = Domains(recipe, run)
    limits: dict[str, Limits] = {}
    found: list[Case] = []
    for row, path in models(run).items():
        trained = Trained.load(path)
        if trained.info.limits is None:
            raise SystemExit(f"{path}: holds no limits; train its source with validation images")
        limits[row] = trained.info.limits
        test = domains.cases(domains.target, "test", labels=True)
        references = read_references(test, domains.target, trained.info)
        found += predicted(row, trained, references, fabric)
    return limits, found


def described(limits: dict[str, Limits]) -> str:
    """Each source training's limits and the rows that start from it."""
    rows_of: dict[str, list[str]] = {}
    for row, its in limits.items():
        accepted = [
            f"  {name}: {low:.3f} to {high:.3f}" for name, (low, high) in its.accepted.items()
        ]
        counted = f"{its.predictions} labelled source predictions, {its.poor} of them poor"
        rows_of.setdefault("\n".join([counted, *accepted]), []).append(row)
    return "\n".join(f"{', '.join(rows)}: {told}" for told, rows in rows_of.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "--recipe", required=True, help="recipe of the run: its target and test cases"
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--csv", type=Path, help="write a line a case")
    given = parser.parse_args()
    torch.set_num_threads(1)
    limits, cases = measured(given.run, load_recipe(given.recipe, [f"data.root={given.root}"]))
    print(described(limits))
    print(table(cases))
    if given.csv is not None:
        write_text(given.csv, listed(cases))


if __name__ == "__main__":
    main()
