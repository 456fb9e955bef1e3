"""Photographs are read exactly or refused, resized without a shift, and processed by threads in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from uda.data import image_files
from uda.data.geometry import Geometry, label_slices, nearest, to_file_grid
from uda.data.images import AHEAD, ordered, photo_geometry, processors, read_photo, resize_photo
from uda.errors import DataError, RunError, UdaError

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (24, 37, 3), dtype=np.uint8)


def saved(folder: Path, name: str, image: Image.Image | NDArray[Any], **options: Any) -> Path:
    path = folder / name
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(path, **options)
    return path


@settings(max_examples=20, deadline=None)
@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))),
    st.booleans(),
)
def test_a_png_is_read_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, image: NDArray[np.uint8], alpha: bool
) -> None:
    picture = Image.fromarray(image).convert("RGBA" if alpha else "RGB")
    found = read_photo(saved(tmp_path_factory.mktemp("png"), "x.png", picture))
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 20}]
)
def test_a_jpeg_is_read_as_other_decoders_read_it(tmp_path: Path, options: dict[str, Any]) -> None:
    smooth = np.asarray(Image.fromarray(PHOTO[:4, :5]).resize((37, 24)))
    path = saved(tmp_path, "x.jpeg", smooth, **options)
    with Image.open(path) as file:
        np.testing.assert_allclose(read_photo(path), np.asarray(file), atol=1)


def test_a_png_of_another_writer_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(image_files.opencv().imencode(".png", PHOTO[..., ::-1])[1].tobytes())
    np.testing.assert_array_equal(read_photo(path), PHOTO)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_resizing_keeps_every_edge_where_it_was(
    rows: int, height: int, width: int, turned: bool
) -> None:
    """A ramp stays the same ramp between the same borders, to a fifth of its pixels."""
    step = 240 / rows
    ramp = np.rint(step * (np.arange(rows) + 0.5)).astype(np.uint8)
    image = np.broadcast_to(ramp[:, None, None], (rows, 7, 3))
    if turned:
        found = resize_photo(image.swapaxes(0, 1).copy(), (width, height)).swapaxes(0, 1)
    else:
        found = resize_photo(image.copy(), (height, width))
    expected = np.clip(240 * (np.arange(height) + 0.5) / height, step / 2, 240 - step / 2)
    np.testing.assert_allclose(
        found, np.broadcast_to(expected[:, None, None], found.shape), atol=0.2 * step + 1
    )


@pytest.mark.parametrize("size", [(30, 50), (45, 50), (37, 91), (120, 40), (240, 300), (71, 33)])
def test_an_image_and_its_label_stay_on_each_other(size: tuple[int, int]) -> None:
    """Bars as wide as ten pixels: where the resized image is bright, the resized label is 1."""
    bars = (np.add.outer(np.arange(120) // 10, np.arange(100) // 10) % 2).astype(np.uint8)
    image = resize_photo(np.repeat(255 * bars[..., None], 3, axis=2), size)[..., 0]
    label = label_slices(bars[..., None], photo_geometry((120, 100), size))[0]
    assert label.shape == image.shape == size
    sure = (image < 64) | (image > 191)  # an edge within a quarter of a pixel of a centre is open
    assert sure.mean() > 0.5
    np.testing.assert_array_equal(label[sure], image[sure] > 127)


def test_an_image_of_the_right_size_is_left_as_it_is() -> None:
    assert resize_photo(PHOTO, (24, 37)) is PHOTO


def test_shrinking_averages() -> None:
    fine = np.zeros((40, 60, 3), np.uint8)
    fine[::2] = 200
    np.testing.assert_array_equal(resize_photo(fine, (20, 30)), 100)
    np.testing.assert_array_equal(resize_photo(fine, (20, 90)), 100)  # also where columns grow


def test_a_photograph_is_a_volume_of_one_slice() -> None:
    geometry = photo_geometry((72, 128), (36, 64))
    assert Geometry.from_json(geometry.as_json()) == geometry
    assert geometry.turned_shape == (1, 72, 128)
    assert geometry.prepared_spacing == (1.0, 2.0, 2.0)
    assert geometry.stored_slice(0) == 0
    classes = np.kron(np.arange(12).reshape(3, 4), np.ones((24, 32))).astype(np.uint8)
    prepared = label_slices(classes[..., None], geometry)
    np.testing.assert_array_equal(prepared[0], classes[nearest(72, 36)][:, nearest(128, 64)])
    logits = 9 * torch.nn.functional.one_hot(torch.from_numpy(prepared).long()).movedim(3, 1)
    found = to_file_grid([logits.float()], geometry)
    assert found.shape == (72, 128, 1)
    assert (found[..., 0] == classes).mean() > 0.98


def faulty(number: int) -> int:
    time.sleep(0.002 * (number % 3))  # so that later ones are ready first
    if number % 5 == 4:
        raise DataError(f"fault {number}")
    return number * number


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_order_with_faults_in_their_place(workers: int) -> None:
    found = list(ordered(faulty, range(23), workers))
    assert [r for r in found if not isinstance(r, UdaError)] == [
        n * n for n in range(23) if n % 5 != 4
    ]
    assert [(i, f.what) for i, f in enumerate(found) if isinstance(f, UdaError)] == [
        (i, f"fault {i}") for i in (4, 9, 14, 19)
    ]


def alive() -> int:
    return sum(thread.name.startswith("uda-images") for thread in threading.enumerate())


def test_no_more_is_read_ahead_than_a_few_items_a_thread() -> None:
    taken = []

    def numbers() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    results = ordered(lambda n: n, numbers(), workers=3)
    for _ in range(10):
        next(results)
    assert len(taken) <= 10 + AHEAD * 3
    results.close()
    assert alive() == 0


def test_threads_end_with_the_iterator_however_it_ends() -> None:
    assert sum(1 for _ in ordered(faulty, range(8), 3)) == 8
    assert alive() == 0
    results = ordered(faulty, range(100), 3)
    next(results)
    assert alive() > 0
    del results
    assert alive() == 0


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_of_ours_names_the_item_it_met(workers: int) -> None:
    def broken(path: Path) -> int:
        return 1 // (len(path.name) - 3)

    with pytest.raises(RunError, match=r"ZeroDivisionError(.|\n)*where: +one/two") as caught:
        list(ordered(broken, [Path("a/b"), Path("one/two"), Path("c")], workers))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert alive() == 0


def test_zero_workers_are_as_many_as_processors_and_one_is_the_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def who(_: int) -> str:
        return threading.current_thread().name

    assert set(ordered(who, range(3), 1)) == {threading.current_thread().name}
    monkeypatch.setattr("uda.data.images.processors", lambda: 3)
    assert all(str(name).startswith("uda-images") for name in ordered(who, range(3)))
    assert processors() >= 1


def test_threads_read_what_one_reads(tmp_path: Path) -> None:
    paths = [saved(tmp_path, f"{i}.png", np.roll(PHOTO, i, 0)) for i in range(9)]
    for image, path in zip(ordered(read_photo, paths, 4), paths, strict=True):
        np.testing.assert_array_equal(image, read_photo(path))
