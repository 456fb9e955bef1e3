"""Records: read as written, refused when damaged or malformed."""

from __future__ import annotations

import hashlib
import mmap
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from uda.data.records import (
    count_records,
    encode_example,
    fingerprint_images,
    read_images,
    read_records,
    write_records,
)
from uda.data.tfrecord import frame
from uda.errors import DataError

quick = settings(max_examples=20, deadline=None)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
IMAGE = np.arange(4, dtype=np.float32).reshape(2, 2, 1)
LABEL = np.array([0, 5, 1, 4], np.float32).reshape(2, 2, 1)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = (*draw(st.tuples(st.integers(1, 5), st.integers(1, 5))), draw(st.sampled_from((1, 3))))
    label = hnp.arrays(np.uint8, shape, elements=st.integers(0, 5))
    return draw(hnp.arrays(np.float32, shape, elements=FINITE)), draw(label)


def features(**changed: Any) -> dict[str, Any]:
    sizes = {f"{kind}size_dim{axis}": [IMAGE.shape[axis]] for kind in "dl" for axis in range(3)}
    return {"data_vol": IMAGE.tobytes(), "label_vol": LABEL.tobytes(), **sizes, **changed}


def file_of(path: Path, *examples: dict[str, Any]) -> Path:
    path.write_bytes(b"".join(frame(encode_example(example)) for example in examples))
    return path


def refused(read: Callable[[], Any]) -> DataError:
    with pytest.raises(DataError) as caught:
        read()
    return caught.value


@quick
@given(st.lists(pairs(), min_size=1, max_size=4))
def test_records_survive_a_file(
    tmp_path_factory: pytest.TempPathFactory, written: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    path = tmp_path_factory.mktemp("records") / "x.tfrecords"
    write_records(path, written)
    found = list(read_records(path))
    assert count_records(path) == len(found) == len(written)
    for record, image, (data, label) in zip(found, read_images(path), written, strict=True):
        assert record.image.dtype == record.label.dtype == np.float32
        assert record.image.tobytes() == image.tobytes() == data.tobytes()
        np.testing.assert_array_equal(record.label, label)
        assert not record.image.flags.writeable
    first = path.read_bytes()
    write_records(path, written)
    assert path.read_bytes() == first


def test_a_record_has_the_keys_of_the_release(tmp_path: Path) -> None:
    write_records(tmp_path / "x.tfrecords", [(IMAGE, LABEL)])
    content = (tmp_path / "x.tfrecords").read_bytes()
    assert content == frame(
        encode_example(
            {
                "data_vol": np.array([0, 1, 2, 3], "<f4").tobytes(),
                "label_vol": np.array([0, 5, 1, 4], "<f4").tobytes(),
                "dsize_dim0": [2],
                "lsize_dim0": [2],
                "dsize_dim1": [2],
                "lsize_dim1": [2],
                "dsize_dim2": [1],
                "lsize_dim2": [1],
            }
        )
    )


def test_further_keys_are_ignored_and_records_know_their_place(tmp_path: Path) -> None:
    more = features(mask_vol=bytes(16), mask_scale=[4], bias_dim0=[-10], bias_dim1=[-(2**63)])
    path = file_of(tmp_path / "x.tfrecords", features(), more)
    first, second = read_records(path)
    assert (first.offset, second.offset) == (0, 16 + len(encode_example(features())))
    np.testing.assert_array_equal(second.image, IMAGE)
    np.testing.assert_array_equal(second.label, LABEL)


def test_every_truncation_of_a_record_is_refused(tmp_path: Path) -> None:
    path = file_of(tmp_path / "x.tfrecords", features())
    whole = path.read_bytes()
    reasons = {}
    for kept in range(len(whole)):
        path.write_bytes(whole[:kept])
        fault = refused(lambda: list(read_records(path)))
        assert fault.where == f"{path}, byte 0"
        assert isinstance(refused(lambda: count_records(path)), DataError)
        reasons[kept] = fault.what
    parts = ("empty", 0, 1), ("length (", 1, 8), ("length's checksum", 8, 12)
    for part, low, high in (*parts, ("payload (", 12, len(whole) - 4)):
        assert all(part in reasons[kept] for kept in range(low, high))
    assert all("payload's checksum" in reasons[len(whole) - left] for left in (1, 2, 3, 4))


def test_every_flipped_bit_of_a_record_is_refused(tmp_path: Path) -> None:
    path = file_of(tmp_path / "x.tfrecords", features())
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        fault = refused(lambda: list(read_records(path)))
        part = "length's checksum" if bit < 96 else "payload's checksum"
        assert fault.where == f"{path}, byte 0"
        assert f"{part} does not match" in fault.what


def test_a_damaged_second_record_is_named_by_its_byte(tmp_path: Path) -> None:
    path = file_of(tmp_path / "x.tfrecords", features(), features(data_vol=IMAGE.tobytes()[:-4]))
    at = 16 + len(encode_example(features()))
    assert refused(lambda: list(read_records(path))).where == f"{path}, byte {at}"
    assert count_records(path) == 2  # only lengths are looked at


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"data_vol": None}, "no key 'data_vol'; its keys: dsize_dim0, dsize_dim1, dsize_dim2, label"),
        ({"lsize_dim2": None}, "no key 'lsize_dim2'; its keys: data_vol, "),
        ({"data_vol": [1, 2]}, "'data_vol' holds int64 values"),
        ({"dsize_dim1": b"2"}, "'dsize_dim1' holds bytes values"),
        ({"dsize_dim1": []}, "'dsize_dim1' holds no int64 values"),
        ({"dsize_dim1": [2] * 9}, "'dsize_dim1' holds several int64 values"),
        ({"data_vol": bytes(12)}, "data_vol has 12 bytes.*expected: 16 for dsize_dim0..2 of 2×2×1"),
        ({"label_vol": bytes(20)}, "label_vol has 20 bytes.*expected: 16 for lsize_dim0..2 of 2×2×1"),
        ({"dsize_dim0": [0]}, "dsize_dim0..2 are 0×2×1"),
        ({"dsize_dim0": [-2], "dsize_dim1": [-2]}, "dsize_dim0..2 are -2×-2×1"),
        ({"dsize_dim0": [2**40]}, "data_vol has 16 bytes.*expected: 8796093022208 for "),
        ({"dsize_dim0": [2**63 - 1], "dsize_dim1": [2**63 - 1]}, "has 16 bytes"),
        ({"lsize_dim0": [4], "lsize_dim1": [1]}, "the image is 2×2×1 and the label 4×1×1"),
        ({"dsize_dim0": [1], "dsize_dim2": [2]}, "data_vol has 2 channels"),
        ({"data_vol": np.float32([0, np.nan, 1, np.inf]).tobytes()}, "2 image values are NaN or inf"),
        ({"data_vol": np.float32([np.inf, -np.inf, 0, 0]).tobytes()}, "2 image values are NaN or inf"),
    ],
)  # fmt: skip
def test_a_record_that_contradicts_itself_is_refused(
    tmp_path: Path, changed: dict[str, Any], reason: str
) -> None:
    kept = {key: value for key, value in features(**changed).items() if value is not None}
    path = file_of(tmp_path / "x.tfrecords", kept)
    with pytest.raises(DataError, match=f"(?s){reason}") as caught:
        list(read_records(path))
    assert caught.value.where == f"{path}, byte 0"


def test_the_release_s_own_size_is_spelled_out(tmp_path: Path) -> None:
    sizes = {f"dsize_dim{axis}": [size] for axis, size in enumerate((256, 256, 3))}
    path = file_of(tmp_path / "x.tfrecords", features(**sizes))
    assert refused(lambda: list(read_records(path))).expected == (
        "786432 for dsize_dim0..2 of 256×256×3"
    )


def test_large_finite_values_are_no_fault(tmp_path: Path) -> None:
    huge = np.full((2, 2, 1), np.finfo(np.float32).max)
    write_records(tmp_path / "x.tfrecords", [(huge, LABEL)])
    assert next(read_records(tmp_path / "x.tfrecords")).image.max() == huge.max()


@pytest.mark.parametrize(
    ("image", "label"),
    [
        (IMAGE, LABEL[:1]),
        (IMAGE[..., 0], LABEL[..., 0]),
        (IMAGE.repeat(2, axis=2), LABEL.repeat(2, axis=2)),
        (IMAGE * np.nan, LABEL),
        (IMAGE[:0], LABEL[:0]),
    ],
)
def test_what_could_not_be_read_is_not_written(
    tmp_path: Path, image: np.ndarray, label: np.ndarray
) -> None:
    path = tmp_path / "x.tfrecords"
    fault = refused(lambda: write_records(path, [(IMAGE, LABEL), (image, label)]))
    assert fault.where == f"{path}, record 1"
    refused(lambda: write_records(path, []))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks the kernel")
def test_a_long_file_is_read_in_constant_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecords"
    image, label = np.ones((256, 256, 3), np.float32), np.zeros((256, 256, 3), np.float32)
    write_records(path, ((image, label) for _ in range(48)))  # 75 MB

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    next(read_records(path))
    tracemalloc.start()
    start, peak, total = resident(), 0, 0.0
    for record in read_records(path):
        total += float(record.image.sum() + record.label.sum())
        peak = max(peak, resident())
    traced = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 48 * image.size
    assert traced < 1 << 20
    assert peak - start < 24 << 20


def test_the_fingerprint_of_records_is_that_of_their_images(tmp_path: Path) -> None:
    base = fingerprint_images(file_of(tmp_path / "a.tfrecords", features(), features()))
    image = repr((2, 2, 1)).encode() + IMAGE.tobytes()
    assert base == hashlib.sha256(image + image).hexdigest()
    without = {key: value for key, value in features().items() if not key.startswith("l")}
    for other in (features(label_vol=bytes(16)), features(label_vol=b"", mask_scale=[3]), without):
        assert fingerprint_images(file_of(tmp_path / "b.tfrecords", features(), other)) == base
    turned = {"dsize_dim0": [4], "dsize_dim1": [1]}
    for other in (features(data_vol=bytes(16)), features(**turned)):
        assert fingerprint_images(file_of(tmp_path / "b.tfrecords", features(), other)) != base
    assert fingerprint_images(file_of(tmp_path / "b.tfrecords", features())) != base


def test_a_damaged_label_still_damages_the_record(tmp_path: Path) -> None:
    path = file_of(tmp_path / "x.tfrecords", features())
    path.write_bytes(path.read_bytes().replace(LABEL.tobytes(), IMAGE.tobytes()[::-1]))
    assert "payload's checksum" in refused(lambda: fingerprint_images(path)).what
