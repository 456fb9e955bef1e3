"""Label files of photographs: every form gives the same classes, and what has no class is counted."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from uda.config.card import DatasetCard
from uda.data.image_files import opencv
from uda.data.photo_labels import check_same_size, read_classes, value_counts
from uda.errors import DataError, MismatchError, UnreadableError
from uda.types import IGNORE

RAW = {"road": (7,), "sky": (23,), "car": (26, 30), "ignore": (0, 1, 255)}
COLORS = {"road": (128, 64, 128), "sky": (70, 130, 180), "car": (0, 0, 142)}
NAMES = ("road", "sky", "car")
CLASSES = np.array([[0, 1, 2, 255], [2, 2, 0, 1], [255, 0, 1, 2]], np.uint8)
VALUES = np.array([[7, 23, 26, 0], [30, 26, 7, 23], [1, 7, 23, 30]], np.uint8)


def card(**changes: Any) -> DatasetCard:
    fields: dict[str, Any] = {
        "name": "streets",
        "title": "",
        "images": "{case}.png",
        "labels": "{case}_label.png",
        "classes": NAMES,
        "label_values": RAW,
        "colors": COLORS,
        "ignore_colors": [(0, 0, 0)],
        "prepare": {"kind": "photo", "size": (4, 4)},
    }
    return DatasetCard.model_validate(fields | changes)


CARD = card()


def painted(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    table = np.zeros((256, 3), np.uint8)
    for index, name in enumerate(NAMES):
        table[index] = COLORS[name]
    return table[classes]


def with_palette(indices: NDArray[np.uint8], bits: int | None = None) -> Image.Image:
    """A palette whose colours do not correspond to the indices."""
    image = Image.fromarray(indices).convert("L")
    image.putpalette([int(v) for v in np.random.default_rng(1).integers(0, 256, 768)])
    if bits is not None:
        image.encoderinfo = {"bits": bits}
    return image


def written(folder: Path, image: Any, name: str = "x_label.png", **options: Any) -> Path:
    path = folder / name
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(path, **options)
    return path


def written_deep(folder: Path, image: NDArray[np.uint16]) -> Path:
    """16 bits a channel; OpenCV takes blue first."""
    path = folder / "x_label.png"
    if image.ndim == 3:
        image = image[..., [2, 1, 0, 3][: image.shape[2]]]
    path.write_bytes(opencv().imencode(".png", image)[1])
    return path


def refused(path: Path, of: DatasetCard = CARD) -> DataError:
    with pytest.raises(DataError) as caught:
        read_classes(path, of)
    assert caught.value.where == path
    assert caught.value.fix
    assert caught.value.expected
    return caught.value


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(VALUES),
        with_palette(VALUES),
        Image.fromarray(painted(CLASSES)),
        Image.fromarray(painted(CLASSES)).convert("RGBA"),
    ],
    ids=["values", "palette", "colours", "opaque RGBA"],
)
def test_every_form_of_a_label_gives_the_same_classes(tmp_path: Path, image: Image.Image) -> None:
    found = read_classes(written(tmp_path, image), CARD)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, CLASSES)


@settings(max_examples=25, deadline=None)
@given(
    hnp.arrays(
        np.uint8,
        st.tuples(st.integers(1, 7), st.integers(1, 7)),
        elements=st.sampled_from([v for group in RAW.values() for v in group]),
    )
)
def test_one_table_maps_like_looking_each_value_up(
    tmp_path_factory: pytest.TempPathFactory, raw: NDArray[np.uint8]
) -> None:
    classes = {v: NAMES.index(n) if n in NAMES else IGNORE for n, g in RAW.items() for v in g}
    path = written(tmp_path_factory.mktemp("labels"), raw)
    expected = [[classes[int(value)] for value in row] for row in raw]
    np.testing.assert_array_equal(read_classes(path, CARD), expected)
    counted = value_counts(path, CARD)
    assert counted == {int(v): int((raw == v).sum()) for v in np.unique(raw)}
    assert list(counted.values()) == sorted(counted.values(), reverse=True)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_of_few_colours_is_read_by_its_indices(tmp_path: Path, bits: int) -> None:
    classes = np.array([[0, 1, 0, 1, 1]] * 3, np.uint8)
    path = written(tmp_path, with_palette(classes), bits=bits)
    assert path.read_bytes()[24] == bits
    indices = card(label_values={"road": (0,), "sky": (1,), "car": (2,)})
    np.testing.assert_array_equal(read_classes(path, indices), classes)


def test_files_of_class_indices_are_known_by_their_name(tmp_path: Path) -> None:
    mixed = card(indexed="_labelTrainIds.png")
    path = written(tmp_path, CLASSES, "a_labelTrainIds.png")
    np.testing.assert_array_equal(read_classes(path, mixed), CLASSES)
    np.testing.assert_array_equal(read_classes(written(tmp_path, VALUES), mixed), CLASSES)
    fault = refused(written(tmp_path, VALUES, "a_labelTrainIds.png"), mixed)
    assert "7 (3 pixels)" in fault.what
    assert "indices 0 to 2, or 255" in str(fault.expected)


@pytest.mark.parametrize("channels", [None, 3, 4])
def test_sixteen_bits_give_the_class_in_their_first_channel(
    tmp_path: Path, channels: int | None
) -> None:
    deep = card(label_bits=16, label_values={"road": (3,), "sky": (300,), "car": (1,)})
    raw = np.array([[3, 300], [1, 3]], np.uint16)
    image = raw
    if channels is not None:
        image = np.full((2, 2, channels), 65535, np.uint16)
        image[..., 0], image[..., 1] = raw, [[9, 8], [7, 6]]  # the second holds instances
    path = written_deep(tmp_path, image)
    np.testing.assert_array_equal(read_classes(path, deep), [[0, 1], [2, 0]])
    assert value_counts(path, deep) == {3: 2, 300: 1, 1: 1}
    assert "a PNG of 16 bits" in refused(path).what
    fault = refused(written(tmp_path, VALUES), deep)
    assert "8 bits, grey" in fault.what
    assert "16 bits" in str(fault.expected)
    assert "label_bits" in str(fault.fix)


def test_values_without_a_class_are_all_listed_with_their_pixels(tmp_path: Path) -> None:
    raw = VALUES.copy()
    raw[0, 0], raw[2, :] = 99, 98
    fault = refused(written(tmp_path, raw))
    assert "5 pixels hold 2 values" in fault.what
    assert "98 (4 pixels), 99 (1 pixels)" in fault.what
    assert "26, 30, 255" in str(fault.expected)
    assert value_counts(tmp_path / "x_label.png", CARD)[98] == 4


def test_colours_without_a_class_are_listed_too(tmp_path: Path) -> None:
    image = painted(CLASSES)
    image[0, :3] = (128, 64, 129)  # one off
    image[1, 0] = (142, 0, 0)  # blue and red exchanged
    path = written(tmp_path, image)
    fault = refused(path)
    assert "4 pixels hold 2 colours" in fault.what
    assert "(128, 64, 129) (3 pixels), (142, 0, 0) (1 pixels)" in fault.what
    assert "sky (70, 130, 180)" in str(fault.expected)
    assert value_counts(path, CARD)[128, 64, 129] == 3


def test_only_the_ten_most_frequent_of_many_faults_are_spelled_out(tmp_path: Path) -> None:
    raw = np.full((10, 30), 7, np.uint8)
    raw[:, 5:25] = np.arange(100, 120)
    raw[0, 0] = 119
    fault = refused(written(tmp_path, raw))
    assert "201 pixels hold 20 values" in fault.what
    assert "streets' does not name: 119 (11 pixels), 100 (10 pixels)" in fault.what
    assert fault.what.count("pixels)") == 10
    assert fault.what.endswith("and 10 more")


def test_three_columns_of_values_are_no_colours(tmp_path: Path) -> None:
    path = written(tmp_path, VALUES[:, :3].copy())
    assert value_counts(path, CARD) == {7: 3, 23: 2, 26: 2, 30: 1, 1: 1}
    assert "3 pixels hold 1 values" in refused(written(tmp_path, np.full((1, 3), 9, np.uint8))).what


def test_a_label_in_colour_needs_a_card_with_colours(tmp_path: Path) -> None:
    path = written(tmp_path, painted(CLASSES))
    fault = refused(path, card(colors={}, ignore_colors=()))
    assert "in colour" in fault.what
    assert "'streets' gives no colors" in str(fault.expected)
    assert value_counts(path, card(colors={}, ignore_colors=()))[0, 0, 142] == 4


def test_two_cards_do_not_share_a_table(tmp_path: Path) -> None:
    turned = card(classes=NAMES[::-1])
    values, colours = written(tmp_path, VALUES), written(tmp_path, painted(CLASSES), "c.png")
    for path in (values, colours):
        assert read_classes(path, CARD)[0].tolist() == [0, 1, 2, 255]
        assert read_classes(path, turned)[0].tolist() == [2, 1, 0, 255]


def one_bit() -> Image.Image:
    return Image.fromarray(VALUES > 20)


@pytest.mark.parametrize(
    ("image", "name", "what"),
    [
        (one_bit(), "x.png", "1 bits, grey"),
        (Image.fromarray(VALUES.astype(np.uint16)), "x.png", "16 bits, grey"),
        (Image.fromarray(VALUES).convert("LA"), "x.png", "grey with transparency"),
        (Image.fromarray(VALUES), "x.jpg", "JPEG of 8 bits, grey"),
    ],
)
def test_other_forms_are_refused_by_what_they_are(
    tmp_path: Path, image: Image.Image, name: str, what: str
) -> None:
    fault = refused(written(tmp_path, image, name))
    assert what in fault.what
    assert not isinstance(fault, UnreadableError)


def test_transparent_pixels_are_refused(tmp_path: Path) -> None:
    image = np.dstack([painted(CLASSES), np.where(CLASSES == 255, 0, 255).astype(np.uint8)])
    assert "2 of its pixels are transparent" in refused(written(tmp_path, image)).what


@pytest.mark.parametrize("palette", [False, True])
def test_a_flipped_bit_never_changes_a_class_silently(tmp_path: Path, palette: bool) -> None:
    """Pillow does not verify checksums, so our own check is needed for a palette's file."""
    large = np.repeat(np.repeat(VALUES, 5, 0), 5, 1)
    path = written(tmp_path, with_palette(large) if palette else large)
    data, expected = path.read_bytes(), read_classes(path, CARD)
    draw, unreadable = np.random.default_rng(0), 0
    for _ in range(80):
        damaged = bytearray(data)
        damaged[draw.integers(len(data))] ^= 1 << int(draw.integers(8))
        path.write_bytes(bytes(damaged))
        try:
            np.testing.assert_array_equal(read_classes(path, CARD), expected)
        except UnreadableError:
            unreadable += 1
    assert unreadable > 60


def test_a_palette_whose_data_end_early_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, with_palette(VALUES))
    data = path.read_bytes()
    at = data.index(b"IDAT")
    body = zlib.compress(bytes(3))
    end = b"IDAT" + body
    chunk = struct.pack(">I", len(body)) + end + struct.pack(">I", zlib.crc32(end))
    path.write_bytes(data[: at - 4] + chunk + data[data.index(b"IEND") - 4 :])
    assert isinstance(refused(path), UnreadableError)
    path.write_bytes(data[:-5])
    assert isinstance(refused(path), UnreadableError)


def test_a_label_of_another_size_than_its_image_is_named(tmp_path: Path) -> None:
    check_same_size(CLASSES, (3, 4), tmp_path)
    with pytest.raises(MismatchError, match=r"3×4 pixels(.|\n)*the image's 4×3") as caught:
        check_same_size(CLASSES, (4, 3), tmp_path)
    assert isinstance(caught.value, DataError)
