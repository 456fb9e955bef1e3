"""The result table in a terminal: what kind of row, in which order, how numbers are worded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

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
CONVENTIONS = {"sifa": "PnP-AdaNet and SIFA"}
PUBLISHED = "Published, not run here"
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

    Dice in points (0-100) as mean ±sd over cases; distances in the run's unit. Rows by the convention of a
    paper and published rows, where there are any, follow in sections of their own.

    Args:
        metrics: the content of ``metrics.json``.
    """
    structures = metrics["classes"] if len(metrics["classes"]) <= WIDEST else []
    shown = frame(metrics, "cases", structures)
    for row in ordered(metrics["rows"]):
        per_class = row["dice"]["per_class"]
        cells = [
            folded(marked(row)),
            "\n".join(row["supervision"]),
            narrow(row["dice"], 100),
            *(points(per_class[name]["mean"]) for name in structures),
            *(number(row[measure]["mean"]) for measure in ("hd95", "assd")),
            str(missed(row)),
        ]
        _plain_row(shown, cells, ROLE_STYLES[role(row)])
    add_papers(
        shown, metrics, structures, lambda one: points(one["mean"]), lambda row: str(missed(row))
    )
    return shown


def add_papers(
    shown: Table,
    metrics: Mapping[str, Any],
    structures: Sequence[str],
    of_class: Callable[[Mapping[str, Any]], str],
    lost: Callable[[Row], str],
) -> None:
    """Sections below the rows: the same predictions by a paper's convention, then what papers published.

    Args:
        structures: those with a column.
        of_class, lost: how the Dice of a structure and the number of missed ones are worded.
    """
    for name, convention in metrics.get("conventions", {}).items():
        head = f"By the convention of\n{CONVENTIONS.get(name, name)},\nASSD in voxels"
        _section(shown, head)
        for row in ordered(convention["rows"]):
            dice, assd = row["dice"], row["assd"]
            cells = [
                folded(marked(row)),
                "\n".join(row["supervision"]),
                narrow({"sd": None, **dice}, 100),
                *(of_class(dice["per_class"][structure]) for structure in structures),
                "",
                narrow({"sd": None, **assd}),
                lost(row),
            ]
            _plain_row(shown, cells, ROLE_STYLES[role(row)])
    if published := metrics.get("published", ()):
        _section(shown, PUBLISHED)
        for row in published:
            _plain_row(shown, [folded(str(row["row"])), "", number(row["dice"])], "")


def _section(shown: Table, head: str) -> None:
    shown.add_section()
    _plain_row(shown, [head], "italic")


def _plain_row(shown: Table, cells: Sequence[str], style: str) -> None:
    """A row whose names are no markup; empty where it has fewer cells than there are columns."""
    from rich.text import Text

    shown.add_row(*map(Text, cells), style=style)


def frame(metrics: Mapping[str, Any], over: str, structures: Sequence[str]) -> Table:
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
    parts += _sources(metrics.get("published", ()))
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


def _sources(published: Iterable[Mapping[str, Any]]) -> list[str]:
    """Who published which rows."""
    named: dict[str, list[str]] = {}
    for row in published:
        named.setdefault(str(row["source"]), []).append(str(row["row"]))
    return [f"{', '.join(rows)}: {source}" for source, rows in named.items()]


def folded(name: str, width: int = 24) -> str:
    """A name in lines of ``width`` characters."""
    return "\n".join(name[i : i + width] for i in range(0, len(name), width))


def narrow(measure: Mapping[str, Any], scale: float = 1.0) -> str:
    """``78.1 ±3.2``, which may break before the sign and nowhere else."""
    return mean_sd(measure, scale).replace("± ", "±")
