"""Write a store: prepare one case after the other and stream it into arrays on disk."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from uda.config.card import DatasetCard, PhotoPrepare
from uda.data.cases import Case
from uda.data.geometry import Geometry
from uda.data.images import ordered
from uda.data.sources import prepared_label, prepared_stack
from uda.data.traits import Traits
from uda.errors import DataError, MismatchError, UdaError, UnreadableError, raise_all

HEADER = 256
"""Bytes before the values of an array file; the header is written last, when the shape is known."""


def crc32(path: Path) -> int:
    """CRC-32 of the values of an array file and then of its header, read in blocks."""
    value = 0
    with path.open("rb") as file:
        header = file.read(HEADER)
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return zlib.crc32(header, value)


class _Array:
    """A .npy file that grows along its first axis; each value is written once and enters the CRC-32."""

    def __init__(self, path: Path) -> None:
        self.file, self.crc, self.count = path.open("wb"), 0, 0
        self.shape: tuple[int, ...] = ()
        self.kind = np.dtype(np.uint8)
        self.file.seek(HEADER)

    def append(self, values: NDArray[Any]) -> None:
        block = np.ascontiguousarray(values)
        self.count, self.shape, self.kind = self.count + len(block), block.shape[1:], block.dtype
        self.crc = zlib.crc32(block.data, self.crc)
        self.file.write(block.data)

    def close(self) -> None:
        """Write the header and flush the file to disk."""
        whole = (self.count, *self.shape)
        description = str({"descr": self.kind.str, "fortran_order": False, "shape": whole})
        start = npy.magic(1, 0) + (HEADER - 10).to_bytes(2, "little")
        header = start + description.encode().ljust(HEADER - 11) + b"\n"
        self.crc = zlib.crc32(header, self.crc)
        self.file.seek(0)
        self.file.write(header)
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


_SKIPPED: dict[type[UdaError], str] = {UnreadableError: "unreadable", MismatchError: "mismatched"}
"""error → its word in a card's ``skip``"""


@dataclass(frozen=True)
class _Prepared:
    case: Case
    images: NDArray[Any]
    geometry: Geometry
    labels: NDArray[np.uint8] | None
    traits: Traits


def _prepared(case: Case, card: DatasetCard) -> _Prepared:
    images, geometry, traits = prepared_stack(case, card)
    labels = None if case.label is None else prepared_label(case, geometry, card)
    return _Prepared(case, images, geometry, labels, traits)


def write_arrays(
    card: DatasetCard, cases: Sequence[Case], work: Path, workers: int
) -> dict[str, Any]:
    """Stream case after case into the arrays; memory holds only a few cases.

    Volumes, which are large, are prepared one at a time, photographs by several threads.

    Returns:
        the index of the store: cases, channels, scale, skipped cases and checksums.

    Raises:
        DataError: a case cannot be prepared and may not be skipped, or no case is left.
    """
    found = ordered(lambda case: _prepared(case, card), cases, workers if card.photos else 1)
    kept = _Kept(card)
    arrays = {"images.npy": _Array(work / "images.npy")}
    if any(case.label for case in cases):
        arrays["labels.npy"] = _Array(work / "labels.npy")
    with contextlib.ExitStack() as files:
        files.enter_context(contextlib.closing(found))
        for array in arrays.values():
            files.enter_context(contextlib.closing(array))
        for one in kept.sound(zip(cases, found, strict=True)):
            arrays["images.npy"].append(one.images)
            if one.labels is not None:
                arrays["labels.npy"].append(one.labels)
    kept.check()
    scale = [card.prepare.mean, card.prepare.sd] if isinstance(card.prepare, PhotoPrepare) else None
    return {
        "cases": kept.entries,
        "channels": card.prepare.channels,
        "scale": scale,
        "skipped": kept.skipped,
        "crc32": {name: array.crc for name, array in arrays.items()},
    }


class _Kept:
    """Sorts the cases: stored, skipped by the card, or faulty."""

    def __init__(self, card: DatasetCard) -> None:
        self.card = card
        self.entries: list[dict[str, Any]] = []
        self.faults: list[UdaError] = []
        self.skipped: dict[str, str] = {}
        self.count, self.shape = 0, card.prepare.size

    def sound(self, found: Iterator[tuple[Case, _Prepared | UdaError]]) -> Iterator[_Prepared]:
        """The prepared cases to store; each enters the index when it is yielded."""
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
        measured = {"low": float(one.images.min()), "traits": one.traits}
        self.entries.append({**entry, "geometry": one.geometry.as_json(), **measured})
        self.count, self.shape = stop, one.images.shape[1:]

    def check(self) -> None:
        """Refuse to complete the store where a case is faulty.

        Raises:
            DataError: a case cannot be prepared and may not be skipped, or no case is left.
        """
        raise_all(self.faults, f"the data of card {self.card.name!r}")
        if not self.entries:
            listed = "; ".join(f"{name}: {why}" for name, why in list(self.skipped.items())[:3])
            raise DataError(f"every image of card {self.card.name!r} was left out: {listed}")


def _other_shape(one: _Prepared, shape: tuple[int, ...]) -> DataError:
    return DataError(
        f"its slices have the shape {one.images.shape[1:]}",
        where=one.case.image,
        expected=f"{shape}, as in the first case of the split",
        fix="do not mix kinds of files in one split",
    )
