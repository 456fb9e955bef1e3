"""The pictures of a check and the one page that shows them beside the table."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uda.check.findings import WHOLE_SET, CaseReport, PhotoPicture, Picture, Table
from uda.config.card import DatasetCard
from uda.config.colors import palette
from uda.data.geometry import upright
from uda.errors import UdaError
from uda.files.atomic import atomic_path, write_text
from uda.files.links import check_output
from uda.report.figures import overlay, structure_style
from uda.report.html import ALONE, STYLE, grid, image, legend
from uda.report.sections import structure_legend
from uda.types import IGNORE

PAGE = "index.html"
DRAWN = 60  # cases a split that are drawn, besides those with a finding
SHOWN = 60  # cases whose pictures are on the page
GAP = 8  # pixels between the slices of a picture
OPAQUE = 0.65  # share of a class's colour over a photograph
SLICE_NOTE = (
    "Prepared slices: the one with most of the structures (or the middle one) between two others. "
    "Head up, in axial slices the front; the patient's right is on the left. "
)
PHOTO_NOTE = "Each photograph as it is and, where its label was opened and fits, under the colours of its classes. "
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
LOOK = """
tbody th{min-width:5em}.wrap td{white-space:normal}tr.faulty>*{background:#fdeeec!important}
tr.noted>*{background:#fff8e5!important}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.86rem;margin:0}
ol li{margin:0 0 10px}
.cases{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,540px),1fr));gap:22px;
align-items:start}
.cases figure{border:1px solid var(--line);border-radius:8px;overflow:hidden}
.cases figure.faulty{border-color:#d9695c}.cases figure.noted{border-color:#d8b24a}
.cases img{background:#000;max-height:300px;object-fit:contain}
figcaption{padding:6px 10px}figcaption b{color:var(--ink)}
"""


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
        self._drawn: dict[str, int] = {}

    def add(self, report: CaseReport) -> None:
        """Remember a report; draw it while its slices are there."""
        number = len(self.reports)
        self.reports.append(report)
        drawn = self._drawn.get(report.split, 0)
        if report.picture is None or (drawn >= DRAWN and not _kind(report)):
            return
        self._drawn[report.split] = drawn + 1
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", report.case)
        taken = {file for file, _ in self.files.values()}
        file = f"{name}.png" if f"{name}.png" not in taken else f"{name}_{number}.png"
        picture, slices = report.picture, tuple[int, ...]()
        if isinstance(picture, PhotoPicture):
            pixels = _pair(picture, self.card)
        else:
            pixels, slices = _strip(picture, len(self.card.classes) - 1), picture.slices
        with atomic_path(self.folder / file) as path:
            path.write_bytes(_encoded(pixels, "png"))
        self.files[number] = file, slices

    def write(self) -> Path:
        """Write the page; it is one file that needs no other."""
        path = self.folder / PAGE
        write_text(path, _page(self.card, self.reports, self._gallery()))
        return path

    def _gallery(self) -> str:
        """Pictures of cases with findings first, then an even choice of the others."""
        if not self.files:
            return "<p class=absent>No case could be drawn.</p>"
        told = [number for number in self.files if _kind(self.reports[number])][:SHOWN]
        rest = [number for number in self.files if number not in told]
        room = min(SHOWN - len(told), len(rest))
        even = [rest[i * len(rest) // room] for i in range(room)]
        figures = "".join(self._figure(number) for number in [*told, *even])
        cases = sum(bool(report.prepared) for report in self.reports)
        shown = len(told) + len(even)
        left = f"{cases - shown} of {cases} cases are left out here" if shown < cases else ""
        more = (
            f"; {len(self.files)} pictures lie beside this page" if shown < len(self.files) else ""
        )
        note = PHOTO_NOTE if self.card.photos else SLICE_NOTE
        return (
            f"{self._legend()}<div class=cases>{figures}</div>"
            f"<p class=note>{note}{escape(left + more)}</p>"
        )

    def _legend(self) -> str:
        names = self.card.classes
        if self.card.photos:
            shades = [f"background:rgb{color}" for color in palette(self.card)]
            return legend([*zip(names, shades, strict=True), ("ignored", "background:#000")])
        styles = [structure_style(k) for k in range(len(names) - 1)]
        return structure_legend(
            (name, *style) for name, style in zip(names[1:], styles, strict=True)
        )

    def _figure(self, number: int) -> str:
        report, (file, slices) = self.reports[number], self.files[number]
        uri = _small(self.folder / file)
        named = f"slices {', '.join(map(str, slices))}" if slices else report.shape
        alt = f"case {report.case}, {named}"
        return (
            f"<figure class='{_kind(report)}'>{image(uri, alt)}<figcaption>"
            f"<b>{escape(report.case)}</b> {escape(report.split)} · {named}</figcaption></figure>"
        )


def _kind(report: CaseReport) -> str:
    return "faulty" if report.faults else "noted" if report.notes else ""


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
    from matplotlib.image import imread

    pixels = imread(path)[..., :3]
    height, width = (n // 2 * 2 for n in pixels.shape[:2])
    half = pixels[:height, :width].reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
    data = _encoded(half, "jpeg", pil_kwargs={"quality": 85})
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"


def _page(card: DatasetCard, reports: Sequence[CaseReport], gallery: str) -> str:
    faults = [fault for report in reports for fault in report.faults]
    notes = [note for report in reports for note in report.notes]
    cases = sum(report.split not in ("tags", WHOLE_SET) for report in reports)
    lead = (
        f"{cases} cases: <b>{len(faults)} fault(s)</b> that training or evaluation would stop at or be "
        f"wrong with, {len(notes)} note(s) to look into."
        if faults
        else f"{cases} cases: <b>no faults</b>, {len(notes)} note(s) to look into."
    )
    sections = [
        ("Faults", _findings(faults, "No faults.")),
        ("Notes", _findings(notes, "No notes.")),
        ("To look at", gallery),
        *_details(reports),
    ]
    body = "".join(f"<section><h2>{head}</h2>{html}</section>" for head, html in sections)
    title = escape(f"card {card.name}")
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8>{ALONE}"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{title} · uda check</title><style>{STYLE}{LOOK}</style></head><body><main>"
        f"<header><h1>{title}</h1><p class=sub>{escape(card.title)}</p>"
        f"<p class=headline>{lead}</p></header>{body}</main></body></html>\n"
    )


def _details(reports: Sequence[CaseReport]) -> list[tuple[str, str]]:
    """Every case of volumes; of photographs, which are too many, the sums."""
    summary = next((report.summary for report in reports if report.summary), None)
    if summary is None:
        return [("Cases", _table(reports)), ("Label values", _values(reports))]
    return [(table.title, _sums(table)) for table in summary.tables()]


def _sums(table: Table) -> str:
    return grid(table.head, [("", list(map(_cell, row))) for row in table.rows])


def _findings(found: Sequence[UdaError], none: str) -> str:
    listed = "".join(f"<li><pre>{escape(str(finding))}</pre></li>" for finding in found)
    return f"<ol>{listed}</ol>" if found else f"<p class=absent>{none}</p>"


def _table(reports: Sequence[CaseReport]) -> str:
    lines = [
        (_kind(report), [_cell(getattr(report, name)) for name in COLUMNS])
        for report in reports
        if report.split != WHOLE_SET
    ]
    return grid(list(COLUMNS.values()), lines)


def _cell(text: str) -> str:
    """A list stands one entry a line."""
    return escape(text).replace(", ", "<br>").replace(" at ", "<br>at ")


def _values(reports: Sequence[CaseReport]) -> str:
    lines = [(_kind(r), [escape(r.case), escape(r.values)]) for r in reports if r.values]
    if not lines:
        return "<p class=absent>No labels.</p>"
    return f"<div class=wrap>{grid(['case', 'raw value, class: voxels'], lines)}</div>"
