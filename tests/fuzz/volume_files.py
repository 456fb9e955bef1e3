"""Volumes of a few hundred voxels as NIfTI, TFRecord and npz, sound and odd, and what reads them."""

from __future__ import annotations

import gzip
import io
import math
import zipfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from feeding import Reader, Seed
from mutations import damaged

from uda.config.card import DatasetCard
from uda.data.cases import Case
from uda.data.geometry import Geometry
from uda.data.nifti import read_header
from uda.data.records import count_records, read_npz
from uda.data.sources import prepared_label, prepared_stack
from uda.data.tfrecord import encode_example, frame
from uda.data.volumes import Volume, prepare_image, read_volume

SHAPE = (9, 8, 4)
AFFINE = np.array([[1.5, 0.1, 0, -3], [0, 1.4, 0, 5], [0.1, 0, 4, 7], [0, 0, 0, 1]])
CARD = DatasetCard.model_validate(
    {
        "name": "small",
        "title": "small",
        "images": "{case}.nii.gz",
        "labels": "{case}.nii.gz",
        "axes": {"tfrecords": "RSP", "npz": "LSA"},
        "classes": ["background", "disk", "ring"],
        "label_values": {"background": [0], "disk": [1], "ring": [2], "ignore": [9]},
        "prepare": {"size": [8, 8]},
    }
)
RESAMPLED = CARD.prepare.model_copy(update={"spacing": 1.1, "slice_spacing": 2.5, "clip": (1, 99)})


def image() -> np.ndarray:
    return np.random.default_rng(0).normal(100, 30, SHAPE)


def label() -> np.ndarray:
    return np.arange(math.prod(SHAPE), dtype=np.uint8).reshape(SHAPE) % 3


def nifti(array: np.ndarray, kind: Any = nibabel.Nifti1Image) -> bytes:
    found: bytes = kind(array, AFFINE, dtype=array.dtype).to_bytes()
    return found


def swapped(array: np.ndarray) -> bytes:
    """The same with the other order of bytes."""
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(array.dtype)
    found: bytes = nibabel.Nifti1Image(array, AFFINE, header).to_bytes()
    return found


def scaled() -> bytes:
    file = nibabel.Nifti1Image(image(), np.eye(4))
    file.header.set_data_dtype(np.int16)
    found: bytes = file.to_bytes()
    return found


def packed(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


header_damaged = partial(damaged, focus=352)


def nifti_seeds(array: Callable[[], np.ndarray]) -> list[Seed]:
    small = array().astype(np.int16)
    contents = [
        nifti(small),
        nifti(array().astype(np.float32), nibabel.Nifti2Image),
        swapped(small),
        nifti(array().astype(np.float64)),
        *([scaled()] if array is image else []),
    ]
    seeds = []
    for content in contents:
        seeds += [
            Seed("x.nii", content, mutate=header_damaged),
            Seed("x.nii.gz", content, packed, header_damaged),
        ]
    return [*seeds, Seed("x.nii.gz", packed(contents[0]))]


FIELDS: dict[str, tuple[Any, ...]] = {
    "sizeof_hdr": (0, -1, 349, 540, 2**31 - 1),
    "datatype": (0, 1, 2, 8, 16, 32, 64, 128, 255, 1024, 1536, 1792, 2048, 2304, 9999, -1),
    "bitpix": (0, 1, 7, 32767),
    "vox_offset": (0, -1, 1, 348, 352.5, 353, 10**6, 2**31, 2**62, 1e30, -1e30, np.nan, np.inf),
    "scl_slope": (0, -1, 1e-38, 1e38, np.nan, np.inf, -np.inf),
    "scl_inter": (1e38, -1e38, np.nan, np.inf),
    "sform_code": (0, 5, -1, 32767),
    "qform_code": (0, 5, -1, 32767),
    "quatern_b": (0.5, 1, 2, 1e30, np.nan),
    "qoffset_x": (np.nan, np.inf, 1e38),
    "magic": (b"ni1", b"n+2", b"n+1", b"", b"xxx"),
    "intent_code": (-1, 32767),
    "glmin": (0, -1, 2**31 - 1),
    "xyzt_units": (255,),
}
DIMENSIONS = (0, -1, 1, 2, 10, 32767, -32768, 2**31 - 1, 2**62)
REALS = (0, -1, 1e-30, 1e30, 1e38, np.nan, np.inf, -np.inf)


def odd_headers() -> Iterator[bytes]:
    """Every field of a header at its extremes, of both versions of NIfTI."""
    for version in (1, 2):
        kind = getattr(nibabel, f"Nifti{version}Image")
        content = nifti(image().astype(np.int16), kind)
        dtype = kind.header_class.template_dtype
        changes: list[tuple[str, Any, Any]] = [
            (name, ..., value) for name, values in FIELDS.items() for value in values
        ]
        changes += [("dim", axis, n) for axis in range(8) for n in DIMENSIONS]
        changes += [("dim", slice(1, 4), n) for n in DIMENSIONS]
        changes += [("pixdim", axis, n) for axis in range(4) for n in REALS]
        changes += [(f"srow_{axis}", at, n) for axis in "xyz" for at in (0, 3) for n in REALS]
        changes += [("srow_z", slice(0, 4), 0)]
        for name, at, value in changes:
            if name in dtype.names:
                yield _changed(content, dtype, name, at, value)
    for dims in ((-1, 1, 1), (27307, 1, 6), (9, 8, 2, 2), (9, 8, 4, 1), (9, 32), (288,)):
        dtype, content = nibabel.Nifti1Header.template_dtype, nifti(image().astype(np.int16))
        content = _changed(content, dtype, "dim", slice(1, 8), (*dims, 1, 1, 1, 1, 1, 1)[:7])
        yield _changed(content, dtype, "dim", 0, len(dims))


def _changed(content: bytes, dtype: Any, name: str, at: Any, value: Any) -> bytes:
    header = np.frombuffer(content[: dtype.itemsize], dtype).copy()
    field = header[name].reshape(1, -1) if header[name].ndim == 1 else header[name]
    if np.issubdtype(field.dtype, np.integer):
        info = np.iinfo(field.dtype)
        value = [max(info.min, min(info.max, int(np.nan_to_num(n)))) for n in np.ravel(value)]
    with np.errstate(all="ignore"):
        field[0, at] = value if np.size(value) > 1 else np.ravel(value)[0]
    return header.tobytes() + content[dtype.itemsize :]


def odd_images() -> list[Seed]:
    contents = list(odd_headers())
    wrong: list[tuple[tuple[int, ...], float]] = [
        ((1, 2, 3), np.nan), ((1, 2, 3), -np.inf), ((...,), 7), ((...,), 1e300), ((1, 1, 1), 1e39),
        ((...,), np.nan), ((0,), 3e38), ((1, 1, 1), -3e38), ((...,), 1e-320),
    ]  # fmt: skip
    for at, value in wrong:
        array = image()
        array[at if at != (...,) else ...] = value
        contents.append(nifti(array))
    contents += [nifti(image().astype(kind)) for kind in (np.complex64, np.uint64, np.int8)]
    seeds = [Seed("x.nii", content) for content in contents]
    seeds += [Seed("x.nii.gz", packed(content)) for content in contents]
    sound = nifti(image().astype(np.int16))
    others = [
        b"",
        b"\x1f\x8b",
        b"\x1f\x8b\x08" + bytes(20),
        b"hello",
        packed(b""),
        packed(b"hello" * 300),
    ]
    others += [
        packed(sound) + packed(sound),
        packed(sound) + b"junk",
        packed(packed(sound)),
        sound[:348],
    ]
    others.append(packed(sound + bytes(64 << 20)))  # 64 MiB behind the image
    others += [packed(sound)[:-8], packed(sound)[:-1], packed(sound)[:-8] + bytes(8)]
    seeds += [Seed("x.nii.gz", content) for content in others]
    return [*seeds, *(Seed("x.nii", content) for content in (*others, png_bytes()))]


def png_bytes() -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def read_image(path: Path) -> None:
    """Read and prepare by two cards; what comes out is sane."""
    header = read_header(path)
    volume = read_volume(path)
    assert volume.array.shape == header.shape[:3]
    for prepare in (CARD.prepare, RESAMPLED):
        slices, geometry = prepare_image(volume, prepare, path)
        assert slices.shape == (geometry.depth, 8, 8)
        assert slices.dtype == np.float32
        assert np.isfinite(slices).all()


@cache
def sound_geometry() -> Geometry:
    volume = Volume(image(), AFFINE.astype(np.float64))
    return prepare_image(volume, CARD.prepare, Path("sound"))[1]


def read_label(path: Path) -> None:
    """As the label of a sound image."""
    mapped = prepared_label(Case("x", path, path), sound_geometry(), CARD)
    assert set(np.unique(mapped)) <= {0, 1, 2, 255}


# --- records and npz --------------------------------------------------------------------------


def example(number: int = 0) -> bytes:
    data = np.random.default_rng(number).normal(size=(8, 9, 3)).astype("<f4")
    truth = (np.arange(8 * 9 * 3).reshape(8, 9, 3) % 3).astype("<f4")
    features: dict[str, Any] = {"data_vol": data.tobytes(), "label_vol": truth.tobytes()}
    for axis, size in enumerate(data.shape):
        features[f"dsize_dim{axis}"] = features[f"lsize_dim{axis}"] = [size]
    return encode_example(features)


def record_seeds() -> list[Seed]:
    whole = frame(example(0)) + frame(example(1))
    head = len(example()) - 2 * 8 * 9 * 3 * 4  # what is not values
    return [
        Seed("x.tfrecords", whole, mutate=partial(damaged, focus=16)),
        Seed(
            "x.tfrecords",
            example(),
            lambda b: frame(b) + frame(example(1)),
            partial(damaged, focus=60),
        ),
        Seed("x.tfrecords", example(), frame, partial(damaged, focus=head)),
    ]


def odd_records() -> list[Seed]:
    found = [
        b"",
        b"\0",
        bytes(16),
        bytes(10_000),
        packed(frame(example())),
        frame(b""),
        frame(b"\x0a"),
    ]
    for sizes in ((0, 9, 3), (-1, -9, 24), (2**31, 2**31, 3), (2**62, 2, 3), (8, 9, 2), (8, 27, 1)):
        data = np.zeros((8, 9, 3), "<f4").tobytes()
        features: dict[str, Any] = {"data_vol": data, "label_vol": data}
        for axis, size in enumerate(sizes):
            features[f"dsize_dim{axis}"] = features[f"lsize_dim{axis}"] = [size]
        found.append(frame(encode_example(features)))
    for value in (math.nan, math.inf, 3e38):
        array = np.full((8, 9, 3), value, "<f4")
        array[0, 0, 0] = 1
        features = {"data_vol": array.tobytes(), "label_vol": array.tobytes()}
        for axis, size in enumerate(array.shape):
            features[f"dsize_dim{axis}"] = features[f"lsize_dim{axis}"] = [size]
        found.append(frame(encode_example(features)))
    return [Seed("x.tfrecords", content) for content in found]


def read_case(path: Path) -> None:
    """Image and label, through the card."""
    case = Case("x", path, path)
    slices, geometry, *_ = prepared_stack(case, CARD)
    assert np.isfinite(slices).all()
    mapped = prepared_label(case, geometry, CARD)
    assert set(np.unique(mapped)) <= {0, 1, 2, 255}
    if path.suffix == ".tfrecords":
        assert count_records(path) > 0
    else:
        assert read_npz(path)[0].ndim == 3


def npy(array: np.ndarray, shape: Any = None, descr: Any = None) -> bytes:
    """An array's file, or one whose header says something else."""
    stream = io.BytesIO()
    if shape is None and descr is None:
        np.save(stream, array)
        return stream.getvalue()
    header = {
        "descr": descr or array.dtype.str,
        "fortran_order": False,
        "shape": shape or array.shape,
    }
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + array.tobytes()


def zipped(method: int, first: bytes, second: bytes | None = None) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for number, content in enumerate((first, second)):
            if content is not None:
                archive.writestr(zipfile.ZipInfo(f"arr_{number}.npy"), content, method)
    return stream.getvalue()


STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


def npz_seeds() -> list[Seed]:
    first, second = npy(image().astype(np.float32)), npy(label())
    focused = partial(damaged, focus=128)
    return [
        Seed("x.npz", zipped(STORED, first, second)),
        Seed("x.npz", zipped(DEFLATED, first, second)),
        Seed("x.npz", first, lambda data: zipped(STORED, data, second), focused),
        Seed("x.npz", first, lambda data: zipped(DEFLATED, data, second), focused),
        Seed("x.npz", second, lambda data: zipped(DEFLATED, first, data), focused),
    ]


def odd_npz() -> list[Seed]:
    first, second = npy(image().astype(np.float32)), npy(label())
    zeros = bytes(16 << 20)
    shapes = [(2**31,) * 3, (2**62, 4, 4), (-9, -8, 4), (0, 8, 4), (9, 32)]
    kinds: list[Any] = [
        "|O",
        "<U2",
        "<c8",
        "<f16",
        ">f8",
        "|b1",
        "V8",
        [("a", "<f4"), ("b", "<f4")],
    ]
    members = [npy(image(), shape) for shape in shapes] + [npy(image(), descr=k) for k in kinds]
    members += [npy(image() * np.nan), npy(np.full(SHAPE, 5.0)), npy(np.full(SHAPE, 1e300)), b""]
    members.append(b"\x93NUMPY\x03\0" + b"\xff" * 4)
    members.append(b"\x93NUMPY\x02\0" + b"\xff\xff\xff\x7f" + zeros[:100_000])
    found = [zipped(DEFLATED, member, second) for member in members]
    bomb = zipped(DEFLATED, npy(image(), (256, 256, 256), "|u1")[:128] + zeros, second)
    lies = zipped(DEFLATED, zeros, second)
    central = lies.rfind(b"PK\1\2", 0, lies.rfind(b"PK\1\2"))
    lies = lies[: central + 24] + (100).to_bytes(4, "little") + lies[central + 28 :]
    others = [zipped(zipfile.ZIP_BZIP2, first, second), zipped(zipfile.ZIP_LZMA, first, second)]
    others += [
        bomb,
        lies,
        zipped(DEFLATED, first + zeros, second),
        zipped(STORED, first),
        b"",
        b"PK\3\4",
        b"PK\5\6" + bytes(18),
    ]
    return [Seed("x.npz", content) for content in (*found, *others, first)]


READERS = [
    Reader("NIfTI image", lambda: nifti_seeds(image), read_image, odd_images, 2),
    Reader("NIfTI label", lambda: nifti_seeds(label)[:8], read_label),
    Reader("TFRecord", record_seeds, read_case, odd_records),
    Reader("npz", npz_seeds, read_case, odd_npz),
]
