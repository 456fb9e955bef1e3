"""Class activation maps: a classifier of image tags on a network's features, its map of each structure, and seeds.

The classifier is linear in the spatial mean of the features ``f`` that enter the network's head. So a structure's logit
of an image is the mean over the pixels of its class activation map ``w_c · f(x)``, plus a bias: the map says which
pixels the answer comes from. Nothing here is random.

Source: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, eqs. 1 and 2; seeds:
Kolesnikov & Lampert, Seed, Expand and Constrain, ECCV 2016; two thresholds: Ahn et al., Weakly Supervised Learning of
Instance Segmentation with Inter-pixel Relations, CVPR 2019.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from uda.errors import PriorError
from uda.priors.image_level import check_penalty, z_scored
from uda.types import IGNORE

Floats = NDArray[np.float64]
Tags = NDArray[np.bool_]
FOLDS = 5
"""parts of the cases, each of which is once left out of the fit"""


@dataclass(frozen=True, eq=False)
class TagClassifier:
    """Multi-label logistic regression on the mean features of an image, in the features' own units."""

    weights: Floats
    """``[s, d]``; zeros for a structure that all tagged images show, or none"""
    bias: Floats
    """``[s]``"""

    def logits(self, features: Floats) -> Floats:
        """Logits ``[n, s]`` of mean features ``[n, d]``; above 0 the image shows the structure."""
        answer: Floats = features @ self.weights.T + self.bias
        return answer


def fit_tags(features: Floats, tags: Tags, l2: float) -> TagClassifier:
    r"""Fit one logistic regression a structure, on z-scored features.

    Minimises :math:`-\frac12\sum_{t\in\{0,1\}}\frac{1}{n_t}\sum_{i:\,t_i=t}\log\sigma((2t-1)(w\cdot z_i+b)) +
    \frac{l2}{2}\|w\|^2` by L-BFGS in float64. Images with the structure and images without it count the same, however
    many there are.

    Args:
        features: ``[n, d]`` mean features.
        tags: ``[n, s]`` which structures an image shows.
        l2: weight decay, above 0.

    Returns:
        the classifier; a structure without contrast (:func:`contrast`) has weights of 0 and the bias ±1 of its tag.

    Raises:
        PriorError: features that are not finite, no images, or shapes that do not match.

    Example:
        One feature tells the two kinds of images apart; the logits are 0 in the middle, at 3.

        >>> features = np.array([[0.0], [1.0], [5.0], [6.0]])
        >>> found = fit_tags(features, np.array([[False], [False], [True], [True]]), 0.1)
        >>> np.round(found.logits(np.array([[0.0], [6.0]])).ravel(), 2)
        array([-1.91,  1.91])
        >>> bool(abs(found.logits(np.array([[3.0]]))) < 1e-6)
        True
    """
    check_penalty(l2)
    _check(features, tags)
    scored, mean, sd = z_scored(features), features.mean(0), features.std(0)
    d = features.shape[1]
    weights, bias = np.zeros((tags.shape[1], d)), np.where(tags[0], 1.0, -1.0)
    flat = (scored == 0).all(0)
    scale = np.where(flat, 1.0, sd)
    for s in np.flatnonzero(contrast(tags)):
        found = _logistic(scored, tags[:, s], l2)
        weights[s] = np.where(flat, 0.0, found[:-1] / scale)
        bias[s] = found[-1] - weights[s] @ mean
    return TagClassifier(weights, bias)


def contrast(tags: Tags) -> Tags:
    """Which structures ``[s]`` some tagged images show and others do not: only these can be learned."""
    answer: Tags = np.logical_and(tags.any(0), np.logical_not(tags.all(0)))
    return answer


def held_out_accuracy(
    features: Floats, tags: Tags, cases: Sequence[Hashable], l2: float, folds: int = FOLDS
) -> Floats:
    """Balanced accuracy ``[s]`` of the tags of images whose case the classifier was not fitted to.

    The mean of the shares of right answers on images that show the structure and on images that do not: 0.5 is chance,
    and what a classifier gets that knows nothing. Cases are dealt out to the folds in their order.

    Args:
        cases: of each image.

    Returns:
        NaN for a structure without contrast, and for all where there is one case only.

    Example:
        >>> features = np.array([[0.0], [5.0], [1.0], [6.0]])
        >>> tags = np.array([[False, True], [True, True], [False, True], [True, True]])
        >>> held_out_accuracy(features, tags, ["a", "a", "b", "b"], 0.1)
        array([ 1., nan])
    """
    numbers = {case: number for number, case in enumerate(dict.fromkeys(cases))}
    fold = np.array([numbers[case] % folds for case in cases])
    accuracy = np.full(tags.shape[1], np.nan)
    if len(numbers) < 2:
        return accuracy
    right = np.empty_like(tags)
    for left_out in range(min(folds, len(numbers))):
        asked = fold == left_out
        classifier = fit_tags(features[~asked], tags[~asked], l2)
        right[asked] = (classifier.logits(features[asked]) > 0) == tags[asked]
    for s in np.flatnonzero(contrast(tags)):
        accuracy[s] = (right[tags[:, s], s].mean() + right[~tags[:, s], s].mean()) / 2
    return accuracy


def usable(names: Sequence[str], tags: Tags, accuracy: Floats, least: float) -> Tags:
    """Which structures ``[s]`` have contrast and an accuracy of :func:`held_out_accuracy` of at least ``least``.

    Args:
        names: of the structures.
        least: 0 = accept unknown accuracies too.

    Raises:
        PriorError: no structure.
    """
    used: Tags = contrast(tags)
    if not used.any():
        raise PriorError(
            "each structure is shown by all target images or by none, so tags cannot tell where it is",
            expected="a structure with images that show it and images that do not",
            fix="tag more images, or use a prior of kind target_tags",
        )
    if least > 0:
        used = np.logical_and(used, accuracy >= least)
    if not used.any():
        raise PriorError(
            "the classifier cannot tell which images show a structure, so its maps mean nothing: "
            f"balanced accuracy on left-out cases {_listed(names, accuracy)}",
            expected=f"{least:g} or more for one structure (min_accuracy)",
            fix="tag more cases, use a prior of kind target_tags, or lower min_accuracy",
        )
    return used


def told(names: Sequence[str], accuracy: Floats, used: Tags, right: float) -> str:
    """How well the classifier fits, for the record of a prior.

    Args:
        right: share of the tags that it was fitted to and answers right.
    """
    unused = ", ".join(name for name, one in zip(names, used, strict=True) if not one)
    return (
        "seeds by class activation maps of a tag classifier on the network's features, which answers "
        f"{100 * right:.0f} % of its tags right; balanced accuracy on left-out cases {_listed(names, accuracy)}"
        + (f"; no maps of {unused}" if unused else "")
    )


def _listed(names: Sequence[str], accuracy: Floats) -> str:
    pairs = zip(names, accuracy, strict=True)
    return ", ".join(f"{n} {'unknown' if np.isnan(a) else f'{a:.2f}'}" for n, a in pairs)


def activation_maps(
    features: Float[Tensor, "b d h w"], weights: Float[Tensor, "s d"]
) -> Float[Tensor, "b s h w"]:
    """Class activation maps ``w_c · f(x)``, neither rectified nor scaled.

    Their mean over the pixels, plus the bias, is the classifier's logit.

    Example:
        >>> features = torch.tensor([[[[1.0, 2.0]], [[0.0, 4.0]]]])
        >>> activation_maps(features, torch.tensor([[1.0, -0.5]]))
        tensor([[[[1., 0.]]]])
    """
    return torch.einsum("bdhw,sd->bshw", features, weights)


def found_by(maps: Float[Tensor, "b s h w"], bias: Float[Tensor, "s"]) -> Bool[Tensor, "b s"]:
    """Which structures the classifier finds in each image, from its :func:`activation_maps`: logit above 0.

    Example:
        >>> found_by(torch.tensor([[[[0.0, 4.0]], [[0.0, 4.0]]]]), torch.tensor([-1.0, -3.0]))
        tensor([[ True, False]])
    """
    return maps.mean((2, 3)) + bias > 0


def relative_activation(maps: Float[Tensor, "b s h w"]) -> Float[Tensor, "b s h w"]:
    """Maps without their negative part, each divided by its largest value; a map without positive values is 0.

    Example:
        >>> relative_activation(torch.tensor([[[[-1.0, 2.0, 4.0]], [[-3.0, -1.0, 0.0]]]]))
        tensor([[[[0.0000, 0.5000, 1.0000]],
        <BLANKLINE>
                 [[0.0000, 0.0000, 0.0000]]]])
    """
    positive = maps.clamp_min(0)
    largest = positive.amax((2, 3), keepdim=True)
    return positive / torch.where(largest > 0, largest, 1)


def seeds_of(
    maps: Float[Tensor, "b s h w"],
    shown: Bool[Tensor, "b s"],
    classes: Sequence[int],
    foreground: float,
    background: float | None,
) -> UInt8[Tensor, "b h w"]:
    """The class of pixels of which class activation maps are sure, and ``IGNORE`` at the others.

    A pixel is of a structure if the image shows it, its map is at least ``foreground`` there, and no other shown
    structure's is larger (of equal ones the first). It is background if no shown structure's map exceeds
    ``background``; so is every pixel of an image that shows no structure. An image that shows a structure whose map is
    0 everywhere has no background: the structure lies where nobody knows.

    Args:
        maps: of :func:`relative_activation`, in [0, 1].
        shown: the tags of these images.
        classes: class number of each structure.
        foreground: above 0.
        background: None if there is no class of background (photographs).

    Example:
        Of two structures the image shows the first, so the second's large value counts for nothing.

        >>> maps = torch.tensor([[[[0.0, 0.1, 0.6, 1.0]], [[1.0, 0.0, 0.0, 0.0]]]])
        >>> seeds_of(maps, torch.tensor([[True, False]]), [1, 2], foreground=0.3, background=0.05)
        tensor([[[  0, 255,   1,   1]]], dtype=torch.uint8)
    """
    known = maps.where(shown[:, :, None, None], 0)
    largest, which = known.max(1)
    numbers = torch.tensor(classes, dtype=torch.uint8, device=maps.device)
    seeds = torch.where(largest >= foreground, numbers[which], IGNORE).to(torch.uint8)
    if background is None:
        return seeds
    placed = ~(shown & (known.amax((2, 3)) <= 0)).any(1)
    empty = placed[:, None, None] & (largest <= background) & (largest < foreground)
    return seeds.masked_fill(empty, 0)


def _logistic(inputs: Floats, wanted: Tags, l2: float) -> Floats:
    """Weights and, last, bias ``[d + 1]`` of one structure's regression."""
    sign = np.where(wanted, 1.0, -1.0)
    share = np.where(wanted, 0.5 / wanted.sum(), 0.5 / (~wanted).sum())

    def objective(flat: Floats) -> tuple[float, Floats]:
        weights, margin = flat[:-1], sign * (inputs @ flat[:-1] + flat[-1])
        value = share @ np.logaddexp(0, -margin) + l2 / 2 * weights @ weights
        error = -share * sign * expit(-margin)
        return float(value), np.append(inputs.T @ error + l2 * weights, error.sum())

    options = {"maxiter": 1000, "ftol": 1e-15, "gtol": 1e-9}
    start = np.zeros(inputs.shape[1] + 1)
    found: Floats = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
    return found


def _check(features: Floats, tags: Tags) -> None:
    if features.ndim != 2 or tags.ndim != 2 or len(features) != len(tags) or not len(tags):
        raise PriorError(
            f"features {features.shape} and tags {tags.shape} do not match",
            expected="[n, d] and [n, s], a row for each image",
        )
    if not np.isfinite(features).all():
        raise PriorError(
            "a feature of an image is not finite", fix="check the images and the model's weights"
        )
