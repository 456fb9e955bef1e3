"""Grids of images from their headers alone, and label maps packed in memory."""

from __future__ import annotations

import io
from pathlib import Path

import nrrd
import numpy as np
import pytest
from annotated import AFFINE, PHOTO_CARD, SHAPE, card_of, write_nifti, write_png
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from uda.data.annotations.grids import Grid, grids_of
from uda.data.annotations.packed import PackedMaps
from uda.data.cases import Case
from uda.data.image_files import photo_size
from uda.data.sources import prepared_stack
from uda.errors import DataError


def cases(folder: Path, *files: str) -> list[Case]:
    return [Case(Path(name).name.partition(".")[0], folder / name) for name in files]


def test_a_grid_is_that_of_the_header(tmp_path: Path) -> None:
    write_nifti(tmp_path / "p.nii.gz", np.zeros(SHAPE, np.int16))
    grid = grids_of(cases(tmp_path, "p.nii.gz"), card_of())["p"]
    assert grid.shape == SHAPE
    assert grid.affine is not None
    assert np.allclose(grid.affine, AFFINE)
    assert (grid.slice_axis, grid.slices, grid.rows, grid.columns) == (0, 5, 7, 6)


def test_no_voxel_is_read(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "p.nii", np.zeros(SHAPE, np.int16))
    content = bytearray(path.read_bytes())
    content[352:] = b"\xff" * (len(content) - 352)
    path.write_bytes(content)
    assert grids_of(cases(tmp_path, "p.nii"), card_of())["p"].shape == SHAPE


@pytest.mark.parametrize(
    ("orientation", "axis", "own"),
    [
        ("stored", 0, 0),
        ("stored", 2, 2),
        ("RAS", 2, 0),
        ("RAS", 0, 1),
        ("ASL", 1, 0),
        ("ASL", 2, 1),
    ],
)
def test_the_slice_axis_is_the_files_own(
    tmp_path: Path, orientation: str, axis: int, own: int
) -> None:
    """The file's axes run to S, R and A; its slice axis is the one that becomes the card's."""
    prepare = {"size": [8, 8], "orientation": orientation, "slice_axis": axis}
    card = card_of(prepare=prepare)
    (case,) = cases(tmp_path, "p.nii.gz")
    write_nifti(case.image, np.random.default_rng(0).normal(size=SHAPE))
    grid = grids_of([case], card)["p"]
    assert grid.slice_axis == own
    geometry = prepared_stack(case, card)[1]
    assert geometry.turned_shape[0] == grid.slices
    assert {geometry.own_slice(n) for n in range(grid.slices)} == set(range(grid.slices))


def test_an_nrrd_has_the_same_grid(tmp_path: Path) -> None:
    turned = np.diag([-1, -1, 1, 1]) @ AFFINE
    fields = {"space": "LPS", "space directions": turned[:3, :3].T, "space origin": turned[:3, 3]}
    nrrd.write(str(tmp_path / "p.nrrd"), np.zeros(SHAPE, np.int16), fields)
    grid = grids_of(cases(tmp_path, "p.nrrd"), card_of())["p"]
    assert grid.shape == SHAPE
    assert np.allclose(grid.affine, AFFINE)


def test_arrays_without_a_header_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", np.zeros(SHAPE, np.float32))
    card = card_of(images="{case}.npz", axes={"npz": "RAS"})
    assert grids_of(cases(tmp_path, "p.npz"), card)["p"].shape == SHAPE


def test_photographs_have_rows_and_columns(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (31, 47, 3)).astype(np.uint8)
    write_png(tmp_path / "a.png", pixels)
    write_png(tmp_path / "b.jpg", pixels)
    grids = grids_of(cases(tmp_path, "a.png", "b.jpg"), PHOTO_CARD)
    for grid in grids.values():
        assert (grid.slices, grid.rows, grid.columns) == (1, 31, 47)
        assert grid.photo


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("profile", [b"", bytes(100_000)])
def test_the_size_of_a_jpeg_lies_behind_its_profiles(
    tmp_path: Path, progressive: bool, profile: bytes
) -> None:
    stream = io.BytesIO()
    image = Image.fromarray(np.zeros((9, 14, 3), np.uint8))
    image.save(stream, "JPEG", progressive=progressive, icc_profile=profile, exif=b"Exif\0\0II*\0")
    (tmp_path / "a.jpg").write_bytes(stream.getvalue())
    assert photo_size(tmp_path / "a.jpg") == (9, 14)
    cut = stream.getvalue()[: len(profile) // 2 + 20]
    (tmp_path / "a.jpg").write_bytes(cut)
    with pytest.raises(DataError, match="cut short within its header"):
        photo_size(tmp_path / "a.jpg")


def test_a_jpeg_that_viewers_turn_is_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((9, 14, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    with pytest.raises(DataError, match="EXIF orientation is 6"):
        photo_size(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"hello", "neither PNG nor JPEG"),
        (b"II*\0" + bytes(60), "is a TIFF file"),
        (b"\x89PNG\r\n\x1a\n\0\0", "cut short"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "PNG header is damaged"),
        (b"\xff\xd8\xff\xda" + bytes(40), "JPEG header is damaged"),
        (b"\xff\xd8\0\0", "JPEG header is damaged"),
    ],
)
def test_a_damaged_header_is_called_so(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=told):
        photo_size(tmp_path / "a.png")


def test_all_faults_of_images_are_told(tmp_path: Path) -> None:
    write_nifti(tmp_path / "p.nii.gz", np.zeros(SHAPE, np.int16))
    (tmp_path / "q.nii.gz").write_bytes(b"")
    with pytest.raises(DataError, match="2 faults") as caught:
        grids_of(cases(tmp_path, "p.nii.gz", "q.nii.gz", "r.nii.gz"), card_of())
    assert "q.nii.gz" in str(caught.value)
    assert "r.nii.gz" in str(caught.value)


@given(
    arrays(np.uint8, st.tuples(*[st.integers(1, 6)] * 3), elements=st.sampled_from([0, 1, 255])),
    st.booleans(),
)
def test_a_packed_map_comes_back(labels: np.ndarray, turned: bool) -> None:
    maps = PackedMaps()
    labels = labels.transpose(2, 0, 1) if turned else labels
    maps.add("p", labels)
    assert list(maps) == ["p"]
    assert np.array_equal(maps["p"], labels)
    maps["p"][...] = 7  # each asking makes a map of its own
    assert np.array_equal(maps["p"], labels)


def test_planes_are_the_other_axes() -> None:
    grid = Grid((2, 3, 4), np.eye(4), 1)
    assert (grid.slices, grid.rows, grid.columns, grid.plane) == (3, 2, 4, (0, 2))
