"""NRRD volumes: as NIfTI everywhere, at the right place in the world, and refused where they cannot be trusted."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest

from uda.config.card import DatasetCard
from uda.data.cases import Case, cases_in, cases_of
from uda.data.formats import read_blocks, read_grid
from uda.data.label_maps import label_values
from uda.data.nnunet.listing import read_listing
from uda.data.nrrd import MAX_HEADER, read_header, read_layers, read_nrrd
from uda.data.sources import prepared_label, prepared_stack
from uda.data.volumes import read_volume, write_volume
from uda.errors import DataError, UdaError

SHAPE = (7, 6, 5)
STEPS = np.array([[0.0, -1.5, 0.1], [1.4, 0.0, 0.0], [0.0, 0.2, 3.0]])
"""step along each axis of the file, in its space"""
ORIGIN = np.array([10.0, -20.0, 30.0])
CARD = DatasetCard.model_validate(
    {
        "name": "small",
        "title": "small",
        "images": ["{case}.nii.gz", "{case}.nrrd"],
        "labels": ["labels/{case}.nii.gz", "labels/{case}.nrrd"],
        "classes": ["background", "disk"],
        "label_values": {"background": [0], "disk": [1]},
        "prepare": {"size": [8, 8], "orientation": "RAS"},
        "splits": {"all": ["*"]},
    }
)


def voxels(dtype: Any = np.int16) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 200, SHAPE).astype(dtype)


def write(path: Path, array: np.ndarray, **fields: Any) -> Path:
    """A file of the space LPS unless fields say otherwise; a field None is left out."""
    header = {
        "space": "left-posterior-superior",
        "space directions": STEPS,
        "space origin": ORIGIN,
        "encoding": "gzip",
    } | fields
    path.parent.mkdir(parents=True, exist_ok=True)
    nrrd.write(str(path), array, {k: v for k, v in header.items() if v is not None})
    return path


def affine_in(signs: tuple[int, int, int], scale: float = 1.0) -> np.ndarray:
    affine = np.eye(4)
    for axis in range(3):
        for world in range(3):
            affine[world, axis] = signs[world] * STEPS[axis][world] * scale
    for world in range(3):
        affine[world, 3] = signs[world] * ORIGIN[world] * scale
    return affine


def text(path: Path, *lines: str, data: bytes = b"") -> Path:
    path.write_bytes("\n".join(("NRRD0004", *lines, "", "")).encode() + data)
    return path


SOUND = (
    "type: uint8",
    "dimension: 3",
    "sizes: 2 3 4",
    "encoding: raw",
    "space: left-posterior-superior",
    "space directions: (1,0,0) (0,1,0) (0,0,1)",
    "space origin: (0,0,0)",
)


def changed(**fields: str) -> tuple[str, ...]:
    named = {line.partition(":")[0]: line.partition(": ")[2] for line in SOUND}
    named |= {name.replace("_", " "): value for name, value in fields.items()}
    return tuple(f"{name}: {value}" for name, value in named.items() if value)


# what is read


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
@pytest.mark.parametrize(
    "dtype", ["i1", "u1", "<i2", ">i2", "<u2", "<i4", ">u4", "<i8", "<u8", ">f4", "<f8"]
)
def test_voxels_are_those_that_were_written(tmp_path: Path, encoding: str, dtype: str) -> None:
    array = np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype)
    path = write(tmp_path / "x.nrrd", array, encoding=encoding)
    volume = read_volume(path)
    assert volume.array.dtype == np.dtype(dtype)
    assert np.array_equal(volume.array, array)
    blocks = list(read_blocks(path, 50))
    assert [len(block) for block in blocks] == [50, 50, 50, 50, 10]
    assert np.array_equal(np.concatenate(blocks), array.ravel(order="F"))


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("right-anterior-superior", (1, 1, 1)),
        ("RAS", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
        ("left-posterior-superior", (-1, -1, 1)),
        ("LPS", (-1, -1, 1)),
    ],
)
def test_a_space_is_turned_to_ras(tmp_path: Path, space: str, signs: tuple[int, int, int]) -> None:
    volume = read_nrrd(write(tmp_path / "x.nrrd", voxels(), space=space))
    assert np.allclose(volume.affine, affine_in(signs))
    assert volume.placed
    assert volume.unit_known


@pytest.mark.parametrize(
    ("unit", "scale"), [("mm", 1.0), ("cm", 10.0), ("m", 1000.0), ("µm", 0.001), ("microns", 0.001)]
)
def test_lengths_become_millimetres(tmp_path: Path, unit: str, scale: float) -> None:
    path = tmp_path / "x.nrrd"
    lines = (*SOUND, f'space units: "{unit}" "{unit}" "{unit}"')
    text(path, *lines, data=bytes(24))
    assert np.allclose(np.diag(read_nrrd(path).affine)[:3], np.array([-1, -1, 1]) * scale)


def test_sizes_alone_are_no_place(tmp_path: Path) -> None:
    lines = (*changed(space="", space_directions="", space_origin=""), "spacings: 0.5 0.5 2")
    volume = read_nrrd(text(tmp_path / "x.nrrd", *lines, data=bytes(24)))
    assert np.allclose(volume.affine, np.diag([0.5, 0.5, 2, 1]))
    assert not volume.placed
    assert not volume.unit_known


def test_windows_line_breaks_and_comments_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.nrrd"
    content = "\r\n".join(("NRRD0004", "# a comment: of mine", *SOUND, "", "")).encode()
    path.write_bytes(content + bytes(range(24)))
    assert np.array_equal(
        read_nrrd(path).array, np.arange(24, dtype=np.uint8).reshape((2, 3, 4), order="F")
    )


def test_text_of_writers_keeps_its_letters(tmp_path: Path) -> None:
    lines = (*SOUND, r"note:=a\\b\nc", "Segment0_Name:=Höhle: links")
    header = read_header(text(tmp_path / "x.nrrd", *lines, data=bytes(24)))
    assert header.fields["note"] == "a\\b\nc"
    assert header.fields["Segment0_Name"] == "Höhle: links"


@pytest.mark.parametrize("axis", [0, 3])
def test_layers_come_first_wherever_they_lie(tmp_path: Path, axis: int) -> None:
    layers = np.random.default_rng(0).integers(0, 3, (2, *SHAPE)).astype(np.uint8)
    none = [float("nan")] * 3
    steps = [*STEPS.tolist()]
    steps.insert(axis, none)
    path = write(
        tmp_path / "x.seg.nrrd",
        np.moveaxis(layers, 0, axis),
        **{"space directions": np.array(steps)},
    )
    found, header = read_layers(path)
    assert np.array_equal(found, layers)
    assert header.shape == SHAPE
    assert header.layers == 2
    with pytest.raises(DataError, match="has 2 layers"):
        read_nrrd(path)


# everywhere a NIfTI is read


def test_a_case_is_the_same_in_both_formats(tmp_path: Path) -> None:
    array, mask = voxels(), (voxels() > 100).astype(np.uint8)
    affine = affine_in((-1, -1, 1))
    for kind, content in (("", array), ("labels/", mask)):
        (tmp_path / "a" / kind).mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(content, affine), tmp_path / "a" / kind / "p.nii.gz")
        write(tmp_path / "b" / kind / "p.nrrd", content)
    cases = [cases_of(CARD, tmp_path / place, "all", labels=True)[0] for place in "ab"]
    (one, place, _), (other, same, _) = (prepared_stack(case, CARD) for case in cases)
    assert np.allclose(one, other, atol=1e-5)
    assert np.allclose(place.affine, same.affine, atol=1e-5)
    labels = [prepared_label(case, same, CARD) for case in cases]
    assert np.array_equal(*labels)
    assert labels[0].any()
    shape, found = read_grid(cases[1].image)
    assert shape == SHAPE
    assert np.allclose(found, affine)


def test_a_mask_of_an_nrrd_image_is_nifti_at_its_place(tmp_path: Path) -> None:
    volume = read_volume(write(tmp_path / "x.nrrd", voxels()))
    write_volume(
        tmp_path / "mask.nii.gz", np.ones(SHAPE, np.uint8), volume.affine, None, volume.header
    )
    assert np.allclose(nibabel.load(tmp_path / "mask.nii.gz").affine, affine_in((-1, -1, 1)))


def test_a_folder_of_images_may_hold_nrrd(tmp_path: Path) -> None:
    for name in ("a.nrrd", "B.NRRD"):
        write(tmp_path / name, np.random.default_rng(0).normal(size=SHAPE))
    assert [case.name for case in cases_in(tmp_path)] == ["B", "a"]


def test_segmentations_among_images_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.nrrd", np.random.default_rng(0).normal(size=SHAPE))
    write(tmp_path / "a.seg.nrrd", np.random.default_rng(0).normal(size=SHAPE))
    with pytest.raises(DataError, match=r"segmentations of 3D Slicer: a.seg.nrrd"):
        cases_in(tmp_path)


def test_label_maps_are_known_by_their_values(tmp_path: Path) -> None:
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[2:7, 2:7, 2:7] = 2
    assert label_values(read_blocks(write(tmp_path / "x.nrrd", mask), 100)) == [0, 2]
    write(tmp_path / "y.nrrd", np.random.default_rng(0).normal(size=SHAPE))
    with pytest.raises(DataError, match=r"few whole values: x.nrrd"):
        cases_in(tmp_path)


def test_a_data_set_of_nnunet_may_be_nrrd(tmp_path: Path) -> None:
    write(tmp_path / "imagesTr" / "a_0000.nrrd", voxels())
    write(tmp_path / "labelsTr" / "a.nrrd", (voxels() > 100).astype(np.uint8))
    listing = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "disk": 1}}
    listing |= {"numTraining": 1, "file_ending": ".nrrd"}
    (tmp_path / "dataset.json").write_text(json.dumps(listing))
    assert read_listing(tmp_path).training["a"].label == "labelsTr/a.nrrd"


# what is refused

FAULTS: dict[str, tuple[tuple[str, ...], bytes, str]] = {
    "cut short": (SOUND, bytes(23), "promises 24 bytes of voxels, which 23 bytes cannot hold"),
    "packed and cut": (changed(encoding="gzip"), b"\x1f\x8b\x08\0", "cannot be read as NRRD: "),
    "not packed": (changed(encoding="gzip"), bytes(24), "Not a gzipped file"),
    "text": (changed(encoding="ascii"), b"1 " * 24, "its encoding is 'ascii'"),
    "hex": (changed(encoding="hex"), b"00" * 24, "its encoding is 'hex'"),
    "structures": (changed(type="block"), bytes(24), "of type 'block', not numbers"),
    "an unknown type": (changed(type="half"), bytes(48), "of type 'half'"),
    "no order of bytes": (changed(type="int16"), bytes(48), "order of bytes as ''"),
    "a strange order": (changed(type="int16", endian="middle"), bytes(48), "as 'middle'"),
    "two axes": (
        changed(dimension="2", sizes="4 6", space_directions="(1,0,0) (0,1,0)"),
        bytes(24),
        "has sizes (4, 6)",
    ),
    "five axes": (
        changed(
            dimension="5", sizes="1 1 2 3 4", space_directions="none none (1,0,0) (0,1,0) (0,0,1)"
        ),
        bytes(24),
        "has sizes (1, 1, 2, 3, 4)",
    ),
    "sizes of another number": (changed(dimension="4"), bytes(24), "has sizes [2, 3, 4]"),
    "no size": (changed(sizes="2 3 0"), b"", "has sizes [2, 3, 0]"),
    "a negative size": (changed(sizes="2 -3 4"), bytes(24), "has sizes [2, -3, 4]"),
    "steps in a plane": (
        changed(space_directions="(1,0) (0,1) (1,1)"),
        bytes(24),
        "a step of three numbers",
    ),
    "no steps": (changed(space_directions=""), bytes(24), "nothing of its pixels' sizes"),
    "flat": (
        changed(space_directions="(1,0,0) (1,0,0) (0,0,1)"),
        bytes(24),
        "its axes nearly lie in one plane",
    ),
    "an unknown unit": ((*SOUND, 'space units: "inch" "inch" "inch"'), bytes(24), "'inch'"),
    "two units": ((*SOUND, 'space units: "mm" "cm" "mm"'), bytes(24), "several units of length"),
    "a part left out": ((*SOUND, "byte skip: 4"), bytes(28), "byte skip: 4"),
    "a field twice": ((*SOUND, "type: uint8"), bytes(24), "Duplicate header field"),
    "no fields": ((), bytes(24), "sizes"),
    "no colon": (("hello",), bytes(24), "cannot be read as NRRD"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named(tmp_path: Path, name: str) -> None:
    lines, data, told = FAULTS[name]
    path = text(tmp_path / "x.nrrd", *lines, data=data)
    with pytest.raises(DataError) as caught:
        read_volume(path)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.expected or caught.value.fix


def test_a_sound_header_is_read_by_the_same_words(tmp_path: Path) -> None:
    assert read_volume(text(tmp_path / "x.nrrd", *SOUND, data=bytes(24))).array.shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "does not begin with NRRD000"),
        (b"NRRD0004\ntype: uint8\n", "ends within its header"),
        (b"NRRD0009\ntype: uint8\n\n", "Unsupported NRRD file version"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "is a PNG file, not NRRD"),
        (b"NRRD0004\n" + b"# x\n" * (MAX_HEADER // 4), f"more than {MAX_HEADER} bytes"),
    ],
)
def test_what_is_no_nrrd_is_called_so(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "x.nrrd").write_bytes(content)
    with pytest.raises(DataError, match=told):
        read_volume(tmp_path / "x.nrrd")


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    array = voxels(np.float32)
    array[1, 2, 3] = np.nan
    with pytest.raises(DataError, match="1 voxels are NaN"):
        read_volume(write(tmp_path / "x.nrrd", array))


def test_damage_behind_the_voxels_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "x.nrrd", voxels())
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # of the archive's checksum
    path.write_bytes(content)
    with pytest.raises(DataError, match="CRC"):
        read_volume(path)


def test_without_pynrrd_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.nrrd", voxels())
    monkeypatch.setitem(sys.modules, "nrrd", None)
    with pytest.raises(UdaError, match=r'pip install "uda-seg\[nrrd\]"'):
        read_volume(path)


def test_a_case_without_its_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        prepared_stack(Case("x", tmp_path / "x.nrrd"), CARD)
