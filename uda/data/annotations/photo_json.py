"""Shapes on photographs: COCO's instances (CVAT exports them, too) and the files of LabelMe.

======================  ======================================================
rectangle               a box
point                   a click
polygon, circle, mask   a label map, filled; outside nothing is said
line, line strip        a scribble, one pixel wide
======================  ======================================================

In COCO a segmentation counts more than the ``bbox`` beside it. Its annotations have no order, so pixels that two
classes claim are ``IGNORE``; in LabelMe a later shape covers an earlier one. :mod:`uda.data.annotations.raster` says
which pixels coordinates stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uda.data.annotations.boxes import Boxes
from uda.data.annotations.canvas import BEYOND, Canvas
from uda.data.annotations.faults import Faults, Names
from uda.data.annotations.grids import Grid
from uda.data.annotations.inside import inside
from uda.data.annotations.marks import Box, Point
from uda.data.annotations.points import Clicks
from uda.data.annotations.raster import disk, filled, line, pixel, span
from uda.data.annotations.runs import mask_of
from uda.data.annotations.target import Target
from uda.data.file_names import stem
from uda.files.untrusted import parse_json, read_text
from uda.types import IGNORE

SHOWN = 60
"""Characters of a value in a message."""
AGAIN = "correct it in the program that wrote it, and export it again"
FEWEST = {"polygon": 3, "rectangle": 2, "circle": 2, "point": 1, "line": 2, "linestrip": 2}
"""Points of each shape of LabelMe, at least."""

Keep = Callable[[str, NDArray[np.uint8], Path], None]
"""What gets a case's finished label map."""


@dataclass(frozen=True, eq=False)
class Shapes:
    """Where the shapes of files go."""

    target: Target
    clicks: Clicks
    boxes: Boxes
    faults: Faults
    keep: Keep
    outside: int = IGNORE
    """what pixels without a shape are"""
    filled_only: bool = False
    """whether clicks, boxes and lines are refused: they say nothing of the pixels beside them"""


def read_json(path: Path, faults: Faults) -> Any:
    """The content of a JSON file; None, and a fault, where it cannot be read."""
    try:
        raw = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        faults.add(
            f"cannot be read as JSON: {error}",
            where=path,
            expected="JSON in UTF-8",
            fix="export it again",
        )
        return None
    if raw is None:
        faults.add("holds nothing", where=path, fix="take the file out")
    return raw


def read_shapes(raw: Any, path: Path, to: Shapes) -> None:
    """Hand over the shapes of a file of COCO or LabelMe; its faults are noted.

    Args:
        raw: the file's content.
    """
    names = Names(path, to.target, to.faults)
    if isinstance(raw, dict) and isinstance(raw.get("shapes"), list):
        _labelme(raw, path, to, names)
    elif isinstance(raw, dict) and all(
        isinstance(raw.get(key), list) for key in ("images", "annotations", "categories")
    ):
        _coco(raw, path, to, names)
    else:
        keys = ", ".join(map(repr, raw))[:SHOWN] if isinstance(raw, dict) else type(raw).__name__
        to.faults.add(
            f"is no file of shapes: it holds {keys}",
            where=path,
            expected="COCO (images, annotations, categories) or LabelMe (shapes)",
            fix="export it in one of these formats",
        )
    names.report()


def _labelme(raw: Mapping[str, Any], path: Path, to: Shapes, names: Names) -> None:
    named = raw.get("imagePath")
    case = _case(named) if isinstance(named, str) and named else stem(path.stem)
    case = to.target.case_of(case)
    if not raw["shapes"]:
        to.faults.add("holds no shape", where=path, fix="take the file out")
        return
    if not names.case(case):
        return
    grid = to.target.grids[case]
    if not _same_size(raw.get("imageHeight"), raw.get("imageWidth"), case, grid, path, to.faults):
        return
    canvas = Canvas(grid, to.outside)
    painted = False
    for number, shape in enumerate(raw["shapes"], 1):
        place = f"shape {number}"
        try:
            kind, corners, label = _shape(shape)
            index = names.class_index(label, place)
            if index is not None:
                painted |= _put(kind, corners, index, case, canvas, f"{path}, {place}", to)
        except ValueError as error:
            to.faults.add(f"{place}: {error}", where=path, fix=AGAIN)
    if painted:
        to.keep(case, canvas.labels, path)


def _shape(shape: Any) -> tuple[str, NDArray[np.float64], str]:
    """Kind, corners ``[n, 2]`` and label of a shape of LabelMe."""
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
        raise ValueError("it has no label")
    kind = shape.get("shape_type") or "polygon"
    if not isinstance(kind, str) or kind not in FEWEST:
        raise ValueError(f"its type {str(kind)[:SHOWN]!r} is not read, only {', '.join(FEWEST)}")
    points = shape.get("points")
    if (
        not isinstance(points, list)
        or not all(isinstance(p, list) and len(p) == 2 for p in points)
        or len(points) < FEWEST[kind]
    ):
        raise ValueError(f"it has fewer than {FEWEST[kind]} points [x, y]")
    return kind, _numbers([n for p in points for n in p]).reshape(-1, 2), shape["label"]


def _put(
    kind: str,
    corners: NDArray[np.float64],
    index: int,
    case: str,
    canvas: Canvas,
    where: str,
    to: Shapes,
) -> bool:
    """Draw a shape or hand it over; whether it was drawn."""
    grid = to.target.grids[case]
    if to.filled_only and kind not in ("polygon", "circle"):
        raise ValueError(f"a {kind} does not say of every pixel whether it is of the class")
    if kind == "rectangle":
        (x0, y0), (x1, y1) = corners.min(0).tolist(), corners.max(0).tolist()
        _box(x0, y0, x1, y1, index, case, where, to)
        return False
    if kind == "point":
        x, y = corners[0].tolist()
        at = Point(0, pixel(y), pixel(x), index)
        if inside("a click", case, grid, (at[:3],), to.faults, where):
            to.clicks.add(case, at, where)
        return False
    if kind == "circle":
        x, y = corners[0].tolist()
        radius = float(np.linalg.norm(corners[1] - corners[0]))
        around = np.array([[x - radius, y - radius], [x + radius, y + radius]])
        canvas.check(corners)
        canvas.draw_cut(around, partial(_disk, radius=radius), index)
    elif kind == "polygon":
        canvas.draw(corners, filled, index)
    else:
        rows_and_columns = [(0, pixel(y), pixel(x)) for x, y in corners.tolist()]
        if not inside("a line", case, grid, tuple(rows_and_columns), to.faults, where):
            return False
        canvas.draw(corners, line, index)
    return True


def _disk(around: NDArray[np.float64], shape: tuple[int, int], radius: float) -> NDArray[np.bool_]:
    x, y = around.mean(0).tolist()
    return disk(x, y, radius, shape)


def _coco(raw: Mapping[str, Any], path: Path, to: Shapes, names: Names) -> None:
    images, classes = _by_id(raw["images"], "file_name"), _by_id(raw["categories"], "name")
    by_image: dict[Any, list[tuple[str, Mapping[str, Any]]]] = {}
    for number, annotation in enumerate(raw["annotations"], 1):
        entry = annotation if isinstance(annotation, dict) else {}
        image = entry.get("image_id")
        if type(image) is int and image in images:
            by_image.setdefault(image, []).append((f"annotation {number}", entry))
        else:
            to.faults.add(
                f"annotation {number} has the image_id {str(image)[:SHOWN]}, which no image has",
                where=path,
                fix=AGAIN,
            )
    if not raw["annotations"]:
        to.faults.add("holds no annotation", where=path, fix="take the file out")
    seen: dict[str, int] = {}
    for image, entries in by_image.items():
        case = to.target.case_of(_case(images[image]["file_name"]))
        if not names.case(case):
            continue
        if seen.setdefault(case, image) != image:
            to.faults.add(f"two images are called {case!r}", where=path, fix=AGAIN)
            continue
        size = (images[image].get("height"), images[image].get("width"))
        if not _same_size(*size, case, to.target.grids[case], path, to.faults):
            continue
        canvas = Canvas(to.target.grids[case], to.outside, covering=False)
        drawn = [
            _annotation(e, place, classes, case, canvas, path, to, names) for place, e in entries
        ]
        if any(drawn):
            to.keep(case, canvas.labels, path)


def _annotation(
    entry: Mapping[str, Any],
    place: str,
    classes: Mapping[int, Mapping[str, Any]],
    case: str,
    canvas: Canvas,
    path: Path,
    to: Shapes,
    names: Names,
) -> bool:
    """Draw an annotation of COCO or hand over its box; whether it was drawn."""
    category = entry.get("category_id")
    if type(category) is not int or category not in classes:
        to.faults.add(
            f"{place} has the category_id {str(category)[:SHOWN]}, which no category has",
            where=path,
            fix=AGAIN,
        )
        return False
    index = names.class_index(classes[category]["name"], place)
    if index is None:
        return False
    shape = entry.get("segmentation")
    try:
        if isinstance(shape, dict):
            canvas.mark(mask_of(shape, canvas.shape), index)
        elif isinstance(shape, list) and shape:
            for part in shape:
                canvas.draw(_polygon(part), filled, index)
        elif to.filled_only:
            raise ValueError("a box does not say of every pixel whether it is of the class")
        else:
            box = entry.get("bbox")
            if not isinstance(box, list) or len(box) != 4:
                raise ValueError("it has neither a segmentation nor a bbox [x, y, width, height]")
            x, y, width, height = _numbers(box).tolist()
            _box(x, y, x + width, y + height, index, case, f"{path}, {place}", to)
            return False
    except ValueError as error:
        to.faults.add(f"{place}: {error}", where=path, fix=AGAIN)
        return False
    return True


def _polygon(part: Any) -> NDArray[np.float64]:
    if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
        raise ValueError("a polygon is no list of x, y of three corners or more")
    return _numbers(part).reshape(-1, 2)


def _box(
    x0: float, y0: float, x1: float, y1: float, index: int, case: str, where: str, to: Shapes
) -> None:
    grid = to.target.grids[case]
    if not (
        x0 >= -BEYOND and x1 <= grid.columns + BEYOND and y0 >= -BEYOND and y1 <= grid.rows + BEYOND
    ):
        raise ValueError(
            f"a box from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g}) lies outside the image of "
            f"{grid.columns}×{grid.rows} pixels"
        )
    columns = span(max(x0, 0.0), min(x1, float(grid.columns)))
    rows = span(max(y0, 0.0), min(y1, float(grid.rows)))
    if columns is None or rows is None:
        raise ValueError(f"a box from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g}) covers no pixel")
    to.boxes.add(case, Box(0, index, rows[0], columns[0], rows[1], columns[1]), where)


def _by_id(entries: list[Any], name: str) -> dict[int, Mapping[str, Any]]:
    """The entries of a list of COCO that have a number and a name."""
    return {
        entry["id"]: entry
        for entry in entries
        if isinstance(entry, dict)
        and type(entry.get("id")) is int
        and isinstance(entry.get(name), str)
    }


def _case(file: str) -> str:
    """The case of an image's file, which tools write with the folders of any system."""
    return stem(PureWindowsPath(file).name)


def _numbers(values: list[Any]) -> NDArray[np.float64]:
    if not all(type(value) in (int, float) for value in values):
        raise ValueError("its coordinates are no numbers")
    return np.array(values, dtype=np.float64)


def _same_size(height: Any, width: Any, case: str, grid: Grid, path: Path, faults: Faults) -> bool:
    """Whether a file is of an image of this size; one that does not say it is believed."""
    if height is None and width is None:
        return True
    if (height, width) == (grid.rows, grid.columns):
        return True
    faults.add(
        f"its image {case!r} has {str(width)[:SHOWN]}×{str(height)[:SHOWN]} pixels",
        where=path,
        expected=f"the {grid.columns}×{grid.rows} of the target's image",
        fix="draw on this image; a resized copy has other coordinates",
    )
    return False
