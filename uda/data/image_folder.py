"""The images of a plain folder, of a pattern such as ``patients/*/ct.nii.gz``, or of one file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from os.path import exists, isdir, isfile, islink, lexists
from pathlib import Path

from uda.data.file_names import PHOTO_SUFFIXES, is_clutter, stem, wildcard
from uda.data.formats import READERS
from uda.data.label_maps import is_label, refuse_label_maps
from uda.errors import DataError, raise_all

LOOKED_INTO = 100
"""Folders that are searched for images one level deeper."""
SHOWN = 8
"""Kinds of files in a message."""


def images_at(images: Path, photos: bool) -> list[tuple[str, Path]]:
    """Names and paths, in the order of the paths. Names may repeat within a folder alone.

    In a pattern ``*`` and ``?`` stand for letters of one name, ``**`` for any number of folders; all other signs are
    plain. A case is called like its file; where folders are searched and files of two of them are called alike, or
    the pattern has one name for all of them, the names of the folders that stand for ``*`` come first: ``p01_ct``.

    Raises:
        DataError: there is no such folder, no image in it, one that leads nowhere, or label maps among them.
    """
    suffixes = PHOTO_SUFFIXES if photos else tuple(READERS)
    root, parts = _split(images)
    found = [images] if not parts else sorted(_matches(root, parts))
    files = [path for path in found if path.name.lower().endswith(suffixes)]
    if not files:
        raise _nothing(images, root, parts, suffixes)
    raise_all([_no_file(path) for path in files if not isfile(path)], str(images))
    own_words = not parts or bool(re.search(r"\w", stem(parts[-1])))
    place = "/".join((str(root), *parts[:-1])) if parts else str(images.parent)
    fix = (
        f"name the images by a pattern in quotes: '{place}/{{pattern}}'. If all of these are images, name those "
        "listed here by a pattern of their own"
    )
    refuse_label_maps(files, place, own_words, fix)
    return list(zip(_names(files, root, parts), files, strict=True))


def _split(images: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder without wildcards, and the parts of a pattern behind it; none for one file."""
    if isfile(images):
        return images.parent, ()
    if isdir(images):
        return images, ("*",)
    first = next((i for i, part in enumerate(images.parts) if _is_wild(part)), len(images.parts))
    root, parts = Path(*images.parts[:first]), images.parts[first:]
    if not isdir(root) or not parts:
        raise DataError(
            "there is no such file or folder of images",
            where=root,
            fix="correct the path; give a folder, a file, or a pattern in quotes such as 'scans/*_image.nii.gz'",
        )
    return root, parts


def _is_wild(part: str) -> bool:
    return "*" in part or "?" in part


def entries(folder: Path) -> list[Path]:
    """What a folder holds, in order, without hidden files and those that systems leave behind.

    Raises:
        DataError: the folder may not be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if not is_clutter(path.name))
    except OSError as error:
        raise DataError(
            f"the folder cannot be read: {error.strerror}",
            where=folder,
            expected="a folder that you may list",
            fix="correct its permissions, or give another folder",
        ) from error


def _matches(folder: Path, parts: Sequence[str]) -> set[Path]:
    part, *deeper = parts
    if not _is_wild(part):
        there = [folder / part] if lexists(folder / part) else []
    elif part == "**" and deeper:
        below = [path for path in entries(folder) if isdir(path) and not path.is_symlink()]
        return _matches(folder, deeper).union(*(_matches(path, parts) for path in below))
    else:
        fits = wildcard(part)
        there = [path for path in entries(folder) if fits.fullmatch(path.name)]
    if not deeper:
        return set(there)
    return set().union(*(_matches(path, deeper) for path in there if isdir(path)))


def _names(files: Sequence[Path], root: Path, parts: Sequence[str]) -> list[str]:
    alone = [stem(path.name) for path in files]
    folders = parts[:-1]
    places = Counter((path.parent, name) for path, name in zip(files, alone, strict=True))
    repeat = len({name for _, name in places}) < len(places)
    if not folders or (_is_wild(parts[-1]) and not repeat):
        return alone
    kept = [i for i, part in enumerate(folders) if _is_wild(part)] if "**" not in folders else None
    names = []
    for path, name in zip(files, alone, strict=True):
        above = path.relative_to(root).parts[:-1]
        names.append("_".join([*(above if kept is None else (above[i] for i in kept)), name]))
    return names


def _no_file(path: Path) -> DataError:
    lost = islink(path) and not exists(path)
    return DataError(
        "is a link that leads nowhere" if lost else "is named like an image, but is no file",
        where=path,
        expected="a regular file",
        fix="fetch what the link stands for" if lost else "give the files inside, or move it",
    )


def _nothing(images: Path, root: Path, parts: Sequence[str], suffixes: Sequence[str]) -> DataError:
    """What is there instead of images."""
    readable = f"files ending in {' or '.join(suffixes)}"
    if not parts:
        return DataError(
            "is no image that can be read for this model",
            where=images,
            expected=readable,
            fix="convert it, for DICOM for example with dcm2niix",
        )
    inside = entries(root)
    held = _held(inside)
    searched = parts != ("*",)
    what = (
        f"no image matches the pattern {'/'.join(parts)!r}"
        if searched
        else "the folder holds no image"
    )
    deeper = _deeper([path for path in inside if isdir(path)], suffixes)
    apart = [path.parent for path in deeper if not is_label(path.parent.name)]
    other = PHOTO_SUFFIXES if ".nii" in suffixes else tuple(READERS)
    if deeper and len(apart) < len(deeper):
        fix = "label maps and images lie one folder deeper; give a folder of images"
        fix += ": " * bool(apart) + " or ".join(f"'{path}'" for path in apart[:SHOWN])
    elif deeper:
        first = deeper[0]
        fix = f"images lie one folder deeper, such as {first}; give '{root}/*/*{_ending(first)}'"
    elif any(path.name.lower().endswith(other) for path in inside):
        kind = "volumes" if ".nii" in suffixes else "photographs"
        fix = f"this model was trained on {kind}: give {kind}, or another model"
    elif any("[" in part for part in parts):
        fix = "correct the pattern: only * and ? stand for anything, brackets are plain"
    elif inside and not searched:
        fix = "convert them, DICOM for example with dcm2niix, or give the folder in which the images lie"
    else:
        fix = "give the folder in which the images lie, or a pattern in quotes: 'scans/*_image.nii.gz'"
    return DataError(
        f"{what}; {'the folder' if not searched else root} holds {held}",
        where=images,
        expected=readable,
        fix=fix,
    )


def _ending(path: Path) -> str:
    """``.nii.gz``, ``.dcm``, or nothing."""
    found = re.search(r"(\.[A-Za-z][A-Za-z0-9]{0,7})?\.[A-Za-z][A-Za-z0-9_]{0,9}$", path.name)
    if found is None:
        return ""
    double = found[0].lower().endswith((".gz", ".bz2", ".xz", ".zip"))
    return found[0] if double else path.suffix


def _held(inside: Sequence[Path]) -> str:
    """``44 .dcm, 3 .nrrd, 2 folders``, the most frequent first."""
    kinds: Counter[str] = Counter()
    for path in inside:
        if islink(path) and not exists(path):
            kinds["links that lead nowhere"] += 1
        elif isdir(path):
            kinds["folders"] += 1
        else:
            kinds[_ending(path).lower() or "files without an ending"] += 1
    shown = [f"{number} {kind}" for kind, number in kinds.most_common(SHOWN)]
    shown = ["1 folder" if kind == "1 folders" else kind for kind in shown]
    return ", ".join(shown) + (", …" if len(kinds) > SHOWN else "") or "nothing"


def _deeper(folders: Sequence[Path], suffixes: Sequence[str]) -> list[Path]:
    """The first image of each folder that holds one."""
    found = []
    for folder in folders[:LOOKED_INTO]:
        files = (p for p in entries(folder) if p.name.lower().endswith(tuple(suffixes)))
        found += [path for path in files if isfile(path)][:1]
    return found
