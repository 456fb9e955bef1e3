"""Self-training: which pixels of the target a network may teach itself, and what keeps it from growing too sure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from uda.errors import DataError, PriorError
from uda.losses.confidence import check_maps, confidences, first
from uda.losses.inspection import readable
from uda.losses.prediction import Predicted, predicted
from uda.types import IGNORE, Labels, Scalar


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
            check_maps(maps)

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
            labels.append(first(score == best.unsqueeze(1)).where(best >= 0, IGNORE))
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
        for relative, least, _ in confidences(logits, self.maps):
            # log q first, as the histogram reckons it, so that both agree on the last bit
            yield relative.sub_(least.unsqueeze(1)).sub_(log_theta)


def no_thresholds(classes: int, device: torch.device | str) -> Float[Tensor, "k"]:
    """Log thresholds that every pixel passes as its most likely class, whose p is 1/k or more.

    Example:
        >>> import torch
        >>> PseudoLabeler(no_thresholds(2, "cpu"))(torch.tensor([[[[0.0, 1.0]], [[0.1, 0.0]]]]))
        tensor([[[1, 0]]])
    """
    return torch.full((classes,), -math.log(classes) - 1, device=device)


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
