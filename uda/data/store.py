"""The store: the prepared slices of a domain, memory-mapped and keyed by content and preprocessing.

Images and labels are separate arrays; a store of unlabelled cases has no label file.
"""

from __future__ import annotations

import filecmp
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uda.config.card import DatasetCard
from uda.data.cases import Case
from uda.data.geometry import Geometry
from uda.data.hashes import Hashes
from uda.data.records import fingerprint_images
from uda.data.slabs import slab_of
from uda.data.sources import holds_both
from uda.data.traits import Traits
from uda.data.writing import crc32, write_arrays
from uda.errors import DataError, RunError
from uda.files.atomic import scratch, sweep, sync, write_json
from uda.files.digests import fingerprint
from uda.files.untrusted import parse_json, read_text

INDEX = "index.json"
"""name of the file that describes a store's arrays"""
FORMAT = 3
"""Increased when the meaning of a stored array changes, so that older stores are prepared again."""


@dataclass(frozen=True)
class StoredCase:
    """One case of the store: its slices ``start`` to ``stop`` (excluded)."""

    name: str
    start: int
    stop: int
    geometry: Geometry
    low: float
    """smallest intensity, which is that of padding"""
    traits: Traits
    """traits of the image before preparation"""


class Store:
    """Read access to prepared slices. Indexing reads only the pages of the chosen slices.

    ``images`` is ``[n, h, w]``, or ``[n, c, h, w]`` for photographs and for files that hold each slice with its
    neighbours. Photographs are uint8, all other images float32.
    """

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        self.folder = folder
        self.key: str = index["key"]
        self.cases = [
            StoredCase(
                name=case["name"],
                start=case["start"],
                stop=case["stop"],
                geometry=Geometry.from_json(case["geometry"]),
                low=case["low"],
                traits=case["traits"],
            )
            for case in index["cases"]
        ]
        self.channels: int = index["channels"]
        self.scale: tuple[list[float], list[float]] | None = index["scale"]
        """mean and standard deviation of a photograph's channels in [0, 1]; None: images are already normalised"""
        self.skipped: dict[str, str] = index["skipped"]
        """case that was left out → reason"""
        self.images: NDArray[Any] = np.load(folder / "images.npy", mmap_mode="r")
        labels = folder / "labels.npy"
        self._labels: NDArray[np.uint8] | None = (
            np.load(labels, mmap_mode="r") if labels.is_file() else None
        )

        lengths = [case.stop - case.start for case in self.cases]
        self._first = np.repeat([case.start for case in self.cases], lengths)
        self._stop = np.repeat([case.stop for case in self.cases], lengths)

    def __len__(self) -> int:
        return int(self.images.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of a slice."""
        return int(self.images.shape[-2]), int(self.images.shape[-1])

    def stacks(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Images ``[b, c, h, w]`` for a 2-D network: as stored, or each slice with its neighbours."""
        if self.images.ndim == 4:
            return np.asarray(self.images[indices])
        first, stop = self._first[indices], self._stop[indices]
        return slab_of(self.images, indices, first, stop, self.channels)

    @property
    def labels(self) -> NDArray[np.uint8]:
        """Labels ``[n, h, w]``.

        Raises:
            DataError: the store was prepared without labels.
        """
        if self._labels is None:
            raise DataError("this store was prepared without labels", where=self.folder)
        return self._labels

    def places(self) -> list[tuple[str, int]]:
        """Case and index along the file's own slice axis of each slice."""
        return [
            (case.name, case.geometry.stored_slice(i))
            for case in self.cases
            for i in range(case.stop - case.start)
        ]

    def file_places(self) -> list[tuple[str, int]]:
        """Case and index of each slice of the files, including slices that preparation leaves out."""
        return [
            (case.name, index)
            for case in self.cases
            for index in range(case.geometry.turned_shape[0])
        ]


def content_key(card: DatasetCard, cases: Sequence[Case], hashes: Hashes | None = None) -> str:
    """Hash of everything that a store depends on: file contents, preprocessing, label map."""
    return _key(card, cases, _digests(cases, hashes or Hashes()))


def _digests(cases: Sequence[Case], hashes: Hashes) -> list[list[str]]:
    """For each case its name and the SHA-256 of what is read of its files."""
    files = []
    for case in cases:
        if case.label is None and holds_both(case.image):
            files.append([case.name, hashes.of(case.image, fingerprint_images)])
        else:
            paths = dict.fromkeys(path for path in (case.image, case.label) if path is not None)
            files.append([case.name, *(hashes.of(path) for path in paths)])
    return files


def _key(card: DatasetCard, cases: Sequence[Case], files: Sequence[Sequence[str]]) -> str:
    labelled = any(case.label for case in cases)
    return fingerprint(
        {
            "format": FORMAT,
            "prepare": card.prepare.model_dump(mode="json"),
            "axes": sorted(card.axes.items()),
            "classes": [card.classes, card.label_values] if labelled else None,
            "photo labels": [card.label_bits, card.indexed, sorted(card.colors.items())]
            if labelled and card.photos
            else None,
            "skip": card.skip,
            "files": files,
        }
    )


def open_store(
    card: DatasetCard,
    cases: Sequence[Case],
    root: Path,
    key: str = "",
    workers: int = 1,
    hashes: Hashes | None = None,
) -> Store:
    """Open the store of these cases below ``root``; prepare it first if it is missing or damaged.

    Args:
        key: :func:`content_key` of the cases, if the caller has computed it.
        workers: number of threads that prepare photographs; 0 = as many as the processors.
        hashes: those that ``key`` was computed with.

    Raises:
        DataError: lists every case that cannot be prepared, or a file changed after it was hashed; no store is left
            then. Or a file of no store has the place of one of its files.
        RunError: the disk refuses.
    """
    hashes = hashes or Hashes()
    key = key or content_key(card, cases, hashes)
    folder = root / key[:16]
    if _intact(folder, key):
        sweep(root)
    else:
        _build(card, cases, folder, key, workers, hashes)
    return Store(folder)


HEAD = 1000
"""bytes at the beginning of an index that hold its key"""
_intact_once: dict[Path, list[tuple[int, int]]] = {}
"""Sizes and times of arrays that this process has verified; large arrays are not read again for each stage."""


def _intact(folder: Path, key: str) -> bool:
    """Whether every array still has the checksum of its index."""
    try:
        index = parse_json(read_text(folder / INDEX))
        if index["key"] != key or index.pop("sha256", "") != fingerprint(index):
            return False  # damaged, or an older format without this checksum
        statuses = [(folder / name).stat() for name in index["crc32"]]
        signatures = [(one.st_size, one.st_mtime_ns) for one in statuses]
        if _intact_once.get(folder) == signatures:
            return True
        sound = all(crc32(folder / name) == crc for name, crc in index["crc32"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    if sound:
        _intact_once[folder] = signatures
    return sound


def _build(
    card: DatasetCard, cases: Sequence[Case], folder: Path, key: str, workers: int, hashes: Hashes
) -> None:
    before = _digests(cases, hashes)
    try:
        with scratch(folder.parent) as unfinished:
            work = unfinished / folder.name
            work.mkdir()
            index = {"key": key, **write_arrays(card, cases, work, workers)}
            _check_unchanged(cases, before, _digests(cases, hashes))
            if _key(card, cases, before) != key:
                raise _changed("an image or label", folder)
            write_json(work / INDEX, {**index, "sha256": fingerprint(index)})
            _put(work, folder, key)
            sync(folder.parent)
    except OSError as error:
        raise RunError(
            f"the store cannot be written: {error}",
            where=folder,
            fix="free some space or choose another --out",
        ) from error


def _check_unchanged(
    cases: Sequence[Case], before: Sequence[Sequence[str]], after: Sequence[Sequence[str]]
) -> None:
    """Refuse files that changed while they were prepared: their store would have the key of other content."""
    for case, old, new in zip(cases, before, after, strict=True):
        if old != new:
            changed = case.image if old[:2] != new[:2] or case.label is None else case.label
            raise _changed(f"a file of case {case.name!r}", changed)


def _changed(what: str, where: Path) -> DataError:
    return DataError(
        f"{what} changed while it was read",
        where=where,
        expected="data that nobody edits during the run",
        fix="run the same command again",
    )


def _put(work: Path, folder: Path, key: str) -> None:
    """Move a finished store's files to their place; a damaged store's files are replaced, other files stay.

    Raises:
        DataError: a file that is not of this store has the name of one of its files.
    """
    if not folder.exists():
        os.replace(work, folder)
        return
    for path in () if _is_store(folder, key) else sorted(work.iterdir()):
        if not _is_same(path, folder / path.name):
            raise DataError(
                "is not of the store that this run makes, and would be replaced",
                where=folder / path.name,
                fix="move it away, or choose another --out",
            )
    for path in sorted(work.iterdir(), key=lambda path: path.name != INDEX):  # first the mark
        os.replace(path, folder / path.name)


def _is_store(folder: Path, key: str) -> bool:
    """Whether the folder's index, even a damaged one, holds the key."""
    try:
        with (folder / INDEX).open("rb") as file:
            return key.encode() in file.read(HEAD)
    except OSError:
        return False


def _is_same(path: Path, there: Path) -> bool:
    """Whether nothing is lost if a file is replaced: it is missing, empty or the same."""
    if not os.path.lexists(there):
        return True
    empty = there.is_file() and there.stat().st_size == 0
    return empty or (there.is_file() and filecmp.cmp(path, there, shallow=False))
