"""Mean and spread over runs of one recipe with different seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from uda.errors import DataError
from uda.report.schema import MEASURES
from uda.report.tables import (
    add_papers,
    add_rows,
    class_tables,
    dice_title,
    frame,
    listed_structures,
    subset_heads,
    volume_heads,
)
from uda.report.wording import PHOTOS, Row, kind_of, missed, narrow, number, ordered

if TYPE_CHECKING:
    from rich.table import Table


def seeds_summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and sd (n-1) over runs of one recipe with different seeds, ready for JSON.

    Averaged are the runs' means over cases; ``n`` is how many runs have the value. Values are on
    the scale of ``metrics.json`` (Dice and IoU 0 to 1). ``same_data`` is false when the runs were scored on
    different target data, whose means do not belong together.

    Args:
        runs: the contents of the runs' ``metrics.json``.

    Raises:
        DataError: no run, different recipes, classes, units or supervision, or a seed given twice.
    """
    _check_seeds(runs)
    structures, photos = list(runs[0]["classes"]), kind_of(runs[0]) is PHOTOS
    measures: Sequence[str] = ("iou",) if photos else MEASURES
    summary: dict[str, Any] = {
        "recipe": runs[0]["recipe"],
        "classes": structures,
        "distance_unit": runs[0].get("distance_unit"),
        "seeds": [_seed(run) for run in runs],
        "same_data": len({str(run["data"].get("fingerprint")) for run in runs}) == 1,
        "rows": _rows([run["rows"] for run in runs], structures, measures),
    }
    asked = [run["conventions"] for run in runs if "conventions" in run]
    if len(asked) == len(runs):
        by_papers = measures if photos else ("dice", "assd")
        shared = [name for name in asked[0] if all(name in one for one in asked)]
        summary["conventions"] = {
            name: {
                "rules": asked[0][name]["rules"],
                "rows": _rows([one[name]["rows"] for one in asked], structures, by_papers),
            }
            for name in shared
        }
    if "published" in runs[0]:
        summary["published"] = list(runs[0]["published"])
    return summary


def _rows(
    tables: Sequence[Sequence[Row]], structures: Sequence[str], measures: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows of the same name, one table a run, over the runs that have them."""
    names = {row["name"]: row for table in tables for row in table}
    rows = []
    for row in ordered(names.values()):
        found = [r for table in tables for r in table if r["name"] == row["name"]]
        summary: dict[str, Any] = {"name": row["name"], "supervision": list(row["supervision"])}
        summary["n"] = len(found)
        if trained := [r["trained_on"] for r in found if "trained_on" in r]:
            summary["trained_on"] = ", ".join(dict.fromkeys(trained))
        if said := [r["selection"] for r in found if "selection" in r]:
            summary["selection"] = {
                "fallbacks": sum(one["fallback"] for one in said),
                "kept": [one["kept"] for one in said],
            }
        if "postprocess" in row:
            summary["postprocess"] = row["postprocess"]
        for measure in measures:
            summary[measure] = _over_seeds([r[measure]["mean"] for r in found])
            summary[measure]["per_class"] = {
                name: _over_seeds([r[measure]["per_class"][name]["mean"] for r in found])
                for name in structures
            }
        if "accuracy" in row:
            summary["accuracy"] = _over_seeds([r["accuracy"] for r in found])
            summary["subsets"] = {
                label: _over_seeds([r["subsets"].get(label) for r in found])
                for label in row["subsets"]
            }
        summary["missed"] = _over_seeds([float(missed(r)) for r in found])
        rows.append(summary)
    return rows


def seeds_table(runs: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], Table]:
    """The summary over seeds and its table for a terminal; see ``seeds_summary``."""
    summary = seeds_summary(runs)
    over = f"{len(runs)} seed{'s' * (len(runs) > 1)}"
    structures = listed_structures(summary)

    def of_volumes(row: Row) -> list[str]:
        return [*by_sifa(row, narrow(row["hd95"])), str(row["n"])]

    def by_sifa(row: Row, hd95: str = "") -> list[str]:
        return [
            narrow(row["dice"], 100),
            *(narrow(row["dice"]["per_class"][name], 100) for name in structures),
            hd95,
            narrow(row["assd"]),
            number(row["missed"]["mean"]),
        ]

    if kind_of(summary) is PHOTOS:
        heads = ["mIoU", "accuracy", *subset_heads(summary), "seeds"]
        title = f"{summary['recipe']}: IoU in points (0–100), mean ±sd over {over}"
        shown = frame(summary, title, heads, ("mIoU", "seeds"))
        add_rows(shown, summary["rows"], lambda row: [*_of_photos(row), str(row["n"])])
        add_papers(shown, summary, _of_photos)
    else:
        heads = [*volume_heads(summary), "seeds"]
        shown = frame(summary, dice_title(summary, over), heads, ("missed", "seeds"))
        add_rows(shown, summary["rows"], of_volumes)
        add_papers(shown, summary, by_sifa)
    return summary, shown


def seeds_class_tables(summary: Mapping[str, Any], width: int) -> list[Table]:
    """Mean ±sd over seeds of every class, for a terminal of that width; see ``class_tables``."""
    return class_tables(summary, width, lambda one: narrow(one, 100))


def _of_photos(row: Row) -> list[str]:
    measures = [row["iou"], row["accuracy"], *row["subsets"].values()]
    return [narrow(measure, 100) for measure in measures]


def _over_seeds(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return {
        "mean": fmean(known) if known else None,
        "sd": stdev(known) if len(known) > 1 else None,
        "n": len(known),
    }


def _seed(run: Mapping[str, Any]) -> Any:
    return run["environment"].get("seed")


def _check_seeds(runs: Sequence[Mapping[str, Any]]) -> None:
    if not runs:
        raise DataError("no run to summarise", fix="name at least one evaluated run folder")
    for key in ("recipe", "classes", "distance_unit", "measure"):
        said = (kind_of(run).mean if key == "measure" else run.get(key) for run in runs)
        found = list(dict.fromkeys(map(str, said)))
        if len(found) > 1:
            raise DataError(
                f"the runs differ in {key}: {', '.join(found)}",
                expected="runs of one recipe that differ in the seed alone",
                fix="summarise each recipe on its own",
            )
    for key in ("supervision", "postprocess"):
        _check_alike(runs, key)
    seeds = [_seed(run) for run in runs if _seed(run) is not None]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise DataError(
            f"seed {twice[0]} is given twice",
            expected="a different seed in every run; copies would shrink the spread",
            fix="leave one of the two runs out",
        )


def _check_alike(runs: Sequence[Mapping[str, Any]], key: str) -> None:
    """Refuse rows of one name that say different things in different runs."""
    said: dict[str, str] = {}
    for row in (row for run in runs for row in run["rows"] if key in row):
        content = row[key] if isinstance(row[key], dict) else sorted(row[key])
        if said.setdefault(row["name"], json.dumps(content, sort_keys=True)) != json.dumps(
            content, sort_keys=True
        ):
            raise DataError(
                f"row {row['name']!r} has a different {key} in different runs",
                expected="runs of one recipe that differ in the seed alone",
                fix="run the recipe again with each seed",
            )
