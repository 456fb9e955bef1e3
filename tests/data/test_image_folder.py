"""Which files of a folder or pattern are its images: wildcards, names, what is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import make_case, write_nifti
from PIL import Image

from uda.data.cases import cases_in
from uda.errors import DataError

IMAGE, LABEL = make_case(0, False)


def images(root: Path, *names: str) -> None:
    for name in names:
        write_nifti(root / name, IMAGE)


def labels(root: Path, *names: str) -> None:
    for name in names:
        write_nifti(root / name, LABEL)


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def names(images: Path, photos: bool = False) -> list[str]:
    return [case.name for case in cases_in(images, photos)]


def refused(images: Path, photos: bool = False) -> str:
    with pytest.raises(DataError) as caught:
        cases_in(images, photos)
    return str(caught.value)


# patterns


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("patients/*/ct.nii.gz", ["p01_ct", "p02_ct"]),
        ("patients/p?1/ct.nii.gz", ["p01_ct"]),
        ("patients/*/c*.nii.gz", ["p01_ct", "p02_ct"]),
        ("patients/*/m*.nii.gz", ["mr1", "mr2"]),
        ("*/p01/*t.nii.gz", ["ct"]),
        ("**/ct.nii.gz", ["patients_p01_ct", "patients_p02_ct"]),
        ("patients/p01/ct.nii.gz", ["ct"]),
    ],
)
def test_a_wildcard_may_stand_for_folders(tmp_path: Path, pattern: str, found: list[str]) -> None:
    images(
        tmp_path, *(f"patients/p0{n}/{name}.nii.gz" for n in (1, 2) for name in ("ct", f"mr{n}"))
    )
    assert names(tmp_path / pattern) == found
    paths = [case.image for case in cases_in(tmp_path / pattern)]
    assert all(path.is_file() for path in paths)
    assert len(set(paths)) == len(found)


def test_two_masks_never_have_one_name(tmp_path: Path) -> None:
    images(tmp_path, "a_b/x/ct.nii.gz", "a/b_x/ct.nii.gz")
    assert "two files of the case 'a_b_x_ct'" in refused(tmp_path / "*/*/ct.nii.gz")


@pytest.mark.parametrize("folder", ["a[1]", "~", "50% #2", 'it\'s "x"', "{case}", "a.b+c(d)", "$X"])
def test_other_signs_are_plain(tmp_path: Path, folder: str) -> None:
    images(tmp_path, f"{folder}/p1_image.nii.gz", f"{folder}/q[2].nii.gz", "a1/other_image.nii.gz")
    assert names(tmp_path / folder) == ["p1_image", "q[2]"]
    assert names(tmp_path / folder / "*_image.nii.gz") == ["p1_image"]
    assert names(tmp_path / folder / "q[2].*") == ["q[2]"]
    assert names(tmp_path / folder / "q[2].nii.gz") == ["q[2]"]
    assert "brackets are plain" in refused(tmp_path / folder / "q[0-9]*")


def test_endings_count_in_either_case_and_one_file_is_one_case(tmp_path: Path) -> None:
    images(tmp_path, "a.nii.gz", "b.nii.gz", "c.nii")
    (tmp_path / "b.nii.gz").rename(tmp_path / "b.NII.Gz")
    assert names(tmp_path) == ["a", "b", "c"]
    assert names(tmp_path / "b.NII.Gz") == ["b"]


def test_what_systems_leave_behind_is_no_image(tmp_path: Path) -> None:
    images(tmp_path, "p1/ct.nii.gz")
    for name in ("._ct.nii.gz", "~$ct.nii.gz", ".hidden.nii.gz", ".DS_Store", "Thumbs.db"):
        (tmp_path / "p1" / name).write_bytes(b"\0\5\x16\7")
    images(tmp_path, ".Trash/ct.nii.gz")
    assert names(tmp_path / "p1") == ["ct"]
    assert names(tmp_path / "*/*.nii.gz") == ["ct"]
    assert names(tmp_path / "**/*.nii.gz") == ["ct"]


# no image here


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    for name in (*(f"{n}.dcm" for n in range(4)), "a.mha", "b.MHA", "IM0001", "x.tar.gz"):
        (tmp_path / name).touch()
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "more").mkdir()
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    told = refused(tmp_path)
    for part in (
        "4 .dcm",
        "2 .mha",
        "1 folder",
        "1 files without",
        "1 .tar.gz",
        "1 links",
        ".nii.gz",
    ):
        assert part in told
    assert "DS_Store" not in told
    assert "4 .dcm" in refused(tmp_path / "*_image.nii.gz")
    assert "4 .dcm" in refused(tmp_path / "*/ct.nii.gz")
    assert "no image that can be read" in refused(tmp_path / "0.dcm")


def test_images_one_folder_deeper_are_pointed_out(tmp_path: Path) -> None:
    images(tmp_path, "p1/ct.nii.gz", "p2/ct.nii.gz")
    told = refused(tmp_path)
    assert "2 folders" in told
    pattern = told.rpartition("give '")[2].rstrip("'")
    assert names(Path(pattern)) == ["p1_ct", "p2_ct"]


def test_folders_of_label_maps_are_never_proposed(tmp_path: Path) -> None:
    images(tmp_path, "imagesTr/la_1.nii.gz", "imagesTs/la_2.nii.gz")
    labels(tmp_path, "labelsTr/la_1.nii.gz")
    told = refused(tmp_path)
    assert f"give a folder of images: '{tmp_path}/imagesTr' or '{tmp_path}/imagesTs'" in told
    assert names(tmp_path / "imagesTr") == ["la_1"]


def test_images_of_the_other_kind_are_pointed_out(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    assert "1 .png" in (told := refused(tmp_path))
    assert "trained on volumes" in told
    images(tmp_path / "b", "a.nii.gz")
    assert "trained on photographs" in refused(tmp_path / "b", photos=True)


def test_an_image_that_is_no_file_is_named(tmp_path: Path) -> None:
    images(tmp_path, "a.nii.gz")
    (tmp_path / "b.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    (tmp_path / "c.nii").mkdir()
    told = refused(tmp_path)
    assert "leads nowhere" in told
    assert "c.nii" in told
    (tmp_path / "good.nii.gz").symlink_to(tmp_path / "a.nii.gz")
    assert names(tmp_path / "?*d.nii.gz") == ["good"]
