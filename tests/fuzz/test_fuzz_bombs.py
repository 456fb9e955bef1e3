"""Small files that promise much: refused before memory or time is spent; large ones that are real are not."""

from __future__ import annotations

import bz2
import gzip
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import annotation_files as annotations
import nibabel
import numpy as np
import picture_files as pictures
import pytest
import text_files as texts
import volume_files as volumes
import weight_files as models
from feeding import attempt, bounded

from uda.config.card import DatasetCard
from uda.data.nifti import read_array, read_header
from uda.data.records import read_npz
from uda.data.sources import prepared_stack
from uda.data.volumes import prepare_image, read_volume
from uda.errors import DataError, UdaError
from uda.files import untrusted

SMALL = 8 << 20
"""Bytes by which memory may grow while a promise is refused."""


def promising(shape: tuple[int, ...]) -> bytes:
    """The header of a volume of int16 of this shape, and nothing behind it."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    header["sform_code"], header["srow_x"] = 1, (1, 0, 0, 0)
    header["srow_y"], header["srow_z"] = (0, 1, 0, 0), (0, 0, 1, 0)
    content: bytes = header.binaryblock
    return content + bytes(4)


def promising_nrrd(encoding: str, data: bytes) -> bytes:
    """The same as NRRD."""
    sound = annotations.nrrd(volumes.image().astype(np.int16), encoding="raw")
    head = sound[: sound.index(b"\n\n") + 2]
    head = head.replace(b"sizes: 9 8 4", b"sizes: 32767 32767 32767")
    return head.replace(b"encoding: raw", f"encoding: {encoding}".encode()) + data


def zeros(gigabytes: float) -> bytes:
    """A gzip stream of so many zeros, made without them."""
    packer, block = zlib.compressobj(1, wbits=31), bytes(1 << 22)
    parts = [packer.compress(block) for _ in range(round(gigabytes * 256))]
    return b"".join([*parts, packer.flush()])


TERABYTES = promising((32767, 32767, 32767))
BOMBS: dict[str, tuple[str, Callable[[], bytes], Callable[[Path], object], str]] = {
    "terabytes of voxels": ("x.nii", lambda: TERABYTES, read_volume, "promises 70"),
    "terabytes of packed voxels": (
        "x.nii.gz",
        lambda: gzip.compress(TERABYTES),
        read_volume,
        "packed bytes cannot hold",
    ),
    "what follows the last voxel": (
        "x.nii.gz",
        lambda: gzip.compress(volumes.nifti(volumes.label())) + zeros(0.5),
        read_volume,
        "header and image do not belong together",
    ),
    "terabytes of voxels in NRRD": (
        "x.nrrd",
        lambda: promising_nrrd("raw", b"\0"),
        read_volume,
        "promises 70",
    ),
    "terabytes of packed voxels in NRRD": (
        "x.nrrd",
        lambda: promising_nrrd("gzip", gzip.compress(bytes(100))),
        read_volume,
        "packed bytes cannot hold",
    ),
    "terabytes of voxels in bzip2": (
        "x.nrrd",
        lambda: promising_nrrd("bzip2", bz2.compress(bytes(100))),
        read_volume,
        "voxels would take 6.5",
    ),
    "what follows the last voxel in NRRD": (
        "x.nrrd",
        lambda: (
            annotations.nrrd(volumes.label(), encoding="gzip").rpartition(b"\x1f\x8b")[0]
            + zeros(0.5)
        ),
        read_volume,
        "header and image do not belong together",
    ),
    "a header without end": (
        "x.nrrd",
        lambda: b"NRRD0004\n" + b"# comment\n" * (1 << 20),
        read_volume,
        "its header has more than",
    ),
    "a mask of terabytes": (
        "x.json",
        lambda: annotations.shapes_of(
            {"segmentation": {"size": [2**31, 2**31], "counts": [0, 2**62]}}
        ),
        annotations.read_shapes_of,
        "its run lengths are of an image of size",
    ),
    "shapes without end": (
        "x.json",
        lambda: annotations.shapes_of({"segmentation": [[0, 0, 12, 0, 12, 8, 0, 8]]}, copies=100),
        annotations.read_shapes_of,
        "shapes cover more than 64 times the image",
    ),
    "an array of terabytes": (
        "x.npz",
        lambda: volumes.zipped(8, volumes.npy(volumes.image(), (2**20, 2**20, 2**10))),
        read_npz,
        "has 2304 bytes",
    ),
    "a PNG of a gigabyte": (
        "x.png",
        lambda: pictures.png(pictures.header(60_000, 6_000), zlib.compress(b"")),
        pictures.read_photo,
        "claims 6000×60000 pixels",
    ),
    "a PNG of more pixels than bytes can hold": (
        "x.png",
        lambda: pictures.png(pictures.header(8000, 9000), zlib.compress(b"")),
        pictures.read_photo,
        "bytes cannot hold 9000×8000 pixels",
    ),
    "a JPEG of thousands of scans": (
        "x.jpg",
        pictures.many_scans,
        pictures.read_photo,
        "scans, which would take for ever",
    ),
    "aliases of aliases": (
        "x.yaml",
        lambda: texts.ALIASES.encode(),
        texts.read_a_card,
        "with its aliases expanded, has more than 250000 values",
    ),
    "a list in a list in a list": (
        "prior.json",
        lambda: b"[" * 10**6,
        texts.read_prior,
        "nested too deeply",
    ),
    "a network of terabytes": (
        "model.safetensors",
        lambda: next(s.wrap(s.content) for s in models.odd_models()[1:]),
        models.read_model,
        "the weights are of another architecture",
    ),
    "a tensor header of a terabyte": (
        "model.safetensors",
        lambda: struct.pack("<Q", 2**40) + b"{}",
        models.read_model,
        "cannot be read as safetensors",
    ),
}


@pytest.mark.parametrize(
    ("name", "make", "read", "told"), BOMBS.values(), ids=[k.replace(" ", "-") for k in BOMBS]
)
@pytest.mark.usefixtures("as_users_see")
def test_a_bomb_is_refused_before_it_goes_off(
    name: str, make: Callable[[], bytes], read: Callable[[Path], object], told: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(make())
    with bounded():
        outcome, grown = attempt(read, path, tmp_path)
    assert outcome == "refused"
    assert grown < SMALL
    with pytest.raises(UdaError, match=told):
        read(path)


def test_an_archive_that_keeps_its_promise_is_refused_where_memory_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.nii.gz"
    path.write_bytes(gzip.compress(promising((1024, 1024, 256))) + zeros(0.5))
    assert path.stat().st_size < 4 << 20
    monkeypatch.setattr(untrusted, "memory", lambda: 256 << 20)
    with bounded():
        outcome, grown = attempt(read_volume, path, tmp_path)
    assert outcome == "refused"
    assert grown < SMALL
    with pytest.raises(DataError, match=r"1024×1024×256 voxels would take 0\.5 GiB") as caught:
        read_volume(path)
    assert "at most the 0.25 GiB of memory" in str(caught.value)


def test_a_whole_body_ct_is_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted, "memory", lambda: 16 << 30)
    shape, path = (1024, 1024, 2000), tmp_path / "x.nii"
    path.write_bytes(promising(shape))
    with path.open("r+b") as file:
        file.truncate(352 + 2 * 1024 * 1024 * 2000)  # a hole: it takes no room
    array, header = read_array(path)
    assert array.shape == header.shape == shape
    assert array[1023, 1023, 1999] == 0
    archive = tmp_path / "x.nii.gz"
    archive.write_bytes(gzip.compress(promising(shape)) + bytes(5 << 20))
    assert read_header(archive).shape == shape


def test_slices_that_would_not_fit_are_refused_with_their_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.nii"
    path.write_bytes(volumes.nifti(volumes.image()))
    prepare = volumes.CARD.prepare.model_copy(update={"spacing": 1e-5})
    with pytest.raises(DataError, match="of 8×8, cut from 1352997×1122853 pixels"):
        prepare_image(read_volume(path), prepare, path)
    photo = tmp_path / "x.png"
    photo.write_bytes(pictures.saved(pictures.photo()))
    monkeypatch.setattr(untrusted, "memory", lambda: 1 << 30)
    card = DatasetCard.model_validate(
        {**pictures.CARD.model_dump(), "prepare": {"kind": "photo", "size": [60_000, 60_000]}}
    )
    with pytest.raises(DataError, match="60000×60000 pixels would take"):
        prepared_stack(volumes.Case("x", photo), card)


def test_memory_is_what_the_process_may_have() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    whole = untrusted.memory()
    assert 1 << 28 < whole <= 1 << 50
    resource.setrlimit(resource.RLIMIT_AS, (whole - 4096, hard))
    try:
        assert untrusted.memory() == whole - 4096
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
