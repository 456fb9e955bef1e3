"""The two domains of a recipe: their cards, cases, content hashes and stores."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from os.path import isdir, isfile
from pathlib import Path

from uda.config.card import DatasetCard
from uda.config.loading import load_card
from uda.config.recipe import Adapt, Chosen, Data, Pretrain, Recipe
from uda.data.annotations.folder import Annotations, find_annotations, read_annotations
from uda.data.annotations.grids import grids_of
from uda.data.annotations.refused import Judging, refused_cases
from uda.data.cases import Case, Listing, cases_of, folders_of_card, image_path, names_of
from uda.data.hashes import Hashes
from uda.data.sources import holds_both
from uda.data.store import Store, content_key, open_store
from uda.devices.distributed import first_then_all, on_first
from uda.errors import ConfigError, DataError, RunError, nearest
from uda.files.stage_folder import STAGE_FILE

UNUSED = "unused"
"""split of the cases that a recipe's ``data.splits`` leaves out"""
MOST_NAMED = 5
"""cases that a message names at most"""


class Domains:
    """The cards of a recipe, their cases, their content hashes and their stores."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        self.recipe, self.out = recipe, out
        data = recipe.data
        self.source, self.target = (
            chosen(sized(load_card(name), data), roles, f"data.splits.{domain}")
            for domain, name, roles in (
                ("source", data.source, data.splits.source),
                ("target", data.target, data.splits.target),
            )
        )
        self.supervised = "adapt" if data.splits.target["train"] is None else "train"
        """the target's split whose labels train the row ``target_supervised``"""
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
        self._annotations: dict[tuple[str, str], Annotations] = {}
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

    @property
    def rendered(self) -> bool:
        """Whether a stage of the run makes the data."""
        return self.recipe.data.phantom is not None or self.recipe.data.streets is not None

    def folders(self) -> list[Path]:
        """The folders of the user's data; a rendered domain lies in the run's own folder."""
        if self.recipe.data.root is None:
            return []
        return [f for card in (self.source, self.target) for f in folders_of_card(card, self.root)]

    def check_splits(self) -> None:
        """Check the cases that the recipe chooses, as far as the data are there; rendered data may be older than it.

        Raises:
            ConfigError: a case plays two roles of which one must not know the other's labels.
            DataError: a chosen case has no file, or a pattern fits none.
        """
        for card, roles in (
            (self.source, self.recipe.data.splits.source),
            (self.target, self.recipe.data.splits.target),
        ):
            if not self.rendered and isdir(self.root / card.root):
                for role in (role for role, cases in roles.items() if cases is not None):
                    self.cases(card, role, labels=role != "adapt")
        if any(self.recipe.data.splits.source.values()):
            self._check_apart((self.source, "train"), (self.source, "validate"))
        for split in ("train", "validate"):  # the source may have images of the target
            self._check_apart((self.source, split), (self.target, "test"))
        if self.recipe.target_supervised:
            self._check_apart((self.target, self.supervised), (self.target, "test"))

    def _check_apart(self, *of: tuple[DatasetCard, str]) -> None:
        """Refuse cases of two splits whose labels would train, or select, a network that they are to judge."""
        (trains, trained), (judges, judged) = of
        if trained not in trains.splits or judged not in judges.splits:
            return
        with contextlib.suppress(
            DataError
        ):  # no file fits a pattern; the stage that needs it says so
            first, second = self._images(trains, trained), self._images(judges, judged)
            both = sorted(first.keys() & second.keys())
            if both:
                cards = " and ".join(dict.fromkeys(repr(card.name) for card in (trains, judges)))
                named = [" = ".join(dict.fromkeys((first[one], second[one]))) for one in both]
                raise ConfigError(
                    f"{len(both)} cases of card {cards} would train and judge the same network: "
                    f"{', '.join(named[:MOST_NAMED])}",
                    where=f"splits {trained!r} and {judged!r}",
                    expected="no case in both: a score on a training image means nothing",
                    fix="choose other cases with data.splits, or correct the card",
                )

    def _images(self, card: DatasetCard, split: str) -> dict[Path, str]:
        """The image files of a split, wherever links and names lead, with their cases."""
        folder = self.root / card.root
        listing: Listing = {}
        names = names_of(card, folder, split)
        return {image_path(card, folder, name, listing).resolve(): name for name in names}

    def cases(self, card: DatasetCard, split: str, labels: bool) -> list[Case]:
        return cases_of(card, self.root, split, labels=labels)

    def check_annotations(self, stages: Collection[str]) -> None:
        """Read what is marked for stages that have yet to run, before any training; rendered data may not be there.

        Raises:
            ConfigError, DataError: of :meth:`annotations`.
        """
        recipe = self.recipe
        of_source = {"pretrain": recipe.pretrain}
        of_source |= {f"pretrain-{name}": one for name, one in recipe.sources.items()}
        of_target = {f"adapt-{row}": variant for row, (_, variant) in recipe.variants.items()}
        groups: tuple[tuple[DatasetCard, str, Mapping[str, Pretrain | Adapt]], ...] = (
            (self.source, "train", of_source),
            (self.target, "adapt", of_target),
        )
        for card, split, trainings in () if self.rendered else groups:
            asking = [name for name, one in trainings.items() if one.annotations and name in stages]
            if any(not isfile(self.out / name / STAGE_FILE) for name in asking):
                self.annotations(card, split)

    def annotations(self, card: DatasetCard, split: str) -> Annotations:
        """What is marked on the cases of a split.

        Raises:
            ConfigError: the card names no annotations.
            DataError: lists every fault; an annotation of a case that judges the network is one, because a score on it
                would mean nothing.
        """
        if (card.name, split) not in self._annotations:
            self._annotations[card.name, split] = self._read_annotations(card, split)
        return self._annotations[card.name, split]

    def _read_annotations(self, card: DatasetCard, split: str) -> Annotations:
        if card.annotations is None:
            raise ConfigError(
                f"card {card.name!r} names no annotations",
                where=f"card {card.name!r}",
                fix="add `annotations: FOLDER` to the card, or leave `annotations` out of the recipe",
            )
        folder = self.root / card.root
        cases = self.cases(card, split, labels=False)
        judging = [
            Judging(judges.name, judged, self._images(judges, judged))
            for judges, judged in ((self.target, "test"), (self.source, "validate"))
            if judged in judges.splits
        ]
        refused = refused_cases(card, cases, judging)
        known = {Path(name).name for other in card.splits for name in names_of(card, folder, other)}
        files = find_annotations(folder / card.annotations, card.photos)
        return read_annotations(files, card, grids_of(cases, card), refused, known)

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


def chosen(card: DatasetCard, roles: Mapping[str, Chosen | None], where: str) -> DatasetCard:
    """The card with the recipe's cases as its splits of these names.

    Cases that no split names any more become the split ``unused``: tags may speak of them, and the phantom has them.

    Raises:
        ConfigError: the recipe names a split that the card does not have.
    """
    splits = dict(card.splits)
    for role, cases in roles.items():
        if isinstance(cases, str) and cases not in card.splits:
            raise ConfigError(
                f"card {card.name!r} has no split {cases!r}",
                where=f"{where}.{role}",
                expected=nearest(cases, card.splits),
                fix=f"name a split, or list cases and patterns: [{cases}]",
            )
        if cases is not None:
            splits[role] = card.splits[cases] if isinstance(cases, str) else cases
    named = {case for cases in splits.values() for case in cases}
    every = dict.fromkeys(case for cases in card.splits.values() for case in cases)
    if unused := tuple(case for case in every if case not in named):
        splits[UNUSED] = (*splits.get(UNUSED, ()), *unused)
    return card.model_copy(update={"splits": splits})


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
