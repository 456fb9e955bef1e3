"""The two domains of a recipe: their cards, cases, content hashes and stores."""

from __future__ import annotations

from pathlib import Path

from uda.config.card import DatasetCard
from uda.config.loading import load_card
from uda.config.recipe import Data, Recipe
from uda.data.cases import Case, cases_of, folders_of_card
from uda.data.hashes import Hashes
from uda.data.sources import holds_both
from uda.data.store import Store, content_key, open_store
from uda.devices.distributed import first_then_all, on_first
from uda.errors import ConfigError, DataError, RunError


class Domains:
    """The cards of a recipe, their cases, their content hashes and their stores."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        self.recipe, self.out = recipe, out
        self.source, self.target = (
            sized(load_card(name), recipe.data) for name in (recipe.data.source, recipe.data.target)
        )
        if self.source.photos != self.target.photos:
            raise ConfigError(
                "one domain has photographs, the other volumes",
                where=f"cards {self.source.name!r} and {self.target.name!r}",
                expected="the same kind of images in both",
            )
        if self.source.classes != self.target.classes:
            raise ConfigError(
                f"source and target have different classes: {list(self.source.classes)} and "
                f"{list(self.target.classes)}",
                where=f"cards {self.source.name!r} and {self.target.name!r}",
                expected="the same names in the same order",
            )
        # Photographs of the two domains may differ in size, because no tensor holds both.
        for setting in () if self.source.photos else ("size", "slab"):
            values = [getattr(card.prepare, setting) for card in (self.source, self.target)]
            if values[0] != values[1]:
                raise ConfigError(
                    f"prepare.{setting} of the source is {values[0]}, of the target {values[1]}",
                    where=f"cards {self.source.name!r} and {self.target.name!r}",
                    expected="equal values",
                )
        self._hashes = Hashes(out / "store" / "hashes.json")
        self._keys: dict[tuple[str, str, bool], str] = {}
        self._read: dict[Path, str] = {}
        """SHA-256 of the files that this run has read, except files that hold images and labels"""

    @property
    def root(self) -> Path:
        if self.recipe.data.phantom is not None:
            return self.out / "phantom"
        if self.recipe.data.streets is not None:
            return self.out / "streets"
        if self.recipe.data.root is None:
            raise DataError(
                f"recipe {self.recipe.name!r} has no data folder",
                where="data.root",
                fix="add data.root=FOLDER to the command",
            )
        return Path(self.recipe.data.root)

    def folders(self) -> list[Path]:
        """The folders of the user's data; a rendered domain lies in the run's own folder."""
        if self.recipe.data.root is None:
            return []
        return [f for card in (self.source, self.target) for f in folders_of_card(card, self.root)]

    def cases(self, card: DatasetCard, split: str, labels: bool) -> list[Case]:
        return cases_of(card, self.root, split, labels=labels)

    def key(self, card: DatasetCard, split: str, labels: bool) -> str:
        """The content hash of a split.

        Raises:
            RunError: a file changed since the run first asked.
        """
        return on_first(lambda: self._key(card, split, labels))

    def _key(self, card: DatasetCard, split: str, labels: bool) -> str:
        cases = self.cases(card, split, labels)
        key = content_key(card, cases, self._hashes)
        self._hashes.save()
        paths = [path for one in cases for path in (one.image, one.label) if path]
        digests = {path: self._hashes.of(path) for path in paths if not holds_both(path)}
        changed = [path for path in digests if self._read.get(path, digests[path]) != digests[path]]
        if changed or key != self._keys.setdefault((card.name, split, labels), key):
            raise RunError(
                f"the data of {card.name}/{split} changed during the run",
                where=changed[0] if changed else self.root,
                expected="data that nobody edits: all rows of a table come from the same files",
                fix="run the same command again",
            )
        self._read |= digests
        return key

    def store(self, card: DatasetCard, split: str, labels: bool) -> Store:
        key = self.key(card, split, labels)
        cases, root = self.cases(card, split, labels), self.out / "store"
        workers = self.recipe.compute.workers
        return first_then_all(lambda: open_store(card, cases, root, key, workers, self._hashes))


def sized(card: DatasetCard, data: Data) -> DatasetCard:
    """The card with the recipe's ``data.size`` as size of its prepared photographs.

    Raises:
        ConfigError: the recipe sets ``data.size``, but the card has volumes.
    """
    if data.size is None:
        return card
    if not card.photos:
        raise ConfigError(
            f"data.size applies to photographs, but card {card.name!r} has volumes",
            where="data.size",
            fix="remove data.size and set prepare.size in the card",
        )
    prepare = card.prepare.model_copy(update={"size": data.size})
    return card.model_copy(update={"prepare": prepare})
