"""Small targets to annotate: a volume of 7×6×5 voxels whose slices lie on the first axis, and a photograph of 8×12."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from uda.config.card import DatasetCard
from uda.data.annotations.grids import Grid
from uda.data.annotations.target import Target
from uda.errors import UdaError

SHAPE = (5, 7, 6)
"""slices, rows, columns: axis 0 is the slice axis"""
PHOTO = (8, 12)
AFFINE = np.array(
    [[0.0, -1.5, 0.0, 20.0], [0.0, 0.0, 1.5, -30.0], [4.0, 0.0, 0.0, 5.0], [0, 0, 0, 1]]
)
NAMES = ["background", "disk", "left_ring", "ring"]


def card_of(**fields: Any) -> DatasetCard:
    return DatasetCard.model_validate(
        {
            "name": "small",
            "title": "small",
            "images": "{case}.nii.gz",
            "classes": NAMES,
            "label_values": {
                "background": [0],
                "disk": [10],
                "left_ring": [20],
                "ring": [30, 31],
                "ignore": [99],
            },
            "prepare": {"size": [8, 8], "orientation": "stored", "slice_axis": 0},
        }
        | fields
    )


CARD = card_of()
GRID = Grid(SHAPE, AFFINE, slice_axis=0)
PHOTO_CARD = card_of(
    images="{case}.png",
    classes=["road", "car", "sky"],
    label_values={"road": [0], "car": [1], "sky": [2]},
    prepare={"kind": "photo", "size": [8, 12]},
)
PHOTO_GRID = Grid(PHOTO)


def target(*cases: str, **refused: str) -> Target:
    return Target(CARD, dict.fromkeys(cases or ("p1", "p2"), GRID), refused)


def photo_target(*cases: str, **refused: str) -> Target:
    return Target(PHOTO_CARD, dict.fromkeys(cases or ("a", "b"), PHOTO_GRID), refused)


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


def write_png(path: Path, array: np.ndarray) -> Path:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def told(faults: list[UdaError]) -> str:
    return "\n".join(map(str, faults))
