"""The pictures of a check and the one page that shows them beside the table."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uda.check.findings import (
    ANNOTATIONS,
    TAGS,
    WHOLE_SET,
    CaseReport,
    MarkedPicture,
    PhotoPicture,
    Picture,
)
from uda.check.marks import draw_marks, mark_colours
from uda.config.card import DatasetCard
from uda.config.colors import palette
from uda.data.geometry import upright
from uda.files.atomic import atomic_path
from uda.files.links import check_output
from uda.report.figures import data_uri, outlines, overlay
from uda.report.html import write_page
from uda.types import IGNORE

PAGE = "index.html"
DRAWN = 60  # cases a split that are drawn, besides those with a finding
SHOWN = 60  # cases whose pictures are on the page
GAP = 8  # pixels between the slices of a picture
QUALITY = 85  # of JPEG
MARKS = (
    "\0marks"  # after a case's name: the picture of its annotations; no name of a case can end so
)
OPAQUE = 0.65  # share of a class's colour over a photograph
COLUMNS = {
    "case": "case",
    "split": "split",
    "stored": "stored",
    "shape": "shape",
    "spacing": "spacing, mm",
    "axes": "axes",
    "intensity": "1 / 50 / 99 %",
    "labels": "labelled voxels",
    "prepared": "prepared",
    "kept": "inside the crop",
}


class Album:
    """Draws cases as they are checked, each to a file of its own, then writes the page.

    Args:
        folder: where ``index.html`` and the pictures go.
    """

    def __init__(self, folder: Path, card: DatasetCard) -> None:
        self.folder, self.card = check_output(folder), card
        self.reports: list[CaseReport] = []
        self.files: dict[int, tuple[str, tuple[int, ...]]] = {}
        """number of a report → its picture's file and slices"""
        self.marks: dict[int, tuple[str, str]] = {}
        """number of a report → the file of the picture of its annotations, and what that shows"""
        self._drawn: dict[str, int] = {}
        self._names: dict[str, str] = {}
        """case → its picture's file"""
        self._taken = set[str]()

    def paths(self, cases: Iterable[str], annotated: bool = False) -> list[Path]:
        """Every file that an album of these cases may write: the page, a picture of each, and where they may be
        annotated one of their annotations."""
        cases = list(cases)
        names = [self._name(case) for case in cases]
        names += [self._name(f"{case}{MARKS}") for case in cases if annotated]
        return [self.folder / PAGE, *(self.folder / name for name in names)]

    def _name(self, case: str) -> str:
        """The file of a case's picture, the same each time it is asked for; no two cases share one."""
        if case not in self._names:
            name = re.sub(r"[^A-Za-z0-9_.-]", "_", case)
            while f"{name}.png" in self._taken:
                name = f"{name}_{len(self._names)}"
            self._names[case] = f"{name}.png"
            self._taken.add(f"{name}.png")
        return self._names[case]

    def add(self, report: CaseReport) -> None:
        """Remember a report; draw it while its slices are there."""
        number, file = len(self.reports), self._name(report.case)
        self.reports.append(report)
        self._add_marks(number, report)
        drawn = self._drawn.get(report.split, 0)
        if report.picture is None or (drawn >= DRAWN and not _unusual(report)):
            return
        self._drawn[report.split] = drawn + 1
        picture, slices = report.picture, tuple[int, ...]()
        if isinstance(picture, PhotoPicture):
            pixels = _pair(picture, self.card)
        else:
            pixels, slices = _strip(picture, len(self.card.classes) - 1), picture.slices
        self._save(file, pixels)
        self.files[number] = file, slices

    def _add_marks(self, number: int, report: CaseReport) -> None:
        picture, drawn = report.marks, self._drawn.get(MARKS, 0)
        if picture is None or (drawn >= DRAWN and not _unusual(report)):
            return
        self._drawn[MARKS] = drawn + 1
        file = self._name(f"{report.case}{MARKS}")
        self._save(file, draw_marks(picture, self.card))
        self.marks[number] = file, _named(picture, self.card.photos)

    def _save(self, file: str, pixels: NDArray[Any]) -> None:
        with atomic_path(self.folder / file) as path:
            path.write_bytes(_encoded(pixels, "png"))

    def write(self) -> Path:
        """Write the page; it is one file that needs no other."""
        card, reports = self.card, self.reports
        listed = [one for one in reports if one.split != WHOLE_SET]
        summary = next((one.summary for one in reports if one.summary), None)
        shown, drawable = self._chosen(self.files), sum(bool(one.prepared) for one in reports)
        marked = self._chosen(self.marks)
        annotations = [table for one in reports for table in one.tables]
        columns = COLUMNS | (
            {"marked": "annotations"} if any(one.marked for one in reports) else {}
        )
        return write_page(
            self.folder / PAGE,
            "check.html",
            title=f"card {card.name}",
            subtitle=card.title,
            cases=sum(one.split not in (TAGS, ANNOTATIONS, WHOLE_SET) for one in reports),
            faults=[fault for one in reports for fault in one.faults],
            notes=[note for one in reports for note in one.notes],
            photos=card.photos,
            colours=self._colours() if card.photos else [],
            styles=outlines(card.classes[1:]),
            pictures=[self._picture(number) for number in shown],
            drawable=drawable,
            left_out=max(0, drawable - len(shown)),
            beside=len(self.files) if len(shown) < len(self.files) else 0,
            annotations=annotations,
            classes=self._mark_colours(),
            marks=[self._marked(number) for number in marked],
            marks_left_out=len(self.marks) - len(marked),
            annotated=sum(bool(one.marked) for one in reports),
            sums=summary.tables() if summary else [],
            heads=columns.values(),
            listed=[(one, [getattr(one, name) for name in columns]) for one in listed],
            labelled=[one for one in reports if one.values],
        )

    def _chosen(self, drawn: Iterable[int]) -> list[int]:
        """Pictures of cases with findings first, then an even choice of the others."""
        drawn = list(drawn)
        found = [number for number in drawn if _unusual(self.reports[number])][:SHOWN]
        rest = [number for number in drawn if number not in found]
        room = min(SHOWN - len(found), len(rest))
        return [*found, *(rest[i * len(rest) // room] for i in range(room))]

    def _colours(self) -> list[tuple[str, str]]:
        colours = [*(f"rgb{colour}" for colour in palette(self.card)), "#000"]
        return list(zip([*self.card.classes, "ignored"], colours, strict=True))

    def _mark_colours(self) -> list[tuple[str, str]]:
        colours = [f"rgb{colour}" for colour in mark_colours(self.card)]
        return list(zip(self.card.classes, colours, strict=True))

    def _marked(self, number: int) -> dict[str, Any]:
        file, named = self.marks[number]
        pixels = _read(self.folder / file)
        uri = data_uri("image/jpeg", _encoded(pixels, "jpeg", pil_kwargs={"quality": QUALITY}))
        return {
            "report": self.reports[number],
            "named": named,
            "uri": uri,
            "width": pixels.shape[1],
        }

    def _picture(self, number: int) -> dict[str, Any]:
        report, (file, slices) = self.reports[number], self.files[number]
        named = f"slices {', '.join(map(str, slices))}" if slices else report.shape
        return {"report": report, "named": named, "uri": _small(self.folder / file)}


def _named(picture: MarkedPicture, photo: bool) -> str:
    """Which slices a picture of annotations shows."""
    if photo:
        return "×".join(map(str, picture.geometry.shape[:2]))
    more = f" ({len(picture.slices)} of {picture.marked} marked)"
    slices = f"slice{'s' * (len(picture.slices) > 1)} {', '.join(map(str, picture.slices))}"
    return slices + (more if picture.marked > len(picture.slices) else "")


def _unusual(report: CaseReport) -> bool:
    return bool(report.faults or report.notes)


def _strip(picture: Picture, structures: int) -> NDArray[Any]:
    """The slices of a picture side by side ``[h, w, rgb]``, upright, with outlines of the structures."""
    swap, backwards = upright(picture.geometry)
    _, row, column = picture.geometry.prepared_spacing
    aspect = column / row if swap else row / column
    low, high = np.percentile(picture.image, (1, 99))
    grey = np.clip((picture.image - low) / max(float(high - low), 1e-6), 0, 1) * 255
    panes = []
    for index, plane in enumerate(grey.astype(np.uint8)):
        labels = None if picture.labels is None else _turned(picture.labels[index], swap, backwards)
        uri = overlay(_turned(plane, swap, backwards), labels, structures, aspect)
        panes.append(_pixels(uri))
    gap = np.zeros((panes[0].shape[0], GAP, 3), np.uint8)
    return np.concatenate([part for pane in panes for part in (gap, pane)][1:], axis=1)


def _pair(picture: PhotoPicture, card: DatasetCard) -> NDArray[np.uint8]:
    """A photograph ``[h, w, rgb]``, and beside it the same under the colours of its classes."""
    if picture.classes is None:
        return picture.image
    table = np.zeros((IGNORE + 1, 3), np.float32)
    table[: len(card.classes)] = palette(card)
    mixed = (1 - OPAQUE) * picture.image + OPAQUE * table[picture.classes]
    gap = np.full((picture.image.shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate([picture.image, gap, mixed.round().astype(np.uint8)], axis=1)


def _turned(plane: NDArray[Any], swap: bool, backwards: Sequence[bool]) -> NDArray[Any]:
    flipped = np.flip(plane, tuple(axis for axis in range(2) if backwards[axis]))
    return np.ascontiguousarray(flipped.T if swap else flipped)


def _pixels(uri: str) -> NDArray[np.uint8]:
    """``[h, w, rgb]`` of an image that is a ``data:`` URI."""
    from matplotlib.image import imread

    stream = io.BytesIO(base64.b64decode(uri.partition(",")[2]))
    pixels: NDArray[np.uint8] = (imread(stream)[..., :3] * 255).round().astype(np.uint8)
    return pixels


def _encoded(pixels: NDArray[Any], form: str, **options: Any) -> bytes:
    from matplotlib.image import imsave

    stream = io.BytesIO()
    imsave(stream, np.ascontiguousarray(pixels), format=form, **options)
    return stream.getvalue()


def _small(path: Path) -> str:
    """A picture at half its size as a ``data:`` URI."""
    pixels = _read(path)
    height, width = (n // 2 * 2 for n in pixels.shape[:2])
    half = pixels[:height, :width].reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
    return data_uri("image/jpeg", _encoded(half, "jpeg", pil_kwargs={"quality": QUALITY}))


def _read(path: Path) -> NDArray[Any]:
    from matplotlib.image import imread

    pixels: NDArray[Any] = imread(path)[..., :3]
    return pixels
