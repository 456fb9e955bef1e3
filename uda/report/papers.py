"""Sections of the page that stand beside papers: rows by their convention, and the numbers they published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from uda.report.html import chip, grid, name_cell, rules_list, spread
from uda.report.wording import Kind, number, ordered, points, published_score, role

PUBLISHED_NOTE = (
    "Published numbers are not ranked with ours: they come from other networks, other splits of the data and other "
    "rules for choosing a checkpoint."
)


def published_rows(rows: Sequence[Mapping[str, Any]], kind: Kind) -> str:
    """What papers report of our main measure, in the order of the recipe."""
    lines = [
        (
            "published",
            [escape(str(row["row"])), published_score(row, kind), escape(str(row["source"]))],
        )
        for row in rows
    ]
    table = grid(["row", kind.mean, "source"], lines)
    return f"{table}<p class=note>{PUBLISHED_NOTE}</p>"


def convention_section(table: Mapping[str, Any], structures: Iterable[str]) -> str:
    """Rules, and our rows of volumes by them."""
    names = list(structures)
    head = ["row", "Dice", *(escape(name) for name in names), "ASSD, voxel", "used"]
    lines = []
    for row in ordered(table["rows"]):
        dice, assd = row["dice"], row["assd"]
        cells = [
            name_cell(row),
            f"<b>{points(dice['mean'])}</b>",
            *(_structure(dice["per_class"][name], assd["per_class"][name]) for name in names),
            number(assd["mean"]),
            "<br>".join(chip(word) for word in row["supervision"]),
        ]
        lines.append((role(row), cells))
    note = (
        "± is the population standard deviation over the volumes; below it the ASSD of the structure, in voxels. "
        "A missed structure has no distance here, so an ASSD beside missed ones flatters."
    )
    return f"{rules_list(table['rules'])}{grid(head, lines)}<p class=note>{note}</p>"


def _structure(dice: Mapping[str, Any], assd: Mapping[str, Any]) -> str:
    lost = f" · {dice['missed']} missed" if dice["missed"] else ""
    return (
        f"<b>{points(dice['mean'])}</b>{spread(dice, 100)}"
        f"<small>ASSD {number(assd['mean'])}{spread(assd, 1)}{lost}</small>"
    )
