"""A file under a wrong name is told as what it is, never as damaged."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from uda.data.image_files import read_file
from uda.data.npz import read_arrays
from uda.data.tfrecord import read_frames
from uda.data.volumes import read_volume
from uda.errors import DataError, UdaError, UnreadableError
from uda.files.signatures import kind_of


def drawn(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(stream, kind)
    return stream.getvalue()


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("scan.nii", "x" * 600)
    return stream.getvalue()


FOREIGN = {
    "a TIFF file": drawn("TIFF"),
    "a BMP file": drawn("BMP"),
    "a GIF file": drawn("GIF"),
    "a WebP file": drawn("WEBP"),
    "a PGM or PPM file": drawn("PPM"),
    "a zip archive": zipped(),
    "a DICOM file": bytes(128) + b"DICM" + bytes(400),
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(600),
    "an NRRD file": b"NRRD0004\ntype: short\n",
    "a MetaImage file": b"ObjectType = Image\nNDims = 3\n",
    "a companion file of macOS": b"\0\x05\x16\x07" + bytes(200),
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\n",
    "an HTML page": b"\n<!DOCTYPE html><html><body>404</body></html>",
    "a bzip2 archive": b"BZh91AY&SY" + bytes(50),
}
BIG_TIFF = b"MM\0+\0\x08" + bytes(500)


def refused(path: Path) -> UdaError:
    read = read_volume if path.name.lower().endswith((".nii", ".nii.gz")) else read_file
    with pytest.raises(DataError) as caught:
        read(path)
    fault = caught.value
    assert "damaged" not in str(fault)
    assert "again" not in str(fault)
    return fault


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.NII.GZ", "x.png", "x.JPG"])
def test_a_foreign_file_is_told_as_what_it_is(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FOREIGN[kind])
    fault = refused(path)
    assert fault.what.startswith(f"is {kind}")
    assert fault.where == path
    volume = name.lower().startswith("x.nii")
    assert fault.what.endswith("not NIfTI" if volume else "not PNG or JPEG")
    assert volume or isinstance(fault, UnreadableError)


def test_images_are_told_where_volumes_are_expected_and_the_reverse(tmp_path: Path) -> None:
    for name, content, what in (
        ("x.nii", drawn("PNG"), "is a PNG file, not NIfTI"),
        ("x.nii", drawn("JPEG"), "is a JPEG file, not NIfTI"),
        ("x.nii.gz", gzip.compress(drawn("TIFF")), "is a gzip archive of a TIFF file, not NIfTI"),
        ("x.png", gzip.compress(bytes(400)), "is a gzip archive, not PNG or JPEG"),
        ("x.png", BIG_TIFF, "is a TIFF file, not PNG or JPEG"),
        ("x.png", bytes(344) + b"n+1\0" + bytes(9), "is a NIfTI file, not PNG or JPEG"),
    ):
        (tmp_path / name).write_bytes(content)
        assert refused(tmp_path / name).what == what


@pytest.mark.parametrize("kind", sorted(FOREIGN.keys() - {"a zip archive"}))
def test_arrays_and_records_are_no_other_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(FOREIGN[kind])
    with pytest.raises(DataError, match=rf"is {kind}.*, not npz"):
        read_arrays(path)
    with pytest.raises(DataError, match=rf"is {kind}.*, not a TFRecord"):
        next(read_frames(path))


@pytest.mark.parametrize(("kind", "name"), [("PNG", "x.jpg"), ("JPEG", "x.png")])
def test_png_and_jpeg_are_read_under_each_others_name(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / name).write_bytes(drawn(kind))
    assert read_file(tmp_path / name)[1].format == kind


@pytest.mark.parametrize("content", [b"", b"BM", b"BMI of 30 patients,", b"hello", bytes(600)])
def test_nothing_is_said_of_unknown_bytes(content: bytes) -> None:
    assert kind_of(content) is None
