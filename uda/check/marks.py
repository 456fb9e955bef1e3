"""Draw annotations over the slices or the photograph that they mark.

Areas that labels name are tinted and outlined, partial ones with dashes; scribbles are solid; boxes are rectangles
around their pixels; a click is a ring around its pixel. Everything is drawn at twice its size and then reduced.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from uda.check.findings import MarkedPicture
from uda.config.card import DatasetCard
from uda.config.colors import distinct_colors, palette
from uda.data.geometry import grey, turned_up, upright
from uda.report.figures import STRUCTURE_COLOURS
from uda.types import IGNORE, OTHER

SIDE = 376
"""longest side of a small slice, in pixels of the picture; larger slices keep their size"""
WIDE = 1160
"""widest picture: slices beyond it go on in the next row"""
GAP = 8
FINE = 2
"""pixels that are drawn for one of the picture, on each axis"""
TINT = 0.25
"""share of a class's colour over an area"""
LINE, DASH, RING = 4, 12, 12
"""width of lines, length of dashes and radius of rings, in drawn pixels"""
STROKE = 2
"""half the width of the widest solid stroke, in pixels of the image"""
WHITE = (255, 255, 255)

Colour = tuple[int, int, int]
Bytes = NDArray[np.uint8]


def mark_colours(card: DatasetCard) -> list[Colour]:
    """The colour of each class: of structures that of their outlines in other pictures as long as those differ, of the
    background white; of photographs the card's."""
    if card.photos:
        return palette(card)
    count = len(card.structures)
    if count > len(STRUCTURE_COLOURS):
        return [WHITE, *distinct_colors(count)]
    return [WHITE, *(_rgb(colour) for colour in STRUCTURE_COLOURS[:count])]


def _rgb(colour: str) -> Colour:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def draw_marks(picture: MarkedPicture, card: DatasetCard) -> Bytes:
    """The slices of a picture ``[h, w, 3]``, upright, from left to right and from top to bottom."""
    colours, panes = mark_colours(card), []
    image = picture.image if card.photos else grey(picture.image)
    for number in range(len(picture.slices)):
        pane = _Pane(picture, image[number], number, card.photos)
        for labels, dashed in ((picture.complete, False), (picture.partial, True)):
            for index in _classes(labels[number], card):
                pane.area(labels[number] == index, colours[index], dashed)
        pane.scribbles(picture.scribbles[number], colours)
        for index, *box in picture.boxes[number].tolist():
            pane.box(box, colours[index])
        for index in _classes(picture.points[number], card, background=True):
            pane.rings(picture.points[number] == index, colours[index])
        panes.append(pane.finished("" if card.photos else str(picture.slices[number])))
    return _montage(panes)


def _classes(labels: Bytes, card: DatasetCard, background: bool = False) -> list[int]:
    """The classes of a slice; areas of the background are left as they are."""
    found = np.unique(labels[(labels != IGNORE) & (labels != OTHER)]).tolist()
    return [index for index in found if background or card.classes[index] in card.structures]


class _Pane:
    """One slice, upright, under what is drawn on it."""

    def __init__(self, picture: MarkedPicture, image: Bytes, number: int, photo: bool) -> None:
        self.geometry = picture.geometry
        self.swap, self.backwards = (False, [False, False]) if photo else upright(self.geometry)
        self.shape = (image.shape[0], image.shape[1])
        _, row, column = self.geometry.prepared_spacing
        aspect = 1.0 if photo else column / row if self.swap else row / column
        rows, columns = self.shape[::-1] if self.swap else self.shape
        factor = max(1.0, SIDE / max(rows * aspect, columns))
        self.height, self.width = round(rows * aspect * factor), round(columns * factor)
        self.scale = (FINE * self.height / rows, FINE * self.width / columns)
        size = (FINE * self.width, FINE * self.height)
        upper = image if photo else self._turned(image)
        resized = Image.fromarray(upper).resize(size, Image.Resampling.BICUBIC)
        self.pixels = np.array(resized.convert("RGB"))

    def _turned(self, plane: NDArray[np.generic]) -> NDArray[np.generic]:
        return turned_up(plane, self.geometry) if self.swap or any(self.backwards) else plane

    def _large(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask of the slice's pixels, upright, in drawn pixels."""
        plane = self._turned(mask)
        rows, columns = (
            np.arange(FINE * size) * full // (FINE * size)
            for size, full in zip((self.height, self.width), plane.shape, strict=True)
        )
        large: NDArray[np.bool_] = plane[rows][:, columns].astype(bool)
        return large

    def area(self, mask: NDArray[np.bool_], colour: Colour, dashed: bool) -> None:
        """Tint an area and draw its outline inside it."""
        area = self._large(mask)
        mixed = (1 - TINT) * self.pixels[area] + TINT * np.array(colour)
        self.pixels[area] = mixed.round()
        line = area & ~ndimage.binary_erosion(area, iterations=LINE - 1)
        if dashed:
            rows, columns = np.indices(line.shape, sparse=True)
            line &= (rows + columns) // DASH % 2 == 0
        self.pixels[line] = colour

    def scribbles(self, labels: Bytes, colours: Sequence[Colour]) -> None:
        """Draw marked pixels solid, with a halo; of wide ones the border alone, around a tint."""
        every = self._large(labels != IGNORE)
        for index in np.unique(labels[labels != IGNORE]).tolist():
            stroke = self._large(labels == index)
            inner = self._large(ndimage.binary_erosion(labels == index, iterations=STROKE))
            tinted = (1 - TINT) * self.pixels[inner] + TINT * np.array(colours[index])
            around = ndimage.binary_dilation(stroke, iterations=FINE) & ~every
            self.pixels[around] = _halo(colours[index])
            self.pixels[stroke] = colours[index]
            self.pixels[inner] = tinted.round()

    def box(self, box: Sequence[int], colour: Colour) -> None:
        """Draw the border of a box ``[row, column, last row, last column]`` around its pixels."""
        (top, bottom), (left, right) = self._upright((box[0], box[2]), (box[1], box[3]))
        edges = np.array([left, top, right + 1, bottom + 1]) * np.tile(self.scale[::-1], 2)
        x0, y0, x1, y1 = edges.round().astype(int).tolist()
        canvas = Image.fromarray(self.pixels)
        draw, half = ImageDraw.Draw(canvas), LINE // 2
        for wider, shade in ((2, _halo(colour)), (0, colour)):
            out = half + wider
            around = (x0 - out, y0 - out, x1 + out - 1, y1 + out - 1)
            draw.rectangle(around, outline=shade, width=LINE + 2 * wider)
        self.pixels = np.array(canvas)

    def _upright(
        self, rows: tuple[int, int], columns: tuple[int, int]
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """First and last row, and column, of a box in the upright slice; it may reach beyond."""
        height, width = self.shape
        if self.backwards[0]:
            rows = (height - 1 - rows[1], height - 1 - rows[0])
        if self.backwards[1]:
            columns = (width - 1 - columns[1], width - 1 - columns[0])
        return (columns, rows) if self.swap else (rows, columns)

    def rings(self, mask: NDArray[np.bool_], colour: Colour) -> None:
        """Fill the pixel of each click and draw a ring around it."""
        self.pixels[self._large(mask)] = colour
        canvas = Image.fromarray(self.pixels)
        draw = ImageDraw.Draw(canvas)
        for row, column in np.argwhere(self._turned(mask)).tolist():
            y, x = ((at + 0.5) * scale for at, scale in zip((row, column), self.scale, strict=True))
            for radius, shade, width in (
                (RING + 2, _halo(colour), LINE + 4),
                (RING, colour, LINE),
            ):
                around = (x - radius, y - radius, x + radius, y + radius)
                draw.ellipse(around, outline=shade, width=width)
        self.pixels = np.array(canvas)

    def finished(self, name: str) -> Bytes:
        """The pane at its size, with the number of its slice."""
        canvas = Image.fromarray(self.pixels)
        if name:
            font = ImageFont.load_default(size=14 * FINE)
            place = (5 * FINE, 3 * FINE)
            ImageDraw.Draw(canvas).text(
                place, name, fill=WHITE, font=font, stroke_width=FINE, stroke_fill=(0, 0, 0)
            )
        return np.array(canvas.resize((self.width, self.height), Image.Resampling.BOX))


def _halo(colour: Colour) -> Colour:
    """Black around light colours, white around dark ones."""
    red, green, blue = colour
    return (0, 0, 0) if 0.3 * red + 0.59 * green + 0.11 * blue > 100 else WHITE


def _montage(panes: Sequence[Bytes]) -> Bytes:
    """Panes of one size in rows, as many as fit."""
    height, width, _ = panes[0].shape
    columns = min(len(panes), max(1, (WIDE + GAP) // (width + GAP)))
    rows = -(-len(panes) // columns)
    size = (rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3)
    whole = np.full(size, 255, np.uint8)
    for number, pane in enumerate(panes):
        top, left = number // columns * (height + GAP), number % columns * (width + GAP)
        whole[top : top + height, left : left + width] = pane
    return whole
