"""The grid CRF of Marin et al., CVPR 2019: α-expansion finds the labels, cross-entropy teaches them.

The minimum cuts come from PyMaxflow (``pip install "uda-seg[maxflow]"``), which is under the GNU General Public License
(GPL-3.0). Nothing else of ``uda`` needs it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from types import EllipsisType, ModuleType
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from uda.errors import ConfigError, DataError
from uda.losses.inspection import readable
from uda.losses.prediction import Predicted, Prediction, most_likely, predicted
from uda.losses.supervised import partial_cross_entropy
from uda.types import IGNORE, Image, Labels, Scalar

POTTS = 80.0
"""Weight of the pairs in the code of Marin et al., for photographs of 321×321 pixels."""
CYCLES = 5
"""Most passes over the classes, as there."""
RADII = (4, 8)
"""How many pixels around those that gain a cut is sought among first, and how many more the next times."""
MOST = 0.5
"""Share of all that may switch from which on they are all taken."""


def grid_crf(
    logits: Predicted,
    image: Image,
    seeds: Labels,
    potts: float = POTTS,
    sigma: float | None = None,
    spacing: Sequence[float] | None = None,
    cycles: int = CYCLES,
) -> Scalar:
    r"""Cross-entropy to the labels of least CRF energy: one round of the alternating direction method.

    Formula: $-\frac{1}{BN}\sum_{b,x}\log p_{y(x)}(x)$ with y of :func:`grid_crf_labels`, a constant
    Range: [0, ∞)
    Minimum: every pixel one-hot at its label, where the labels follow the prediction itself
    Collapse: without seeds one class everywhere is a minimum; the seeds hold their classes, but a large ``potts`` can
        still shrink a structure to its seeds
    Source: Marin et al., Beyond gradient descent for regularized segmentation losses, CVPR 2019, eq. 7 to 9 (ADM), in
        the limit in which the labels are hard

    The labels are found anew in each call, on the CPU. Pair it with :func:`partial_cross_entropy` at the seeds.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        image, seeds, potts, sigma, spacing, cycles: see :func:`grid_crf_labels`.

    Returns:
        Scalar, in nats.

    Raises:
        DataError, ConfigError: see :func:`grid_crf_labels`.

    Example:
        Three pixels in a row with p = ¾, 0.4 and ¾ for class 0. To give the middle one to class 1 saves
        log(0.6/0.4) = 0.41 and costs two pairs of weight 1, so that it stays in class 0: −(2 log ¾ + log 0.4) / 3.

        >>> import torch
        >>> p = torch.tensor([[[0.75, 0.4, 0.75]]])
        >>> logits = torch.cat([p, 1 - p]).unsqueeze(0).log()
        >>> seeds = torch.full((1, 1, 3), 255)
        >>> round(float(grid_crf(logits, torch.zeros(1, 1, 1, 3), seeds, potts=1.0)), 4)
        0.4972
    """
    prediction = predicted(logits)
    labels = grid_crf_labels(prediction, image, seeds, potts, sigma, spacing, cycles)
    return partial_cross_entropy(prediction, labels)


@torch.no_grad()
def grid_crf_labels(
    logits: Predicted,
    image: Image,
    seeds: Labels,
    potts: float = POTTS,
    sigma: float | None = None,
    spacing: Sequence[float] | None = None,
    cycles: int = CYCLES,
) -> Int64[Tensor, "b *s"]:
    r"""Labels of low CRF energy that agree with the seeds, by α-expansion.

    Formula: $\arg\min_y -\sum_x\log p_{y(x)}(x) + \lambda\sum_{\{x,x'\}} \frac{1}{|x - x'|}
        \exp\left(-\frac{|I_x - I_{x'}|^2}{2\sigma^2}\right) [y(x) \ne y(x')]$ over the pairs of neighbours (8 in 2-D,
        26 in 3-D), with y the seed's label at the seeds
    Source: Marin et al., CVPR 2019, sec. 4 (ADM with grid CRF); Boykov, Veksler & Zabih, PAMI 2001 (α-expansion)

    For two classes the labels are the optimum. For more, no expansion of one class lowers the energy further unless
    ``cycles`` ends the search, which starts from each pixel's most likely class and never raises the energy.

    It takes log-probabilities as well as logits. The cuts are computed on the CPU, image after image, over the pixels
    whose neighbours could outvote their own −log p; all others cannot change and stay out of the graph.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        image: I ``[b, c, *s]``, the guidance; squared differences are summed over channels.
        seeds: ``[b, *s]``, 0 … k−1 at scribbles or points, IGNORE elsewhere.
        potts: λ.
        sigma: σ in the image's unit; by default σ² is each image's mean |I_x − I_x'|² over its pairs.
        spacing: size of a pixel along each axis, in any unit; distances are in units of the smallest. A pair across
            thick slices then weighs less. By default 1 along all axes.
        cycles: most passes over the classes.

    Returns:
        Labels ``[b, *s]``, int64, on the device of the logits.

    Raises:
        DataError: an image or seeds of another shape, an image that is not finite, a seed that is no class.
        ConfigError: PyMaxflow is not installed; a weight, width, spacing or number that is not positive.

    Example:
        Two rows, undecided between two classes, with one seed of each. The cut follows the edge of the image.

        >>> import torch
        >>> image = torch.tensor([[[[0.0, 0.0, 0.1, 5.0], [0.1, 0.0, 0.0, 5.0]]]])
        >>> seeds = torch.tensor([[[0, 255, 255, 255], [255, 255, 255, 1]]])
        >>> grid_crf_labels(torch.zeros(1, 2, 2, 4), image, seeds)
        tensor([[[0, 0, 0, 1],
                 [0, 0, 0, 1]]])
    """
    maxflow = _maxflow()
    prediction = predicted(logits)
    if cycles < 1:
        raise ConfigError(f"cycles is {cycles}", expected="a whole number of at least 1")
    edges = _edges(prediction.shape, image, potts, sigma, spacing)
    start = _start(prediction, seeds)
    cost = prediction.log_p.detach().flatten(2).neg().cpu().numpy()
    free = (seeds == IGNORE).flatten(1).cpu().numpy()
    labels = start.flatten(1).cpu().numpy()
    weights, steps = _flat(edges, len(labels), prediction.shape[2:])
    for found, own_cost, own_weights, own_free in zip(labels, cost, weights, free, strict=True):
        grid = _Grid(own_cost, own_weights, steps, own_free, found)
        _minimise(grid, cycles, maxflow)
    return torch.from_numpy(labels).view(start.shape).to(prediction.logits.device)


@torch.no_grad()
def grid_crf_energy(
    labels: Labels,
    logits: Predicted,
    image: Image,
    potts: float = POTTS,
    sigma: float | None = None,
    spacing: Sequence[float] | None = None,
) -> Float[Tensor, "b"]:
    """Energy of labels, which :func:`grid_crf_labels` minimises, for each image, in float64.

    Source: Marin et al., CVPR 2019, sec. 4

    Args:
        labels: ``[b, *s]``, 0 … k−1.
        logits, image, potts, sigma, spacing: see :func:`grid_crf_labels`.

    Raises:
        DataError: labels or an image of another shape, a label that is no class.
        ConfigError: see :func:`grid_crf_labels`.

    Example:
        Three undecided pixels in a row: 3 log 2, and two pairs that disagree at a weight of 2.

        >>> import torch
        >>> labels = torch.tensor([[[0, 1, 0]]])
        >>> flat = torch.zeros(1, 1, 1, 3)
        >>> float(grid_crf_energy(labels, torch.zeros(1, 2, 1, 3), flat, potts=2.0) - 3 * torch.tensor(2.0).log())
        4.0
    """
    prediction = predicted(logits)
    _check_labels(
        "labels", prediction.shape, labels, (labels >= 0) & (labels < prediction.shape[1])
    )
    chosen = prediction.log_p.gather(1, labels.long().unsqueeze(1)).double()
    energy = -chosen.flatten(1).sum(1)
    for here, there, weight in _edges(prediction.shape, image, potts, sigma, spacing):
        differ = labels[here] != labels[there]
        energy += weight.double().where(differ, 0.0).flatten(1).sum(1)
    return energy


Region: TypeAlias = tuple[EllipsisType | slice, ...]
Edge: TypeAlias = tuple[Region, Region, Tensor]


def _edges(
    shape: torch.Size,
    image: Tensor,
    potts: float,
    sigma: float | None,
    spacing: Sequence[float] | None,
) -> list[Edge]:
    """Both ends of every pair of neighbours, an offset and its opposite once, with the weights ``[b, …]``."""
    batch, _, *space = shape
    if image.shape[:1] != (batch,) or list(image.shape[2:]) != space:
        raise DataError(
            f"the image has shape {tuple(image.shape)}",
            expected=f"({batch}, channels, {', '.join(map(str, space))}), the pixels of the logits",
        )
    if readable(image) and not bool(image.isfinite().all()):
        raise DataError("the image has values that are not finite", fix="repair the image file")
    sizes = [1.0] * len(space) if spacing is None else list(spacing)
    _check_settings(potts, sigma, sizes, len(space))
    guide = image.detach()
    guide = guide if guide.dtype == torch.float64 else guide.float()
    found = []
    for here, there, distance in _pairs(space, sizes):
        found.append((here, there, distance, (guide[here] - guide[there]).square_().sum(1)))
    width = _squared_width(found, guide, sigma)
    edges = []
    for here, there, distance, squared in found:
        across = width.view(-1, *[1] * len(space))
        # an image without any contrast has equal weights
        weight = squared.div_(across.where(across > 0, 1.0)).mul_(-0.5).exp_()
        edges.append((here, there, weight.mul_(potts / distance)))
    return edges


def _squared_width(
    found: list[tuple[Region, Region, float, Tensor]], guide: Tensor, sigma: float | None
) -> Float[Tensor, "b"]:
    """σ², given or of each image."""
    if sigma is not None:
        return guide.new_full((len(guide),), sigma**2)
    total = guide.new_zeros(len(guide))
    count = 0
    for _, _, _, squared in found:
        total += squared.flatten(1).sum(1)
        count += squared[0].numel()
    return total / max(count, 1)


def _pairs(space: Sequence[int], sizes: Sequence[float]) -> Iterator[tuple[Region, Region, float]]:
    """Regions of both ends, and the distance between them in units of the smallest size."""
    for offset in product((-1, 0, 1), repeat=len(space)):
        fits = all(abs(o) < size for o, size in zip(offset, space, strict=True))
        if offset > (0,) * len(space) and fits:
            here = [slice(max(-o, 0), n - max(o, 0)) for o, n in zip(offset, space, strict=True)]
            there = [slice(max(o, 0), n - max(-o, 0)) for o, n in zip(offset, space, strict=True)]
            distance = math.dist(
                [o * s for o, s in zip(offset, sizes, strict=True)], [0] * len(space)
            )
            yield (..., *here), (..., *there), distance / min(sizes)


def _start(prediction: Prediction, seeds: Tensor) -> Int64[Tensor, "b *s"]:
    """The seeds, and elsewhere the most likely class; of two classes the first, which one cut then improves to the
    optimum.
    """
    classes = prediction.shape[1]
    unknown = seeds == IGNORE
    _check_labels("seeds", prediction.shape, seeds, unknown | ((seeds >= 0) & (seeds < classes)))
    if classes == 2:
        return seeds.long().masked_fill(unknown, 0)
    return most_likely(prediction.log_p.detach()).where(unknown, seeds.long())


def _flat(edges: list[Edge], batch: int, space: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Weights ``[b, o, n]`` at the first end of each pair, 0 where it has no partner, and how far off the second is."""
    place = torch.arange(math.prod(space)).view(*space)
    weights = torch.zeros(batch, len(edges), *space)
    steps = []
    for number, (here, there, weight) in enumerate(edges):
        weights[:, number][here] = weight.to(weights)
        steps.append(int(place[there].flatten()[0] - place[here].flatten()[0]))
    return weights.flatten(2).numpy(), np.array(steps, dtype=np.int64)


class _Grid:
    """One image and its labels so far, all over the n pixels in a row.

    Args:
        cost: −log p ``[k, n]``.
        weight: of each pixel and the one ``step`` later ``[o, n]``; 0 where there is none.
        step: ``[o]``, above 0.
        free: pixels that are no seeds ``[n]``.
        labels: ``[n]``, changed in place.
    """

    def __init__(
        self,
        cost: np.ndarray,
        weight: np.ndarray,
        step: np.ndarray,
        free: np.ndarray,
        labels: np.ndarray,
    ) -> None:
        self.cost, self.weight, self.step, self.free, self.labels = cost, weight, step, free, labels
        self.own = np.take_along_axis(cost, labels[None], axis=0)[0]
        """cost of the labels"""
        self.reach = self._sums(disagreeing=False)
        """sum of the weights to all neighbours"""
        self.cut = self._sums(disagreeing=True)
        """sum of the weights to neighbours with another label"""

    def _sums(self, disagreeing: bool) -> np.ndarray:
        sums: np.ndarray = np.zeros_like(self.own)
        for step, weight in zip(self.step, self.weight, strict=True):
            counted = weight[:-step]
            if disagreeing:
                counted = counted * (self.labels[:-step] != self.labels[step:])
            sums[:-step] += counted
            sums[step:] += counted
        return sums

    def near(self, places: np.ndarray) -> np.ndarray:
        """All neighbours of pixels, the later ones first, ``[2 o, m]``; at a border others, at a weight of 0."""
        ways = np.concatenate([self.step, -self.step])
        near: np.ndarray = (places + ways[:, None]) % self.labels.size
        return near

    def around(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same, and the weights to them."""
        near = self.near(places)
        earlier = near[len(self.step) :]
        ahead, behind = self.weight[:, places], np.take_along_axis(self.weight, earlier, axis=1)
        return near, np.concatenate([ahead, behind]).astype(np.float64)

    def relabel(self, places: np.ndarray, label: int) -> bool:
        """Give pixels a label if that lowers the energy."""
        near, weight = self.around(places)
        moved = np.zeros(self.labels.size, dtype=bool)
        moved[places] = True
        together = moved[near]
        before, after = self.labels[near] != self.labels[places], self.labels[near] != label
        # a pair that moves as a whole agrees afterwards, and is met from both ends
        change = weight * np.where(together, -0.5 * before, 1.0 * after - before)
        unary = self.cost[label, places].astype(np.float64) - self.own[places]
        if not unary.sum() + change.sum() < 0:
            return False
        self.labels[places] = label
        self.own[places] = self.cost[label, places]
        if 8 * places.size > self.labels.size:
            self.cut = self._sums(disagreeing=True)
        else:
            touched = np.unique(np.concatenate([places, near.ravel()]))
            near, weight = self.around(touched)
            self.cut[touched] = (weight * (self.labels[near] != self.labels[touched])).sum(0)
        return True


def _minimise(grid: _Grid, cycles: int, maxflow: ModuleType) -> None:
    """Expand class after class, the frequent ones first, until none lowers the energy."""
    classes = len(grid.cost)
    order = np.bincount(grid.labels, minlength=classes).argsort()[::-1].tolist()
    order = [1] if classes == 2 else order if classes > 2 else []
    quiet = 0
    for alpha in order * cycles:
        switch = _expansion(grid, alpha, maxflow)
        # after its own expansion a class has nothing more to gain
        quiet = 1 if switch.size and grid.relabel(switch, alpha) else quiet + 1
        if quiet == len(order):
            return


def _expansion(grid: _Grid, alpha: int, maxflow: ModuleType) -> np.ndarray:
    """The pixels that take class α in the best expansion of it.

    With s = 1 where a pixel switches to α, the move costs u(x) s(x), summed, and for each pair of pixels that may
    switch w |s − s'| if their labels are the same. If they differ it costs w (1 − s s') = w − w/2 (s + s') +
    w/2 |s − s'|, the middle of which goes into u. Only a pixel whose u is negative gives a reason to switch, so the
    cut is sought near those. It leaves out the pairs that lead away from there, which cost nothing at the least. If
    no pixel at such a pair switches, they do cost nothing, and no other pixel can gain: the cut is that of the whole
    image. Otherwise the search goes on in a wider neighbourhood, in the end among all pixels that may switch.
    """
    change = grid.cost[alpha] - grid.own
    # from there on no neighbours can outvote the pixel
    movable = grid.free & (grid.labels != alpha) & (change < grid.reach)
    move = _Move(grid, alpha, change, movable)
    suspects = np.flatnonzero(movable & (change < grid.cut))
    gaining = suspects[move.unary(suspects, *grid.around(suspects)) < 0]
    inside = np.zeros_like(movable)
    inside[gaining] = True
    nodes = front = gaining
    for radius in RADII:
        if not front.size:
            return nodes
        for _ in range(radius):
            near = grid.near(front)
            near = near[movable[near] & ~inside[near]]
            inside[near] = True
            front = np.unique(near)
        nodes = front = np.flatnonzero(inside)
        if nodes.size > MOST * np.count_nonzero(movable):
            break
        switched, leaving = move.cut(nodes, inside, maxflow)
        nodes, front = nodes[switched], nodes[switched & leaving]
    if front.size:
        nodes = np.flatnonzero(movable)
        nodes = nodes[move.cut(nodes, movable, maxflow)[0]]
    return nodes


@dataclass(frozen=True)
class _Move:
    """An expansion of class α: what it changes in −log p ``[n]``, and which pixels it may move ``[n]``."""

    grid: _Grid
    alpha: int
    change: np.ndarray
    movable: np.ndarray

    def unary(self, places: np.ndarray, near: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """u of pixels, given what is around them."""
        labels, own = self.grid.labels[near], self.grid.labels[places]
        same = labels == own
        share = np.where(self.movable[near], 0.5 * same - 0.5, 1.0 * same - (labels == self.alpha))
        cost: np.ndarray = self.change[places] + (weight * share).sum(0)
        return cost

    def cut(
        self, nodes: np.ndarray, inside: np.ndarray, maxflow: ModuleType
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which nodes switch in the minimum cut among them, and which are at a pair that was left out."""
        near, weight = self.grid.around(nodes)
        unary = self.unary(nodes, near, weight)
        known = inside[near]
        leaving = (self.movable[near] & ~known & (weight > 0)).any(0)
        later = slice(len(self.grid.step))
        linked = known[later] & (weight[later] > 0)
        first = np.nonzero(linked)[1]
        ends = near[later][linked]
        same = self.grid.labels[ends] == self.grid.labels[nodes[first]]
        capacity = weight[later][linked] * np.where(same, 1.0, 0.5)
        place = np.empty(inside.size, dtype=np.int64)
        place[nodes] = np.arange(nodes.size)
        graph = maxflow.Graph[float](nodes.size, first.size)
        ids = graph.add_grid_nodes((nodes.size,))
        graph.add_edges(first, place[ends], capacity, capacity)
        graph.add_grid_tedges(ids, unary.clip(0), (-unary).clip(0))
        graph.maxflow()
        return graph.get_grid_segments(ids), leaving


def _maxflow() -> ModuleType:
    """PyMaxflow, which is imported where it is needed."""
    try:
        import maxflow
    except ModuleNotFoundError as error:
        raise ConfigError(
            "the grid CRF needs PyMaxflow, which is not installed",
            fix='pip install "uda-seg[maxflow]"',
        ) from error
    module: ModuleType = maxflow
    return module


def _check_labels(name: str, shape: torch.Size, labels: Tensor, sound: Tensor) -> None:
    batch, classes, *space = shape
    if labels.shape != (batch, *space):
        raise DataError(
            f"the {name} have shape {tuple(labels.shape)}",
            expected=f"{(batch, *space)}, one label for each pixel of the logits",
        )
    if readable(labels) and not bool(sound.all()):
        wrong = sorted(set(labels[~sound].tolist()))
        none = f", or {IGNORE} for none" if name == "seeds" else ""
        raise DataError(
            f"the {name} hold {', '.join(map(str, wrong[:5]))}",
            expected=f"0 … {classes - 1} for the {classes} classes{none}",
        )


def _check_settings(potts: float, sigma: float | None, sizes: Sequence[float], axes: int) -> None:
    widths = {"potts": potts} | ({} if sigma is None else {"sigma": sigma})
    for name, value in widths.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"{name} is {value}", expected="a positive number")
    if len(sizes) != axes or not all(0 < size < math.inf for size in sizes):
        raise ConfigError(
            f"spacing is {list(sizes)}", expected=f"{axes} positive numbers, one for each axis"
        )
