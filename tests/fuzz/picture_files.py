"""Photographs and labels of a few pixels as PNG and JPEG, sound and odd, and what reads them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from feeding import Reader, Seed
from mutations import damaged
from PIL import Image

from uda.config.card import DatasetCard
from uda.data.cases import Case
from uda.data.photo_labels import read_classes, value_counts
from uda.data.sources import prepared_label, prepared_stack
from uda.errors import UdaError

ROWS, COLUMNS = 11, 14
CARD = DatasetCard.model_validate(
    {
        "name": "street",
        "title": "street",
        "images": "{case}.png",
        "labels": "{case}.png",
        "classes": ["road", "car"],
        "label_values": {"road": [7], "car": [26, 200], "ignore": [0, 1, 2]},
        "colors": {"road": [128, 64, 128], "car": [0, 0, 142]},
        "ignore_colors": [[0, 0, 0]],
        "prepare": {"kind": "photo", "size": [8, 12]},
    }
)
DEEP = CARD.model_copy(update={"label_bits": 16})
SIGN = b"\x89PNG\r\n\x1a\n"


def photo() -> np.ndarray:
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    return np.stack([rows * 20, columns * 15, (rows + columns) * 8], -1).astype(np.uint8)


def ids() -> np.ndarray:
    label = np.full((ROWS, COLUMNS), 7, np.uint8)
    label[2:5], label[-1] = 26, 0
    return label


def colored() -> np.ndarray:
    table = np.zeros((256, 3), np.uint8)
    table[[7, 26]] = (128, 64, 128), (0, 0, 142)
    found: np.ndarray = table[ids()]
    return found


def saved(array: np.ndarray, kind: str = "PNG", mode: str = "", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(stream, kind, **options)
    return stream.getvalue()


def palette() -> bytes:
    picture, stream = Image.fromarray(ids()).convert("P"), io.BytesIO()
    picture.putdata(ids().ravel().tolist())
    picture.putpalette([n % 256 for n in range(768)])
    picture.save(stream, "PNG")
    return stream.getvalue()


def deep() -> bytes:
    """16 bits a channel, the class in the first."""
    rows = b"".join(b"\0" + np.stack([row, row, row], -1).astype(">u2").tobytes() for row in ids())
    return png(header(bits=16), zlib.compress(rows))


def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def header(
    columns: int = COLUMNS, rows: int = ROWS, bits: int = 8, color: int = 2, *rest: int
) -> bytes:
    return struct.pack(">IIBBBBB", columns, rows, bits, color, *(rest or (0, 0, 0)))


def png(head: bytes, data: bytes, *others: bytes) -> bytes:
    """A PNG of these parts, each with a right checksum; ``others`` stand between header and data."""
    return b"".join(
        (SIGN, chunk(b"IHDR", head), *others, chunk(b"IDAT", data), chunk(b"IEND", b""))
    )


def lines() -> bytes:
    """Filter byte and pixels of every row."""
    return b"".join(b"\0" + row.tobytes() for row in photo())


def photo_seeds() -> list[Seed]:
    packed = zlib.compress(lines())
    return [
        Seed("x.png", saved(photo())),
        Seed("x.png", header(), lambda head: png(head, packed)),
        Seed("x.png", lines(), lambda data: png(header(), zlib.compress(data))),
        Seed("x.png", packed, lambda data: png(header(), data)),
        Seed("x.png", saved(photo(), mode="RGBA"), mutate=partial(damaged, focus=40)),
        Seed(
            "x.png", b"\0" * 13, lambda body: png(header(), packed, chunk(b"eXIf", b"MM\0*" + body))
        ),
        Seed("x.jpg", saved(photo(), "JPEG"), mutate=partial(damaged, focus=640)),
        Seed("x.jpeg", saved(photo(), "JPEG", progressive=True)),
        Seed("x.jpg", saved(photo(), "JPEG", quality=95, subsampling=0)),
    ]


def odd_photos() -> list[Seed]:
    packed = zlib.compress(lines())
    sizes = (0, 1, 13, 15, 8000, 65535, 2**31 - 1, 2**31, 2**32 - 1)
    found = [png(header(a, b), packed) for a in sizes for b in sizes]
    found += [
        png(header(COLUMNS, ROWS, bits, color), packed) for bits in range(18) for color in range(8)
    ]
    found += [
        png(header(COLUMNS, ROWS, 8, 2, *rest), packed)
        for rest in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 9))
    ]
    bomb = zlib.compress(bytes(64 << 20))
    found += [png(header(), packed, other) for other in ancillary(bomb)]
    found += [
        png(header(), bomb),
        png(header(), b""),
        png(header(), packed[:-4]),
        png(header(), zlib.compress(lines()[:99])),
    ]
    found.append(png(header(20_000, 3_000), zlib.compress(bytes(100))))
    found += [saved(photo(), "PNG", mode) for mode in ("L", "1", "P", "RGBA", "LA", "I;16")]
    found += [saved(photo(), kind) for kind in ("TIFF", "BMP", "GIF", "PPM", "WEBP")]
    found += [b"", b"\x89", SIGN, SIGN + chunk(b"IEND", b""), b"hello", bytes(5000)]
    return [Seed("x.png", content) for content in found] + [
        Seed("x.jpg", content) for content in odd_jpegs()
    ]


def ancillary(bomb: bytes) -> Iterator[bytes]:
    """Chunks that a decoder might unpack or believe."""
    yield chunk(b"iCCP", b"x\0\0" + bomb)
    yield chunk(b"zTXt", b"x\0\0" + bomb)
    yield chunk(b"iTXt", b"x\0\1\0\0\0" + bomb)
    yield chunk(b"tEXt", b"x\0" + b"y" * 100_000)
    yield chunk(b"gAMA", b"\0\0\0\0")
    yield chunk(b"tRNS", bytes(6))
    yield chunk(b"PLTE", bytes(9))
    yield chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    yield chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 2**31, 2**31, 0, 0, 0, 0, 0, 0))
    for orientation in (0, 1, 6, 255):
        yield chunk(
            b"eXIf", b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1" + bytes([0, orientation, 0, 0])
        )
    yield from (chunk(b"abcd", b"") * 500 for _ in range(1))


def many_scans() -> bytes:
    """A progressive JPEG whose last scan is there 3,000 times."""
    once = saved(np.zeros((400, 400, 3), np.uint8), "JPEG", progressive=True)
    scan = once.rindex(b"\xff\xda")
    return once[:-2] + once[scan:-2] * 3000 + once[-2:]


def odd_jpegs() -> Iterator[bytes]:
    sound = saved(photo(), "JPEG")
    frame = sound.index(b"\xff\xc0")
    for rows, columns in (
        (0, 14),
        (11, 0),
        (65535, 65535),
        (8000, 9000),
        (1, 1),
        (11, 15),
        (65535, 1),
    ):
        yield sound[: frame + 5] + struct.pack(">HH", rows, columns) + sound[frame + 9 :]
    for position in range(frame + 4, frame + 19):
        for value in (0, 1, 4, 0x11, 0x44, 0xFF):
            yield sound[:position] + bytes([value]) + sound[position + 1 :]
    for kind in (0xC1, 0xC2, 0xC3, 0xC5, 0xC9, 0xCF):
        yield sound[: frame + 1] + bytes([kind]) + sound[frame + 2 :]
    yield many_scans()
    for mode in ("L", "CMYK"):
        yield saved(photo(), "JPEG", mode)
    for orientation in (1, 3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield saved(photo(), "JPEG", exif=exif.tobytes())
    yield from (
        b"\xff\xd8",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8" + b"\xff" * 5000,
        sound[:-2],
    )
    yield from (sound + sound, b"\xff\xd8\xff\xe1\xff\xff" + bytes(70_000), saved(photo()))


def read_photo(path: Path) -> None:
    pixels, geometry, *_ = prepared_stack(Case("x", path), CARD)
    assert pixels.shape == (1, 3, 8, 12)
    assert pixels.dtype == np.uint8
    assert geometry.size == (8, 12)


def label_seeds() -> list[Seed]:
    rows = b"".join(b"\0" + row.tobytes() for row in ids())
    grey = header(color=0)
    return [
        Seed("x.png", saved(ids())),
        Seed("x.png", saved(colored())),
        Seed("x.png", palette()),
        Seed("deep.png", deep()),
        Seed("x.png", rows, lambda data: png(grey, zlib.compress(data))),
        Seed("x.png", grey, lambda head: png(head, zlib.compress(rows))),
        Seed(
            "x.png",
            bytes(range(100)),
            lambda table: png(header(color=3), zlib.compress(rows), chunk(b"PLTE", table)),
        ),
    ]


def odd_labels() -> list[Seed]:
    wrong = [np.full((ROWS, COLUMNS), value, np.uint8) for value in (3, 254, 255)]
    contents = [saved(array) for array in (*wrong, colored() + 1, photo())]
    contents += [saved(ids(), mode=mode) for mode in ("1", "LA", "RGBA", "P")]
    contents += [saved(ids(), "JPEG"), deep(), saved(ids().astype(np.uint16) * 257)]
    rng = np.random.default_rng(0)
    contents.append(saved(rng.integers(0, 256, (99, 99, 3), dtype=np.uint8)))
    return [Seed(name, content) for content in contents for name in ("x.png", "deep.png")]


def read_label(path: Path) -> None:
    card = DEEP if path.name == "deep.png" else CARD
    classes = read_classes(path, card)
    assert set(np.unique(classes)) <= {0, 1, 255}
    assert sum(value_counts(path, card).values()) == classes.size
    geometry = prepared_stack(Case("x", _photo_beside(path)), CARD)[1]
    try:
        prepared_label(Case("x", path, path), geometry, card)
    except UdaError as error:
        assert "the label has" in error.what  # noqa: PT017 - another size than its image


def _photo_beside(path: Path) -> Path:
    place = path.with_name("photo.png")
    place.write_bytes(saved(photo()))
    return place


READERS = [
    Reader("PNG and JPEG photograph", photo_seeds, read_photo, odd_photos, 1.5),
    Reader("PNG label", label_seeds, read_label, odd_labels),
]
