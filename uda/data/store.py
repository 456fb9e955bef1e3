"""The store: a domain's slices, prepared once, memory-mapped, keyed by content and preprocessing.

Images and labels are separate arrays; a store of unlabelled cases has no label file at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from uda.cards import DatasetCard
from uda.checkpoint import fingerprint, write_json
from uda.data.cases import Case
from uda.data.geometry import Geometry
from uda.data.records import fingerprint_images
from uda.data.slabs import slab_of
from uda.data.sources import holds_both, read_images, read_label
from uda.data.volumes import prepare_image, prepare_label
from uda.errors import DataError, RunError, UdaError, raise_all

FORMAT = 2
"""Raised when the meaning of a stored array changes, so that older stores are prepared again."""


@dataclass(frozen=True)
class StoredCase:
    """Where one volume lies in the store."""

    name: str
    start: int
    stop: int
    geometry: Geometry
    low: float
    """its smallest intensity, that of padding"""


class Store:
    """Read access to prepared slices. Indexing touches only the pages of the slices asked for.

    ``images`` is ``[n, h, w]``, or ``[n, c, h, w]`` where the files hold each slice with its neighbours.
    """

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self.folder = folder
        self.key: str = index["key"]
        self.cases = [
            StoredCase(
                c["name"], c["start"], c["stop"], Geometry.from_json(c["geometry"]), c["low"]
            )
            for c in index["cases"]
        ]
        self.slab: int = index["slab"]
        self.images: NDArray[np.float32] = np.load(folder / "images.npy", mmap_mode="r")
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

    def stacks(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Images ``[b, c, h, w]`` of a 2-D network: stored with their channels, or a slice with its neighbours."""
        if self.images.ndim == 4:
            return np.asarray(self.images[indices])
        return slab_of(self.images, indices, self._first[indices], self._stop[indices], self.slab)

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
        """For each slice its case and its index along the file's own slice axis."""
        return [
            (case.name, case.geometry.stored_slice(i))
            for case in self.cases
            for i in range(case.stop - case.start)
        ]

    def file_places(self) -> list[tuple[str, int]]:
        """Each slice of the cases' files, whether or not preparation kept it."""
        return [
            (case.name, index)
            for case in self.cases
            for index in range(case.geometry.turned_shape[0])
        ]


def content_key(card: DatasetCard, cases: Sequence[Case]) -> str:
    """Hash of everything a store depends on: the files' bytes, the preprocessing, the label map."""
    files = []
    for case in cases:
        if case.label is None and holds_both(case.image):
            files.append([case.name, fingerprint_images(case.image)])
        else:
            paths = dict.fromkeys(path for path in (case.image, case.label) if path is not None)
            files.append([case.name, *(sha256_of(path) for path in paths)])
    labelled = any(case.label for case in cases)
    return fingerprint(
        {
            "format": FORMAT,
            "prepare": card.prepare.model_dump(mode="json"),
            "axes": sorted(card.axes.items()),
            "classes": [card.classes, card.label_values] if labelled else None,
            "files": files,
        }
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def open_store(card: DatasetCard, cases: Sequence[Case], root: Path, key: str = "") -> Store:
    """The store of these cases below ``root``, prepared now if it is missing or damaged.

    Args:
        key: :func:`content_key` of the cases when the caller has it already.

    Raises:
        DataError: lists every case that cannot be prepared; nothing is left behind then.
        RunError: the disk refuses.
    """
    key = key or content_key(card, cases)
    folder = root / key[:16]
    if not _intact(folder, key):
        _build(card, cases, folder, key)
    return Store(folder)


def _intact(folder: Path, key: str) -> bool:
    """Whether every array has the bytes it was written with."""
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        return bool(index["key"] == key) and all(
            _crc32(folder / name) == crc for name, crc in index["crc32"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def _build(card: DatasetCard, cases: Sequence[Case], folder: Path, key: str) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for stale in folder.parent.glob(
            f".{folder.name}.*"
        ):  # of a killed run; ours holds the lock
            shutil.rmtree(stale, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            index = _write_arrays(card, cases, work)
            write_json(work / "index.json", {"key": key, **index})
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(FileExistsError):  # another process was first
                os.replace(work, folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise RunError(
            f"the store cannot be written: {error}",
            where=folder,
            fix="free some space or choose another --out",
        ) from error


def _write_arrays(card: DatasetCard, cases: Sequence[Case], work: Path) -> dict[str, Any]:
    """Stream case after case into the arrays: memory holds one volume, however many there are."""
    entries: list[dict[str, Any]] = []
    faults: list[UdaError] = []
    raw_images, raw_labels = work / "images.raw", work / "labels.raw"
    count, shape = 0, card.prepare.size
    with raw_images.open("wb") as images, raw_labels.open("wb") as labels:
        for case in cases:
            try:
                image, geometry = prepared_stack(case, card)
                if entries and image.shape[1:] != shape:
                    raise DataError(
                        f"its slices are {image.shape[1:]}",
                        where=case.image,
                        expected=f"{shape}, as those of the first case of the split",
                        fix="do not mix kinds of files in one split",
                    )
                if case.label is not None:
                    raw = read_label(case, card)
                    prepare_label(raw, geometry, card, case.label).tofile(labels)
            except DataError as fault:
                faults.append(fault)
                continue
            image.tofile(images)
            entry = {"name": case.name, "start": count, "stop": count + len(image)}
            entries.append({**entry, "geometry": geometry.as_json(), "low": float(image.min())})
            count, shape = count + len(image), image.shape[1:]
    raise_all(faults, f"the data of card {card.name!r}")
    crc = {"images.npy": _add_header(raw_images, work / "images.npy", (count, *shape), np.float32)}
    if any(case.label for case in cases):
        whole = (count, *card.prepare.size)
        crc["labels.npy"] = _add_header(raw_labels, work / "labels.npy", whole, np.uint8)
    raw_images.unlink()
    raw_labels.unlink()
    return {"cases": entries, "slab": card.prepare.slab, "crc32": crc}


def prepared_stack(case: Case, card: DatasetCard) -> tuple[NDArray[np.float32], Geometry]:
    """A case's prepared slices ``[s, h, w]``, or ``[s, c, h, w]`` where its file holds their neighbours too.

    Raises:
        DataError: the image cannot be read or prepared.
    """
    volumes = read_images(case, card)
    prepared = [prepare_image(volume, card.prepare, case.image) for volume in volumes]
    if len(prepared) == 1:
        return prepared[0]
    return np.stack([slices for slices, _ in prepared], axis=1), prepared[0][1]


def _add_header(raw: Path, path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> int:
    """Turn raw values into a .npy file; returns its CRC-32."""
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    with path.open("wb") as out, raw.open("rb") as values:
        npy.write_array_header_1_0(out, header)
        shutil.copyfileobj(values, out, 1 << 22)
        out.flush()
        os.fsync(out.fileno())
    return _crc32(path)
