"""Check photographs: threads decode every file and keep only counts.

Labels of images in the ``adapt`` split alone are never opened.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uda.check import photo_rules as rules
from uda.check.findings import WHOLE_SET, CaseReport, PhotoPicture, PhotoSummary, SplitSummary
from uda.check.layout import UNLABELLED, Layout
from uda.check.photo_rules import Place
from uda.config.card import DatasetCard
from uda.data.cases import image_path, label_path
from uda.data.geometry import label_slices
from uda.data.image_files import Header, read_file
from uda.data.images import ordered, photo_geometry, read_photo, resize_photo
from uda.data.photo_labels import Value, check_same_size, read_classes, value_counts
from uda.errors import MismatchError, UdaError, UnreadableError
from uda.types import IGNORE

DRAWN = 12  # photographs of each split that are drawn, evenly chosen
FAULTY_DRAWN = 48  # further photographs that are drawn because of a finding
WIDEST = 640  # longest side of a drawn photograph in pixels
SKIPPED = {"train", "adapt"}
"""Splits from which a card may leave out faulty images."""


@dataclass
class _Seen:
    """The findings of a thread on one photograph and its label."""

    report: CaseReport
    place: Place
    shape: tuple[int, int] | None = None
    kind: str = ""
    digest: bytes = b""
    form: str = ""
    pixels: NDArray[np.int64] | None = None
    """``[256]``: pixels of each class index"""
    strange: dict[Value, int] = field(default_factory=dict)
    """pixels of each value without a class"""
    left_out: bool = False


class PhotoCheck:
    """Reads the photographs of a card and sums up their properties.

    Args:
        layout: the splits of each case, and the faults of the file names.
        pictures: whether some reports hold a small picture; each is dropped when the next report is drawn.
        workers: number of threads; 0 = as many as the processors.
    """

    def __init__(
        self, card: DatasetCard, folder: Path, layout: Layout, pictures: bool, workers: int = 0
    ) -> None:
        self.card, self.folder, self.layout, self.workers = card, folder, layout, workers
        splits = {split: SplitSummary() for split in card.splits}
        self.summary = PhotoSummary((*card.classes, "ignore"), splits)
        self.shapes: dict[str, tuple[int, int]] = {}
        """rows and columns of each readable photograph"""
        self._alike: defaultdict[bytes, list[Place]] = defaultdict(list)
        self._pictures = pictures
        self._chosen = _even_choice(layout) if pictures else set()

    def reports(self) -> Iterator[CaseReport]:
        """One report per photograph, in order."""
        found = ordered(self._look, self.layout.cases, self.workers)
        room = FAULTY_DRAWN
        with contextlib.closing(found):
            for seen in found:
                if isinstance(seen, UdaError):
                    raise seen
                self._add(seen)
                report = seen.report
                if report.picture is not None and report.case not in self._chosen:
                    room -= 1
                    report.picture = report.picture if room >= 0 else None
                yield report
                report.picture = None

    def whole(self) -> CaseReport:
        """The report of the data set as a whole, after :meth:`reports` has ended."""
        report = CaseReport(WHOLE_SET, self.card.name, summary=self.summary)
        report.faults += self.layout.faults
        report.notes += [
            *self.layout.notes,
            *rules.never_shown(self.summary.showing, self.summary.labels, self.card),
            *rules.squeezed(Counter(self.shapes.values()), self.card),
        ]
        for same in self._alike.values():
            if len(same) > 1:
                finding, fault = rules.equal_photographs(same)
                (report.faults if fault else report.notes).append(finding)
        return report

    def _look(self, name: str) -> _Seen:
        """Read one photograph and its label, in a thread."""
        splits, card = tuple(self.layout.cases[name]), self.card
        path = image_path(card, self.folder, name, self.layout.listing)
        report = CaseReport(", ".join(splits), name, faults=[*self.layout.of_case[name]])
        seen = _Seen(report, Place(name, splits, path))
        if not path.is_file():
            return seen
        photo = classes = None
        try:
            _, header = read_file(path)
            seen.kind = report.stored = _kind(header)
            photo = read_photo(path)
            seen.shape = (photo.shape[0], photo.shape[1])
            seen.digest = hashlib.blake2b(photo.data, digest_size=16).digest()
            report.shape = f"{photo.shape[0]}×{photo.shape[1]}"
            report.prepared = "×".join(map(str, card.prepare.size))
        except UdaError as fault:
            _record(fault, seen, card)
        label = None
        if set(splits) != {UNLABELLED}:
            label = label_path(card, self.folder, name, self.layout.listing)
        if label is not None and label.is_file():
            classes = _look_at_label(label, seen, card)
        wanted = name in self._chosen or (self._pictures and (report.faults or report.notes))
        if photo is not None and wanted:
            report.picture = _picture(photo, classes)
        return seen

    def _add(self, seen: _Seen) -> None:
        for name in seen.place.splits:
            split = self.summary.splits[name]
            split.images += 1
            split.faulty += bool(seen.report.faults)
            split.left_out += seen.left_out
            for counter, kind in (
                (split.sizes, seen.report.shape),
                (split.kinds, seen.kind),
                (split.forms, seen.form),
            ):
                counter.update([kind] if kind else [])
        if seen.shape is not None:
            self.shapes[seen.report.case] = seen.shape
            self._alike[seen.digest].append(seen.place)
        if seen.pixels is not None:
            self._add_classes(seen.pixels)
        for value, number in seen.strange.items():
            self.summary.strange[str(value)] += number
            self.summary.strange_files[str(value)] += 1

    def _add_classes(self, pixels: NDArray[np.int64]) -> None:
        self.summary.labels += 1
        for index, name in enumerate(self.summary.names):
            number = int(pixels[IGNORE if name == "ignore" else index])
            self.summary.pixels[name] += number
            self.summary.showing[name] += number > 0


def _even_choice(layout: Layout) -> set[str]:
    """Names of a few photographs of each split, evenly spread."""
    chosen: set[str] = set()
    for split in {split for splits in layout.cases.values() for split in splits}:
        names = layout.members(split)
        room = min(DRAWN, len(names))
        chosen |= {names[i * len(names) // room] for i in range(room)}
    return chosen


def _kind(header: Header) -> str:
    """Format, colours and bits of a photograph."""
    alpha = " with alpha" if header.alpha else ""
    return f"{header.format} {header.color}{alpha} {header.bits} bit"


def _form(header: Header, path: Path, card: DatasetCard) -> str:
    """The encoding of a label's classes."""
    if header.bits == 16:
        return "16-bit ids"
    if header.color == "RGB":
        return "colour"
    indexed = card.indexed is not None and path.name.endswith(card.indexed)
    ids = "train ids" if indexed else "ids"
    return f"{ids} in a palette" if header.color == "palette" else ids


def _look_at_label(path: Path, seen: _Seen, card: DatasetCard) -> NDArray[np.uint8] | None:
    """Count a label's classes; returns the classes where the label fits its image."""
    report = seen.report
    before = len(report.faults) + len(report.notes)
    try:
        _, header = read_file(path)
        seen.form = _form(header, path, card)
        claimed = np.broadcast_to(np.uint8(0), (header.rows, header.columns))
        if seen.shape is not None:
            check_same_size(claimed, seen.shape, path)
    except UdaError as fault:
        _record(fault, seen, card)
        if not isinstance(fault, MismatchError):
            return None
    try:
        classes = read_classes(path, card)
    except UdaError as fault:
        _record(fault, seen, card)
        seen.strange = _without_class(path, card)
        return None
    seen.pixels = np.bincount(classes.ravel(), minlength=IGNORE + 1)
    report.labels = seen.form
    fits = len(report.faults) + len(report.notes) == before
    return classes if fits else None


def _without_class(path: Path, card: DatasetCard) -> dict[Value, int]:
    """Values or colours that the card does not name, with their pixels."""
    try:
        counts = value_counts(path, card)
    except UdaError:
        return {}
    named: set[Value] = {*card.colors.values(), *card.ignore_colors}
    if card.indexed is not None and path.name.endswith(card.indexed):
        named |= {*range(len(card.classes)), IGNORE}
    else:
        named |= {value for group in card.label_values.values() for value in group}
    return {value: number for value, number in counts.items() if value not in named}


def _record(fault: UdaError, seen: _Seen, card: DatasetCard) -> None:
    """Add a fault, or a note where the card leaves such an image out of training."""
    skips = {"unreadable": UnreadableError, "mismatched": MismatchError}
    may = tuple(skips[kind] for kind in card.skip)
    if not isinstance(fault, may) or not SKIPPED.issuperset(seen.place.splits):
        seen.report.faults.append(fault)
        return
    seen.left_out = True
    seen.report.notes.append(
        type(fault)(
            f"{fault.what}; the image is left out, as the card says (skip)",
            where=fault.where,
            expected=fault.expected,
        )
    )


def _picture(photo: NDArray[np.uint8], classes: NDArray[np.uint8] | None) -> PhotoPicture:
    rows, columns = photo.shape[:2]
    factor = min(1.0, WIDEST / max(rows, columns))
    size = (max(1, round(factor * rows)), max(1, round(factor * columns)))
    if classes is not None:
        classes = label_slices(classes[..., None], photo_geometry((rows, columns), size))[0]
    return PhotoPicture(resize_photo(photo, size), classes)
