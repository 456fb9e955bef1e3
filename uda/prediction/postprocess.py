"""Post-processing: smooth probabilities across slices; remove and fill parts of a label map.

Settings and what each step may harm: :class:`uda.config.postprocess.Postprocess`.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from uda.config.postprocess import Postprocess, Structures
from uda.prediction.views import log_p

Labels = NDArray[np.uint8]


def smoothed(planes: Iterable[Tensor], sd: float) -> Iterator[Tensor]:
    """Logarithms of the probabilities, averaged across slices with the weights of a Gaussian.

    The Gaussian ends at four standard deviations, and beyond the first and the last slice these two repeat, as in
    ``scipy.ndimage.gaussian_filter1d(…, mode="nearest")``. Memory holds the slices that one result needs.

    Args:
        planes: logits ``[n, k, h, w]`` of the slices of one volume in their order, any number at a time.
        sd: standard deviation in slices; 0 changes nothing.

    Yields:
        ``[1, k, h, w]`` for each slice.
    """
    if not sd:
        yield from planes
        return
    radius = int(4 * sd + 0.5)
    gauss = [math.exp(-((step / sd) ** 2) / 2) for step in range(-radius, radius + 1)]
    held = deque[Tensor](maxlen=len(gauss))
    slices = (plane.softmax(1) for part in planes for plane in part.split(1))
    for p in _edges_repeated(slices, radius):
        held.append(p)
        if len(held) == len(gauss):
            weighed = (p * (w / sum(gauss)) for p, w in zip(held, gauss, strict=True))
            yield log_p(sum(weighed, start=p.new_zeros(())))


def _edges_repeated(slices: Iterator[Tensor], times: int) -> Iterator[Tensor]:
    for first in itertools.islice(slices, 1):
        last = first
        yield from itertools.repeat(first, times + 1)
        for last in slices:
            yield last
        yield from itertools.repeat(last, times)


def cleaned(labels: Labels, classes: Sequence[str], steps: Postprocess) -> Labels:
    """Keep the largest component of structures, then fill their holes.

    Components are 3-D; voxels that touch at a face, an edge or a corner are connected. The largest has the most voxels;
    of equal ones it is the first in the order of the array. What is removed becomes background. A hole is background
    that the structure alone encloses, so that no path over faces leads out of it, not even past the border of the
    volume. Where another structure lies within the same cavity, nothing is filled.

    Args:
        labels: class indices ``[x, y, z]`` on the file's grid; 0 is background.
        classes: names by index.

    Returns:
        a new array, or ``labels`` where neither step is asked for.
    """
    if not (steps.largest or steps.holes):
        return labels
    out: Labels = labels.copy()
    boxes = ndimage.find_objects(labels, len(classes) - 1)
    for k in _chosen(steps.largest, classes):
        if (box := boxes[k - 1]) is not None:
            _keep_largest(out[box], k)
    for k in _chosen(steps.holes, classes):
        if (box := boxes[k - 1]) is not None:
            _fill_holes(out[box], k)
    return out


def _chosen(structures: Structures, classes: Sequence[str]) -> list[int]:
    if isinstance(structures, bool):
        return list(range(1, len(classes))) if structures else []
    return [classes.index(name) for name in structures]


def _keep_largest(labels: Labels, k: int) -> None:
    parts, count = ndimage.label(labels == k, np.ones((3, 3, 3)))
    if count > 1:
        largest = 1 + np.bincount(parts.ravel())[1:].argmax()
        labels[(parts > 0) & (parts != largest)] = 0


def _fill_holes(labels: Labels, k: int) -> None:
    found = labels == k
    cavities, count = ndimage.label(ndimage.binary_fill_holes(found) & ~found)
    if count:
        highest = ndimage.maximum(labels, cavities, np.arange(1, count + 1))
        labels[np.isin(cavities, 1 + np.flatnonzero(highest == 0))] = k
