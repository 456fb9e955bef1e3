"""Kinds of annotations, and the ledger's word for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from uda.errors import ConfigError, nearest

Kind = Literal["points", "scribbles", "boxes", "partial", "labels"]
LABELS: tuple[Kind, ...] = ("labels", "scribbles", "points", "partial")
"""kinds that say the class of pixels; where two speak of one pixel, the first of them decides"""
LEDGER: dict[Kind, str] = {
    "points": "target_points",
    "scribbles": "target_scribbles",
    "boxes": "target_boxes",
    "partial": "target_partial",
    "labels": "target_few_labels",
}
"""what a row has used that trains on a kind"""


def kinds_named(words: Sequence[str]) -> tuple[Kind, ...]:
    """The kinds of these names.

    Raises:
        ConfigError: a name is none of them.
    """
    if unknown := [word for word in words if word not in LEDGER]:
        raise ConfigError(
            f"there are no annotations of kind {unknown[0]!r}", expected=nearest(unknown[0], LEDGER)
        )
    return tuple(kind for kind in LEDGER if kind in words)
