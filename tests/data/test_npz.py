"""npz volumes: read as written, refused when damaged or malformed."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from uda.data.npz import read_arrays
from uda.data.records import fingerprint_images, read_npz, write_npz
from uda.errors import DataError

CUBE = np.ones((2, 2, 3), np.float32)
SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
IMAGES = hnp.arrays(np.float32, SHAPES, elements=FINITE)


def refused(read: Callable[[], Any]) -> DataError:
    with pytest.raises(DataError) as caught:
        read()
    return caught.value


@settings(max_examples=20, deadline=None)
@given(IMAGES, st.booleans())
def test_an_npz_survives(
    tmp_path_factory: pytest.TempPathFactory, image: np.ndarray, labelled: bool
) -> None:
    path = tmp_path_factory.mktemp("npz") / "x.npz"
    label = (image > 0).astype(np.uint8) if labelled else None
    write_npz(path, image, label)
    found, truth = read_npz(path)
    assert found.tobytes() == image.tobytes()
    assert (truth is None) is not labelled
    if truth is not None:
        assert truth.dtype == np.float32
        np.testing.assert_array_equal(truth, label)
    assert read_npz(path, labels=False)[1] is None
    first = path.read_bytes()
    write_npz(path, image, label)
    assert path.read_bytes() == first


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_any_real_type_and_order_is_read_by_its_values(
    tmp_path: Path, save: Callable[..., None]
) -> None:
    image = np.arange(24, dtype=">f8").reshape(2, 3, 4)
    save(tmp_path / "x.npz", np.asfortranarray(image), image.astype(np.int16))
    found, label = read_npz(tmp_path / "x.npz")
    np.testing.assert_array_equal(found, image)
    np.testing.assert_array_equal(label, image)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous


def npy(array: np.ndarray, shape: tuple[int, ...] | None = None) -> bytes:
    """An array's file; with ``shape``, a file whose header declares that shape."""
    stream = io.BytesIO()
    np.save(stream, array)
    if shape is None:
        return stream.getvalue()
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
    promised = io.BytesIO()
    np.lib.format.write_array_header_1_0(promised, header)
    return promised.getvalue() + array.tobytes()


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({}, "has no array 'arr_0'; its arrays: none"),
        ({"image.npy": npy(CUBE), "arr_1.npy": npy(CUBE)}, "its arrays: arr_1, image"),
        ({"arr_0.npy": npy(CUBE[0])}, r"has shape \(2, 3\)"),
        ({"arr_0.npy": npy(CUBE[:0])}, r"has shape \(0, 2, 3\)"),
        ({"arr_0.npy": npy(CUBE), "arr_1.npy": npy(CUBE[:1])}, "image is 2×2×3 and the label 1×2×3"),
        ({"arr_0.npy": npy(CUBE * np.nan)}, "12 image values are NaN"),
        ({"arr_0.npy": npy(CUBE.astype(complex))}, "holds complex128 values"),
        ({"arr_0.npy": npy(CUBE, (2**16, 2**16, 2**10))}, "has 48 bytes"),
        ({"arr_0.npy": npy(CUBE, (-2, -2, 3))}, r"has shape \(-2, -2, 3\)"),
        ({"arr_0.npy": b""}, "cannot be read as npz"),
        ({"arr_0.npy": b"\x93NUMPY\x01\x00\x08\x00{'a(:@)}"}, "cannot be read as npz"),
        ({"arr_0.npy": b"\x93NUMPY\x09\x00\x08\x00{'a':1}"}, "cannot be read as npz"),
    ],
)  # fmt: skip
def test_an_npz_of_something_else_is_refused(
    tmp_path: Path, members: dict[str, bytes], reason: str
) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(DataError, match=reason) as caught:
        read_npz(path)
    assert str(caught.value.where).startswith(str(path))


def test_python_objects_are_refused_unopened(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", np.array([[[print]]], dtype=object))
    assert "holds object values" in refused(lambda: read_npz(tmp_path / "x.npz")).what


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", CUBE)
    (tmp_path / "empty.npz").touch()
    for name in ("x.npy", "empty.npz", "absent.npz", "."):
        assert str(tmp_path / name) in str(refused(lambda: read_npz(tmp_path / name)))  # noqa: B023


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_cut_or_damaged_npz_is_refused_or_unharmed(
    tmp_path: Path, save: Callable[..., None]
) -> None:
    path = tmp_path / "x.npz"
    noise = np.random.default_rng(0).normal(size=(4, 4, 3)).astype(np.float32)
    save(path, noise, np.round(noise))
    whole = path.read_bytes()
    for kept in range(len(whole)):
        path.write_bytes(whole[:kept])
        assert refused(lambda: read_npz(path)).where == str(path)
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            image, label = read_npz(path)
        except DataError as fault:
            assert str(path) in str(fault.where)  # noqa: PT017
            continue
        np.testing.assert_array_equal(image, noise)  # a flip in an unread byte, e.g. of a date
        assert label is None or (label == np.round(noise)).all()


def test_the_fingerprint_of_an_npz_is_that_of_its_image(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    marks = []
    for arrays in ([CUBE], [CUBE, CUBE], [CUBE, CUBE[:1]], [CUBE, np.array(["x"])], [CUBE * 2]):
        np.savez(path, *arrays)
        marks.append(fingerprint_images(path))
    assert marks[0] == hashlib.sha256(b"(2, 2, 3)" + CUBE.tobytes()).hexdigest()
    assert set(marks[:4]) == {marks[0]}
    assert marks[4] != marks[0]


def test_the_arrays_together_are_held_to_a_limit_before_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, a=np.zeros(1000, np.uint8), b=np.zeros(1000, np.uint8))
    assert len(read_arrays(path, most=2256)[1]) == 2
    assert len(read_arrays(path, ["a"], most=1128)[1]) == 1
    monkeypatch.delattr("uda.data.npz._array")
    fault = refused(lambda: read_arrays(path, most=2255))
    assert fault.what == "holds arrays of 2256 bytes"
