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

from uda.checkpoint import fingerprint, write_json
from uda.config import DatasetCard
from uda.data.cases import Case
from uda.data.geometry import Geometry
from uda.data.volumes import prepare_image, prepare_label, read_volume
from uda.errors import DataError, RunError, UdaError, raise_all

FORMAT = 1
"""Raised when the meaning of a stored array changes, so that older stores are prepared again."""


@dataclass(frozen=True)
class StoredCase:
    """Where one volume lies in the store."""

    name: str
    start: int
    stop: int
    geometry: Geometry


class Store:
    """Read access to prepared slices. Indexing touches only the pages of the slices asked for."""

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self.folder = folder
        self.key: str = index["key"]
        self.cases = [
            StoredCase(c["name"], c["start"], c["stop"], Geometry.from_json(c["geometry"]))
            for c in index["cases"]
        ]
        self.images: NDArray[np.float32] = np.load(folder / "images.npy", mmap_mode="r")
        labels = folder / "labels.npy"
        self._labels: NDArray[np.uint8] | None = (
            np.load(labels, mmap_mode="r") if labels.is_file() else None
        )

    def __len__(self) -> int:
        return int(self.images.shape[0])

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


def content_key(card: DatasetCard, cases: Sequence[Case]) -> str:
    """Hash of everything a store depends on: the files' bytes, the preprocessing, the label map."""
    files = []
    for case in cases:
        paths = [case.image] + ([case.label] if case.label else [])
        files.append([case.name, *(sha256_of(path) for path in paths)])
    labelled = any(case.label for case in cases)
    return fingerprint(
        {
            "format": FORMAT,
            "prepare": card.prepare.model_dump(mode="json"),
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
    count = 0
    with raw_images.open("wb") as images, raw_labels.open("wb") as labels:
        for case in cases:
            try:
                image, geometry = prepare_image(read_volume(case.image), card.prepare, case.image)
                if case.label is not None:
                    label = prepare_label(read_volume(case.label), geometry, card, case.label)
                    label.tofile(labels)
            except DataError as fault:
                faults.append(fault)
                continue
            image.tofile(images)
            entry = {"name": case.name, "start": count, "stop": count + len(image)}
            entries.append({**entry, "geometry": geometry.as_json()})
            count += len(image)
    raise_all(faults, f"the data of card {card.name!r}")
    shape = (count, *card.prepare.size)
    crc = {"images.npy": _add_header(raw_images, work / "images.npy", shape, np.float32)}
    if any(case.label for case in cases):
        crc["labels.npy"] = _add_header(raw_labels, work / "labels.npy", shape, np.uint8)
    raw_images.unlink()
    raw_labels.unlink()
    return {"cases": entries, "crc32": crc}


def _add_header(raw: Path, path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> int:
    """Turn raw values into a .npy file; returns its CRC-32."""
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    with path.open("wb") as out, raw.open("rb") as values:
        npy.write_array_header_1_0(out, header)
        shutil.copyfileobj(values, out, 1 << 22)
        out.flush()
        os.fsync(out.fileno())
    return _crc32(path)
