"""Size constraints: bounds on the share of the image that a class may take, and what makes them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from uda.errors import ConfigError, PriorError
from uda.losses.class_ratio import Over
from uda.losses.inspection import readable
from uda.losses.prediction import Predicted, Prediction, predicted
from uda.types import Ratio, Scalar

ROUNDING = 1e-6
"""by how much a bound may miss 0, 1 or its partner before it counts as wrong"""
ROUNDING_OF_SUM = 1e-3
"""by how much the bounds of all classes may miss the whole image: ratios are written with few digits"""


def size_bounds(
    logits: Predicted,
    lower: Ratio,
    upper: Ratio,
    squared: bool = True,
    over: Over = "image",
    classes: Sequence[int] | None = None,
) -> Scalar:
    r"""Penalty for a class that takes less or more of the image than its bounds allow.

    Formula: $\frac{1}{BK}\sum_{b,c} [l_c - V_c]_+^2 + [V_c - u_c]_+^2$ with
        $V_c = \frac1N\sum_x p_c(x)$; without the squares when not ``squared``
    Range: [0, 1]
    Minimum: 0 wherever l ≤ V ≤ u for each class
    Collapse: inside the bounds nothing holds it; a class whose p is near 0 everywhere gets almost no gradient back
    Source: Kervadec et al., Constrained-CNN losses, Medical Image Analysis 2019; here sizes are shares of the image

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        lower, upper: l and u as fractions of the image, ``[k]`` for every image or ``[b, k]``.
        squared: the squared violation; else the violation itself.
        over: ``image``: a penalty per image, then the mean; ``batch``: V, l and u are averaged over the batch
            first, so that single images may leave their bounds.
        classes: indices of the classes that are bounded; default all.

    Raises:
        PriorError: bounds of another shape, outside [0, 1], a lower one above its upper one, or bounds that no
            image can meet because they sum to more or less than the whole.

    Example:
        A 2×2 image with p = 1, 1/2, 1/2, 0 for class 1, so V = 1/2; at most 1/4 is allowed, and at least 3/4
        for the rest: both miss by 1/4.

        >>> import torch
        >>> one = torch.tensor([[100.0, 0.0], [0.0, -100.0]])
        >>> logits = torch.stack([torch.zeros(2, 2), one]).unsqueeze(0)
        >>> float(size_bounds(logits, torch.tensor([0.75, 0.0]), torch.tensor([1.0, 0.25])))
        0.0625
    """
    size, low, high = _sizes(predicted(logits), lower, upper, over, classes)
    violation = (low - size).relu() + (size - high).relu()
    return (violation.square() if squared else violation).mean()


def log_barrier(
    logits: Predicted,
    lower: Ratio,
    upper: Ratio,
    t: float,
    over: Over = "image",
    classes: Sequence[int] | None = None,
) -> Scalar:
    r"""Extended log-barrier of the size bounds: finite outside them, repelled by them from within.

    Formula: $\frac{1}{BK}\sum_{b,c} \psi_t(V_c - u_c) + \psi_t(l_c - V_c)$ with
        $\psi_t(z) = -\frac1t\log(-z)$ for $z \le -\frac{1}{t^2}$, else
        $tz - \frac1t\log\frac{1}{t^2} + \frac1t$
    Range: [0, ∞) for t ≥ 1; at most 2(t + (1 + 2 log t)/t)
    Minimum: V inside (l, u), away from both; the value there goes to 0 as t grows
    Collapse: inside the bounds little holds it; the bounds [0, 1] still push V away from 0 and 1 with strength 1/t
    Source: Kervadec et al., Constrained deep networks: Lagrangian optimization via log-barrier extensions, 2019

    Both pieces meet with the same value and the same slope t, so it is C¹.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        lower, upper, over, classes: see :func:`size_bounds`.
        t: sharpness; raise it while training, see :func:`barrier_t`.

    Raises:
        PriorError: see :func:`size_bounds`.
        ConfigError: a t that is not positive.

    Example:
        A 2×2 image, undecided between two classes, so V = 1/2; bounds [1/4, 3/4], t = 5: four times
        −log(1/4) / 5, over two classes.

        >>> import torch
        >>> bounds = torch.tensor([0.25, 0.25]), torch.tensor([0.75, 0.75])
        >>> round(float(log_barrier(torch.zeros(1, 2, 2, 2), *bounds, t=5.0)), 4)
        0.5545
    """
    if not 0 < t < math.inf:
        raise ConfigError(f"t is {t}", expected="a positive number", fix="start with 5")
    size, low, high = _sizes(predicted(logits), lower, upper, over, classes)
    return (barrier(size - high, t) + barrier(low - size, t)).mean()


def barrier_t(
    step: int, start: float = 5.0, growth: float = 1.1, every: int = 100, limit: float = 50.0
) -> float:
    """Sharpness t of :func:`log_barrier` at a step: start · growth^⌊step / every⌋, at most limit.

    Source: Kervadec et al., Constrained deep networks, 2019: from 5, times 1.1 an epoch

    Raises:
        ConfigError: a negative step, or a schedule that falls or is not positive.

    Example:
        >>> [round(barrier_t(step), 2) for step in (0, 99, 100, 250, 10**9)]
        [5.0, 5.0, 5.5, 6.05, 50.0]
    """
    sound = step >= 0 and every >= 1 and growth >= 1 and 0 < start < math.inf and limit > 0
    if not sound:
        raise ConfigError(
            f"t cannot follow start={start}, growth={growth}, every={every}, limit={limit} at step {step}",
            expected="step ≥ 0, start > 0, growth ≥ 1, every ≥ 1, limit > 0",
        )
    times = step // every
    # in logarithms first: the power itself overflows at large steps
    if times * math.log(growth) >= math.log(limit / start):
        return limit
    return min(limit, start * growth**times)


def tag_bounds(
    shown: Bool[Tensor, "*n k"], pixels: int
) -> tuple[Float[Tensor, "*n k"], Float[Tensor, "*n k"]]:
    """Image-level tags as size bounds: a class that is shown has at least one pixel, another has none.

    Source: Kervadec et al., Medical Image Analysis 2019: suppression [0, 0], inclusion [1/N, 1]

    Args:
        shown: which classes an image shows, the background too.
        pixels: N, of one image.

    Returns:
        Lower and upper bounds for :func:`size_bounds`.

    Raises:
        PriorError: an image that shows no class, or pixels below 1.

    Example:
        >>> import torch
        >>> tag_bounds(torch.tensor([True, False]), pixels=4)
        (tensor([0.2500, 0.0000]), tensor([1., 0.]))
    """
    if pixels < 1:
        raise PriorError(f"an image of {pixels} pixels", expected="at least one pixel")
    if readable(shown) and not bool(shown.any(-1).all()):
        raise PriorError(
            "an image shows no class at all",
            expected="at least one class in each image",
            fix="tag the background as shown",
        )
    upper = shown.to(torch.get_default_dtype())
    return upper / pixels, upper


def ratio_bounds(
    ratio: Float[Tensor, "*n k"], margin: float
) -> tuple[Float[Tensor, "*n k"], Float[Tensor, "*n k"]]:
    """Class ratios as size bounds: τ(1 − margin) … min(1, τ(1 + margin)); a class with τ = 0 gets [0, 0].

    Source: Kervadec et al., Medical Image Analysis 2019: bounds around a known size

    Args:
        ratio: τ, fractions of the image.
        margin: relative; from 1 on there is no lower bound.

    Returns:
        Lower and upper bounds for :func:`size_bounds`.

    Raises:
        PriorError: a ratio outside [0, 1].
        ConfigError: a negative margin.

    Example:
        >>> import torch
        >>> ratio_bounds(torch.tensor([0.75, 0.25, 0.0]), 0.5)
        (tensor([0.3750, 0.1250, 0.0000]), tensor([1.0000, 0.3750, 0.0000]))
    """
    if not 0 <= margin < math.inf:
        raise ConfigError(f"margin is {margin}", expected="0 or more, such as 0.1 for ±10 %")
    check_fractions("class ratio", ratio)
    return (ratio * (1 - margin)).clamp_min(0), (ratio * (1 + margin)).clamp_max(1)


def barrier(z: Tensor, t: float) -> Tensor:
    """ψ_t: the logarithm up to −1/t², from there its tangent."""
    edge = -1 / t**2
    # where, because the gradient of clamp is 0 at its edge
    return -(-z.where(z <= edge, edge)).log() / t + t * (z - edge).relu()


def _sizes(
    prediction: Prediction,
    lower: Tensor,
    upper: Tensor,
    over: Over,
    classes: Sequence[int] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """V, l and u of the bounded classes, a row for each image or one for the batch."""
    low, high = _aligned_bounds(prediction, lower, upper, over)
    p = prediction.p.flatten(2)
    size = p.sum(2) / p.shape[2]  # the gradient of mean would be as large as p
    if over == "batch":
        size = size.mean(0, keepdim=True)
    if classes is not None:
        size, low, high = (_chosen(x, classes) for x in (size, low, high))
    _check_bounds(low, high, classes)
    return size, low, high


def checked_bounds(
    prediction: Prediction, lower: Tensor, upper: Tensor, over: Over
) -> tuple[Tensor, Tensor]:
    """Bounds on every class, a row for each image or one for the batch; refused where no image can meet them."""
    low, high = _aligned_bounds(prediction, lower, upper, over)
    _check_bounds(low, high, None)
    return low, high


def _aligned_bounds(
    prediction: Prediction, lower: Tensor, upper: Tensor, over: Over
) -> tuple[Tensor, Tensor]:
    low, high = aligned("lower", prediction, lower), aligned("upper", prediction, upper)
    if over == "batch":
        return low.mean(0, keepdim=True), high.mean(0, keepdim=True)
    return low, high


def aligned(name: str, prediction: Prediction, given: Tensor) -> Float[Tensor, "b k"]:
    """Fractions as ``[b, k]`` in the precision of the prediction."""
    batch, classes = prediction.shape[:2]
    if given.shape not in ((classes,), (batch, classes)):
        raise PriorError(
            f"{name} has shape {tuple(given.shape)}",
            expected=f"({classes},) for all images or ({batch}, {classes}), one row an image",
            fix="give one number for each class of this model, the background included",
        )
    return given.detach().to(prediction.log_p).expand(batch, classes)


def _chosen(columns: Tensor, classes: Sequence[int]) -> Tensor:
    """The columns of the given classes, without sending indices to the device."""
    known = columns.shape[1]
    distinct = len(set(classes)) == len(classes) > 0
    if not distinct or not all(0 <= c < known for c in classes):
        raise PriorError(
            f"the bounded classes are {list(classes)}",
            expected=f"distinct indices from 0 to {known - 1}, at least one",
        )
    return torch.stack([columns[:, c] for c in classes], 1)


def check_fractions(name: str, given: Tensor) -> None:
    """Refuse what is not a share of the image."""
    if not readable(given) or bool(((given >= -ROUNDING) & (given <= 1 + ROUNDING)).all()):
        return
    raise PriorError(
        f"the {name} {_worst(given):g} is not a fraction of the image",
        expected="from 0 to 1",
        fix="divide pixel counts by the number of pixels of the image",
    )


def _worst(given: Tensor) -> float:
    """The value farthest from [0, 1]; NaN before all."""
    flat = given.flatten()
    return float(flat[(flat - 0.5).abs().nan_to_num(math.inf, math.inf, math.inf).argmax()])


def _check_bounds(low: Tensor, high: Tensor, classes: Sequence[int] | None) -> None:
    if not readable(low):
        return
    check_fractions("lower bound", low)
    check_fractions("upper bound", high)
    if bool((low > high + ROUNDING).any()):
        place = int((low - high).amax(0).argmax())
        c = place if classes is None else classes[place]
        raise PriorError(
            f"the lower bound of class {c} is above its upper bound",
            expected="lower ≤ upper for each class",
        )
    if bool((low.sum(1) > 1 + ROUNDING_OF_SUM).any()):
        raise PriorError(
            f"the lower bounds of an image sum to {float(low.sum(1).max()):g}",
            expected="at most 1, the whole image",
            fix="widen the bounds",
        )
    if classes is None and bool((high.sum(1) < 1 - ROUNDING_OF_SUM).any()):
        raise PriorError(
            f"the upper bounds of an image sum to {float(high.sum(1).min()):g}",
            expected="at least 1, the whole image",
            fix="widen the bounds, the background's too, or name the bounded classes",
        )
