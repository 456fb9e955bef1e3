"""Result tables: what kind of row, in which order, how numbers are worded; terminal and seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Literal

from uda.errors import DataError

if TYPE_CHECKING:
    from rich.table import Table

Role = Literal["baseline", "adapted", "oracle", "supervised"]
Row = Mapping[str, Any]

ROLES: dict[Role, str] = {
    "baseline": "not adapted",
    "adapted": "adapted, no target labels",
    "oracle": "oracle: saw target labels",
    "supervised": "trained on target labels",
}
DAGGER = "† saw target labels: a bound, not an adaptation result"
WIDEST = 8  # structures that fit into a terminal; above, they are in the page alone
ROLE_STYLES: dict[Role, str] = {
    "baseline": "dim",
    "adapted": "",
    "oracle": "yellow",
    "supervised": "yellow",
}


def role(row: Row) -> Role:
    """What a row is to the reader; anything that saw target labels is no adaptation result."""
    if row["name"] in ("source_only", "adabn"):
        return "baseline"
    if row["name"] == "target_supervised":
        return "supervised"
    return "oracle" if "target_labels" in row["supervision"] else "adapted"


def ordered(rows: Iterable[Row]) -> list[Row]:
    """source_only, adabn, the adapted rows in file order, then whatever saw target labels."""
    rank = {"source_only": -2, "adabn": -1}
    place = list(ROLES)
    return sorted(rows, key=lambda row: (place.index(role(row)), rank.get(row["name"], 0)))


def best(rows: Iterable[Row]) -> Row | None:
    """The row without target labels, adapted or not, that has the highest mean Dice."""
    fair = (r for r in rows if role(r) in ("baseline", "adapted"))
    scored = [r for r in fair if r["dice"]["mean"] is not None]
    return max(scored, key=lambda row: float(row["dice"]["mean"]), default=None)


def marked(row: Row) -> str:
    """The row's name, with a dagger when it saw target labels."""
    return f"{row['name']} †" if role(row) in ("oracle", "supervised") else str(row["name"])


def missed(row: Row, kind: Literal["missed", "spurious"] = "missed") -> int:
    """Structures of cases that were missed (or spurious), over all structures."""
    return sum(int(one[kind]) for one in row["dice"]["per_class"].values())


def points(fraction: float | None, sign: bool = False) -> str:
    """A Dice fraction in points: 0.7812 -> 78.1; a dash when nothing counted."""
    return number(None if fraction is None else 100 * fraction, sign)


def number(value: float | None, sign: bool = False) -> str:
    """One decimal with a true minus; a dash when nothing counted."""
    if value is None:
        return "–"
    value = round(value, 1) + 0.0  # no minus before a zero
    return f"{value:{'+' if sign else ''}.1f}".replace("-", "−")


def mean_sd(measure: Mapping[str, Any], scale: float = 1.0) -> str:
    """``78.1 ± 3.2``; without the spread when it is unknown."""
    mean, sd = measure["mean"], measure["sd"]
    if mean is None:
        return "–"
    return number(scale * mean) + ("" if sd is None else f" ± {number(scale * sd)}")


def gain(row: Row, rows: Iterable[Row]) -> float | None:
    """Mean Dice minus that of source_only, a fraction."""
    source = next((r["dice"]["mean"] for r in rows if r["name"] == "source_only"), None)
    mean = row["dice"]["mean"]
    return None if source is None or mean is None else float(mean - source)


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: 42 s, 3 min 5 s, 2 h 4 min."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def table(metrics: Mapping[str, Any]) -> Table:
    """The result table for a terminal: source_only and adabn on top, what saw target labels below.

    Dice in points (0-100) as mean ±sd over cases; distances in the run's unit.

    Args:
        metrics: the content of ``metrics.json``.
    """
    from rich.text import Text

    structures = metrics["classes"] if len(metrics["classes"]) <= WIDEST else []
    shown = _frame(metrics, "cases", structures)
    for row in ordered(metrics["rows"]):
        per_class = row["dice"]["per_class"]
        cells = [
            _folded(marked(row)),
            "\n".join(row["supervision"]),
            _narrow(row["dice"], 100),
            *(points(per_class[name]["mean"]) for name in structures),
            *(number(row[measure]["mean"]) for measure in ("hd95", "assd")),
            str(missed(row)),
        ]
        shown.add_row(*map(Text, cells), style=ROLE_STYLES[role(row)])
    return shown


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
    names = {row["name"]: row for run in runs for row in run["rows"]}
    rows = []
    for row in ordered(names.values()):
        found = [r for run in runs for r in run["rows"] if r["name"] == row["name"]]
        summary: dict[str, Any] = {"name": row["name"], "supervision": list(row["supervision"])}
        summary["n"] = len(found)
        for measure in ("dice", "hd95", "assd"):
            summary[measure] = _over_seeds([r[measure]["mean"] for r in found])
            summary[measure]["per_class"] = {
                name: _over_seeds([r[measure]["per_class"][name]["mean"] for r in found])
                for name in runs[0]["classes"]
            }
        summary["missed"] = _over_seeds([float(missed(r)) for r in found])
        rows.append(summary)
    return {
        "recipe": runs[0]["recipe"],
        "classes": list(runs[0]["classes"]),
        "distance_unit": runs[0]["distance_unit"],
        "seeds": [_seed(run) for run in runs],
        "same_data": len({str(run["data"].get("fingerprint")) for run in runs}) == 1,
        "rows": rows,
    }


def seeds_table(runs: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], Table]:
    """The summary over seeds and its table for a terminal; see ``seeds_summary``."""
    from rich.text import Text

    summary = seeds_summary(runs)
    structures = summary["classes"] if len(summary["classes"]) <= WIDEST else []
    shown = _frame(summary, f"{len(runs)} seed{'s' * (len(runs) > 1)}", structures)
    shown.add_column("seeds", justify="right", no_wrap=True)
    for row in summary["rows"]:
        cells = [
            _folded(marked(row)),
            "\n".join(row["supervision"]),
            _narrow(row["dice"], 100),
            *(_narrow(row["dice"]["per_class"][name], 100) for name in structures),
            *(_narrow(row[measure]) for measure in ("hd95", "assd")),
            number(row["missed"]["mean"]),
            str(row["n"]),
        ]
        shown.add_row(*map(Text, cells), style=ROLE_STYLES[role(row)])
    return summary, shown


def _frame(metrics: Mapping[str, Any], over: str, structures: Sequence[str]) -> Table:
    """The empty table with its title, caption and columns.

    rich drops columns that do not fit. Only number columns may shrink, to five characters, so four
    structures fit 100 characters and two fit 80.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    title = f"{metrics['recipe']}: Dice in points (0–100), mean ±sd over {over}"
    roles = {role(row) for row in metrics["rows"]}
    parts = [DAGGER] if roles & {"oracle", "supervised"} else []
    parts += [] if structures else ["single structures: see the report"]
    if not metrics.get("same_data", True):
        parts.insert(0, "the runs were scored on DIFFERENT target data")
    shown = Table(
        title=Text(title), caption=Text("; ".join(parts)), box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    shown.add_column("row", no_wrap=True)
    # A supervision word is never cut: target_tags and target_labels must not look the same.
    shown.add_column("used", no_wrap=True)
    unit = metrics["distance_unit"]
    for head in ("Dice", *structures, f"HD95 {unit}", f"ASSD {unit}", "missed"):
        whole = head == "missed"
        shown.add_column(Text(head), justify="right", overflow="fold", no_wrap=whole)
    return shown


def _folded(name: str, width: int = 24) -> str:
    """A name in lines of ``width`` characters."""
    return "\n".join(name[i : i + width] for i in range(0, len(name), width))


def _narrow(measure: Mapping[str, Any], scale: float = 1.0) -> str:
    """``78.1 ±3.2``, which may break before the sign and nowhere else."""
    return mean_sd(measure, scale).replace("± ", "±")


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
