"""Draws the pictures of docs/generalising.md: every change of appearance and geometry on a heart and on a street.

    python docs/make_augmentations.py docs/augmentations

Heart and street are those of the built-in phantom and of the rendered streets; the same version gives the same files.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from uda.config.augment import Augment
from uda.config.loading import load_card
from uda.data.augment import augment
from uda.data.synthetic.phantom.dataset import write_phantom
from uda.data.synthetic.streets.render import render_street
from uda.data.volumes import prepare_image, prepare_label, read_volume
from uda.report.figures import STYLE

DRAWS = 6
HEART: dict[str, dict[str, Any]] = {
    "bezier": {"bezier": {"p": 1}},
    "bezier,\ninverted": {"bezier": {"p": 1, "inverted": 1}},
    "class_bezier": {"class_bezier": {"p": 1}},
    "location_scale": {"location_scale": {"p": 1}},
    "convolve": {"convolve": {"p": 1, "blend": False}},
    "convolve,\nblended": {"convolve": {"p": 1}},
    "bias": {"bias": {"p": 1}},
    "low_resolution": {"low_resolution": {"p": 1}},
    "elastic": {"elastic": {"p": 1, "displacement": 12}},
    "shear": {"shear": 15},
    "mask": {"mask": {}},
    "generalize:\nlight": {"generalize": "light"},
    "generalize:\nstrong": {"generalize": "strong"},
}
STREET: dict[str, dict[str, Any]] = {
    "bezier": {"bezier": {"p": 1}},
    "location_scale": {"location_scale": {"p": 1}},
    "convolve": {"convolve": {"p": 1, "mix_channels": True}},
    "bias": {"bias": {"p": 1, "strength": 0.6}},
    "low_resolution": {"low_resolution": {"p": 1}},
    "mask": {"mask": {}},
    "generalize:\nphoto_light": {"generalize": "photo_light"},
    "generalize:\nphoto_strong": {"generalize": "photo_strong"},
}


def heart() -> tuple[Tensor, Tensor]:
    """A slice through the middle of a phantom's heart ``[1, h, w]``, standardised, and its labels ``[h, w]``."""
    card = load_card("phantom_mr")
    prepare = card.prepare.model_copy(update={"spacing": 1.0, "size": (192, 192)})
    with tempfile.TemporaryDirectory() as folder:
        image, label = write_phantom(Path(folder), mr=[1001], ct=[])
        slices, geometry = prepare_image(read_volume(image), prepare, image)
        labels = prepare_label(read_volume(label), geometry, card, label)
    middle = int((labels > 0).sum((1, 2)).argmax())
    return torch.from_numpy(slices[middle])[None], torch.from_numpy(labels[middle]).long()


def street() -> tuple[Tensor, Tensor]:
    """A rendered street ``[3, h, w]``, standardised."""
    image, _ = render_street(3, "game", (144, 256))
    found = torch.from_numpy(image).float().movedim(2, 0) / 255
    return (found - found.mean()) / found.std(), torch.zeros(144, 256, dtype=torch.long)


def drawn(image: Tensor, label: Tensor, settings: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
    """The image and its random changes, in grey from 1st to 99th percentile: the image's for changes of level, else
    each one's own."""
    batch = image.expand(DRAWS, -1, -1, -1).contiguous()
    labels = label.expand(DRAWS, -1, -1).contiguous()
    changed, _ = augment(
        batch, labels, Augment.model_validate(settings), torch.Generator().manual_seed(0)
    )
    level = settings.keys() <= {"location_scale", "bias"}
    return [_shown(one, image if level else one) for one in (image, *changed)]


def _shown(image: Tensor, scale: Tensor) -> np.ndarray[Any, Any]:
    low, high = np.percentile(scale.numpy(), (1, 99))
    scaled = np.clip((image.numpy() - low) / max(high - low, 1e-6), 0, 1)
    return np.moveaxis(scaled, 0, -1).squeeze()


def picture(image: Tensor, label: Tensor, rows: dict[str, dict[str, Any]], path: Path) -> None:
    """A row a change: the image, then its draws."""
    height, width = image.shape[-2:]
    side = 1.15
    with rc_context(STYLE):
        size = (1.25 + side * width / height * (DRAWS + 1), side * len(rows) + 0.3)
        figure = Figure(figsize=size)
        grid = figure.subplots(
            len(rows),
            DRAWS + 1,
            gridspec_kw={
                "left": 1.25 / size[0],
                "right": 0.998,
                "top": 1 - 0.3 / size[1],
                "bottom": 0.002,
                "wspace": 0.02,
                "hspace": 0.02,
            },
        )
        for axes, (name, settings) in zip(grid, rows.items(), strict=True):
            for place, shown in zip(axes, drawn(image, label, settings), strict=True):
                place.imshow(shown, cmap="gray", vmin=0, vmax=1, aspect="auto")
                place.set_xticks([])
                place.set_yticks([])
                place.spines[:].set_visible(False)
            axes[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        grid[0][0].set_title("image", fontsize=9)
        grid[0][1].set_title("six random draws", fontsize=9)
        figure.savefig(path, dpi=100, pil_kwargs={"quality": 88})


def main(out: Path) -> None:
    """Draw both pictures."""
    out.mkdir(parents=True, exist_ok=True)
    picture(*heart(), HEART, out / "heart.jpg")
    picture(*street(), STREET, out / "street.jpg")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
