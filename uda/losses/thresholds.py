"""Class-balanced thresholds, streamed: how sure a network has to be of each class, over any number of images."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from uda.errors import DataError, PriorError
from uda.losses.confidence import check_maps, confidences, first
from uda.losses.prediction import Predicted, predicted

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
            check_maps(maps)
        cells = self.counts.view(-1)
        rows = BINS * torch.arange(classes, device=raw.device)
        for relative, least, winner in confidences(raw, maps):
            if maps is not None:
                best = relative.amax(1)
                least, winner = least - best, first(relative == best.unsqueeze(1))
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
