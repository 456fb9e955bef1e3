"""The target that annotations belong to: its card, the grids of its cases, and cases that may not be annotated."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from uda.config.card import DatasetCard
from uda.data.annotations.grids import Grid


@dataclass(frozen=True, eq=False)
class Target:
    """What annotations are compared with."""

    card: DatasetCard
    grids: Mapping[str, Grid]
    """by case: those that may be annotated"""
    refused: Mapping[str, str] = field(default_factory=dict)
    """case → why it may not be annotated, such as a case on which scores are computed"""
    others: Collection[str] = ()
    """further cases, whose annotations are passed over"""

    def case_of(self, file: str) -> str:
        """The case of an image's file, without its ending: what is drawn on an image is often called like its file.

        Example:
            >>> from uda.config.loading import load_card
            >>> grids = {"aachen_000019": Grid((512, 1024), file="aachen_000019_leftImg8bit")}
            >>> target = Target(load_card("cityscapes"), grids)
            >>> target.case_of("aachen_000019_leftImg8bit"), target.case_of("aachen_000019")
            ('aachen_000019', 'aachen_000019')
        """
        return self._of_files.get(file, file) if file not in self.grids else file

    @cached_property
    def _of_files(self) -> dict[str, str]:
        return {grid.file: case for case, grid in self.grids.items() if grid.file}

    def class_index(self, name: str) -> int | None:
        """The index of a class by its name: as the card writes it, or in other letters if that is one class.

        Example:
            >>> from uda.config.loading import load_card
            >>> target = Target(load_card("cmrseg_lge"), {})
            >>> target.class_index("lv"), target.class_index("LV"), target.class_index("liver")
            (2, 2, None)
        """
        return class_index(name, self.card)


def class_index(name: str, card: DatasetCard) -> int | None:
    """The same for a card."""
    if name in card.classes:
        return card.classes.index(name)
    alike = [i for i, known in enumerate(card.classes) if known.casefold() == name.casefold()]
    return alike[0] if len(alike) == 1 else None
