"""A picture of a spatial prior, to look at before it is used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from uda.checkpoint import atomic_path

COLUMNS = 5
PANEL = 2.6  # inches


def draw_maps(path: Path, classes: Sequence[str], maps: Tensor) -> None:
    """One panel a class, each with its name and its own colour bar from 0 to its largest frequency.

    Turned by a quarter as the report's slices are: of a slice in RAS, anterior is up.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(classes))
    rows = math.ceil(len(classes) / columns)
    figure = Figure(figsize=(PANEL * columns, PANEL * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for number, (name, values) in enumerate(zip(classes, maps, strict=True)):
        axes = figure.add_subplot(rows, columns, number + 1)
        top = max(float(values.max()), 1e-6)
        image = axes.imshow(np.rot90(values.numpy()), vmin=0, vmax=top, cmap="viridis")
        axes.set_title(name, fontsize=10, parse_math=False)
        axes.set_xticks([])
        axes.set_yticks([])
        figure.colorbar(image, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
