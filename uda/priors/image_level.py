"""Label distributions of single target images, predicted from features of the source network.

Each method learns from features ``[n, d]`` and class ratios ``[n, k]`` of the source images. For features
``[m, d]`` of the target images it predicts ratios ``[m, k]`` that sum to 1. Features are z-scored within each
domain, so a shift or a rescaling of the whole target changes nothing. A class that no source image shows
gets 0. Nothing here is random.

Source: Zhang et al., Curriculum Domain Adaptation for Semantic Segmentation of Urban Scenes, ICCV 2017.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from uda.errors import PriorError

Floats = NDArray[np.float64]
Method = Literal["nearest", "logistic", "ridge"]


def image_level_ratios(
    method: Method,
    source: Floats,
    ratios: Floats,
    target: Floats,
    *,
    neighbours: int = 5,
    l2: float = 0.01,
) -> Floats:
    """Ratios of the target images by one of the methods below.

    Raises:
        PriorError: no images, features that are not finite, or arrays whose shapes do not match.
    """
    if method == "nearest":
        return nearest_ratios(source, ratios, target, neighbours)
    fit = logistic_ratios if method == "logistic" else ridge_ratios
    return fit(source, ratios, target, l2)


def nearest_ratios(source: Floats, ratios: Floats, target: Floats, neighbours: int = 5) -> Floats:
    """Mean ratio of the nearest source images (of all of them where there are fewer than ``neighbours``).

    Example:
        >>> features = np.array([[0.0], [1.0], [9.0]])
        >>> ratios = np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]])
        >>> nearest_ratios(features, ratios, features, neighbours=2)
        array([[0.7 , 0.3 ],
               [0.7 , 0.3 ],
               [0.35, 0.65]])
    """
    if neighbours < 1:
        raise PriorError(f"neighbours is {neighbours}", expected="1 or more")
    source, target = _standardized(source, ratios, target)
    squared = (target**2).sum(1)[:, None] + (source**2).sum(1) - 2 * target @ source.T
    nearest = np.argsort(squared, axis=1, kind="stable")[:, :neighbours]
    return _rows(ratios[nearest].mean(1))


def logistic_ratios(source: Floats, ratios: Floats, target: Floats, l2: float = 0.01) -> Floats:
    r"""Multinomial logistic regression with the source ratios as soft labels.

    Minimises :math:`-\frac1n\sum_i \sum_c a_{ic}\log s_{ic} + \frac{l2}{2}\|W\|^2` with
    :math:`s_i = \mathrm{softmax}(W z_i + b)` by L-BFGS, starting from the mean source ratios.
    """
    check_penalty(l2)
    source, target = _standardized(source, ratios, target)
    shown = ratios.sum(0) > 0
    wanted = _rows(ratios[:, shown])
    weights, bias = softmax_regression(source, wanted, l2)
    answer = np.zeros((len(target), len(shown)))
    answer[:, shown] = softmax(target @ weights + bias, axis=1)
    return answer


def softmax_regression(inputs: Floats, wanted: Floats, l2: float) -> tuple[Floats, Floats]:
    """Weights ``[d, k]`` and bias ``[k]`` of the regression of :func:`logistic_ratios`.

    Args:
        inputs: ``[n, d]`` z-scored features.
        wanted: ``[n, k]`` soft or one-hot labels; no column is all zero.
    """
    (n, d), k = inputs.shape, wanted.shape[1]

    def objective(flat: Floats) -> tuple[float, Floats]:
        weights, bias = flat[:-k].reshape(d, k), flat[-k:]
        log_s = log_softmax(inputs @ weights + bias, axis=1)
        error = (np.exp(log_s) - wanted) / n
        value = -float((wanted * log_s).sum()) / n + l2 / 2 * float((weights**2).sum())
        return value, np.concatenate([(inputs.T @ error + l2 * weights).ravel(), error.sum(0)])

    start = np.concatenate([np.zeros(d * k), np.log(wanted.mean(0))])
    options = {"maxiter": 1000, "ftol": 1e-13, "gtol": 1e-9}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
    return found[:-k].reshape(d, k), found[-k:]


def ridge_ratios(source: Floats, ratios: Floats, target: Floats, l2: float = 0.01) -> Floats:
    r"""Ridge regression of the ratios, each prediction projected onto the probability simplex.

    :math:`W = (Z^T Z / n + l2\,I)^{-1} Z^T (A - \bar a) / n`, prediction :math:`\bar a + W^T z`.
    """
    check_penalty(l2)
    source, target = _standardized(source, ratios, target)
    mean, (n, d) = ratios.mean(0), source.shape
    weights = np.linalg.solve(
        source.T @ source / n + l2 * np.eye(d), source.T @ (ratios - mean) / n
    )
    shown = ratios.sum(0) > 0
    answer = np.zeros((len(target), len(shown)))
    answer[:, shown] = to_simplex((mean + target @ weights)[:, shown])
    return answer


def to_simplex(rows: Floats) -> Floats:
    """Euclidean projection of each row onto the probability simplex.

    Source: Duchi et al., Efficient Projections onto the l1-Ball for Learning in High Dimensions, ICML 2008.

    Example:
        >>> to_simplex(np.array([[0.5, 0.7, -0.4]]))
        array([[0.4, 0.6, 0. ]])
    """
    falling = -np.sort(-rows, axis=1)
    excess = (falling.cumsum(1) - 1) / np.arange(1, rows.shape[1] + 1)
    kept = (falling > excess).sum(1, keepdims=True)
    return _rows(np.maximum(rows - np.take_along_axis(excess, kept - 1, axis=1), 0))


def check_penalty(l2: float) -> None:
    """Refuse a weight decay without a unique solution."""
    if not l2 > 0:
        raise PriorError(
            f"l2 is {l2:g}", expected="above 0: there may be fewer images than features"
        )


def _standardized(source: Floats, ratios: Floats, target: Floats) -> tuple[Floats, Floats]:
    """The features of both domains, each z-scored within its domain."""
    if len(source) != len(ratios) or source.shape[1:] != target.shape[1:] or source.ndim != 2:
        raise PriorError(
            f"source features {source.shape}, ratios {ratios.shape} and target features "
            f"{target.shape} do not match",
            expected="[n, d], [n, k] and [m, d]",
        )
    if not len(source) or not len(target):
        raise PriorError(f"{len(source)} source and {len(target)} target images to learn from")
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise PriorError(
            "a feature of an image is not finite", fix="check the images and the model's weights"
        )
    return z_scored(source), z_scored(target)


def z_scored(features: Floats) -> Floats:
    """Features of mean 0 and standard deviation 1 over the images; a constant feature becomes 0."""
    centred = features - features.mean(0)
    sd = features.std(0)
    flat = sd <= 1e-9 * np.abs(features).max(0)
    scored: Floats = np.where(flat, 0.0, centred / np.where(flat, 1.0, sd))
    return scored


def _rows(rows: Floats) -> Floats:
    """Rows rescaled to sum to 1, which removes rounding errors."""
    scaled: Floats = rows / rows.sum(1, keepdims=True)
    return scaled
