"""Synthetic streets: a game and a camera on a car, in the folders of GTA5, Cityscapes and SYNTHIA.

They exist so that everything can be tried without a download: :func:`write_streets` writes folders
that the cards, the readers and the protocol of the real data take as they are. All 19 classes are
there, at shares like those of real streets, with some void.

No two images show the same street. A file depends on (seed, style, its number, its size) and on
nothing else, to the byte: not on how many are written.
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from uda.data.synthetic.streets.labels import LABEL_COLORS, LABEL_ID, SYNTHIA_IDS
from uda.data.synthetic.streets.render import render_street
from uda.errors import DataError
from uda.files.atomic import atomic_path

__all__ = ["render_street", "write_streets", "write_synthia"]

_CITIES = {
    "train": ("aachen", "bochum", "bremen", "cologne", "hamburg"),
    "val": ("frankfurt", "lindau", "munster"),
}
_FIRST = {"train": 1, "val": 100_001}
"""Number of the first street of a split; no street is in both."""
_SYNTHIA_FIRST = 200_001


def write_streets(
    folder: Path,
    *,
    game: int,
    camera_train: int,
    camera_val: int,
    size: tuple[int, int] = (144, 256),
    camera_size: tuple[int, int] = (128, 256),
    seed: int = 0,
    labels: bool = True,
) -> None:
    """Write ``folder/gta5`` and ``folder/cityscapes`` as the downloads unpack.

    Args:
        folder: made when it is missing; files of the same names are replaced.
        game, camera_train, camera_val: number of images.
        size, camera_size: (rows, columns) of the game's and the camera's images.
        seed: another seed is another town.
        labels: whether to write ``gta5/labels`` and ``cityscapes/gtFine``.

    Raises:
        DataError: a negative number, or a size below 32x64.
    """
    _refuse_negative(game=game, camera_train=camera_train, camera_val=camera_val, seed=seed)
    for number in range(1, game + 1):
        image, ids = render_street(number, "game", size, seed)
        name = f"{number:05d}.png"
        _save(Path(folder) / "gta5" / "images" / name, Image.fromarray(image))
        if labels:
            label = Image.fromarray(ids)
            label.putpalette([channel for color in LABEL_COLORS for channel in color])
            _save(Path(folder) / "gta5" / "labels" / name, label)
    for split, count in (("train", camera_train), ("val", camera_val)):
        for k in range(count):
            image, ids = render_street(_FIRST[split] + k, "camera", camera_size, seed)
            _save_cityscapes(Path(folder) / "cityscapes", split, k, image, ids if labels else None)


def write_synthia(
    folder: Path, count: int, size: tuple[int, int] = (152, 256), seed: int = 0
) -> None:
    """Write ``folder/synthia`` as SYNTHIA-RAND-CITYSCAPES unpacks: game-like images.

    A label file is a 16-bit PNG of three channels: SYNTHIA's class id, an instance id, zero.

    Raises:
        DataError: a negative number, or a size below 32x64.
    """
    _refuse_negative(count=count, seed=seed)
    table = np.zeros(256, np.uint16)
    table[list(SYNTHIA_IDS)] = list(SYNTHIA_IDS.values())
    for k in range(count):
        image, ids = render_street(_SYNTHIA_FIRST + k, "game", size, seed)
        name = f"{k:07d}.png"
        _save(Path(folder) / "synthia" / "RGB" / name, Image.fromarray(image))
        label = np.zeros((*ids.shape, 3), np.uint16)
        label[..., 0] = table[ids]
        label[..., 1] = _instances(ids)
        _, encoded = cv2.imencode(".png", label[..., ::-1])  # Pillow writes no 16-bit colours
        with atomic_path(Path(folder) / "synthia" / "GT" / "LABELS" / name) as partial:
            partial.write_bytes(encoded.tobytes())


def _save_cityscapes(
    folder: Path, split: str, k: int, image: NDArray[np.uint8], ids: NDArray[np.uint8] | None
) -> None:
    """Image ``k`` of a split: cities take turns, each counts its own sequences."""
    cities = _CITIES[split]
    city = cities[k % len(cities)]
    stem = f"{city}_{k // len(cities):06d}_000019"
    _save(folder / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", Image.fromarray(image))
    if ids is None:
        return
    labels = folder / "gtFine" / split / city
    _save(labels / f"{stem}_gtFine_labelIds.png", Image.fromarray(ids))
    colors = np.array([(*color, 255) for color in LABEL_COLORS], np.uint8)
    _save(labels / f"{stem}_gtFine_color.png", Image.fromarray(colors[ids]))


def _instances(ids: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Numbers from 1 for the connected pieces of people and vehicles, 0 elsewhere."""
    numbers = np.zeros(ids.shape, np.uint16)
    found = 0
    for label in np.unique(ids[ids >= LABEL_ID["person"]]).tolist():
        count, pieces = cv2.connectedComponents((ids == label).astype(np.uint8))
        numbers = np.where(pieces > 0, pieces + found, numbers).astype(np.uint16)
        found += count - 1
    return numbers


def _save(path: Path, image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    with atomic_path(path) as partial:
        partial.write_bytes(buffer.getvalue())


def _refuse_negative(**numbers: int) -> None:
    wrong = {name: number for name, number in numbers.items() if number < 0}
    if wrong:
        raise DataError(
            "streets cannot be counted below 0: "
            + ", ".join(f"{name} is {number}" for name, number in wrong.items()),
            expected="numbers that are not negative",
            fix="give 0 to leave a folder out",
        )
