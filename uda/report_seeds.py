"""Mean and spread over runs of one recipe with different seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from uda.errors import DataError
from uda.metrics import MEASURES
from uda.report_table import (
    ROLE_STYLES,
    WIDEST,
    Row,
    add_papers,
    folded,
    frame,
    marked,
    missed,
    narrow,
    number,
    ordered,
    role,
)

if TYPE_CHECKING:
    from rich.table import Table


def seeds_summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and sd (n-1) over runs of one recipe with different seeds, ready for JSON.

    Averaged are the runs' means over cases; ``n`` is how many runs have the value. Values are on
    the scale of ``metrics.json`` (Dice 0 to 1). ``same_data`` is false when the runs were scored on
    different target data, whose means do not belong together.

    Args:
        runs: the contents of the runs' ``metrics.json``.

    Raises:
        DataError: no run, different recipes, classes, units or supervision, or a seed given twice.
    """
    _check_seeds(runs)
    structures = list(runs[0]["classes"])
    summary: dict[str, Any] = {
        "recipe": runs[0]["recipe"],
        "classes": structures,
        "distance_unit": runs[0]["distance_unit"],
        "seeds": [_seed(run) for run in runs],
        "same_data": len({str(run["data"].get("fingerprint")) for run in runs}) == 1,
        "rows": _rows([run["rows"] for run in runs], structures, MEASURES),
    }
    asked = [run["conventions"] for run in runs if "conventions" in run]
    if len(asked) == len(runs):
        shared = [name for name in asked[0] if all(name in one for one in asked)]
        summary["conventions"] = {
            name: {
                "rules": asked[0][name]["rules"],
                "rows": _rows([one[name]["rows"] for one in asked], structures, ("dice", "assd")),
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
        for measure in measures:
            summary[measure] = _over_seeds([r[measure]["mean"] for r in found])
            summary[measure]["per_class"] = {
                name: _over_seeds([r[measure]["per_class"][name]["mean"] for r in found])
                for name in structures
            }
        summary["missed"] = _over_seeds([float(missed(r)) for r in found])
        rows.append(summary)
    return rows


def seeds_table(runs: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], Table]:
    """The summary over seeds and its table for a terminal; see ``seeds_summary``."""
    from rich.text import Text

    summary = seeds_summary(runs)
    structures = summary["classes"] if len(summary["classes"]) <= WIDEST else []
    shown = frame(summary, f"{len(runs)} seed{'s' * (len(runs) > 1)}", structures)
    shown.add_column("seeds", justify="right", no_wrap=True)
    for row in summary["rows"]:
        cells = [
            folded(marked(row)),
            "\n".join(row["supervision"]),
            narrow(row["dice"], 100),
            *(narrow(row["dice"]["per_class"][name], 100) for name in structures),
            *(narrow(row[measure]) for measure in ("hd95", "assd")),
            number(row["missed"]["mean"]),
            str(row["n"]),
        ]
        shown.add_row(*map(Text, cells), style=ROLE_STYLES[role(row)])
    add_papers(
        shown,
        summary,
        structures,
        lambda one: narrow(one, 100),
        lambda row: number(row["missed"]["mean"]),
    )
    return summary, shown


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
    for key in ("recipe", "classes", "distance_unit"):
        found = list(dict.fromkeys(str(run[key]) for run in runs))
        if len(found) > 1:
            raise DataError(
                f"the runs differ in {key}: {', '.join(found)}",
                expected="runs of one recipe that differ in the seed alone",
                fix="summarise each recipe on its own",
            )
    told: dict[str, list[str]] = {}
    for row in (row for run in runs for row in run["rows"]):
        if told.setdefault(row["name"], sorted(row["supervision"])) != sorted(row["supervision"]):
            raise DataError(
                f"row {row['name']!r} has a different supervision in different runs",
                expected="runs of one recipe that differ in the seed alone",
                fix="run the recipe again with each seed",
            )
    seeds = [_seed(run) for run in runs if _seed(run) is not None]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise DataError(
            f"seed {twice[0]} is given twice",
            expected="a different seed in every run; copies would shrink the spread",
            fix="leave one of the two runs out",
        )
