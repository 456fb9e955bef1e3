"""What can be said of a data set before a voxel is read: who is in which split, and which files are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from os.path import isfile
from pathlib import Path

from uda.config.card import INSIDE, DatasetCard
from uda.data.cases import Listing, doubled, image_path, label_path, names_of
from uda.errors import DataError, UdaError

APART = {("train", "validate"), ("train", "test")}
"""Splits whose overlap makes every score too good."""
BETTER_APART = {("validate", "test"), ("adapt", "test")}
UNLABELLED = "adapt"
"""The split that needs no labels."""
LABELLED = ("train", "validate")
"""Splits that are of no use without labels."""
SHOWN = 5  # names in a message


@dataclass
class Layout:
    """Cases with their splits, and what is wrong with the files as such."""

    cases: dict[str, list[str]] = field(default_factory=dict)
    """case → the splits it is in, in the card's order"""
    faults: list[UdaError] = field(default_factory=list)
    notes: list[UdaError] = field(default_factory=list)
    of_case: dict[str, list[UdaError]] = field(default_factory=dict)
    """faults of single cases"""
    listing: Listing = field(default_factory=dict)

    def members(self, split: str) -> list[str]:
        return [name for name, splits in self.cases.items() if split in splits]


def layout_of(card: DatasetCard, folder: Path) -> Layout:
    """Expand the splits and compare them with the files of the folder."""
    layout = Layout()
    for split in card.splits:
        if not card.splits[split]:
            layout.faults.append(_empty(card, split))
        for name in _expanded(card, folder, split, layout):
            layout.cases.setdefault(name, []).append(split)
        layout.faults += _named_alike(card, split, layout.members(split))
    _check_overlaps(card, layout)
    for name in layout.cases:
        faults = [*doubled(card, folder, name, layout.listing)]
        faults += _doubled_labels(card, folder, name)
        if not isfile(path := image_path(card, folder, name, layout.listing)):
            faults.append(_no_image(card, name, path))
        layout.of_case[name] = faults
    if card.labels not in (None, INSIDE):
        for split in layout_splits(card):
            _check_pairs(card, folder, split, layout)
        layout.notes += _strays(card, folder)
    return layout


def _empty(card: DatasetCard, split: str) -> DataError:
    return DataError(
        f"split {split!r} is empty",
        where=f"card {card.name!r}, splits",
        expected="the name of a case, or a wildcard such as '*'",
        fix="list its cases, or take the split out of the card",
    )


def _named_alike(card: DatasetCard, split: str, names: Sequence[str]) -> list[UdaError]:
    """A fault for each name that two folders of a split have in common: results go by it."""
    by_name: dict[str, list[str]] = {}
    for name in names:
        by_name.setdefault(name.rpartition("/")[2], []).append(name)
    return [
        DataError(
            f"two images of split {split!r} are called {alone!r}: {_some(same)}",
            where=f"card {card.name!r}, splits",
            fix="rename one of the files, or name one of the folders alone",
        )
        for alone, same in by_name.items()
        if len(same) > 1
    ]


def layout_splits(card: DatasetCard) -> list[str]:
    """Splits whose labels are used."""
    return [split for split in card.splits if split != UNLABELLED]


def _expanded(card: DatasetCard, folder: Path, split: str, layout: Layout) -> list[str]:
    """Names of a split, entry by entry, so that each wildcard without a match is told."""
    names: dict[str, None] = {}
    for entry in card.splits[split]:
        alone = card.model_copy(update={"splits": {split: (entry,)}})
        try:
            names |= dict.fromkeys(names_of(alone, folder, split))
        except UdaError as fault:
            layout.faults.append(fault)
    return list(names)


def _check_overlaps(card: DatasetCard, layout: Layout) -> None:
    for pair in combinations(("train", "validate", "adapt", "test"), 2):
        first, second = (set(layout.members(split)) for split in pair)
        both = [name for name in layout.cases if name in first & second]
        if not both or pair not in APART | BETTER_APART:
            continue
        finding = DataError(
            f"{len(both)} cases are in both {pair[0]} and {pair[1]}: {_some(both)}",
            where=f"card {card.name!r}, splits",
            expected="each of them in one of the two",
            fix="take them out of one; a score on a case that was trained on means nothing"
            if pair in APART
            else "take them out of one, or say beside the score that these images were used",
        )
        (layout.faults if pair in APART else layout.notes).append(finding)


def _no_image(card: DatasetCard, name: str, path: Path) -> DataError:
    tried = " or ".join(pattern.format(case=name) for pattern in card.images)
    return DataError(
        f"case {name!r} of card {card.name!r}: there is no such file",
        where=path,
        expected=tried if len(card.images) > 1 else None,
        fix="correct the root (--root) or the card's patterns, or take the case out of its splits",
    )


def _doubled_labels(card: DatasetCard, folder: Path, name: str) -> Sequence[UdaError]:
    if card.labels in (None, INSIDE) or card.photos:  # a photograph's label comes in several forms
        return []
    return doubled(card.model_copy(update={"images": card.labels}), folder, name)


def _check_pairs(card: DatasetCard, folder: Path, split: str, layout: Layout) -> None:
    """Images without a label in a split that is labelled, or a split without any label."""
    seen, members = layout.listing, layout.members(split)
    there = [name for name in members if isfile(image_path(card, folder, name, seen))]
    labels = {name: label_path(card, folder, name, seen) for name in there}
    absent = {name: path for name, path in labels.items() if path and not isfile(path)}
    if absent and len(absent) == len(labels):
        finding = DataError(
            f"no case of split {split!r} has a label, so it can be predicted but not "
            f"{'scored' if split == 'test' else 'used'}",
            where=next(iter(absent.values())),
            fix="correct the pattern in `labels:` if there are labels",
        )
        (layout.faults if split in LABELLED else layout.notes).append(finding)
        return
    for name, path in absent.items():
        layout.of_case[name].append(
            DataError(
                f"case {name!r} of split {split!r} has an image but no label",
                where=path,
                expected=f"a label, as the other {len(labels) - len(absent)} cases of the split have",
                fix="add the label, or take the case out of the split (adapt needs no labels)",
            )
        )


def _strays(card: DatasetCard, folder: Path) -> list[DataError]:
    """Labels in the folder whose image is not there."""
    patterns = (*card.images, *(card.labels or ()))
    if any(Path(pattern).is_absolute() for pattern in patterns):
        return []
    images = _on_disk(card, folder)
    taken = set(images.values())
    strays: dict[Path, None] = {}
    for pattern in card.labels or ():
        labels = _on_disk(card.model_copy(update={"images": (pattern,)}), folder)
        taken |= {path for name, path in labels.items() if name in images}
        strays |= dict.fromkeys(labels.values())
    strays = {path: None for path in strays if path not in taken}
    if not strays:
        return []
    return [
        DataError(
            f"{len(strays)} labels have no image: {_some([path.name for path in strays])}",
            where=next(iter(strays)),
            fix="add the images, or move the labels away",
        )
    ]


def _on_disk(card: DatasetCard, folder: Path) -> Mapping[str, Path]:
    """Every case that fits the card's image patterns, in the folders that its splits name."""
    folders = {entry.rpartition("/")[0] for entries in card.splits.values() for entry in entries}
    entries = tuple(f"{inside}/*" if inside else "*" for inside in sorted(folders))
    every = card.model_copy(update={"splits": {"all": entries}})
    try:
        names = names_of(every, folder, "all")
    except DataError:  # nothing at all
        return {}
    listing: Listing = {}
    return {name: image_path(card, folder, name, listing) for name in names}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
