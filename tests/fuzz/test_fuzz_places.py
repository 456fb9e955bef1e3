"""The judge of where an image lies notices what a reader gets wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import nifti_places
import numpy as np
import pytest
from nifti_places import PLAIN, SHAPE, read_place
from nifti_standard import pack, read

from uda.data.geometry import Volume
from uda.errors import DataError

VOXELS = np.arange(np.prod(SHAPE), dtype="<i2").tobytes()
TILTED = [1.5, 0, 0, 7, 0, 1.5, 1.4, 8, 0, 0, 4, 9]


def written(path: Path, **fields: object) -> Path:
    path.write_bytes(pack(1, "<", {**PLAIN, **fields}, VOXELS))
    return path


def straight(affine: np.ndarray) -> np.ndarray:
    """The column norms alone."""
    found = np.diag([*np.linalg.norm(affine[:3, :3], axis=0), 1.0])
    found[:3, 3] = affine[:3, 3]
    return found


WRONG: dict[str, tuple[dict[str, object], Callable[[np.ndarray], np.ndarray]]] = {
    "unit": (
        {"xyzt_units": 3, "srow": np.array(TILTED) * 1000},
        lambda a: a * [[1e3], [1e3], [1e3], [1]],
    ),
    "shear": ({"srow": TILTED}, straight),
    "flip": ({}, lambda a: a @ np.diag([-1, 1, 1, 1])),
    "origin": ({}, lambda a: a + 0.01 * np.eye(4, k=3)),
    "size": ({}, lambda a: a @ np.diag([1, 1, 1 + 1e-5, 1])),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_reading_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    fields, change = WRONG[kind]
    path = written(tmp_path / "x.nii", **fields)
    read_place(path)
    sound = nifti_places.read_nifti

    def wrong(where: Path) -> Volume:
        volume = sound(where)
        return replace(volume, affine=change(volume.affine))

    monkeypatch.setattr(nifti_places, "read_nifti", wrong)
    with pytest.raises(AssertionError):
        read_place(path)


def test_a_refusal_of_a_sound_file_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(path: Path) -> Volume:
        raise DataError("no")

    monkeypatch.setattr(nifti_places, "read_nifti", refusing)
    with pytest.raises(AssertionError, match="a sound file was refused"):
        read_place(written(tmp_path / "x.nii"))
    with pytest.raises(DataError):
        read_place(written(tmp_path / "x.nii", xyzt_units=5))


def test_the_reading_by_the_standard_agrees_with_nibabel(tmp_path: Path) -> None:
    """Where both say something: the transform of either code, in the file's unit."""
    quatern = {"qform_code": 1, "sform_code": 0, "quatern": [0.1, -0.5, 0.3], "qoffset": [1, 2, 3]}
    for fields in (
        {},
        {"srow": TILTED},
        quatern,
        {**quatern, "pixdim": [-1.0, 2, 3, 4, 1, 0, 0, 0]},
    ):
        path = written(tmp_path / "x.nii", **fields)
        assert np.allclose(read(path.read_bytes()).affine, nibabel.load(path).affine, atol=1e-5)


def test_a_third_axis_of_unclear_sense_is_refused(tmp_path: Path) -> None:
    qform = {"qform_code": 1, "sform_code": 0, "quatern": [0, 0, 0], "qoffset": [1, 2, 3]}
    path = written(tmp_path / "x.nii", **qform, pixdim=[-3.0, 1, 1, 1, 1, 0, 0, 0])
    with pytest.raises(DataError, match=r"pixdim\[0\] is -3, not 1 or -1"):
        nifti_places.read_nifti(path)
