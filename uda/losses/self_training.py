"""Self-training: which pixels of the target a network may teach itself, and what keeps it from growing too sure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from uda.errors import DataError, PriorError
from uda.losses.class_ratio import Direction, Over
from uda.losses.inspection import readable
from uda.losses.prediction import Predicted, predicted
from uda.types import IGNORE, Labels, Scalar

BINS = 1 << 16
"""one for each pattern of the 16 leading bits of a float32"""
_ZERO = BINS // 2  # the bin that begins at v = 0
_FINITE = slice(_ZERO - 0x7F80, _ZERO + 0x7F80)  # bins of all finite numbers
_INFINITE = _ZERO + 0x7F80


class ConfidenceHistogram:
    r"""How sure the network is of each class, counted over any number of images in fixed memory.

    Formula: $\theta_c$ = the confidence $q_c$ at rank $\lfloor n_c\cdot\text{portion}\rfloor$ among the
        $n_c$ pixels that are predicted as $c$, most confident first
    Source: Zou et al., CBST, ECCV 2018 (class-balanced thresholds); Zou et al., CRST, ICCV 2019

    A pixel is predicted as the class with the largest q, where q = p or, with spatial maps, p times the map
    (CBST-SP: not normalised again). Its confidence is counted as v = −log q, in bins that hold the 16 leading
    bits of the float32 v: each is at most 1/128 of v wide, so 1 − p = 1e-9 is told from 1 − p = 2e-9 as well as
    p = 0.4 from p = 0.8. A threshold is the far edge of its bin, so that all pixels of that bin are kept.
    Pixels where the maps forbid every class are not counted. Images may differ in size.

    Args:
        classes: number of classes K.
        device: where to count; the device of the logits.

    Example:
        A 2×2 image: three pixels of class 0 with p = 0.9, 0.8, 0.6, and one of class 1 with p = 0.7. Half of
        each class: rank ⌊3 · 0.5⌋ = 1, the second of class 0; rank ⌊1 · 0.5⌋ = 0, the only one of class 1.

        >>> import torch
        >>> p = torch.tensor([[0.9, 0.8], [0.6, 0.3]])
        >>> histogram = ConfidenceHistogram(2)
        >>> histogram.add(torch.stack([p, 1 - p]).log()[None])
        >>> histogram.log_thresholds(0.5).exp()
        tensor([0.7996, 0.6995])
        >>> histogram.counts.sum(1)
        tensor([3, 1])
    """

    def __init__(self, classes: int, device: torch.device | str | None = None) -> None:
        self.counts: Int[Tensor, "k bins"] = torch.zeros(
            classes, BINS, dtype=torch.int64, device=device
        )

    @torch.no_grad()
    def add(self, logits: Predicted, maps: Float[Tensor, "..."] | None = None) -> None:
        """Count the pixels of one batch.

        Args:
            logits: ``[b, k, *s]``, or a :class:`Prediction`.
            maps: spatial prior of each class, ``[k, *s]`` or ``[b, k, *s]``, non-negative; 1 changes nothing.

        Raises:
            DataError: another number of classes.
            PriorError: maps of another shape, or with a value that is negative or not finite.
        """
        raw = predicted(logits).logits
        classes = len(self.counts)
        if raw.shape[1] != classes:
            raise DataError(
                f"the logits have {raw.shape[1]} classes, the histogram counts {classes}",
                fix="make one histogram for each model",
            )
        if maps is not None:
            _check(maps)
        cells = self.counts.view(-1)
        rows = BINS * torch.arange(classes, device=raw.device)
        for relative, least, winner in _confidence(raw, maps):
            if maps is not None:
                best = relative.amax(1)
                least, winner = least - best, _first(relative == best.unsqueeze(1))
            index = (_bin(least) + rows[winner]).flatten()
            cells.index_add_(0, index, cells.new_ones(()).expand_as(index))

    def merge(self, other: ConfidenceHistogram) -> None:
        """Add what another histogram counted.

        Raises:
            DataError: it counted another number of classes.
        """
        if self.counts.shape != other.counts.shape:
            raise DataError(
                f"histograms of {len(self.counts)} and of {len(other.counts)} classes do not add up",
                fix="merge histograms of one model",
            )
        self.counts += other.counts.to(self.counts.device)

    def log_thresholds(self, portion: float) -> Float[Tensor, "k"]:
        """log θ of each class, so that ``portion`` of its pixels are kept (one more, and all of the last bin).

        Returns:
            ``[k]``; +∞ for a class that is predicted nowhere: it gets no pseudo-label.

        Raises:
            PriorError: the portion is not in [0, 1].
            DataError: a prediction was not a number.
        """
        if not 0 <= portion <= 1:
            raise PriorError(
                f"a portion of {portion} of the pixels", expected="a number from 0 to 1"
            )
        counts, total = self.counts[:, _FINITE], self.counts.sum(1)
        known, forbidden = counts.sum(1), self.counts[:, _INFINITE]
        if bool((known + forbidden != total).any()):
            raise DataError(
                f"{int((total - known - forbidden).sum())} pixels have a prediction that is not a number",
                fix="look at the model's weights and at the images for values that are not finite",
            )
        rank = (known.double() * portion).floor().long().minimum(known - 1)
        found = torch.searchsorted(counts.cumsum(1), rank.unsqueeze(1), right=True).squeeze(1)
        edge = _upper_edge(found + _FINITE.start)
        return (-edge).where(known > 0, math.inf)


class PseudoLabeler:
    r"""Labels for the pixels where some class is more confident than its threshold.

    Formula: $\hat y = \arg\max_c q_c/\theta_c$ where $\max_c q_c/\theta_c \ge 1$, else IGNORE
    Source: Zou et al., CBST, ECCV 2018; soft labels: Zou et al., CRST, ICCV 2019 (LRENT)

    The winner by $q/\theta$ need not be the winner by $q$: where the most likely class falls short of its
    threshold, a class with a lower one may take the pixel. Every pixel that :class:`ConfidenceHistogram` counts
    within a class's threshold is kept, if perhaps by another class. No gradient flows.

    Args:
        log_thresholds: log θ, ``[k]``; +∞ for a class that never gets a label, −∞ is refused.
        maps: spatial prior as in :meth:`ConfidenceHistogram.add`, ``[k, *s]`` or ``[b, k, *s]``.

    Raises:
        PriorError: thresholds that are −∞ or not a number, or maps that do not fit.

    Example:
        A 2×2 image of two classes with θ = (0.8, 0.4). p of class 0 is 0.9, 0.7, 0.5, 0.3. The first pixel passes
        as class 0 (0.9/0.8). The second fails: 0.7/0.8 and 0.3/0.4 are both below 1. The last two pass as class 1.

        >>> import torch
        >>> p = torch.tensor([[0.9, 0.7], [0.5, 0.3]])
        >>> labeler = PseudoLabeler(torch.tensor([0.8, 0.4]).log())
        >>> labeler(torch.stack([p, 1 - p]).log()[None])
        tensor([[[  0, 255],
                 [  1,   1]]])
    """

    def __init__(
        self, log_thresholds: Float[Tensor, "k"], maps: Float[Tensor, "..."] | None = None
    ) -> None:
        if readable(log_thresholds) and not bool((log_thresholds > -math.inf).all()):
            raise PriorError(
                f"log thresholds {log_thresholds.tolist()}",
                expected="finite numbers, or +inf for a class that gets no label",
                fix="take them from ConfidenceHistogram.log_thresholds",
            )
        self.log_thresholds = log_thresholds
        self.maps = maps
        if maps is not None:
            _check(maps)

    def __call__(self, logits: Predicted) -> Labels:
        """The same as :meth:`hard`."""
        return self.hard(logits)

    @torch.no_grad()
    def hard(self, logits: Predicted) -> Labels:
        """Label of each pixel, ``[b, *s]`` int64 with IGNORE."""
        raw = predicted(logits).logits
        labels = []
        for score in self._scores(raw):
            best = score.amax(1)
            labels.append(_first(score == best.unsqueeze(1)).where(best >= 0, IGNORE))
        return torch.cat(labels, 1).view(raw.shape[0], *raw.shape[2:])

    @torch.no_grad()
    def soft(self, logits: Predicted, alpha: float) -> Float[Tensor, "b k *s"]:
        r"""CRST's soft labels: $y_c \propto (q_c/\theta_c)^{1/\alpha}$ on the pixels :meth:`hard` keeps, 0 elsewhere.

        Args:
            logits: ``[b, k, *s]``, or a :class:`Prediction`.
            alpha: above 0; the smaller, the harder.

        Raises:
            PriorError: alpha is not above 0.
        """
        if not alpha > 0:
            raise PriorError(
                f"alpha = {alpha}",
                expected="a number above 0",
                fix="PseudoLabeler.hard gives the limit of small alpha",
            )
        raw = predicted(logits).logits
        labels = []
        for score in self._scores(raw):
            best = score.amax(1, keepdim=True)
            y = score.sub_(best).div_(alpha).softmax(1)
            labels.append(y.masked_fill_(~(best >= 0), 0.0))
        return torch.cat(labels, 2).view(raw.shape)

    def _scores(self, logits: Tensor) -> Iterator[Tensor]:
        """log q − log θ by parts ``[b, k, n]``."""
        if logits.shape[1:2] != self.log_thresholds.shape:
            raise PriorError(
                f"{len(self.log_thresholds)} thresholds for logits of {logits.shape[1]} classes",
                fix="make the thresholds with the model that is adapted",
            )
        log_theta = self.log_thresholds.to(logits.device, torch.float32).view(1, -1, 1)
        for relative, least, _ in _confidence(logits, self.maps):
            # log q first, as the histogram reckons it, so that both agree on the last bit
            yield relative.sub_(least.unsqueeze(1)).sub_(log_theta)


def _confidence(logits: Tensor, maps: Tensor | None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """log q = r − v, for as many pixels at a time as a cache holds: r ``[b, k, n]``, v and argmax p ``[b, n]``.

    v = −log max p = log(1 + Σ exp(z_c − z_max)) over the other classes, which does not round to 0 before exp does;
    r is z_c − z_max, plus log map where there are maps.
    """
    flat = logits.detach().flatten(2)
    batch, classes, pixels = flat.shape
    if maps is not None:
        if maps.shape not in (logits.shape, logits.shape[1:]):
            raise PriorError(
                f"maps of shape {tuple(maps.shape)} for logits of shape {tuple(logits.shape)}",
                expected=f"{tuple(logits.shape[1:])}, or {tuple(logits.shape)} with one set an image",
                fix="bring the maps to the grid and to the classes of the logits",
            )
        maps = maps.to(flat.device).reshape(-1, classes, pixels)
    step = max(1, (1 << 22 if flat.is_cuda else 1 << 18) // (batch * classes))
    for start in range(0, pixels, step):
        part = slice(start, start + step)
        z = flat[..., part].float()
        relative = z - z.amax(1, keepdim=True)
        winner = _first(relative == 0)
        others, *rest = relative.exp().scatter_(1, winner.unsqueeze(1), 0.0).unbind(1)
        for other in rest:  # one by one: the order of sum() depends on the number of pixels
            others += other
        if maps is not None:
            relative += maps[..., part].to(relative).log()
        yield relative, others.log1p_(), winner


def _first(hit: Tensor) -> Tensor:
    """Index of the first class that hits, ``[b, k, n]`` → ``[b, n]``; the last where none does."""
    classes = hit.shape[1]
    # as an amax of bytes: argmax over an axis that is not the last is 10 times slower on the CPU
    kind = torch.uint8 if classes <= IGNORE else torch.int32
    rest = torch.arange(classes - 1, -1, -1, dtype=kind, device=hit.device).view(1, -1, 1)
    return classes - 1 - (hit * rest).amax(1).long()


def _check(maps: Tensor) -> None:
    """Whether maps can weigh probabilities."""
    if readable(maps) and not (float(maps.amin()) >= 0 and float(maps.amax()) < math.inf):
        raise PriorError(
            "the maps hold a value that is negative or not finite",
            expected="how likely each class is at each pixel, 0 or more",
        )


def _bin(v: Tensor) -> Tensor:
    """Bin of v: the leading half of its bits, in an integer that rises with v."""
    bits = (v + 0.0).view(torch.int32)  # + 0 makes one zero of −0 and 0
    return (bits ^ (bits >> 31 & 0x7FFFFFFF)).long().bitwise_right_shift_(16).add_(_ZERO)


def _upper_edge(index: Tensor) -> Tensor:
    """The largest v of a bin."""
    bits = ((index - _ZERO << 16) + 0xFFFF).int()
    return (bits ^ (bits >> 31 & 0x7FFFFFFF)).view(torch.float32)


def portion_at(
    round: int,  # noqa: A002
    start: float = 0.2,
    step: float = 0.05,
    limit: float = 0.5,
) -> float:
    r"""Share of each class's pixels that gets a pseudo-label in a round of self-training, rounds counted from 0.

    Formula: $\min(\text{start} + \text{round}\cdot\text{step}, \text{limit})$
    Source: Zou et al., CBST, ECCV 2018: from 20 % in steps of 5 % to 50 %

    Example:
        >>> [round(portion_at(n), 2) for n in (0, 1, 6, 7)]
        [0.2, 0.25, 0.5, 0.5]
    """
    return min(start + round * step, limit)


def mrkld(logits: Predicted, mask: Bool[Tensor, "b *s"] | None = None) -> Scalar:
    r"""Divergence of the prediction from the uniform one: it keeps self-training from growing too sure.

    Formula: $\frac{1}{N}\sum_x\left(-\frac1K\sum_c\log p_c(x) - \log K\right)$, over the pixels of the mask
    Range: [0, ∞)
    Minimum: every pixel uniform
    Collapse: alone it forgets everything that was learned; weigh it small beside pseudo-labels
    Source: Zou et al., CRST, ICCV 2019 (MRKLD: model regularisation by the KL divergence)

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        mask: pixels that count, ``[b, *s]``: those with a pseudo-label. When none counts the value is 0, with a
            gradient of 0.

    Returns:
        Scalar, in nats.

    Raises:
        DataError: the mask does not have one value a pixel.

    Example:
        A 2×2 image of two classes: two pixels p = (3/4, 1/4), each −½ log(3/16) − log 2 = 0.1438; two undecided.

        >>> import math, torch
        >>> logits = torch.zeros(1, 2, 2, 2)
        >>> logits[0, 0, 0] = math.log(3)
        >>> round(float(mrkld(logits)), 4)
        0.0719
        >>> round(float(mrkld(logits, logits[:, 0] > 0)), 4)
        0.1438
    """
    prediction = predicted(logits)
    pixel = -prediction.log_p.mean(1) - math.log(prediction.shape[1])
    if mask is None:
        return pixel.mean()
    if mask.shape != pixel.shape:
        raise DataError(
            f"the mask has shape {tuple(mask.shape)}", expected=f"{tuple(pixel.shape)}, one a pixel"
        )
    return pixel.where(mask, 0.0).sum() / mask.sum().clamp_min(1)


def spatial_prior_kl(
    logits: Predicted,
    maps: Float[Tensor, "k *s"] | Float[Tensor, "b k *s"],
    direction: Direction = "prior_to_prediction",
    over: Over = "batch",
    eps: float = 1e-10,
) -> Scalar:
    r"""Divergence, pixel by pixel, between what is predicted there and how often each class is there.

    Formula: $\frac1N\sum_x\sum_c\pi_c(x)\left(\log\pi_c(x)-\log\bar p_c(x)\right)$, or with p̄ and π exchanged in
        the direction ``prediction_to_prior``; p̄ is p averaged over the batch, or p of each image
    Range: [0, ∞), above 0 by −K·eps at the least in the direction ``prediction_to_prior``
    Minimum: p̄ = π at every pixel
    Collapse: over single images the minimum is the prior itself, whatever the image shows; over the batch only the
        mean of the images is held to it
    Source: the spatial prior of Zou et al., CBST, ECCV 2018 (CBST-SP), as a term of the loss

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        maps: π, frequency of each class at each pixel, ``[k, *s]`` for all images or ``[b, k, *s]``; sums to 1 over
            classes.
        direction: ``prior_to_prediction`` leaves classes with π = 0 alone; ``prediction_to_prior`` suppresses them
            with the slope −log eps.
        over: ``batch``: p and π are averaged over the batch, pixel by pixel, first; ``image``: each image by itself.
        eps: added to π inside the logarithm of ``prediction_to_prior``.

    Returns:
        Scalar, in nats: the mean over pixels, and over images where they count by themselves.

    Raises:
        PriorError: maps of another shape, that are not frequencies, or with a 0 where it makes the value infinite.

    Example:
        A 2×2 image, undecided between two classes. The upper row is known to be class 0 (log 2 a pixel), the lower
        row is either (0): (2 · 0.6931 + 2 · 0) / 4.

        >>> import torch
        >>> maps = torch.tensor([[[1.0, 1.0], [0.5, 0.5]], [[0.0, 0.0], [0.5, 0.5]]])
        >>> round(float(spatial_prior_kl(torch.zeros(1, 2, 2, 2), maps)), 4)
        0.3466
    """
    prediction = predicted(logits)
    maps = _frequencies(prediction.shape, maps).to(prediction.log_p)
    log_p = prediction.log_p
    if over == "batch":
        maps = maps.mean(0, keepdim=True)
        if len(log_p) > 1:
            log_p = _LogMean.apply(log_p)
    pixels = log_p.numel() // log_p.shape[1]
    if direction == "prior_to_prediction":
        images = len(log_p) // len(maps)
        return (images * torch.xlogy(maps, maps).sum() - (maps * log_p).sum()) / pixels
    if eps == 0 and readable(maps) and bool((maps <= 0).any()):
        raise PriorError(
            "the maps have a zero, which makes prediction_to_prior infinite",
            expected="every class above 0 at every pixel, or eps > 0",
            fix="set eps=1e-10 (a hard suppression) or use prior_to_prediction",
        )
    value: Tensor = _Divergence.apply(log_p, (maps + eps).log())
    return value / pixels


def _frequencies(shape: torch.Size, maps: Tensor) -> Tensor:
    """The maps as ``[1, k, *s]`` or ``[b, k, *s]``."""
    if maps.shape not in (shape, shape[1:]):
        raise PriorError(
            f"maps of shape {tuple(maps.shape)} for logits of shape {tuple(shape)}",
            expected=f"{tuple(shape[1:])} for all images or {tuple(shape)}, one set an image",
            fix="bring the maps to the grid and to the classes of the model",
        )
    maps = maps if maps.dim() == len(shape) else maps.unsqueeze(0)
    if readable(maps) and not bool((maps >= 0).all() & ((maps.sum(1) - 1).abs() < 1e-3).all()):
        raise PriorError(
            "the maps are no frequencies: a value is negative, or a pixel does not sum to 1",
            expected="maps that sum to 1 over the classes at every pixel",
            fix="relative maps (divided by their spatial mean) are for PseudoLabeler, not for this loss",
        )
    return maps


class _LogMean(torch.autograd.Function):
    """Logarithm of the mean of p over the batch, keeping nothing but log p and the result."""

    @staticmethod
    def forward(ctx: Any, log_p: Tensor) -> Tensor:
        mean = log_p.logsumexp(0, keepdim=True).sub_(math.log(len(log_p)))
        ctx.save_for_backward(log_p, mean)
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        log_p, mean = ctx.saved_tensors
        share: Tensor = (log_p - mean).exp_()
        return share.mul_(gradient / len(log_p))


class _Divergence(torch.autograd.Function):
    """Σ p (log p − r), keeping nothing but log p."""

    @staticmethod
    def forward(ctx: Any, log_p: Tensor, log_reference: Tensor) -> Tensor:
        ctx.save_for_backward(log_p, log_reference)
        return (log_p - log_reference).mul_(log_p.exp()).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        log_p, log_reference = ctx.saved_tensors
        slope = (log_p - log_reference).add_(1.0).mul_(log_p.exp())
        return slope.mul_(gradient), None


def confidence_weight(
    logits: Predicted, kind: Literal["pixel", "image"], threshold: float = 0.968
) -> Float[Tensor, "b *s"]:
    r"""How far a teacher's prediction is to be trusted: a weight for each pixel, without a gradient.

    Formula: $\max_c p_c(x)$ (``pixel``), or the share of the image's pixels with $\max_c p_c >$ threshold (``image``)
    Range: [0, 1]
    Source: Tranheden et al., DACS, WACV 2021; Hoyer et al., DAFormer, CVPR 2022 (``image``)

    Args:
        logits: ``[b, k, *s]`` of the teacher, or a :class:`Prediction`.
        kind: ``pixel``, or ``image``: one value for all pixels of an image.
        threshold: above it a pixel is sure.

    Example:
        A 2×2 image of which one pixel is sure.

        >>> import torch
        >>> logits = torch.zeros(1, 2, 2, 2)
        >>> logits[0, 0, 0, 0] = 9.0
        >>> confidence_weight(logits, "image")
        tensor([[[0.2500, 0.2500],
                 [0.2500, 0.2500]]])
        >>> confidence_weight(logits, "pixel")
        tensor([[[0.9999, 0.5000],
                 [0.5000, 0.5000]]])
    """
    # taken outside no_grad, because another loss may need the gradient of the same log_p
    confidence = predicted(logits).log_p.detach().amax(1).exp_()
    if kind == "pixel":
        return confidence
    sure = (confidence > threshold).to(confidence)
    return sure.mean(list(range(1, sure.dim())), keepdim=True).expand_as(confidence)
