"""Draw the pictures of a prior: class maps, landmarks and seeds, to check them before use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from uda.files.atomic import atomic_path
from uda.types import IGNORE

COLUMNS = 5
MAPS = 4
"""class activation maps of an image in the picture of the seeds"""
PANEL = 2.6  # inches
YELLOW = np.array([255, 255, 0])
Bytes = NDArray[np.uint8]


def draw_maps(path: Path, classes: Sequence[str], maps: Tensor, upright: bool = False) -> None:
    """Draw one panel per class, with a colour bar from 0 to its largest frequency.

    Unless ``upright``, maps are rotated by 90° like the report's slices (anterior is up in a slice in RAS).
    """
    columns = min(COLUMNS, len(classes))
    rows = math.ceil(len(classes) / columns)
    figure = _figure(PANEL * columns, PANEL * rows)
    for number, (name, values) in enumerate(zip(classes, maps, strict=True)):
        axes = figure.add_subplot(rows, columns, number + 1)
        top = max(float(values.max()), 1e-6)
        shown = values.numpy() if upright else np.rot90(values.numpy())
        image = axes.imshow(shown, vmin=0, vmax=top, cmap="viridis")
        axes.set_title(name, fontsize=10, parse_math=False)
        axes.set_xticks([])
        axes.set_yticks([])
        figure.colorbar(image, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)
    _save(figure, path)


def draw_landmarks(
    path: Path,
    counts: Mapping[str, int],
    titles: Sequence[str],
    images: Tensor,
    segments: Tensor,
    classes: Tensor,
) -> None:
    """Draw one row per image: its superpixels, and the landmarks in the colours of their classes.

    Slices are rotated as in :func:`draw_maps`; photographs are upright.

    Args:
        counts: landmarks of each class in the whole data set.
        titles: one for each image.
        images: ``[m, c, h, w]`` uint8; three channels are red, green and blue.
        segments, classes: ``[m, h', w']`` and ``[m, s]`` of these images.
    """
    palette = _palette(len(counts))
    panels = [
        _panels(image.numpy(), ids.numpy(), labels.numpy(), palette)
        for image, ids, labels in zip(images, segments, classes, strict=True)
    ]
    height, width = panels[0][0].shape[:2]
    legend = 0.2 * math.ceil(len(counts) / 4) + 0.2
    figure = _figure(4 * PANEL, len(panels) * (2 * PANEL * height / width + 0.3) + legend)
    for row, (title, pair) in enumerate(zip(titles, panels, strict=True)):
        for column, panel in enumerate(pair):
            axes = figure.add_subplot(len(panels), 2, 2 * row + column + 1)
            axes.imshow(panel, interpolation="nearest")
            axes.set_axis_off()
            if not column:
                axes.set_title(title, fontsize=8, parse_math=False)
    _legend(figure, counts, palette)
    _save(figure, path)


def draw_seeds(
    path: Path,
    shares: Mapping[str, float],
    titles: Sequence[str],
    images: Tensor,
    maps: Tensor,
    mapped: Sequence[int],
    labels: Tensor,
) -> None:
    """Draw one row per image: the image, its class activation maps, and its seeds in the colours of their classes.

    Of more than :data:`MAPS` maps it shows those of the structures with the most seeds in these images. Slices are
    rotated as in :func:`draw_maps`; photographs are upright.

    Args:
        shares: share of all pixels that are seeds of each class.
        titles: one for each image.
        images: ``[m, c, h, w]`` uint8; three channels are red, green and blue.
        maps: ``[m, s, h', w']`` uint8, 255 at the largest activation of a structure in an image.
        mapped: class number of each map.
        labels: ``[m, h', w']`` uint8, ``IGNORE`` where there is no seed.
    """
    names, palette = list(shares), _palette(len(shares))
    counts = [int((labels == number).sum()) for number in mapped]
    first = sorted(sorted(range(len(mapped)), key=lambda s: -counts[s])[:MAPS])
    height, width = images.shape[2:] if images.shape[1] == 3 else images.shape[:1:-1]
    columns, rows = len(first) + 2, len(images)
    legend = 0.2 * math.ceil(len(shares) / 4) + 0.2
    figure = _figure(PANEL * columns, rows * (PANEL * height / width + 0.3) + legend)
    for row, (title, image) in enumerate(zip(titles, images, strict=True)):
        shown = np.moveaxis(np.broadcast_to(image.numpy(), (3, *image.shape[1:])), 0, -1)
        seeds = _enlarged(labels[row].numpy(), image.shape)[..., None]
        colour = palette[np.where(seeds == IGNORE, 0, seeds)[..., 0]]
        over = np.where(seeds == IGNORE, 0.5 * shown, 0.35 * shown + 0.65 * colour)
        panels = [shown, *maps[row, first].numpy(), over.astype(np.uint8)]
        heads = [title, *(names[mapped[s]] for s in first), "seeds"]
        for column, (panel, head) in enumerate(zip(panels, heads, strict=True)):
            axes = figure.add_subplot(rows, columns, row * columns + column + 1)
            turned = panel if image.shape[0] == 3 else np.rot90(panel)
            axes.imshow(turned, vmin=0, vmax=255, cmap="viridis", interpolation="nearest")
            axes.set_axis_off()
            axes.set_title(head, fontsize=8, parse_math=False)
    _legend(figure, {name: f"{100 * share:.1f} %" for name, share in shares.items()}, palette)
    _save(figure, path)


def _enlarged(coarse: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """A map ``[h', w']`` at the size of an image ``[c, h, w]``, by the nearest pixel."""
    (height, width), (rows, columns) = shape[1:], coarse.shape
    fine: NDArray[Any] = coarse[np.arange(height) * rows // height][
        :, np.arange(width) * columns // width
    ]
    return fine


def _legend(figure: Any, counts: Mapping[str, Any], palette: Bytes) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=colour / 255, label=f"{name} ({count})")
        for (name, count), colour in zip(counts.items(), palette, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=7)


def _panels(
    image: Bytes, ids: NDArray[np.int16], classes: Bytes, palette: Bytes
) -> tuple[Bytes, Bytes]:
    """The image with the borders of its superpixels, and the image under the colours of its landmarks."""
    (height, width), fine = image.shape[1:], _enlarged(ids, image.shape)
    border = np.zeros((height, width, 1), dtype=bool)
    border[:, 1:, 0] |= fine[:, 1:] != fine[:, :-1]
    border[1:, :, 0] |= fine[1:] != fine[:-1]
    shown = np.moveaxis(np.broadcast_to(image, (3, height, width)), 0, -1)
    labels = classes[fine][..., None]
    colour = palette[np.where(labels == IGNORE, 0, labels)[..., 0]]
    over = np.where(labels == IGNORE, 0.5 * shown, 0.35 * shown + 0.65 * colour)
    bordered = np.where(border, YELLOW, shown).astype(np.uint8)
    coloured = np.where(border, 0, over).astype(np.uint8)
    if len(image) == 1:
        return np.rot90(bordered), np.rot90(coloured)
    return bordered, coloured


def _palette(count: int) -> Bytes:
    """``count`` distinct colours ``[k, 3]``."""
    from matplotlib import colormaps

    if count <= 20:
        table = np.array(colormaps["tab20"].colors)[[*range(0, 20, 2), *range(1, 20, 2)]]  # type: ignore[attr-defined]
    else:
        table = colormaps["hsv"](np.arange(count) / count)[:, :3]
    colours: Bytes = np.rint(255 * table[:count]).astype(np.uint8)
    return colours


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
