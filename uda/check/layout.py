"""Check the splits and files of a data set before any image is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from os.path import isfile
from pathlib import Path

from uda.config.card import INSIDE, DatasetCard
from uda.data.cases import (
    Case,
    Listing,
    doubled,
    image_path,
    label_path,
    labels_among_images,
    names_of,
)
from uda.errors import DataError, UdaError

APART = {("train", "validate"), ("train", "test")}
"""Pairs of splits that must not overlap: the scores would be too high."""
BETTER_APART = {("validate", "test"), ("adapt", "test")}
"""Pairs of splits that should not overlap."""
UNLABELLED = "adapt"
"""The split that needs no labels."""
LABELLED = ("train", "validate")
"""Splits that are useless without labels."""
SHOWN = 5  # names in a message


@dataclass
class Layout:
    """Cases with their splits, and the faults of splits and file names."""

    cases: dict[str, list[str]] = field(default_factory=dict)
    """case → its splits, in the card's order"""
    faults: list[UdaError] = field(default_factory=list)
    notes: list[UdaError] = field(default_factory=list)
    of_case: dict[str, list[UdaError]] = field(default_factory=dict)
    """faults of single cases"""
    listing: Listing = field(default_factory=dict)
    files: dict[str, Case] = field(default_factory=dict)
    """case → its image, there or not, and its label, if the card names labels"""

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
        image = image_path(card, folder, name, layout.listing)
        if not isfile(image):
            faults.append(_no_image(card, name, image))
        layout.of_case[name] = faults
        layout.files[name] = Case(name, image, label_path(card, folder, name, layout.listing))
    if card.labels not in (None, INSIDE):
        for split in layout_splits(card):
            _check_pairs(split, layout)
        layout.faults += labels_among_images(card, folder, list(layout.cases), layout.listing)
        layout.notes += _strays(card, folder)
    return layout


def layout_of_images(cases: Sequence[Case]) -> Layout:
    """The layout of a plain folder of images to adapt to."""
    return Layout(
        cases={case.name: [UNLABELLED] for case in cases},
        of_case={case.name: [] for case in cases},
        files={case.name: case for case in cases},
    )


def _empty(card: DatasetCard, split: str) -> DataError:
    return DataError(
        f"split {split!r} is empty",
        where=f"card {card.name!r}, splits",
        expected="the name of a case, or a wildcard such as '*'",
        fix="list its cases, or remove the split from the card",
    )


def _named_alike(card: DatasetCard, split: str, names: Sequence[str]) -> list[UdaError]:
    """A fault for each file name that occurs in two folders of a split, because results are named after it."""
    by_name: dict[str, list[str]] = {}
    for name in names:
        by_name.setdefault(name.rpartition("/")[2], []).append(name)
    return [
        DataError(
            f"two images of split {split!r} are called {alone!r}: {_some(same)}",
            where=f"card {card.name!r}, splits",
            fix="rename one of the files, or keep only one of the folders in the split",
        )
        for alone, same in by_name.items()
        if len(same) > 1
    ]


def layout_splits(card: DatasetCard) -> list[str]:
    """Splits whose labels are used."""
    return [split for split in card.splits if split != UNLABELLED]


def _expanded(card: DatasetCard, folder: Path, split: str, layout: Layout) -> list[str]:
    """Case names of a split, expanded entry by entry so that each wildcard without a match is a fault."""
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
            expected="each case in only one of the two",
            fix="remove them from one; a score on a training case means nothing"
            if pair in APART
            else "remove them from one, or state beside the score that these images were used",
        )
        (layout.faults if pair in APART else layout.notes).append(finding)


def _no_image(card: DatasetCard, name: str, path: Path) -> DataError:
    tried = " or ".join(pattern.format(case=name) for pattern in card.images)
    return DataError(
        f"case {name!r} of card {card.name!r}: there is no such file",
        where=path,
        expected=tried if len(card.images) > 1 else None,
        fix="correct the root (--root) or the card's patterns, or remove the case from its splits",
    )


def _doubled_labels(card: DatasetCard, folder: Path, name: str) -> Sequence[UdaError]:
    if card.labels in (None, INSIDE) or card.photos:
        return []  # a photograph may have labels in several forms
    return doubled(card.model_copy(update={"images": card.labels}), folder, name)


def _check_pairs(split: str, layout: Layout) -> None:
    """Report images without a label in a split with labels, or a split without any label."""
    members = layout.members(split)
    existing = [name for name in members if isfile(layout.files[name].image)]
    labels = {name: layout.files[name].label for name in existing}
    absent = {name: path for name, path in labels.items() if path and not isfile(path)}
    if absent and len(absent) == len(labels):
        finding = DataError(
            f"no case of split {split!r} has a label, so it can be predicted but not "
            f"{'scored' if split == 'test' else 'used'}",
            where=next(iter(absent.values())),
            fix="correct the pattern in `labels:` if labels exist",
        )
        (layout.faults if split in LABELLED else layout.notes).append(finding)
        return
    for name, path in absent.items():
        layout.of_case[name].append(
            DataError(
                f"case {name!r} of split {split!r} has an image but no label",
                where=path,
                expected=f"a label, as in the other {len(labels) - len(absent)} cases of the split",
                fix="add the label, or remove the case from the split (adapt needs no labels)",
            )
        )


def _strays(card: DatasetCard, folder: Path) -> list[DataError]:
    """A note on labels in the folder whose image does not exist."""
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
            fix="add the images, or move the labels elsewhere",
        )
    ]


def _on_disk(card: DatasetCard, folder: Path) -> Mapping[str, Path]:
    """Every case that matches the card's image patterns, in the folders that its splits name."""
    folders = {entry.rpartition("/")[0] for entries in card.splits.values() for entry in entries}
    entries = tuple(f"{inside}/*" if inside else "*" for inside in sorted(folders))
    every = card.model_copy(update={"splits": {"all": entries}})
    try:
        names = names_of(every, folder, "all")
    except DataError:  # no case matches
        return {}
    listing: Listing = {}
    return {name: image_path(card, folder, name, listing) for name in names}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
