"""Tell label maps from images: by their names, by what lies beside them, and by their values.

A label map has few whole values, and each of them lies in connected runs. A label map is looked at whole, an image
until it has too many values, which its first slices show. Of photographs the headers of all PNG files are read and
the pixels of those that are compressed most, because label maps are; a JPEG is never a label map.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from os.path import isdir, isfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uda.data.file_names import PHOTO_SUFFIXES, stem, wildcard
from uda.data.formats import READERS, SEGMENTATION, read_blocks
from uda.data.image_files import pixels, png_size, read_file
from uda.data.nifti import read_header
from uda.errors import DataError, UdaError
from uda.files.atomic import read_json

MOST_VALUES = 128
"""Most different values of a label map: whole-body atlases have about 120 classes."""
LOWEST, HIGHEST = -128, 65535
"""Range of the values of a label map; the air of a CT lies below it."""
WHOLE = 1e-3
"""Largest distance of a whole value from its integer."""
CONNECTED = 0.5
"""Least median, over the values, of the share of voxels whose next voxel along the first axis has the same value: runs
of two voxels have 0.5, noise and the edges of saturated images less."""
FEW, SPARSE = 8, 0.9
"""Of so few values it is enough that this share of all voxels has the value of the next one: scribbles, points."""
SHADES = 0.75
"""Of more values: share of steps between neighbours that lead to nearly the same value, from which it is a dark or
smooth image."""
SMALLEST = 64
"""Voxels of an array that says anything."""
ENOUGH = 1 << 24
"""Voxels looked at, counted from the first block that is not constant."""
BLOCK = 1 << 16
"""Voxels looked at together."""
MISSES = 8
"""PNG files in order of bytes per pixel: after so many images the others count as images."""
MOST_PHOTOS = 1000
"""Most PNG label maps that are looked for."""
DEPTH = 3
"""Folders above a file whose names count: ``gtFine/train/aachen``."""
NAMED = 3
"""Names of each kind, and values of a file, in a message."""
PREDICTED = "predictions of uda"
CHANNEL = "_0000"
"""End of the name of the first channel of an image, in data sets of nnU-Net."""

LAST = re.compile(
    r"d?segs?|a?seg|segm|probseg|segmentations?|parcellation|labels?|lbl|labelmaps?|masks?|msk|gt|"
    r"(ground)?truth|manual|annot|annotations?|preds?|predictions?|rois?|contours?|"
    r"(label|instance)(train)?ids|trainids|gt(fine|coarse)"
)
"""Words with which the name of a label map ends."""
FIRST = re.compile(r"seg|segmentation|labels?|labelmap|masks?|gt|groundtruth")
"""Words with which it begins."""


def refuse_label_maps(files: Sequence[Path], place: str, chosen: bool, fix: str) -> None:
    """Refuse files that are no images.

    Of a folder, what is named like a label map beside files that are not, and what has the values of one. Of a pattern
    with words of its own (``*_image.nii.gz``), or of a file named in full, names are the user's word: what has the
    values of a label map beside files that have not, or is also named like one. Masks and entropy maps that we
    wrote are refused always.

    Args:
        files: volumes or photographs, of one folder or several.
        place: the folder, or the pattern of folders, for the message.
        chosen: whether the user's pattern has words of its own.
        fix: the remedy, with ``{pattern}`` where a pattern stands that fits the images alone.

    Raises:
        DataError: names some of each kind, and a pattern for the images.
    """
    named = _named(files)
    rest = [path for path in files if path not in named]
    valued = _few_valued(files if chosen or not rest else rest)
    kinds: dict[Path, str] = {}
    if not chosen or len(valued) < len(files):
        kinds |= dict.fromkeys(valued, "few whole values")
    else:
        kinds |= {path: kind for path, kind in named.items() if path in valued}
        kinds |= {path: "coloured label maps" for path in files if _is_coloured(path)}
        inside = [path for path in files if any(is_label(p.name) for p in path.parents[:DEPTH])]
        kinds |= dict.fromkeys(inside, "few whole values, in a folder of label maps")
    kinds |= {p: kind for p, kind in named.items() if kind == PREDICTED or (rest and not chosen)}
    if not kinds:
        return
    images = [path.name for path in files if path not in kinds]
    pattern = _pattern(images, [path.name for path in kinds])
    whole = _folder_pattern([path for path in files if path not in kinds], list(kinds))
    if pattern:
        fix = fix.replace("{pattern}", pattern)
    elif whole and f"{place}/{{pattern}}" in fix:
        fix = fix.replace(f"{place}/{{pattern}}", whole)
    elif images:
        fix = "move the images into a folder of their own, and give that"
    else:
        fix = "give the folder of the images. If these are images, give " + (
            "them other names, in another folder"
            if chosen or not rest
            else "a pattern with a part of their names, such as 'scans/p*.nii.gz'"
        )
    least = "at least " if len(valued) == MOST_PHOTOS < len(files) else ""
    raise DataError(
        f"{least}{len(kinds)} of {len(files)} files seem to be no images but label maps or the like. "
        f"{_listed(kinds, valued)}",
        where=place,
        expected="images alone",
        fix=fix,
    )


def _listed(kinds: Mapping[Path, str], valued: Mapping[Path, str]) -> str:
    """``few whole values: a.nii.gz (0, 1, 2, …) and 7 more; names of label maps: p1_seg.nii.gz``"""
    groups: dict[str, list[str]] = {}
    for path, kind in kinds.items():
        values = f" ({valued[path]})" if path in valued else ""
        groups.setdefault(kind, []).append(path.name + values)
    return "; ".join(
        f"{kind}: {', '.join(names[:NAMED])}"
        + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
        for kind, names in groups.items()
    )


def _named(files: Sequence[Path]) -> dict[Path, str]:
    """What is recognised as no image by its name or by what lies beside it, and why."""
    beside: dict[Path, set[str]] = {}
    for path in files:
        beside.setdefault(path.parent, set()).add(stem(path.name))
    ours = {folder for folder in beside if _is_ours(folder)}
    found: dict[Path, str] = {}
    for path in files:
        name, others = stem(path.name), beside[path.parent]
        photo = path.name.lower().endswith(PHOTO_SUFFIXES)
        jpeg = photo and not path.name.lower().endswith(".png")
        partner = re.sub(r"[^A-Za-z0-9]+[A-Za-z0-9]*$", "", name) in others - {name}
        if path.parent in ours and _predicted(path.parent / "cases", name):
            found[path] = PREDICTED
        elif path.name.lower().endswith(SEGMENTATION):
            found[path] = "segmentations of 3D Slicer"
        elif name.removesuffix("_entropy") in others - {name} and _is_scaled(path):
            found[path] = "entropy maps"
        elif is_label(name) and (partner or not jpeg):
            found[path] = "names of label maps"
        elif partner and _is_coloured(path):
            found[path] = "coloured label maps"
        elif name + CHANNEL in others:
            found[path] = f"labels of the images that end in {CHANNEL}"
        elif not photo and _further_channel(name, others):
            found[path] = f"further channels of the images that end in {CHANNEL}"
    return found


def _is_scaled(path: Path) -> bool:
    """Whether a file may be an entropy map: fractions in a volume, one channel in a PNG."""
    with contextlib.suppress(UdaError, OSError):
        if path.name.lower().endswith(PHOTO_SUFFIXES):
            return read_file(path)[1].color == "grey"
        header = read_header(path)
        return header.dtype.kind == "f" or header.scale != (1, 0)
    return True


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder of predictions that we wrote."""
    for record in ("prediction.json", "predictions.json"):
        if isfile(folder / record):
            with contextlib.suppress(UdaError):
                raw = read_json(folder / record)
                if isinstance(raw, dict) and "classes" in raw and {"model", "cases"} & raw.keys():
                    return True
    return False


def _predicted(records: Path, name: str) -> bool:
    """Whether a map in a folder of predictions has a record; where there are no records, all are predictions."""
    cases = (name, name.removesuffix("_entropy"))
    return not isdir(records) or any(isfile(records / f"{case}.json") for case in cases)


def is_label(name: str) -> bool:
    """Whether a name begins or ends with a word for label maps: ``p1_seg``, ``heartMask2``, ``label0001``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    words = [re.sub(r"\d+$", "", word) for word in re.split(r"[^a-z0-9]+", spaced)]
    words = [word for word in words if word not in ("", "v", "tr", "ts")]
    return any(LAST.fullmatch("".join(words[-n:])) for n in (1, 2, 3)) or any(
        FIRST.fullmatch("".join(words[:n])) for n in (1, 2)
    )


def _is_coloured(path: Path) -> bool:
    """Whether a photograph is named like a coloured label map: ``aachen_000_gtFine_color.png``."""
    name = path.name.lower()
    return name.endswith(PHOTO_SUFFIXES) and bool(re.search(r"_colou?r$", stem(name)))


def _further_channel(name: str, others: set[str]) -> bool:
    """Whether it is ``case_0001`` beside ``case_0000``, and their label ``case`` lies there or other cases have such
    files too: else it is a series of images."""
    case, _, number = name.rpartition("_")
    if not re.fullmatch(r"\d{4}", number) or number == "0000" or case + CHANNEL not in others:
        return False
    return case in others or sum(other.endswith(CHANNEL) for other in others) > 1


def _few_valued(files: Sequence[Path]) -> dict[Path, str]:
    """The values of each file that has those of a label map. A file that cannot be read has none.

    Beside label maps a constant volume is one too: the mask of a structure that is not there.
    """
    found: dict[Path, str] = {}
    constant: dict[Path, str] = {}
    photos: list[tuple[float, Path]] = []
    for path in files:
        low = path.name.lower()
        with contextlib.suppress(UdaError, OSError):
            if low.endswith(tuple(READERS)) and (values := label_values(read_blocks(path, BLOCK))):
                (found if len(values) > 1 else constant)[path] = _shown(values)
            elif low.endswith(".png") and (area := png_size(path)):
                photos.append((os.path.getsize(path) / area, path))
    misses = 0
    for _, path in sorted(photos):
        if misses == MISSES or len(found) == MOST_PHOTOS:
            break
        with contextlib.suppress(UdaError, OSError):
            count = _colours(path)
            misses += count < 2
            if count > 1:
                found[path] = f"{count} colours"
    found |= constant if found else {}
    return {path: found[path] for path in files if path in found}


def _shown(values: Sequence[float]) -> str:
    more = ", …" if len(values) > NAMED else ""
    return ", ".join(f"{value:g}" for value in values[:NAMED]) + more


def label_values(blocks: Iterable[NDArray[Any]]) -> list[float]:
    """The sorted values of an array if they are those of a label map, or its only one if it is whole; else none.

    Args:
        blocks: the array, in the order of its first axis.
    """
    counts: Counter[float] = Counter()
    steps: Counter[tuple[float, float]] = Counter()
    seen = 0
    for block in blocks:
        values, which = _ranked(block)
        if not _whole(values) or len(values) > MOST_VALUES:
            return []
        names, size = values.tolist(), len(values)
        counts.update(dict(zip(names, np.bincount(which, minlength=size).tolist(), strict=True)))
        numbers = np.bincount(which[:-1] * size + which[1:], minlength=size**2)
        for step in np.flatnonzero(numbers):
            steps[names[step // size], names[step % size]] += int(numbers[step])
        if len(counts) > MOST_VALUES:
            return []
        seen += block.size if len(counts) > 1 else 0
        if seen > ENOUGH:
            break
    told = len(counts) == 1 or (counts.total() >= SMALLEST and _in_regions(counts, steps))
    return sorted(counts) if told else []


def in_blocks(flat: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """A flat array, a part at a time."""
    for start in range(0, flat.size, BLOCK):
        yield flat[start : start + BLOCK]


def _ranked(block: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """The sorted values of a block, and the place of each voxel's value among them."""
    if (block == block[0]).all():
        return block[:1], np.zeros(block.size, np.intp)
    return np.unique(block, return_inverse=True)


def _in_regions(counts: Counter[float], steps: Counter[tuple[float, float]]) -> bool:
    """Whether the values lie in connected regions, without the steps of shades from one value to the next."""
    repeats = sum(number for (one, other), number in steps.items() if one == other)
    if len(counts) <= FEW and repeats >= SPARSE * counts.total():
        return True
    shares = [steps[value, value] / count for value, count in counts.items()]
    if np.median(shares) < CONNECTED:
        return False
    rank = {value: place for place, value in enumerate(sorted(counts))}
    near = max(1, len(rank) // 10)
    shades = sum(n for (a, b), n in steps.items() if 0 < abs(rank[a] - rank[b]) <= near)
    return len(rank) <= FEW or shades < SHADES * (steps.total() - repeats)


def _whole(values: NDArray[Any]) -> bool:
    if values.dtype.kind not in "iuf":
        return False
    inside = (values >= LOWEST) & (values <= HIGHEST)  # False for NaN
    return bool(inside.all() and (np.abs(values - np.rint(values)) <= WHOLE).all())


def _colours(path: Path) -> int:
    """Number of grey values or colours of a PNG if they are those of a label map, else 0."""
    data, header = read_file(path)
    image = pixels(data, header, path)
    if image.ndim == 3:
        flat = image.reshape(-1, image.shape[2])
        if len(np.unique(_codes(flat[:BLOCK]))) > MOST_VALUES:
            return 0
        colours, image = np.unique(_codes(flat), return_inverse=True)
        if len(colours) > MOST_VALUES:
            return 0
    return len(label_values(in_blocks(image.ravel())))


def _codes(flat: NDArray[Any]) -> NDArray[np.int64]:
    """One number for each colour, sorted by brightness."""
    red, green, blue = np.moveaxis(flat[:, :3].astype(np.int64), 1, 0)
    codes: NDArray[np.int64] = ((red + green + blue) << 32) + (red << 16) + green
    return codes


def _pattern(images: Sequence[str], others: Sequence[str]) -> str:
    """A pattern that fits the names of all images and of nothing else; empty where there is none as simple as that."""
    if not images:
        return ""
    end = re.sub(r"^[^._\- ]*", "", _common([name[::-1] for name in images])[::-1])
    start = re.sub(r"[0-9]*$", "", _common(images))
    candidates = [f"*{end}", f"{start}*{end}"]
    if len({len(name) for name in images}) == 1:
        letters = (set(at) for at in zip(*images, strict=True))
        candidates.append("".join(at.pop() if len(at) == 1 else "?" for at in letters))
    for candidate in candidates:
        fits = wildcard(candidate)
        if all(map(fits.fullmatch, images)) and not any(map(fits.fullmatch, others)):
            return candidate
    return ""


def _folder_pattern(images: Sequence[Path], others: Sequence[Path]) -> str:
    """A pattern of folders that hold all images and nothing else (``set/imagesTr/*.nii.gz``); empty where no level of
    folders tells them apart."""
    depths = {len(path.parts) for path in images}
    if len(depths) != 1:
        return ""
    depth = depths.pop()
    levels = [sorted(set(level)) for level in zip(*(path.parts for path in images), strict=True)]
    end = re.sub(r"^[^.]*", "", _common([name[::-1] for name in levels[-1]])[::-1])
    for at in reversed(range(depth - 1)):
        theirs = [path.parts[at] for path in others if len(path.parts) == depth]
        own = _pattern(levels[at], theirs) if len(levels[at]) > 1 else levels[at][0]
        if own and not set(levels[at]) & set(theirs):
            parts = [level[0] if len(level) == 1 else "*" for level in levels]
            parts[at] = own
            parts[-1] = levels[-1][0] if len(levels[-1]) == 1 else f"*{end}"
            return str(Path(*parts))
    return ""


def _common(names: Sequence[str]) -> str:
    """The letters with which all names begin."""
    alike = takewhile(lambda at: len(set(at)) == 1, zip(*names, strict=False))
    return "".join(at[0] for at in alike)
