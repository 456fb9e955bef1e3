"""The result table in a terminal, and the tables of single classes below it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

from uda.report.wording import (
    DAGGER,
    FOLD,
    NARROW,
    PHOTOS,
    PUBLISHED,
    VOLUMES,
    Role,
    Row,
    convention_title,
    fell_back,
    folded,
    head_lines,
    interval,
    kind_of,
    last_said,
    leads,
    marked,
    missed,
    narrow,
    number,
    ordered,
    points,
    published_score,
    role,
    score,
    steps_said,
    subset_names,
    tops,
    upper_bound,
    views_said,
)

if TYPE_CHECKING:
    from rich.table import Table

Cells = Callable[[Row], list[str]]
"""The words of a row, from its main score on"""

Say = Callable[[Mapping[str, Any]], str]
"""The words of one structure's score"""

GAP = 2  # characters between the columns of single classes
WIDEST = 8  # structures that fit into a terminal as columns; more have a table of their own
ROLE_STYLES: dict[Role, str] = {
    "baseline": "dim",
    "adapted": "",
    "oracle": "yellow",
    "supervised": "yellow",
}


def table(metrics: Mapping[str, Any]) -> Table:
    """The result table for a terminal: source_only and adabn on top, what saw target labels below.

    Volumes: Dice in points (0-100) as mean ±sd over cases; distances in the run's unit. Photographs: mIoU with its
    interval, pixel accuracy and the means of subsets, in points. Rows by another convention and published rows, where
    there are any, follow in sections of their own.

    Args:
        metrics: the content of ``metrics.json``.
    """
    structures = listed_structures(metrics)

    def of_volumes(row: Row) -> list[str]:
        return [
            narrow(row["dice"], 100),
            *(points(row["dice"]["per_class"][name]["mean"]) for name in structures),
            *(number(row[measure]["mean"]) for measure in ("hd95", "assd")),
            str(missed(row)),
        ]

    def by_sifa(row: Row) -> list[str]:
        return [
            narrow({"sd": None, **row["dice"]}, 100),
            *(points(row["dice"]["per_class"][name]["mean"]) for name in structures),
            "",
            narrow({"sd": None, **row["assd"]}),
            str(missed(row)),
        ]

    if kind_of(metrics) is PHOTOS:
        heads = ["mIoU", "95 %", "accuracy", *subset_heads(metrics)]
        title = f"{metrics['recipe']}: IoU in points (0–100), 95 % interval over images"
        shown = frame(metrics, title, heads, whole=("95 %",))
        add_rows(shown, metrics["rows"], _of_photos)
        add_papers(shown, metrics, _of_photos)
    else:
        shown = frame(metrics, dice_title(metrics, "cases"), volume_heads(metrics), ("missed",))
        add_rows(shown, metrics["rows"], of_volumes)
        add_papers(shown, metrics, by_sifa)
    return shown


def _of_photos(row: Row) -> list[str]:
    return [
        points(row["iou"]["mean"]),
        interval(row["iou"]),
        points(row["accuracy"]),
        *(points(mean) for mean in row["subsets"].values()),
    ]


def subset_heads(metrics: Mapping[str, Any]) -> list[str]:
    """Labels of the subsets of classes in short lines."""
    return ["\n".join(head_lines(label, 8)) for label in subset_names(metrics)]


def listed_structures(metrics: Mapping[str, Any]) -> list[str]:
    """The structures that are columns of the result table; the others have a table of their own."""
    names = list(metrics["classes"])
    return names if kind_of(metrics) is VOLUMES and len(names) <= WIDEST else []


def add_rows(shown: Table, rows: Iterable[Row], cells: Cells) -> None:
    """Rows in their order, each with its name and its supervision before its cells."""
    for row in ordered(rows):
        name = "\n".join(head_lines(marked(row), NARROW if "iou" in row else FOLD))
        head = [name, "\n".join(row["supervision"])]
        _plain_row(shown, [*head, *cells(row)], ROLE_STYLES[role(row)])


def add_papers(shown: Table, metrics: Mapping[str, Any], cells: Cells) -> None:
    """Sections below the rows: the same networks by another convention, then what papers published.

    Args:
        cells: of a row of the convention.
    """
    kind = kind_of(metrics)
    width = NARROW if kind is PHOTOS else FOLD
    for name, convention in metrics.get("conventions", {}).items():
        unit = "" if kind is PHOTOS else ", ASSD in voxels"
        _section(shown, fill(f"{convention_title(name)}{unit}", width))
        add_rows(shown, convention["rows"], cells)
    if published := metrics.get("published", ()):
        _section(shown, fill(PUBLISHED, width))
        for row in published:
            _plain_row(shown, [folded(str(row["row"]), width), "", published_score(row, kind)], "")


def _section(shown: Table, head: str) -> None:
    shown.add_section()
    _plain_row(shown, [head], "italic")


def _plain_row(shown: Table, cells: Sequence[str], style: str) -> None:
    """A row whose names are no markup; empty where it has fewer cells than there are columns."""
    from rich.text import Text

    shown.add_row(*map(Text, cells), style=style)


def frame(
    metrics: Mapping[str, Any], title: str, heads: Sequence[str], whole: Sequence[str] = ()
) -> Table:
    """The empty table with its title, caption and columns.

    rich drops columns that do not fit. Only number columns may shrink, to five characters, so four
    structures fit 100 characters and two fit 80.

    Args:
        heads: of the columns after the row's name and its supervision.
        whole: those of them that may not shrink.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    roles = {role(row) for row in metrics["rows"]}
    parts = [DAGGER] if roles & {"oracle", "supervised"} else []
    said = (upper_bound, fell_back, steps_said, last_said, views_said)
    parts += filter(None, [one(metrics["rows"]) for one in said])
    if not metrics.get("same_data", True):
        parts.insert(0, "the runs were scored on DIFFERENT target data")
    parts += _sources(metrics.get("published", ()))
    shown = Table(
        title=Text(title), caption=Text("; ".join(parts)), box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    shown.add_column("row", no_wrap=True)
    # A supervision word is never cut: target_tags and target_labels must not look the same.
    shown.add_column("used", no_wrap=True)
    for head in heads:
        shown.add_column(Text(head), justify="right", overflow="fold", no_wrap=head in whole)
    return shown


def dice_title(metrics: Mapping[str, Any], over: str) -> str:
    """What the numbers of a table of volumes are."""
    return f"{metrics['recipe']}: Dice in points (0–100), mean ±sd over {over}"


def volume_heads(metrics: Mapping[str, Any]) -> list[str]:
    """Columns of a table of volumes after the row's name and its supervision."""
    unit = metrics["distance_unit"]
    return ["Dice", *listed_structures(metrics), f"HD95 {unit}", f"ASSD {unit}", "missed"]


def _sources(published: Iterable[Mapping[str, Any]]) -> list[str]:
    """Who published which rows."""
    named: dict[str, list[str]] = {}
    for row in published:
        named.setdefault(str(row["source"]), []).append(str(row["row"]))
    return [f"{', '.join(rows)}: {source}" for source, rows in named.items()]


def class_mean(one: Mapping[str, Any]) -> str:
    """The mean alone, in points."""
    return points(one["mean"])


def class_tables(metrics: Mapping[str, Any], width: int, say: Say = class_mean) -> list[Table]:
    """Scores of single classes, a line a class and a column a row, over as many tables as ``width`` asks for.

    None where the classes are columns of the result table. The best of each class is bold; what saw target labels
    does not compete.
    """
    if listed_structures(metrics):
        return []
    names, kind = list(metrics["classes"]), kind_of(metrics)
    rows = ordered(metrics["rows"])
    columns = {row["name"]: [say(score(row)["per_class"][name]) for name in names] for row in rows}
    needed = {
        row["name"]: max(map(len, [*head_lines(marked(row)), *columns[row["name"]]])) + GAP
        for row in rows
    }
    room = width - max(map(len, [kind.structure, *names])) - GAP
    blocks = _blocks(rows, needed, room, len(rows))
    blocks = _blocks(rows, needed, room, -(-len(rows) // len(blocks)))  # of nearly the same width
    title = f"{metrics['recipe']}: {kind.single} of each {kind.structure}, points"
    top = tops(rows, names)
    tables = []
    for number_, block in enumerate(blocks, 1):
        part = f" ({number_} of {len(blocks)})" if len(blocks) > 1 else ""
        tables.append(_class_block(title + part, names, block, columns, top, kind.structure))
    return tables


def _blocks(
    rows: Sequence[Row], needed: Mapping[str, int], room: int, most: int
) -> list[list[Row]]:
    """Rows in runs of at most ``most`` whose columns fit into ``room`` characters; at least one in each."""
    blocks: list[list[Row]] = [[]]
    for row in rows:
        taken = sum(needed[other["name"]] for other in blocks[-1])
        if blocks[-1] and (len(blocks[-1]) == most or taken + needed[row["name"]] > room):
            blocks.append([])
        blocks[-1].append(row)
    return blocks


def _class_block(
    title: str,
    names: Sequence[str],
    rows: Sequence[Row],
    columns: Mapping[str, Sequence[str]],
    top: Sequence[float | None],
    head: str,
) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=Text(title), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column(head, no_wrap=True)
    for row in rows:
        above = Text("\n".join(head_lines(marked(row))))
        shown.add_column(above, justify="right", no_wrap=True, style=ROLE_STYLES[role(row)])
    for place, name in enumerate(names):
        cells = [Text(name)]
        for row in rows:
            style = "bold" if leads(row, name, top[place]) else ""
            cells.append(Text(columns[row["name"]][place], style=style))
        shown.add_row(*cells)
    return shown
