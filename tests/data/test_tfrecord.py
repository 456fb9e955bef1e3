"""TFRecord frames and tf.train.Example messages, against published vectors and TensorBoard's own writer."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.summary.writer.record_writer import RecordWriter

from uda.data.tfrecord import decode_example, encode_example, frame, masked_crc, read_frames
from uda.errors import DataError

INT64 = st.integers(-(2**63), 2**63 - 1)
FEATURES = st.dictionaries(
    st.text(max_size=8), st.one_of(st.binary(max_size=300), st.lists(INT64, max_size=4)), max_size=5
)
quick = settings(max_examples=25, deadline=None)


def crc32c_bit_by_bit(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def example_class() -> Any:
    """tf.train.Example as protobuf's own library understands it."""
    file = descriptor_pb2.FileDescriptorProto(name="example", package="t", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto

    def message(name: str, *fields: tuple[str, int, str | int, bool]) -> Any:
        added = file.message_type.add(name=name)
        for label, number, kind, repeated in fields:
            one = added.field.add(name=label, number=number, label=3 if repeated else 1)
            if isinstance(kind, str):
                one.type, one.type_name = field.TYPE_MESSAGE, f".t.{kind}"
            else:
                one.type = kind
        return added

    message("BytesList", ("value", 1, field.TYPE_BYTES, True))
    message("FloatList", ("value", 1, field.TYPE_FLOAT, True))
    message("Int64List", ("value", 1, field.TYPE_INT64, True))
    kinds = ("bytes_list", 1, "BytesList"), ("float_list", 2, "FloatList")
    feature = message(
        "Feature", *((*kind, False) for kind in (*kinds, ("int64_list", 3, "Int64List")))
    )
    feature.oneof_decl.add(name="kind")
    for one in feature.field:
        one.oneof_index = 0
    features = message("Features", ("feature", 1, "Features.FeatureEntry", True))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=1, type=field.TYPE_STRING)
    value = entry.field.add(name="value", number=2, label=1, type=field.TYPE_MESSAGE)
    value.type_name = ".t.Feature"
    message("Example", ("features", 1, "Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


EXAMPLE = example_class()


def plain(features: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, (list, tuple)) else bytes(v) for k, v in features.items()}


def decoded(payload: bytes) -> dict[str, Any]:
    return plain(decode_example(memoryview(payload)))


def payloads(path: Path) -> list[bytes]:
    return [bytes(payload) for _, payload in read_frames(path)]


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"123456789", 0xE3069283),  # the usual check value, then RFC 3720 B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"", 0),
    ],
)
def test_checksums_are_the_published_ones(data: bytes, crc: int) -> None:
    assert crc32c_bit_by_bit(data) == crc
    assert masked_crc(data) == masked_crc(memoryview(data)) == masked(crc)


@quick
@given(st.binary(max_size=200))
def test_a_frame_is_the_one_tensorboard_writes(payload: bytes) -> None:
    stream = io.BytesIO()
    RecordWriter(stream).write(payload)
    assert frame(payload) == stream.getvalue()


def test_frames_are_read_where_they_lie(tmp_path: Path) -> None:
    parts = [b"", b"a" * 300, b"bc"]
    path = tmp_path / "x.tfrecords"
    path.write_bytes(b"".join(frame(part) for part in parts))
    found = [(at, bytes(payload)) for at, payload in read_frames(path)]
    assert found == [(0, b""), (16, b"a" * 300), (16 + 316, b"bc")]


def test_views_are_read_only_and_outlive_reader_and_file(tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecords"
    parts = [bytes([i]) * (3 << 20) for i in range(8)]  # more than is kept of a file at a time
    path.write_bytes(b"".join(frame(part) for part in parts))
    views = [payload for _, payload in read_frames(path)]
    path.unlink()
    assert views == parts
    with pytest.raises(TypeError, match="read-only"):
        views[0][0] = 1


@quick
@given(FEATURES)
def test_protobuf_reads_what_we_encode(features: dict[str, Any]) -> None:
    message = EXAMPLE.FromString(encode_example(features))
    found = {
        key: feature.bytes_list.value[0]
        if feature.WhichOneof("kind") == "bytes_list"
        else tuple(feature.int64_list.value)
        for key, feature in message.features.feature.items()
    }
    assert found == plain(features)


@quick
@given(FEATURES, st.lists(st.floats(width=32, allow_nan=False), max_size=3))
def test_we_read_what_protobuf_encodes(features: dict[str, Any], numbers: list[float]) -> None:
    message = EXAMPLE()
    others = ("several", "numbers", "nothing")
    features = {key: value for key, value in features.items() if key not in others}
    for key, value in features.items():
        if isinstance(value, bytes):
            message.features.feature[key].bytes_list.value.append(value)
        else:
            message.features.feature[key].int64_list.SetInParent()
            message.features.feature[key].int64_list.value.extend(value)
    message.features.feature["several"].bytes_list.value.extend([b"x", b"", b"yz"])
    message.features.feature["numbers"].float_list.value.extend(numbers)
    message.features.feature["nothing"].SetInParent()
    more = {"several": (b"x", b"", b"yz"), "numbers": tuple(numbers), "nothing": ()}
    assert decoded(message.SerializeToString()) == {**plain(features), **more}


BY_HAND = bytes.fromhex(
    "0a1f"  # features, 31 bytes
    "0a0b 0a0161 1206 0a04 0a020102"  # a: bytes 01 02
    "0a10 0a0162 120b 1a09 0807 08ac02 080a 0800"  # b: integers, each with its tag
)


def test_an_example_by_hand_with_its_integers_one_by_one() -> None:
    assert decoded(BY_HAND) == {"a": b"\x01\x02", "b": (7, 300, 10, 0)}


def test_an_example_by_hand_with_its_integers_packed() -> None:
    ones = b"\xff" * 9 + b"\x01"  # -1 in two's complement
    packed = b"\x0a\x0c" + ones + b"\xac\x02"
    entry = b"\x0a\x01b\x12\x10\x1a\x0e" + packed
    expected = b"\x0a\x17\x0a\x15" + entry
    assert encode_example({"b": [-1, 300]}) == expected
    assert decoded(expected) == {"b": (-1, 300)}
    assert decoded(wrapped(b"\x0a\x01b\x12\x0d\x1a\x0b\x08" + ones)) == {"b": (-1,)}


def test_floats_come_packed_and_one_by_one() -> None:
    one, two = struct.pack("<f", 1.5), struct.pack("<f", -2.0)
    body = b"\x0d" + one + b"\x0a\x08" + two + one
    feature = b"\x12" + bytes([len(body)]) + body
    entry = b"\x0a\x01f\x12" + bytes([len(feature)]) + feature
    assert decoded(wrapped(entry)) == {"f": (1.5, -2.0, 1.5)}


def wrapped(entry: bytes) -> bytes:
    inner = b"\x0a" + bytes([len(entry)]) + entry
    return b"\x0a" + bytes([len(inner)]) + inner


def test_unknown_fields_of_every_width_are_passed_over() -> None:
    unknown = b"\x78\x96\x01" + b"\x79" + bytes(8) + b"\x7a\x02hi" + b"\x7d" + bytes(4)  # field 15
    assert decoded(unknown + BY_HAND + unknown) == decoded(BY_HAND)


def test_of_a_key_given_twice_the_last_counts() -> None:
    assert decoded(encode_example({"a": [1]}) + encode_example({"a": [2]})) == {"a": (2,)}


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\x0a", "ends within a number"),
        (b"\x8a", "ends within a number"),
        (b"\x0a\x03ab", "field 1 declares 3 bytes, but 2 are left"),
        (b"\x0a" + b"\xff" * 9 + b"\x01", "declares 18446744073709551615 bytes"),
        (b"\x0a" + b"\xff" * 10, "more than 64 bits"),
        (b"\x0a" + b"\xff" * 9 + b"\x02", "more than 64 bits"),
        (b"\x08\x01", "field 1 has wire type 0"),
        (b"\x09" + bytes(8), "field 1 has wire type 1"),
        (b"\x0d" + bytes(4), "field 1 has wire type 5"),
        (b"\x0b\x0c", "field 1 is a group"),
        (b"\x7b\x7c", "field 15 is a group"),
        (b"\x0c", "field 1 is a group"),
        (b"\x0e", "field 1 is wire type 6"),
        (b"\x02\x00", "field number 0"),
        (b"\x79\x00", "field 15 declares 8 bytes"),
        (wrapped(b"\x0a\x01\xff"), "not UTF-8"),
        (wrapped(b"\x0a\x01a\x0a\x01b"), "two keys"),
        (wrapped(b"\x0a\x01a\x12\x00\x12\x00"), "two values"),
        (wrapped(b"\x0a\x01a\x12\x04\x0a\x00\x1a\x00"), "two lists"),
        (wrapped(b"\x0a\x01a\x12\x04\x1a\x02\x0a\x80"), "declares 128 bytes|ends within"),
        (wrapped(b"\x0a\x01a\x12\x05\x1a\x03\x0a\x01\x80"), "ends within a number"),
        (wrapped(b"\x0a\x01a\x12\x07\x1a\x05\x0d\x00\x00\x00\x00"), "int64 list holds something"),
        (wrapped(b"\x0a\x01a\x12\x04\x12\x02\x08\x01"), "float list holds something"),
        (wrapped(b"\x0a\x01a\x12\x05\x12\x03\x0a\x01x"), "float list holds something"),
        (wrapped(b"\x0a\x01a\x12\x04\x0a\x02\x08\x01"), "field 1 has wire type 0"),
    ],
)
def test_garbage_is_refused_with_its_reason(payload: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        decode_example(memoryview(payload), "here")
    assert caught.value.where == "here"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 60))
def test_no_bytes_at_all_raise_anything_else(noise: bytes, at: int) -> None:
    sound = encode_example({"a": b"xyz", "b": [-5, 7]})
    for payload in (noise, sound[:at] + noise + sound[at + len(noise) :]):
        try:
            found = decode_example(memoryview(payload))
        except DataError:
            continue
        assert all(isinstance(key, str) for key in found)


def test_an_integer_beyond_int64_is_refused() -> None:
    for number in (2**63, -(2**63) - 1):
        with pytest.raises(DataError, match="does not fit into 64 bits"):
            encode_example({"a": [number]})


@pytest.mark.parametrize(("kept", "part"), [(20, "payload"), (29, "payload's checksum")])
def test_a_cut_inside_a_later_record_names_its_place(tmp_path: Path, kept: int, part: str) -> None:
    path = tmp_path / "x.tfrecords"
    path.write_bytes(frame(b"first") + frame(b"0123456789abcdef")[:kept])
    reader = read_frames(path)
    assert bytes(next(reader)[1]) == b"first"
    with pytest.raises(DataError, match=f"ends within the record's {part} ") as caught:
        next(reader)
    assert caught.value.where == f"{path}, byte 21"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\x1f\x8b" + bytes(30), "looks like gzip"),
        (
            struct.pack("<QI", 2**62, masked_crc(struct.pack("<Q", 2**62))),
            "within the record's payl",
        ),
        (np.zeros(40, np.uint8).tobytes(), "no TFRecord, or damaged"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "x.tfrecords"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        payloads(path)
    assert caught.value.where == f"{path}, byte 0"


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(DataError, match="not a regular file"):
            payloads(path)
    with pytest.raises(DataError, match="No such file"):
        payloads(tmp_path / "absent.tfrecords")
