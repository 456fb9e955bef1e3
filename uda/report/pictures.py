"""Figures of photographs for the report, as ``data:`` URIs: label maps in the card's colours, entropy, bars a class.

Label maps and entropy are written pixel by pixel with a palette: exact, and a tenth of the size of full colour.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from uda.config.colors import class_colors
from uda.report.figures import ROLE_COLOURS, data_uri, encoded, figure_of, shorten, svg
from uda.report.wording import Role
from uda.types import IGNORE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Bytes = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

BLACK: Colour = (0, 0, 0)
QUALITY = 88  # of JPEG: photographs of 640 pixels in 100 kB
SHADES = 64  # of entropy: as many as an eye tells apart, and half the size of 256
MAP_COLUMNS = 5
LEAST_SHARE = 1e-3  # lower end of the scale of maps, whose classes differ a thousandfold
MAP_COLOURS, ENTROPY_COLOURS = "viridis", "magma"


def class_colours(
    classes: Sequence[str], named: Mapping[str, Sequence[int]] | None
) -> tuple[list[Colour], Colour]:
    """A colour a class, the official one where it is ``named``, and that of ignored pixels (else black)."""
    named = named or {}
    colours = [_colour(color) for color in class_colors(classes, named)]
    return colours, _colour(named.get("ignore", BLACK))


def photograph(image: Bytes) -> str:
    """An RGB image ``[h, w, 3]``."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="JPEG", quality=QUALITY)
    return data_uri("image/jpeg", stream.getvalue())


def label_map(labels: Bytes, colours: Sequence[Colour], ignored: Colour) -> str:
    """Class indices ``[h, w]`` in solid colours; ``IGNORE`` and any value without a class are ``ignored``."""
    palette = [*colours, *[ignored] * (IGNORE + 1 - len(colours))]
    return _with_palette(labels, palette)


def entropy_map(entropy: Bytes) -> str:
    """Entropy ``[h, w]`` from dark (0: certain) to light (255: all classes alike)."""
    step = 256 // SHADES
    return _with_palette(entropy // step, entropy_colours())


def entropy_colours(count: int = SHADES) -> list[Colour]:
    """The scale of ``entropy_map`` from certain to uncertain."""
    from matplotlib import colormaps

    shades = colormaps[ENTROPY_COLOURS](np.linspace(0, 1, count))[:, :3]
    return [_colour(shade) for shade in (shades * 255).round().astype(int).tolist()]


def class_bars(
    classes: Sequence[str], scores: Mapping[str, Sequence[float | None]], roles: Mapping[str, Role]
) -> str:
    """IoU of each class in points, side by side for a few rows.

    Args:
        scores: by row name, the first at the left; fractions, one a class. A class without a score has no bar.
        roles: of the same rows.
    """
    with figure_of(0.55 * max(len(classes), 12) + 1.2, 3.4) as figure:
        axes = figure.add_subplot()
        width = 0.82 / max(len(scores), 1)
        for number, (name, values) in enumerate(scores.items()):
            x = np.arange(len(classes)) + (number - (len(scores) - 1) / 2) * width
            heights = [math.nan if value is None else 100 * value for value in values]
            colour = "#c3c9cf" if name == "source_only" else ROLE_COLOURS[roles[name]]
            axes.bar(x, heights, width * 0.92, color=colour, label=shorten(name))
        names = [shorten(name, 16) for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=40, ha="right", rotation_mode="anchor")
        axes.tick_params(axis="x", length=0)
        axes.set(xlim=(-0.6, len(classes) - 0.4), ylim=(0, 100), ylabel="IoU, points")
        axes.grid(axis="y", color="#e3e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper left", ncols=3, frameon=False)
        return svg(figure)


def map_grid(classes: Sequence[str], maps: npt.NDArray[np.float32], turned: bool) -> str:
    """How often each class is at a pixel: a panel a class, one logarithmic scale for all.

    Args:
        maps: ``[k, h, w]``, shares that sum to 1 over the classes.
        turned: by a quarter, as slices of volumes are shown.
    """
    from matplotlib.colors import LogNorm

    shown = [np.rot90(one) if turned else one for one in maps]
    tall = shown[0].shape[0] / shown[0].shape[1]
    columns = min(MAP_COLUMNS, len(classes))
    rows = math.ceil(len(classes) / columns)
    height = rows * (2.1 * min(tall, 1.6) + 0.3) + 0.7
    with figure_of(2.1 * columns + 0.2, height) as figure:
        drawn: list[Axes] = []
        norm = LogNorm(LEAST_SHARE, 1)
        for number, (name, values) in enumerate(zip(classes, shown, strict=True)):
            axes = figure.add_subplot(rows, columns, number + 1)
            held = np.maximum(values, LEAST_SHARE)
            picture = axes.imshow(held, norm=norm, cmap=MAP_COLOURS, aspect="auto")
            axes.set_title(shorten(name), fontsize=9.5, weight="normal")
            axes.set(xticks=[], yticks=[])
            drawn.append(axes)
        bar = figure.colorbar(picture, ax=drawn, location="bottom", aspect=60, shrink=0.6)
        ticks = [LEAST_SHARE, 0.01, 0.1, 1]
        bar.set_ticks(ticks, labels=[f"{100 * tick:g} %" for tick in ticks])
        bar.minorticks_off()
        bar.outline.set_visible(False)
        return encoded(figure, "png", "image/png", dpi=110, metadata={"Software": None})


def _with_palette(indices: Bytes, colours: Sequence[Colour]) -> str:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(indices))
    image.putpalette([value for colour in colours for value in colour])
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return data_uri("image/png", stream.getvalue())


def _colour(values: Sequence[int]) -> Colour:
    red, green, blue = values
    return int(red), int(green), int(blue)
