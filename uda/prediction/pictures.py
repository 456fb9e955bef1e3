"""Small pictures of a prediction: the image, what was found in it, and where the model is unsure, side by side."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from uda.config.colors import distinct_colors
from uda.data.geometry import grey, turned_up, upright
from uda.files.atomic import atomic_path
from uda.prediction.confidence import Tally
from uda.prediction.photos import PreparedPhoto, shown_size
from uda.prediction.volumes import PreparedCase
from uda.report.figures import overlay
from uda.report.pictures import entropy_colours

SIDE = 300
"""longest side of a pane, pixels"""
GAP = 6
OPAQUE = 0.6
"""share of a class's colour over a photograph"""
QUALITY = 85
"""of JPEG"""

Bytes = NDArray[np.uint8]


def volume_picture(case: PreparedCase, tally: Tally, structures: int) -> Image.Image:
    """Of the prepared slice that shows most of the structures, head (or front) up."""
    geometry = case.geometry
    classes, entropy = (turned_up(plane, geometry) for plane in tally.plane)
    slice_ = turned_up(grey(case.slices[tally.number]), geometry)
    _, row, column = geometry.prepared_spacing
    aspect = column / row if upright(geometry)[0] else row / column
    bare, drawn = (
        _decoded(overlay(slice_, labels, structures, aspect)) for labels in (None, classes)
    )
    unsure = _shaded(entropy).resize(bare.size, Image.Resampling.NEAREST)
    return _row([bare, drawn, unsure])


def photo_picture(photo: PreparedPhoto, tally: Tally, classes: int) -> Image.Image:
    """Of a photograph, its classes in the colours of the written label map."""
    rows, columns = shown_size(photo.size, SIDE)
    table = np.array(distinct_colors(classes), np.uint8)
    pixels = Image.fromarray(np.ascontiguousarray(photo.planes.transpose(1, 2, 0)))
    bare = pixels.resize((columns, rows), Image.Resampling.LANCZOS)
    colours, unsure = (
        one.resize(bare.size, Image.Resampling.NEAREST)
        for one in (Image.fromarray(table[tally.plane[0]]), _shaded(tally.plane[1]))
    )
    return _row([bare, Image.blend(bare, colours, OPAQUE), unsure])


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a JPEG whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        picture.save(file, format="JPEG", quality=QUALITY)


def _shaded(entropy: Bytes) -> Image.Image:
    """Dark where the model is sure, light where it is not."""
    table = np.array(entropy_colours(256), np.uint8)
    return Image.fromarray(table[entropy])


def _decoded(uri: str) -> Image.Image:
    data = base64.b64decode(uri.partition(",")[2])
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return image


def _row(panes: list[Image.Image]) -> Image.Image:
    width, height = panes[0].size
    out = Image.new("RGB", (len(panes) * (width + GAP) - GAP, height), "white")
    for number, pane in enumerate(panes):
        out.paste(pane, (number * (width + GAP), 0))
    return out
