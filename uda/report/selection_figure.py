"""The figure of a guarded adaptation: how every judged model ranks, over the steps of the training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from uda.report.figures import INK, MISS, SOFT, TERM_COLOURS, figure_of, shorten, svg
from uda.report.schema import Candidate, Selection
from uda.report.wording import BEFORE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KEPT_COLOUR = "#cfe8d5"
CROWD = 20  # models beyond which points would hide the lines
TICKS = 5  # steps that are written below the axis
SPREAD = 0.012  # of the axis, between the points of one model


def rank_plot(
    title: str,
    selection: Selection,
    ranks: Mapping[str, Mapping[str, float]],
    titles: Sequence[str],
) -> str:
    """Rank of each model by every score that counts (thin) and their mean (black), 1 the worst.

    The two models before adaptation stand at the left, checkpoints follow by step. What was unsafe has no rank and is
    a cross at the bottom; the model that was kept is shaded.

    Args:
        ranks: by candidate and score, of the safe ones.
        titles: of the scores of ``selection["rule"]``.
    """
    places = _places(selection["candidates"])
    few = len(places) <= CROWD
    with figure_of(4.8, 3.3) as figure:
        axes = figure.add_subplot()
        _shade(axes, selection, places)
        drawn = zip(selection["rule"], titles, strict=True)
        for number, (name, said) in enumerate(drawn):
            heights = {one: of[name] for one, of in ranks.items()}
            shift = SPREAD * (number - (len(titles) - 1) / 2) * _length(places)
            colour = TERM_COLOURS[number % len(TERM_COLOURS)]
            _line(axes, places, heights, colour, 0.9, 2.6 if few else 1.0, said, shift)
        known = {c["name"]: c["rank"] for c in selection["candidates"] if c["rank"] is not None}
        _line(axes, places, known, INK, 2.0, 5.0 if few else 2.6, "their mean, which decides")
        lost = [places[c["name"]] for c in selection["candidates"] if not c["safe"]]
        if lost:
            low = [0.06] * len(lost)  # of the height of the axes
            marks = axes.get_xaxis_transform()
            axes.plot(
                lost, low, "x", color=MISS, ms=6, mew=1.8, label="unsafe", transform=marks, zorder=3
            )
        _frame(axes, places, selection["candidates"], max(len(known), 2))
        figure.suptitle(shorten(title, 44), x=0.01, ha="left", weight="bold", size=11)
        figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=9)
        return svg(figure)


def _places(candidates: Sequence[Candidate]) -> dict[str, float]:
    """Where each candidate stands on the axis of steps: the models before adaptation left of the first step."""
    steps = [one["step"] for one in candidates if one["name"] not in BEFORE]
    gap = max(steps[0], 0.2 * steps[-1]) if steps else 1.0
    first = steps[0] if steps else 1
    left = {name: first - gap * (len(BEFORE) - i) for i, name in enumerate(BEFORE)}
    return {one["name"]: left.get(one["name"], one["step"]) for one in candidates}


def _length(places: Mapping[str, float]) -> float:
    return max(places.values()) - min(places.values())


def _line(
    axes: Axes,
    places: Mapping[str, float],
    heights: Mapping[str, float],
    colour: str,
    width: float,
    size: float,
    label: str,
    shift: float = 0.0,
) -> None:
    """Points of the models before adaptation, and a line through the checkpoints; a gap where one was unsafe."""
    before = [name for name in places if name in BEFORE]  # points alone, large enough to be seen
    after = [name for name in places if name not in BEFORE]
    for names, style in ((before, "o"), (after, "o-")):
        x = [places[name] + shift for name in names]
        y = [heights.get(name, math.nan) for name in names]
        said = label if names is after else None
        seen = size if names is after else max(size, 2.6)
        axes.plot(x, y, style, color=colour, lw=width, ms=seen, label=said)


def _shade(axes: Axes, selection: Selection, places: Mapping[str, float]) -> None:
    """A band behind the model that was kept."""
    kept = selection["kept"] if selection["fallback"] else f"{selection['step']:06d}"
    if kept in places:
        x, length = places[kept], _length(places)
        beside = min((abs(place - x) for place in places.values() if place != x), default=1.0)
        half = min(max(0.4 * beside, 0.01 * length), 0.035 * length)
        axes.axvspan(x - half, x + half, color=KEPT_COLOUR, lw=0, label="kept")


def _frame(
    axes: Axes, places: Mapping[str, float], candidates: Sequence[Candidate], highest: int
) -> None:
    """Ticks, limits and names of the axes."""
    from matplotlib.ticker import MaxNLocator

    steps = [one for one in candidates if one["name"] not in BEFORE]
    stride = math.ceil(len(steps) / TICKS)
    shown = [one for one in candidates if one["name"] in BEFORE] + steps[stride - 1 :: stride or 1]
    words = [one["name"] if one["name"] in BEFORE else str(one["step"]) for one in shown]
    axes.set_xticks([places[one["name"]] for one in shown], words)
    axes.set_ylim(
        1 - 0.2 * highest, 1.06 * highest
    )  # below the worst rank is room for what is unsafe
    ticks = MaxNLocator(7, integer=True).tick_values(1, highest)
    axes.set_yticks([tick for tick in ticks if 1 <= tick <= highest])
    axes.set_ylabel("rank, more is better")
    axes.set_xlabel("step")
    axes.grid(axis="y", color="#e3e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    if steps:
        border = (places[steps[0]["name"]] + max(places[name] for name in BEFORE)) / 2
        axes.axvline(border, color=SOFT, lw=0.8, ls=":")
