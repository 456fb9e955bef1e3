"""Pseudo-labels from class centroids in feature space (SHOT)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from uda.errors import DataError
from uda.losses.prediction import most_likely


def balanced_pixels(
    labels: Int[Tensor, "n"], classes: int, per_class: int, generator: torch.Generator
) -> Int[Tensor, "m"]:
    """Indices of at most ``per_class`` pixels of each class, drawn at random and in rising order.

    Formula: min(n_c, per_class) of the n_c pixels of class c
    Source: ours, for Liang et al., SHOT, ICML 2020 on pixels: a rare structure weighs as much as the background

    Args:
        labels: predicted class of each pixel; pixels of no class (IGNORE) are never drawn.
        classes: number of classes K.
        per_class: at most so many of each.
        generator: the source of randomness, on any device.

    Example:
        >>> import torch
        >>> labels = torch.tensor([0, 0, 0, 1, 0, 255])
        >>> drawn = balanced_pixels(labels, 2, 2, torch.Generator().manual_seed(0))
        >>> labels[drawn].sort().values
        tensor([0, 0, 1])
    """
    order = torch.randperm(len(labels), generator=generator, device=generator.device)
    order = order.to(labels.device)
    order = order[(labels[order] >= 0) & (labels[order] < classes)]
    by_class, place = labels[order].long().sort(stable=True)
    start = torch.searchsorted(by_class, torch.arange(classes, device=labels.device))
    rank = torch.arange(len(by_class), device=labels.device) - start[by_class]
    return order[place[rank < per_class]].sort().values


@torch.no_grad()
def class_centroids(
    features: Float[Tensor, "n d"], p: Float[Tensor, "n k"]
) -> Float[Tensor, "k d"]:
    r"""Direction of each class in feature space: soft centroids, one assignment, hard centroids.

    Formula: $c_k = \sum_i p_{ik} \hat f_i / \sum_i p_{ik}$ with $\hat f = f/\|f\|$; pixels go to the nearest $c_k$ by
        cosine; $c_k$ becomes the mean of its pixels
    Source: Liang et al., SHOT, ICML 2020 (its self-supervised pseudo-labels)

    A class that no pixel is assigned to keeps its soft centroid; one whose p is 0 everywhere has a centroid of
    zeros, and no pixel is ever assigned to it.

    Args:
        features: ``[n, d]``, best a class-balanced sample (:func:`balanced_pixels`).
        p: probabilities of the same pixels, ``[n, k]``.

    Returns:
        ``[k, d]``, each of length 1 (or 0).

    Raises:
        DataError: no pixels, or features and probabilities of different pixels.

    Example:
        Four pixels on two axes. The third is predicted as class 0 but lies with the fourth, and goes there.

        >>> import torch
        >>> features = torch.tensor([[2.0, 0.0], [5.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
        >>> p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.1, 0.9]])
        >>> class_centroids(features, p)
        tensor([[1., 0.],
                [0., 1.]])
    """
    if len(features) == 0 or len(features) != len(p):
        raise DataError(
            f"features of {len(features)} pixels and probabilities of {len(p)}",
            expected="the same number, at least 1",
        )
    unit = functional.normalize(_wide(features), dim=1)
    soft = _centroids(unit, p.to(unit))
    nearest = functional.one_hot(assign_centroids(unit, soft), p.shape[1]).to(unit)
    hard = _centroids(unit, nearest)
    return hard.where(nearest.any(0).unsqueeze(1), soft)


@torch.no_grad()
def assign_centroids(
    features: Float[Tensor, "b d *s"] | Float[Tensor, "n d"], centroids: Float[Tensor, "k d"]
) -> Int[Tensor, "..."]:
    r"""Class of the nearest centroid by cosine, for every pixel.

    Formula: $\arg\max_k \cos(f, c_k)$
    Source: Liang et al., SHOT, ICML 2020

    Args:
        features: ``[b, d, *s]`` of images, or ``[n, d]`` of single pixels.
        centroids: ``[k, d]``; a centroid of zeros takes no pixel.

    Returns:
        Labels ``[b, *s]``, or ``[n]``.

    Raises:
        DataError: another number of features.

    Example:
        A 2×2 image with two features.

        >>> import torch
        >>> features = torch.tensor([[[[1.0, 2.0], [0.1, 3.0]], [[0.0, 1.0], [1.0, 9.0]]]])
        >>> assign_centroids(features, torch.eye(2))
        tensor([[[0, 0],
                 [1, 1]]])
    """
    if features.shape[1] != centroids.shape[1]:
        raise DataError(
            f"{features.shape[1]} features a pixel, {centroids.shape[1]} in the centroids",
            fix="make the centroids of the features of the same layer",
        )
    # the length of a feature is the same factor for all classes, so only the centroids need length 1
    unit = functional.normalize(centroids.to(_wide(features[:0])), dim=1)
    closeness = torch.einsum("kd,nd...->nk...", unit, _wide(features))
    absent = (unit == 0).all(1).view(-1, *[1] * (features.dim() - 2))
    return most_likely(closeness.masked_fill_(absent, -torch.inf))


def centroid_pseudo_labels(
    features: Float[Tensor, "n d"], p: Float[Tensor, "n k"]
) -> tuple[Int[Tensor, "n"], Float[Tensor, "k d"]]:
    r"""Labels of the pixels by the class centroids of their own features, and the centroids.

    Formula: :func:`assign_centroids` of :func:`class_centroids`
    Source: Liang et al., SHOT, ICML 2020 (its self-supervised pseudo-labels)

    Args:
        features: ``[n, d]``, best a class-balanced sample (:func:`balanced_pixels`).
        p: probabilities of the same pixels, ``[n, k]``.

    Returns:
        Labels ``[n]`` and centroids ``[k, d]``; label other pixels with :func:`assign_centroids`.

    Raises:
        DataError: no pixels, or features and probabilities of different pixels.

    Example:
        The third pixel is predicted as class 0 but lies with the fourth.

        >>> import torch
        >>> features = torch.tensor([[2.0, 0.0], [5.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
        >>> p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.1, 0.9]])
        >>> centroid_pseudo_labels(features, p)[0]
        tensor([0, 0, 1, 1])
    """
    centroids = class_centroids(features, p)
    return assign_centroids(features, centroids), centroids


def _wide(tensor: Tensor) -> Tensor:
    """float32, except that float64 stays."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _centroids(unit: Tensor, weights: Tensor) -> Tensor:
    """Weighted means of the rows, brought to length 1; zeros where all weights are 0."""
    share = weights / weights.sum(0).clamp_min(torch.finfo(weights.dtype).tiny)
    return functional.normalize(share.T @ unit, dim=1)
