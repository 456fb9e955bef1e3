"""Check photographs: threads decode every file and keep only counts.

Labels of images in the ``adapt`` split alone are never opened.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uda.check import photo_rules as rules
from uda.check.annotations import AnnotationCheck, CaseMarks
from uda.check.findings import WHOLE_SET, CaseReport, PhotoPicture, PhotoSummary, SplitSummary
from uda.check.layout import UNLABELLED, Layout
from uda.check.photo_rules import Place
from uda.config.card import DatasetCard
from uda.data.geometry import label_slices
from uda.data.image_files import Header, read_file
from uda.data.images import ordered, photo_geometry, read_photo, resize_photo
from uda.data.photo_labels import Value, check_same_size, read_classes, value_counts
from uda.errors import MismatchError, UdaError, UnreadableError
from uda.types import IGNORE

DRAWN = 12  # photographs of each split that are drawn, evenly chosen
FAULTY_DRAWN = 48  # further photographs that are drawn because of a finding
MARKED_DRAWN = 24  # annotated photographs that are drawn with their annotations, evenly chosen
WIDEST = 640  # longest side of a drawn photograph in pixels
WIDEST_MARKED = 960  # of one with its annotations
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
    marks: CaseMarks | None = None


class PhotoCheck:
    """Reads the photographs of a card and sums up their properties.

    Args:
        layout: the splits of each case, and the faults of the file names.
        pictures: whether some reports hold a small picture; each is dropped when the next report is drawn.
        workers: number of threads; 0 = as many as the processors.
        annotations: what is marked on the photographs.
    """

    def __init__(
        self,
        card: DatasetCard,
        layout: Layout,
        pictures: bool,
        workers: int = 0,
        annotations: AnnotationCheck | None = None,
    ) -> None:
        self.card, self.layout, self.workers = card, layout, workers
        self.annotations = annotations
        splits = {split: SplitSummary() for split in card.splits}
        self.summary = PhotoSummary((*card.classes, "ignore"), splits)
        self.shapes: dict[str, tuple[int, int]] = {}
        """rows and columns of each readable photograph"""
        self._alike: defaultdict[bytes, list[Place]] = defaultdict(list)
        self._pictures = pictures
        self._chosen = _even_choice(layout) if pictures else set()
        marked = annotations.marked() if annotations is not None and pictures else []
        self._marked = set(_evenly(marked, MARKED_DRAWN))

    def reports(self) -> Iterator[CaseReport]:
        """One report per photograph, in order."""
        found = ordered(self._look, self.layout.cases, self.workers)
        room = room_of_marks = FAULTY_DRAWN
        with contextlib.closing(found):
            for seen in found:
                if isinstance(seen, UdaError):
                    raise seen
                self._add(seen)
                report = seen.report
                if report.picture is not None and report.case not in self._chosen:
                    room -= 1
                    report.picture = report.picture if room >= 0 else None
                if report.marks is not None and report.case not in self._marked:
                    room_of_marks -= 1
                    report.marks = report.marks if room_of_marks >= 0 else None
                yield report
                report.picture = report.marks = None

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
        path = self.layout.files[name].image
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
            label = self.layout.files[name].label
        if label is not None and label.is_file():
            classes = _look_at_label(label, seen, card)
        if self.annotations is not None:
            seen.marks = self._look_at_marks(name, photo, report, self.annotations)
        wanted = name in self._chosen or (self._pictures and (report.faults or report.notes))
        if photo is not None and wanted:
            report.picture = _picture(photo, classes)
        return seen

    def _look_at_marks(
        self,
        name: str,
        photo: NDArray[np.uint8] | None,
        report: CaseReport,
        annotations: AnnotationCheck,
    ) -> CaseMarks | None:
        """Add what is marked on a photograph to its report."""
        small = geometry = None
        if photo is not None:
            size = _shown_size(photo.shape[:2], WIDEST_MARKED)
            geometry = photo_geometry((photo.shape[0], photo.shape[1]), size)
            small = resize_photo(photo, size)[None] if self._pictures else None
        marks = annotations.look(name, geometry, small)
        if marks is None:
            return None
        report.marked = str(marks)
        report.notes += marks.notes
        if name in self._marked or report.faults or report.notes:
            report.marks = marks.picture
        return replace(marks, picture=None)

    def _add(self, seen: _Seen) -> None:
        if seen.marks is not None and self.annotations is not None:
            self.annotations.add(seen.report.case, seen.marks)
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
        chosen |= set(_evenly(layout.members(split), DRAWN))
    return chosen


def _evenly(names: Sequence[str], most: int) -> list[str]:
    room = min(most, len(names))
    return [names[i * len(names) // room] for i in range(room)]


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
    size = _shown_size(photo.shape[:2], WIDEST)
    if classes is not None:
        shape = (photo.shape[0], photo.shape[1])
        classes = label_slices(classes[..., None], photo_geometry(shape, size))[0]
    return PhotoPicture(resize_photo(photo, size), classes)


def _shown_size(shape: Sequence[int], widest: int) -> tuple[int, int]:
    factor = min(1.0, widest / max(shape))
    return max(1, round(factor * shape[0])), max(1, round(factor * shape[1]))
