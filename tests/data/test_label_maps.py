"""Label maps, our own predictions and entropy maps are no images; images are never taken for label maps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from conftest import make_case, write_nifti
from PIL import Image
from test_cases import card
from test_image_folder import images, labels, names, photo, refused

from uda.data.cases import cases_in, cases_of
from uda.data.label_maps import BLOCK, label_values
from uda.errors import DataError

IMAGE, LABEL = make_case(0, False)


def fix(told: str) -> str:
    """The pattern that a refusal proposes."""
    return told.rpartition("quotes: '")[2].partition("'")[0]


# names


@pytest.mark.parametrize(
    "other",
    [
        *(
            "p{}_seg",
            "p{}-Seg",
            "p{}.seg",
            "p{}_SEGMENTATION",
            "p{}_label",
            "p{}_labels",
            "p{}_labelmap",
        ),
        *("p{}_mask", "p{} mask", "p{}_GT", "p{}_ground_truth", "p{}_pred", "p{}_roi", "p{}_dseg"),
        *("p{}_mask2", "label{}", "segmentation-{}", "mask_p{}", "p{}_brainMask", "p{}_seg_v2"),
    ],
)
def test_names_of_label_maps_are_refused_beside_images(tmp_path: Path, other: str) -> None:
    """Whatever they hold: here the voxels of an image."""
    images(tmp_path, *(f"p{n}_image.nii.gz" for n in (1, 2)))
    images(tmp_path, *(f"{other.format(n)}.nii.gz" for n in (1, 2)))
    told = refused(tmp_path)
    assert "2 of 4 files" in told
    assert f"{other.format(1)}.nii.gz" in told
    assert names(Path(fix(told))) == ["p1_image", "p2_image"]


@pytest.mark.parametrize(
    "name",
    ["p1_mask_removed", "p1_masked", "mri_7", "p1_unlabelled", "segovia_1", "goldtruthful_1"],
)
def test_names_that_only_resemble_them_are_names(tmp_path: Path, name: str) -> None:
    images(tmp_path, f"{name}.nii.gz", "p0.nii.gz")
    assert len(names(tmp_path)) == 2


def test_such_a_name_alone_does_not_make_a_label_map(tmp_path: Path) -> None:
    images(tmp_path, "p1_mask.nii.gz", "p2_mask.nii.gz")
    assert len(names(tmp_path)) == 2
    labels(tmp_path, "p3_mask.nii.gz")
    assert "1 of 3 files" in refused(tmp_path)


def test_the_user_may_name_what_is_called_like_a_label_map(tmp_path: Path) -> None:
    images(tmp_path, "p1_mask.nii.gz", "p2.nii.gz")
    assert "1 of 2" in refused(tmp_path)
    assert names(tmp_path / "*_mask.nii.gz") == ["p1_mask"]
    assert names(tmp_path / "p1_mask.nii.gz") == ["p1_mask"]


def test_the_partner_of_channel_0000_is_its_label(tmp_path: Path) -> None:
    images(tmp_path, *(f"{c}{e}.nii.gz" for c in "ab" for e in ("", "_0000", "_0001")))
    told = refused(tmp_path)
    assert "4 of 6" in told
    assert "further channels" in told
    assert fix(told).endswith("/*_0000.nii.gz")
    assert names(Path(fix(told))) == ["a_0000", "b_0000"]


def test_the_channels_of_one_case_with_its_label_are_told_apart(tmp_path: Path) -> None:
    images(tmp_path, "c_0000.nii.gz", "c_0001.nii.gz")
    labels(tmp_path, "c.nii.gz")
    assert "2 of 3" in (told := refused(tmp_path))
    assert "further channels" in told
    assert names(Path(fix(told))) == ["c_0000"]


@pytest.mark.parametrize(
    ("image", "label", "found"),
    [
        ("imagesTr/la_{}.nii.gz", "labelsTr/la_{}.nii.gz", "imagesTr/*.nii.gz"),
        ("x/images/p{}/a.nii.gz", "x/truth/p{}/a.nii.gz", "x/images/*/a.nii.gz"),
        ("p{}/ct/a.nii.gz", "p{}/lv/a.nii.gz", "*/ct/a.nii.gz"),
    ],
)
def test_files_of_one_name_are_told_apart_by_their_folders(
    tmp_path: Path, image: str, label: str, found: str
) -> None:
    images(tmp_path, *(image.format(n) for n in "12"))
    labels(tmp_path, *(label.format(n) for n in "12"))
    wild = "*/*" if image.count("/") == 1 else "*/*/*" if image[0] == "p" else "x/*/*/*"
    told = refused(tmp_path / wild)
    assert fix(told) == f"{tmp_path}/{found}"
    assert len(names(Path(fix(told)))) == 2


def test_a_numbered_series_is_no_set_of_channels(tmp_path: Path) -> None:
    images(tmp_path, *(f"scan_{n:04}.nii.gz" for n in range(3)))
    assert len(names(tmp_path)) == 3


@pytest.mark.parametrize(
    "other", ["labelIds", "labelTrainIds", "trainIds", "color", "instanceIds", "gtFine_labelIds"]
)
def test_label_maps_of_street_data_are_refused(tmp_path: Path, other: str) -> None:
    photo(tmp_path / "aachen_1.png")
    photo(tmp_path / f"aachen_1_{other}.png")
    assert f"aachen_1_{other}.png" in refused(tmp_path, photos=True)


def test_ordinary_names_of_photographs_are_names(tmp_path: Path) -> None:
    """The colour of a camera of depth, a frame of a series, somebody with a mask."""
    for name in ("1.color", "1.depth", "frame_0000", "frame_0001", "b_0000", "b_0001", "street"):
        photo(tmp_path / f"{name}.png")
    photo(tmp_path / "with_mask.jpg")
    assert len(names(tmp_path, photos=True)) == 8
    photo(tmp_path / "with.jpg")
    assert "with_mask.jpg" in refused(tmp_path, photos=True)


# our own results


def test_a_folder_of_our_predictions_is_refused(tmp_path: Path) -> None:
    """Constant maps too, which have no values of a label map."""
    (tmp_path / "prediction.json").write_text(json.dumps({"model": "0", "classes": ["a", "b"]}))
    (tmp_path / "cases").mkdir()
    for name in ("p1", "p2"):
        write_nifti(tmp_path / f"{name}.nii.gz", np.zeros((4, 4, 4), np.uint8))
        write_nifti(tmp_path / f"{name}_entropy.nii.gz", IMAGE)
        (tmp_path / "cases" / f"{name}.json").write_text("{}")
    assert "predictions of uda: p1.nii.gz" in refused(tmp_path)
    assert "1 of 1" in refused(tmp_path / "p1.nii.gz")
    assert "2 of 2" in refused(tmp_path / "*_entropy.nii.gz")
    images(tmp_path, "new_image.nii.gz")
    assert "4 of 5" in (told := refused(tmp_path))
    assert names(Path(fix(told))) == ["new_image"]


def test_a_file_of_that_name_by_others_says_nothing(tmp_path: Path) -> None:
    images(tmp_path, "p1.nii.gz")
    (tmp_path / "predictions.json").write_text('{"p1": 0.7}')
    (tmp_path / "prediction.json").write_text("[")
    assert names(tmp_path) == ["p1"]


def test_an_entropy_map_beside_its_image_is_refused(tmp_path: Path) -> None:
    images(tmp_path, "p1.nii.gz", "q_entropy.nii.gz")
    assert len(names(tmp_path)) == 2
    entropy = nibabel.Nifti1Image(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), np.eye(4))
    entropy.header.set_slope_inter(1 / 255, 0)
    nibabel.save(entropy, tmp_path / "p1_entropy.nii.gz")
    assert "entropy maps: p1_entropy.nii.gz" in refused(tmp_path)
    photo(tmp_path / "b/a.png")
    Image.fromarray(IMAGE[..., 0].astype(np.uint8)).save(tmp_path / "b/a_entropy.png")
    assert "entropy maps: a_entropy.png" in refused(tmp_path / "b", photos=True)


# values


def stored(path: Path, kind: str) -> None:
    """The label in one of the ways in which label maps are stored."""
    if kind == "slope":
        image = nibabel.Nifti1Image((LABEL * 2).astype(np.int16), np.eye(4))
        image.header.set_slope_inter(0.5, 0)
        nibabel.save(image, path)
        return
    arrays = {
        "uint8": LABEL,
        "float64": LABEL.astype(np.float64),
        "mmwhs": np.array([0, 205, 850], np.int16)[LABEL],
        "binary": (LABEL > 1) * np.uint8(255),
        "rounded": LABEL + np.float32(1e-4),
        "negative": LABEL.astype(np.int16) - 1,
        "late": np.concatenate([np.zeros((32, 32, 300), np.uint8), LABEL], axis=-1),
        "unpacked": LABEL,
    }
    write_nifti(path, arrays[kind])


@pytest.mark.parametrize(
    "kind",
    ["uint8", "float64", "mmwhs", "binary", "rounded", "negative", "late", "slope", "unpacked"],
)
def test_files_with_the_values_of_a_label_map_are_refused(tmp_path: Path, kind: str) -> None:
    images(tmp_path, "a1_x.nii.gz", "a2_x.nii.gz")
    stored(tmp_path / f"a1_y.nii{'' if kind == 'unpacked' else '.gz'}", kind)
    told = refused(tmp_path)
    assert "1 of 3 files" in told
    assert "few whole values: a1_y" in told
    assert names(Path(fix(told))) == ["a1_x", "a2_x"]
    assert "1 of 3 files" in refused(tmp_path / "a*")  # a mixture, even where the user names it


def test_a_folder_of_label_maps_alone_is_refused(tmp_path: Path) -> None:
    labels(tmp_path, *(f"labelsTr/p{n}.nii.gz" for n in range(5)), "odd/q1.nii.gz")
    for place in (
        "labelsTr",
        "labelsTr/*",
        "labelsTr/*.nii.gz",
        "labelsTr/p*.nii.gz",
        "odd",
        "**/*",
    ):
        told = refused(tmp_path / place)
        assert "label maps" in told
    assert names(tmp_path / "odd/q*.nii.gz") == ["q1"]  # the user insists


def test_an_empty_mask_beside_masks_is_a_mask(tmp_path: Path) -> None:
    images(tmp_path, "ct.nii.gz")
    write_nifti(tmp_path / "spleen.nii.gz", np.zeros((32, 32, 4), np.uint8))
    assert len(names(tmp_path)) == 2
    labels(tmp_path, "liver.nii.gz")
    assert "2 of 3 files" in (told := refused(tmp_path))
    assert names(Path(fix(told))) == ["ct"]


def test_images_with_the_name_of_others_are_told_apart_by_the_pattern(tmp_path: Path) -> None:
    images(tmp_path, "p01.nii.gz", "p02.nii.gz")
    labels(tmp_path, "p01_lv.nii.gz", "p02_lv.nii.gz")
    assert names(Path(fix(refused(tmp_path)))) == ["p01", "p02"]


def test_a_label_map_in_the_folder_of_each_patient_is_refused(tmp_path: Path) -> None:
    images(tmp_path, "p1/ct.nii.gz", "p2/ct.nii.gz")
    labels(tmp_path, "p1/lv.nii.gz", "p2/lv.nii.gz")
    told = refused(tmp_path / "*/*")
    assert names(Path(fix(told))) == ["p1_ct", "p2_ct"]


def test_a_damaged_file_is_left_to_its_reader(tmp_path: Path) -> None:
    images(tmp_path, "a.nii.gz")
    (tmp_path / "b.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:200])
    (tmp_path / "c.nii").write_bytes(b"\0" * 352)
    (tmp_path / "d.nii.gz").touch()
    assert names(tmp_path) == ["a", "b", "c", "d"]


def whether(array: Any) -> bool:
    flat = np.asarray(array).ravel(order="F")
    return len(label_values(flat[i : i + BLOCK] for i in range(0, flat.size, BLOCK))) > 1


def smooth(shape: Sequence[int]) -> np.ndarray:
    grid = np.meshgrid(*(np.linspace(0, 7, n) for n in shape), indexing="ij")
    return np.prod([np.sin(axis + n) for n, axis in enumerate(grid)], axis=0)


SHAPE = (64, 48, 20)
NOISE = np.random.default_rng(0).normal(size=SHAPE)
IMAGES = {
    "constant": np.zeros(SHAPE, np.uint8),
    "noise": (20 * NOISE).round(),
    "dark and noisy": np.clip(40 * smooth(SHAPE) + 10 + 2 * NOISE, 0, 255).astype(np.uint8),
    "dark and smooth": np.clip(60 * smooth(SHAPE), 0, 255).astype(np.uint8),
    "saturated": np.clip(900 * smooth(SHAPE), 0, 255).astype(np.uint8),
    "nearly binary": np.clip((smooth(SHAPE) > 0) * 250 + 2 * NOISE, 0, 255).round(),
    "four bits": np.clip(8 + 4 * NOISE, 0, 15).astype(np.uint8),
    "counts": np.random.default_rng(0).poisson(0.3, SHAPE),
    "flat phantom of a CT": np.array([-1000, 40, 300])[(smooth(SHAPE) > 0).astype(int)],
    "fractions": np.array([0, 0.25, 1])[(smooth(SHAPE) > 0).astype(int)],
    "tiny": np.arange(16).reshape(4, 4, 1),
    "no numbers": np.full(SHAPE, np.nan),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_has_not_the_values_of_a_label_map(kind: str) -> None:
    assert not whether(IMAGES[kind])


def test_many_classes_and_scribbles_are_label_maps() -> None:
    blocks = np.random.default_rng(0).permutation(110)[np.arange(110).reshape(11, 10)]
    assert whether(np.kron(blocks, np.ones((8, 8), int)))
    points = np.zeros(SHAPE)
    points[::8, ::7, ::5] = 1
    assert whether(points)
    assert not whether(np.kron(np.arange(600).reshape(30, 20), np.ones((8, 8), int)))


def test_no_more_of_an_image_is_read_than_is_needed() -> None:
    def blocks() -> Any:
        yield np.zeros(BLOCK)
        yield np.arange(BLOCK) / 7
        raise AssertionError("the rest was read")

    assert label_values(blocks()) == []


def test_label_maps_among_photographs_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        photo(tmp_path / f"{name}.jpg")
    classes = np.kron(np.arange(4).reshape(2, 2), np.ones((20, 20))).astype(np.uint8)
    colours = np.array([[128, 64, 128], [244, 35, 232], [70, 70, 70], [0, 0, 142]], np.uint8)
    Image.fromarray(classes).save(tmp_path / "a.png")
    Image.fromarray(colours[classes]).save(tmp_path / "b.png")
    palette = Image.fromarray(classes, mode="P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "c.png")
    (tmp_path / "d.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    told = refused(tmp_path, photos=True)
    assert "3 of 6 files" in told
    assert "a.png (4 colours)" in told


def test_dark_and_smooth_photographs_are_photographs(tmp_path: Path) -> None:
    ramp = np.linspace(0, 30, 48 * 64 * 3).reshape(48, 64, 3)
    for name, pixels in {"night": ramp, "black": 0 * ramp, "tiny": ramp[:4, :4]}.items():
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{name}.png")
    assert len(cases_in(tmp_path, photos=True)) == 3


# cards


def test_an_image_of_a_card_is_not_the_label_of_another_case(tmp_path: Path) -> None:
    images(tmp_path, "p1.nii.gz", "p1_lv.nii.gz")
    mine = card(images="{case}.nii.gz", labels="{case}_lv.nii.gz")
    with pytest.raises(DataError, match="image of case 'p1_lv' is the label of case 'p1'"):
        cases_of(mine, tmp_path, "train")


def test_wildcards_of_a_card_bring_no_label_maps(tmp_path: Path) -> None:
    images(tmp_path, "p1.nii.gz", "p2.nii.gz")
    labels(tmp_path, "p1_x.nii.gz")
    mine = card(images="{case}.nii.gz", labels=None, splits={"train": ["*"], "some": ["p1_x"]})
    with pytest.raises(DataError, match=r"1 of 3 files.*p1_x"):
        cases_of(mine, tmp_path, "train")
    assert [case.name for case in cases_of(mine, tmp_path, "some")] == ["p1_x"]  # named in full


def test_wildcards_of_a_card_skip_hidden_files_and_take_brackets_as_they_are(
    tmp_path: Path,
) -> None:
    images(tmp_path, "m[1]/p1_image.nii", "m[1]/._p1_image.nii", "m[1]/~$p2_image.nii")
    mine = card(images="{folder}/{case}_image.nii", splits={"train": ["m[1]/*"]})
    assert [case.name for case in cases_of(mine, tmp_path, "train")] == ["p1"]
