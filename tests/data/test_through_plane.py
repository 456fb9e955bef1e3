"""Resampling along the slice axis: slices, labels and predictions keep their physical position."""

from __future__ import annotations

import itertools
import json
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel import orientations

from uda.config.card import DatasetCard, Prepare
from uda.data.geometry import Geometry, along, nearest, to_file_grid
from uda.data.volumes import Volume, prepare_image, prepare_label
from uda.errors import ConfigError, DataError

HERE = Path("case.nii.gz")
SHAPE = (6, 5, 12)
TURNS = [
    np.array([[axis, flip] for axis, flip in zip(axes, flips, strict=True)])
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]


def prepare(**extra: Any) -> Prepare:
    return Prepare(**{"size": SHAPE[:2], "normalize": "none", **extra})


def volume(array: np.ndarray, spacing: float = 2.0) -> Volume:
    return Volume(array, np.diag([1.0, 1.0, spacing, 1.0]))


def card(**extra: Any) -> DatasetCard:
    return DatasetCard(
        name="test",
        title="test",
        images="{case}.nii.gz",
        classes=tuple("abcdefghijkl"),
        label_values={name: (i,) for i, name in enumerate("abcdefghijkl")},
        prepare=prepare(**extra),
    )


def ramp() -> np.ndarray:
    """Each slice holds its number."""
    return np.broadcast_to(np.arange(SHAPE[2], dtype=np.int16), SHAPE).copy()


def one_hot(label: np.ndarray, classes: int) -> torch.Tensor:
    encoded = torch.nn.functional.one_hot(torch.from_numpy(label.astype(np.int64)), classes)
    return 20.0 * encoded.movedim(-1, 1).float()


@pytest.mark.parametrize(
    ("wanted", "slices"), [(None, 12), (2.0, 12), (1.0, 24), (4.0, 6), (3.3, 7), (100.0, 1)]
)
def test_the_number_of_slices_follows_from_the_distance(wanted: float | None, slices: int) -> None:
    array = np.random.default_rng(0).normal(size=SHAPE)
    found, geometry = prepare_image(volume(array), prepare(slice_spacing=wanted), HERE)
    assert len(found) == geometry.depth == slices
    assert geometry.prepared_spacing == pytest.approx((24 / slices, 1.0, 1.0))


@pytest.mark.parametrize("wanted", [0.7, 1.0, 4.0, 8.0])
def test_a_ramp_stays_a_ramp_in_millimetres(wanted: float) -> None:
    found, geometry = prepare_image(volume(ramp()), prepare(slice_spacing=wanted), HERE)
    distance = geometry.prepared_spacing[0]
    centres = (np.arange(geometry.depth) + 0.5) * distance  # mm from the border of the volume
    expected = centres / 2.0 - 0.5
    inner = (centres > max(2.0, distance)) & (centres < 24 - max(2.0, distance))
    assert inner.sum() >= 1
    np.testing.assert_allclose(found[inner, 2, 2], expected[inner], atol=1e-4)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 11


def test_fewer_slices_are_averages_and_not_samples() -> None:
    array = np.zeros(SHAPE, np.float32)
    array[..., ::2] = 100  # every second slice is bright
    found, _ = prepare_image(volume(array), prepare(slice_spacing=8.0), HERE)
    np.testing.assert_allclose(found[:, 2, 2], 50, atol=10)


def test_slices_are_weighted_as_pixels_are() -> None:
    slices = np.random.default_rng(0).normal(size=(11, 4, 3)).astype(np.float32)
    for depth in (1, 4, 10, 11, 30):
        columns = torch.from_numpy(slices.transpose(1, 0, 2).copy())[:, None]  # slices as rows
        expected = torch.nn.functional.interpolate(
            columns, (depth, 3), mode="bilinear", antialias=True
        )[:, 0].numpy()
        np.testing.assert_allclose(along(slices, depth), expected.transpose(1, 0, 2), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(full=st.integers(1, 40), size=st.integers(1, 40))
def test_the_nearest_cell_is_the_one_that_holds_the_centre(full: int, size: int) -> None:
    for i, found in enumerate(nearest(full, size)):
        centre = (i + 0.5) / size
        assert found / full - 1e-9 <= centre <= (found + 1) / full + 1e-9
    if full == size:
        assert nearest(full, size).tolist() == list(range(full))


@pytest.mark.parametrize("wanted", [0.9, 1.0, 3.1, 5.0])
@pytest.mark.parametrize("turn", TURNS[::7])
def test_label_and_name_of_a_slice_are_of_the_files_slice_nearest_to_it(
    wanted: float, turn: np.ndarray
) -> None:
    source = volume(ramp())
    array = np.ascontiguousarray(orientations.apply_orientation(source.array, turn))
    file = Volume(array, source.affine @ orientations.inv_ornt_aff(turn, SHAPE))
    own = card(slice_spacing=wanted)
    _, geometry = prepare_image(file, own.prepare, HERE)
    label = prepare_label(file, geometry, own, HERE)
    axis = [int(to) for to, _ in geometry.turn].index(2)
    for index, plane in enumerate(label):
        expected = array.take(geometry.stored_slice(index), axis)
        assert set(np.unique(plane)) == set(np.unique(expected))
        middle = (index + 0.5) * geometry.prepared_spacing[0] / 2.0 - 0.5
        assert abs(float(plane[2, 2]) - middle) <= 0.5 + 1e-9


@pytest.mark.parametrize("extra", [{"slice_spacing": 1.1}, {"slice_spacing": 3.0, "spacing": 0.8}])
def test_prepared_slices_and_the_way_back_do_not_depend_on_the_axes_of_the_file(
    extra: dict[str, Any],
) -> None:
    rng = np.random.default_rng(0)
    image, label = rng.normal(size=SHAPE).astype(np.float32), rng.integers(0, 3, SHAPE)
    own = card(**{"size": (8, 8), **extra})
    results: list[list[np.ndarray]] = []
    for turn in TURNS:
        files = [
            Volume(
                np.ascontiguousarray(orientations.apply_orientation(array, turn)),
                volume(array).affine @ orientations.inv_ornt_aff(turn, SHAPE),
            )
            for array in (image, label)
        ]
        slices, geometry = prepare_image(files[0], own.prepare, HERE)
        prepared = prepare_label(files[1], geometry, own, HERE)
        back = to_file_grid([one_hot(prepared, 3)], geometry)
        straight = np.empty((3, 2))
        for axis, (to, flip) in enumerate(turn):
            straight[int(to)] = (axis, flip)
        results.append([slices, prepared, orientations.apply_orientation(back, straight)])
    for result in results[1:]:
        for found, expected in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(found, expected)


def geometry_of(slices: int, depth: int, classes_plane: tuple[int, int] = (2, 2)) -> Geometry:
    return Geometry(
        affine=tuple(tuple(row) for row in np.eye(4).tolist()),
        shape=(*classes_plane, slices),
        turn=((0, 1), (1, 1), (2, 1)),
        slice_axis=2,
        resized=classes_plane,
        depth=depth,
        start=(0, 0),
        size=classes_plane,
    )


def test_predictions_are_linear_between_prepared_slices() -> None:
    """From two slices 0 and 1 to eight: their centres lie at 2 and 6 of 8."""
    share = torch.tensor([0.9, 0.1])
    log_p = torch.stack([share, 1 - share], 1).log()
    planes = log_p[:, :, None, None].expand(2, 2, 2, 2)
    found = to_file_grid([planes], geometry_of(8, 2))
    at = np.clip((np.arange(8) + 0.5) / 4 - 0.5, 0, 1)
    expected = (0.9 + at * (0.1 - 0.9) < 0.5).astype(np.uint8)
    assert found[0, 0].tolist() == expected.tolist() == [0] * 4 + [1] * 4


def test_the_largest_probability_wins_and_not_the_largest_logit() -> None:
    """Between a confident slice and one with large logits: mean logits give 0, mean probabilities 1."""
    planes = torch.tensor([[0.0, 5.0, -90.0], [0.0, -90.0, 0.3]])[:, :, None, None]
    found = to_file_grid([planes.expand(2, 3, 2, 2)], geometry_of(3, 2))
    assert found[0, 0].tolist() == [1, 1, 2]


@settings(max_examples=25, deadline=None)
@given(
    slices=st.integers(1, 9),
    depth=st.integers(1, 9),
    cuts=st.lists(st.integers(1, 4), min_size=9, max_size=9),
    seed=st.integers(0, 99),
)
def test_streamed_planes_give_what_whole_arrays_give(
    slices: int, depth: int, cuts: list[int], seed: int
) -> None:
    logits = torch.randn(depth, 3, 2, 2, generator=torch.Generator().manual_seed(seed))
    parts = [part for part in logits.tensor_split(np.cumsum(cuts).tolist()) if len(part)]
    found = to_file_grid(parts, geometry_of(slices, depth))
    p = logits.softmax(1).movedim(0, 1).reshape(1, 3, depth, 4)
    if slices != depth:
        p = torch.nn.functional.interpolate(p, (slices, 4), mode="bilinear")
    expected = p[0].reshape(3, slices, 2, 2).argmax(0)
    np.testing.assert_array_equal(np.moveaxis(found, 2, 0), expected.numpy())


@pytest.mark.parametrize("count", [0, 4, 6])
@pytest.mark.parametrize("slices", [5, 8])
def test_planes_that_are_missing_or_too_many_are_refused(count: int, slices: int) -> None:
    planes = [torch.zeros(1, 2, 2, 2)] * count
    with pytest.raises(DataError, match=f"logits of {count} slices") as caught:
        to_file_grid(planes, geometry_of(slices, 5))
    assert "5 prepared slices" in str(caught.value)


@pytest.mark.parametrize("slices", [60, 20, 90])
@pytest.mark.parametrize("size", [(2, 2), (3, 4)])
def test_few_planes_are_alive_at_a_time(slices: int, size: tuple[int, int]) -> None:
    geometry = geometry_of(slices, 60, size)
    alive: list[int] = []

    def planes() -> Iterator[torch.Tensor]:
        seen: list[weakref.ref[torch.Tensor]] = []
        for _ in range(20):
            plane = torch.zeros(3, 4, *size)
            seen.append(weakref.ref(plane))
            alive.append(sum(ref() is not None for ref in seen))
            yield plane

    to_file_grid(planes(), geometry)
    assert max(alive) <= 2


def test_a_geometry_with_resampled_slices_survives_json() -> None:
    _, geometry = prepare_image(volume(ramp()), prepare(slice_spacing=3.3, spacing=0.8), HERE)
    assert geometry.depth == 7
    assert Geometry.from_json(json.loads(json.dumps(geometry.as_json()))) == geometry


@pytest.mark.parametrize(
    ("extra", "limit"),
    [
        ({}, 1.3),
        ({"normalize": "zscore"}, 1.3),
        ({"normalize": (-100.0, 100.0), "crop": "foreground"}, 1.3),
        ({"clip": (1.0, 99.0)}, 2.5),
        ({"slice_spacing": 1.5}, 2.1),
    ],
)
def test_preparing_holds_little_more_than_what_it_returns(
    extra: dict[str, Any], limit: float
) -> None:
    array = np.random.default_rng(0).integers(-1000, 1000, (96, 96, 160)).astype(np.int16)
    file, settings = volume(array), prepare(size=(96, 96), **extra)
    prepare_image(file, settings, HERE)
    tracemalloc.start()
    slices, _ = prepare_image(file, settings, HERE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < limit * slices.nbytes


@pytest.mark.parametrize("key", ["spacing", "slice_spacing"])
@pytest.mark.parametrize("wanted", [1e-300, 5e-324])
def test_a_spacing_that_makes_countless_pixels_is_refused(key: str, wanted: float) -> None:
    with pytest.raises(ConfigError, match=r"a spacing of .* mm makes .* pixels"):
        prepare_image(volume(ramp()), prepare(**{key: wanted}), HERE)
