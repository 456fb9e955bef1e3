"""Files that are no complete RGB image are refused, each with its own reason."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from uda.data import image_files
from uda.data.images import read_photo
from uda.errors import DataError, UnreadableError

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (24, 37, 3), dtype=np.uint8)
GLASS = np.dstack([PHOTO, np.full(PHOTO.shape[:2], 255, np.uint8)])
GLASS[3, 4, 3] = 254


def saved(folder: Path, name: str, image: Image.Image | NDArray[Any], **options: Any) -> Path:
    path = folder / name
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(path, **options)
    return path


def png(rows: int, columns: int, bits: int, color: int, pixels: bytes) -> bytes:
    """A PNG written by hand: Pillow writes neither 16 bits per channel nor false headers."""
    header = struct.pack(">IIBBBBB", columns, rows, bits, color, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def refused(path: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        read_photo(path)
    assert caught.value.where == path
    assert caught.value.fix
    return caught.value


FILES: dict[str, tuple[Any, str]] = {
    "grey.png": (Image.fromarray(PHOTO[..., 0]), "PNG of grey"),
    "grey.jpg": (Image.fromarray(PHOTO[..., 0]), "JPEG of grey"),
    "grey_alpha.png": (Image.fromarray(PHOTO).convert("LA"), "PNG of grey"),
    "one_bit.png": (Image.fromarray(PHOTO).convert("1"), "PNG of grey"),
    "palette.png": (Image.fromarray(PHOTO).convert("P"), "PNG of palette"),
    "cmyk.jpg": (Image.fromarray(PHOTO).convert("CMYK"), "JPEG of CMYK"),
    "glass.png": (Image.fromarray(GLASS), "1 of its pixels are transparent"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_rgb_of_eight_bits_is_refused_by_its_kind(tmp_path: Path, name: str) -> None:
    image, what = FILES[name]
    fault = refused(saved(tmp_path, name, image))
    assert what in fault.what
    assert not isinstance(
        fault, UnreadableError
    )  # a card may skip damage, not a wrong kind of file


def test_a_colour_that_stands_for_transparency_is_refused_where_it_occurs(tmp_path: Path) -> None:
    seen = tuple(int(v) for v in PHOTO[0, 0])
    assert "transparent" in refused(saved(tmp_path, "x.png", PHOTO, transparency=seen)).what
    plain = np.full_like(PHOTO, 7)
    path = saved(tmp_path, "y.png", plain, transparency=(1, 2, 3))
    np.testing.assert_array_equal(read_photo(path), plain)


def test_sixteen_bits_a_colour_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png(2, 2, 16, 2, bytes(2 * (1 + 2 * 6))))
    assert "16 bits a colour" in refused(path).what


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("turn", [3, 6])
def test_pixels_that_viewers_turn_are_refused(tmp_path: Path, suffix: str, turn: int) -> None:
    exif = Image.Exif()
    exif[image_files.ORIENTATION] = turn
    fault = refused(saved(tmp_path, f"x.{suffix}", PHOTO, exif=exif))
    assert f"orientation is {turn}" in fault.what
    assert "exif_transpose" in str(fault.fix)
    exif[image_files.ORIENTATION] = 1
    assert read_photo(saved(tmp_path, f"y.{suffix}", PHOTO, exif=exif)).shape == PHOTO.shape


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=60))
def test_exif_that_nobody_understands_turns_nothing(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes
) -> None:
    path = tmp_path_factory.mktemp("exif") / "x.jpg"
    Image.fromarray(PHOTO).save(path, exif=b"Exif\0\0MM\0*" + noise)
    assert read_photo(path).shape == PHOTO.shape


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path, f"x.{suffix}", PHOTO)
    data = path.read_bytes()
    cuts = {0, 1, 3, 8, 20, len(data) // 2, len(data) - 12, len(data) - 1}
    for cut in sorted(cuts | set(RNG.integers(0, len(data), 30).tolist())):
        path.write_bytes(data[:cut])
        assert isinstance(refused(path), UnreadableError), cut
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))  # a download that stopped
    assert isinstance(refused(path), UnreadableError)


def test_a_flipped_bit_of_a_png_never_changes_a_pixel_silently(tmp_path: Path) -> None:
    path = saved(tmp_path, "x.png", PHOTO)
    data = path.read_bytes()
    outcomes = []
    for _ in range(60):
        damaged = bytearray(data)
        damaged[RNG.integers(len(data))] ^= 1 << int(RNG.integers(8))
        path.write_bytes(bytes(damaged))
        try:
            np.testing.assert_array_equal(read_photo(path), PHOTO)
            outcomes.append("same")
        except UnreadableError:
            outcomes.append("refused")
    assert outcomes.count("refused") > 50


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "is empty"),
        (b"hello, world", "neither PNG nor JPEG"),
        (b"GIF89a" + bytes(20), "is a GIF file, not PNG or JPEG"),
        (b"\xff\xd8\xff\xd9", "without an image"),
        (b"\xff\xd8hello, world", "damaged at byte 2"),
        (png(0, 5, 8, 2, b""), "0×5 pixels"),
        (png(2, 2, 8, 5, b""), "colour type 5"),
        (png(30, 30, 8, 2, bytes(50)), "damaged"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(data)
    fault = refused(path)
    assert isinstance(fault, UnreadableError)
    assert what in fault.what


def test_an_absurd_size_is_refused_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "_decoded", None)  # would fail if it were called
    path = tmp_path / "x.png"
    path.write_bytes(png(60_000, 60_000, 8, 2, bytes(1000)))
    assert "60000×60000" in refused(path).what
    monkeypatch.setattr(image_files, "MAX_BYTES", 100)
    assert "bytes" in refused(saved(tmp_path, "y.png", PHOTO)).what


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.png").what
