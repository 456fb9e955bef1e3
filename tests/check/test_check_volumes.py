"""Checking a data set: every case is read as in training, every fault reported, no file changed."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import typer
import yaml
from conftest import SIZE, SLICES, Tiny, make_case, write_nifti
from nifti_bytes import STRAIGHT, nifti
from typer.testing import CliRunner

from uda.check.findings import CaseReport
from uda.check.volumes import check_card
from uda.cli.check import check as check_verb
from uda.config.card import DatasetCard
from uda.config.loading import load_card, override
from uda.data.records import write_npz, write_records
from uda.data.synthetic.phantom.dataset import write_phantom
from uda.errors import DataError, UdaError

APP = typer.Typer()
APP.command()(check_verb)


def target(tiny: Tiny) -> DatasetCard:
    return load_card(str(tiny.home / "target.yaml"))


def check(tiny: Tiny, card: DatasetCard | None = None) -> dict[str, CaseReport]:
    return {report.case: report for report in check_card(card or target(tiny), tiny.root)}


def texts(report: CaseReport) -> str:
    return "\n".join(map(str, report.faults))


def remarks(report: CaseReport) -> str:
    return "\n".join(map(str, report.notes))


def run(*words: object) -> tuple[int, str]:
    """Exit code of ``uda check …`` and its output."""
    result = CliRunner().invoke(APP, [str(word) for word in words])
    if isinstance(result.exception, UdaError):
        return result.exception.exit_code, f"{result.output}{result.exception}"
    return result.exit_code, result.output


def test_a_sound_data_set_has_no_fault_and_is_described(tiny: Tiny) -> None:
    reports = check(tiny)
    assert list(reports) == ["c0", "c1", "c2", "tags.csv"]
    assert not any(report.faults for report in reports.values())
    first = reports["c0"]
    assert (first.split, first.shape, first.spacing, first.axes) == (
        "adapt",
        f"{SIZE}×{SIZE}×{SLICES}",
        "1.5×1.5×4",
        "RAS",
    )
    raw = nibabel.load(tiny.root / "t/labels/c0.nii.gz").get_fdata()
    assert first.labels == f"disk {(raw == 10).sum()}, ring {(raw == 20).sum()}"
    assert f"20 ring: {(raw == 20).sum()}" in first.values
    assert first.stored == "int16"
    assert first.prepared == f"{SLICES}×{SIZE}×{SIZE} at 4×1.5×1.5"
    assert first.kept == "disk 100 %, ring 100 %"
    assert not any(report.notes for report in reports.values())
    assert reports["tags.csv"].labels == f"{2 * SLICES} images"


def test_intensities_are_percentiles_of_the_file(tiny: Tiny) -> None:
    values = np.arange(SIZE * SIZE * SLICES, dtype=np.int16).reshape(SIZE, SIZE, SLICES)
    write_nifti(tiny.root / "t/images/c0.nii.gz", values)
    low, middle, high = np.percentile(values, (1, 50, 99))
    assert check(tiny)["c0"].intensity == f"{low:.4g} / {middle:.4g} / {high:.4g}"


def test_every_fault_of_every_case_is_reported_at_once(tiny: Tiny) -> None:
    images, labels = tiny.root / "t/images", tiny.root / "t/labels"
    content = (images / "c0.nii.gz").read_bytes()
    (images / "c0.nii.gz").write_bytes(content[: len(content) // 2])
    write_nifti(labels / "c1.nii.gz", np.full((SIZE, SIZE, SLICES), 33, np.uint8))
    (images / "c2.nii.gz").unlink()
    (tiny.root / "t/tags.csv").write_text("case,slice,disk,ring\nc1,0,1,1\nc9,0,1,1\n")
    reports = check(tiny)
    assert "cannot be read as NIfTI" in texts(reports["c0"])
    assert str(images / "c0.nii.gz") in texts(reports["c0"])
    assert f"33 ({SIZE * SIZE * SLICES} voxels)" in texts(reports["c1"])
    assert str(labels / "c1.nii.gz") in texts(reports["c1"])
    assert "there is no such file" in texts(reports["c2"])
    assert "name images that do not exist: 1, e.g. c9 slice 0" in texts(reports["tags.csv"])
    assert "miss images: 3, e.g. c1 slice 1, c1 slice 2" in texts(reports["tags.csv"])


def test_a_label_that_is_not_there_is_no_fault(tiny: Tiny) -> None:
    (tiny.root / "t/labels/c0.nii.gz").unlink()
    report = check(tiny)["c0"]
    assert report.faults == []
    assert report.labels == ""


def test_a_label_on_another_grid_is_a_fault(tiny: Tiny) -> None:
    shifted = np.diag([1.5, 1.5, 4.0, 1.0])
    shifted[0, 3] = 0.1
    path = tiny.root / "t/labels/c1.nii.gz"
    write_nifti(path, np.zeros((SIZE, SIZE, SLICES), np.uint8), shifted)
    text = texts(check(tiny)["c1"])
    assert "differs from the image's by up to 0.1 mm" in text
    assert str(path) in text


def test_tags_that_are_not_there_are_a_note(tiny: Tiny) -> None:
    (tiny.root / "t/tags.csv").unlink()
    report = check(tiny)["tags.csv"]
    assert report.faults == []
    assert "uda tags" in str(report.notes[0])


def test_tags_count_slices_along_the_files_own_axis(tiny: Tiny) -> None:
    """Slices of a file stored from head to foot keep the file's own numbers."""
    image = np.random.default_rng(0).integers(0, 100, (SIZE, SIZE, SLICES)).astype(np.int16)
    flipped = np.diag([1.5, 1.5, -4.0, 1.0])
    write_nifti(tiny.root / "t/images/c0.nii.gz", image, flipped)
    (tiny.root / "t/labels/c0.nii.gz").unlink()
    assert check(tiny)["tags.csv"].faults == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("case,slice,disk\nc0,0,1\n", "tags have columns"),
        ("case,slice,disk,ring\nc0,0,1,2\n", "line 2"),
    ],
)
def test_tags_that_cannot_be_read_are_a_fault(tiny: Tiny, content: str, expected: str) -> None:
    (tiny.root / "t/tags.csv").write_text(content)
    assert expected in texts(check(tiny)["tags.csv"])


def test_an_image_that_looks_like_a_label_map_is_a_note(tiny: Tiny) -> None:
    write_nifti(tiny.root / "t/images/c1.nii.gz", make_case(1, True)[1])
    reports = check(tiny)
    assert "few whole values" in remarks(reports["c1"])
    assert not any("few whole" in remarks(reports[name]) for name in ("c0", "c2"))


def test_an_image_that_is_the_label_of_another_case_is_a_fault(tiny: Tiny) -> None:
    card = target(tiny).model_copy(
        update={"images": ("t/images/{case}.nii.gz",), "labels": ("t/images/{case}_lv.nii.gz",)}
    )
    write_nifti(tiny.root / "t/images/c1_lv.nii.gz", make_case(1, True)[1] * np.uint8(10))
    reports = check(tiny, card.model_copy(update={"splits": {"test": ("*",)}}))
    assert "label of case 'c1'" in "\n".join(map(texts, reports.values()))


def test_a_missing_root_is_refused(tiny: Tiny) -> None:
    with pytest.raises(DataError, match="there is no such folder of data"):
        list(check_card(target(tiny), tiny.root / "elsewhere"))


def test_a_card_without_cases_is_refused(tiny: Tiny) -> None:
    empty = override(target(tiny), ["splits={adapt: []}"])
    with pytest.raises(DataError, match="names no case"):
        list(check_card(empty, tiny.root))


def test_checking_writes_nothing(tiny: Tiny) -> None:
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tiny.root.rglob("*") if path.is_file()}

    before = files()
    check(tiny)
    assert files() == before


# Who is in which split, and which files there are ------------------------------------------------


def test_a_case_of_two_splits_is_read_once(tiny: Tiny) -> None:
    card = override(target(tiny), ["splits={train: [c0], adapt: [c0, c1], test: [c2]}"])
    reports = check(tiny, card)
    assert [r.split for r in reports.values()][:3] == ["train, adapt", "adapt", "test"]
    assert "data set" not in [r.split for r in reports.values()]


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [("train", "validate", "fault"), ("train", "test", "fault"), ("adapt", "test", "note")],
)
def test_splits_that_share_a_case_are_reported(
    tiny: Tiny, first: str, second: str, kind: str
) -> None:
    card = override(target(tiny), [f"splits={{{first}: [c0, c1], {second}: [c1]}}"])
    whole = check(tiny, card)["target"]
    found = texts(whole) if kind == "fault" else remarks(whole)
    assert f"1 cases are in both {first} and {second}: c1" in found
    assert bool(whole.faults) == (kind == "fault")


def test_an_image_without_its_label_is_a_fault_where_others_have_one(tiny: Tiny) -> None:
    card = override(target(tiny), ["splits={test: [c0, c1]}"])
    gone = tiny.root / "t/labels/c0.nii.gz"
    gone.unlink()
    reports = check(tiny, card)
    assert "case 'c0' of split 'test' has an image but no label" in texts(reports["c0"])
    assert str(gone) in texts(reports["c0"])
    assert reports["c1"].faults == []


def test_a_split_without_any_label_is_a_note(tiny: Tiny) -> None:
    (tiny.root / "t/labels/c2.nii.gz").unlink()
    reports = check(tiny)
    assert reports["c2"].faults == []
    assert "no case of split 'test' has a label" in remarks(reports["target"])


@pytest.mark.parametrize("split", ["train", "validate"])
def test_a_split_to_train_on_without_any_label_is_a_fault(tiny: Tiny, split: str) -> None:
    for name in ("c0", "c1"):
        (tiny.root / f"t/labels/{name}.nii.gz").unlink()
    card = override(target(tiny), [f"splits={{{split}: [c0, c1], test: [c2]}}"])
    assert f"no case of split '{split}' has a label" in texts(check(tiny, card)["target"])


def test_an_empty_split_is_a_fault_and_the_others_are_read(tiny: Tiny) -> None:
    card = override(target(tiny), ["splits={adapt: [c0, c1], test: []}"])
    reports = check(tiny, card)
    assert list(reports) == ["c0", "c1", "tags.csv", "target"]
    assert "split 'test' is empty" in texts(reports["target"])
    assert "card 'target', splits" in texts(reports["target"])


def test_a_label_without_an_image_is_a_note(tiny: Tiny) -> None:
    write_nifti(tiny.root / "t/labels/c7.nii.gz", np.zeros((2, 2, 2), np.uint8))
    whole = check(tiny)["target"]
    assert whole.faults == []
    assert "1 labels have no image: c7.nii.gz" in remarks(whole)


def test_images_beside_their_labels_are_no_labels_without_an_image(tiny: Tiny) -> None:
    for name in ("c0", "c1"):
        image, label = make_case(0, inverted=True)
        write_nifti(tiny.root / f"flat/{name}_0000.nii.gz", image)
        write_nifti(tiny.root / f"flat/{name}.nii.gz", label * np.uint8(10))
    places = ["images=flat/{case}_0000.nii.gz", "labels=flat/{case}.nii.gz", "tags=null"]
    card = override(target(tiny), [*places, "splits={train: [c0, c1]}"])
    assert list(check(tiny, card)) == ["c0", "c1"]


def test_one_case_in_two_layouts_is_a_fault(tiny: Tiny) -> None:
    here = tiny.root / "t/images/c0.nii.gz"
    there = tiny.root / "flat_c0.nii.gz"
    there.write_bytes(here.read_bytes())
    patterns = "images=['t/images/{case}.nii.gz', 'flat_{case}.nii.gz']"
    text = texts(check(tiny, override(target(tiny), [patterns]))["c0"])
    assert "2 files claim to be case 'c0'" in text
    assert str(here) in text
    assert str(there) in text


def test_a_wildcard_that_matches_nothing_is_reported_and_the_others_are_read(tiny: Tiny) -> None:
    card = override(target(tiny), ["splits={adapt: ['c*'], test: ['x*', c2]}"])
    reports = check(tiny, card)
    assert list(reports) == ["c0", "c1", "c2", "tags.csv", "target"]
    assert reports["c2"].split == "adapt, test"
    assert "'test': x*" in texts(reports["target"])


def test_a_case_that_is_not_there_names_every_place_looked_at(tiny: Tiny) -> None:
    card = override(
        target(tiny), ["splits={adapt: [c9]}", "images=['a/{case}.nii.gz', 'b/{case}.nii']"]
    )
    text = texts(check(tiny, card)["c9"])
    assert "case 'c9' of card 'target': there is no such file" in text
    assert "a/c9.nii.gz or b/c9.nii" in text


# What is in the files ----------------------------------------------------------------------------


def test_label_values_between_whole_numbers_are_called_by_their_cause(tiny: Tiny) -> None:
    label = np.zeros((SIZE, SIZE, SLICES), np.float32)
    label[0, 0] = 9.5
    write_nifti(tiny.root / "t/labels/c0.nii.gz", label)
    text = texts(check(tiny)["c0"])
    assert "1 label values are not whole numbers, e.g. 9.5" in text
    label[0, 0] = 204.9999
    write_nifti(tiny.root / "t/labels/c0.nii.gz", label)
    assert "not whole numbers, e.g. 204.9999" in texts(check(tiny)["c0"])
    assert "204.9999 ?: 4" in check(tiny)["c0"].values
    assert "nearest neighbour" in text


def test_what_the_crop_cuts_off_is_counted(tiny: Tiny) -> None:
    """Rows and columns 4 to 27 remain of 32; the shares are counted here on the file itself."""
    label = np.zeros((SIZE, SIZE, SLICES), np.uint8)
    label[2:12, 10:20], label[14:18, 14:18] = 10, 20
    write_nifti(tiny.root / "t/labels/c0.nii.gz", label)
    report = check(tiny, override(target(tiny), ["prepare.size=[24, 24]"]))["c0"]
    assert report.kept == "disk 80 %, ring 100 %"
    assert "the crop cuts off labelled voxels: disk 20 %" in remarks(report)
    assert report.faults == []


@pytest.mark.parametrize("spacing", [0.75, 3.0])
def test_what_the_crop_keeps_does_not_depend_on_the_pixel_size(tiny: Tiny, spacing: float) -> None:
    label = np.zeros((SIZE, SIZE, SLICES), np.uint8)
    label[2:12, 10:20] = 10
    write_nifti(tiny.root / "t/labels/c0.nii.gz", label)
    size = round(24 * 1.5 / spacing)
    changes = [f"prepare.size=[{size}, {size}]", f"prepare.spacing={spacing}"]
    assert check(tiny, override(target(tiny), changes))["c0"].kept == "disk 80 %"


def test_a_structure_that_a_volume_lacks_is_a_note(tiny: Tiny) -> None:
    label = np.zeros((SIZE, SIZE, SLICES), np.uint8)
    label[10:20, 10:20] = 10
    write_nifti(tiny.root / "t/labels/c0.nii.gz", label)
    reports = check(tiny)
    assert "no voxel of ring" in remarks(reports["c0"])
    assert "target" not in reports
    for name in ("c1", "c2"):
        write_nifti(tiny.root / f"t/labels/{name}.nii.gz", label)
    assert "class 'ring' occurs in none of the 3 labels" in remarks(check(tiny)["target"])


def test_a_header_that_does_not_place_the_patient_is_a_note(tiny: Tiny) -> None:
    path = tiny.root / "t/images/c0.nii.gz"
    image = nibabel.load(path)
    image.set_sform(image.affine, code=0)
    image.set_qform(image.affine, code=0)
    label = nibabel.load(tiny.root / "t/labels/c0.nii.gz")
    nibabel.save(nibabel.Nifti1Image(image.get_fdata().astype(np.int16), None, image.header), path)
    again = nibabel.load(path)
    write_nifti(tiny.root / "t/labels/c0.nii.gz", label.get_fdata().astype(np.uint8), again.affine)
    report = check(tiny)["c0"]
    assert "left and right are unknown" in remarks(report)
    assert "left and right" not in remarks(check(tiny)["c1"])


def placed(tiny: Tiny, **fields: Any) -> dict[str, CaseReport]:
    """The reports where image and label of c0 have these fields in their headers."""
    for kind in ("images", "labels"):
        path = tiny.root / f"t/{kind}/c0.nii.gz"
        array = np.asanyarray(nibabel.load(path).dataobj)
        path.write_bytes(gzip.compress(nifti(array, **fields)))
    return check(tiny)


def test_transforms_that_disagree_are_a_note_with_both_readings(tiny: Tiny) -> None:
    reports = placed(tiny, srow=[*STRAIGHT[:3], 60, *STRAIGHT[4:]])
    text = remarks(reports["c0"])
    assert not reports["c0"].faults
    for kind in ("images", "labels"):
        assert str(tiny.root / f"t/{kind}/c0.nii.gz") in text
    assert text.count("its sform and its qform place it up to 40 mm apart") == 2
    assert text.count("first voxel at (60, -30, 40) mm; qform") == 2
    assert "apart" not in remarks(reports["c1"])


def test_an_unknown_unit_is_one_note_for_the_whole_set(tiny: Tiny) -> None:
    reports = placed(tiny, xyzt_units=0)
    assert not remarks(reports["c0"])
    assert "1 of 3 images do not name the unit of their lengths" in remarks(reports["target"])


def test_sizes_are_shown_in_millimetres_whatever_the_unit(tiny: Tiny) -> None:
    micron = {"srow": [1000 * v for v in STRAIGHT], "pixdim": (-1, 1500, 1500, 3000, 0, 0, 0, 0)}
    report = placed(tiny, xyzt_units=3, qoffset=(2e4, -3e4, 4e4), **micron)["c0"]
    assert report.spacing == "1.5×1.5×3"
    assert not report.faults
    (note,) = report.notes
    assert "lengths in micrometres" in str(note)


def test_a_tilted_gantry_is_a_note_with_its_angle(tiny: Tiny) -> None:
    rows = [*STRAIGHT]
    rows[6] = 3 * np.tan(np.radians(20))
    report = placed(tiny, srow=rows, qform_code=0)["c0"]
    assert "70° between axes 2 and 3" in remarks(report)
    assert not report.faults


def test_oblique_axes_are_described_by_their_angle(tiny: Tiny) -> None:
    turn, (c, s) = np.diag([1.5, 1.5, 4.0, 1.0]), (np.cos(0.35), np.sin(0.35))
    turn[:2, :2] = [[1.5 * c, -1.5 * s], [1.5 * s, 1.5 * c]]
    write_nifti(tiny.root / "t/images/c0.nii.gz", make_case(0, inverted=True)[0], turn)
    assert check(tiny)["c0"].axes == "RAS 20°"


def test_records_and_npz_are_described_and_a_flipped_bit_is_placed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (8, 8, 3)).astype(np.float32)
    slices = [(rng.normal(size=(8, 8, 3)).astype(np.float32), label) for _ in range(2)]
    write_records(tmp_path / "r.tfrecords", slices)
    write_npz(tmp_path / "v.npz", np.concatenate([a for a, _ in slices], 2), np.tile(label, 2))
    card = DatasetCard.model_validate(
        {
            "name": "records",
            "title": "records",
            "images": ["{case}.tfrecords", "{case}.npz"],
            "labels": "inside",
            "axes": {"tfrecords": "RSP", "npz": "LIP"},
            "classes": ["background", "lv"],
            "label_values": {"background": [0, 2], "lv": [1]},
            "prepare": {"orientation": "RSP", "size": [8, 8], "normalize": "none"},
            "splits": {"train": ["r"], "test": ["v"]},
        }
    )
    record, volume = check_card(card, tmp_path)
    assert (record.shape, record.stored, record.axes) == ("8×8×2", "float32", "RSP")
    assert record.labels == f"lv {2 * (label[..., 1] == 1).sum()}"
    assert (volume.shape, volume.axes) == ("8×8×6", "LIP")
    assert f"1 lv: {2 * (label == 1).sum()}" in volume.values
    assert not record.faults + volume.faults + record.notes + volume.notes
    content = bytearray((tmp_path / "r.tfrecords").read_bytes())
    content[500] ^= 1
    (tmp_path / "r.tfrecords").write_bytes(content)
    broken = next(iter(check_card(card, tmp_path)))
    assert f"{tmp_path / 'r.tfrecords'}, byte" in texts(broken)


# The verb ----------------------------------------------------------------------------------------


def spoil_label(tiny: Tiny) -> Path:
    path = tiny.root / "t/labels/c2.nii.gz"
    write_nifti(path, np.full((SIZE, SIZE, SLICES), 421, np.int16))
    return path


def spoil_names(tiny: Tiny) -> Path:
    path = tiny.root / "t/images/c0.nii"
    image = nibabel.load(tiny.root / "t/images/c0.nii.gz")
    write_nifti(path, np.asanyarray(image.dataobj), image.affine)
    return path


def spoil_archive(tiny: Tiny) -> Path:
    path = tiny.root / "t/images/c1.nii.gz"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 20])
    return path


@pytest.mark.parametrize(
    ("spoil", "what", "remedy"),
    [
        (spoil_label, "421", "give each value a class"),
        (spoil_names, "2 files claim to be case 'c0'", "keep one of them"),
        (spoil_archive, "cannot be read as NIfTI", "copy or download it again"),
    ],
    ids=["a-value-without-a-class", "two-files-of-one-case", "an-archive-cut-short"],
)
def test_bad_input_ends_with_2_and_names_file_and_remedy(
    tiny: Tiny, tmp_path: Path, spoil: Callable[[Tiny], Path], what: str, remedy: str
) -> None:
    card = tiny.home / "target.yaml"
    text = card.read_text()
    images = "images: ['t/images/{case}.nii.gz', 't/images/{case}.nii']"
    card.write_text(text.replace("images: t/images/{case}.nii.gz", images))
    assert run(card, "--root", tiny.root)[0] == 0
    path = spoil(tiny)
    code, output = run(card, "--root", tiny.root)
    assert code == 2
    for words in (what, str(path), remedy, "1 fault(s)"):
        assert words in output
    assert list(tmp_path.rglob(".*")) == []


def test_a_ct_without_its_offset_ends_with_2_and_names_the_setting(tmp_path: Path) -> None:
    image, _ = write_phantom(tmp_path / "ct", mr=[], ct=[1001])
    file = nibabel.load(image)
    stored = np.asanyarray(file.dataobj) + np.int16(1024)
    write_nifti(image, stored, file.affine)
    card = {
        "name": "ct",
        "title": "ct",
        "root": "ct",
        "images": "ct_train/ct_train_{case}_image.nii.gz",
        "labels": "ct_train/ct_train_{case}_label.nii.gz",
        "modality": "ct",
        "classes": ["background", "heart"],
        "label_values": {"background": [0], "heart": [205, 420, 500, 550, 600, 820, 850]},
        "prepare": {"size": [96, 96], "spacing": 2.0, "normalize": [-200, 600]},
        "splits": {"test": ["1001"]},
    }
    path = tmp_path / "ct.yaml"
    path.write_text(yaml.safe_dump(card))
    code, output = run(path, "--root", tmp_path)
    assert code == 2
    assert "the HU offset is missing" in output
    assert str(image) in output
    assert "prepare.offset: -1024" in output
    assert "1 fault(s)" in output
    card["prepare"] = {**card["prepare"], "offset": -1024}
    path.write_text(yaml.safe_dump(card))
    assert run(path, "--root", tmp_path)[0] == 0


def test_of_many_cases_the_terminal_shows_splits_and_the_faulty(tiny: Tiny) -> None:
    image, label = (tiny.root / f"t/{kind}/c0.nii.gz" for kind in ("images", "labels"))
    for number in range(60):
        name = f"n{number:02}.nii.gz"
        (tiny.root / "t/images" / name).write_bytes(image.read_bytes())
        (tiny.root / "t/labels" / name).write_bytes(label.read_bytes())
    (tiny.root / "t/images/n31.nii.gz").write_bytes(b"no image")
    card = tiny.home / "many.yaml"
    raw = yaml.safe_load((tiny.home / "target.yaml").read_text())
    card.write_text(yaml.safe_dump({**raw, "tags": None, "splits": {"train": ["n*"]}}))
    code, output = run(card, "--root", tiny.root)
    assert code == 2
    assert re.search(r"train\W+60\W+1\W+0\W+32×32×4", output)
    assert "n31" in output
    assert "n30" not in output


@pytest.mark.parametrize(
    "words",
    [[], ["x.yaml", "--from-nnunet", "d"], ["--from-nnunet", "d", "--root", "r"], ["--root", "r"]],
)
def test_options_that_do_not_belong_together_are_refused(words: list[str]) -> None:
    assert run(*words)[0] == 2
