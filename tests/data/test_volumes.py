"""Volumes: for every stored orientation the network sees the same image and predicts on the file's grid."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from conftest import write_nifti
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel import orientations
from torch import nn

from uda.config.card import DatasetCard, Prepare
from uda.config.networks import Network
from uda.config.recipe import Compute
from uda.data.cases import Case
from uda.data.geometry import Geometry, crop, from_slices, to_file_grid, turn_to, turned
from uda.data.volumes import (
    Volume,
    check_same_grid,
    map_labels,
    prepare_image,
    prepare_label,
    read_volume,
    write_volume,
)
from uda.devices.device import make_fabric
from uda.errors import DataError
from uda.networks.build import build
from uda.networks.model_file import ModelInfo
from uda.prediction.folder import predict_cases
from uda.prediction.volumes import predict_case, read_case
from uda.types import IGNORE

HERE = Path("case.nii.gz")
SHAPE = (26, 22, 6)
SPACING = (1.5, 2.0, 4.0)
TURNS = [
    np.array([[axis, flip] for axis, flip in zip(axes, flips, strict=True)])
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]
NAMES = [
    "".join("RAS"[int(axis)] if flip > 0 else "LPI"[int(axis)] for axis, flip in turn)
    for turn in TURNS
]
ALL_48 = pytest.mark.parametrize("turn", TURNS, ids=NAMES)


def make_card(**prepare: Any) -> DatasetCard:
    return DatasetCard(
        name="test",
        title="test",
        images="{case}.nii.gz",
        classes=("background", "ellipsoid", "corner"),
        label_values={"background": (0,), "ellipsoid": (10,), "corner": (20,), "ignore": (99,)},
        prepare=Prepare(**{"size": SHAPE[:2], **prepare}),
    )


@cache
def phantom() -> tuple[Volume, Volume]:
    """An image without any symmetry and its raw labels; axes to the right, the front and the head."""
    grid = np.stack(np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]).astype(float)
    millimetres = grid * np.array(SPACING)[:, None, None, None]
    ellipsoid = sum(
        ((millimetres[axis] - centre) / radius) ** 2
        for axis, (centre, radius) in enumerate(((17.0, 12.0), (21.0, 14.0), (9.0, 9.0)))
    )
    label = np.where(ellipsoid < 1, 10, 0).astype(np.int16)
    label[-5:, :4, -2:] = 20
    noise = np.random.default_rng(0).normal(0, 3, SHAPE)
    image = np.array([0.0, 100.0, 60.0])[label // 10] + grid[0] + 2 * grid[2] + noise
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = (-20, 7, 31)
    return Volume(np.round(image).astype(np.int16), affine), Volume(label, affine)


def reorient(volume: Volume, turn: np.ndarray) -> Volume:
    """The same voxels at the same physical positions, with other axes in the file."""
    array = orientations.apply_orientation(volume.array, turn)
    affine = volume.affine @ orientations.inv_ornt_aff(turn, volume.array.shape)
    return Volume(np.ascontiguousarray(array), affine)


def put_back(array: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """From a reoriented file's axes to those of :func:`phantom`."""
    back = np.empty((3, 2))
    for axis, (to, flip) in enumerate(turn):
        back[int(to)] = (axis, flip)
    return orientations.apply_orientation(array, back)


def one_hot(label: np.ndarray, classes: int = 3) -> torch.Tensor:
    """Confident logits ``[s, k, h, w]`` of a label ``[s, h, w]``."""
    encoded = nn.functional.one_hot(torch.from_numpy(label.astype(np.int64)), classes)
    return 20.0 * encoded.movedim(-1, 1).float()


def dice(a: np.ndarray, b: np.ndarray, value: int = 1) -> float:
    return float(
        2 * ((a == value) & (b == value)).sum() / ((a == value).sum() + (b == value).sum())
    )


def test_the_48_files_are_all_different() -> None:
    image = phantom()[0]
    files = [reorient(image, turn) for turn in TURNS]
    seen = {(f.array.shape, f.array.tobytes()) for f in files}
    assert len(seen) == 48
    assert len({nibabel.aff2axcodes(f.affine) for f in files}) == 48


@ALL_48
@pytest.mark.parametrize("extra", [{}, {"spacing": 1.7, "size": (30, 28)}, {"crop": "foreground"}])
def test_prepared_slices_do_not_depend_on_the_axes_of_the_file(
    turn: np.ndarray, extra: dict[str, Any]
) -> None:
    image, label = phantom()
    card = make_card(**extra)
    expected, geometry = prepare_image(image, card.prepare, HERE)
    found, turned = prepare_image(reorient(image, turn), card.prepare, HERE)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        prepare_label(reorient(label, turn), turned, card, HERE),
        prepare_label(label, geometry, card, HERE),
    )


@ALL_48
def test_without_resampling_a_label_comes_back_exactly_on_the_files_own_grid(
    turn: np.ndarray,
) -> None:
    image, label = (reorient(volume, turn) for volume in phantom())
    card = make_card()
    _, geometry = prepare_image(image, card.prepare, HERE)
    back = to_file_grid([one_hot(prepare_label(label, geometry, card, HERE))], geometry)
    np.testing.assert_array_equal(back, label.array // 10)


def test_with_resampling_a_label_comes_back_alike_for_all_48_and_hardly_changed() -> None:
    card = make_card(spacing=1.3, size=(40, 40))
    results = []
    for turn in TURNS:
        image, label = (reorient(volume, turn) for volume in phantom())
        _, geometry = prepare_image(image, card.prepare, HERE)
        back = to_file_grid([one_hot(prepare_label(label, geometry, card, HERE))], geometry)
        assert back.shape == label.array.shape
        results.append(put_back(back, turn))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    assert dice(results[0], phantom()[1].array // 10) >= 0.95


def test_a_chunk_of_slices_at_a_time_gives_the_same_as_all_at_once() -> None:
    card = make_card(spacing=1.3, size=(40, 40))
    image, label = phantom()
    _, geometry = prepare_image(image, card.prepare, HERE)
    logits = one_hot(prepare_label(label, geometry, card, HERE))
    np.testing.assert_array_equal(
        to_file_grid(logits.split(4), geometry), to_file_grid([logits], geometry)
    )


def test_axis_code_decides_what_rows_columns_and_slices_are() -> None:
    image, _ = phantom()
    slices, geometry = prepare_image(
        image, Prepare(orientation="SPL", slice_axis=1, size=(SHAPE[2], SHAPE[0])), HERE
    )
    assert geometry.turned_shape == (SHAPE[1], SHAPE[2], SHAPE[0])
    assert geometry.prepared_spacing == pytest.approx((SPACING[1], SPACING[2], SPACING[0]))
    raw = image.array.astype(float)
    expected = np.transpose(raw[::-1, ::-1], (1, 2, 0))  # slices back to front, up, to the left
    correlation = np.corrcoef(slices.ravel(), expected.ravel())[0, 1]
    assert correlation == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("turn", TURNS[::7], ids=NAMES[::7])
def test_stored_keeps_the_files_own_axes_whatever_its_affine_says(turn: np.ndarray) -> None:
    image, _ = phantom()
    prepare = Prepare(orientation="stored", size=SHAPE[:2])
    expected, _ = prepare_image(image, prepare, HERE)
    other = reorient(image, turn).affine
    found, geometry = prepare_image(Volume(image.array, other), prepare, HERE)
    np.testing.assert_array_equal(found, expected)
    assert [geometry.stored_slice(i) for i in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("degrees", [-40, 20, 40])
def test_an_oblique_affine_is_turned_to_its_nearest_axes_without_interpolation(
    degrees: float,
) -> None:
    image, _ = phantom()
    angle = np.radians(degrees)
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    oblique = Volume(image.array, rotation @ image.affine)
    expected, _ = prepare_image(image, make_card().prepare, HERE)
    found, geometry = prepare_image(oblique, make_card().prepare, HERE)
    np.testing.assert_array_equal(found, expected)
    assert geometry.spacing == pytest.approx(SPACING)


def test_a_square_in_millimetres_is_square_in_resampled_pixels() -> None:
    array = np.zeros((40, 20, 3), np.float32)
    array[10:30, 5:15] = 100  # 20 × 20 mm with pixels of 1 × 2 mm
    volume = Volume(array, np.diag([1.0, 2.0, 5.0, 1.0]))
    slices, geometry = prepare_image(volume, Prepare(spacing=1.0, size=(40, 40)), HERE)
    bright = slices[1] > (slices.min() + slices.max()) / 2
    assert geometry.resized == (40, 40)
    assert geometry.prepared_spacing == pytest.approx((5.0, 1.0, 1.0))
    assert (bright.any(1).sum(), bright.any(0).sum()) == (20, 20)


def test_prepared_spacing_is_what_rounding_to_whole_pixels_left() -> None:
    volume = Volume(np.random.default_rng(0).normal(size=(33, 17, 2)), np.diag([1.0, 1.3, 5.0, 1]))
    _, geometry = prepare_image(volume, Prepare(spacing=2.0, size=(16, 16)), HERE)
    assert geometry.resized == (16, 11)
    assert geometry.prepared_spacing == pytest.approx((5.0, 33 / 16, 17 * 1.3 / 11))


@pytest.mark.parametrize("size", [(10, 8), (60, 50), (10, 50)], ids=["smaller", "larger", "mixed"])
@pytest.mark.parametrize("turn", TURNS[::11], ids=NAMES[::11])
def test_a_crop_smaller_or_larger_than_the_image_finds_its_way_back(
    size: tuple[int, int], turn: np.ndarray
) -> None:
    card = make_card(size=size)
    image, label = (reorient(volume, turn) for volume in phantom())
    slices, geometry = prepare_image(image, card.prepare, HERE)
    prepared = prepare_label(label, geometry, card, HERE)
    assert slices.shape == prepared.shape == (SHAPE[2], *size)
    back = put_back(to_file_grid([one_hot(prepared)], geometry), turn)
    expected = phantom()[1].array // 10
    rows, columns = (
        slice(max(0, (full - cut) // 2), max(0, (full - cut) // 2) + min(full, cut))
        for full, cut in zip(SHAPE[:2], size, strict=True)
    )
    np.testing.assert_array_equal(back[rows, columns], expected[rows, columns])
    outside = np.ones(SHAPE, bool)
    outside[rows, columns] = False
    assert not back[outside].any()


def test_a_resampled_structure_ends_where_the_crop_ends() -> None:
    volume = Volume(np.random.default_rng(0).normal(size=(40, 40, 1)), np.eye(4))
    _, geometry = prepare_image(volume, Prepare(spacing=2.0, size=(10, 10)), HERE)
    back = to_file_grid([one_hot(np.ones((1, 10, 10), np.uint8))], geometry)
    expected = np.zeros((40, 40, 1), np.uint8)
    expected[10:30, 10:30] = 1
    corners = np.ix_([10, 29], [10, 29])  # a quarter of the probability is theirs
    expected[corners] = back[corners]
    np.testing.assert_array_equal(back, expected)


def test_padding_has_the_lowest_intensity_and_the_label_background() -> None:
    card = make_card(size=(40, 30))
    image, label = phantom()
    slices, geometry = prepare_image(image, card.prepare, HERE)
    inside = crop(np.ones((6, *SHAPE[:2])), geometry)[0].astype(bool)
    assert (~inside).sum() == 6 * (40 * 30 - SHAPE[0] * SHAPE[1])
    assert (slices[~inside] == slices[inside].min()).all()
    assert not prepare_label(label, geometry, card, HERE)[~inside].any()


def test_a_foreground_crop_is_centred_on_what_is_brighter_than_the_mean() -> None:
    array = np.zeros((60, 50, 3), np.float32)
    array[40:50, 5:15] = 100
    slices, geometry = prepare_image(
        Volume(array, np.eye(4)), Prepare(crop="foreground", size=(20, 20)), HERE
    )
    assert geometry.start == (35, 0)
    assert (slices[:, 5:15, 5:15] > 0).all()


@settings(max_examples=60, deadline=None)
@given(
    full=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    size=st.tuples(st.integers(1, 15), st.integers(1, 15)),
    start=st.tuples(st.integers(-20, 20), st.integers(-20, 20)),
    seed=st.integers(0, 99),
)
def test_crop_and_paste_round_trip_for_any_size_and_start(
    full: tuple[int, int], size: tuple[int, int], start: tuple[int, int], seed: int
) -> None:
    geometry = Geometry(
        affine=tuple(tuple(row) for row in np.eye(4).tolist()),
        shape=(*full, 2),
        turn=((0, 1), (1, 1), (2, 1)),
        slice_axis=2,
        resized=full,
        depth=2,
        start=start,
        size=size,
    )
    whole = np.random.default_rng(seed).integers(1, 3, (2, *full)).astype(np.uint8)
    cut, window = crop(whole, geometry)
    expected = np.zeros_like(whole)
    for row, column in itertools.product(range(full[0]), range(full[1])):
        if all(s <= x < s + n for x, s, n in zip((row, column), start, size, strict=True)):
            expected[:, row, column] = whole[:, row, column]
            there = cut[:, row - start[0], column - start[1]]
            assert (there == whole[:, row, column]).all()
    assert (cut[:, window[0], window[1]] > 0).all()
    assert (cut > 0).sum() == (expected > 0).sum()
    back = to_file_grid([one_hot(cut)], geometry)
    np.testing.assert_array_equal(np.moveaxis(back, 2, 0), expected)


@ALL_48
def test_turning_to_slices_and_back_is_the_identity(turn: np.ndarray) -> None:
    image = reorient(phantom()[0], turn)
    for axis in (0, 1, 2):
        _, geometry = prepare_image(image, Prepare(slice_axis=axis, size=(8, 8)), HERE)
        slices = turned(image.array, turn_to(image.affine, "RAS"), axis)
        np.testing.assert_array_equal(from_slices(slices, geometry), image.array)


@ALL_48
def test_stored_slice_names_the_slice_of_the_file_that_a_prepared_slice_shows(
    turn: np.ndarray,
) -> None:
    image = reorient(phantom()[0], turn)
    slices, geometry = prepare_image(image, make_card().prepare, HERE)
    axis = [int(to) for to, _ in geometry.turn].index(2)
    standard = (image.array - image.array.mean()) / image.array.std()
    for index, prepared in enumerate(slices):
        stored = standard.take(geometry.stored_slice(index), axis)
        np.testing.assert_allclose(np.sort(prepared.ravel()), np.sort(stored.ravel()), atol=1e-5)


@pytest.mark.parametrize("turn", [TURNS[0], TURNS[-1]])
def test_geometry_survives_json(turn: np.ndarray) -> None:
    _, geometry = prepare_image(reorient(phantom()[0], turn), make_card().prepare, HERE)
    assert Geometry.from_json(json.loads(json.dumps(geometry.as_json()))) == geometry


def test_zscore_is_of_the_crop_alone() -> None:
    image, _ = phantom()
    prepare = make_card(size=(10, 8)).prepare
    slices, geometry = prepare_image(image, prepare, HERE)
    assert float(slices.mean(dtype=np.float64)) == pytest.approx(0, abs=1e-6)
    assert float(slices.std(dtype=np.float64)) == pytest.approx(1, abs=1e-6)
    outlier = image.array.copy()
    outlier[0, 0] = 30000
    assert geometry.start[0] > 0
    found, _ = prepare_image(Volume(outlier, image.affine), prepare, HERE)
    np.testing.assert_array_equal(found, slices)


def test_zscore_is_of_the_image_and_not_of_its_padding() -> None:
    image, _ = phantom()
    slices, geometry = prepare_image(image, make_card(size=(60, 50)).prepare, HERE)
    window = crop(np.ones((6, *SHAPE[:2])), geometry)[0].astype(bool)
    assert float(slices[window].mean(dtype=np.float64)) == pytest.approx(0, abs=1e-6)
    assert float(slices[window].std(dtype=np.float64)) == pytest.approx(1, abs=1e-6)


def test_zscore_ignores_gain_and_offset_of_the_scanner() -> None:
    image, _ = phantom()
    expected, _ = prepare_image(image, make_card().prepare, HERE)
    other = Volume(image.array * 7.0 + 300, image.affine)
    found, _ = prepare_image(other, make_card().prepare, HERE)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_minmax_spans_minus_1_to_1() -> None:
    slices, _ = prepare_image(phantom()[0], make_card(normalize="minmax").prepare, HERE)
    assert (float(slices.min()), float(slices.max())) == (-1, 1)


def test_a_window_maps_hounsfield_units_and_cuts_what_lies_outside() -> None:
    array = np.zeros((4, 4, 1), np.float32)
    array[0, :, 0] = (-1000, -100, 100, 300)
    array[1, :, 0] = (900, 0, 200, 400)
    slices, _ = prepare_image(
        Volume(array, np.eye(4)), Prepare(size=(4, 4), normalize=(-100.0, 300.0)), HERE
    )
    np.testing.assert_allclose(slices[0, 0], (-1, -1, 0, 1), atol=1e-6)
    np.testing.assert_allclose(slices[0, 1], (1, -0.5, 0.5, 1), atol=1e-6)


def test_clip_takes_percentiles_of_the_volume() -> None:
    array = np.arange(101, dtype=np.float32).reshape(1, 101, 1)
    volume = Volume(np.repeat(array, 2, 0), np.eye(4))
    prepare = Prepare(size=(2, 101), clip=(10.0, 90.0), normalize="minmax")
    slices, _ = prepare_image(volume, prepare, HERE)
    expected = (np.clip(np.arange(101), 10, 90) - 10) / 80 * 2 - 1
    np.testing.assert_allclose(slices[0, 0], expected, atol=1e-5)


def test_labels_are_mapped_by_name_and_ignore_becomes_255() -> None:
    raw = np.array([[[0, 10], [20, 99]]], np.int16)
    found = map_labels(raw, make_card(), HERE)
    assert found.tolist() == [[[0, 1], [2, IGNORE]]]
    assert found.dtype == np.uint8


def test_the_order_of_label_values_does_not_matter_and_several_may_share_a_class() -> None:
    card = DatasetCard(
        name="x",
        title="x",
        images="{case}",
        classes=("background", "a", "b"),
        label_values={"b": (7, 9), "background": (0, 3), "a": (-1,)},
        prepare=Prepare(size=(2, 2)),
    )
    raw = np.array([[[0.0, 3.0, -1.0, 7.0, 9.0]]])
    assert map_labels(raw, card, HERE).tolist() == [[[0, 0, 1, 2, 2]]]


def test_values_the_card_does_not_name_are_all_listed_with_their_counts() -> None:
    raw = np.array([[[0, 10, 4, 4, 4, 7]]])
    with pytest.raises(DataError, match=r"19\.9999 \(2 voxels\)"):
        map_labels(np.full((1, 1, 2), 19.9999, np.float32), make_card(), HERE)
    with pytest.raises(DataError, match=r"4 \(3 voxels\), 7 \(1 voxels\)") as caught:
        map_labels(raw, make_card(), HERE)
    assert "[0, 10, 20, 99]" in str(caught.value)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.7, 5), st.integers(0, 99))
def test_resampled_labels_have_no_new_values(spacing: float, seed: int) -> None:
    raw = np.random.default_rng(seed).choice([10, 99], (12, 14, 2)).astype(np.int16)
    raw[0] = 10
    affine = np.diag([1.5, 2.0, 4.0, 1.0])
    card = make_card(spacing=spacing, size=(9, 9))
    image = Volume(np.random.default_rng(seed).normal(size=raw.shape), affine)
    _, geometry = prepare_image(image, card.prepare, HERE)
    prepared = prepare_label(Volume(raw, affine), geometry, card, HERE)
    window = crop(np.ones((2, *geometry.resized)), geometry)[0].astype(bool)
    assert set(np.unique(prepared[window])) <= {1, IGNORE}


def test_rounding_noise_in_an_affine_is_the_same_grid() -> None:
    image, label = phantom()
    _, geometry = prepare_image(image, make_card().prepare, HERE)
    check_same_grid(Volume(label.array, label.affine + 1e-8), geometry, HERE)


def test_a_shift_of_a_tenth_of_a_millimetre_is_another_grid() -> None:
    image, label = phantom()
    _, geometry = prepare_image(image, make_card().prepare, HERE)
    shifted = label.affine.copy()
    shifted[1, 3] += 0.1
    with pytest.raises(DataError, match=r"differs from the image's by up to 0\.1 mm"):
        prepare_label(Volume(label.array, shifted), geometry, make_card(), HERE)


def test_another_shape_is_another_grid() -> None:
    image, label = phantom()
    _, geometry = prepare_image(image, make_card().prepare, HERE)
    with pytest.raises(DataError, match=r"the label has shape \(26, 22, 5\)") as caught:
        check_same_grid(Volume(label.array[..., :5], label.affine), geometry, HERE)
    assert "(26, 22, 6)" in str(caught.value)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_written_volume_is_read_back_as_it_was(tmp_path: Path, suffix: str) -> None:
    _, label = phantom()
    path = tmp_path / "new" / f"case{suffix}"
    write_volume(path, label.array.astype(np.uint8), label.affine)
    found = read_volume(path)
    np.testing.assert_array_equal(found.array, label.array)
    np.testing.assert_allclose(found.affine, label.affine, atol=1e-5)
    assert found.array.dtype == np.uint8
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_single_time_frame_is_a_volume(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", np.ones((4, 5, 6, 1), np.int16))
    assert read_volume(path).array.shape == (4, 5, 6)


def test_scale_and_offset_of_the_header_are_applied(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(2.0, -1024.0)
    nibabel.save(image, tmp_path / "ct.nii.gz")
    found = read_volume(tmp_path / "ct.nii.gz").array
    np.testing.assert_array_equal(found.ravel(), 2.0 * np.arange(24) - 1024)


@pytest.fixture(scope="module")
def network() -> Iterator[nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield build(Network(channels=(4, 8), res_units=0), 3).eval()


def description(prepare: Prepare) -> ModelInfo:
    return ModelInfo(
        network=Network(channels=(4, 8), res_units=0),
        classes=("background", "ellipsoid", "corner"),
        prepare=prepare,
        supervision=("source_labels",),
    )


@pytest.mark.parametrize("extra", [{}, {"spacing": 1.7, "size": (30, 28)}], ids=["exact", "spaced"])
def test_48_orientations_same_dice_and_own_grid(
    tmp_path: Path, network: nn.Module, extra: dict[str, Any]
) -> None:
    image, label = phantom()
    prepare = make_card(**extra).prepare
    info, fabric = description(prepare), make_fabric(Compute(device="cpu"))
    scores, predictions = set(), []
    for name, turn in zip(NAMES, TURNS, strict=True):
        file, truth = reorient(image, turn), reorient(label, turn)
        path = write_nifti(tmp_path / f"{name}.nii", file.array, file.affine)
        labels = predict_case(network, info, read_case(Case(name, path), prepare), fabric)
        assert labels.shape == file.array.shape
        scores.add(tuple(dice(labels * 10, truth.array, value) for value in (10, 20)))
        predictions.append(put_back(labels, turn))
    assert len(np.unique(predictions[0])) > 1  # else equality would say nothing
    for prediction in predictions[1:]:
        np.testing.assert_array_equal(prediction, predictions[0])
    assert len(scores) == 1


def test_written_predictions_lie_on_the_grid_of_their_own_file(
    tmp_path: Path, network: nn.Module
) -> None:
    cases = []
    for name, turn in list(zip(NAMES, TURNS, strict=True))[::9]:
        file = reorient(phantom()[0], turn)
        cases.append(Case(name, write_nifti(tmp_path / f"{name}.nii", file.array, file.affine)))
    info = description(make_card().prepare)
    out = tmp_path / "out"
    outcomes = list(predict_cases(network, info, cases, out, make_fabric(Compute(device="cpu"))))
    assert [o.fault for o in outcomes] == [""] * len(cases)
    for case in cases:
        image, written = nibabel.load(case.image), nibabel.load(out / f"{case.name}.nii.gz")
        assert written.shape == image.shape
        np.testing.assert_allclose(written.affine, image.affine, atol=1e-5)
        assert written.get_data_dtype() == np.uint8


def test_a_faulty_case_is_reported_and_the_others_go_on(tmp_path: Path, network: nn.Module) -> None:
    image = phantom()[0]
    good = write_nifti(tmp_path / "good.nii.gz", image.array, image.affine)
    (tmp_path / "bad.nii.gz").write_text("no image")
    cases = [Case("bad", tmp_path / "bad.nii.gz"), Case("good", good)]
    info = description(make_card().prepare)
    fabric = make_fabric(Compute(device="cpu"))
    bad, fine = predict_cases(network, info, cases, tmp_path / "out", fabric)
    assert "cannot be read as NIfTI" in bad.fault
    assert bad.file is None
    assert fine.file is not None
    assert fine.file.is_file()
    again = list(predict_cases(network, info, cases, tmp_path / "out", fabric))
    assert [outcome.skipped for outcome in again] == [False, True]
