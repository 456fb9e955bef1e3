"""Single classes in a terminal: a table that stands on its side, because many classes are too wide for one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from uda.report_table import ROLE_STYLES, listed_structures
from uda.report_words import FAIR, Row, folded, kind_of, marked, ordered, points, role, score, tops

if TYPE_CHECKING:
    from rich.table import Table

Say = Callable[[Mapping[str, Any]], str]
"""The words of one structure's score"""


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
    label = max(map(len, [kind.structure, *names])) + 1
    rows = ordered(metrics["rows"])
    columns = {row["name"]: [say(score(row)["per_class"][name]) for name in names] for row in rows}
    blocks: list[list[Row]] = []
    room = 0
    for row in rows:
        lines = [*head_lines(marked(row)), *columns[row["name"]]]
        needed = max(map(len, lines)) + 1
        if not blocks or needed > room:
            blocks.append([])
            room = width - label
        blocks[-1].append(row)
        room -= needed
    title = f"{metrics['recipe']}: {kind.single} of each {kind.structure}, points"
    top = tops(rows, names)
    tables = []
    for number_, block in enumerate(blocks, 1):
        part = f" ({number_} of {len(blocks)})" if len(blocks) > 1 else ""
        tables.append(_class_block(title + part, names, block, columns, top, kind.structure))
    return tables


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
        name = Text("\n".join(head_lines(marked(row))))
        shown.add_column(name, justify="right", no_wrap=True, style=ROLE_STYLES[role(row)])
    for place, name in enumerate(names):
        cells = [Text(name)]
        for row in rows:
            mean = score(row)["per_class"][name]["mean"]
            wins = mean is not None and mean == top[place] and role(row) in FAIR
            cells.append(Text(columns[row["name"]][place], style="bold" if wins else ""))
        shown.add_row(*cells)
    return shown


def head_lines(name: str, width: int = 10) -> list[str]:
    """A row's name as the head of a column: broken after underscores where that is enough."""
    lines = [""]
    for piece in name.replace("_", "_\0").replace(" ", "\0").split("\0"):
        for part in folded(piece, width).split("\n"):
            if lines[-1] and len(lines[-1]) + len(part) > width:
                lines.append("")
            lines[-1] += part
    return lines
