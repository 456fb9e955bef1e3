"""Find the files of a data set of nnU-Net or the Decathlon, and compare them with its ``dataset.json``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from os.path import isfile  # False also for names that no disk can hold, where pathlib raises
from pathlib import Path, PurePosixPath
from typing import Any

from uda.data.file_names import is_clutter
from uda.errors import MOST, DataError, UdaError, combine

FILE = "dataset.json"
CHANNEL = "_0000"
SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Pair:
    """An image and, where it has one, its label, as paths below the folder."""

    image: str
    label: str | None = None


@dataclass
class Reader:
    """The raw mapping of a ``dataset.json``, and its faults."""

    source: Path
    raw: Mapping[str, Any]
    faults: list[UdaError] = field(default_factory=list)

    def lies(self, what: str, expected: str, fix: str, where: str | Path | None = None) -> None:
        """Note a fault.

        Raises:
            DataError: it is one more than a message lists; the others are not looked for.
        """
        self.faults.append(DataError(what, where=where or self.source, expected=expected, fix=fix))
        if len(self.faults) > MOST:
            raise combine(self.faults, str(self.source))


def find_files(reader: Reader, ending: str) -> tuple[dict[str, Pair], dict[str, Pair]]:
    """Training pairs and images without a label, by case; listed files must exist, and pairs be complete."""
    raw = reader.raw
    unlabelled = _once(reader, _in_folder(reader, "imagesTs", ending))
    left_out = 0
    if isinstance(raw.get("dataset"), dict):
        training = _once(reader, _from_mapping(reader, raw["dataset"]))
    elif isinstance(raw.get("training"), list):
        training = _once(reader, _from_list(reader, raw["training"], ending))
        left_out = sum(map(_is_clutter, raw["training"]))
        listed = raw["test"] if isinstance(raw.get("test"), list) else []
        tests = [{"image": i} if isinstance(i, str) else i for i in listed]
        unlabelled = _once(reader, _from_list(reader, tests, ending)) or unlabelled
    else:
        training = _paired(reader, ending)
    if not training:
        reader.lies("no labelled case", "images in imagesTr, labels in labelsTr", "add the files")
    stated = raw.get("numTraining", len(training))
    if stated not in (len(training), len(training) + left_out):
        reader.lies(
            f"numTraining is {stated!r}, but there are {len(training)} labelled cases",
            f"numTraining: {len(training)}",
            "correct the number, or add the missing files",
        )
    for name in [*training, *unlabelled]:
        if not name or re.search(r"[*?{}/]", name):
            reader.lies(
                f"a case is called {name!r}", "a name without * ? { } /", "rename its files"
            )
    return training, unlabelled


def _once(reader: Reader, found: Iterable[tuple[str, Pair]]) -> dict[str, Pair]:
    """Pairs by case; a second file of a case is a fault."""
    pairs: dict[str, Pair] = {}
    for name, pair in found:
        if name in pairs:
            reader.lies(
                f"two files of the case {name!r}: {pairs[name].image} and {pair.image}",
                "one image per case",
                "keep one of them",
                where=reader.source.parent / pair.image,
            )
        pairs.setdefault(name, pair)
    return pairs


def _from_mapping(reader: Reader, raw: Mapping[str, Any]) -> Iterator[tuple[str, Pair]]:
    """The ``dataset`` of nnU-Net v2: case → images and label."""
    for name, entry in raw.items():
        images = entry.get("images") if isinstance(entry, dict) else None
        label = entry.get("label") if isinstance(entry, dict) else None
        if not (isinstance(images, list) and len(images) == 1 and isinstance(label, str)):
            reader.lies(
                f"dataset entry {name!r} is {entry}",
                '{"images": ["one file"], "label": "one file"}',
                "correct the entry",
            )
            continue
        pair = Pair(_tidy(str(images[0])), _tidy(label))
        if _there(reader, name, pair):
            yield name, pair


def _from_list(reader: Reader, raw: list[Any], ending: str) -> Iterator[tuple[str, Pair]]:
    """``training`` and ``test`` of nnU-Net v1 and the Decathlon."""
    for entry in raw:
        if _is_clutter(entry):
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
            reader.lies(f"an entry is {entry!r}", '{"image": …, "label": …}', "correct the entry")
            continue
        image = _tidy(entry["image"])
        name = PurePosixPath(image).name.removesuffix(ending).removesuffix(CHANNEL)
        if not isfile(reader.source.parent / image):  # nnU-Net v1 leaves the channel out
            with_channel = f"{image.removesuffix(ending)}{CHANNEL}{ending}"
            if isfile(reader.source.parent / with_channel):
                image = with_channel
        label = _tidy(entry["label"]) if isinstance(entry.get("label"), str) else None
        pair = Pair(image, label)
        if _there(reader, name, pair):
            yield name, pair


def _is_clutter(entry: Any) -> bool:
    """Whether an entry lists a file that macOS leaves behind, as some lists do: ``./imagesTr/._la_003.nii.gz``."""
    image = entry.get("image") if isinstance(entry, dict) else None
    return isinstance(image, str) and is_clutter(PurePosixPath(image).name)


def _there(reader: Reader, name: str, pair: Pair) -> bool:
    """Whether the files of a pair lie in the data set's folder; no path that leads out of it is opened."""
    listed = [PurePosixPath(path) for path in (pair.image, pair.label) if path]
    if out := [path for path in listed if path.is_absolute() or ".." in path.parts]:
        reader.lies(
            f"lists {out[0]} for case {name!r}, which leads out of the folder of {FILE}",
            "paths below this folder, without ..",
            "copy the file into the folder, or link it there, and list that",
        )
        return False
    absent = [p for p in (pair.image, pair.label) if p and not isfile(reader.source.parent / p)]
    for path in absent:
        reader.lies(
            f"lists {path} for case {name!r}, which is not there",
            "every listed file",
            f"add the file, or remove the case from {FILE}",
            where=reader.source.parent / path,
        )
    return not absent


def _paired(reader: Reader, ending: str) -> dict[str, Pair]:
    """Cases with an image in imagesTr and a label in labelsTr; a file without its partner is a fault."""
    images = _once(reader, _in_folder(reader, "imagesTr", ending))
    labels = {name: pair.image for name, pair in _in_folder(reader, "labelsTr", ending)}
    for one, other, kind in (("imagesTr", "labelsTr", "label"), ("labelsTr", "imagesTr", "image")):
        has, lacks = (images, labels) if kind == "label" else (labels, images)
        if alone := [name for name in has if name not in lacks]:
            reader.lies(
                f"{len(alone)} cases of {one} have no {kind}: {_some(alone)}",
                f"{other}/{alone[0]}{CHANNEL if kind == 'image' else ''}{ending}",
                "add the files, or move the others elsewhere",
                where=reader.source.parent / other,
            )
    return {n: Pair(images[n].image, label) for n, label in labels.items() if n in images}


def _in_folder(reader: Reader, folder: str, ending: str) -> Iterator[tuple[str, Pair]]:
    """Files of one folder by case, in natural order."""
    paths = [
        path
        for path in (reader.source.parent / folder).glob(f"*{ending}")
        if path.is_file() and not is_clutter(path.name)
    ]
    stems = {path.name.removesuffix(ending) for path in paths}
    further = sorted(s for s in stems if re.search(r"_\d{4}$", s) and not s.endswith(CHANNEL))
    if folder != "labelsTr" and further and any(s.endswith(CHANNEL) for s in stems):
        reader.lies(
            f"{folder} holds further channels: {_some(further)}",
            f"one file per case, ending in {CHANNEL}{ending}",
            "move the other channels elsewhere",
            where=reader.source.parent / folder,
        )
        stems -= set(further)
    for stem in sorted(stems, key=_natural):
        name = stem if folder == "labelsTr" else stem.removesuffix(CHANNEL)
        yield name, Pair(f"{folder}/{stem}{ending}")


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _tidy(path: str) -> str:
    return str(PurePosixPath(path))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
