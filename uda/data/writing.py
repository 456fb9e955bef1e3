"""Writing a store: cases prepared one after the other and streamed into arrays on disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from uda.cards import DatasetCard, PhotoPrepare
from uda.data.cases import Case
from uda.data.geometry import Geometry
from uda.data.images import ordered
from uda.data.sources import prepared_label, prepared_stack
from uda.errors import DataError, MismatchError, UdaError, UnreadableError, raise_all


def crc32(path: Path) -> int:
    """CRC-32 of a file, read in blocks."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


_SKIPPED: dict[type[UdaError], str] = {UnreadableError: "unreadable", MismatchError: "mismatched"}
"""what a card's ``skip`` calls a fault"""


@dataclass(frozen=True)
class _Prepared:
    case: Case
    images: NDArray[Any]
    geometry: Geometry
    labels: NDArray[np.uint8] | None


def _prepared(case: Case, card: DatasetCard) -> _Prepared:
    images, geometry = prepared_stack(case, card)
    labels = None if case.label is None else prepared_label(case, geometry, card)
    return _Prepared(case, images, geometry, labels)


def write_arrays(
    card: DatasetCard, cases: Sequence[Case], work: Path, workers: int
) -> dict[str, Any]:
    """Stream case after case into the arrays: memory holds a few of them, however many there are.

    Volumes fill a memory and are prepared one at a time; photographs by several threads.
    """
    found = ordered(lambda case: _prepared(case, card), cases, workers if card.photos else 1)
    kept = _Kept(card)
    raw_images, raw_labels = work / "images.raw", work / "labels.raw"
    with (
        contextlib.closing(found),
        raw_images.open("wb") as images,
        raw_labels.open("wb") as labels,
    ):
        for one in kept.sound(zip(cases, found, strict=True)):
            one.images.tofile(images)
            if one.labels is not None:
                one.labels.tofile(labels)
    kept.check()
    whole = (kept.count, *kept.shape)
    crc = {"images.npy": _add_header(raw_images, work / "images.npy", whole, kept.dtype)}
    if any(case.label for case in cases):
        size = (kept.count, *card.prepare.size)
        crc["labels.npy"] = _add_header(raw_labels, work / "labels.npy", size, np.dtype(np.uint8))
    raw_images.unlink()
    raw_labels.unlink()
    scale = [card.prepare.mean, card.prepare.sd] if isinstance(card.prepare, PhotoPrepare) else None
    return {
        "cases": kept.entries,
        "channels": card.prepare.channels,
        "scale": scale,
        "skipped": kept.skipped,
        "crc32": crc,
    }


class _Kept:
    """What becomes of each case: into the arrays, left out as the card says, or a fault of the whole."""

    def __init__(self, card: DatasetCard) -> None:
        self.card = card
        self.entries: list[dict[str, Any]] = []
        self.faults: list[UdaError] = []
        self.skipped: dict[str, str] = {}
        self.count, self.shape, self.dtype = 0, card.prepare.size, np.dtype(np.float32)

    def sound(self, found: Iterator[tuple[Case, _Prepared | UdaError]]) -> Iterator[_Prepared]:
        """The prepared cases that are to be stored, each counted when it is handed out."""
        for case, one in found:
            if isinstance(one, UdaError):
                self._fault(case, one)
            elif self.entries and one.images.shape[1:] != self.shape:
                self.faults.append(_other_shape(one, self.shape))
            else:
                self._count(one)
                yield one

    def _fault(self, case: Case, fault: UdaError) -> None:
        kind = _SKIPPED.get(type(fault))
        if kind in self.card.skip:
            self.skipped[case.name] = fault.what
        elif isinstance(fault, DataError):
            self.faults.append(fault)
        else:
            raise fault

    def _count(self, one: _Prepared) -> None:
        stop = self.count + len(one.images)
        entry = {"name": one.case.name, "start": self.count, "stop": stop}
        low = float(one.images.min())
        self.entries.append({**entry, "geometry": one.geometry.as_json(), "low": low})
        self.count, self.shape, self.dtype = stop, one.images.shape[1:], one.images.dtype

    def check(self) -> None:
        """Raise what forbids a store.

        Raises:
            DataError: a case that cannot be prepared and may not be left out, or nothing is left.
        """
        raise_all(self.faults, f"the data of card {self.card.name!r}")
        if not self.entries:
            listed = "; ".join(f"{name}: {why}" for name, why in list(self.skipped.items())[:3])
            raise DataError(f"every image of card {self.card.name!r} was left out: {listed}")


def _other_shape(one: _Prepared, shape: tuple[int, ...]) -> DataError:
    return DataError(
        f"its slices are {one.images.shape[1:]}",
        where=one.case.image,
        expected=f"{shape}, as those of the first case of the split",
        fix="do not mix kinds of files in one split",
    )


def _add_header(raw: Path, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Turn raw values into a .npy file; returns its CRC-32."""
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    with path.open("wb") as out, raw.open("rb") as values:
        npy.write_array_header_1_0(out, header)
        shutil.copyfileobj(values, out, 1 << 22)
        out.flush()
        os.fsync(out.fileno())
    return crc32(path)
