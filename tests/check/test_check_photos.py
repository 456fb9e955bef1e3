"""Checking photographs: every file is read once, only counts are kept, target labels stay closed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from PIL import Image

from uda.check import photos as check_photos
from uda.check.findings import CaseReport, PhotoPicture, PhotoSummary
from uda.check.layout import layout_of
from uda.check.page import OPAQUE, Album
from uda.check.photos import PhotoCheck
from uda.check.volumes import check_card
from uda.config.card import DatasetCard
from uda.config.loading import load_card, override
from uda.data.image_files import read_file
from uda.errors import DataError, RunError

ROWS, COLUMNS = 32, 64
CLASSES = load_card("cityscapes").classes
CITIES = {"train": "aachen", "val": "lindau"}


def paint(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def photo(number: int, shape: tuple[int, int] = (ROWS, COLUMNS)) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*shape, 3), dtype=np.uint8)


def ids(sky: int = 8) -> np.ndarray:
    """Label ids: road, ``sky`` rows of sky, a last row of unlabelled."""
    label = np.full((ROWS, COLUMNS), 7, np.uint8)
    label[:sky], label[-1] = 23, 0
    return label


def image_path(root: Path, split: str, number: int) -> Path:
    name = f"{CITIES[split]}_{number:06d}_000019_leftImg8bit.png"
    return root / "cityscapes/leftImg8bit" / split / CITIES[split] / name


def label_path(root: Path, split: str, number: int, form: str = "labelIds") -> Path:
    name = f"{CITIES[split]}_{number:06d}_000019_gtFine_{form}.png"
    return root / "cityscapes/gtFine" / split / CITIES[split] / name


def case_of(split: str, number: int) -> str:
    return f"{split}/{CITIES[split]}_{number:06d}_000019"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three images to adapt to and two to test, in the folders of Cityscapes."""
    for split, first, count in (("train", 0, 3), ("val", 10, 2)):
        for number in range(first, first + count):
            paint(image_path(tmp_path, split, number), photo(number))
            paint(label_path(tmp_path, split, number), ids())
    return tmp_path


def city(*changes: str) -> DatasetCard:
    return override(load_card("cityscapes"), [f"prepare.size=[{ROWS}, {COLUMNS}]", *changes])


def gta(*changes: str) -> DatasetCard:
    return override(load_card("gta5"), [f"prepare.size=[{ROWS}, {COLUMNS}]", *changes])


def check(card: DatasetCard, root: Path) -> tuple[dict[str, CaseReport], PhotoSummary]:
    reports = {report.case: report for report in check_card(card, root)}
    whole = reports[card.name]
    assert whole.summary is not None
    return reports, whole.summary


def text_of(reports: dict[str, CaseReport], kind: str) -> str:
    return "\n".join(str(finding) for r in reports.values() for finding in getattr(r, kind))


def write_gta(root: Path, count: int = 2) -> Path:
    for number in range(count):
        paint(root / f"gta5/images/{number:05d}.png", photo(number))
        paint(root / f"gta5/labels/{number:05d}.png", ids())
    return root


def test_a_sound_data_set_is_counted_to_the_pixel(root: Path) -> None:
    paint(label_path(root, "val", 11), ids(sky=4))
    reports, summary = check(city(), root)
    assert text_of(reports, "faults") == ""
    assert [r.split for r in reports.values()] == ["adapt"] * 3 + ["test"] * 2 + ["data set"]
    assert summary.labels == 2
    assert summary.pixels["sky"] == 12 * COLUMNS
    assert summary.pixels["road"] == (2 * ROWS - 12 - 2) * COLUMNS
    assert summary.pixels["ignore"] == 2 * COLUMNS
    assert summary.pixels.total() == 2 * ROWS * COLUMNS
    assert (summary.showing["sky"], summary.showing["car"]) == (2, 0)
    adapt, test = summary.splits["adapt"], summary.splits["test"]
    assert (adapt.images, test.images) == (3, 2)
    assert adapt.sizes == {f"{ROWS}×{COLUMNS}": 3}
    assert adapt.kinds == {"PNG RGB 8 bit": 3}
    assert (dict(adapt.forms), dict(test.forms)) == ({}, {"ids": 2})


def test_the_tables_show_splits_and_every_class_with_its_share(root: Path) -> None:
    _, summary = check(city(), root)
    splits, classes = summary.tables()
    assert splits.rows[0] == (
        "adapt",
        "3",
        "0",
        "0",
        "32×64 (3)",
        "PNG RGB 8 bit (3)",
        "not opened",
    )
    assert [row[0] for row in classes.rows] == [*CLASSES, "ignore"]
    assert classes.rows[0] == ("road", "2", f"{2 * 23 * COLUMNS:,}", f"{100 * 23 / ROWS:.3f}")
    assert classes.rows[11][1:] == ("0", "0", "0.000")


def test_labels_of_images_to_adapt_to_are_never_opened(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be damaged, of another size, or gone."""
    label_path(root, "train", 0).write_bytes(b"no label")
    paint(label_path(root, "train", 1), ids()[:-3])
    label_path(root, "train", 2).unlink()
    opened: list[Path] = []

    def watched(path: Path) -> object:
        opened.append(path)
        return read_file(path)

    monkeypatch.setattr(check_photos, "read_file", watched)
    reports, summary = check(city(), root)
    assert text_of(reports, "faults") == ""
    assert summary.splits["adapt"].forms == {}
    assert not any("gtFine/train" in str(path) for path in opened)
    assert sum("gtFine/val" in str(path) for path in opened) == 2
    label_path(root, "val", 10).write_bytes(b"no label")
    assert str(label_path(root, "val", 10)) in text_of(check(city(), root)[0], "faults")


def test_an_image_of_two_splits_has_its_label_opened(root: Path) -> None:
    label_path(root, "train", 0).write_bytes(b"no label")
    card = city(f"splits={{adapt: ['train/*'], train: ['{case_of('train', 0)}']}}")
    reports, _ = check(card, root)
    assert reports[case_of("train", 0)].split == "adapt, train"
    assert "is neither PNG nor JPEG" in text_of(reports, "faults")


@pytest.mark.parametrize(
    ("form", "make"),
    [
        ("ids", lambda label: Image.fromarray(label)),
        ("ids in a palette", lambda label: Image.fromarray(label).convert("P")),
        ("train ids", lambda label: Image.fromarray(np.full_like(label, 255))),
        ("colour", lambda label: Image.fromarray(np.zeros((*label.shape, 3), np.uint8))),
    ],
)
def test_the_form_of_a_label_is_reported(tmp_path: Path, form: str, make: object) -> None:
    write_gta(tmp_path, count=1)
    assert callable(make)
    path = tmp_path / "gta5/labels/00000.png"
    path.unlink()
    name = "00000_labelTrainIds.png" if form == "train ids" else path.name
    image = make(ids())
    if form == "ids in a palette":
        image.putdata(ids().ravel().tolist())
    image.save(path.with_name(name))
    reports, summary = check(gta(), tmp_path)
    assert text_of(reports, "faults") == ""
    assert summary.splits["train"].forms == {form: 1}


def test_16_bit_labels_are_reported(tmp_path: Path) -> None:
    import cv2

    paint(tmp_path / "synthia/RGB/1.png", photo(0))
    label = np.zeros((ROWS, COLUMNS, 3), np.uint16)
    label[..., 2] = 3
    path = tmp_path / "synthia/GT/LABELS/1.png"
    path.parent.mkdir(parents=True)
    cv2.imwrite(str(path), label)
    _, summary = check(load_card("synthia"), tmp_path)
    assert summary.splits["train"].forms == {"16-bit ids": 1}
    assert summary.pixels["road"] == ROWS * COLUMNS


def test_a_label_in_two_forms_is_read_once_and_neither_is_stray(tmp_path: Path) -> None:
    write_gta(tmp_path)
    paint(tmp_path / "gta5/labels/00001_labelTrainIds.png", np.zeros((ROWS, COLUMNS), np.uint8))
    reports, summary = check(gta(), tmp_path)
    assert text_of(reports, "faults") == ""
    assert "have no image" not in text_of(reports, "notes")
    assert summary.splits["train"].forms == {"ids": 2}


def test_a_label_without_its_image_is_a_note_in_every_folder(root: Path) -> None:
    image_path(root, "val", 11).unlink()
    reports, _ = check(city(), root)
    name = label_path(root, "val", 11).name
    assert f"1 labels have no image: {name}" in text_of(reports, "notes")


def test_values_without_a_class_are_summed_over_files(tmp_path: Path) -> None:
    write_gta(tmp_path, count=3)
    for number, pixels in ((0, 5), (2, 9)):
        label = ids()
        label[0, :pixels] = 200
        label[1, 0] = 99 if number else 7
        paint(tmp_path / f"gta5/labels/{number:05d}.png", label)
    painted = np.zeros((ROWS, COLUMNS, 3), np.uint8)
    painted[0, :3] = (1, 2, 3)
    paint(tmp_path / "gta5/labels/00001.png", painted)
    _, summary = check(gta(), tmp_path)
    assert summary.tables()[-1].rows == (
        ("200", "2", "14"),
        ("(1, 2, 3)", "1", "3"),
        ("99", "1", "1"),
    )
    assert summary.splits["train"].faulty == 3


def test_class_indices_out_of_range_are_summed_as_such(tmp_path: Path) -> None:
    write_gta(tmp_path, count=1)
    (tmp_path / "gta5/labels/00000.png").unlink()
    label = np.zeros((ROWS, COLUMNS), np.uint8)
    label[0, :2], label[1, :3] = 19, 255
    paint(tmp_path / "gta5/labels/00000_labelTrainIds.png", label)
    _, summary = check(gta(), tmp_path)
    assert dict(summary.strange) == {"19": 2}


def test_classes_that_no_label_shows_are_one_note(root: Path) -> None:
    notes = text_of(check(city(), root)[0], "notes")
    assert "no pixel of sidewalk, building, wall" in notes
    assert "in 2 labels" in notes
    assert "road" not in notes.split("in 2 labels")[0]


def test_images_in_other_proportions_than_the_prepared_size_are_a_note(root: Path) -> None:
    paint(image_path(root, "train", 1), photo(1, (48, 64)))
    paint(image_path(root, "train", 2), photo(2, (32, 66)))
    notes = text_of(check(city(), root)[0], "notes")
    assert "1 images change their proportions" in notes
    assert "48×64 (1)" in notes
    assert "prepare.size: [32, 43]" in notes
    assert "32×66" not in notes


def test_equal_photographs_are_a_note_and_between_training_and_test_a_fault(root: Path) -> None:
    same = image_path(root, "train", 0).read_bytes()
    image_path(root, "train", 2).write_bytes(same)
    reports, _ = check(city(), root)
    equal = "2 photographs are equal to the last pixel"
    assert f"{equal}: {case_of('train', 0)} (adapt), {case_of('train', 2)} (adapt)" in text_of(
        reports, "notes"
    )
    assert text_of(reports, "faults") == ""
    image_path(root, "train", 2).unlink()
    image_path(root, "val", 10).write_bytes(same)
    assert equal in text_of(check(city(), root)[0], "notes")
    split = city("splits={train: ['train/*'], test: ['val/*']}")
    assert equal in text_of(check(split, root)[0], "faults")


def test_the_same_pixels_in_another_file_are_equal(root: Path) -> None:
    pixels = np.array(Image.open(image_path(root, "train", 0)))
    Image.fromarray(pixels).save(image_path(root, "train", 1), compress_level=1)
    assert "equal to the last pixel" in text_of(check(city(), root)[0], "notes")


def test_two_images_of_one_name_in_a_split_are_a_fault(root: Path) -> None:
    there = root / "cityscapes/leftImg8bit/extra/aachen" / image_path(root, "train", 0).name
    paint(there, photo(99))
    card = city("splits={adapt: ['train/*', 'extra/*']}")
    text = text_of(check(card, root)[0], "faults")
    assert "two images of split 'adapt' are called 'aachen_000000_000019'" in text


def test_a_test_image_is_never_left_out(root: Path) -> None:
    """``skip`` affects training alone: over fewer images, scores would not be comparable."""
    card = city("skip=[unreadable]")
    for split, number in (("train", 0), ("val", 10)):
        path = image_path(root, split, number)
        path.write_bytes(path.read_bytes()[:-30])
    reports, summary = check(card, root)
    assert "left out" in str(reports[case_of("train", 0)].notes[0])
    assert reports[case_of("train", 0)].faults == []
    assert "is cut short" in str(reports[case_of("val", 10)].faults[0])
    assert (summary.splits["adapt"].left_out, summary.splits["test"].left_out) == (1, 0)


def test_any_number_of_threads_reports_the_same_in_the_same_order(root: Path) -> None:
    image_path(root, "train", 1).write_bytes(b"")
    card = city()
    folder = root / "cityscapes"

    def checked(workers: int) -> tuple[list[tuple[str, str]], PhotoSummary]:
        work = PhotoCheck(card, layout_of(card, folder), False, workers)
        cases = [(r.case, str(r.faults)) for r in work.reports()]
        return cases, work.summary

    (first, one), (second, four) = checked(1), checked(4)
    assert [case for case, _ in first] == [case for case, _ in second]
    assert one == four


def test_what_is_no_fault_of_a_file_is_not_hidden(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path) -> object:
        raise ZeroDivisionError(path.name)

    monkeypatch.setattr(check_photos, "read_photo", broken)
    with pytest.raises(RunError, match="ZeroDivisionError"):
        list(check_card(city(), root))


def test_tags_of_photographs_name_every_class(root: Path) -> None:
    lines = [f"{case_of('train', n)},0{',1' * len(CLASSES)}" for n in (0, 1)]
    (root / "cityscapes/tags.csv").write_text(
        f"case,slice,{','.join(CLASSES)}\n" + "\n".join(lines) + "\n"
    )
    text = text_of(check(city("tags=tags.csv"), root)[0], "faults")
    assert f"tags miss images: 1, e.g. {case_of('train', 2)} slice 0" in text


# The pictures and the page -----------------------------------------------------------------------


def pictures(card: DatasetCard, root: Path) -> dict[str, PhotoPicture | None]:
    found = {}
    for report in check_card(card, root, pictures=True):
        assert report.picture is None or isinstance(report.picture, PhotoPicture)
        found[report.case] = report.picture
    return found


def test_few_photographs_are_drawn_and_those_with_a_finding(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_photos, "DRAWN", 1)
    monkeypatch.setattr(check_photos, "FAULTY_DRAWN", 1)
    for number in (12, 13):
        paint(image_path(root, "val", number), photo(number))
        paint(label_path(root, "val", number), ids()[:-2])
    found = pictures(city(), root)
    drawn = [name for name, picture in found.items() if picture is not None]
    assert drawn == [case_of("train", 0), case_of("val", 10), case_of("val", 12)]
    to_adapt, to_test = found[case_of("train", 0)], found[case_of("val", 10)]
    assert to_adapt is not None
    assert to_test is not None
    assert to_adapt.classes is None
    assert np.array_equal(to_adapt.image, photo(0))
    assert to_test.classes is not None
    assert to_test.classes[0, 0] == CLASSES.index("sky")


def test_no_picture_is_held_once_the_next_case_is_asked_for(root: Path) -> None:
    reports = list(check_card(city(), root, pictures=True))
    assert all(report.picture is None for report in reports)


def test_large_photographs_are_drawn_small_with_their_labels_in_place(root: Path) -> None:
    shape = (400, 1300)
    paint(image_path(root, "val", 10), photo(0, shape))
    label = np.full(shape, 7, np.uint8)
    label[:200] = 23
    paint(label_path(root, "val", 10), label)
    picture = pictures(city(), root)[case_of("val", 10)]
    assert picture is not None
    assert picture.classes is not None
    assert picture.image.shape == (197, 640, 3)
    assert picture.classes.shape == (197, 640)
    assert (picture.classes[:98] == CLASSES.index("sky")).all()
    assert (picture.classes[99:] == CLASSES.index("road")).all()


def test_the_page_shows_official_colours_beside_the_raw_picture(root: Path, tmp_path: Path) -> None:
    image_path(root, "train", 1).write_bytes(b"")
    album = Album(tmp_path / "page", city())
    for report in check_card(city(), root, pictures=True):
        album.add(report)
    html = album.write().read_text(encoding="utf-8")
    pixels = imread(tmp_path / f"page/{case_of('val', 10).replace('/', '_')}.png")[..., :3] * 255
    assert pixels.shape[0] == ROWS
    assert pixels.shape[1] > 2 * COLUMNS
    raw = photo(10).astype(float)
    assert np.abs(pixels[:, :COLUMNS] - raw).max() < 1
    shades = np.array([(70, 130, 180), (128, 64, 128), (0, 0, 0)])
    which = np.select([ids() == 23, ids() == 7], [0, 1], 2)
    mixed = (1 - OPAQUE) * raw + OPAQUE * shades[which]
    assert np.abs(pixels[:, -COLUMNS:] - mixed).max() <= 1
    alone = imread(tmp_path / f"page/{case_of('train', 0).replace('/', '_')}.png")
    assert alone.shape[:2] == (ROWS, COLUMNS)
    assert len(re.findall(r"src='data:image/jpeg;base64,", html)) == 4
    assert "://" not in html
    for words in ("1 fault(s)", "rgb(128, 64, 128)", "traffic_light", "not opened", "is empty"):
        assert words in html


def test_a_missing_root_is_refused_before_any_thread(root: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder of data"):
        list(check_card(city(), root / "nowhere"))
