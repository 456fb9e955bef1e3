"""The rules that make a finding on a set of photographs a fault or a note.

fault
    equal photographs       equal in every pixel, in two splits that must not overlap
note
    equal photographs       in one split, or in two that may overlap
    class nowhere           no label shows the class
    squeezed                prepare.size changes an image's aspect ratio by over 5 %
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from uda.check.layout import APART
from uda.config.card import DatasetCard
from uda.errors import DataError

SQUEEZED = 1.05
SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Place:
    """A photograph and its splits."""

    name: str
    splits: tuple[str, ...]
    path: Path


def never_shown(showing: Mapping[str, int], labels: int, card: DatasetCard) -> list[DataError]:
    """A note for classes that no label shows.

    Args:
        showing: number of images that show each class.
        labels: number of labels that were read.
    """
    never = [name for name in card.classes if not showing.get(name)]
    if not never or not labels:
        return []
    return [
        DataError(
            f"no pixel of {', '.join(never)} in {labels:,} labels",
            where=f"card {card.name!r}, classes",
            expected="every class in some label: a class that the source never shows cannot be learnt",
            fix="correct the card's label_values or colors if the files do show it",
        )
    ]


def squeezed(sizes: Mapping[tuple[int, int], int], card: DatasetCard) -> list[DataError]:
    """A note for photographs whose aspect ratio changes in preparation.

    Args:
        sizes: (rows, columns) → number of files.
    """
    rows, columns = card.prepare.size
    factors = {(h, w): w * rows / (h * columns) for h, w in sizes}
    odd = [size for size, factor in factors.items() if max(factor, 1 / factor) > SQUEEZED]
    if not odd:
        return []
    odd.sort(key=lambda size: -sizes[size])
    height, width = odd[0]
    listed = ", ".join(f"{h}×{w} ({sizes[h, w]:,})" for h, w in odd[:SHOWN])
    more = f" and {len(odd) - SHOWN} sizes more" if len(odd) > SHOWN else ""
    return [
        DataError(
            f"{sum(sizes[size] for size in odd):,} images change their proportions when they are prepared; "
            f"rows×columns: {listed}{more}",
            where=f"card {card.name!r}, prepare.size [{rows}, {columns}]",
            expected=f"columns / rows near {width / height:.3g}, as in the files; it is {columns / rows:.3g}",
            fix=f"set prepare.size: [{rows}, {round(rows * width / height)}], unless this is intended",
        )
    ]


def equal_photographs(same: Sequence[Place]) -> tuple[DataError, bool]:
    """A finding for photographs that are equal in every pixel, and whether it is a fault."""
    fault = any(_apart(one.splits, other.splits) for one, other in combinations(same, 2))
    listed = ", ".join(f"{place.name} ({', '.join(place.splits)})" for place in same[:SHOWN])
    more = f" and {len(same) - SHOWN} more" if len(same) > SHOWN else ""
    finding = DataError(
        f"{len(same)} photographs are equal to the last pixel: {listed}{more}",
        where=same[0].path,
        fix="remove all but one from the splits; a score on a training image means nothing"
        if fault
        else "keep one of them, unless it should count more often",
    )
    return finding, fault


def _apart(first: Iterable[str], second: Iterable[str]) -> bool:
    return any((a, b) in APART or (b, a) in APART for a in first for b in second)
