"""Augmentation of stored photographs by albumentations, in threads: the same seed gives the same image.

Each image has its own seed, so neither its batch nor the number of threads matters. All changes of an image draw
from one random stream. (albumentations' own ``set_random_seed`` starts equal streams in all of them, which would
correlate scale and crop position.)
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from uda.config.augment import PhotoAugment
from uda.data.image_files import opencv
from uda.data.images import ordered
from uda.errors import UdaError
from uda.types import IGNORE

if TYPE_CHECKING:
    from collections.abc import Iterator

Bytes = NDArray[np.uint8]
Color = tuple[int, int, int]

BLUR = (0.5, 1.5)
"""Smallest and largest standard deviation of the Gaussian, in pixels."""
NOISE = (0.01, 0.05)
"""Smallest and largest standard deviation of the noise, as a share of the largest value."""

_idle: defaultdict[tuple[PhotoAugment, Color, bool], list[Any]] = defaultdict(list)
"""Unused pipelines by their settings. A pipeline holds a random stream, so two threads may not share one."""


def changed(
    images: Bytes,
    labels: Bytes | None,
    settings: PhotoAugment,
    seeds: Sequence[int],
    fill: Color,
    workers: int = 0,
) -> tuple[Bytes, Bytes | None]:
    """Each image and its label under its own random change.

    Args:
        images: ``[b, 3, h, w]`` RGB.
        labels: ``[b, h, w]`` class indices, moved by nearest neighbour. None: only the geometric changes
            (``scale``, ``crop``, ``mirror``) apply.
        seeds: one for each image.
        fill: red, green and blue of padding in a crop; its label is ``IGNORE``.
        workers: number of threads, as in :func:`uda.data.images.ordered`.

    Returns:
        images and labels of the crop's size as new arrays; the given arrays where the settings change nothing.
    """
    if not settings.moves() and (labels is None or not _recolors(settings)):
        return images, labels
    size = settings.crop or images.shape[2:]
    out = np.empty((len(images), 3, *size), dtype=np.uint8)
    moved = None if labels is None else np.empty((len(images), *size), dtype=np.uint8)

    def change(item: tuple[int, int]) -> None:
        index, seed = item
        image, label = images[index], None if labels is None else labels[index]
        with _change(settings, fill, colors=labels is not None) as apply:
            new, new_label = apply(image, label, seed)
        opencv().split(new, list(out[index]))
        if moved is not None:
            moved[index] = new_label

    pairs = [(index, seed) for index, seed in zip(range(len(images)), seeds, strict=True)]
    for fault in ordered(change, pairs, min(workers, len(pairs)) if workers else 0):
        if isinstance(fault, UdaError):
            raise fault
    return out, moved


def _recolors(settings: PhotoAugment) -> bool:
    return bool(_jitter(settings) or settings.blur or settings.noise)


def _jitter(settings: PhotoAugment) -> dict[str, float]:
    """Bounds of the random colour factors; empty when all are 0."""
    names = ("brightness", "contrast", "saturation", "hue")
    bounds = {name: getattr(settings, name) for name in names}
    return bounds if any(bounds.values()) else {}


Change = Callable[[Bytes, Bytes | None, int], tuple[Bytes, Bytes | None]]


@contextmanager
def _change(settings: PhotoAugment, fill: Color, *, colors: bool) -> Iterator[Change]:
    """A change for this thread alone, inside the block."""
    waiting = _idle[settings, fill, colors]
    try:
        compose = waiting.pop()
    except IndexError:
        compose = _compose(settings, fill, colors=colors)

    def apply(image: Bytes, label: Bytes | None, seed: int) -> tuple[Bytes, Bytes | None]:
        compose.set_random_state(np.random.default_rng(seed), random.Random(seed))  # noqa: S311
        pixels = opencv().merge(list(image))
        if label is None:
            return compose(image=pixels)["image"], None
        both = compose(image=pixels, mask=np.ascontiguousarray(label))
        return both["image"], both["mask"]

    yield apply
    waiting.append(compose)


def _compose(settings: PhotoAugment, fill: Color, *, colors: bool) -> Any:
    """The pipeline of changes; those that reduce the number of pixels come first."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else the import looks for updates online
    import albumentations  # type: ignore[import-untyped]

    cv2 = opencv()
    changes: list[Any] = []
    if settings.scale != (1.0, 1.0):
        smallest, largest = settings.scale
        changes.append(
            albumentations.RandomScale(
                scale_limit=(smallest - 1, largest - 1),
                area_for_downscale="image",
                mask_interpolation=cv2.INTER_NEAREST_EXACT,  # INTER_NEAREST shifts by half a pixel
                p=1,
            )
        )
    if settings.crop is not None:
        changes.append(
            albumentations.RandomCrop(
                *settings.crop,
                pad_if_needed=True,
                pad_position="random",
                fill=fill,
                fill_mask=IGNORE,
            )
        )
    if settings.mirror:
        changes.append(albumentations.HorizontalFlip(p=0.5))
    if colors:
        changes += _recoloring(settings, albumentations)
    return albumentations.Compose(changes)


def _recoloring(settings: PhotoAugment, albumentations: Any) -> list[Any]:
    changes = []
    if bounds := _jitter(settings):
        changes.append(albumentations.ColorJitter(**bounds, p=1))
    if settings.blur:
        changes.append(albumentations.GaussianBlur(0, sigma_limit=BLUR, p=settings.blur))
    if settings.noise:
        changes.append(albumentations.GaussNoise(std_range=NOISE, p=settings.noise))
    return changes
