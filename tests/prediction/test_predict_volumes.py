"""Prediction: what a network finds lies where the file shows it, whatever way the file stores its axes.

The network here calls everything above a threshold class 1, so the right answer is the file's own threshold.
"""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from conftest import write_nifti
from nibabel import orientations
from nifti_bytes import PLACE, SHEARED, header_of, nifti, voxels_of
from torch import Tensor, nn
from torch.nn import functional

from uda.config.card import DatasetCard, Prepare
from uda.config.networks import Network
from uda.config.recipe import Compute
from uda.data.cases import Case
from uda.data.geometry import to_file_grid, to_file_maps
from uda.data.slabs import slab_of
from uda.devices.device import make_fabric
from uda.errors import DataError
from uda.networks.inference import BATCH
from uda.networks.model_file import ModelInfo
from uda.prediction.folder import predict_cases
from uda.prediction.photos import entropy_on
from uda.prediction.volumes import logit_planes, predict_case, read_case

SHAPE = (26, 22, 18)
SPACING = (1.5, 2.0, 2.0)
THRESHOLD = 50.5
SLOPE = 0.15  # of a logit to an intensity: as soft at the border as trained networks are
CPU = make_fabric(Compute(device="cpu"))
TURNS = [
    np.array([[axis, flip] for axis, flip in zip(axes, flips, strict=True)])
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]


class Threshold(nn.Module):
    """Two classes: not above, and above."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.modes: set[tuple[bool, bool]] = set()

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(image)
        self.modes.add((self.training, torch.is_inference_mode_enabled()))
        above = SLOPE * (image[:, image.shape[1] // 2] - THRESHOLD)
        return torch.stack([-above, above], 1)


def describe(prepare: Prepare, patch: tuple[int, int, int] | None = None) -> ModelInfo:
    network = Network() if patch is None else Network(spatial_dims=3, patch=patch)
    return ModelInfo(network, ("background", "bright"), prepare, ("source_labels",))


@cache
def scene(seed: int = 0) -> np.ndarray:
    """A bent, lop-sided bright shape without any symmetry, well inside the volume; axes RAS."""
    x, y, z = (spacing * (np.arange(n) - n / 2) for n, spacing in zip(SHAPE, SPACING, strict=True))
    x, y, z = np.meshgrid(x + 1.5, y - 1, z + 1, indexing="ij")
    bean = np.exp(-((x - 0.04 * y**2) ** 2 / 90 + y**2 / 130 + (z - 0.2 * x) ** 2 / 80))
    lump = np.exp(-((x - 9) ** 2 + (y - 8) ** 2 + (z - 5) ** 2) / 30)
    noise = np.random.default_rng(seed).normal(0, 1, SHAPE)
    return np.round(100 * bean + 70 * lump + noise).astype(np.int16)


def stored(turn: np.ndarray, degrees: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The scene in a file with turned axes and an oblique affine."""
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = (-20, 7, 31)
    angle = np.radians(degrees)
    oblique = np.eye(4)
    oblique[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    array = np.ascontiguousarray(orientations.apply_orientation(scene(), turn))
    return array, oblique @ affine @ orientations.inv_ornt_aff(turn, SHAPE)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def shift(a: np.ndarray, b: np.ndarray) -> float:
    """Largest distance of the centres along an axis, in voxels."""
    first, second = (np.stack(np.nonzero(x)).mean(1) for x in (a, b))
    return float(np.abs(first - second).max())


WHOLE = Prepare(size=SHAPE[:2], normalize="none")
EXACT: dict[str, dict[str, Any]] = {
    "whole": {},
    "crop": {"size": (22, 20)},
    "padded": {"size": (30, 30)},
    "foreground": {"size": (22, 20), "crop": "foreground"},
    "coronal": {"orientation": "RSP", "size": (26, 18)},
    "sagittal": {"slice_axis": 0, "size": (22, 18)},
    "stored": {"orientation": "stored", "size": (26, 26)},
}
RESAMPLED: dict[str, dict[str, Any]] = {
    "finer pixels": {"spacing": 1.2, "size": (36, 40)},
    "coarser pixels": {"spacing": 2.2, "size": (18, 20)},
    "finer slices": {"slice_spacing": 1.3},
    "coarser slices": {"slice_spacing": 2.6},
    "everything": {
        "orientation": "RSP",
        "spacing": 1.4,
        "slice_spacing": 1.6,
        "size": (26, 24),
        "crop": "foreground",
    },
}
PATCHES = (None, (8, 16, 12))  # a 2-D and a 3-D network
EACH_PATCH = pytest.mark.parametrize("patch", PATCHES, ids=["2-D", "3-D"])


def predicted(
    path: Path, file: tuple[np.ndarray, np.ndarray], prepare: Prepare
) -> list[np.ndarray]:
    """By a 2-D and by a 3-D network."""
    case = read_case(Case("a", write_nifti(path, *file)), prepare)
    return [predict_case(Threshold(), describe(prepare, patch), case, CPU) for patch in PATCHES]


@pytest.mark.parametrize("extra", EXACT.values(), ids=EXACT)
def test_without_resampling_all_48_orientations_are_exact_on_their_own_grid(
    tmp_path: Path, extra: dict[str, Any]
) -> None:
    prepare = WHOLE.model_copy(update=extra)
    for turn in TURNS:
        file = stored(turn)
        for found in predicted(tmp_path / "a.nii", file, prepare):
            np.testing.assert_array_equal(found, file[0] > THRESHOLD)


@pytest.mark.parametrize("extra", RESAMPLED.values(), ids=RESAMPLED)
def test_with_resampling_all_48_orientations_overlay_their_file(
    tmp_path: Path, extra: dict[str, Any]
) -> None:
    prepare = WHOLE.model_copy(update=extra)
    scores = []
    for turn in TURNS:
        file = stored(turn)
        for found in predicted(tmp_path / "a.nii", file, prepare):
            assert found.shape == file[0].shape
            scores.append(dice(found == 1, file[0] > THRESHOLD))
            assert shift(found == 1, file[0] > THRESHOLD) < 0.25
    assert min(scores) > 0.95
    assert max(scores) < 1  # else nothing was resampled
    assert max(scores) - min(scores) < 1e-9  # one image, however it is stored


@pytest.mark.parametrize("degrees", [-40, 25])
@pytest.mark.parametrize("extra", [{}, {"spacing": 1.2, "slice_spacing": 2.5, "size": (36, 40)}])
def test_an_oblique_file_is_overlaid_too(
    tmp_path: Path, degrees: float, extra: dict[str, Any]
) -> None:
    for turn in TURNS[::5]:
        file = stored(turn, degrees)
        for found in predicted(tmp_path / "a.nii", file, WHOLE.model_copy(update=extra)):
            assert dice(found == 1, file[0] > THRESHOLD) > (0.95 if extra else 0.9999)


@EACH_PATCH
def test_a_written_prediction_has_the_affine_of_its_file(tmp_path: Path, patch: Any) -> None:
    prepare = WHOLE.model_copy(update=RESAMPLED["everything"])
    cases = [
        Case(str(i), write_nifti(tmp_path / "in" / f"{i}.nii.gz", *stored(turn, 25)))
        for i, turn in enumerate(TURNS[::11])
    ]
    info = describe(prepare, patch)
    for outcome in predict_cases(Threshold(), info, cases, tmp_path / "out", CPU):
        assert outcome.fault == ""
        image = nibabel.load(tmp_path / "in" / f"{outcome.case}.nii.gz")
        written = nibabel.load(outcome.file)
        np.testing.assert_allclose(written.affine, image.affine, atol=1e-5)
        bright = np.asanyarray(image.dataobj) > THRESHOLD
        assert dice(np.asanyarray(written.dataobj) == 1, bright) > 0.95


@pytest.mark.parametrize("place", [{"srow": SHEARED}, {"sform_code": 0}, {"sform_code": 2}])
@pytest.mark.parametrize("version", [1, 2])
def test_a_prediction_lies_where_its_image_lies_by_either_transform(
    tmp_path: Path, version: int, place: dict[str, Any]
) -> None:
    path = tmp_path / "x.nii"
    path.write_bytes(nifti(scene(), version, ">", xyzt_units=3, qform_code=3, **place))
    cases = [Case("x", path)]
    info = describe(WHOLE)
    (outcome,) = predict_cases(Threshold(), info, cases, tmp_path / "out", CPU, entropy=True)
    for written in (outcome.file, outcome.entropy):
        assert written is not None
        for field in PLACE:
            assert header_of(written)[field] == header_of(path)[field], field
        np.testing.assert_array_equal(nibabel.load(written).affine, nibabel.load(path).affine)
    assert outcome.file is not None
    found = voxels_of(outcome.file).reshape(SHAPE, order="F")
    assert dice(found == 1, scene() > THRESHOLD) > 0.9999


def test_doubts_about_a_place_are_said_where_it_is_predicted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    apart = [*SHEARED[:3], 60, *SHEARED[4:]]
    (tmp_path / "x.nii").write_bytes(nifti(scene(), srow=apart))
    for _ in range(2):
        read_case(Case("x", tmp_path / "x.nii"), WHOLE)
    assert sum("its sform and its qform place it" in text for text in caplog.messages) == 1


# planes


def test_planes_come_in_order_and_in_batches_of_16_slices() -> None:
    slices = np.arange(40, dtype=np.float32)[:, None, None] * np.ones((1, 5, 6), np.float32)
    model = Threshold()
    parts = list(logit_planes(model, describe(WHOLE), slices, CPU))
    assert [len(part) for part in parts] == [BATCH, BATCH, 8]
    assert [tuple(image.shape[1:]) for image in model.seen] == [(1, 5, 6)] * 3
    levels = torch.cat(parts)[:, 1, 0, 0] / SLOPE + THRESHOLD
    assert levels.tolist() == pytest.approx(range(40), abs=1e-4)


def test_large_slices_go_through_the_network_in_smaller_batches() -> None:
    slices = np.zeros((5, 1024, 512), np.float32)
    parts = logit_planes(Threshold(), describe(WHOLE), slices, CPU)
    assert [len(part) for part in parts] == [2, 2, 1]


def test_a_slab_is_the_slice_between_its_neighbours_and_the_edge_repeats() -> None:
    slices = np.arange(18, dtype=np.float32)[:, None, None] * np.ones((1, 5, 6), np.float32)
    model, info = Threshold(), describe(WHOLE.model_copy(update={"slab": 3}))
    list(logit_planes(model, info, slices, CPU))
    seen = torch.cat(model.seen)[:, :, 0, 0].int().tolist()
    assert seen == [[0, 0, 1], *([i - 1, i, i + 1] for i in range(1, 17)), [16, 17, 17]]


def test_a_slab_does_not_reach_into_another_case() -> None:
    slices = np.arange(9)[:, None, None] * np.ones((1, 2, 2))
    found = slab_of(slices, [2, 3, 8, 0], [0, 3, 3, 0], [3, 9, 9, 3], 3)
    assert found[..., 0, 0].tolist() == [[1, 2, 2], [3, 3, 4], [7, 8, 8], [0, 0, 1]]
    assert slab_of(slices, [5], 0, 9, 1)[..., 0, 0].tolist() == [[5]]
    assert slab_of(slices, [0], 0, 9, 5)[..., 0, 0].tolist() == [[0, 0, 0, 1, 2]]


def test_slices_stored_with_their_channels_are_taken_as_they_are() -> None:
    slices = np.random.default_rng(0).normal(size=(20, 3, 5, 6)).astype(np.float32)
    model, info = Threshold(), describe(WHOLE.model_copy(update={"slab": 3}))
    list(logit_planes(model, info, slices, CPU))
    np.testing.assert_array_equal(torch.cat(model.seen).numpy(), slices)


@EACH_PATCH
def test_between_two_planes_the_modes_of_the_reader_are_its_own(patch: Any) -> None:
    model = Threshold().train()
    slices = np.zeros((40, 16, 12), np.float32)
    for _ in logit_planes(model, describe(WHOLE, patch), slices, CPU):
        assert model.training
        assert not torch.is_inference_mode_enabled()
    assert model.modes == {(False, True)}


def test_memory_mapped_slices_are_read_without_being_written(tmp_path: Path) -> None:
    np.save(tmp_path / "slices.npy", np.ones((4, 5, 6), np.float32))
    slices = np.load(tmp_path / "slices.npy", mmap_mode="r")
    (part,) = logit_planes(Threshold(), describe(WHOLE), slices, CPU)
    assert part.shape == (4, 2, 5, 6)


# other kinds of files


def card(**extra: Any) -> DatasetCard:
    return DatasetCard(
        name="test",
        title="test",
        images=("{case}.npz",),
        axes={"npz": "RSP", "tfrecords": "RSP"},
        classes=("background", "bright"),
        label_values={"background": (0,), "bright": (1,)},
        prepare=WHOLE.model_copy(update={"orientation": "RSP", "size": (26, 18), **extra}),
    )


def test_a_volume_in_an_npz_file_is_predicted_in_its_own_axes(tmp_path: Path) -> None:
    image = np.ascontiguousarray(scene().transpose(0, 2, 1)[:, :, ::-1]).astype(np.float32)
    np.savez(tmp_path / "a.npz", image, (image > THRESHOLD).astype(np.float32))
    case = read_case(Case("a", tmp_path / "a.npz"), card().prepare, card())
    assert case.slices.shape == (22, 26, 18)
    found = predict_case(Threshold(), describe(card().prepare), case, CPU)
    np.testing.assert_array_equal(found, image > THRESHOLD)
    np.testing.assert_array_equal(case.read_again().array, image)


def test_records_of_several_slices_are_no_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = (nibabel.Nifti1Image(scene(), np.eye(4)),) * 3
    monkeypatch.setattr("uda.prediction.volumes.read_images", lambda case, card: several)
    with pytest.raises(DataError, match="records are single slices") as caught:
        read_case(Case("a", tmp_path / "a.tfrecords"), card().prepare, card())
    assert caught.value.where == tmp_path / "a.tfrecords"
    assert caught.value.fix


# entropy


def uncertainty(array: np.ndarray) -> np.ndarray:
    """Of the threshold's two classes, as a share of log 2."""
    p = 1 / (1 + np.exp(-2 * SLOPE * (array.astype(np.float64) - THRESHOLD)))
    q = np.clip(np.stack([p, 1 - p]), 1e-12, 1)
    return -(q * np.log(q)).sum(0) / np.log(2)


@EACH_PATCH
@pytest.mark.parametrize("extra", [EXACT["crop"], RESAMPLED["everything"]], ids=["exact", "not"])
def test_entropy_maps_lie_on_the_files_own_grid_in_shares_of_log_k(
    tmp_path: Path, patch: Any, extra: dict[str, Any]
) -> None:
    info = describe(WHOLE.model_copy(update=extra), patch)
    for number, turn in enumerate(TURNS[::13]):
        file = stored(turn, 25)
        case = Case(str(number), write_nifti(tmp_path / "in" / f"{number}.nii", *file))
        (outcome,) = predict_cases(Threshold(), info, [case], tmp_path / "out", CPU, entropy=True)
        assert outcome.entropy == tmp_path / "out" / f"{number}_entropy.nii.gz"
        written = nibabel.load(outcome.entropy)
        assert written.get_data_dtype() == np.uint8
        np.testing.assert_allclose(written.affine, file[1], atol=1e-4)
        found, expected = np.asarray(written.dataobj), uncertainty(file[0])
        assert found.shape == file[0].shape
        if "spacing" in extra:
            assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.8
        else:
            assert (
                np.abs(found - expected).max() < 1 / 255
            )  # far from the crop's edge it is certain


def test_asking_for_entropy_changes_no_label(tmp_path: Path) -> None:
    prepare = WHOLE.model_copy(update=RESAMPLED["everything"])
    case = read_case(Case("a", write_nifti(tmp_path / "a.nii", *stored(TURNS[7]))), prepare)
    planes = list(logit_planes(Threshold(), describe(prepare), case.slices, CPU))
    labels, entropy = to_file_maps(planes, case.geometry, entropy=True)
    np.testing.assert_array_equal(labels, to_file_grid(planes, case.geometry))
    assert entropy is not None
    border = labels != np.roll(labels, 1, 0)
    assert entropy[border].mean() > 5 * entropy[~border].mean()


def test_entropy_of_a_photograph_is_that_of_its_interpolated_logits() -> None:
    logits = 3 * torch.randn(1, 19, 12, 24, generator=torch.Generator().manual_seed(0))
    p = functional.interpolate(logits, (64, 128), mode="bilinear")[0].double().softmax(0)
    expected = 255 * torch.special.entr(p).sum(0) / np.log(19)
    difference = entropy_on(logits, (64, 128)).double() - expected
    assert difference.abs().max() < 0.51
