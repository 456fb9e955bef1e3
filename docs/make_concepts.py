"""Draws the pictures of docs/concepts.md from a finished demo and from the tables of benchmarks/RESULTS.md.

python docs/make_concepts.py checkpoints/cardiac_phantom docs/concepts

The same run gives the same files.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from uda.config.loading import load_card
from uda.data.geometry import grey, turned, turned_up
from uda.data.volumes import prepare_image, prepare_label, read_volume
from uda.files.atomic import read_json
from uda.report.figures import INK, SOFT, STYLE, structure_style

ROOT = Path(__file__).parents[1]
WIDTH, DPI = 7.0, 150
BLUE, ORANGE, GREY, GREEN = "#cfe5f5", "#fbe3bd", "#eceff2", "#cdebdf"
ACCENT = "#0072b2"
SUPERVISION = (
    *("source_labels", "source_images", "target_tags"),
    *("target_sizes", "anatomical", "target_labels"),
)
LEDGER = ("source_only", "adabn", "advent", "ratio_teacher", "adami_tags", "target_supervised †")
"""rows of RESULTS.md that the ledger's picture shows"""


def blank(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """A white page whose coordinates are inches."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    return figure, axes


def box(
    axes: Axes, place: tuple[float, float], size: tuple[float, float], text: str, colour: str
) -> None:
    """A rounded box with a text in its middle; ``place`` is its lower left corner."""
    patch = FancyBboxPatch(
        place, *size, boxstyle="round,pad=0,rounding_size=0.06", fc=colour, ec=SOFT, lw=0.8
    )
    axes.add_patch(patch)
    middle = [start + length / 2 for start, length in zip(place, size, strict=True)]
    axes.text(*middle, text, ha="center", va="center", fontsize=9, linespacing=1.4)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow between two points, behind the boxes on its way."""
    look = {"arrowstyle": "->", "color": SOFT, "lw": 0.9}
    axes.annotate("", end, start, arrowprops=look, zorder=0.5)


def stages_of(run: Path) -> dict[str, dict[str, Any]]:
    """What each stage of a run recorded, by its name."""
    found = [read_json(path) for path in sorted(run.glob("*/stage.json"))]
    return {stage["stage"]: stage for stage in found}


def recipe(run: Path) -> Figure:
    """The stages of the demo; arrows that follow from others are left out."""
    stages = stages_of(run)
    columns = columns_of(stages)
    gap, tall, between = 0.36, 0.27, 0.36
    height = gap * max(map(len, columns)) + 0.4
    widths = [0.16 + 0.069 * max(map(len, column)) for column in columns]
    figure, axes = blank(height, sum(widths) + between * (len(widths) - 1) + 0.1)
    place, wide, left = {}, {}, 0.05
    for column, width in zip(columns, widths, strict=True):
        for row, name in enumerate(column):
            middle = (height + 0.3) / 2 - gap * (row - (len(column) - 1) / 2)
            place[name], wide[name] = (left, middle - tall / 2), width
        left += width + between
    for name, stage in stages.items():
        implied = ancestors(stages, stage["parents"])
        for parent in (one for one in stage["parents"] if one not in implied):
            (x, y), end = place[parent], place[name]
            arrow(axes, (x + wide[parent], y + tall / 2), (end[0], end[1] + tall / 2))
    for name in stages:
        box(axes, place[name], (wide[name], tall), name, colour_of(stages[name]))
    legend = {
        "source labels": BLUE,
        "target images": ORANGE,
        "target labels": GREEN,
        "neither": GREY,
    }
    axes.text(0.05, 0.14, "reads", va="center", fontsize=9)
    for number, (text, colour) in enumerate(legend.items()):
        at = 0.6 + 1.35 * number
        axes.add_patch(Rectangle((at, 0.07), 0.2, 0.14, fc=colour, ec=SOFT))
        axes.text(at + 0.27, 0.14, text, va="center", fontsize=9)
    return figure


def columns_of(stages: Mapping[str, Any]) -> list[list[str]]:
    """The stages from left to right, each as late as it can be."""
    level = {"report": 0}
    while len(level) < len(stages):
        for name in stages:
            children = [child for child, stage in stages.items() if name in stage["parents"]]
            if children and all(child in level for child in children):
                level[name] = min(level[child] for child in children) - 1
    order = [*stages["evaluate"]["parents"], *stages]
    return [
        [name for name in dict.fromkeys(order) if level[name] == at]
        for at in range(min(level.values()), 1)
    ]


def ancestors(stages: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """All stages that those of these names are made from."""
    parents = [parent for name in names for parent in stages[name]["parents"]]
    return [*parents, *ancestors(stages, parents)] if parents else []


def colour_of(stage: Mapping[str, Any]) -> str:
    """The colour of the most that a stage reads."""
    reads = set(stage["data"])
    if "target/test" in reads or (reads and "target_labels" in stage.get("supervision", ())):
        return GREEN
    if "target/adapt" in reads:
        return ORANGE
    return BLUE if any(name.startswith("source") for name in reads) else GREY


def card(run: Path) -> Figure:
    """A file, the prepared slice and its classes, below the card's lines that say so."""
    domain = load_card("phantom_ct")
    how = domain.prepare
    case = domain.splits["test"][0]
    image = run / "phantom" / "ct_train" / f"ct_train_{case}_image.nii.gz"
    label = Path(str(image).replace("_image", "_label"))
    volume = read_volume(image)
    prepared, geometry = prepare_image(volume, how, image)
    classes = prepare_label(read_volume(label), geometry, domain, label)
    shown = int((classes > 0).sum((1, 2)).argmax())
    raw = turned(volume.array, np.array(geometry.turn), geometry.slice_axis)[shown]
    figure = Figure(figsize=(WIDTH, 2.75))
    panes = figure.subplots(1, 3)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.19, top=0.9, wspace=0.04)
    lines = {
        "the file": "images: …_{case}_image.nii.gz\nlabels: …_{case}_label.nii.gz",
        "prepared": f"spacing: {how.spacing:g}, size: {list(how.size)},\nnormalize: {how.normalize}",
        "its classes": f"classes: [{domain.classes[0]},\n{', '.join(domain.classes[1:])}]",
    }
    slices = (grey(turned_up(raw, geometry)), *[grey(turned_up(prepared[shown], geometry))] * 2)
    for axes, (title, text), pixels in zip(panes, lines.items(), slices, strict=True):
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
        axes.text(
            0, -0.03, text, transform=axes.transAxes, va="top", fontsize=9, family="monospace"
        )
    found = turned_up(classes[shown], geometry)
    for index in range(1, len(domain.classes)):
        mask = (found == index).astype(float)
        colour = structure_style(index - 1)[0]
        panes[2].contour(mask, [0.5], colors=colour, linewidths=1.6)
        panes[2].plot([], [], color=colour, label=domain.classes[index])
    panes[2].legend(loc="upper left", fontsize=8, framealpha=0.85)
    return figure


def stage(run: Path) -> Figure:
    """What a stage's hash covers, and the folder that it ends as."""
    made = stages_of(run)["adapt-adami"]
    height = 2.3
    figure, axes = blank(height)
    inputs = {
        "its settings": "objective, steps, lr, seed, …",
        "the files it reads": ", ".join(made["data"]),
        "its parents' hashes": ", ".join(made["parents"]),
    }
    for number, (title, text) in enumerate(inputs.items()):
        low = height - 0.62 - 0.66 * number
        box(axes, (0.05, low), (2.2, 0.54), f"{title}\n{text}", GREY)
        arrow(axes, (2.25, low + 0.27), (2.72, height / 2))
    box(axes, (2.74, height / 2 - 0.27), (1.25, 0.54), f"hash\n{made['hash'][:12]}", BLUE)
    hidden, final = (4.5, height - 0.86), (4.5, 0.2)
    arrow(axes, (3.99, height / 2 + 0.1), (hidden[0], hidden[1] + 0.3))
    box(
        axes,
        hidden,
        (2.42, 0.66),
        f"unfinished: hidden folder\n.adapt-adami.{made['hash'][:12]}",
        ORANGE,
    )
    arrow(axes, (hidden[0] + 1.2, hidden[1]), (final[0] + 1.2, final[1] + 0.9))
    axes.text(hidden[0] + 1.28, 1.27, "one rename", va="center", fontsize=9, color=SOFT)
    files = "\n".join(["complete: adapt-adami/", ", ".join(sorted(made["files"])), "stage.json"])
    box(axes, final, (2.42, 0.9), files, GREEN)
    return figure


def prior(run: Path) -> Figure:
    """The class ratio of the data set, and how much single slices differ from it."""
    made = read_json(run / "prior-ratio" / "prior.json")
    names = made["classes"][1:]
    figure = Figure(figsize=(WIDTH, 2.4), layout="constrained")
    axes = figure.add_subplot()
    for line in range(len(names)):
        share = 100 * made["ratio"][line + 1]
        low, *_, high = (100 * value for value in made["sizes"]["quantiles"][line + 1])
        axes.barh(line, share, height=0.5, color=structure_style(line)[0])
        axes.plot([low, high], [line + 0.36] * 2, color=INK, lw=1.4, marker="|")
        axes.text(share + 0.1, line, f"{share:.2f} %", va="center")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(
        "share of the pixels; bar: mean over the data set, line: 5–95 % of the slices that show it"
    )
    axes.set_title(f"used: {', '.join(made['supervision'])}", fontsize=10)
    return figure


def used_by(results: str) -> dict[str, tuple[str, ...]]:
    """What the tables of RESULTS.md say that a row used."""
    rows = re.findall(r"^\| (?:\*\*)?([\w† ]+?)(?:\*\*)? \| ([a-z_, ]+) \|", results, re.MULTILINE)
    return {name: tuple(used.split(", ")) for name, used in rows}


def ledger(run: Path) -> Figure:
    """Who used what: rows of our tables against the kinds of supervision."""
    used = used_by((ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8"))
    figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
    axes = figure.add_subplot()
    for line, name in enumerate(LEDGER):
        for column, kind in enumerate(SUPERVISION):
            known = kind in used[name]
            axes.scatter(column, line, s=90, color=ACCENT if known else "#e3e7eb")
    axes.set_xticks(range(len(SUPERVISION)), SUPERVISION)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(LEDGER)), LEDGER)
    axes.set_xlim(-0.5, len(SUPERVISION) - 0.5)
    axes.set_ylim(len(LEDGER) - 0.5, -0.5)
    axes.tick_params(length=0)
    axes.tick_params("x", labelsize=8.5)
    axes.spines[:].set_visible(False)
    return figure


def guard(run: Path) -> Figure:
    """The scores by which the guard chose, over the steps of the demo's default method."""
    chosen = stages_of(run)["adapt-ratio_teacher"]["selection"]
    before, steps = chosen["candidates"][:2], chosen["candidates"][2:]
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    ranked = chosen["rule"]
    for axes, name in zip(figure.subplots(1, len(ranked)), ranked, strict=True):
        axes.plot(*series(steps, name), color=ACCENT, marker="o", ms=4, label="checkpoints")
        for model, line in zip(before, ("dotted", "dashed"), strict=True):
            label = {"source": "source model", "adabn": "AdaBN"}[model["name"]]
            axes.axhline(model["scores"][name], color=SOFT, ls=line, label=label)
        kept = [one for one in steps if f"step {one['step']}" == chosen["kept"]]
        axes.scatter(*series(kept, name), s=130, fc="none", ec="#d55e00", lw=2, label="kept")
        axes.set_title(name, fontsize=8)
        axes.set_xlabel("step")
        axes.margins(y=0.15)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False
    )
    return figure


def series(candidates: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and scores of checkpoints."""
    return [one["step"] for one in candidates], [one["scores"][name] for one in candidates]


PICTURES = {draw.__name__: draw for draw in (recipe, card, stage, prior, ledger, guard)}


def main(run: Path, out: Path) -> None:
    """Draw all pictures into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    with rc_context({**STYLE, "font.size": 9}):
        for name, draw in PICTURES.items():
            draw(run).savefig(out / f"{name}.png", dpi=DPI, metadata={"Software": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
