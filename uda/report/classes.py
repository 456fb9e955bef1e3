"""Single classes in a terminal: a table that stands on its side, because many classes are too wide for one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from uda.report.tables import ROLE_STYLES, listed_structures
from uda.report.wording import (
    Row,
    head_lines,
    kind_of,
    leads,
    marked,
    ordered,
    points,
    role,
    score,
    tops,
)

if TYPE_CHECKING:
    from rich.table import Table

Say = Callable[[Mapping[str, Any]], str]
"""The words of one structure's score"""

GAP = 2  # characters between the columns


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
