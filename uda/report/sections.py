"""Data of the sections of a report, which ``templates/sections.html`` lays out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uda.config.annotations import LEDGER
from uda.report import figures
from uda.report.files import case_means, read_cases, read_curves, read_overlays, read_stages
from uda.report.photos import heat
from uda.report.wording import (
    PHOTOS,
    ROLES,
    best,
    fell_back,
    gain,
    kind_of,
    last_said,
    ordered,
    points,
    role,
    source_gain,
    steps_said,
    subset_names,
    unadapted,
    upper_bound,
    views_said,
)

Data = dict[str, Any]
"""arguments of a section's macro"""

SUPERVISION = {
    "none": "nothing but images",
    "source_labels": "labels of the source, or what was computed from them",
    "source_images": "labelled images of the source, seen again during adaptation",
    "target_tags": "which structures each target image shows",
    "target_sizes": "how large the structures of the target are",
    "target_points": "the class of single pixels of target images",
    "target_scribbles": "the class of pixels along scribbles on target images",
    "target_boxes": "boxes around structures of target images",
    "target_partial": "some of the classes of every pixel of target cases",
    "target_few_labels": "complete labels of a few target cases",
    "anatomical": "general knowledge of the anatomy or the scene",
    "target_labels": "labels of the target: a bound, not an adaptation result",
}
SUPERVISION |= {
    word.replace("target_", "source_"): SUPERVISION[word].replace("target", "source")
    for word in LEDGER.values()
}


def results(metrics: Mapping[str, Any], ledger: bool = True) -> Data:
    """All rows, and if asked what the words of their supervision mean."""
    rows, kind = ordered(metrics["rows"]), kind_of(metrics)
    used = {word for row in rows for word in row["supervision"]}
    several = any("source" in row for row in rows)
    begun = [row for row in rows if not several or role(row) != "supervised"]
    moved = {row["name"]: gain(row, rows) for row in begun if unadapted(row, rows) is not row}
    return {
        "kind": kind,
        "rows": rows,
        "top": best(rows),
        "gains": moved,
        "trained": {row["name"]: source_gain(row, rows) for row in begun} if several else {},
        "unit": metrics.get("distance_unit"),
        "subsets": [f"mIoU, {name}" for name in subset_names(metrics)] if kind is PHOTOS else [],
        "fell": fell_back(rows),
        "bound": upper_bound(rows),
        "steps": steps_said(rows),
        "notes": [said for said in (last_said(rows), views_said(rows)) if said],
        "ledger": {w: text for w, text in SUPERVISION.items() if w in used} if ledger else None,
    }


def structures(metrics: Mapping[str, Any]) -> Data:
    """Every structure of every row."""
    rows = ordered(metrics["rows"])
    return {"rows": rows, "classes": metrics["classes"], "unit": metrics["distance_unit"]}


def convention(metrics: Mapping[str, Any], name: str) -> Data:
    """The same networks by the rules ``name``: photographs in the tables of our own rows."""
    table = metrics["conventions"][name]
    alike, photos = {**metrics, "rows": table["rows"]}, kind_of(metrics) is PHOTOS
    return {
        "list": table["rules"],
        "rows": ordered(table["rows"]),
        "classes": metrics["classes"],
        "alike": results(alike, ledger=False) if photos else None,
        "heat": heat(alike) if photos else None,
        "papers": published(metrics) if metrics.get("published") else None,
    }


def published(metrics: Mapping[str, Any]) -> Data:
    """The rows of papers."""
    return {"kind": kind_of(metrics), "rows": metrics["published"]}


def boxes(run: Path, metrics: Mapping[str, Any], name: str, unit: str) -> Data:
    """Dice or HD95 of single cases in boxes, a figure per structure."""
    scores, measure = read_cases(run), name.lower()
    roles = {row["name"]: role(row) for row in ordered(metrics["rows"])}
    drawn = []
    for structure in metrics["classes"]:
        by_row = {
            row: [s for s in scores if (s.row, s.structure) == (row, structure)] for row in roles
        }
        uri = figures.box_plot(structure, by_row, roles, measure, f"{name}, {unit}")
        drawn.append((f"{name} of {structure}, a box per row", uri))
    used = [(ROLES[one], figures.ROLE_COLOURS[one]) for one in dict.fromkeys(roles.values())]
    return {"figures": drawn, "roles": used, "distances": measure == "hd95"}


def curves(run: Path) -> Data:
    """The losses of every training stage."""
    return {
        "figures": [
            (f"Loss of {stage} over its steps", figures.curve(stage, columns))
            for stage, columns in read_curves(run).items()
        ]
    }


def overlays(run: Path, metrics: Mapping[str, Any]) -> Data:
    """Worst, median and best case: the image, source_only, the ranked row, the reference."""
    names, dice = metrics["classes"], case_means(run)
    titles = {"image": "image", "source_only": "before", "reference": "reference"}
    cases = []
    for one in read_overlays(run):
        panes, case, aspect = [], one.entry["case"], one.entry["aspect"]
        for name, labels in one.panes.items():
            shown = None if name == "image" else labels
            uri = figures.overlay(one.panes["image"], shown, len(names), aspect)
            remark = "" if titles.get(name) == name else name
            score = dice.get((name, case))
            remark += "" if score is None else f", Dice of the case {points(score)}"
            panes.append((titles.get(name, "after"), remark, uri))
        cases.append((f"{one.entry['rank']}: case {case}, slice {one.entry['slice']}", panes))
    return {"styles": figures.outlines(names), "cases": cases}


def rules(listed: list[str]) -> Data:
    """What counts and how, in the words of the evaluation."""
    return {"list": listed}


def stages(run: Path) -> Data:
    """Wall time and hashes of every stage."""
    return {"stages": [_stage(stage) for stage in read_stages(run)]}


def _stage(stage: Mapping[str, Any]) -> Data:
    """Supervision and parents may be absent; parents are given as a list or by name."""
    used, parents = stage.get("supervision") or [], stage.get("parents") or ()
    named = parents if isinstance(parents, Mapping) else dict.fromkeys(parents)
    return {
        "name": stage["stage"],
        "seconds": stage.get("seconds"),
        "used": used if isinstance(used, list) else [used],
        "hash": str(stage.get("hash", "–"))[:12],
        "parents": [(k if v else "", str(v or k)[:12]) for k, v in named.items()],
    }


def values(recorded: Mapping[str, Any]) -> Data:
    """Names and values; what is no text is shown as JSON."""
    return {"values": {k: v if isinstance(v, str) else json.dumps(v) for k, v in recorded.items()}}
