"""The report as HTML: the sections of the page.

Nothing here reads a file or draws a figure; every value that comes from outside passes ``escape``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from uda.report.html import chip, count, grid, image, legend, name_cell, spread
from uda.report.wording import (
    KEPT_TITLE,
    PHOTOS,
    ROLES,
    Role,
    Row,
    best,
    duration,
    fallback,
    fell_back,
    gain,
    kind_of,
    missed,
    number,
    ordered,
    points,
    role,
    score,
    subset_names,
)

SUPERVISION = {
    "none": "nothing but images",
    "source_labels": "labels of the source, or what was computed from them",
    "source_images": "labelled images of the source, seen again during adaptation",
    "target_tags": "which structures each target image shows",
    "target_sizes": "how large the structures of the target are",
    "anatomical": "general knowledge of the anatomy or the scene",
    "target_labels": "labels of the target: a bound, not an adaptation result",
}
MEASURED = {
    "dice": "Dice is overlap in points from 0 to 100, more is better; HD95 and ASSD are surface distances, "
    "less is better.",
    "iou": "mIoU is the mean over the classes of their IoU, overlap in points from 0 to 100, more is better; "
    "accuracy is the share of the labelled pixels that are right.",
}
CURVES = "Black: the loss, with the range of its values shaded. Thin: its terms as logged."
HOW_TO_READ = (
    "Every row is one network, scored on the same labelled target {case}s. Compare a row with "
    "<b>source_only</b> (the network as it came from the source domain) and with <b>adabn</b> (the "
    "same, with BatchNorm statistics of the target and nothing else). {measured} The "
    "interval says how far the mean could move with other {case}s of the same kind; it says nothing "
    "about another random seed. <i>Used</i> lists what a row was told beyond target images. Rows "
    "marked † saw target labels and show what is possible, not what adaptation gives."
)


def how_to_read(metrics: Mapping[str, Any]) -> str:
    """What a row, a number and an interval are."""
    kind = kind_of(metrics)
    return HOW_TO_READ.format(case=kind.case, measured=MEASURED[kind.main])


def headline(metrics: Mapping[str, Any]) -> str:
    """The result in one sentence."""
    row = best(metrics["rows"])
    if row is None:
        return "<p class=headline>No row without target labels has a score.</p>"
    interval, name = score(row)["ci95"], kind_of(metrics).mean
    spread = f", 95 % interval {points(interval[0])}–{points(interval[1])}" if interval else ""
    change = gain(row, metrics["rows"])
    known = change is not None and row["name"] != "source_only"
    moved = f", {points(change, sign=True)} points on source_only" if known else ""
    moved += "; no adaptation improves on it" if role(row) == "baseline" else ""
    mean = f"{'mean ' if name == 'Dice' else ''}{name}"
    return (
        f"<p class=headline><b>{escape(str(row['name']))}</b> has the highest {mean} without "
        f"target labels: <b>{points(score(row)['mean'])}</b>{spread}{moved}.</p>"
    )


def results_table(metrics: Mapping[str, Any], ledger: bool = True) -> str:
    """Means, intervals, the difference to source_only and what the words of the supervision mean."""
    rows, kind = ordered(metrics["rows"]), kind_of(metrics)
    top = best(rows)
    heads, note = _photo_heads(metrics) if kind is PHOTOS else _volume_heads(metrics)
    lines = []
    for row in rows:
        change, mean = None if row["name"] == "source_only" else gain(row, rows), score(row)
        cells = [
            name_cell(row) + _kept(row),
            f"<b>{points(mean['mean'])}</b>{spread(mean, 100)}",
            points(change, sign=True),
            _interval(row),
            "<br>".join(chip(word) for word in row["supervision"]),
            *(_photo_cells(row) if kind is PHOTOS else _volume_cells(row)),
        ]
        lines.append((f"{role(row)}{' best' if row is top else ''}", cells))
    shared = ["row", kind.mean, "Δ source_only", "95&nbsp;%&nbsp;interval", "used"]
    note += (
        "the bar of the interval runs from 0 to 100. "
        f"Shaded: highest {'mean Dice' if kind.mean == 'Dice' else kind.mean} without target labels. "
        "† saw target labels. "
    )
    if told := fell_back(rows):
        note += f"{told}: see “{KEPT_TITLE}”."
    return (
        f"{grid([*shared, *heads], lines)}<p class=note>{note}</p>{_ledger(rows) if ledger else ''}"
    )


def _volume_heads(metrics: Mapping[str, Any]) -> tuple[list[str], str]:
    unit = escape(metrics["distance_unit"])
    note = "Mean over structures of the mean over cases; ± is the standard deviation over cases; "
    return [f"HD95, {unit}", f"ASSD, {unit}", "missed", "spurious"], note


def _volume_cells(row: Row) -> list[str]:
    distances = (f"{number(row[m]['mean'])}{spread(row[m], 1)}" for m in ("hd95", "assd"))
    return [*distances, count(missed(row)), count(missed(row, "spurious"))]


def _photo_heads(metrics: Mapping[str, Any]) -> tuple[list[str], str]:
    note = "IoU of a class from all images together, mean over the classes; "
    return ["accuracy", *(f"mIoU, {escape(name)}" for name in subset_names(metrics))], note


def _photo_cells(row: Row) -> list[str]:
    return [points(row["accuracy"]), *(points(mean) for mean in row["subsets"].values())]


def structures_table(metrics: Mapping[str, Any]) -> str:
    """Dice, and below it HD95, of every structure in every row."""
    unit, rows = escape(metrics["distance_unit"]), ordered(metrics["rows"])
    lines = []
    for row in rows:
        cells = [name_cell(row)]
        for name in metrics["classes"]:
            dice, hd95 = row["dice"]["per_class"][name], row["hd95"]["per_class"][name]
            lost = f" · {dice['missed']} missed" if dice["missed"] else ""
            cells.append(
                f"<b>{points(dice['mean'])}</b>{spread(dice, 100)}"
                f"<small>HD95 {number(hd95['mean'])} {unit}{lost}</small>"
            )
        lines.append((role(row), cells))
    return grid(["row", *(escape(name) for name in metrics["classes"])], lines)


def panels(figures: Iterable[tuple[str, str]], note: str) -> str:
    """Figures side by side as far as the screen is wide. ``figures``: (description, data URI)."""
    drawn = "".join(f"<figure>{image(uri, alt)}</figure>" for alt, uri in figures)
    return f"<div class=panels>{drawn}</div><p class=note>{note}</p>"


def role_legend(colours: Mapping[Role, str]) -> str:
    """Which colour stands for which kind of row."""
    return legend((ROLES[name], f"background:{colour}") for name, colour in colours.items())


def structure_legend(styles: Iterable[tuple[str, str, str]]) -> str:
    """``styles``: (structure, colour, CSS border style)."""
    return legend(
        (name, f"border:2px {line} {colour};background:{colour}66") for name, colour, line in styles
    )


def overlay_case(title: str, panes: Iterable[tuple[str, str, str]], layout: str = "") -> str:
    """One image in several panes. ``panes``: (title, remark, data URI); ``layout``: a further CSS class."""
    return f"<h3>{escape(title)}</h3>{pane_row(title, panes, layout)}"


def pane_row(title: str, panes: Iterable[tuple[str, str, str]], layout: str = "") -> str:
    """The panes of :func:`overlay_case` without its head."""
    drawn = "".join(
        f"<figure>{image(uri, f'{title}, {name}')}<figcaption><b>{escape(name)}</b> "
        f"{escape(remark)}</figcaption></figure>"
        for name, remark, uri in panes
    )
    return f"<div class='{f'panes {layout}'.strip()}'>{drawn}</div>"


def stages_table(stages: Sequence[Mapping[str, Any]]) -> str:
    """Wall time and hashes, so that a number can be traced to what made it."""
    lines = [
        (
            "",
            [
                escape(str(stage["stage"])),
                duration(stage.get("seconds")),
                _words(stage.get("supervision")),
                f"<code>{escape(str(stage.get('hash', '–'))[:12])}</code>",
                _hashes(stage.get("parents")),
            ],
        )
        for stage in stages
    ]
    return grid(["stage", "wall time", "used", "hash", "parents"], lines)


def environment_list(values: Mapping[str, Any]) -> str:
    """Names and values, whatever the run recorded."""
    shown = {k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
    body = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in shown.items())
    return f"<dl>{body}</dl>"


def _words(words: Any) -> str:
    listed = words if isinstance(words, list) else [words] if words else []
    return " ".join(chip(str(word)) for word in listed) or "–"


def _hashes(parents: Any) -> str:
    """Hashes of the parents, given as a list or by name."""
    named = parents if isinstance(parents, Mapping) else dict.fromkeys(parents or (), "")
    lines = [
        f"{escape(str(key)) if value else ''} <code>{escape(str(value or key)[:12])}</code>"
        for key, value in named.items()
    ]
    return "<br>".join(lines) or "–"


def _kept(row: Row) -> str:
    """The step of the checkpoint that a guarded row kept."""
    said = row.get("selection")
    return "" if said is None or fallback(row) else f"<small>kept {escape(said['kept'])}</small>"


def _interval(row: Row) -> str:
    """The interval in figures and as a bar on a scale of 0 to 100 with the mean as a dot."""
    interval, mean = score(row)["ci95"], score(row)["mean"]
    if interval is None or mean is None:
        return "–"
    low, high = (100 * end for end in interval)
    return (
        f"<span class=bar><i style='left:{low:.1f}%;width:{high - low:.1f}%'></i>"
        f"<u style='left:{100 * mean:.1f}%'></u></span>"
        f"<span class=sd>{number(low)} – {number(high)}</span>"
    )


def _ledger(rows: Iterable[Row]) -> str:
    used = {word for row in rows for word in row["supervision"]}
    known = [(word, text) for word, text in SUPERVISION.items() if word in used]
    return "<dl>" + "".join(f"<dt>{chip(w)}</dt><dd>{text}</dd>" for w, text in known) + "</dl>"
