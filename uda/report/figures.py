"""Figures of the report as ``data:`` URIs: box plots, training curves, overlays.

matplotlib's object interface alone, so no window, no global figure and no display is touched.
Colours are those of Okabe and Ito (2008), told apart by readers with any colour vision; line styles
carry on where the colours end.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from uda.errors import visible
from uda.report.schema import Scored
from uda.report.wording import Role

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

ROLE_COLOURS: dict[Role, str] = {
    "baseline": "#8a939c",
    "adapted": "#0072b2",
    "oracle": "#e69f00",
    "supervised": "#009e73",
}
STRUCTURE_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2")
LINES = ("solid", "dashed", "dotted")
TERM_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
INK, SOFT, MISS = "#1b1f24", "#57606a", "#a8200d"
LONGEST = 24  # characters of a row name that fit beside a panel
RASTER_ABOVE = 200  # cases of a row beyond which a bitmap is smaller than their outlines
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "text.parse_math": False,  # a name may hold dollars
    "svg.hashsalt": "uda",  # the same run gives the same bytes
}


def structure_style(index: int) -> tuple[str, str]:
    """Colour and line style of structure ``index`` (0 = first after the background)."""
    turn, place = divmod(index, len(STRUCTURE_COLOURS))
    return STRUCTURE_COLOURS[place], LINES[turn % len(LINES)]


def outlines(names: Iterable[str]) -> list[tuple[str, str, str]]:
    """Structures after the background, each with its colour and line style."""
    return [(name, *structure_style(index)) for index, name in enumerate(names)]


def box_plot(
    title: str,
    scores: Mapping[str, Sequence[Scored]],
    roles: Mapping[str, Role],
    measure: str,
    label: str,
) -> str:
    """One structure: a box per row from top to bottom, the cases as points over it.

    Overlap is drawn in points. A cross at 0 is a missed or spurious case. HD95 of missed cases is
    the image diagonal, which would flatten the rest: it is written as a count. The box spans the
    quartiles, the whiskers 1.5 times their distance.

    Args:
        scores: by row name, top row first; of one structure.
        roles: of the same rows.
        measure: of the scores: ``dice``, ``iou`` or ``hd95``.
        label: of the axis, with its unit.
    """
    distances = measure == "hd95"
    with figure_of(4.8, 1.0 + 0.31 * max(len(scores), 2)) as figure:
        axes = figure.add_subplot()
        for line, (name, of_row) in enumerate(scores.items()):
            _box(axes, line, of_row, ROLE_COLOURS[roles[name]], measure)
        axes.set_yticks(range(len(scores)), [shorten(name) for name in scores])
        axes.set_ylim(len(scores) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#e3e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel(label)
        if distances:
            # Room at the right for the counts of missed cases.
            lost = any(s.state == "missed" for of_row in scores.values() for s in of_row)
            axes.set_xlim(0, axes.get_xlim()[1] * (1.45 if lost else 1))
        else:
            axes.set_xlim(-3, 103)
        figure.suptitle(shorten(title, 44), x=0.01, ha="left", weight="bold", size=11)
        return svg(figure)


def curve(title: str, columns: Mapping[str, Floats]) -> str:
    """Loss of one training stage over its steps, the terms thin beside it.

    Long runs are drawn as means of equal stretches of steps; the band round the loss spans the
    least and the greatest value of each stretch.

    Args:
        columns: ``step``, ``loss`` and any terms, all of one length.
    """
    names = [name for name in columns if name not in ("step", "loss", "lr")]
    terms = names if len(names) > 1 else []
    with figure_of(4.8, 2.7 + 0.2 * math.ceil((len(terms) + 1) / 3)) as figure:
        axes = figure.add_subplot()
        step, loss = _means(columns["step"]), _stretches(columns["loss"])
        for i, name in enumerate(terms):
            mean = _means(columns[name])
            colour = TERM_COLOURS[i % len(TERM_COLOURS)]
            line = LINES[i // len(TERM_COLOURS) % len(LINES)]
            axes.plot(step, mean, color=colour, linestyle=line, linewidth=1, label=shorten(name))
        least, most = ([float(end(stretch)) for stretch in loss] for end in (np.min, np.max))
        axes.fill_between(step, least, most, color=INK, alpha=0.12, lw=0)
        alone = "o" if len(step) == 1 else None  # a line of one point is invisible
        mean = _means(columns["loss"])
        axes.plot(step, mean, color=INK, linewidth=1.8, marker=alone, label="loss")
        axes.set_xlabel("step")
        axes.grid(color="#e3e7eb", linewidth=0.8)
        figure.suptitle(shorten(title, 44), x=0.01, ha="left", weight="bold", size=11)
        if terms:
            figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=9)
        return svg(figure)


def overlay(
    image: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8] | None,
    n_structures: int,
    aspect: float,
) -> str:
    """A slice with its structures as outlines over a light tint; the bare slice without ``labels``.

    Args:
        image: (h, w) grey or (h, w, 3) colour, row 0 at the top.
        labels: (h, w); label k is structure k - 1. Other values are not drawn.
        aspect: height of a pixel over its width.
    """
    from matplotlib.patheffects import withStroke

    height, width = image.shape[:2]
    tall = height * aspect / width
    with figure_of(3.2 / max(1.0, tall), 3.2 * min(1.0, tall), layout="none") as figure:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, aspect="auto")
        for k in range(n_structures if labels is not None else 0):
            mask = labels == k + 1
            if not np.any(mask):
                continue
            colour, line = structure_style(k)
            tint = np.zeros((height, width, 4))
            tint[mask] = _rgba(colour, 0.28)
            axes.imshow(tint, aspect="auto", interpolation="nearest")
            # A frame of background closes outlines at the border of the image.
            framed, y, x = np.pad(mask, 1), np.arange(-1, height + 1), np.arange(-1, width + 1)
            drawn = axes.contour(x, y, framed, [0.5], colors=[colour], linestyles=line)
            drawn.set(linewidth=1.6, path_effects=[withStroke(linewidth=2.8, foreground="#000a")])
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        return encoded(figure, "png", "image/png", dpi=160)


def _box(axes: Axes, line: int, scores: Sequence[Scored], colour: str, measure: str) -> None:
    """The box and the points of one row at height ``line``."""
    distances = measure == "hd95"
    counted = [s for s in scores if s.state == "ok" or (s.state != "n/a" and not distances)]
    missed = sum(s.state == "missed" for s in scores) if distances else 0
    values = np.array([s.values[measure] * (1 if distances else 100) for s in counted])
    if counted:
        _quartiles(axes, line, values, colour)
    elif not missed:
        axes.text(0.02, line, "no case counts", va="center", color=SOFT, transform=_across(axes))
    # Heights spread by the golden ratio: neighbours in the list never land on each other.
    height = line + 0.4 * ((np.arange(len(values)) * 0.618034) % 1 - 0.5)
    ok = np.array([s.state == "ok" for s in counted], bool)
    for chosen, marker, shade in ((ok, "o", colour), (~ok, "x", MISS)):
        drawn = axes.plot(values[chosen], height[chosen], marker, color=shade, ms=3.6, alpha=0.75)
        drawn[0].set_rasterized(len(values) > RASTER_ABOVE)
    if missed:
        note = f"{missed} missed"
        axes.text(0.99, line, note, va="center", ha="right", color=MISS, transform=_across(axes))


def _quartiles(axes: Axes, line: int, values: Floats, colour: str) -> None:
    axes.boxplot(
        values,
        positions=[line],
        orientation="horizontal",
        widths=0.58,
        showfliers=False,  # every case is drawn as a point
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": f"{colour}40", "edgecolor": colour},
        whiskerprops={"color": colour},
        capprops={"color": colour},
        medianprops={"color": INK, "linewidth": 1.6},
    )


def _across(axes: Axes) -> Any:
    """Coordinates that are fractions in x and data in y."""
    return axes.get_yaxis_transform()


def _stretches(values: Floats) -> list[Floats]:
    """The values in at most 150 stretches of nearly equal length; each alone up to 40 of them."""
    count = len(values) if len(values) <= 40 else min(150, math.ceil(len(values) / 2))
    return np.array_split(values, count)


def _means(values: Floats) -> Floats:
    return np.array([stretch.mean() for stretch in _stretches(values)])


def shorten(name: str, longest: int = LONGEST) -> str:
    """Both ends of a name that is too long; variants tend to differ at the end."""
    name = visible(name)
    if len(name) <= longest:
        return name
    return f"{name[: longest // 2 - 1]}…{name[-(longest - longest // 2) :]}"


def _rgba(colour: str, alpha: float) -> tuple[float, float, float, float]:
    from matplotlib.colors import to_rgba

    return to_rgba(colour, alpha)


@contextmanager
def figure_of(width: float, height: float, layout: str = "constrained") -> Iterator[Figure]:
    """A figure of ``width`` by ``height`` inches in our style, whatever the user's settings."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield Figure(figsize=(width, height), layout=layout)  # type: ignore[arg-type]


def svg(figure: Figure) -> str:
    """The figure as a ``data:`` URI, the same bytes each time."""
    return encoded(figure, "svg", "image/svg+xml", dpi=160, metadata={"Date": None})


def encoded(figure: Figure, form: str, mime: str, **options: Any) -> str:
    """The figure as a ``data:`` URI of another format."""
    stream = io.BytesIO()
    figure.savefig(stream, format=form, **options)
    return data_uri(mime, stream.getvalue())


def data_uri(mime: str, content: bytes) -> str:
    """A file that lies in the page."""
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"
