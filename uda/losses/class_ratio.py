"""Class ratios: what share of the pixels is predicted as each class, and how far that is from a prior."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from uda.errors import PriorError
from uda.losses.inspection import readable
from uda.losses.prediction import Predicted, predicted, winners
from uda.types import Ratio, Scalar

Direction = Literal["prediction_to_prior", "prior_to_prediction"]
Over = Literal["image", "batch"]
Kind = Literal["mean", "max_normalized"]


def class_ratio(logits: Predicted, kind: Kind = "mean", power: float = 1.0) -> Float[Tensor, "b k"]:
    r"""Predicted proportion τ̂ of each class in each image.

    Formula: ``mean``: $\hat\tau_c = \frac1N \sum_x p_c(x)$; ``max_normalized``:
        $\hat\tau_c = \sum_x r_c(x) / \sum_{j,x} r_j(x)$ with $r_c(x) = (p_c(x) / \max_j p_j(x))^q$, q the ``power``
    Range: [0, 1]; sums to 1 over classes
    Source: ``max_normalized``: Zhang, David & Gong, ICCV 2017, eq. 6, with power 5; Bateson et al.,
        MedIA 2022, with power 1

    With a high power only the winning class of each pixel counts, and its share of the pixels is what
    argmax would give, with a gradient.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        kind: ``mean`` or ``max_normalized``.
        power: q above, more than 0; ``mean`` does not use it.

    Returns:
        τ̂, ``[b, k]``.

    Raises:
        PriorError: ``power`` is not above 0.

    Example:
        One 2×2 image, p of class 0 being ½, ¾, ¾ and 1, on average ¾. Relative to the larger p, class 0 has
        1, 1, 1, 1 and class 1 has 1, ⅓, ⅓, 0: 4 and 5/3, of 17/3 together.

        >>> import torch
        >>> p = torch.tensor([[0.5, 0.75], [0.75, 1.0]])
        >>> logits = torch.stack([p, 1 - p])[None].clamp_min(1e-30).log()
        >>> class_ratio(logits)
        tensor([[0.7500, 0.2500]])
        >>> class_ratio(logits, "max_normalized")
        tensor([[0.7059, 0.2941]])
    """
    return log_class_ratio(logits, kind, power).exp()


def log_class_ratio(
    logits: Predicted, kind: Kind = "mean", power: float = 1.0
) -> Float[Tensor, "b k"]:
    r"""Logarithm of :func:`class_ratio`, finite for any finite logits: no class underflows to log 0.

    Formula: $\log\hat\tau_c$
    Range: (−∞, 0]

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        kind: see :func:`class_ratio`.
        power: see :func:`class_ratio`.

    Returns:
        log τ̂, ``[b, k]``.

    Raises:
        PriorError: ``power`` is not above 0.

    Example:
        p of class 1 is e⁻²⁰⁰ in each pixel, which float32 does not hold; its logarithm is −200.

        >>> import torch
        >>> log_class_ratio(torch.tensor([[[[0.0, 0.0]], [[-200.0, -200.0]]]]))
        tensor([[   0., -200.]])
    """
    prediction = predicted(logits)
    if kind == "mean":
        log_sum: Tensor = _LogSum.apply(prediction.log_p)
        return log_sum - math.log(math.prod(prediction.shape[2:]))
    if not (power > 0 and math.isfinite(power)):
        raise PriorError(f"power is {power}", expected="a number above 0; published: 1 and 5")
    log_sum = _LogSumRelative.apply(prediction.log_p, power)
    return log_sum - log_sum.logsumexp(1, keepdim=True)


def class_ratio_kl(
    logits: Predicted,
    prior: Ratio,
    direction: Direction = "prediction_to_prior",
    over: Over = "image",
    kind: Kind = "mean",
    power: float = 1.0,
    eps: float = 1e-10,
    tolerance: float = 0.0,
) -> Scalar:
    r"""Kullback–Leibler divergence between the predicted class ratio τ̂ and the prior τ.

    Formula: ``prediction_to_prior``: $\sum_c \hat\tau_c (\log\hat\tau_c - \log(\tau_c + \epsilon))$;
        ``prior_to_prediction``: $\sum_c \tau_c (\log\tau_c - \log\hat\tau_c)$; the mean over images, or once
        for τ̂ and τ averaged over the batch; with a ``tolerance`` t, :func:`nearest_ratio` of τ̂ in place of τ
    Range: [0, −log min τ] for ``prediction_to_prior``, to within ε; [0, ∞) for ``prior_to_prediction``
    Minimum: 0, where τ̂ = τ, or with a tolerance wherever τ̂ is within τ (1 ± t); whatever the single pixels are
    Collapse: none onto one class, but a wrong prior is obeyed as well as a right one; ``prior_to_prediction``
        leaves classes with τ = 0 alone
    Source: ``prediction_to_prior``: Bateson et al., AdaMI, MedIA 2022; ``prior_to_prediction``: Bateson et al.,
        AdaEnt, MICCAI 2020, and Zhou et al., PaNN, ICCV 2019

    A class with τ = 0 is suppressed by ``prediction_to_prior`` with the constant slope −log ε, 23.03 for
    ε = 1e-10. With a tolerance the value is the divergence to the nearest ratio that the prior allows; the nearest one
    is the same in both directions. Within the tolerance value and gradient are exactly 0.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        prior: τ, ``[k]`` for every image, or ``[b, k]``, one for each.
        direction: which of the two above.
        over: ``image``: divergence per image, then the mean; ``batch``: τ̂ and τ are averaged over the
            batch first, so that single images may differ from the prior.
        kind: see :func:`class_ratio`.
        power: see :func:`class_ratio`.
        eps: ε above; 0 gives the exact divergence, for priors without zeros.
        tolerance: t in [0, 1]; 0 takes the prior as a point.

    Returns:
        Scalar, not negative (to within ε).

    Raises:
        PriorError: wrong number of classes or images; a prior that is negative or does not sum to 1; a zero in
            the prior where it makes the value infinite; a tolerance outside [0, 1].

    Example:
        One 2×2 image, p of class 0 being ½, ¾, ¾ and 1, so τ̂ = (¾, ¼); the prior is (½, ½):
        ¾ log 3/2 + ¼ log 1/2 = 0.1308, and the other way round ½ log 2/3 + ½ log 2 = 0.1438. With t = 0.2 the nearest
        ratio is (0.6, 0.4): ¾ log 5/4 + ¼ log 5/8 = 0.0499.

        >>> import torch
        >>> p = torch.tensor([[0.5, 0.75], [0.75, 1.0]])
        >>> logits = torch.stack([p, 1 - p])[None].clamp_min(1e-30).log()
        >>> prior = torch.tensor([0.5, 0.5])
        >>> round(float(class_ratio_kl(logits, prior)), 4)
        0.1308
        >>> round(float(class_ratio_kl(logits, prior, "prior_to_prediction")), 4)
        0.1438
        >>> round(float(class_ratio_kl(logits, prior, tolerance=0.2)), 4)
        0.0499
    """
    if not 0 <= tolerance <= 1:
        raise PriorError(f"tolerance is {tolerance}", expected="a number from 0 to 1")
    prediction = predicted(logits)
    prior = aligned(prediction.log_p, prior, "the prior")
    if direction == "prediction_to_prior":
        _check_eps(prior, eps)
    log_ratio = log_class_ratio(prediction, kind, power)
    if over == "batch":
        log_ratio, prior = log_mean(log_ratio), prior.mean(0, keepdim=True)
    ratio = log_ratio.detach().exp()
    nearest = nearest_ratio(ratio, prior, tolerance) if tolerance else prior
    if direction == "prior_to_prediction":
        each = (torch.xlogy(nearest, nearest) - nearest * log_ratio).sum(1)
    else:
        each = (log_ratio.exp() * (log_ratio - (nearest + eps).log())).sum(1)
    if tolerance:
        each = each.where((nearest != ratio).any(1), 0.0)
    return each.mean()


def nearest_ratio(
    ratio: Float[Tensor, "b k"], prior: Float[Tensor, "b k"], tolerance: float
) -> Float[Tensor, "b k"]:
    r"""The class ratio within a tolerance of the prior that is nearest to the predicted one.

    Formula: $q_c = \min(\max(s\,\hat\tau_c, (1-t)\tau_c), (1+t)\tau_c)$ with the s for which $\sum_c q_c = 1$
    Range: within τ (1 ± t); sums to 1; τ̂ itself, to the bit, where it is within
    Source: Boyd & Vandenberghe, Convex Optimization, 2004, §5.5.3: the KKT conditions of both
        $\min_q \mathrm{KL}(q\Vert\hat\tau)$ and $\min_q \mathrm{KL}(\hat\tau\Vert q)$ over those q

    The sum is piecewise linear in s, so the s is found exactly from its 2 k corners, without a loop. No gradient flows:
    by the envelope theorem that of the divergence takes q for a constant.

    Args:
        ratio: τ̂, sums to 1.
        prior: τ, sums to 1.
        tolerance: t in [0, 1].

    Example:
        Between (0.4, 0.4) and (0.6, 0.6) the ratio (¾, ¼) is nearest to (0.6, 0.4).

        >>> import torch
        >>> nearest_ratio(torch.tensor([[0.75, 0.25]]), torch.tensor([[0.5, 0.5]]), 0.2)
        tensor([[0.6000, 0.4000]])
    """
    ratio, prior = ratio.detach(), prior / prior.sum(1, keepdim=True)
    lower, upper = (1 - tolerance) * prior, (1 + tolerance) * prior
    within = ((ratio >= lower) & (ratio <= upper)).all(1, keepdim=True)
    positive = ratio.clamp_min(torch.finfo(ratio.dtype).tiny)
    corners = torch.cat([lower / positive, upper / positive], 1).sort(1).values

    def clipped(s: Tensor) -> Tensor:
        """q ``[b, …, k]`` of factors s ``[b, …]``."""
        box = (x.view(len(x), *[1] * (s.dim() - 1), -1) for x in (positive, lower, upper))
        p, low, high = box
        return (s.unsqueeze(-1) * p).maximum(low).minimum(high)

    sums = clipped(corners).sum(-1)
    after = (sums < 1).sum(1, keepdim=True).clamp(1, corners.shape[1] - 1)
    (s0, s1), (f0, f1) = ((x.gather(1, after - 1), x.gather(1, after)) for x in (corners, sums))
    share = ((1 - f0) / (f1 - f0).clamp_min(torch.finfo(f0.dtype).tiny)).clamp(0, 1)
    return ratio.where(within, clipped((s0 + share * (s1 - s0)).squeeze(1)))


def class_ratio_hinge(
    logits: Predicted, prior: Ratio, mu: float = 0.5, over: Over = "image"
) -> Scalar:
    r"""Penalty on classes that cover less than a share μ of what the prior says.

    Formula: $\sum_c \max(0, \mu\tau_c - \hat\tau_c)$, the mean over images, or once for τ̂ and τ averaged over the
        batch
    Range: [0, μ]
    Minimum: 0, wherever every class has at least μτ
    Collapse: prevented for classes with τ > 0, but a class whose p is 0 in float32 gets no gradient
    Source: Vu et al., ADVENT, CVPR 2019, class-ratio priors, with μ = 0.5; the released code lacks it

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        prior: τ, ``[k]`` for every image, or ``[b, k]``, one for each.
        mu: μ in [0, 1]; 0 asks for nothing, 1 for the whole prior.
        over: see :func:`class_ratio_kl`.

    Returns:
        Scalar.

    Raises:
        PriorError: wrong number of classes or images; a prior that is negative or does not sum to 1; μ outside
            [0, 1].

    Example:
        One 2×2 image, p of class 0 being ½, ¾, ¾ and 1, so τ̂ = (¾, ¼). With the prior (0.2, 0.8) class 1 should
        cover at least 0.4 and lacks 0.15.

        >>> import torch
        >>> p = torch.tensor([[0.5, 0.75], [0.75, 1.0]])
        >>> logits = torch.stack([p, 1 - p])[None].clamp_min(1e-30).log()
        >>> round(float(class_ratio_hinge(logits, torch.tensor([0.2, 0.8]))), 4)
        0.15
    """
    if not 0 <= mu <= 1:
        raise PriorError(f"mu is {mu}", expected="a number from 0 to 1; published: 0.5")
    prediction = predicted(logits)
    prior = aligned(prediction.log_p, prior, "the prior")
    ratio = class_ratio(prediction)
    if over == "batch":
        ratio, prior = ratio.mean(0, keepdim=True), prior.mean(0, keepdim=True)
    return (mu * prior - ratio).clamp_min(0).sum(1).mean()


def size_cross_entropy(
    logits: Predicted, sizes: Ratio, kind: Kind = "mean", power: float = 1.0
) -> Scalar:
    r"""Cross-entropy of the predicted class ratio with the label distribution predicted for the image.

    Formula: $-\frac1B\sum_b\sum_c a_c\log\hat\tau_c$, a the ``sizes``; equals the entropy of a plus KL(a‖τ̂)
    Range: [H(a), ∞)
    Minimum: H(a), the entropy of the sizes, where τ̂ = a in every image
    Collapse: none onto one class; classes with a = 0 are left alone
    Source: Zhang, David & Gong, Curriculum Domain Adaptation, ICCV 2017, and TPAMI 2019

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        sizes: a, the share of each class, ``[k]`` for every image, or ``[b, k]``, one for each.
        kind: see :func:`class_ratio`; the paper takes ``max_normalized``.
        power: see :func:`class_ratio`; the paper takes 5.

    Returns:
        Scalar.

    Raises:
        PriorError: wrong number of classes or images; sizes that are negative or do not sum to 1.

    Example:
        One 2×2 image, p of class 0 being ½, ¾, ¾ and 1, so τ̂ = (¾, ¼); with sizes (½, ½):
        ½ log 4/3 + ½ log 4 = 0.837.

        >>> import torch
        >>> p = torch.tensor([[0.5, 0.75], [0.75, 1.0]])
        >>> logits = torch.stack([p, 1 - p])[None].clamp_min(1e-30).log()
        >>> round(float(size_cross_entropy(logits, torch.tensor([0.5, 0.5]))), 4)
        0.837
    """
    prediction = predicted(logits)
    sizes = aligned(prediction.log_p, sizes, "sizes")
    return -(sizes * log_class_ratio(prediction, kind, power)).sum(1).mean()


class _LogSum(Function):
    """log Σ_x p_c(x), ``[b, k]``; keeps log p alone, and one tensor of its size is made each way."""

    @staticmethod
    def forward(ctx: Any, log_p: Tensor) -> Tensor:
        log_sum = _log_sum(log_p)
        ctx.save_for_backward(log_p, log_sum)
        return log_sum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        log_p, log_sum = ctx.saved_tensors
        gradient: Tensor = (log_p - _over_pixels(log_sum, log_p)).exp_()
        return gradient.mul_(_over_pixels(slope, log_p))


class _LogSumRelative(Function):
    """log Σ_x (p_c(x) / max_j p_j(x))^power, ``[b, k]``; classes that share a maximum share its gradient."""

    @staticmethod
    def forward(ctx: Any, log_p: Tensor, power: float) -> Tensor:
        log_sum = _log_sum((log_p - log_p.amax(1, keepdim=True)).mul_(power))
        ctx.save_for_backward(log_p, log_sum)
        ctx.power = power
        return log_sum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        log_p, log_sum = ctx.saved_tensors
        top = log_p.amax(1, keepdim=True)
        gradient = (log_p - top).mul_(ctx.power).sub_(_over_pixels(log_sum, log_p)).exp_()
        gradient.mul_(_over_pixels(ctx.power * slope, log_p))
        return gradient.sub_(winners(log_p).mul_(gradient.sum(1, keepdim=True))), None


def _log_sum(values: Tensor) -> Tensor:
    """log Σ exp of ``[b, k, *s]`` over the pixels."""
    axes = tuple(range(2, values.dim()))
    top = values.amax(axes, keepdim=True)
    return (values - top).exp_().sum(axes).log_().add_(top.flatten(1))


def _over_pixels(ratio: Tensor, like: Tensor) -> Tensor:
    """``[b, k]`` shaped to meet ``[b, k, *s]``."""
    return ratio.reshape(*ratio.shape, *[1] * (like.dim() - 2))


def log_mean(log_ratio: Tensor) -> Tensor:
    """Logarithm of the mean ratio of the images, ``[1, k]``."""
    return log_ratio.logsumexp(0, keepdim=True) - math.log(log_ratio.shape[0])


def aligned(log_p: Tensor, prior: Tensor, name: str) -> Tensor:
    """The prior as ``[b, k]``, in the kind of number and on the device of the prediction."""
    batch, classes = log_p.shape[:2]
    if prior.shape not in ((classes,), (batch, classes)):
        raise PriorError(
            f"{name} has shape {tuple(prior.shape)}",
            expected=f"({classes},) for all images or ({batch}, {classes}), one row an image",
            fix="make the prior for the classes of this model",
        )
    if readable(prior):
        distribution = bool(((prior >= 0).all(-1) & ((prior.sum(-1) - 1).abs() < 1e-3)).all())
        if not distribution:
            raise PriorError(
                f"{name} is no distribution over the classes: {shown(prior)}",
                expected="shares of the image, none negative, that sum to 1",
                fix="divide pixel counts by the pixels of the image",
            )
    return prior.detach().to(log_p).expand(batch, classes)


def _check_eps(prior: Tensor, eps: float) -> None:
    """Refuse what would make the logarithm of the prior infinite."""
    if not eps >= 0:
        raise PriorError(f"eps is {eps}", expected="0 or more; published: 1e-10")
    if eps == 0 and readable(prior) and bool((prior <= 0).any()):
        raise PriorError(
            "the prior has a zero, which makes prediction_to_prior infinite",
            expected="every class above 0, or eps > 0",
            fix="set eps=1e-10 (a hard suppression) or use prior_to_prediction",
        )


def shown(values: Tensor) -> str:
    """The first of a few rows, in figures that fit a line."""
    row = values.detach().reshape(-1, values.shape[-1])[0]
    return "[" + ", ".join(f"{float(v):.4g}" for v in row[:20]) + "]"
