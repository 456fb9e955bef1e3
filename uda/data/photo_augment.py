"""Random changes of stored photographs by albumentations, in threads: the same seed gives the same image.

Neither the batch around an image nor the number of threads matters: each image has a seed of its own. All changes
of an image draw from one stream. (albumentations' own ``set_random_seed`` starts a like stream in each of them,
so that the scale would tell where the crop lies.)
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
"""Least and largest Gaussian sd, in pixels."""
NOISE = (0.01, 0.05)
"""Least and largest sd of the noise, of the largest value."""

_idle: defaultdict[tuple[PhotoAugment, Color, bool], list[Any]] = defaultdict(list)
"""Changes by their settings that no thread is using. One holds its random stream, so no two threads may share it."""


def changed(
    images: Bytes,
    labels: Bytes | None,
    settings: PhotoAugment,
    seeds: Sequence[int],
    fill: Color,
    workers: int = 0,
) -> tuple[Bytes, Bytes | None]:
    """Each image under its own random change, its label along with it.

    Args:
        images: ``[b, 3, h, w]`` RGB.
        labels: ``[b, h, w]`` class indices, moved by the nearest pixel. None: an image only meets what
            moves pixels (``scale``, ``crop``, ``mirror``).
        seeds: one an image.
        fill: red, green and blue of what a crop holds outside the image; its label is ``IGNORE``.
        workers: threads, as in :func:`uda.data.images.ordered`.

    Returns:
        images and labels of the crop's size, new arrays; those given where nothing is to be changed.
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
    """Half-widths of the random factors, those that are there."""
    names = ("brightness", "contrast", "saturation", "hue")
    bounds = {name: getattr(settings, name) for name in names}
    return bounds if any(bounds.values()) else {}


Change = Callable[[Bytes, Bytes | None, int], tuple[Bytes, Bytes | None]]


@contextmanager
def _change(settings: PhotoAugment, fill: Color, *, colors: bool) -> Iterator[Change]:
    """A change for this thread alone, for as long as it is used."""
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
    """The changes in their order: first what leaves fewer pixels to the others."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else the import asks the network for news
    import albumentations  # type: ignore[import-untyped]

    cv2 = opencv()
    changes: list[Any] = []
    if settings.scale != (1.0, 1.0):
        smallest, largest = settings.scale
        changes.append(
            albumentations.RandomScale(
                scale_limit=(smallest - 1, largest - 1),
                area_for_downscale="image",
                mask_interpolation=cv2.INTER_NEAREST_EXACT,  # INTER_NEAREST moves by half a pixel
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
