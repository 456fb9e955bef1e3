"""Which cases and slices to annotate: where several predictions of an image disagree, spread over kinds of images.

The *disagreement* of a case says how wrong its mask may be. Doubtful cases are chosen that resemble many other doubtful
ones: among few annotations typical cases teach more than strange ones. In a case, slices are taken that lie apart and
hold much of its disagreement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uda.errors import ConfigError
from uda.files.atomic import write_text
from uda.files.csv_files import csv_text
from uda.files.new import check_file
from uda.files.output import output_folder

Floats = NDArray[np.float64]
COLUMNS = ("rank", "case", "slice", "score", "why")
"""of the CSV file"""
NAMED = 3
"""Most cases that a reason lists by name."""


@dataclass(frozen=True)
class Opinions:
    """How far several predictions of one case agree, and what kind of image it is."""

    case: str
    slices: NDArray[np.int64]
    """``[s]`` indices along the file's own slice axis"""
    dice: Floats
    """Dice ``[s, m]`` of each structure in a slice (:func:`mean_dice`)"""
    share: Floats
    """share ``[s]`` of the pixels in dispute that a slice has (:func:`disputed_share`)"""
    features: Floats
    """``[d]`` mean features of the image"""

    @property
    def scores(self) -> Floats:
        r"""``[s]`` of each slice: :math:`\sqrt{u a}` of its disagreement ``u`` and its share ``a``.

        By ``u`` alone a slice that shows the tip of a structure would go before all others, by ``a`` alone the one that
        shows most of it.
        """
        return np.sqrt(disagreement(self.dice) * self.share)

    @property
    def doubt(self) -> float:
        """Mean disagreement of the slices that show a structure; 1 where none does, as if it was missed."""
        shown = np.isfinite(self.dice).any(1)
        return float(disagreement(self.dice)[shown].mean()) if shown.any() else 1.0


@dataclass(frozen=True)
class Suggestion:
    """A slice to annotate."""

    rank: int
    """of its case, 1 first; the slices of a case follow one another, best first"""
    case: str
    slice: int
    """index along the file's own slice axis from 0; 0 for a photograph"""
    score: float
    """of :attr:`Opinions.scores`, 0 to 1"""
    why: str

    @property
    def row(self) -> tuple[int, str, int, str, str]:
        """A line of the CSV file (:data:`COLUMNS`)."""
        return self.rank, self.case, self.slice, f"{self.score:.4f}", self.why


def mean_dice(counts: Floats) -> Floats:
    """Dice ``[s, m]`` of each structure between one prediction and ``v`` others; the mean over these.

    Args:
        counts: ``[v, s, m, 2]`` pixels that both show as the structure, and the sum of both sizes.

    Returns:
        NaN where no prediction shows the structure.

    Example:
        >>> counts = np.array([[[[3.0, 8.0], [0.0, 0.0]]], [[[4.0, 8.0], [0.0, 2.0]]]])  # 2 others, 1 slice
        >>> mean_dice(counts)
        array([[0.875, 0.   ]])
    """
    both, sizes = counts[..., 0], counts[..., 1]
    shown = sizes > 0
    dice = np.where(shown, 2 * both / np.maximum(sizes, 1), 0.0).sum(0)
    return np.where(shown.any(0), dice / np.maximum(shown.sum(0), 1), np.nan)


def disagreement(dice: Floats) -> Floats:
    """1 − the mean Dice ``[s]`` of the structures shown; 0 where none is.

    Source: Talks & Kreshuk, Ranking pre-trained segmentation models for zero-shot transferability, 2025: Dice between
    predictions of an image and of its changed copies, there to rank models, here to rank images.

    Example:
        >>> disagreement(np.array([[0.9, 0.5], [np.nan, 0.25], [np.nan, np.nan]]))
        array([0.3 , 0.75, 0.  ])
    """
    shown = np.isfinite(dice)
    found: Floats = np.where(shown, 1 - dice, 0.0).sum(1) / np.maximum(shown.sum(1), 1)
    return found


def disputed_share(counts: Floats) -> Floats:
    r"""What each slice ``[s]`` has of :math:`1 - \text{Dice}` of the whole case, as shares of 1; 0 where all agree.

    That is :math:`\sum_i d_i / \sum_i n_i` of the pixels ``d`` of slice ``i`` that one prediction alone shows as the
    structure and the sum ``n`` of both sizes, so the part of slice ``i`` is :math:`d_i / \sum_i n_i`: its mean over
    structures and other predictions.

    Args:
        counts: as of :func:`mean_dice`.

    Example:
        >>> disputed_share(np.array([[[[3.0, 8.0]], [[1.0, 8.0]]]])).tolist()  # 2 and 6 pixels of 16
        [0.25, 0.75]
    """
    both, sizes = counts[..., 0], counts[..., 1]
    parts = ((sizes - 2 * both) / np.maximum(sizes.sum(1, keepdims=True), 1)).mean((0, 2))
    shares: Floats = parts / max(float(parts.sum()), 1e-12)
    return shares


def similarity(features: Floats) -> Floats:
    r"""How alike images are ``[n, n]``: :math:`\exp(-d^2/m^2)`, with the median ``m`` of their distances ``d``.

    Args:
        features: ``[n, d]``; each is scaled to unit standard deviation over the images first.

    Example:
        >>> similarity(np.array([[0.0], [0.0], [3.0]])).round(3)
        array([[1.   , 1.   , 0.368],
               [1.   , 1.   , 0.368],
               [0.368, 0.368, 1.   ]])
    """
    sd = features.std(0)
    varies = sd > 1e-9 * np.abs(features).max(initial=1e-300)
    scaled = features[:, varies] / sd[varies]
    squares = np.square(scaled).sum(1)
    distance2 = np.maximum(squares[:, None] + squares - 2 * scaled @ scaled.T, 0)
    np.fill_diagonal(distance2, 0)
    apart = distance2[distance2 > 1e-9]
    alike: Floats = np.exp(-distance2 / (np.median(apart) if len(apart) else 1.0))
    return alike


def chosen_cases(doubt: Floats, alike: Floats, count: int) -> list[int]:
    r"""Greedy choice of cases whose annotation settles most of the doubt about all cases.

    Case ``i`` settles :math:`v_{ij} = s_{ij} \min(u_i, u_j)` of the doubt ``u`` about case ``j``: as much as the two
    are alike, and no more than ``i`` shows itself. The doubt that all chosen ones settle is the facility location
    :math:`\sum_j \max_{i \in \text{chosen}} v_{ij}`, of which a greedy choice reaches 63 % at the least.

    Args:
        doubt: ``[n]`` 0 or more; all 0 counts as all 1.
        alike: ``[n, n]`` from 0 to 1, as of :func:`similarity`.
        count: cases to choose; fewer where there are fewer.

    Returns:
        their indices, the most useful one first.

    Source: representative images among uncertain ones: Yang et al., Suggestive Annotation, MICCAI 2017; the facility
    location: Wei, Iyer & Bilmes, Submodularity in Data Subset Selection and Active Learning, ICML 2015; typical before
    strange ones where annotations are few: Hacohen, Dekel & Weinshall (TypiClust), ICML 2022. The minimum is ours.

    Example:
        Case 2 is the most doubtful, but case 1 resembles the other two, and is doubtful, too:

        >>> alike = np.array([[1.0, 0.8, 0.0], [0.8, 1.0, 0.5], [0.0, 0.5, 1.0]])
        >>> chosen_cases(np.array([0.4, 0.4, 0.5]), alike, 2)
        [1, 2]
        >>> chosen_cases(np.array([0.4, 0.1, 0.5]), alike, 1)
        [2]
    """
    doubt = doubt if doubt.any() else np.ones_like(doubt)
    settles = alike * np.minimum(doubt[:, None], doubt)
    settled, chosen = np.zeros(len(doubt)), list[int]()
    for _ in range(min(count, len(doubt))):
        gain = np.maximum(settles - settled, 0).sum(1)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        settled = np.maximum(settled, settles[chosen[-1]])
    return chosen


def spread_slices(doubt: Floats, at: NDArray[np.int64], count: int) -> list[int]:
    r"""Greedy choice of slices with much doubt that lie apart.

    Each next one has the largest :math:`u_i \min_{j \in \text{chosen}} (1 - \exp(-(z_i - z_j)^2/h^2))` of its doubt
    ``u`` and its place ``z``, where ``h`` is half the length of the stack over ``count``.

    Args:
        doubt: ``[s]`` 0 or more; all 0 counts as all 1.
        at: ``[s]`` distinct places along the slice axis.
        count: slices to choose; fewer where there are fewer.

    Returns:
        indices into ``doubt``, the first chosen one first.

    Example:
        >>> doubt = np.array([0.1, 0.8, 0.9, 0.7, 0.1, 0.1, 0.4, 0.1])
        >>> spread_slices(doubt, np.arange(8), 2)  # not 1, the neighbour
        [2, 6]
    """
    doubt = doubt if doubt.any() else np.ones_like(doubt)
    reach = (int(at.max()) - int(at.min()) + 1) / (2 * count)
    apart, chosen = np.ones(len(doubt)), list[int]()
    for _ in range(min(count, len(doubt))):
        value = doubt * apart
        value[chosen] = -1
        chosen.append(int(value.argmax()))
        apart = np.minimum(apart, 1 - np.exp(-(((at - at[chosen[-1]]) / reach) ** 2)))
    return chosen


def suggestions(
    opinions: Sequence[Opinions],
    structures: Sequence[str],
    k: int = 3,
    slices: int = 3,
    others: str = "views",
) -> list[Suggestion]:
    """The slices to annotate, the most useful case first, and in each case the most doubtful slice first.

    Args:
        opinions: of every case.
        structures: names ``m``.
        k: number of cases to suggest.
        slices: number of slices in each of them.
        others: what the model was compared with, in words.

    Raises:
        ConfigError: fewer than one case or slice is asked for.
    """
    check_counts(k, slices)
    doubt = np.array([one.doubt for one in opinions])
    alike = similarity(np.stack([one.features for one in opinions]))
    chosen = chosen_cases(doubt, alike, k)
    nearest = alike[chosen].argmax(0)
    found = []
    for rank, index in enumerate(chosen):
        one = opinions[index]
        like = [i for i in np.argsort(-alike[index], kind="stable") if i not in chosen]
        like = [i for i in like if nearest[i] == rank]
        place = 1 + int((doubt > doubt[index]).sum())
        told = (
            f"case: disagreement {doubt[index]:.2f}, number {place} of {len(opinions)}"
            f"{_like([opinions[i].case for i in like])}"
        )
        for at in _slices(one, slices):
            why = f"slice: {_slice(one, at, structures, others)}; {told}"
            score = float(one.scores[at])
            found.append(Suggestion(rank + 1, one.case, int(one.slices[at]), score, why))
    return found


def check_counts(k: int, slices: int) -> None:
    """Refuse to suggest nothing.

    Raises:
        ConfigError: fewer than one case or slice is asked for.
    """
    for what, count in (("cases", k), ("slices", slices)):
        if count < 1:
            raise ConfigError(f"{count} {what} are asked for", expected="1 or more")


def check_place(path: Path) -> None:
    """Refuse a place where another file is than one that uda wrote, before work that takes long.

    Raises:
        DataError: there is one, or a folder.
        RunError: another process works in the folder.
    """
    check_file(path)
    with output_folder(path.parent) as ledger:
        ledger.check([path])


def write_suggestions(path: Path, found: Sequence[Suggestion]) -> None:
    """Write ``rank,case,slice,score,why``, a line each; a file that uda wrote there is replaced.

    Raises:
        DataError: another file has the place.
        RunError: writing fails, or another process works in the folder.
    """
    with output_folder(path.parent) as ledger:
        ledger.check([path])
        write_text(path, csv_text([COLUMNS, *(one.row for one in found)]))


def _slices(one: Opinions, count: int) -> list[int]:
    """Which rows of a case; of prepared slices that show one slice of the file the most doubtful."""
    order = np.lexsort((-one.scores, one.slices))
    at, first = np.unique(one.slices[order], return_index=True)
    rows = order[first]
    return [int(rows[i]) for i in spread_slices(one.scores[rows], at, count)]


def _slice(one: Opinions, at: int, structures: Sequence[str], others: str) -> str:
    """The agreement in one slice, in words."""
    dice = one.dice[at]
    shown = np.flatnonzero(np.isfinite(dice))
    if not len(shown):
        return "no structure is found"
    least = shown[dice[shown].argmin()]
    told = f"{others} agree by Dice {dice[shown].mean():.2f}"
    told += f" (on {structures[least]} by {dice[least]:.2f})"
    return told if len(one.dice) == 1 else f"{told}, {100 * one.share[at]:.0f} % of the dispute"


def _like(names: Sequence[str]) -> str:
    """The cases that a case stands for, in words."""
    if not names:
        return ""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"; stands for {', '.join(names[:NAMED])}{more}"
