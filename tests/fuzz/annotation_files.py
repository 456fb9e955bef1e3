"""NRRD files and annotations, sound and odd, and what reads them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from feeding import Reader, Seed
from mutations import damaged
from text_files import json_damaged, text_damaged
from uda.data.annotations.boxes import Boxes, boxes_of_list, read_boxes
from uda.data.annotations.faults import Faults
from uda.data.annotations.grids import Grid
from uda.data.annotations.label_files import read_scribbles
from uda.data.annotations.photo_json import Shapes, read_json, read_shapes
from uda.data.annotations.points import Clicks, read_points
from uda.data.annotations.target import Target
from volume_files import AFFINE, CARD, RESAMPLED, SHAPE, image, label

from uda.config.card import DatasetCard
from uda.data.nrrd import read_blocks
from uda.data.volumes import prepare_image, read_volume

GRID = Grid(SHAPE, AFFINE)
TARGET = Target(CARD, {"x": GRID, "y": GRID})
PHOTO_CARD = DatasetCard.model_validate(
    {
        "name": "photos",
        "title": "photos",
        "images": "{case}.png",
        "classes": ["road", "car"],
        "label_values": {"road": [0], "car": [1]},
        "prepare": {"kind": "photo", "size": [8, 12]},
    }
)
PHOTOS = Target(PHOTO_CARD, {"x": Grid((8, 12)), "y": Grid((8, 12))})
TYPES = {"u1": "uint8", "i2": "short", "f4": "float", "f8": "double"}


def nrrd(array: np.ndarray, *more: str, encoding: str = "raw") -> bytes:
    """A file of the space RAS on the grid of the NIfTI files, written letter by letter."""
    steps = " ".join(f"({','.join(map(str, AFFINE[:3, axis]))})" for axis in range(3))
    lines = [
        "NRRD0004",
        f"type: {TYPES[array.dtype.str[1:]]}",
        "dimension: 3",
        "space: right-anterior-superior",
        f"sizes: {' '.join(map(str, array.shape))}",
        f"space directions: {steps}",
        "endian: little",
        f"encoding: {encoding}",
        f"space origin: ({','.join(map(str, AFFINE[:3, 3]))})",
        *more,
    ]
    data = array.tobytes(order="F")
    data = gzip.compress(data, 1, mtime=0) if encoding == "gzip" else data
    return "\n".join([*lines, "", ""]).encode() + data


SEGMENTS = (
    "Segment0_Name:=disk",
    "Segment0_LabelValue:=1",
    "Segment0_Layer:=0",
    "Segment1_Name:=Ring",
    "Segment1_LabelValue:=2",
    "Segment1_Layer:=0",
)
GROUPS = [{"labels": [{"name": "disk", "value": 1}, {"name": "ring", "value": 2}]}]
MITK = f"org.mitk.multilabel.segmentation.labelgroups:={json.dumps(GROUPS)}"
header_damaged = partial(damaged, focus=300)


def image_seeds() -> list[Seed]:
    arrays = (image().astype(np.int16), image().astype(np.float32), image())
    return [
        Seed("x.nrrd", nrrd(array, encoding=encoding), mutate=header_damaged)
        for array in arrays
        for encoding in ("raw", "gzip")
    ]


def segment_seeds() -> list[Seed]:
    contents = [nrrd(label(), *more, encoding="gzip") for more in (SEGMENTS, (MITK,), ())]
    return [Seed("x.seg.nrrd", content, mutate=partial(damaged, focus=500)) for content in contents]


def odd_images() -> list[Seed]:
    sound = nrrd(image().astype(np.int16)).decode("latin-1")
    changes = [
        ("sizes: 9 8 4", f"sizes: {sizes}")
        for sizes in (
            "0 8 4",
            "-9 -8 4",
            "9 8",
            "9 8 4 1",
            "9e9 8 4",
            f"{2**62} 4 4",
            f"{2**70} 1 1",
            "x",
        )
    ]
    changes += [("type: short", f"type: {kind}") for kind in ("block", "float", "int64", "", "π")]
    changes += [("encoding: raw", f"encoding: {e}") for e in ("gzip", "bzip2", "txt", "hex", "zip")]
    changes += [("endian: little", e) for e in ("", "endian: big", "endian: both")]
    changes += [
        ("space: right-anterior-superior", s)
        for s in ("", "space: scanner-xyz", "space dimension: 3", "space: ras\nspace: ras")
    ]
    changes += [
        ("space origin: (-3", f"space origin: ({n}") for n in ("nan", "inf", "1e999", "", "x")
    ]
    changes += [
        ("space directions: (1.5", f"space directions: ({n}") for n in ("nan", "0", "1e300")
    ]
    changes += [
        ("dimension: 3", more)
        for more in (
            "dimension: 4",
            "dimension: x",
            "dimension: 3\nbyte skip: -1",
            "dimension: 3\nline skip: 9",
        )
    ]
    changes += [
        ("dimension: 3", f"dimension: 3\ndata file: {f}") for f in ("/dev/zero", "x.raw", "LIST")
    ]
    texts = [sound.replace(old, new, 1) for old, new in changes]
    assert all(text != sound for text in texts)
    contents = [text.encode("latin-1", "replace") for text in texts]
    contents += [
        b"",
        b"NRRD",
        b"NRRD0004",
        b"NRRD0004\n\n",
        b"NRRD0004\n:\n\n",
        b"NRRD0004\n=\n\n",
        b"hello",
    ]
    contents += [nrrd(image() * np.nan), nrrd(np.full(SHAPE, 1e300)), nrrd(image())[:-1]]
    return [Seed("x.nrrd", content) for content in contents]


def read_image(path: Path) -> None:
    """Read and prepare by two cards; what comes out is sane."""
    volume = read_volume(path)
    assert sum(len(block) for block in read_blocks(path, 100)) == volume.array.size
    for prepare in (CARD.prepare, RESAMPLED):
        assert np.isfinite(prepare_image(volume, prepare, path)[0]).all()


def read_segments(path: Path) -> None:
    found = read_scribbles(path, GRID, CARD)
    assert found.shape == SHAPE
    assert set(np.unique(found)) <= {0, 1, 2, 255}


# --- tables and shapes -----------------------------------------------------------------------

POINTS = b"case,slice,row,column,class\nx,0,1,2,disk\ny,3,8,7,ring\nx,1,0,0,background\n"
BOXES = b"case,slice,class,row0,column0,row1,column1\nx,0,disk,0,0,8,7\ny,3,ring,1,1,2,2\n"
LIST = [
    {"case": "x", "slice": 0, "class": "disk", "row0": 0, "column0": 0, "row1": 8, "column1": 7}
]
SQUARE = [2, 2, 5, 2, 5, 4, 2, 4]
COCO = {
    "images": [{"id": 1, "file_name": "x.png", "width": 12, "height": 8}],
    "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "road"}],
    "annotations": [
        {"image_id": 1, "category_id": 1, "bbox": [1.5, 2, 3, 4]},
        {"image_id": 1, "category_id": 2, "segmentation": [SQUARE]},
        {"image_id": 1, "category_id": 1, "segmentation": {"size": [8, 12], "counts": [8, 16, 72]}},
        {"image_id": 1, "category_id": 1, "segmentation": {"size": [8, 12], "counts": "8`0X2"}},
    ],
}
LABELME = {
    "imagePath": "x.png",
    "imageHeight": 8,
    "imageWidth": 12,
    "shapes": [
        {"label": "car", "shape_type": kind, "points": [[2, 2], [5, 2.5], [5, 4.5], [2, 4]][:count]}
        for kind, count in (
            ("polygon", 4),
            ("linestrip", 3),
            ("circle", 2),
            ("point", 1),
            ("rectangle", 2),
        )
    ],
}


def odd_shapes() -> list[Seed]:
    numbers = (0, -1, 1e-9, 1e300, -1e300, 2**63, 11.999999, True, None, "1", [1], {})
    found: list[Any] = []
    for n in numbers:
        found += [
            COCO | {"annotations": [entry]}
            for entry in (
                {"image_id": 1, "category_id": 1, "bbox": [n, 2, 3, 4]},
                {"image_id": 1, "category_id": 1, "bbox": [1, 2, n, 4]},
                {"image_id": n, "category_id": 1, "bbox": [1, 2, 3, 4]},
                {"image_id": 1, "category_id": n, "bbox": [1, 2, 3, 4]},
                {"image_id": 1, "category_id": 1, "segmentation": [[n, *SQUARE[1:]]]},
                {"image_id": 1, "category_id": 1, "segmentation": n},
                {"image_id": 1, "category_id": 1, "segmentation": [n]},
                {
                    "image_id": 1,
                    "category_id": 1,
                    "segmentation": {"size": [8, 12], "counts": [n, 96]},
                },
                {"image_id": 1, "category_id": 1, "segmentation": {"size": n, "counts": "1"}},
            )
        ]
        for shape in LABELME["shapes"]:  # type: ignore[attr-defined]
            points = [[n, 2.0], *shape["points"][1:]]
            found.append(LABELME | {"shapes": [shape | {"points": points}]})
        found += [
            LABELME | {"imageHeight": n},
            LABELME | {"imagePath": n},
            LABELME | {"shapes": [n]},
            COCO | {"images": n},
            COCO | {"categories": [n]},
            n,
        ]
    return [Seed("x.json", json.dumps(raw).encode()) for raw in found]


def _faults(read: Callable[[Path, Faults], None]) -> Callable[[Path], None]:
    def check(path: Path) -> None:
        faults = Faults()
        read(path, faults)
        faults.raise_all(str(path))

    return check


def _points(path: Path, faults: Faults) -> None:
    read_points(path, TARGET, Clicks(CARD.classes, faults))


def _boxes(path: Path, faults: Faults) -> None:
    boxes = Boxes(CARD.classes, faults)
    if path.suffix == ".csv":
        read_boxes(path, TARGET, boxes)
    elif isinstance(raw := read_json(path, faults), list):
        boxes_of_list(raw, path, TARGET, boxes)


def _shapes(path: Path, faults: Faults) -> None:
    def keep(case: str, labels: np.ndarray, _: Path) -> None:
        assert case in PHOTOS.grids
        assert set(np.unique(labels)) <= {0, 1, 255}

    clicks, boxes = Clicks(PHOTO_CARD.classes, faults), Boxes(PHOTO_CARD.classes, faults)
    raw = read_json(path, faults)
    if raw is not None:
        read_shapes(raw, path, Shapes(PHOTOS, clicks, boxes, faults, keep))
    for box in (box for found in boxes.boxes().values() for box in found):
        assert 0 <= box.row0 <= box.row1 < 8
        assert 0 <= box.column0 <= box.column1 < 12
    for point in (point for found in clicks.points().values() for point in found):
        assert 0 <= point.row < 8
        assert 0 <= point.column < 12


read_shapes_of = _faults(_shapes)


def shapes_of(annotation: dict[str, Any], copies: int = 1) -> bytes:
    """A file of COCO with one annotation, again and again."""
    entry = {"image_id": 1, "category_id": 1} | annotation
    return json.dumps(COCO | {"annotations": [entry] * copies}).encode()


READERS = [
    Reader("NRRD image", image_seeds, read_image, odd_images),
    Reader("NRRD segmentation", segment_seeds, read_segments, odd_images),
    Reader(
        "points",
        lambda: [Seed("points.csv", POINTS, mutate=text_damaged)],
        _faults(_points),
        share=0.5,
    ),
    Reader(
        "boxes",
        lambda: [
            Seed("boxes.csv", BOXES, mutate=text_damaged),
            Seed("boxes.json", json.dumps(LIST).encode(), mutate=json_damaged),
        ],
        _faults(_boxes),
        share=0.5,
    ),
    Reader(
        "shapes",
        lambda: [
            Seed("x.json", json.dumps(raw).encode(), mutate=json_damaged) for raw in (COCO, LABELME)
        ],
        read_shapes_of,
        odd_shapes,
    ),
]
