"""How much the default of ``uda adapt`` hangs on its settings, and on a class ratio that is right.

    uda pretrain cardiac_bssfp_lge_methods data.root=FOLDER --out RUN
    python benchmarks/sensitivity.py RUN/pretrain --card cmrseg_lge --root FOLDER --out checkpoints/sensitivity

Adapts a source model to the ``adapt`` images of a card as a user would, with one setting at a time away from the
default, and scores on its ``test`` images what the guard keeps and, beside it, the last checkpoint, whatever it is. The
guard ends a training after unsafe checkpoints, not because nothing gets better, so that the last one is late. Several
models (seeds) are averaged, with a point for each. Prints Markdown and draws ``sensitivity.png``; adaptations that are
complete are not done again.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import uda
from uda.api import evaluate_model
from uda.config.loading import load_card
from uda.data.cases import cases_of
from uda.priors import Prior

METHOD = "ratio_teacher"


@dataclass(frozen=True)
class Setting:
    """One adaptation: what differs from the default."""

    lr: float = 1e-4
    weight: float = 1.0
    """of the class ratio"""
    steps: int = 400
    factor: float = 1.0
    """of every structure's share in the prior"""

    @property
    def overrides(self) -> list[str]:
        """As ``--set`` takes them."""
        return [
            f"lr={self.lr}",
            f"steps={self.steps}",
            f"snapshot_every={max(1, self.steps // 8)}",
            f"objective.1.weight={self.weight}",
            "guard.patience=1000",
        ]

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"lr{self.lr:g}-weight{self.weight:g}-steps{self.steps}-prior{self.factor:g}"


@dataclass(frozen=True)
class Panel:
    """One setting's values; the default is among them."""

    title: str
    field: str
    values: tuple[float, ...]

    def setting(self, value: float) -> Setting:
        """The default but for this."""
        return dataclasses.replace(Setting(), **{self.field: value})


PANELS = (
    Panel("learning rate", "lr", (3e-5, 1e-4, 3e-4)),
    Panel("weight of the class ratio", "weight", (0.0, 1.0, 3.0)),
    Panel("steps", "steps", (100, 200, 400)),
    Panel("prior × its true value on the source", "factor", (0.5, 1.0, 2.0)),
)


def wrong(prior: Prior, factor: float) -> Prior:
    """A prior whose structures are all too small or too large; the background takes the rest."""
    structures = tuple(factor * share for share in prior.ratio[1:])
    ratio = (1 - sum(structures), *structures)
    return dataclasses.replace(
        prior, ratio=ratio, sizes=None, how=f"{prior.how}, structures × {factor:g}"
    ).validate(prior.classes)


def images_of(card: str, root: Path, folder: Path) -> Path:
    """A folder that holds the card's images to adapt to, and no others."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases_of(load_card(card), root, "adapt", labels=False):
        link = folder / case.image.name
        if not link.is_symlink():
            link.symlink_to(case.image.resolve())
    return folder


def score(model: Path, card: str, root: Path, out: Path) -> float:
    """Mean Dice on the test images, in points."""
    return 100 * float(evaluate_model(model, card, root, out)["rows"][0]["dice"]["mean"])


def scores(
    model: Path, setting: Setting, images: Path, given: argparse.Namespace, out: Path
) -> Any:
    """Dice of what the guard keeps and of the last checkpoint."""
    folder = out / setting.name
    prior = wrong(uda.estimate_prior(model), setting.factor)
    uda.adapt(model, images, folder, method=METHOD, overrides=setting.overrides, prior=prior)
    last = max((folder / "snapshots").glob("*/model.safetensors"))
    at = out / "scores" / setting.name
    kept = score(folder, given.card, given.root, at / "kept")
    print(f"{folder}: {kept:.1f}", flush=True)
    return kept, score(last.parent, given.card, given.root, at / "last")


def said(values: np.ndarray[Any, Any]) -> str:
    """The mean over models, and each of several."""
    each = " / ".join(f"{value:.1f}" for value in values)
    return f"{values.mean():.1f} ({each})" if len(values) > 1 else each


def draw(axes: Axes, panel: Panel, found: dict[Setting, np.ndarray[Any, Any]], before: Any) -> None:
    """One panel: mean over models, and a point for each."""
    places = range(len(panel.values))
    for column, (label, style) in enumerate(
        (("kept by the guard", "o-"), ("last checkpoint", "s--"))
    ):
        values = np.stack([found[panel.setting(value)][:, column] for value in panel.values], 1)
        axes.plot(places, values.mean(0), style, label=label, color=f"C{column}")
        axes.plot(places, values.T, style[0], markersize=3, alpha=0.5, color=f"C{column}")
    for name, value, color in zip(("adabn", "source_only"), before, ("0.35", "0.65"), strict=True):
        axes.axhline(value, color=color, linewidth=1, linestyle=":", label=name)
    axes.set_xticks(list(places), [f"{value:g}" for value in panel.values])
    axes.set_xlabel(panel.title)
    axes.grid(axis="y", alpha=0.3)


def main(argv: Sequence[str] | None = None) -> None:
    """Adapt, score, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--card", required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("checkpoints/sensitivity"))
    given = parser.parse_args(argv)
    images = images_of(given.card, given.root, given.out / "images")
    settings = list(dict.fromkeys(p.setting(value) for p in PANELS for value in p.values))
    settings.sort(key=lambda setting: setting.steps)  # the longest is the last to wait for
    found: dict[Setting, list[Any]] = {setting: [] for setting in settings}
    before = []
    for number, model in enumerate(given.models):
        out = given.out / f"model-{number}"
        uda.adapt(model, images, out / "adabn", method="adabn")
        names = {"adabn": out / "adabn", "source_only": model}
        before.append(
            [score(m, given.card, given.root, out / "scores" / n) for n, m in names.items()]
        )
        for setting in settings:
            found[setting].append(scores(model, setting, images, given, out))
    reference = np.mean(before, 0)
    arrays = {setting: np.array(rows) for setting, rows in found.items()}
    print(f"adabn {reference[0]:.1f}, source_only {reference[1]:.1f}, {len(before)} models\n")
    print("| setting | value | kept by the guard | last checkpoint |\n|---|---|---|---|")
    figure = Figure(figsize=(14, 3.6), layout="constrained")
    axes = figure.subplots(1, len(PANELS), sharey=True)
    for panel, one in zip(PANELS, axes, strict=True):
        draw(one, panel, arrays, reference)
        for value in panel.values:
            kept, last = (said(column) for column in arrays[panel.setting(value)].T)
            print(f"| {panel.title} | {value:g} | {kept} | {last} |")
    axes[0].set_ylabel("mean Dice, points")
    axes[-1].legend(fontsize=8)
    figure.savefig(given.out / "sensitivity.png", dpi=110)


if __name__ == "__main__":
    main()
