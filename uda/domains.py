"""The two domains of a recipe: their cards, cases, content hashes and stores."""

from __future__ import annotations

from pathlib import Path

from uda.cards import DatasetCard
from uda.config import Recipe
from uda.data.cases import Case, cases_of
from uda.data.store import Store, content_key, open_store
from uda.errors import ConfigError, DataError
from uda.recipes import load_card


class Domains:
    """The cards of a recipe, their cases, their content hashes and their stores."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        self.recipe, self.out = recipe, out
        self.source, self.target = load_card(recipe.data.source), load_card(recipe.data.target)
        if self.source.classes != self.target.classes:
            raise ConfigError(
                f"source and target name other classes: {list(self.source.classes)} and "
                f"{list(self.target.classes)}",
                where=f"cards {self.source.name!r} and {self.target.name!r}",
                expected="the same names in the same order",
            )
        for setting in ("size", "slab"):
            values = [getattr(card.prepare, setting) for card in (self.source, self.target)]
            if values[0] != values[1]:
                raise ConfigError(
                    f"source slices are {values[0]}, target slices {values[1]}",
                    where=f"cards {self.source.name!r} and {self.target.name!r}",
                    expected=f"one prepare.{setting}",
                )
        self._keys: dict[tuple[str, str, bool], str] = {}

    @property
    def root(self) -> Path:
        if self.recipe.data.phantom is not None:
            return self.out / "phantom"
        if self.recipe.data.root is None:
            raise DataError(
                f"recipe {self.recipe.name!r} does not know where the data are",
                fix="add data.root=FOLDER to the command",
            )
        return Path(self.recipe.data.root)

    def cases(self, card: DatasetCard, split: str, labels: bool) -> list[Case]:
        return cases_of(card, self.root, split, labels=labels)

    def key(self, card: DatasetCard, split: str, labels: bool) -> str:
        place = (card.name, split, labels)
        if place not in self._keys:
            self._keys[place] = content_key(card, self.cases(card, split, labels))
        return self._keys[place]

    def store(self, card: DatasetCard, split: str, labels: bool) -> Store:
        key = self.key(card, split, labels)
        return open_store(card, self.cases(card, split, labels), self.out / "store", key)
