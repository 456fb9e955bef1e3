"""Data of the sections on photographs and on the maps of priors, which ``templates/photos.html`` lays out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from uda.report import pictures
from uda.report.figures import ROLE_COLOURS, box_plot
from uda.report.files import Bytes, Gallery, case_means, read_maps, read_overlays
from uda.report.schema import Scored
from uda.report.wording import ROLES, Row, best, leads, ordered, points, role, score, tops

Pane = tuple[str, str, str]
"""title, remark, data URI"""
TITLES = {"source_only": "before"}
ENDS = (255, 255, 255), (33, 113, 181)
"""colours of IoU 0 and 1"""
LIGHT_INK_ABOVE = 0.88  # where white letters begin to stand out better than black ones


def classes(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Bars of the rows that matter most, and all rows as a table."""
    names, rows = list(metrics["classes"]), ordered(metrics["rows"])
    top = best(rows)
    chosen = [row for row in rows if row["name"] in ("source_only", "adabn") or row is top]
    scores = {
        row["name"]: [score(row)["per_class"][name]["mean"] for name in names] for row in chosen
    }
    uri = pictures.class_bars(names, scores, {row["name"]: role(row) for row in chosen})
    return {"uri": uri, "alt": f"IoU of each class: {', '.join(scores)}", "table": heat(metrics)}


def heat(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The IoU of every class in every row, under the colours that the pictures have."""
    rows, names = ordered(metrics["rows"]), list(metrics["classes"])
    colours, _ = pictures.class_colours(names, metrics.get("colors"))
    highest = dict(zip(names, tops(rows, names), strict=True))
    source = next((row for row in rows if row["name"] == "source_only"), None)
    cells = [[_cell(row, name, highest[name], source) for name in names] for row in rows]
    return {
        "classes": list(zip(names, colours, strict=True)),
        "rows": list(zip(rows, cells, strict=True)),
        "shown": [score(rows[0])["per_class"][name] for name in names] if rows else [],
    }


def _cell(row: Row, name: str, top: float | None, source: Row | None) -> dict[str, Any]:
    one = score(row)["per_class"][name]
    mean, before = one["mean"], score(source)["per_class"][name]["mean"] if source else None
    shade = [round(low + (mean or 0) * (high - low)) for low, high in zip(*ENDS, strict=True)]
    return {
        "name": name,
        "one": one,
        "change": None if mean is None or before is None else mean - before,
        "shade": shade,
        "light": (mean or 0) > LIGHT_INK_ABOVE,
        "leads": leads(row, name, top),
    }


def images(run: Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """How the means of single images are spread in each row."""
    means = case_means(run, "iou")
    roles = {row["name"]: role(row) for row in ordered(metrics["rows"])}
    by_row = {
        name: [
            Scored(row, case, "", "ok", {"iou": mean})
            for (row, case), mean in means.items()
            if row == name
        ]
        for name in roles
    }
    uri = box_plot("Single images", by_row, roles, "iou", "mean IoU of the image, points")
    used = [(ROLES[one], ROLE_COLOURS[one]) for one in dict.fromkeys(roles.values())]
    return {"figures": [("Mean IoU of single images, a box per row", uri)], "roles": used}


def gallery(run: Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Worst, median and best image."""
    names = list(metrics["classes"])
    colours, ignored = pictures.class_colours(names, metrics.get("colors"))
    scores = case_means(run, "iou")
    keys = zip([*names, "ignored"], [*colours, ignored], strict=True)
    return {
        "keys": [(name, f"rgb{colour}") for name, colour in keys],
        "scale": pictures.entropy_colours(9),
        "images": [
            {
                "title": f"{one.entry['rank']}: image {one.entry['case']}",
                "panes": list(_panes(one, scores, colours, ignored)),
                "others": [
                    (name, _remark(scores, name, one), pictures.label_map(labels, colours, ignored))
                    for name, labels in one.others.items()
                ],
            }
            for one in read_overlays(run)
        ],
    }


def _panes(
    one: Gallery,
    scores: Mapping[tuple[str, str], float],
    colours: list[pictures.Colour],
    ignored: pictures.Colour,
) -> Iterator[Pane]:
    """Image, before and after; under them the reference and the entropy of both."""

    def drawn(labels: Bytes) -> str:
        return pictures.label_map(labels, colours, ignored)

    rows = {name: a for name, a in one.panes.items() if name not in ("image", "reference")}
    yield "image", "", pictures.photograph(one.panes["image"])
    for name, labels in rows.items():
        said = ", ".join(filter(None, [name, _remark(scores, name, one)]))
        yield TITLES.get(name, "after"), said, drawn(labels)
    yield "reference", "", drawn(one.panes["reference"])
    for name in rows:
        if name in one.entropy:
            title = f"entropy {TITLES.get(name, 'after')}"
            yield title, name, pictures.entropy_map(one.entropy[name])


def _remark(scores: Mapping[tuple[str, str], float], name: str, one: Gallery) -> str:
    """How a row does on this image."""
    mean = scores.get((name, one.entry["case"]))
    return "" if mean is None else f"IoU of the image {points(mean)}"


def maps(folder: Path, turned: bool) -> dict[str, Any]:
    """Where a spatial prior expects each class."""
    prior = read_maps(folder)
    return {
        "uri": pictures.map_grid(prior.classes, prior.maps, turned),
        "alt": f"Maps of the prior {prior.name}, a panel per class",
        "how": prior.how.rstrip("."),
    }
