"""COCO's instances and LabelMe's files: from shapes to clicks, boxes and label maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import PHOTO, photo_target, told
from hypothesis import given
from hypothesis import strategies as st

from uda.data.annotations.boxes import Boxes
from uda.data.annotations.canvas import MOST_TIMES
from uda.data.annotations.faults import Faults
from uda.data.annotations.marks import Box, Point
from uda.data.annotations.photo_json import Shapes, read_json, read_shapes
from uda.data.annotations.points import Clicks
from uda.data.annotations.runs import mask_of, unpacked_runs
from uda.data.annotations.target import Target
from uda.types import IGNORE, OTHER

ROAD, CAR, SKY = 0, 1, 2
IMAGES = [
    {"id": 1, "file_name": "photos/a.jpg", "width": 12, "height": 8},
    {"id": 2, "file_name": "b.png", "width": 12, "height": 8},
]
CATEGORIES = [{"id": 5, "name": "car"}, {"id": 7, "name": "Sky"}, {"id": 9, "name": "lamp"}]


class Found:
    """What a file said."""

    def __init__(self, raw: Any, of: Target, outside: int, filled_only: bool) -> None:
        faults = Faults()
        clicks, boxes = Clicks(of.card.classes, faults), Boxes(of.card.classes, faults)
        self.maps: dict[str, np.ndarray] = {}
        read_shapes(
            raw,
            Path("shapes.json"),
            Shapes(of, clicks, boxes, faults, self._keep, outside, filled_only),
        )
        self.points, self.boxes = clicks.points(), boxes.boxes()
        self.faults, self.first = told(faults.first), faults.first

    def _keep(self, case: str, labels: np.ndarray, path: Path) -> None:
        self.maps[case] = labels


def read(
    raw: Any, of: Target | None = None, outside: int = IGNORE, filled_only: bool = False
) -> Found:
    return Found(raw, photo_target() if of is None else of, outside, filled_only)


def coco(*annotations: dict[str, Any], **changes: Any) -> dict[str, Any]:
    listed = [{"id": n, "image_id": 1, "category_id": 5} | a for n, a in enumerate(annotations)]
    return {"images": IMAGES, "categories": CATEGORIES, "annotations": listed} | changes


def labelme(*shapes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "version": "5.5.0",
        "flags": {},
        "imagePath": "..\\photos\\a.jpg",
        "imageData": None,
        "imageHeight": 8,
        "imageWidth": 12,
        "shapes": [{"label": "car", "group_id": None, "flags": {}} | shape for shape in shapes],
    } | changes


def square(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def part(rows: slice, columns: slice, index: int = CAR) -> np.ndarray:
    expected = np.full(PHOTO, IGNORE, np.uint8)
    expected[rows, columns] = index
    return expected


# COCO


def test_a_bbox_is_a_box_with_both_ends() -> None:
    found = read(coco({"bbox": [2, 1, 5, 4]}, {"bbox": [0, 0, 12, 8], "category_id": 7}))
    assert found.boxes == {"a": (Box(0, CAR, 1, 2, 4, 6), Box(0, SKY, 0, 0, 7, 11))}
    assert (found.maps, found.points, found.faults) == ({}, {}, "")


def test_a_box_of_fractions_has_every_pixel_that_it_touches() -> None:
    found = read(coco({"bbox": [2.5, 1.25, 4.6, 1.5], "segmentation": []}))
    assert found.boxes == {"a": (Box(0, CAR, 1, 2, 2, 7),)}


def test_a_polygon_is_a_label_map_and_no_box() -> None:
    found = read(coco({"bbox": [2, 1, 5, 4], "segmentation": [square(2, 1, 5, 4)], "image_id": 2}))
    assert found.boxes == {}
    assert np.array_equal(found.maps["b"], part(slice(1, 5), slice(2, 7)))


def test_parts_of_an_object_belong_together() -> None:
    parts = [square(0, 0, 2, 2), square(1, 1, 3, 3)]
    found = read(coco({"segmentation": parts})).maps["a"]
    expected = part(slice(0, 2), slice(0, 2))
    expected[1:4, 1:4] = CAR
    assert np.array_equal(found, expected)


def test_pixels_of_two_classes_are_not_said() -> None:
    shapes = [
        {"segmentation": [square(0, 0, 6, 8)]},
        {"segmentation": [square(4, 0, 6, 8)], "category_id": 7},
        {"segmentation": [square(3, 0, 2, 8)]},
    ]
    expected = part(slice(0, 8), slice(0, 4))
    expected[:, 4:6], expected[:, 6:10] = IGNORE, SKY
    assert np.array_equal(read(coco(*shapes)).maps["a"], expected)
    assert np.array_equal(read(coco(shapes[1], shapes[2], shapes[0])).maps["a"], expected)


def runs(mask: np.ndarray) -> list[int]:
    flat = [False, *mask.ravel(order="F").tolist()]
    found, before = [0], False
    for value in flat[1:]:
        if value != before:
            found.append(0)
            before = value
        found[-1] += 1
    return found


def packed(numbers: list[int]) -> str:
    """COCO's text of run lengths."""
    letters = ""
    for at, number in enumerate(numbers):
        value = number - numbers[at - 2] if at > 2 else number
        while True:
            low, value = value & 31, value >> 5
            done = value == (-1 if low & 16 else 0)
            letters += chr(48 + low + (0 if done else 32))
            if done:
                break
    return letters


@given(st.lists(st.booleans(), min_size=96, max_size=96))
def test_run_lengths_are_read_in_both_forms(pixels: list[bool]) -> None:
    mask = np.array(pixels).reshape(PHOTO)
    counts = runs(mask)
    assert unpacked_runs(packed(counts)) == counts
    for form in (counts, packed(counts)):
        assert np.array_equal(mask_of({"size": [8, 12], "counts": form}, PHOTO), mask)


def test_long_runs_are_read_as_pycocotools_writes_them() -> None:
    assert unpacked_runs("Z11") == [42, 1]
    assert unpacked_runs(packed([0, 5_000_000, 1, 79_999_999])) == [0, 5_000_000, 1, 79_999_999]


def test_run_lengths_are_a_label_map() -> None:
    found = read(coco({"segmentation": {"size": [8, 12], "counts": [8, 16, 72]}, "iscrowd": 1}))
    assert np.array_equal(found.maps["a"], part(slice(0, 8), slice(1, 3)))


def test_images_without_annotations_are_passed_over() -> None:
    images = [*IMAGES, {"id": 3, "file_name": "elsewhere.jpg", "width": 1, "height": 1}]
    assert read(coco({"bbox": [2, 1, 5, 4]}, images=images)).faults == ""


COCO_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown class": (coco({"bbox": [0, 0, 1, 1], "category_id": 9}), "no class 'lamp' (annotation 1)"),
    "an unknown category": (coco({"bbox": [0, 0, 1, 1], "category_id": 4}), "category_id 4"),
    "an unknown image": (coco({"bbox": [0, 0, 1, 1], "image_id": 4}), "image_id 4"),
    "an image that is none": (coco({"bbox": [0, 0, 1, 1], "image_id": [1]}), "image_id [1]"),
    "an unknown case": (
        coco({"bbox": [0, 0, 1, 1]}, images=[{"id": 1, "file_name": "c.jpg"}]),
        "case 'c' is not among",
    ),
    "another size": (
        coco({"bbox": [0, 0, 1, 1]}, images=[{**IMAGES[0], "width": 24, "height": 16}]),
        "its image 'a' has 24×16 pixels",
    ),
    "two images of a name": (
        coco(
            {"bbox": [0, 0, 1, 1]},
            {"bbox": [0, 0, 1, 1], "image_id": 2},
            images=[IMAGES[0], {**IMAGES[1], "file_name": "x/a.png"}],
        ),
        "two images are called 'a'",
    ),
    "a box beyond": (coco({"bbox": [8, 0, 6, 2]}), "from (8, 0) to (14, 2) lies outside the image of 12×8"),
    "a box inside out": (coco({"bbox": [8, 5, -2, 2]}), "covers no pixel"),
    "an empty box": (coco({"bbox": [8, 5, 0, 2]}), "covers no pixel"),
    "a box of three numbers": (coco({"bbox": [8, 5, 2]}), "neither a segmentation nor a bbox"),
    "a box of words": (coco({"bbox": ["8", 5, 2, 2]}), "no numbers"),
    "neither": (coco({}), "neither a segmentation nor a bbox"),
    "a box twice": (coco({"bbox": [0, 0, 1, 1]}, {"bbox": [0, 0, 1, 1]}), "is given twice"),
    "a line": (coco({"segmentation": [[0, 0, 1, 1]]}), "three corners or more"),
    "half a corner": (coco({"segmentation": [[0, 0, 1, 1, 2, 0, 5]]}), "three corners or more"),
    "a polygon beyond": (coco({"segmentation": [square(5, 5, 9, 2)]}), "it reaches (14, 5), outside"),
    "a polygon of nothing": (coco({"segmentation": [square(5.1, 5.1, 0.2, 0.2)]}), "centre of no pixel"),
    "runs of another image": (
        coco({"segmentation": {"size": [12, 8], "counts": [96]}}),
        "of size [12, 8], not (8, 12)",
    ),
    "too few runs": (coco({"segmentation": {"size": [8, 12], "counts": [1, 2]}}), "add up to 3, not 96"),
    "negative runs": (coco({"segmentation": {"size": [8, 12], "counts": [97, -1]}}), "no whole numbers"),
    "runs that are cut": (coco({"segmentation": {"size": [8, 12], "counts": "P"}}), "cut short"),
    "no text of runs": (coco({"segmentation": {"size": [8, 12], "counts": "~~"}}), "no text of COCO"),
    "a run without end": (coco({"segmentation": {"size": [8, 12], "counts": "o" * 90}}), "no text of"),
    "no annotation": (coco(), "holds no annotation"),
    "an annotation of nothing": (coco(annotations=[7]), "image_id None"),
    "no file of shapes": ({"images": []}, "is no file of shapes: it holds 'images'"),
    "a list": ([1], "is no file of shapes: it holds list"),
}  # fmt: skip


@pytest.mark.parametrize("name", COCO_FAULTS)
def test_a_fault_of_coco_is_named(name: str) -> None:
    raw, part = COCO_FAULTS[name]
    found = read(raw)
    assert part in found.faults
    assert "shapes.json" in found.faults
    assert len(found.first) == 1
    assert found.first[0].expected or found.first[0].fix
    assert found.maps == {}


def test_rounding_beyond_the_border_is_cut() -> None:
    found = read(
        coco({"bbox": [-0.4, -0.4, 12.8, 8.9]}, {"segmentation": [square(-0.5, 6, 13, 2.5)]})
    )
    assert found.boxes == {"a": (Box(0, CAR, 0, 0, 7, 11),)}
    assert np.array_equal(found.maps["a"], part(slice(6, 8), slice(0, 12)))


def test_a_faulty_annotation_does_not_hide_the_next_one() -> None:
    found = read(coco({"bbox": [20, 0, 1, 1]}, {}, {"bbox": [0, 0, 1, 1]}, {"bbox": [0, 0, 1]}))
    assert found.faults.count("where:") == 3
    assert found.boxes == {"a": (Box(0, CAR, 0, 0, 0, 0),)}


def test_shapes_without_end_are_refused() -> None:
    shapes = [{"segmentation": [square(0, 0, 12, 8)]}] * (MOST_TIMES + 1)
    assert f"more than {MOST_TIMES} times the image" in read(coco(*shapes)).faults
    assert read(coco(*shapes[1:])).faults == ""
    masks = [{"segmentation": {"size": [8, 12], "counts": [0, 96]}}] * (MOST_TIMES + 1)
    assert f"more than {MOST_TIMES} times the image" in read(coco(*masks)).faults


# LabelMe


def test_every_shape_of_labelme_becomes_what_it_says() -> None:
    found = read(
        labelme(
            {"shape_type": "rectangle", "points": [[7, 5], [2, 1]]},
            {"shape_type": "point", "points": [[3.9, 2.0]], "label": "sky"},
            {"shape_type": "polygon", "points": [[8, 0], [12, 0], [12, 2], [8, 2]], "label": "sky"},
            {"shape_type": "linestrip", "points": [[0.5, 7.5], [3.5, 7.5], [3.5, 5.5]]},
            {"shape_type": "line", "points": [[6, 7], [7, 7]], "label": "road"},
            {"shape_type": "circle", "points": [[10, 5], [11, 5]]},
        )
    )
    assert found.faults == ""
    assert found.boxes == {"a": (Box(0, CAR, 1, 2, 4, 6),)}
    assert found.points == {"a": (Point(0, 2, 3, SKY),)}
    expected = part(slice(0, 2), slice(8, 12), SKY)
    expected[7, 0:4] = expected[5:8, 3] = CAR
    expected[7, 6:8] = ROAD
    expected[4:6, 9:11] = CAR
    assert np.array_equal(found.maps["a"], expected)


def test_a_circle_is_cut_at_the_border() -> None:
    found = read(labelme({"shape_type": "circle", "points": [[1, 1], [1, 4]]}))
    columns, rows = np.meshgrid(np.arange(12) + 0.5, np.arange(8) + 0.5)
    expected = (columns - 1) ** 2 + (rows - 1) ** 2 <= 9
    assert np.array_equal(found.maps["a"] == CAR, expected)
    beyond = read(labelme({"shape_type": "circle", "points": [[1, 1], [1, -5]]}))
    assert "it reaches (1, -5), outside" in beyond.faults


def test_a_later_shape_covers_an_earlier_one() -> None:
    shapes = [
        {"points": [[0, 0], [12, 0], [12, 8], [0, 8]], "label": "road"},
        {"points": [[2, 2], [5, 2], [5, 4], [2, 4]]},
    ]
    expected = part(slice(0, 8), slice(0, 12), ROAD)
    expected[2:4, 2:5] = CAR
    assert np.array_equal(read(labelme(*shapes)).maps["a"], expected)
    assert (read(labelme(*reversed(shapes))).maps["a"] == ROAD).all()


def test_a_file_of_labelme_without_an_image_is_called_like_its_case() -> None:
    raw = labelme(
        {"shape_type": "point", "points": [[0, 0]]},
        imagePath=None,
        imageHeight=None,
        imageWidth=None,
    )
    faults = read(raw).faults
    assert "case 'shapes' is not among" in faults
    found = read(raw, photo_target("shapes"))
    assert found.points == {"shapes": (Point(0, 0, 0, CAR),)}


def test_outside_of_partial_labels_is_another_class() -> None:
    polygon = {"points": [[2, 2], [5, 2], [5, 4], [2, 4]]}
    found = read(labelme(polygon), outside=OTHER, filled_only=True)
    expected = np.full(PHOTO, OTHER)
    expected[2:4, 2:5] = CAR
    assert np.array_equal(found.maps["a"], expected)
    for kind in ("rectangle", "line", "point"):
        shape = {"shape_type": kind, "points": [[2, 2], [5, 4]]}
        assert (
            f"a {kind} does not say of every pixel"
            in read(labelme(shape), outside=OTHER, filled_only=True).faults
        )
    box = coco({"bbox": [0, 0, 1, 1]})
    assert "a box does not say of every pixel" in read(box, outside=OTHER, filled_only=True).faults


LABELME_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown class": (
        labelme({"label": "cars", "points": [[0, 0], [5, 5], [5, 0]]}),
        "no class 'cars' (shape 1)",
    ),
    "another size": (
        labelme({"points": [[0, 0], [5, 0], [5, 5]]}, imageHeight=9),
        "has 12×9 pixels",
    ),
    "a click beyond": (
        labelme({"shape_type": "point", "points": [[12, 0]]}),
        "a click lies outside the image of case 'a': row 0, column 12",
    ),
    "a line beyond": (
        labelme({"shape_type": "line", "points": [[0, 0], [0, 8]]}),
        "a line lies outside the image of case 'a': row 8, column 0",
    ),
    "a mask": (
        labelme({"shape_type": "mask", "points": [[0, 0], [5, 5]]}),
        "type 'mask' is not read",
    ),
    "a type that is none": (labelme({"shape_type": [1], "points": []}), "type '[1]'"),
    "two corners": (labelme({"points": [[0, 0], [5, 5]]}), "fewer than 3 points"),
    "three numbers": (labelme({"points": [[0, 0, 1], [5, 5, 1], [5, 0, 1]]}), "points [x, y]"),
    "words": (labelme({"points": [["a", 0], [5, 5], [5, 0]]}), "no numbers"),
    "no label": (labelme({"label": None, "points": [[0, 0], [5, 5], [5, 0]]}), "has no label"),
    "no shape": (labelme(), "holds no shape"),
}


@pytest.mark.parametrize("name", LABELME_FAULTS)
def test_a_fault_of_labelme_is_named(name: str) -> None:
    raw, part = LABELME_FAULTS[name]
    found = read(raw)
    assert part in found.faults
    assert len(found.first) == 1
    assert found.maps == {}


@pytest.mark.parametrize("content", ["", "{", '{"a": 1, "a": 2}', "[1e999]", "\0", "null"])
def test_what_is_no_json_is_called_so(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    faults = Faults()
    assert read_json(tmp_path / "x.json", faults) is None
    assert "x.json" in told(faults.first)


def test_json_of_any_text_is_read(tmp_path: Path) -> None:
    raw = labelme({"points": [[2, 2], [5, 2], [5, 4], [2, 4]], "description": "grün"})
    (tmp_path / "x.json").write_bytes(
        b"\xef\xbb\xbf" + json.dumps(raw, ensure_ascii=False).encode()
    )
    faults = Faults()
    assert read_json(tmp_path / "x.json", faults) == raw
    assert faults.count == 0
