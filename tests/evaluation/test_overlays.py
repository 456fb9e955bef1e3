"""Overlays of the report: choice and orientation of the slice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import write_nifti
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from uda.config.card import DatasetCard, Prepare
from uda.data.cases import Case
from uda.evaluation.dice_hd95 import CaseScore
from uda.evaluation.overlays import Gallery
from uda.prediction.volumes import PreparedCase, read_case

SHAPE = (20, 24, 3)
PREPARE = Prepare(size=(20, 24))


def corner(code: str) -> tuple[np.ndarray, np.ndarray]:
    """A volume in axis code ``code``, bright in the patient's right anterior superior corner, and its affine."""
    image = np.random.default_rng(0).integers(0, 50, SHAPE).astype(np.int16)
    image[-4:, -4:, -1] = 1000  # RAS: last index is right, anterior, superior
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(code))
    return apply_orientation(image, turn), inv_ornt_aff(turn, SHAPE)


@pytest.mark.parametrize("code", ["RAS", "LPS", "LAS", "SPL", "AIR"])
def test_patient_right_is_on_the_left_and_the_front_on_top(code: str, tmp_path: Path) -> None:
    array, affine = corner(code)
    path = write_nifti(tmp_path / "a.nii.gz", array, affine)
    case = read_case(Case("a", path), PREPARE)
    label = (array == 1000).astype(np.uint8)
    gallery = Gallery([case], [label])
    gallery.add("row", [label])
    gallery.write(tmp_path, "row", [CaseScore("row", "a", "spot", 1.0, 0.0, 0.0, "ok")])
    drawn = np.load(tmp_path / "overlays.npz")
    shown = drawn["reference_0"]
    assert shown[:4, :4].all()
    assert shown.sum() == 16
    assert (drawn["image_0"][shown == 1] == 255).all()
    assert (drawn["row__0"] == shown).all()


SIDES = {"R": 0, "A": 1, "S": 2}


def marked(side: str) -> np.ndarray:
    """In RAS axes, the half of the volume on a side of the patient."""
    label = np.zeros(SHAPE, np.uint8)
    axis = SIDES[side]
    label[tuple(slice(n // 2 if a == axis else 0, n) for a, n in enumerate(SHAPE))] = 1
    return label


def shown_reference(code: str, label: np.ndarray, prepare: Prepare, folder: Path) -> np.ndarray:
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(code))
    affine = np.diag([2.0, 3.0, 5.0, 1.0]) @ inv_ornt_aff(turn, SHAPE)
    image = np.random.default_rng(0).integers(0, 50, SHAPE).astype(np.int16)
    path = write_nifti(folder / "a.nii.gz", apply_orientation(image, turn), affine)
    gallery = Gallery([read_case(Case("a", path), prepare)], [apply_orientation(label, turn)])
    gallery.write(folder, "row", [])
    return np.load(folder / "overlays.npz")["reference_0"]


@pytest.mark.parametrize("stored", ["RAS", "LIA", "PSR"])
@pytest.mark.parametrize(
    ("orientation", "slice_axis", "top", "left"),
    [
        ("RSP", 2, "S", "R"),  # coronal as the cardiac cards have it
        ("SPL", 1, "S", "R"),
        ("SRA", 2, "S", "R"),
        ("RAS", 1, "S", "R"),
        ("RAS", 2, "A", "R"),  # axial
        ("PLS", 2, "A", "R"),
        ("RAS", 0, "S", "A"),  # sagittal
        ("IPL", 2, "S", "A"),
    ],
)
def test_any_card_shows_its_slices_upright(
    stored: str, orientation: str, slice_axis: int, top: str, left: str, tmp_path: Path
) -> None:
    names = [letter for i, letter in enumerate(orientation) if i != slice_axis]
    lengths = {"R": 20, "L": 20, "A": 24, "P": 24, "S": 3, "I": 3}
    prepare = Prepare(
        orientation=orientation, slice_axis=slice_axis, size=[lengths[name] for name in names]
    )
    above = shown_reference(stored, marked(top), prepare, tmp_path)
    assert above.shape == (lengths[top], lengths[left])
    assert above[: lengths[top] // 2].all()
    assert not above[-(lengths[top] // 2) :].any() or lengths[top] == 3
    assert above.sum() == -(-lengths[top] // 2) * lengths[left]
    beside = shown_reference(stored, marked(left), prepare, tmp_path)
    assert beside[:, : lengths[left] // 2].all()
    assert not beside[:, lengths[left] // 2 :].any()
    entry = json.loads((tmp_path / "overlays.json").read_text())[0]
    millimetres = {"R": 2.0, "A": 3.0, "S": 5.0}
    assert entry["aspect"] == pytest.approx(millimetres[top] / millimetres[left])


def test_the_picture_has_the_files_own_pixels_whatever_the_network_saw(tmp_path: Path) -> None:
    array, affine = corner("LPI")
    path = write_nifti(tmp_path / "a.nii.gz", array, affine @ np.diag([1.0, 1.0, 4.0, 1.0]))
    prepare = Prepare(size=(30, 36), spacing=0.7, slice_spacing=1.3)
    case = read_case(Case("a", path), prepare)
    assert len(case.slices) == 9
    label = (array == 1000).astype(np.uint8)
    gallery = Gallery([case], [label])
    gallery.add("row", [label])
    gallery.write(tmp_path, "row", [])
    drawn = np.load(tmp_path / "overlays.npz")
    assert drawn["row__0"].sum() == 16
    assert (drawn["image_0"][drawn["row__0"] == 1] == 255).all()
    assert json.loads((tmp_path / "overlays.json").read_text())[0]["slice"] == 0  # its first


def test_an_npz_file_is_drawn_too_and_only_the_three_cases_shown_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = DatasetCard(
        name="test",
        title="test",
        images=("{case}.npz",),
        axes={"npz": "RSP"},
        classes=("background", "spot"),
        label_values={"background": (0,), "spot": (1,)},
        prepare=Prepare(orientation="RSP", size=(20, 24)),
    )
    label = np.zeros(SHAPE, np.uint8)
    label[-4:, -6:, 1] = 1  # right and up
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32) + 99 * label
    cases = []
    for name in "abcde":
        np.savez(tmp_path / f"{name}.npz", image, label.astype(np.float32))
        cases.append(read_case(Case(name, tmp_path / f"{name}.npz"), card.prepare, card))
    read: list[str] = []
    again = PreparedCase.read_again
    monkeypatch.setattr(
        PreparedCase, "read_again", lambda self: (read.append(self.name), again(self))[1]
    )
    gallery = Gallery(cases, [label] * 5)
    gallery.add("row", [label] * 5)
    gallery.write(tmp_path, "row", [])
    assert read == ["a", "c", "e"]
    drawn = np.load(tmp_path / "overlays.npz")
    assert drawn["reference_0"][:6, :4].all()
    assert drawn["reference_0"].sum() == 24
    assert (drawn["image_0"][drawn["reference_0"] == 1] > 200).all()


def test_the_slice_is_given_in_the_files_own_counting(tmp_path: Path) -> None:
    array, affine = corner("RAI")
    case = read_case(Case("a", write_nifti(tmp_path / "a.nii.gz", array, affine)), PREPARE)
    label = (array == 1000).astype(np.uint8)
    gallery = Gallery([case], [label])
    gallery.add("row", [label])
    gallery.write(tmp_path, "row", [])
    entries = json.loads((tmp_path / "overlays.json").read_text())
    assert [entry["rank"] for entry in entries] == ["worst", "median", "best"]
    assert {entry["slice"] for entry in entries} == {0}
