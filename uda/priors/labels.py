"""Class ratios, size distribution and frequency maps of labelled slices; ``IGNORE`` pixels are left out."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from uda.errors import PriorError
from uda.networks.size_distribution import LEVELS, SizeDistribution
from uda.types import IGNORE

Floats = NDArray[np.float64]


def label_table(labels: Iterable[NDArray[np.uint8]], classes: int) -> Floats:
    """Class ratio of each slice ``[h, w]``: ``[n, k]``, a row of zeros where no pixel is labelled."""
    rows = []
    for label in labels:
        counts = np.bincount(label[label != IGNORE].ravel(), minlength=classes)[:classes]
        rows.append(counts / max(int(counts.sum()), 1))
    return np.array(rows, dtype=np.float64).reshape(len(rows), classes)


def label_ratios(
    labels: Iterable[NDArray[np.uint8]], classes: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean class ratio over labelled slices ``[h, w]``, and over the slices that show the class.

    ``IGNORE`` pixels are left out. A class that no slice shows has ratio 0 in both.

    Raises:
        PriorError: no slice has a labelled pixel.
    """
    return mean_ratios(label_table(labels, classes))


def mean_ratios(table: Floats) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The same as :func:`label_ratios`, from a :func:`label_table`."""
    table = _labelled(table)
    shown = np.maximum((table > 0).sum(0), 1)
    return tuple(table.mean(0).tolist()), tuple((table.sum(0) / shown).tolist())


def size_distribution(table: Floats) -> SizeDistribution:
    """How often the slices of a :func:`label_table` show each class, and quantiles of its ratio there.

    Raises:
        PriorError: no slice has a labelled pixel.
    """
    table = _labelled(table)
    shown = table > 0
    rows = [
        tuple(np.quantile(ratios[present], LEVELS).tolist()) if present.any() else (0.0,) * 5
        for ratios, present in zip(table.T, shown.T, strict=True)
    ]
    return SizeDistribution(tuple(shown.mean(0).tolist()), tuple(rows))


def label_maps(labels: Iterable[NDArray[np.uint8]], classes: int, sigma: float) -> Tensor:
    r"""How often each class is at a pixel of labelled slices ``[h, w]``, Gaussian-smoothed.

    :math:`\pi_c(x) = (G_\sigma * n_c)(x) / \sum_j (G_\sigma * n_j)(x)` with the counts
    :math:`n_c` of the class at each pixel; unlabelled pixels and pixels outside the image are not counted. A
    pixel too far from any labelled one gets the overall class ratios.

    Source: Zou et al., Unsupervised Domain Adaptation via Class-Balanced Self-Training, ECCV 2018.

    Args:
        sigma: standard deviation of the Gaussian in pixels; 0 = no smoothing.

    Returns:
        ``[k, h, w]`` float32, sums to 1 over the classes at every pixel.

    Raises:
        PriorError: no slice has a labelled pixel.
    """
    counts: Floats | None = None
    for label in labels:
        if counts is None:
            counts = np.zeros((classes, *label.shape))
        for c in range(classes):
            counts[c] += label == c
    if counts is None or not counts.any():
        raise _unlabelled()
    overall = counts.sum((1, 2)) / counts.sum()
    if sigma > 0:
        counts = np.stack([gaussian_filter(c, sigma, mode="constant") for c in counts])
    total = counts.sum(0)
    far = total == 0  # the Gaussian ends at four sigma
    maps = np.where(far, overall[:, None, None], counts / np.where(far, 1, total))
    return torch.from_numpy(maps.astype(np.float32))


def _labelled(table: Floats) -> Floats:
    """The rows of slices with a labelled pixel."""
    table = table[table.sum(1) > 0]
    if not len(table):
        raise _unlabelled()
    return table


def _unlabelled() -> PriorError:
    return PriorError("no slice has a labelled pixel", fix="check the card's label_values")
