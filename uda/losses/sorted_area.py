"""Areas: as many sure pixels of each class as there should be."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from uda.losses.closed_form import with_gradient
from uda.losses.constraints import aligned, check_fractions
from uda.losses.inspection import readable
from uda.losses.prediction import Predicted, predicted
from uda.types import Ratio, Scalar


def sorted_area(logits: Predicted, areas: Ratio) -> Scalar:
    r"""Squared distance of a class's sorted probabilities from a step that has the wanted area.

    Formula: $\frac{1}{BKN}\sum_{b,c}\sum_i \left(\mathrm{sort}(p_c)_i - r_{c,i}\right)^2$, r_c = 0 … 0 1 … 1 with
        round(a_c N) ones
    Range: [0, 1]
    Minimum: each class is sure of exactly its area's number of pixels, and of no other
    Collapse: none to one class; which pixels fill the area is left to the network as it stands
    Source: Fong et al., Understanding deep networks via extremal perturbations and smooth masks, ICCV 2019

    Unlike :func:`size_bounds` it is not content with a faint prediction everywhere. Equal probabilities at the
    step's edge share it, so the order of the pixels does not matter.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        areas: a as fractions of the image, ``[k]`` for every image or ``[b, k]``.

    Raises:
        PriorError: areas of another shape or outside [0, 1].

    Example:
        A 2×2 image with p = 1, 1/2, 1/2, 0 for class 1, of which one pixel is wanted: sorted 0, 1/2, 1/2, 1
        against 0, 0, 0, 1, so 2 · 1/4 / 4; the other class likewise.

        >>> import torch
        >>> one = torch.tensor([[100.0, 0.0], [0.0, -100.0]])
        >>> logits = torch.stack([torch.zeros(2, 2), one]).unsqueeze(0)
        >>> float(sorted_area(logits, torch.tensor([0.75, 0.25])))
        0.125
    """
    prediction = predicted(logits)
    wanted = aligned("areas", prediction, areas)
    check_fractions("area", wanted)
    p = prediction.p.detach().flatten(2)
    gradient = torch.empty_like(p)
    # image by image, because to select takes several times the memory of what it selects from
    values = [_area(*given) for given in zip(p, wanted, gradient, strict=True)]
    value = torch.stack(values).mean()
    return with_gradient(prediction.log_p, value, gradient.div_(len(values)).view(prediction.shape))


@torch.no_grad()
def _area(p: Tensor, area: Tensor, gradient: Tensor) -> Tensor:
    """Mean squared distance of one image's ``[k, n]``; its gradient by log p is written into ``gradient``.

    Let s(x) be the step seen from the pixels: 1 above the m-th largest p, and where p equals it the share f
    that makes the sum m. The sorted distance is Σ p² − 2 Σ s p + m, whose gradient by p is 2 (p − s).
    """
    ones = (area * p.shape[1]).round()
    # to select is faster, but has to wait for the rank
    nth_largest = _nth_by_selecting if readable(p) else _nth_by_sorting
    edge = nth_largest(p, ones).unsqueeze(1)
    above, at_edge = p > edge, p == edge
    equal = at_edge.sum(1, dtype=p.dtype)
    share = (ones - above.sum(1, dtype=p.dtype)) / equal.clamp_min(1)
    torch.where(at_edge, share.unsqueeze(1), above.to(p), out=gradient)
    torch.sub(p, gradient, out=gradient)
    # Σ (p − s)² counts a shared edge with f² where the sorted distance has f
    distance = gradient.square().sum(1) + equal * share * (1 - share)
    gradient.mul_(p).mul_(2 / p.numel())
    return distance.sum() / p.numel()


def _nth_by_sorting(p: Tensor, counts: Tensor) -> Float[Tensor, "k"]:
    """The ``counts``-th largest of each row of ``[k, n]``; infinity where the count is 0."""
    places = (counts.long() - 1).clamp_min(0).unsqueeze(1)
    found = p.sort(1, descending=True).values.gather(1, places).squeeze(1)
    return found.where(counts > 0, math.inf)


def _nth_by_selecting(p: Tensor, counts: Tensor) -> Float[Tensor, "k"]:
    """The same."""
    edges = [
        _select(row, count) if count else row.new_tensor(math.inf)
        for row, count in zip(p, counts.int().tolist(), strict=True)
    ]
    return torch.stack(edges)


def _select(row: Tensor, count: int) -> Tensor:
    """The ``count``-th largest of values of 0 or more.

    The leading 14 bits of such a float sort as the float does. Counted, they leave one bin to search.
    """
    whole, spare = (torch.int64, 50) if row.dtype == torch.float64 else (torch.int32, 18)
    leading = (row.view(whole) >> spare).clamp_min(0)
    reached = torch.bincount(leading).flip(0).cumsum(0)
    place = int(torch.searchsorted(reached, count))
    inside = row[leading == len(reached) - 1 - place]
    return inside.kthvalue(int(reached[place]) - count + 1).values
