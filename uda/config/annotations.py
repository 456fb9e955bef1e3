"""Kinds of annotations, and the ledger's word for each."""

from __future__ import annotations

from typing import Literal

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
