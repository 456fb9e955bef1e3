"""The report's pictures: which slice, which way up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import write_nifti
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from uda.config import Prepare
from uda.data.cases import Case
from uda.metrics import CaseScore
from uda.overlays import Gallery
from uda.prediction import read_case

SHAPE = (20, 24, 3)
PREPARE = Prepare(size=(20, 24))


def corner(code: str) -> tuple[np.ndarray, np.ndarray]:
    """A volume in axis code ``code``, bright at the patient's right, front, top end, and its affine."""
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
