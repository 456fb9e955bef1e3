"""The README's picture from a finished run: image, before, after, reference of its median case.

python benchmarks/readme_figure.py checkpoints/cardiac_phantom docs/overlay.png
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.image import imread

from uda.report import figures as report_figures
from uda.report.files import case_means, read_metrics, read_overlays


def main(run: Path, out: Path) -> None:
    structures, dice = read_metrics(run)["classes"], case_means(run)
    entry, arrays, *_ = next(o for o in read_overlays(run) if o.entry["rank"] == "median")
    panes = {
        "image": "image",
        "source_only": "before",
        entry["row"]: "after",
        "reference": "reference",
    }
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, 4), panes.items(), strict=True):
        labels = None if name == "image" else arrays[name]
        uri = report_figures.overlay(arrays["image"], labels, len(structures), entry["aspect"])
        axes.imshow(imread(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
        score = dice.get((name, entry["case"]))
        method = f" ({name}, Dice {score:.2f})" if score is not None else ""
        axes.set_title(title + method, fontsize=10)
        axes.set_axis_off()
    handles = [legend_handle(report_figures.structure_style(i)) for i in range(len(structures))]
    figure.legend(
        handles, structures, loc="outside lower center", ncols=len(structures), frameon=False
    )
    figure.savefig(out, dpi=110)


def legend_handle(style: tuple[str, str]):
    """A legend handle that is drawn nowhere else."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=style[0], linestyle=style[1])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
