"""Read a ``dataset.json`` of nnU-Net v2, nnU-Net v1 or the Medical Segmentation Decathlon.

Every statement is compared with the files. One error lists all faults, before a card is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uda.config.card import MOST_CLASSES
from uda.data.nnunet.files import FILE, Pair, Reader, find_files
from uda.errors import DataError, raise_all
from uda.files.untrusted import MAX_YAML, parse_json, read_text

ENDINGS = (".nii.gz", ".nii", ".nrrd")
IGNORE_NAME = "ignore"
BACKGROUND = {"background", "bg", "unlabelled", "unlabeled", "clear label"}
CT_WORD = re.compile(r"ct|cta|cect")
MR_WORD = re.compile(r"mri?|t1(w|c|gd)?|t2w?|flair|lge|bssfp|cine|pd|adc|dwi")


@dataclass
class Listing:
    """A data set as its ``dataset.json`` and its folders describe it."""

    source: Path
    title: str
    labels: dict[int, str]
    """id → name in the file, background first"""
    ignore: int | None
    channel: str
    training: dict[str, Pair]
    unlabelled: dict[str, Pair]

    @property
    def folder(self) -> Path:
        return self.source.parent

    @property
    def modality(self) -> str | None:
        """``ct``, ``mr``, or None when the channel's name is unclear."""
        words = re.split(r"[^a-z0-9]+", self.channel.lower())
        if any(map(CT_WORD.fullmatch, words)):
            return "ct"
        return "mr" if any(map(MR_WORD.fullmatch, words)) else None


def read_listing(folder: Path) -> Listing:
    """Read a data set's ``dataset.json`` and find its files; no image is opened.

    Args:
        folder: the folder of the ``dataset.json``.

    Raises:
        DataError: lists every false statement with its remedy.
    """
    source = folder / FILE
    reader = Reader(source, _mapping(source))
    labels, ignore = _labels(reader)
    channel = _channel(reader)
    ending = str(reader.raw.get("file_ending", ENDINGS[0]))
    training: dict[str, Pair] = {}
    unlabelled: dict[str, Pair] = {}
    if ending in ENDINGS:
        training, unlabelled = find_files(reader, ending)
    else:
        reader.lies(
            f"file_ending is {ending!r}, which cannot be read",
            " or ".join(ENDINGS),
            "convert images and labels to NIfTI and set file_ending",
        )
    raise_all(reader.faults, str(source))
    title = str(reader.raw.get("name") or folder.resolve().name)
    return Listing(source, title, labels, ignore, channel, training, unlabelled)


def _mapping(source: Path) -> Mapping[str, Any]:
    try:
        raw = parse_json(read_text(source, MAX_YAML))
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot be read as JSON: {error}",
            where=source,
            expected="the dataset.json of nnU-Net or of the Decathlon",
            fix="give the folder of the dataset.json, imagesTr/ and labelsTr/",
        ) from error
    if not isinstance(raw, dict):
        raise DataError(
            f"holds {type(raw).__name__}, not a mapping",
            where=source,
            expected='{"labels": {"background": 0, …}, …}',
            fix="give the folder of a data set of nnU-Net or of the Decathlon",
        )
    return raw


def _labels(reader: Reader) -> tuple[dict[int, str], int | None]:
    """Names by id, and the id of ignored voxels."""
    raw = reader.raw.get("labels")
    if not isinstance(raw, dict) or not raw:
        reader.lies(f"labels are {raw!r}", "names and ids", 'add "labels": {"background": 0, …}')
        return {}, None
    if regions := [name for name, value in raw.items() if isinstance(value, list)]:
        reader.lies(
            f"labels {', '.join(regions)} are regions, unions of several ids",
            "one id for each name",
            "write a copy with one name for each id of the label files",
        )
        return {}, None
    try:  # v2: name → id; v1 and Decathlon: id → name
        pairs = [(int(v), str(k)) if _is_id(v) else (int(k), str(v)) for k, v in raw.items()]
    except (TypeError, ValueError):
        reader.lies(f"labels are {raw}", "whole numbers as ids", "correct the labels")
        return {}, None
    labels = dict(sorted(pairs))
    ignored = [number for number, name in labels.items() if name.lower() == IGNORE_NAME]
    kept = [number for number, name in labels.items() if name.lower() != IGNORE_NAME]
    if len(labels) != len(pairs) or len(set(labels.values())) != len(labels):
        reader.lies(
            f"labels repeat an id or a name: {raw}", "each id and name once", "correct the labels"
        )
    elif kept != list(range(len(kept))) or len(kept) < 2:
        reader.lies(
            f"label ids are {kept}",
            "0 for the background, then 1, 2, … without a gap",
            "name every id that the label files hold, or renumber the label files",
        )
    elif len(kept) > MOST_CLASSES:
        reader.lies(
            f"names {len(kept)} labels",
            f"at most {MOST_CLASSES} with the background",
            "write a copy with fewer labels, and give the label files the same ids",
        )
    elif labels[0].lower() not in BACKGROUND:
        reader.lies(
            f"id 0 is {labels[0]!r}",
            "the background at 0",
            "renumber the label files, or call id 0 background if it is the background",
        )
    return {n: labels[n] for n in kept}, ignored[0] if ignored else None


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _channel(reader: Reader) -> str:
    """Name of the only channel."""
    raw = reader.raw.get("channel_names", reader.raw.get("modality"))
    names = list(raw.values()) if isinstance(raw, dict) else []
    if len(names) != 1:
        reader.lies(
            f"{len(names)} channels: {', '.join(map(str, names))}" if names else "names no channel",
            "one channel: an image is one volume",
            "write a copy with one channel, as one file per case",
        )
    return str(names[0]) if names else ""
