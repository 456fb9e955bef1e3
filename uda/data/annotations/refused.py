"""Cases that may not be annotated, because scores are computed on them: their annotations would leak into the score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from uda.config.card import DatasetCard
from uda.data.cases import Case


@dataclass(frozen=True)
class Judging:
    """A split of a card on which scores are computed."""

    card: str
    split: str
    images: Mapping[Path, str]
    """image file, wherever links lead → its case"""


def refused_cases(
    card: DatasetCard, cases: Iterable[Case], judging: Iterable[Judging]
) -> dict[str, str]:
    """Case → why it may not be annotated: by its name on the same card, or because its image is one that judges.

    Args:
        card: of the annotated cases.
        cases: that could be annotated.

    Example:
        >>> from uda.config.loading import load_card
        >>> card = load_card("cmrseg_lge")
        >>> scans = Path("/scans")
        >>> test = Judging("cmrseg_lge", "test", {scans / "p01.nii.gz": "p01"})
        >>> cases = [Case("p11", scans / "p11.nii.gz"), Case("p12", scans / "p01.nii.gz")]
        >>> sorted(refused_cases(card, cases, [test]))
        ['p01', 'p12']
    """
    refused: dict[str, str] = {}
    places = {one.name: one.image.resolve() for one in cases}
    for one in judging:
        why = f"it is of split {one.split!r} of card {one.card!r}, and its annotation would leak into the score"
        if one.card == card.name:
            refused |= {Path(case).name: why for case in one.images.values()}
        refused |= {case: why for case, image in places.items() if image in one.images}
    return refused
