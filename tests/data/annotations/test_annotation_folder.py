"""A folder of annotations: what its names mean, and one report of all faults."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from annotated import (
    AFFINE,
    CARD,
    GRID,
    PHOTO,
    PHOTO_CARD,
    PHOTO_GRID,
    SHAPE,
    write_nifti,
    write_png,
)

from uda.data.annotations.folder import (
    Annotations,
    classes_in,
    describe,
    digest_of,
    find_annotations,
    read_annotations,
)
from uda.data.annotations.grids import Grid
from uda.data.annotations.marks import Box, Point
from uda.errors import DataError
from uda.types import IGNORE, OTHER

GRIDS = dict.fromkeys(("p1", "p2", "p3"), GRID)
PHOTOS = dict.fromkeys(("a", "b"), PHOTO_GRID)


def marked(value: int, fill: int = 0) -> np.ndarray:
    array = np.full(SHAPE, fill, np.uint8)
    array[1, 2, 3] = value
    return array


def whole(folder: Path) -> Path:
    """A folder with every kind of annotation."""
    folder.mkdir()
    (folder / "points.csv").write_text("case,slice,row,column,class\np1,0,1,2,disk\n")
    (folder / "boxes.csv").write_text(
        "case,slice,class,row0,column0,row1,column1\np1,0,disk,1,2,3,4\n"
    )
    (folder / "boxes.json").write_text(
        '[{"case": "p2", "slice": 0, "class": "ring", "row0": 1, "column0": 2, "row1": 3, "column1": 4}]'
    )
    (folder / "tags.csv").write_text("case,slice,disk,left_ring,ring\np1,0,1,0,0\np1,4,1,0,1\n")
    write_nifti(folder / "scribbles" / "p1.nii.gz", marked(10))
    write_nifti(folder / "scribbles" / "p2.nii", marked(20, 255))
    write_nifti(folder / "partial_left_ring_ring" / "p2.nii.gz", marked(20))
    write_nifti(folder / "few" / "p3.nii.gz", marked(30))
    (folder / "README.md").write_text("what I drew")
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "scribbles" / "._p1.nii.gz").write_bytes(b"\0")
    (folder / "scribbles" / "readme.txt").write_text("strokes")
    return folder


def read(folder: Path, **refused: str) -> Annotations:
    return read_annotations(find_annotations(folder, photos=False), CARD, GRIDS, refused)


def faults(folder: Path, photos: bool = False, **refused: str) -> str:
    card, grids = (PHOTO_CARD, PHOTOS) if photos else (CARD, GRIDS)
    with pytest.raises(DataError) as caught:
        read_annotations(find_annotations(folder, photos), card, grids, refused)
    return str(caught.value)


def test_a_folder_with_everything_is_read(tmp_path: Path) -> None:
    found = read(whole(tmp_path / "drawn"), p9="scores are computed on it")
    assert found.kinds == ("points", "scribbles", "boxes", "partial", "labels")
    assert found.points == {"p1": (Point(0, 1, 2, 1),)}
    assert found.boxes == {"p1": (Box(0, 1, 1, 2, 3, 4),), "p2": (Box(0, 3, 1, 2, 3, 4),)}
    assert found.tags == {("p1", 0): (True, False, False), ("p1", 4): (True, False, True)}
    assert list(found.scribbles) == ["p1", "p2"]
    assert found.scribbles["p1"][1, 2, 3] == 1
    assert (found.scribbles["p1"] == IGNORE).sum() == np.prod(SHAPE) - 1
    assert found.partial["p2"].named == ("left_ring", "ring")
    assert found.partial["p2"].labels[1, 2, 3] == 2
    assert (found.partial["p2"].labels == OTHER).sum() == np.prod(SHAPE) - 1
    assert list(found.labels) == ["p3"]
    assert found.labels["p3"][1, 2, 3] == 3
    assert describe(found) == {
        "points": 1,
        "boxes": 2,
        "scribbles": 2,
        "partial": 1,
        "labels": 1,
        "tags": 2,
    }


def test_label_files_in_the_folder_itself_are_scribbles(tmp_path: Path) -> None:
    write_nifti(tmp_path / "p1.nii.gz", marked(10))
    found = read(tmp_path)
    assert found.kinds == ("scribbles",)
    assert found.scribbles["p1"][1, 2, 3] == 1


def test_values_that_say_nothing_are_handed_on(tmp_path: Path) -> None:
    write_nifti(tmp_path / "p1.nii.gz", marked(10))
    files = find_annotations(tmp_path, photos=False)
    found = read_annotations(files, CARD, GRIDS, unmarked=())
    assert (found.scribbles["p1"] == 0).sum() == np.prod(SHAPE) - 1


def test_classes_of_partial_labels_may_be_listed(tmp_path: Path) -> None:
    for name in ("partial", "partial_1"):
        write_nifti(tmp_path / name / "p1.nii.gz", marked(20))
        (tmp_path / name / "classes.txt").write_text("\nleft_ring\ndisk\n")
        assert read(tmp_path).partial["p1"].named == ("left_ring", "disk")
        shutil.rmtree(tmp_path / name)


def test_names_of_classes_may_hold_the_sign_between_them() -> None:
    assert classes_in("left_ring_disk", CARD) == [("left_ring", "disk")]
    assert classes_in("disk_LEFT_RING", CARD) == [("disk", "left_ring")]
    assert classes_in("left", CARD) == classes_in("", CARD) == classes_in("disk__ring", CARD) == []
    names = ["background", "a", "b", "a_b"]
    card = CARD.model_validate(
        CARD.model_dump()
        | {"classes": names, "label_values": {n: [i] for i, n in enumerate(names)}}
    )
    assert sorted(classes_in("a_b", card)) == [("a", "b"), ("a_b",)]


def test_photographs_have_shapes_too(tmp_path: Path) -> None:
    square = [[2, 2], [5, 2], [5, 4], [2, 4]]
    shapes = [
        {"label": "car", "shape_type": "polygon", "points": square},
        {"label": "sky", "shape_type": "point", "points": [[0, 0]]},
    ]
    one = {"imagePath": "a.jpg", "imageHeight": 8, "imageWidth": 12, "shapes": shapes}
    (tmp_path / "a.json").write_text(json.dumps(one))
    (tmp_path / "scribbles").mkdir()
    write_png(tmp_path / "scribbles" / "b.png", np.eye(*PHOTO, dtype=np.uint8))
    (tmp_path / "partial_car").mkdir()
    (tmp_path / "partial_car" / "a.json").write_text(json.dumps(one | {"shapes": shapes[:1]}))
    (tmp_path / "boxes.json").write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "b.png", "width": 12, "height": 8}],
                "categories": [{"id": 1, "name": "car"}],
                "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2]}],
            }
        )
    )
    found = read_annotations(find_annotations(tmp_path, photos=True), PHOTO_CARD, PHOTOS)
    assert found.points == {"a": (Point(0, 0, 0, 2),)}
    assert found.boxes == {"b": (Box(0, 1, 0, 0, 1, 1),)}
    assert (found.scribbles["a"] == 1).sum() == 6
    assert (found.scribbles["a"] == IGNORE).sum() == 96 - 6
    assert (found.scribbles["b"] == 1).sum() == 8
    assert (found.partial["a"].labels == OTHER).sum() == 96 - 6


def test_polygons_of_another_class_are_other_in_partial_labels(tmp_path: Path) -> None:
    square = [[0, 0], [6, 0], [6, 8], [0, 8]]
    shapes = [
        {"label": "sky", "points": square},
        {"label": "car", "points": [[2, 2], [4, 2], [4, 4], [2, 4]]},
    ]
    (tmp_path / "partial_car").mkdir()
    (tmp_path / "partial_car" / "a.json").write_text(json.dumps({"shapes": shapes}))
    labels = (
        read_annotations(find_annotations(tmp_path, True), PHOTO_CARD, PHOTOS).partial["a"].labels
    )
    assert np.unique(labels).tolist() == [1, OTHER]
    assert (labels == 1).sum() == 4


# the digest


def test_the_digest_is_that_of_names_and_content(tmp_path: Path) -> None:
    one, other = whole(tmp_path / "one"), whole(tmp_path / "other")
    for path in one.rglob("*.nii*"):  # archives hold the time
        shutil.copy(path, other / path.relative_to(one))
    digest = read(one).digest
    assert digest == read(other).digest
    assert len(digest) == 64
    for change in (
        lambda: (other / "points.csv").write_text("case,slice,row,column,class\np1,0,1,2,ring\n"),
        lambda: (other / "scribbles" / "p1.nii.gz").rename(other / "scribbles" / "p3.nii.gz"),
        lambda: (other / "boxes.json").unlink(),
    ):
        before = digest_of(find_annotations(other, False))
        change()
        assert digest_of(find_annotations(other, False)) != before


def test_every_file_counts_for_the_digest(tmp_path: Path) -> None:
    folder = whole(tmp_path / "drawn")
    (folder / "partial_left_ring_ring" / "classes.txt").write_text("left_ring\nring\n")
    names = {path.relative_to(folder).as_posix() for path in find_annotations(folder, False).all}
    assert names == {
        "points.csv",
        "boxes.csv",
        "boxes.json",
        "tags.csv",
        "scribbles/p1.nii.gz",
        "scribbles/p2.nii",
        "partial_left_ring_ring/p2.nii.gz",
        "partial_left_ring_ring/classes.txt",
        "few/p3.nii.gz",
    }


# what is not understood

STRANGE: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "no folder": (shutil.rmtree, ["there is no such folder", "points.csv, boxes.csv"]),
    "nothing": (lambda f: None, ["nothing in the folder is an annotation", "points.csv"]),
    "a readme alone": (
        lambda f: (f / "README").touch(),
        ["nothing in the folder is an annotation"],
    ),
    "another file": (lambda f: (f / "clicks.csv").touch(), ["'clicks.csv' is not understood"]),
    "another folder": (lambda f: (f / "strokes").mkdir(), ["the folder 'strokes' is none"]),
    "a folder inside": (
        lambda f: (f / "scribbles" / "old").mkdir(parents=True),
        ["'old' is not understood", "label files ending in .nii.gz"],
    ),
    "a table inside": (
        lambda f: ((f / "few").mkdir(), (f / "few" / "points.csv").touch()),
        ["'points.csv' is not understood"],
    ),
    "shapes of a volume": (
        lambda f: (f / "a.json").write_text("{}"),
        ["'a.json' is not understood"],
    ),
    "an empty folder": (lambda f: (f / "labels").mkdir(), ["the folder is empty"]),
    "a link to nowhere": (
        lambda f: (f / "points.csv").symlink_to(f / "nowhere"),
        ["'points.csv' is no file"],
    ),
    "a photograph": (lambda f: (f / "p1.png").touch(), ["'p1.png' is not understood"]),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_not_understood_is_said(tmp_path: Path, name: str) -> None:
    make, parts = STRANGE[name]
    folder = tmp_path / "drawn"
    folder.mkdir()
    make(folder)
    with pytest.raises(DataError) as caught:
        find_annotations(folder, photos=False)
    for part in (*parts, str(folder)):
        assert part in str(caught.value)


def test_a_strange_file_is_said_beside_good_ones(tmp_path: Path) -> None:
    folder = whole(tmp_path / "drawn")
    (folder / "notes.docx").touch()
    (folder / "few" / "p3.txt").touch()
    told = faults(folder)
    assert "2 faults" in told
    assert "notes.docx" in told
    assert "p3.txt" in told


# faults of content

WRONG: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "a case twice": (
        lambda f: write_nifti(f / "scribbles" / "p1.nii", marked(10)),
        ["two files of case 'p1'", "p1.nii and", "one file a case among its scribbles"],
    ),
    "a case twice in two folders": (
        lambda f: write_nifti(f / "labels" / "p3.nii.gz", marked(30)),
        ["two files of case 'p3'", "among its labels"],
    ),
    "a case in two partial folders": (
        lambda f: write_nifti(f / "partial_disk" / "p2.nii.gz", marked(10)),
        ["two files of case 'p2'", "among its partial"],
    ),
    "an unknown case": (
        lambda f: write_nifti(f / "few" / "p4.nii.gz", marked(30)),
        ["case 'p4' is not among the target's cases (p4.nii.gz)", "did you mean"],
    ),
    "an unknown class of a folder": (
        lambda f: write_nifti(f / "partial_disc" / "p1.nii.gz", marked(10)),
        ["does not say for which classes", "partial_disc", "of background, disk, left_ring, ring"],
    ),
    "a class twice": (
        lambda f: write_nifti(f / "partial_disk_disk" / "p1.nii.gz", marked(10)),
        ["the folder may mean disk, disk", "each once"],
    ),
    "an unknown class of a list": (
        lambda f: (
            write_nifti(f / "partial" / "p1.nii.gz", marked(10)),
            (f / "partial" / "classes.txt").write_text("disc\n"),
        ),
        ["no class 'disc'", "classes.txt"],
    ),
    "an empty list": (
        lambda f: (
            write_nifti(f / "partial" / "p1.nii.gz", marked(10)),
            (f / "partial" / "classes.txt").write_text("\n"),
        ),
        ["does not say for which classes", "classes.txt"],
    ),
    "another grid": (
        lambda f: write_nifti(f / "scribbles" / "p3.nii.gz", marked(10), AFFINE * 2),
        ["affine differs", "p3.nii.gz"],
    ),
    "a damaged file": (
        lambda f: (f / "few" / "p3.nii.gz").write_bytes(b"\x1f\x8b"),
        ["cannot be read as NIfTI", "p3.nii.gz"],
    ),
    "a tag of no slice": (
        lambda f: (f / "tags.csv").write_text("case,slice,disk,left_ring,ring\np1,5,1,0,0\n"),
        ["a tag lies in slice 5 of case 'p1', which has 5 slices"],
    ),
    "a tag of no case": (
        lambda f: (f / "tags.csv").write_text("case,slice,disk,left_ring,ring\np5,4,1,0,0\n"),
        ["case 'p5' is not among", "slice 4"],
    ),
    "tags of other classes": (
        lambda f: (f / "tags.csv").write_text("case,slice,heart\np1,4,1\n"),
        ["tags have columns"],
    ),
    "no tags": (
        lambda f: (f / "tags.csv").write_text("case,slice,disk,left_ring,ring\n"),
        ["no line below its first"],
    ),
    "boxes that are no list": (
        lambda f: (f / "boxes.json").write_text('{"boxes": []}'),
        ["is no list of boxes"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_fault_is_named(tmp_path: Path, name: str) -> None:
    folder = whole(tmp_path / "drawn")
    make, parts = WRONG[name]
    make(folder)
    told = faults(folder)
    assert "faults in" not in told  # one alone
    for part in (*parts, str(folder)):
        assert part in told


def test_all_faults_of_all_files_are_in_one_report(tmp_path: Path) -> None:
    folder = whole(tmp_path / "drawn")
    for name in ("a damaged file", "another grid", "a tag of no slice", "boxes that are no list"):
        WRONG[name][0](folder)
    (folder / "points.csv").write_text("case,slice,row,column,class\np1,0,9,9,disk\np1,0,1,1,x\n")
    told = faults(folder)
    assert f"6 faults in the annotations in {folder}" in told


def test_refused_cases_are_refused_in_every_kind(tmp_path: Path) -> None:
    reason = "it belongs to the split 'test'"
    told = faults(whole(tmp_path / "drawn"), p1=reason, p2=reason, p3=reason)
    # points, two files of boxes, tags, two scribbles, partial, labels
    assert told.count(f"may not be annotated: {reason}") == 8


def test_two_readings_of_a_folder_are_refused(tmp_path: Path) -> None:
    names = ["background", "a", "b", "a_b"]
    values = {name: [index] for index, name in enumerate(names)}
    card = CARD.model_validate(CARD.model_dump() | {"classes": names, "label_values": values})
    write_nifti(tmp_path / "partial_a_b" / "p1.nii.gz", marked(1))
    with pytest.raises(DataError, match="the folder may mean a_b or a, b"):
        read_annotations(find_annotations(tmp_path, False), card, GRIDS)
    (tmp_path / "partial_a_b" / "classes.txt").write_text("a\nb\n")
    found = read_annotations(find_annotations(tmp_path, False), card, GRIDS)
    assert found.partial["p1"].named == ("a", "b")


def test_files_of_itk_snap_and_slicer_are_plain_nifti(tmp_path: Path) -> None:
    """Both write whole numbers, a scale of 1 and the place of the image."""
    image = nibabel.Nifti1Image(marked(10).astype(np.int16), AFFINE)
    image.set_qform(AFFINE, code=1)
    image.set_sform(AFFINE, code=1)
    nibabel.save(image, tmp_path / "p1.nii.gz")
    assert read(tmp_path).scribbles["p1"][1, 2, 3] == 1


def test_what_is_called_like_the_images_file_belongs_to_its_case(tmp_path: Path) -> None:
    """Cityscapes: the case is ``aachen_000019``, its image ``aachen_000019_leftImg8bit.png``."""
    folder, name = tmp_path / "drawn", "aachen_000019_leftImg8bit"
    grid = Grid(PHOTO, file=name)
    write_png(
        folder / "scribbles" / f"{name}.png", np.where(np.eye(*PHOTO), 1, 255).astype(np.uint8)
    )
    shape = {"label": "car", "shape_type": "point", "points": [[3.5, 2.5]]}
    size = {"imageHeight": PHOTO[0], "imageWidth": PHOTO[1]}
    raw = {"imagePath": f"../images/{name}.png", "shapes": [shape], **size}
    (folder / "clicks.json").write_text(json.dumps(raw))
    image = {"id": 1, "file_name": f"val/{name}.png", "height": PHOTO[0], "width": PHOTO[1]}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 2]}
    coco = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "car"}]}
    (folder / "coco.json").write_text(json.dumps(coco))
    found = read_annotations(find_annotations(folder, True), PHOTO_CARD, {"aachen_000019": grid})
    assert found.points == {"aachen_000019": (Point(0, 2, 3, 1),)}
    assert found.boxes == {"aachen_000019": (Box(0, 1, 1, 1, 2, 3),)}
    assert list(found.scribbles) == ["aachen_000019"]
