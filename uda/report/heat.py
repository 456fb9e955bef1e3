"""The IoU of many classes in many rows at a glance, as an HTML table whose cells are coloured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from uda.report.html import grid, name_cell
from uda.report.wording import leads, ordered, points, role, score, tops

ENDS = (255, 255, 255), (33, 113, 181)
"""colours of IoU 0 and 1"""
LIGHT_INK_ABOVE = 0.88  # where white letters begin to stand out better than black ones


def heat_table(metrics: Mapping[str, Any], colours: Sequence[tuple[int, int, int]]) -> str:
    """IoU of every class in every row, darker where it is higher; below, how much there is of each class.

    Args:
        colours: of the classes in the pictures.
    """
    rows, names = ordered(metrics["rows"]), list(metrics["classes"])
    highest = tops(rows, names)
    sources = [score(row)["per_class"] for row in rows if row["name"] == "source_only"]
    lines: list[tuple[str, list[str]]] = []
    for row in rows:
        scored = score(row)
        cells = [name_cell(row), f"<b>{points(scored['mean'])}</b>"]
        for name, top in zip(names, highest, strict=True):
            one = scored["per_class"][name]
            moved = [
                one["mean"] - s[name]["mean"]
                for s in sources
                if None not in (one["mean"], s[name]["mean"])
            ]
            cells.append(_heat_cell(name, one, moved, leads(row, name, top)))
        lines.append((role(row), cells))
    if rows:
        known = [score(rows[0])["per_class"][name] for name in names]
        shares = [points(one["share"]) for one in known]
        lines.append(("", ["share of labelled pixels, %", "", *shares]))
        lines.append(("", ["images that show it", "", *(str(one["n"]) for one in known)]))
    swatches = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in colours]
    heads = [
        f"<span class=up>{escape(name)}</span><i class=swatch style='background:{swatch}'></i>"
        for name, swatch in zip(names, swatches, strict=True)
    ]
    note = (
        "IoU in points; bold: the highest of the class without target labels. Pointing at a cell tells the "
        "difference to source_only and in how many images a class was missed or is spurious."
    )
    table = grid(["row", "<span class=up>mIoU</span>", *heads], lines)
    return f"<div class=heat>{table}</div><p class=note>{note}</p>"


def _heat_cell(name: str, one: Mapping[str, Any], moved: Sequence[float], wins: bool) -> str:
    mean = one["mean"]
    if mean is None:
        return "<td title='in no image'>–</td>"
    change = "".join(f"{points(change, sign=True)} on source_only; " for change in moved)
    said = f"{name}: {change}missed in {one['missed']} of {one['n']} images, spurious in {one['spurious']}"
    shade = [round(low + mean * (high - low)) for low, high in zip(*ENDS, strict=True)]
    ink = "#fff" if mean > LIGHT_INK_ABOVE else "#1b1f24"
    # Rows that saw target labels have a colour of their own, which would lie over this one.
    style = f"background:rgb({','.join(map(str, shade))})!important;color:{ink}"
    shown = f"<b>{points(mean)}</b>" if wins else points(mean)
    return f"<td style='{style}' title='{escape(said)}'>{shown}</td>"
