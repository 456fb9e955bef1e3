"""Which files belong to a domain: cases of a card's split, or of a plain folder of images."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os.path import (
    isdir,
    isfile,
)  # False also for names that no disk can hold, where pathlib raises
from pathlib import Path

from uda.config.card import INSIDE, DatasetCard
from uda.data.file_names import is_clutter, stem, wildcard
from uda.data.image_folder import entries, images_at
from uda.data.label_maps import refuse_label_maps
from uda.errors import ConfigError, DataError, UdaError, nearest, raise_all

STARS = 2
"""Most ``*`` in one name of a card's patterns: each more multiplies the time to search long names."""
LONGEST = 200
"""Bytes of a case's name: files of results are called by it, with an ending."""


@dataclass(frozen=True)
class Case:
    """One volume, or one file of slices. ``label`` is None wherever labels are not asked for; it is the
    image's own path when they lie inside."""

    name: str
    image: Path
    label: Path | None = None


def card_root(card: DatasetCard, root: str | Path | None) -> Path:
    """The card's folder below a recipe's ``data.root``.

    Raises:
        DataError: there is no such folder.
    """
    folder = Path(root or ".") / card.root
    if not isdir(folder):
        raise DataError(
            "there is no such folder of data",
            where=folder,
            fix="give it with data.root=FOLDER (--root FOLDER)",
        )
    return folder


Listing = dict[tuple[str, ...], dict[str, list[Path]]]
"""Files below folders with a ``*``, by name; whoever asks for many cases keeps one while it asks."""


def image_path(card: DatasetCard, folder: Path, name: str, listing: Listing | None = None) -> Path:
    """The case's image: the first of the card's patterns whose file is there, else what the first one says.

    Args:
        name: as :func:`names_of` gives it, with what stands for ``{folder}``.
        listing: filled and read where the card's folders have a ``*``.
    """
    return _first_file(card.images, folder, name, listing)


def label_path(
    card: DatasetCard, folder: Path, name: str, listing: Listing | None = None
) -> Path | None:
    """Likewise for its label; the image's own file when labels lie inside. None: the card names no labels."""
    if card.labels is None:
        return None
    patterns = card.images if card.labels == INSIDE else card.labels
    return _first_file(patterns, folder, name, listing)


def _first_file(patterns: Sequence[str], folder: Path, name: str, listing: Listing | None) -> Path:
    said = None
    for pattern in patterns:
        paths = _candidates(folder, pattern, name, listing)
        said = said or paths[0]
        if there := next(filter(isfile, paths), None):
            return there
    return said or folder


def _candidates(
    folder: Path, pattern: str, name: str, listing: Listing | None = None
) -> list[Path]:
    """What a pattern may mean for a case: one path, or every file that fits its ``*``."""
    inside, _, case = name.rpartition("/")
    *folders, file = pattern.replace("{folder}", inside).replace("{case}", case).split("/")
    if not any("*" in part for part in folders):
        return [folder.joinpath(*folders, file)]
    listing = {} if listing is None else listing
    if (place := (str(folder), *folders)) not in listing:
        listing[place] = _listed(folder, folders)
    return listing[place].get(file) or [folder.joinpath(*folders, file)]


def _listed(folder: Path, folders: Sequence[str]) -> dict[str, list[Path]]:
    """Every file in the folders that fit, by its name."""
    places = [folder]
    for part in folders:
        places = [deeper for place in places for deeper in _fitting(place, part)]
    files: dict[str, list[Path]] = {}
    for place in places:
        for path in entries(place):
            files.setdefault(path.name, []).append(path)
    return files


def _fitting(place: Path, name: str) -> list[Path]:
    """The folders of that name; ``*`` in it stands for anything."""
    if "*" not in name:
        return [place / name] if (place / name).is_dir() else []
    fits = wildcard(name)
    there = entries(place) if place.is_dir() else []
    return [path for path in there if path.is_dir() and fits.fullmatch(path.name)]


def names_of(card: DatasetCard, folder: Path, split: str) -> list[str]:
    """The cases of a split, each after its folder and ``/`` if the split names one; an entry with ``*`` or
    ``?`` stands for every case whose image is there, in natural order (2 before 10).

    Raises:
        ConfigError: the card has no such split.
        DataError: the wildcards match nothing at all, or a name by which no file could be called.
    """
    if split not in card.splits:
        raise ConfigError(
            f"card {card.name!r} has no split {split!r}", expected=nearest(split, card.splits)
        )
    entries = card.splits[split]
    names: dict[str, None] = {}
    for entry in entries:
        names |= dict.fromkeys(_matches(card, folder, entry) if _is_wild(entry) else [entry])
    if entries and not names:
        raise DataError(
            f"no image of card {card.name!r} matches its split {split!r}: {', '.join(entries)}",
            where=folder,
            expected=" or ".join(card.images),
            fix="correct data.root (--root), or the card's patterns",
        )
    strange = [fault for name in names if (fault := _strange_name(name, folder))]
    raise_all(strange, f"split {split!r} of card {card.name!r}")
    return list(names)


def _strange_name(name: str, where: Path) -> DataError | None:
    """A fault for a name by which no file of results should be called, or that a terminal would not show as it is."""
    case = name.rpartition("/")[2]
    sound = case and case[0] != "." and "\\" not in case and name.isprintable()
    inside = not name.startswith("/") and ".." not in name.split("/")
    if sound and inside and len(case.encode()) <= LONGEST:
        return None
    return DataError(
        f"a case cannot be called {name[:LONGEST]!r}",
        where=where,
        expected=f"up to {LONGEST} bytes that can be printed, without backslash, '..' or a dot at the beginning",
        fix="rename the file",
    )


def _is_wild(entry: str) -> bool:
    return any(sign in entry for sign in "*?")


def _matches(card: DatasetCard, folder: Path, entry: str) -> list[str]:
    """Case names on disk that an entry with wildcards stands for."""
    inside, slash, wanted = entry.rpartition("/")
    fits, found = wildcard(wanted), set()
    for pattern in card.images:
        begun = pattern.replace("{folder}", inside)
        if max(part.count("*") for part in begun.split("/")) > STARS:
            raise ConfigError(
                f"the pattern {pattern!r} has more than {STARS} * in one name",
                where=f"card {card.name!r}, images",
                fix="name more of the files' letters",
            )
        head, *tails = (re.escape(part).replace(r"\*", "[^/]+") for part in begun.split("{case}"))
        reads = re.compile(head + "(?P<case>[^/]+)" + "(?P=case)".join(tails))
        for path in _globbed(folder, begun.replace("{case}", wanted)):
            fit = reads.fullmatch(path.relative_to(folder).as_posix())
            if not fit or is_clutter(fit["case"]) or is_clutter(path.name):
                continue
            if isfile(path) and fits.fullmatch(fit["case"]):
                found.add(inside + slash + fit["case"])
    return sorted(found, key=_natural)


def _globbed(folder: Path, pattern: str) -> list[Path]:
    try:
        return list(folder.glob(pattern.replace("[", "[[]")))
    except (NotImplementedError, ValueError, OSError) as error:
        raise ConfigError(
            f"the pattern {pattern!r} cannot be searched for: {error}",
            where=folder,
            expected="a path below the card's root; * within a name",
            fix="correct the card's images, or its splits",
        ) from error


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def cases_of(
    card: DatasetCard, root: str | Path | None, split: str, *, labels: bool = False
) -> list[Case]:
    """The cases of one split, every file present.

    Raises:
        ConfigError: the card has no such split, or no labels when they are asked for.
        DataError: lists every missing file, and every case that two files claim to be.
    """
    folder = card_root(card, root)
    names = names_of(card, folder, split)
    if labels and card.labels is None:
        raise ConfigError(
            f"card {card.name!r} names no labels, but they are needed here",
            fix="add `labels:` to the card, or use the domain as a target only",
        )
    cases: list[Case] = []
    faults: list[UdaError] = []
    listing: Listing = {}
    for name in names:
        image = image_path(card, folder, name, listing)
        label = label_path(card, folder, name, listing) if labels else None
        files = dict.fromkeys(path for path in (image, label) if path is not None)
        faults += [_missing(card, name, path) for path in files if not isfile(path)]
        faults += doubled(card, folder, name, listing)
        cases.append(Case(name.rpartition("/")[2], image, label))
    faults += _named_twice(cases)
    faults += labels_among_images(card, folder, names, listing)
    raise_all(faults, f"split {split!r} of card {card.name!r}")
    if not cases:
        raise DataError(f"split {split!r} of card {card.name!r} is empty", where=folder)
    listed = set(card.splits[split])
    found = [case.image for name, case in zip(names, cases, strict=True) if name not in listed]
    if found and not labels:  # a label map has no label of its own, which is a fault above
        _refuse_label_maps(card, folder, split, found)
    return cases


def labels_among_images(
    card: DatasetCard, folder: Path, names: Sequence[str], listing: Listing | None = None
) -> list[UdaError]:
    """A fault for each case whose image is the label of another one: ``{case}.nii.gz`` fits ``p1_label.nii.gz`` too."""
    if card.labels in (None, INSIDE):
        return []
    labels = {label_path(card, folder, name, listing): name for name in names}
    images = {name: image_path(card, folder, name, listing) for name in names}
    return [
        DataError(
            f"the image of case {name!r} is the label of case {labels[image]!r}",
            where=image,
            expected="patterns that tell images from labels",
            fix="list the cases of the split by name, or rename the files: '{case}_image.nii.gz'",
        )
        for name, image in images.items()
        if labels.get(image, name) != name
    ]


def _refuse_label_maps(card: DatasetCard, folder: Path, split: str, images: list[Path]) -> None:
    """Refuse label maps among the images of a split's wildcards; cases listed by name are the user's word."""
    cases = [entry.rpartition("/")[2] for entry in card.splits[split] if _is_wild(entry)]
    files = [pattern.rpartition("/")[2] for pattern in card.images]
    words = [stem(file.replace("{case}", case)) for file in files for case in cases]
    refuse_label_maps(
        images,
        f"split {split!r} of card {card.name!r}, below {folder}",
        chosen=all(re.search(r"\w", word) for word in words),
        fix="correct the card's images: '{pattern}' with {case} for what varies, or list the cases by name",
    )


def doubled(
    card: DatasetCard, folder: Path, name: str, listing: Listing | None = None
) -> list[UdaError]:
    """A fault when a case's image is there under several of the card's patterns."""
    paths = dict.fromkeys(
        path for p in card.images for path in _candidates(folder, p, name, listing)
    )
    there = [path for path in paths if isfile(path)]
    if len(there) < 2:
        return []
    return [
        DataError(
            f"{len(there)} files claim to be case {name!r} of card {card.name!r}",
            where=" and ".join(map(str, there)),
            fix="keep one of them below the root",
        )
    ]


def _named_twice(cases: Sequence[Case]) -> list[UdaError]:
    """A fault for each name that two folders of a split have in common."""
    seen: dict[str, Path] = {}
    faults: list[UdaError] = []
    for case in cases:
        if case.name in seen:
            files = f"{seen[case.name]} and {case.image}"
            faults.append(DataError(f"two images are called {case.name!r}", where=files))
        seen[case.name] = case.image
    return faults


def _missing(card: DatasetCard, name: str, path: Path) -> UdaError:
    return DataError(
        f"case {name!r} of card {card.name!r}: there is no such file",
        where=path,
        fix="correct data.root (--root), or take the case out of the splits of the card or the recipe",
    )


def cases_in(images: Path, photos: bool = False) -> list[Case]:
    """Every volume (or photograph) of a folder, of a pattern such as ``scans/*_image.nii.gz``, or one file, in order
    of their paths.

    Raises:
        DataError: no such folder, no image in it, two files of one case name, or files that are no images: label
            maps, predictions, entropy maps (:mod:`uda.data.label_maps`).
    """
    cases: dict[str, Case] = {}
    for name, path in images_at(images, photos):
        if fault := _strange_name(name, path.parent):
            raise fault
        if name in cases:
            raise DataError(
                f"two files of the case {name!r}",
                where=f"{cases[name].image} and {path}",
                fix="keep one of them, or give a pattern that fits only one",
            )
        cases[name] = Case(name, path)
    return list(cases.values())


def folders_of(cases: Sequence[Case]) -> list[Path]:
    """The folders in which images and labels lie; of links also those of their destinations."""
    return _folders(path for case in cases for path in (case.image, case.label) if path is not None)


def folders_of_card(card: DatasetCard, root: str | Path | None) -> list[Path]:
    """The folders in which images and labels of a card's splits lie, as far as they are there."""
    folder, files, listing = Path(root or ".") / card.root, list[Path](), Listing()
    for split in card.splits:
        with contextlib.suppress(UdaError):
            for name in names_of(card, folder, split):
                image = image_path(card, folder, name, listing)
                label = label_path(card, folder, name, listing)
                files += [path for path in (image, label) if path is not None and isfile(path)]
    return _folders(files)


def _folders(files: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(place.parent for path in files for place in (path, path.resolve())))
