"""Sections of the page that only photographs have, and the maps of spatial priors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from uda.report import pictures
from uda.report.figures import ROLE_COLOURS, box_plot
from uda.report.files import Bytes, Gallery, case_means, read_maps, read_overlays
from uda.report.heat import heat_table
from uda.report.html import image, legend, ramp
from uda.report.schema import Scored
from uda.report.sections import overlay_case, pane_row, panels, role_legend
from uda.report.wording import best, ordered, points, role, score

Pane = tuple[str, str, str]
"""title, remark, data URI"""
TITLES = {"source_only": "before"}


def classes_section(metrics: Mapping[str, Any]) -> str:
    """Bars of the rows that matter most, and all rows as a table."""
    names, rows = list(metrics["classes"]), ordered(metrics["rows"])
    top = best(rows)
    chosen = [row for row in rows if row["name"] in ("source_only", "adabn") or row is top]
    scores = {
        row["name"]: [score(row)["per_class"][name]["mean"] for name in names] for row in chosen
    }
    uri = pictures.class_bars(names, scores, {row["name"]: role(row) for row in chosen})
    text = f"IoU of each class: {', '.join(scores)}"
    return f"<figure>{image(uri, text)}</figure>{heat_of(metrics)}"


def heat_of(metrics: Mapping[str, Any]) -> str:
    """The IoU of every class in every row, under the colours that the pictures have."""
    colours, _ = pictures.class_colours(metrics["classes"], metrics.get("colors"))
    return heat_table(metrics, colours)


def images_section(run: Path, metrics: Mapping[str, Any]) -> str:
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
    label = "mean IoU of the image, points"
    uri = box_plot("Single images", by_row, roles, "iou", label)
    note = (
        "A point is an image: the mean over the classes that it shows or that were predicted in it. The box spans the "
        "quartiles, the line is the median. mIoU is not the mean of these: it counts the pixels of all images together."
    )
    used = {name: ROLE_COLOURS[name] for name in dict.fromkeys(roles.values())}
    return role_legend(used) + panels([("Mean IoU of single images, a box per row", uri)], note)


def gallery_section(run: Path, metrics: Mapping[str, Any]) -> str:
    """Worst, median and best image: predictions and their entropy in two rows, all other rows below."""
    names = list(metrics["classes"])
    colours, ignored = pictures.class_colours(names, metrics.get("colors"))
    scores = case_means(run, "iou")
    drawn = []
    for one in read_overlays(run):
        title = f"{one.entry['rank']}: image {one.entry['case']}"
        panes = list(_panes(one, scores, colours, ignored))
        drawn.append(overlay_case(title, panes, "three"))
        if one.others:
            rest = [
                (name, _remark(scores, name, one), pictures.label_map(labels, colours, ignored))
                for name, labels in one.others.items()
            ]
            more = pane_row(title, rest)
            drawn.append(f"<details><summary>all other rows</summary>{more}</details>")
    keys = [(name, colour) for name, colour in zip(names, colours, strict=True)]
    styles = [(n, f"background:rgb{c}") for n, c in [*keys, ("ignored", ignored)]]
    scale = ramp(pictures.entropy_colours(9), "Entropy: certain", "all classes alike")
    return legend(styles) + scale + "".join(drawn)


def _panes(
    one: Gallery,
    scores: Mapping[tuple[str, str], float],
    colours: list[pictures.Colour],
    ignored: pictures.Colour,
) -> Iterator[Pane]:
    """Image, before and after; under them the reference and the entropy of both."""

    def drawn(labels: Bytes) -> str:
        return pictures.label_map(labels, colours, ignored)

    def labelled(name: str, labels: Bytes) -> Pane:
        said = filter(None, [name, _remark(scores, name, one)])
        return TITLES.get(name, "after"), ", ".join(said), drawn(labels)

    yield "image", "", pictures.photograph(one.panes["image"])
    rows = {name: a for name, a in one.panes.items() if name not in ("image", "reference")}
    for name, labels in rows.items():
        yield labelled(name, labels)
    yield "reference", "", drawn(one.panes["reference"])
    for name in rows:
        if name in one.entropy:
            title = f"entropy {TITLES.get(name, 'after')}"
            yield title, name, pictures.entropy_map(one.entropy[name])


def _remark(scores: Mapping[tuple[str, str], float], name: str, one: Gallery) -> str:
    """How a row does on this image."""
    mean = scores.get((name, one.entry["case"]))
    return "" if mean is None else f"IoU of the image {points(mean)}"


def maps_section(folder: Path, turned: bool) -> str:
    """Where a spatial prior expects each class."""
    prior = read_maps(folder)
    uri = pictures.map_grid(prior.classes, prior.maps, turned)
    text = f"Maps of the prior {prior.name}, a panel per class"
    note = (
        "How often a pixel of that place has the class, on one logarithmic scale for all classes; what is rarer than "
        "0.1 % looks the same as 0.1 %. The prior says of itself: "
    )
    return f"<figure>{image(uri, text)}</figure><p class=note>{note}{escape(prior.how.rstrip('.'))}.</p>"
