"""The phantom is reproducible, shaped like a thorax, and looks as its scanners show it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from uda.data.synthetic.phantom import heart
from uda.data.synthetic.phantom.dataset import Volume, render_subject, write_phantom
from uda.errors import DataError

MYO, LA, LV = heart.MYOCARDIUM, heart.LA_BLOOD, heart.LV_BLOOD
RA, RV, AORTA, PA = heart.RA_BLOOD, heart.RV_BLOOD, heart.AORTA, heart.PULMONARY_ARTERY
RAW_LABELS = (MYO, LA, LV, RA, RV, AORTA, PA)
SUBJECTS = [("mr", 1001), ("mr", 1002), ("ct", 1001), ("ct", 1002)]
MILLILITRES = {
    LV: (40, 200),
    MYO: (70, 230),
    LA: (40, 160),
    RA: (25, 150),
    RV: (45, 220),
    AORTA: (20, 100),
    PA: (25, 120),
}


@cache
def subject(modality: str, number: int) -> Volume:
    return render_subject(modality, number)  # type: ignore[arg-type]


@cache
def upright(modality: str, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, label and voxel size (mm) with the axes to the right, to the front and to the head."""
    volume = subject(modality, number)
    image, label = (
        nib.as_closest_canonical(nib.Nifti1Image(array, volume.affine))
        for array in (volume.image, volume.label)
    )
    spacing = np.array(image.header.get_zooms())
    return np.asarray(image.dataobj), np.asarray(label.dataobj), spacing


def middle(label: np.ndarray, value: int) -> np.ndarray:
    return np.argwhere(label == value).mean(0)


def spread(values: np.ndarray) -> float:
    """Standard deviation, robust to the vessels that cross a region."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def blood_neighbours(label: np.ndarray) -> set[int]:
    """Values of the voxels that share a face with left ventricular blood."""
    faces = ndimage.generate_binary_structure(3, 1)
    shell = ndimage.binary_dilation(label == LV, faces) & (label != LV)
    return set(np.unique(label[shell]).tolist())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    root = tmp_path_factory.mktemp("phantom")
    return root, write_phantom(root, mr=[1001], ct=[1002])


def test_files_are_named_and_typed_as_in_mmwhs(written: tuple[Path, list[Path]]) -> None:
    root, paths = written
    assert [p.relative_to(root).as_posix() for p in paths] == [
        "mr_train/mr_train_1001_image.nii.gz",
        "mr_train/mr_train_1001_label.nii.gz",
        "ct_train/ct_train_1002_image.nii.gz",
        "ct_train/ct_train_1002_label.nii.gz",
    ]
    assert sorted(root.rglob("*.*")) == sorted(paths), "no partial file stays behind"
    for number, path in enumerate(paths):
        volume = subject(*SUBJECTS[0 if number < 2 else 3])
        stored = nib.load(path)
        assert stored.get_data_dtype() == np.int16
        np.testing.assert_array_equal(
            np.asarray(stored.dataobj), volume.label if number % 2 else volume.image
        )
        np.testing.assert_allclose(stored.affine, volume.affine, atol=1e-3)


def test_a_file_depends_on_seed_modality_and_subject_alone(
    written: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    alone = write_phantom(tmp_path, mr=[], ct=[1002])
    for one, beside in zip(alone, written[1][2:], strict=True):
        assert one.read_bytes() == beside.read_bytes()
        assert one.read_bytes()[4:8] == bytes(4), "the gzip header carries no time"


def test_seeds_subjects_and_modalities_are_different_people() -> None:
    reference = subject("mr", 1001)
    others = [subject("mr", 1002), subject("ct", 1001), render_subject("mr", 1001, seed=1)]
    for other in others:
        assert not np.array_equal(other.label, reference.label)
        assert not np.allclose(other.affine, reference.affine)


@pytest.mark.parametrize(("modality", "number"), SUBJECTS)
def test_labels_are_the_seven_structures_and_nothing_else(modality: str, number: int) -> None:
    _, label, _ = upright(modality, number)
    assert set(np.unique(label).tolist()) == {0, *RAW_LABELS}


@pytest.mark.parametrize(("modality", "number"), SUBJECTS)
def test_volumes_are_those_of_adults(modality: str, number: int) -> None:
    _, label, spacing = upright(modality, number)
    for value, (low, high) in MILLILITRES.items():
        volume = (label == value).sum() * spacing.prod() / 1000
        assert low < volume < high, f"{value}: {volume:.0f} ml"


@pytest.mark.parametrize(("modality", "number"), SUBJECTS)
def test_left_ventricular_blood_touches_only_muscle_atrium_and_aorta(
    modality: str, number: int
) -> None:
    """The ventricle is closed: its only openings are the mitral and the aortic valve."""
    _, label, _ = upright(modality, number)
    assert blood_neighbours(label) == {MYO, LA, AORTA}


@pytest.mark.parametrize(("modality", "number"), SUBJECTS)
def test_every_labelled_structure_is_one_piece(modality: str, number: int) -> None:
    _, label, _ = upright(modality, number)
    for value in (MYO, LA, LV, AORTA):
        pieces, count = ndimage.label(label == value, np.ones((3, 3, 3)))
        largest = np.bincount(pieces.ravel())[1:].max()
        assert largest >= 0.98 * (label == value).sum(), f"{value} falls into {count} pieces"


def test_the_two_modalities_are_stored_in_different_orientations() -> None:
    codes = {m: nib.aff2axcodes(subject(m, 1001).affine) for m in ("mr", "ct")}
    assert codes == {"mr": ("L", "I", "A"), "ct": ("L", "A", "S")}


@pytest.mark.parametrize(("modality", "number"), SUBJECTS)
def test_left_is_left_front_is_front_and_up_is_up(modality: str, number: int) -> None:
    _, label, spacing = upright(modality, number)
    at = {value: middle(label, value) * spacing for value in RAW_LABELS}
    assert at[LV][0] < at[RV][0], "left ventricle on the patient's left"
    assert at[LA][0] < at[RA][0], "left atrium on the patient's left"
    assert at[RV][1] > at[LV][1] > at[LA][1], "right ventricle in front, left atrium behind"
    assert at[AORTA][2] > at[LA][2] > at[LV][2], "aorta above, ventricle below"


def test_liver_lies_low_on_the_right_and_the_spine_behind() -> None:
    """Right of the heart the lowest slice is soft tissue, the highest lung; bone is behind."""
    image, label, spacing = upright("ct", 1001)
    heart = np.argwhere(label > 0).mean(0).astype(int)
    right = slice(heart[0] + int(60 / spacing[0]), heart[0] + int(80 / spacing[0]))
    back_to_front = slice(heart[1] - 15, heart[1] + 5)
    assert np.median(image[right, back_to_front, 1]) > 0
    assert np.median(image[right, back_to_front, -2]) < -600
    bone = ndimage.binary_opening(image[:, :, heart[2]] > 600, iterations=1)
    midline = bone[heart[0] - 10 : heart[0] + 30]
    assert np.argwhere(midline)[:, 1].mean() < heart[1]


@pytest.mark.parametrize("number", [1001, 1002])
def test_mr_is_a_magnitude_image_with_rician_noise(number: int) -> None:
    """Never negative; in gas and lung the mean does not vanish; blood is brighter than muscle."""
    image, label, _ = upright("mr", number)
    assert image.min() >= 0
    dark = image[image < np.percentile(image, 25)]
    assert dark.mean() > dark.std() > 0
    muscle = np.median(image[label == MYO])
    for value in (LV, LA, AORTA):
        assert np.median(image[label == value]) > 2 * muscle


@pytest.mark.parametrize("number", [1001, 1002])
def test_ct_is_in_hounsfield_units(number: int) -> None:
    image, label, _ = upright("ct", number)
    assert -1024 <= image.min() < -950
    assert 70 < np.median(image[label == MYO]) < 150
    for value in (LV, LA, AORTA):
        assert 280 < np.median(image[label == value]) < 520
    inside = ndimage.binary_erosion(label == LV, iterations=3)
    assert 8 < spread(image[inside]) < 45


def test_ct_noise_is_correlated_by_the_kernel_in_the_plane_only() -> None:
    image, label, _ = upright("ct", 1002)
    inside = ndimage.binary_erosion(label == LV, iterations=3)
    grain = image - np.median(image[inside])

    def correlation(axis: int) -> float:
        both = inside & np.roll(inside, -1, axis)
        return float(np.corrcoef(grain[both], np.roll(grain, -1, axis)[both])[0, 1])

    assert max(correlation(0), correlation(1)) > 0.1 > abs(correlation(2)) - 0.1


def test_a_modality_the_phantom_does_not_know_is_refused() -> None:
    with pytest.raises(DataError, match="'mr' or 'ct'"):
        render_subject("pet", 1001)  # type: ignore[arg-type]
