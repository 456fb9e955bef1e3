"""Superpixels (SLIC): segment an image, describe each superpixel by the network's scores, classify it.

As in the paper, a description holds the mean class scores of the superpixel and of its neighbours to the left,
right, above and below, and its position. Descriptions are z-scored within each domain, as in
:mod:`uda.priors.image_level`. So a confidence or a class bias that the network has in all target images does not
change the result. Nothing here is random.

Source: Zhang et al., Curriculum Domain Adaptation for Semantic Segmentation of Urban Scenes, ICCV 2017;
superpixels: Achanta et al., SLIC Superpixels Compared to State-of-the-Art Superpixel Methods, TPAMI 2012.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch.nn.functional import adaptive_avg_pool2d

from uda.errors import PriorError
from uda.priors.image_level import check_penalty, softmax_regression, z_scored
from uda.types import IGNORE

Floats = NDArray[np.float64]
Ids = NDArray[np.int16]
LIMIT = 20_000
"""the most superpixels of an image; their numbers are int16"""


def grid_of(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Rows and columns of the superpixel map of an image of this size."""
    return -(-size[0] // stride), -(-size[1] // stride)


def reduced(image: NDArray[Any], grid: tuple[int, int]) -> NDArray[np.float32]:
    """Image ``[c, h, w]`` reduced to ``[c, *grid]`` by average pooling."""
    wide = torch.from_numpy(np.array(image, dtype=np.float32))
    small: NDArray[np.float32] = adaptive_avg_pool2d(wide, grid).numpy()
    return small


def superpixels(image: NDArray[np.float32], segments: int) -> Ids:
    """About ``segments`` SLIC superpixels of an image ``[c, h, w]``.

    Args:
        image: three channels are red, green and blue from 0 to 255 (compared as Lab colours). One channel has
            any unit; its values are clipped to the 1st and 99th percentile.

    Returns:
        ``[h, w]`` int16, numbered from 0 without gaps.

    Raises:
        PriorError: more than :data:`LIMIT` segments, or an image that is not finite.
    """
    if segments > LIMIT:
        raise PriorError(f"{segments} superpixels per image", expected=f"{LIMIT} at most")
    if not np.isfinite(image).all():
        raise PriorError("an image is not finite", fix="check the images with `uda check`")
    from skimage.segmentation import slic

    # Black to white is 100 units of Lab and 1 unit of grey: both compactnesses mean the same.
    if len(image) == 3:
        settings: dict[str, Any] = {"channel_axis": -1, "compactness": 10.0, "convert2lab": True}
        scaled = np.moveaxis(image, 0, -1) / 255
    else:
        low, high = np.percentile(image[0], (1, 99))
        settings = {"channel_axis": None, "compactness": 0.1}
        scaled = (image[0].clip(low, high) - low) / max(high - low, 1e-6)
    found = slic(
        scaled.astype(np.float64), n_segments=segments, start_label=0, max_num_iter=10, **settings
    )
    _, numbers = np.unique(found, return_inverse=True)  # on small grids SLIC skips numbers
    ids: Ids = numbers.reshape(found.shape).astype(np.int16)
    return ids


def neighbours(ids: Ids) -> NDArray[np.int64]:
    """The superpixel left of, right of, above and below each one: the one with the longest common border.

    Returns:
        ``[s, 4]``; without a neighbour on a side, a superpixel is its own neighbour.

    Example:
        >>> neighbours(np.array([[0, 0, 1], [2, 2, 1]], dtype=np.int16))
        array([[0, 1, 0, 2],
               [0, 1, 1, 1],
               [2, 1, 0, 2]])
    """
    count = int(ids.max()) + 1
    columns = []
    for first, second in ((ids[:, :-1], ids[:, 1:]), (ids[:-1], ids[1:])):
        pairs = first.ravel().astype(np.int64) * count + second.ravel()
        borders = np.bincount(pairs, minlength=count**2).reshape(count, count)
        np.fill_diagonal(borders, 0)
        columns += [borders.T, borders]
    own = np.arange(count)
    return np.stack([np.where(b.any(1), b.argmax(1), own) for b in columns], axis=1)


def describe(ids: Ids, scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Descriptions of superpixels: mean scores, position of the centre, mean scores of the four neighbours.

    Args:
        ids: ``[h, w]`` superpixel of each pixel.
        scores: ``[k, h, w]`` class scores.

    Returns:
        ``[s, 5 k + 2]``; the position in shares of the image's height and width.
    """
    flat, (height, width) = ids.ravel(), ids.shape
    pixels = np.bincount(flat)
    rows, columns = np.divmod(np.arange(flat.size), width)
    places = ((rows + 0.5) / height, (columns + 0.5) / width)
    sums = [np.bincount(flat, values.ravel()) for values in (*scores, *places)]
    means = np.stack(sums, axis=1) / pixels[:, None]
    around = means[neighbours(ids), : len(scores)].reshape(len(means), -1)
    return np.concatenate([means, around], axis=1).astype(np.float32)


def majority(ids: Ids, label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The most frequent value of a label ``[h, w]`` in each superpixel of a coarser map; ``IGNORE`` counts too."""
    (height, width), (rows, columns) = label.shape, ids.shape
    fine = ids[np.arange(height) * rows // height][:, np.arange(width) * columns // width]
    count = int(ids.max()) + 1
    pairs = fine.ravel().astype(np.int64) * (IGNORE + 1) + label.ravel()
    table = np.bincount(pairs, minlength=count * (IGNORE + 1)).reshape(count, IGNORE + 1)
    return np.where(table.any(1), table.argmax(1), IGNORE).astype(np.uint8)


def classify(
    source: NDArray[np.float32],
    labels: NDArray[np.uint8],
    target: NDArray[np.float32],
    l2: float,
) -> tuple[NDArray[np.uint8], Floats]:
    """Class and confidence ``[m]`` of the target's superpixels by multinomial logistic regression.

    Args:
        source: ``[n, d]`` descriptions that the regression is fitted to.
        labels: ``[n]`` their classes; ``IGNORE`` leaves one out of the fit.
        target: ``[m, d]`` descriptions to classify.
        l2: weight decay.

    Raises:
        PriorError: no superpixel of the source has a label, or a description is not finite.
    """
    check_penalty(l2)
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise PriorError(
            "a network's prediction is not finite", fix="check the images and the model's weights"
        )
    labelled = labels != IGNORE
    if not labelled.any():
        raise PriorError(
            "no superpixel of the source is labelled", fix="check the card's label_values"
        )
    shown, wanted = np.unique(labels[labelled], return_inverse=True)
    inputs = z_scored(source.astype(np.float64))[labelled]
    weights, bias = softmax_regression(inputs, np.eye(len(shown))[wanted], l2)
    p = softmax(z_scored(target.astype(np.float64)) @ weights + bias, axis=1)
    return shown[p.argmax(1)].astype(np.uint8), p.max(1)


def surest(classes: NDArray[np.uint8], confidence: Floats, kept: float) -> NDArray[np.uint8]:
    """Classes ``[m]`` of the most confident share ``kept`` (at least one superpixel); ``IGNORE`` for the others.

    Example:
        >>> surest(np.array([0, 1, 2], dtype=np.uint8), np.array([0.5, 0.9, 0.7]), 2 / 3)
        array([255,   1,   2], dtype=uint8)
    """
    first = np.argsort(-confidence, kind="stable")[: max(1, round(kept * len(classes)))]
    landmarks = np.full_like(classes, IGNORE)
    landmarks[first] = classes[first]
    return landmarks


def rowed(classes: NDArray[np.uint8], counts: Sequence[int]) -> NDArray[np.uint8]:
    """Concatenated classes of all images as one row per image, padded with ``IGNORE``.

    Example:
        >>> rowed(np.array([0, 1, 2], dtype=np.uint8), [1, 2])
        array([[  0, 255],
               [  1,   2]], dtype=uint8)
    """
    table = np.full((len(counts), max(counts)), IGNORE, np.uint8)
    table[np.arange(max(counts)) < np.array(counts)[:, None]] = classes
    return table
