"""Checking annotations: every fault, every mark counted, contradictions named, pictures in which marks lie right."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from conftest import CLASSES, SIZE, SLICES, Tiny, make_case, write_nifti
from matplotlib.image import imread
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from typer.testing import CliRunner

from uda.check import annotations as check_annotations
from uda.check import page as check_page
from uda.check.findings import CaseReport, MarkedPicture
from uda.check.marks import GAP, SIDE, WHITE, draw_marks, mark_colours
from uda.check.page import Album
from uda.check.volumes import check_card, check_images
from uda.cli.check import check as check_verb
from uda.config.card import DatasetCard
from uda.config.loading import load_card, override
from uda.config.networks import Network
from uda.data.annotations.grids import grids_of
from uda.data.cases import cases_in, cases_of
from uda.data.images import photo_geometry
from uda.errors import UdaError
from uda.networks.build import build
from uda.networks.model_file import ModelInfo, save_model
from uda.pipeline.domains import Domains
from uda.types import IGNORE, OTHER

APP = typer.Typer()
APP.command()(check_verb)
POINTS, BOXES = "case,slice,row,column,class", "case,slice,class,row0,column0,row1,column1"
MYO = (230, 159, 0)
"""colour of the first structure"""


def run(*words: object) -> tuple[int, str]:
    """Exit code of ``uda check …`` and its output."""
    result = CliRunner().invoke(APP, [str(word) for word in words])
    if isinstance(result.exception, UdaError):
        return result.exception.exit_code, f"{result.output}{result.exception}"
    return result.exit_code, result.output


def card_of(tiny: Tiny, *changes: str) -> DatasetCard:
    return override(load_card(str(tiny.home / "target.yaml")), ["annotations=t/marks", *changes])


def table(path: Path, head: str, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, *rows]) + "\n")


def label_of(case: str) -> np.ndarray:
    """Class indices [h, w, slices] of a case of the target."""
    return make_case(10 + int(case[1:]), True)[1]


def write_marks(tiny: Tiny, case: str = "c0") -> Path:
    """Every kind of annotation of a case, true to its labels."""
    folder, label = tiny.root / "t" / "marks", label_of(case)
    places = [(name, *np.argwhere(label[..., 1] == k)[7]) for k, name in enumerate(CLASSES)]
    table(folder / "points.csv", POINTS, *(f"{case},1,{r},{c},{name}" for name, r, c in places))
    rows = []
    for index in (1, 2):
        inside = np.argwhere(label[..., 2] == index)
        (row0, column0), (row1, column1) = inside.min(0), inside.max(0)
        rows.append(f"{case},2,{CLASSES[index]},{row0},{column0},{row1},{column1}")
    table(folder / "boxes.csv", BOXES, *rows)
    scribble = np.full(label.shape, 255, np.uint8)
    scribble[SIZE // 2, :, 0] = 10 * label[SIZE // 2, :, 0]
    write_nifti(folder / "scribbles" / f"{case}.nii.gz", scribble)
    write_nifti(folder / "partial_disk" / f"{case}.nii.gz", np.uint8(10) * (label == 1))
    write_nifti(folder / "labels" / f"{case}.nii.gz", label * np.uint8(10))
    return folder


def check(tiny: Tiny, card: DatasetCard | None = None, **options: Any) -> dict[str, CaseReport]:
    return {one.case: one for one in check_card(card or card_of(tiny), tiny.root, **options)}


def told(report: CaseReport, kind: str = "notes") -> str:
    return "\n".join(map(str, getattr(report, kind)))


def rows_of(report: CaseReport, number: int) -> dict[str, tuple[str, ...]]:
    return {row[0]: row[1:] for row in report.tables[number].rows}


# What is counted, and what is a fault --------------------------------------------------------------


def test_every_mark_is_counted(tiny: Tiny) -> None:
    write_marks(tiny)
    reports = check(tiny)
    report, label = reports["marks"], label_of("c0")
    assert (report.split, report.faults) == ("annotations", [])
    assert told(reports["c0"]) == ""
    assert report.labels == "3 points, 2 boxes, 1 scribbles, 1 partial, 1 labels"
    pixels = f"{label.size:,} pixels"
    assert rows_of(report, 0) == {
        "clicks": ("1", "1", "3", "0"),
        "scribbles": ("1", "1", f"{SIZE} pixels", ""),
        "boxes": ("1", "1", "2", "0"),
        "partial labels": ("1", f"{SLICES}", pixels, ""),
        "complete labels": ("1", f"{SLICES}", pixels, ""),
    }
    line = label[SIZE // 2, :, 0]
    counts = [np.bincount(one.ravel(), minlength=3) for one in (line, label)]
    disk = int((label == 1).sum())
    assert rows_of(report, 1) == {
        "background": ("1", f"{counts[0][0]}", "0", "0", f"{counts[1][0]:,}"),
        "disk": ("1", f"{counts[0][1]}", "1", f"{disk:,}", f"{disk:,}"),
        "ring": ("1", f"{counts[0][2]}", "1", "0", f"{counts[1][2]:,}"),
        "another class": ("0", "0", "0", f"{label.size - disk:,}", "0"),
    }
    assert reports["c0"].marked == "3 clicks, scribbles, 2 boxes, partial labels, complete labels"
    assert reports["c1"].marked == ""


def test_every_fault_is_listed_and_what_is_sound_is_counted(tiny: Tiny) -> None:
    folder = write_marks(tiny)
    table(
        folder / "points.csv",
        POINTS,
        *("c0,1,3,3,disk", "c0,1,99,3,disk", "c9,1,3,3,disk", "c0,1,4,4,liver"),
    )
    (folder / "strange.txt").write_text("")
    report = check(tiny)["marks"]
    assert len(report.faults) == 4
    text = told(report, "faults")
    for part in ("'strange.txt'", "row 99", "case 'c9' is not among", "no class 'liver'"):
        assert part in text
    assert rows_of(report, 0)["clicks"] == ("1", "1", "1", "0")


@pytest.mark.parametrize("split", ["test", "validate"])
def test_marks_on_cases_that_judge_are_faults(tiny: Tiny, split: str) -> None:
    folder = write_marks(tiny)
    table(folder / "points.csv", POINTS, "c0,1,3,3,disk", "c2,1,3,3,disk")
    card = card_of(tiny, f"splits={{adapt: [c0, c1], {split}: [c2]}}")
    (fault,) = check(tiny, card)["marks"].faults
    assert fault.what.startswith("case 'c2' may not be annotated")
    assert f"split {split!r}" in fault.what
    assert "leak into the score" in fault.what


def test_an_image_that_judges_under_another_name_is_a_fault(tiny: Tiny) -> None:
    write_marks(tiny, "c1")
    images = tiny.root / "t" / "images"
    (images / "c1.nii.gz").unlink()
    os.symlink(images / "c2.nii.gz", images / "c1.nii.gz")
    faults = check(tiny)["marks"].faults
    assert faults
    assert all("case 'c1' may not be annotated" in fault.what for fault in faults)


def test_training_and_check_refuse_the_same(tiny: Tiny, tmp_path: Path) -> None:
    """The message of the check is the one that would stop a run."""
    folder = write_marks(tiny)
    table(folder / "points.csv", POINTS, "c0,1,3,3,disk", "c2,1,3,3,disk")
    path = tiny.home / "target.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "annotations": "t/marks"}))
    (fault,) = check(tiny)["marks"].faults
    domains = Domains(tiny.load(), tmp_path / "run")
    with pytest.raises(UdaError) as stopped:
        domains.annotations(domains.target, "adapt")
    assert str(stopped.value) == str(fault)


def test_an_unreadable_image_is_its_own_fault_alone(tiny: Tiny) -> None:
    write_marks(tiny)
    (tiny.root / "t/images/c0.nii.gz").write_bytes(b"nothing")
    reports = check(tiny)
    assert len(reports["c0"].faults) == 1
    assert reports["marks"].faults == []


def test_a_folder_that_is_not_there_is_a_note_and_a_fault_if_it_was_given(tiny: Tiny) -> None:
    reports = check(tiny)
    assert "marks" not in reports
    assert "folder of annotations does not exist" in told(reports["target"])
    (fault,) = check(tiny, annotations=tiny.root / "elsewhere")["elsewhere"].faults
    assert "there is no such folder of annotations" in str(fault)


def test_a_folder_without_annotations_is_a_fault(tiny: Tiny) -> None:
    (tiny.root / "t" / "marks").mkdir()
    (fault,) = check(tiny)["marks"].faults
    assert fault.what == "nothing in the folder is an annotation"


def test_tags_in_the_folder_are_counted(tiny: Tiny) -> None:
    table(tiny.root / "t/marks/tags.csv", "case,slice,disk,ring", "c0,0,1,1", "c0,9,1,1")
    report = check(tiny)["marks"]
    assert rows_of(report, 0) == {"tags": ("1", "1", "1 images", "")}
    assert "a tag lies in slice 9" in told(report, "faults")


# What is worth a look ------------------------------------------------------------------------------


def test_a_click_that_contradicts_the_labels_is_a_note(tiny: Tiny) -> None:
    folder, label = write_marks(tiny), label_of("c0")
    row, column = np.argwhere(label[..., 1] == 2)[0]
    table(folder / "points.csv", POINTS, f"c0,1,{row},{column},disk")
    (first, second) = check(tiny)["c0"].notes
    assert first.what == (
        "complete labels and clicks contradict each other in 1 of 1 pixel that both name, "
        f"first in slice 1, row {row}, column {column}: ring and disk"
    )
    assert "clicks and partial labels contradict each other in 1 of 1 pixel" in second.what
    assert second.what.endswith("disk and another class")


def test_partial_labels_without_their_class_contradict_it(tiny: Tiny) -> None:
    """Nothing of the ring is drawn in a map that claims all of the ring."""
    folder, label = write_marks(tiny), label_of("c0")
    (folder / "partial_disk").rename(folder / "partial_disk_ring")
    (note,) = [n for n in check(tiny)["c0"].notes if n.what.startswith("complete")]
    ring = int((label == 2).sum())
    assert f"contradict each other in {ring} of {label.size} pixels" in note.what
    assert note.what.endswith("ring and another class")


def test_pixels_outside_their_boxes_are_a_note(tiny: Tiny) -> None:
    folder, label = write_marks(tiny), label_of("c0")
    inside = np.argwhere(label[..., 2] == 1)
    (row0, column0), (row1, column1) = inside.min(0), inside.max(0)
    table(folder / "boxes.csv", BOXES, f"c0,2,disk,{row0 + 1},{column0},{row1},{column1}")
    (note,) = check(tiny)["c0"].notes
    cut, ring = int((inside[:, 0] == row0).sum()), int((label[..., 2] == 2).sum())
    found = re.findall(r"(\d+) pixels? of (\w+) \(([a-z ]+)\)", note.what)
    assert found == [
        (f"{cut}", "disk", "complete labels"),
        (f"{ring}", "ring", "complete labels"),
        (f"{cut}", "disk", "partial labels"),
    ]
    assert f"first in slice 2, row {row0}, column" in note.what


def test_marks_outside_the_prepared_images_are_a_note(tiny: Tiny) -> None:
    folder = tiny.root / "t" / "marks"
    table(folder / "points.csv", POINTS, "c0,1,0,0,disk", "c0,1,16,16,disk", "c1,1,0,5,ring")
    scribble = np.zeros((SIZE, SIZE, SLICES), np.uint8)
    scribble[0, :, 3] = 10
    write_nifti(folder / "scribbles" / "c0.nii.gz", scribble)
    reports = check(tiny, card_of(tiny, "prepare.size=[16, 16]"))
    first, second = [n.what for n in reports["c0"].notes if "prepared images" in n.what]
    assert first == "1 of 2 clicks lie outside the prepared images"
    assert second == "no pixel of its scribbles lies inside the prepared images"
    assert "1 of 1 clicks" in told(reports["c1"])
    assert rows_of(reports["marks"], 0)["clicks"] == ("2", "2", "3", "2")


def test_what_nobody_marked_is_a_note(tiny: Tiny) -> None:
    folder = tiny.root / "t" / "marks"
    table(folder / "points.csv", POINTS, "c0,1,3,3,disk", "c0,2,3,3,disk", "c1,1,3,3,disk")
    text = told(check(tiny)["marks"])
    assert "no annotation marks background, ring" in text
    assert "of 2 annotated case(s), 1 are marked in a single slice: c1" in text
    table(folder / "boxes.csv", BOXES, "c1,0,ring,1,1,3,3")
    text = told(check(tiny)["marks"])  # what lies outside a box is background
    assert "no annotation marks" not in text
    assert "single slice" not in text


def test_marks_that_no_training_sees_are_a_note(tiny: Tiny) -> None:
    write_marks(tiny)
    card = card_of(tiny, "splits={adapt: [c1], later: [c0], test: [c2]}")
    text = told(check(tiny, card)["marks"])
    assert "of 1 annotated case(s), 1 are of neither adapt nor train: c0" in text


# Pictures ------------------------------------------------------------------------------------------


def close(pixels: np.ndarray, colour: tuple[int, int, int], far: float = 30) -> np.ndarray:
    return np.abs(pixels[..., :3].astype(float) - colour).max(-1) <= far


def extent(mask: np.ndarray) -> np.ndarray:
    """First and last row, first and last column."""
    rows, columns = np.nonzero(mask)
    return np.array([rows.min(), rows.max(), columns.min(), columns.max()])


def pictures(tiny: Tiny, out: Path, card: DatasetCard) -> tuple[Album, str]:
    album = Album(out, card)
    for report in check_card(card, tiny.root, pictures=True):
        album.add(report)
    return album, album.write().read_text(encoding="utf-8")


@pytest.mark.parametrize("orientation", ["RAS", "RSP", "stored"])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "AIL", "SRA"])
def test_clicks_and_boxes_lie_on_what_they_mark(
    tiny: Tiny, tmp_path: Path, orientation: str, codes: str
) -> None:
    """A box around a grey block and a click in its one bright corner, in a file of any orientation, with pixels of any
    shape."""
    image = np.zeros((24, 20, 16), np.int16)
    image[12:20, 4:12, 9:15] = 500
    image[12:15, 4:7, 9:12] = 1000
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    affine = np.diag([1.0, 1.5, 2.0, 1.0]) @ inv_ornt_aff(turn, image.shape)
    stored = apply_orientation(image, turn)
    write_nifti(tiny.root / "t/images/c0.nii.gz", stored, affine)
    (tiny.root / "t/labels/c0.nii.gz").unlink()
    changes = [f"prepare.orientation={orientation}", "prepare.size=[20, 20]", "tags="]
    card = card_of(tiny, *changes, "splits={adapt: [c0]}")
    grid = grids_of(cases_of(card, tiny.root, "adapt"), card)["c0"]
    slices = np.moveaxis(stored, grid.slice_axis, 0)
    slice_, row, column = np.median(np.argwhere(slices == 1000), axis=0).astype(int)
    block = np.argwhere(slices[slice_] > 0)
    (row0, column0), (row1, column1) = block.min(0), block.max(0)
    folder = tiny.root / "t" / "marks"
    table(folder / "boxes.csv", BOXES, f"c0,{slice_},disk,{row0},{column0},{row1},{column1}")
    table(folder / "points.csv", POINTS, f"c0,{slice_},{row},{column},ring")
    pictures(tiny, tmp_path / "page", card)
    pixels = (imread(tmp_path / "page" / "c0_marks.png") * 255).round()[30:]  # below the number
    grey = np.ptp(pixels[..., :3], axis=-1) < 10
    seen = [grey & (pixels[..., 0] > low) for low in (90, 200)]
    box, ring = (extent(close(pixels, colour, 60)) for colour in (MYO, (86, 180, 233)))
    np.testing.assert_allclose(box, extent(seen[0]), atol=8)
    middles = [(one[::2] + one[1::2]) / 2 for one in (ring, extent(seen[1]))]
    np.testing.assert_allclose(*middles, atol=4)


def test_a_picture_shows_the_slices_with_clicks_before_those_with_boxes(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_annotations, "SHOWN", 2)
    folder = tiny.root / "t" / "marks"
    table(folder / "boxes.csv", BOXES, *(f"c0,{s},disk,5,5,9,9" for s in range(SLICES)))
    table(folder / "points.csv", POINTS, "c0,1,7,7,disk")
    album, html = pictures(tiny, tmp_path / "page", card_of(tiny))
    assert [named for _, named in album.marks.values()] == ["slices 0, 1 (2 of 4 marked)"]
    assert imread(tmp_path / "page" / "c0_marks.png").shape[:2] == (SIDE, 2 * SIDE + GAP)
    assert "slices 0, 1 (2 of 4 marked) · 1 clicks, 4 boxes" in html
    assert "1 of 1 annotated cases" in html
    assert html.count("data:image/jpeg") == 4


def test_the_page_of_a_card_without_annotations_says_nothing_of_them(
    tiny: Tiny, tmp_path: Path
) -> None:
    _, html = pictures(tiny, tmp_path / "page", card_of(tiny, "annotations="))
    assert "nnotation" not in html
    assert not list((tmp_path / "page").glob("*marks*"))


def test_of_many_annotated_cases_a_choice_is_drawn(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_page, "DRAWN", 1)
    folder = write_marks(tiny)
    rows = [f"c1,{s},16,16,{name}" for s, name in ((0, "disk"), (1, "disk"), (2, "background"))]
    with (folder / "points.csv").open("a") as file:
        file.write("\n".join(rows) + "\n")
    _, html = pictures(tiny, tmp_path / "page", card_of(tiny))
    assert [p.name for p in (tmp_path / "page").glob("*_marks.png")] == ["c0_marks.png"]
    assert "1 of 2 annotated cases" in html


def test_slices_are_dropped_when_the_next_case_is_read(tiny: Tiny) -> None:
    write_marks(tiny)
    reports = []
    for report in check_card(card_of(tiny), tiny.root, pictures=True):
        assert all(one.marks is None and one.picture is None for one in reports)
        reports.append(report)
    assert sum(bool(report.marked) for report in reports) == 1


def drawn(**marks: Any) -> np.ndarray:
    """A dark slice of 40×40 pixels with these marks."""
    nothing = np.full((1, 40, 40), IGNORE, np.uint8)
    given = {"complete": nothing, "partial": nothing, "scribbles": nothing, "points": nothing}
    boxes = marks.pop("boxes", np.empty((0, 5), np.int64))
    picture = MarkedPicture(
        np.zeros((1, 40, 40, 3), np.uint8),
        **(given | marks),
        boxes=(boxes,),
        slices=(0,),
        marked=1,
        geometry=photo_geometry((40, 40), (40, 40)),
    )
    return draw_marks(picture, PHOTOS)


PHOTOS = DatasetCard.model_validate(
    {
        "name": "photos",
        "title": "photographs",
        "images": "{case}.png",
        "classes": ["road", "car", "sky"],
        "label_values": {"road": [0], "car": [1], "sky": [2]},
        "colors": {"road": [200, 200, 0], "car": [0, 200, 200], "sky": [20, 20, 200]},
        "prepare": {"kind": "photo", "size": [40, 40]},
    }
)
ROAD, CAR, SKY = (200, 200, 0), (0, 200, 200), (20, 20, 200)


def square(value: int, fill: int = IGNORE) -> np.ndarray:
    labels = np.full((1, 40, 40), fill, np.uint8)
    labels[0, 10:20, 10:30] = value
    return labels


def test_labels_are_tinted_and_outlined_and_partial_ones_dashed() -> None:
    whole, dashed = drawn(complete=square(1)), drawn(partial=square(1, OTHER))
    scale = SIDE / 40
    for pixels in (whole, dashed):
        seen = extent(close(pixels, CAR, 10))
        np.testing.assert_allclose(seen, np.array([10, 20, 10, 30]) * scale, atol=2)
        middle = pixels[round(15 * scale), round(20 * scale)]
        np.testing.assert_allclose(middle, [0, 50, 50], atol=2)
        assert (pixels[5] == 0).all()
    lines = [int(close(pixels, CAR, 10).sum()) for pixels in (whole, dashed)]
    assert 0.35 < lines[1] / lines[0] < 0.65


def test_scribbles_are_solid_and_wide_ones_show_the_image() -> None:
    labels = np.full((1, 40, 40), IGNORE, np.uint8)
    labels[0, 5] = 0
    pixels, scale = drawn(scribbles=labels), SIDE / 40
    assert close(pixels[round(5.5 * scale)], ROAD, 2).all()
    assert extent(close(pixels, ROAD))[:2] == pytest.approx([5 * scale, 6 * scale], abs=2)
    wide = drawn(scribbles=square(1))
    assert close(wide[round(10.2 * scale), round(20 * scale)][None], CAR, 2).all()
    np.testing.assert_allclose(wide[round(15 * scale), round(20 * scale)], [0, 50, 50], atol=2)


def test_dark_colours_have_a_light_halo() -> None:
    points = np.full((1, 40, 40), IGNORE, np.uint8)
    points[0, 20, 20] = 2
    assert close(drawn(points=points), WHITE).any()
    points[0, 20, 20] = 0
    assert not close(drawn(points=points), WHITE).any()


def test_every_click_has_a_ring_also_at_the_border() -> None:
    points = np.full((1, 40, 40), IGNORE, np.uint8)
    points[0, [0, 20, 39], [0, 5, 39]] = 1
    pixels, scale = drawn(points=points), SIDE / 40
    for row, column in ((0, 0), (20, 5), (39, 39)):
        y, x = round((row + 0.5) * scale), round((column + 0.5) * scale)
        assert close(pixels[y, x][None], CAR, 2).all()
        assert close(pixels[max(0, y - 8) : y + 8, max(0, x - 8) : x + 8], CAR, 40).sum() > 40


def test_a_box_that_reaches_beyond_the_image_has_no_side_there() -> None:
    pixels = drawn(boxes=np.array([[1, -5, 10, 20, 30]]))
    blue, scale = close(pixels, CAR, 10), SIDE / 40
    np.testing.assert_allclose(extent(blue), [0, 21 * scale, 10 * scale, 31 * scale], atol=3)
    assert not blue[0, round(15 * scale) : round(25 * scale)].any()


def test_colours_of_many_structures_differ(tiny: Tiny) -> None:
    card = card_of(tiny)
    assert mark_colours(card) == [WHITE, MYO, (86, 180, 233)]
    names = [f"s{k}" for k in range(12)]
    values = {name: (k,) for k, name in enumerate(names)}
    many = card.model_copy(update={"classes": tuple(names), "label_values": values})
    assert len(set(mark_colours(many))) == 12


# Photographs ---------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> tuple[DatasetCard, Path]:
    from PIL import Image

    for number in range(3):
        path = tmp_path / "data" / "images" / f"a{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 60, (50, 80, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    changes = ["images=images/{case}.png", "annotations=marks"]
    card = override(PHOTOS, [*changes, "splits={adapt: [a0, a1], test: [a2]}"])
    folder = tmp_path / "data" / "marks"
    table(folder / "points.csv", "case,row,column,class", "a0,10,20,car", "a0,40,60,road")
    table(folder / "boxes.csv", "case,class,row0,column0,row1,column1", "a1,car,5,5,20,30")
    return card, tmp_path / "data"


def test_photographs_are_checked_and_drawn(
    photos: tuple[DatasetCard, Path], tmp_path: Path
) -> None:
    card, root = photos
    album = Album(tmp_path / "page", card)
    for report in check_card(card, root, pictures=True):
        album.add(report)
    html = album.write().read_text()
    (report,) = [one for one in album.reports if one.split == "annotations"]
    assert report.faults == []
    assert rows_of(report, 0) == {"clicks": ("1", "1", "2", "0"), "boxes": ("1", "1", "1", "0")}
    assert rows_of(report, 1)["car"] == ("1", "1")
    assert "no annotation marks sky" in told(report)
    assert not any(one.notes for one in album.reports[:3])
    pixels = (imread(tmp_path / "page" / "a0_marks.png") * 255).round()
    scale = SIDE / 80
    assert pixels.shape[:2] == (round(50 * scale), SIDE)
    for row, column, colour in ((10.5, 20.5, CAR), (40.5, 60.5, ROAD)):
        assert close(pixels[round(row * scale), round(column * scale)][None], colour, 5).all()
    assert "2 of 2 annotated cases" in html
    assert re.search(r"a0</b> 50×80 · 2 clicks", html)


def test_a_click_outside_the_boxes_of_a_photograph_is_named_by_row_and_column(
    photos: tuple[DatasetCard, Path],
) -> None:
    card, root = photos
    with (root / "marks" / "points.csv").open("a") as file:
        file.write("a1,40,60,road\n")
    reports = {report.case: report for report in check_card(card, root)}
    (note,) = reports["a1"].notes
    assert note.what == (
        "outside every box of their class lie 1 pixel of road (clicks), first in row 40, column 60"
    )


def test_a_photograph_that_judges_may_not_be_annotated(photos: tuple[DatasetCard, Path]) -> None:
    card, root = photos
    with (root / "marks" / "points.csv").open("a") as file:
        file.write("a2,10,20,car\n")
    (fault,) = [fault for one in check_card(card, root) for fault in one.faults]
    assert "case 'a2' may not be annotated" in str(fault)


# The command ---------------------------------------------------------------------------------------


@pytest.fixture
def model(tiny: Tiny, tmp_path: Path) -> Path:
    network, card = Network(channels=(4, 8), res_units=1), card_of(tiny)
    info = ModelInfo(network, card.classes, card.prepare, ("source_labels",))
    save_model(tmp_path / "model.safetensors", build(network, len(CLASSES), 1), info)
    return tmp_path / "model.safetensors"


def class_indices(folder: Path) -> None:
    """Labels of the folder with indices, as without a card."""
    import nibabel

    for path in folder.rglob("*.nii.gz"):
        array = np.asarray(nibabel.load(path).dataobj)
        write_nifti(path, np.where(array == 255, 255, array // 10).astype(np.uint8))


def test_a_model_and_images_need_no_card(tiny: Tiny, model: Path, tmp_path: Path) -> None:
    folder, out = write_marks(tiny), tmp_path / "page"
    class_indices(folder)
    words = ["--model", model, "--target", tiny.root / "t/images", "--annotations", folder]
    code, output = run(*words, "--out", out)
    assert (code, "no faults" in output) == (0, True), output
    assert "complete labels" in output
    assert (out / "c0_marks.png").is_file()
    assert "1 of 1 annotated cases" in (out / "index.html").read_text()
    with (folder / "points.csv").open("a") as file:
        file.write("c9,1,3,3,disk\n")
    code, output = run(*words)
    assert code == 2
    assert "case 'c9' is not among the target's cases" in output


def test_images_of_a_model_are_checked_without_annotations(tiny: Tiny, model: Path) -> None:
    (tiny.root / "t/images/c1.nii.gz").write_bytes(b"nothing")
    card = card_of(tiny)
    reports = list(check_images(card, cases_in(tiny.root / "t/images")))
    assert [(one.case, one.split, bool(one.faults)) for one in reports[:3]] == [
        ("c0", "adapt", False),
        ("c1", "adapt", True),
        ("c2", "adapt", False),
    ]
    assert not any(one.split == "annotations" for one in reports)
    assert run("--model", model, "--target", tiny.root / "t/images")[0] == 2


def test_annotations_of_the_command_go_before_those_of_the_card(tiny: Tiny, tmp_path: Path) -> None:
    other = tmp_path / "other"
    table(other / "points.csv", POINTS, "c0,1,3,3,disk", "c0,1,5,5,ring", "c0,2,1,1,background")
    code, output = run(
        tiny.home / "target.yaml",
        "--root",
        tiny.root,
        "--annotations",
        other,
        "--out",
        tmp_path / "p",
    )
    assert (code, "3 points" in output) == (0, True), output
    assert (tmp_path / "p" / "c0_marks.png").is_file()


def test_a_page_may_not_lie_among_the_annotations(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    table(folder / "points.csv", POINTS, "c0,1,3,3,disk")
    words = [tiny.home / "target.yaml", "--root", tiny.root, "--annotations", folder]
    code, output = run(*words, "--out", folder / "page")
    assert code == 2
    assert "lies in the folder of an input" in output


def test_a_picture_of_somebody_else_is_not_replaced(tiny: Tiny, tmp_path: Path) -> None:
    folder, out = tmp_path / "other", tmp_path / "page"
    table(folder / "points.csv", POINTS, "c0,1,3,3,disk")
    out.mkdir()
    (out / "c0_marks.png").write_bytes(b"mine")
    words = [tiny.home / "target.yaml", "--root", tiny.root, "--out", out]
    assert run(*words)[0] == 0
    code, output = run(*words, "--annotations", folder)
    assert (code, "not written by uda" in output) == (2, True), output
    assert (out / "c0_marks.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["card", "--model", "m", "--target", "t"],
        ["--model", "m"],
        ["card", "--target", "t"],
        ["--model", "m", "--target", "t", "--root", "r"],
        ["--from-nnunet", "f", "--annotations", "a"],
    ],
)
def test_options_that_do_not_go_together_are_refused(words: list[str]) -> None:
    code, output = run(*words)
    assert code == 2
    assert "Invalid value" in output
