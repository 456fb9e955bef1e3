"""Confusion matrices and IoU: brute force over pixels, hand-worked numbers, and ignored pixels."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import load_script
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor
from torch.overrides import TorchFunctionMode

from uda.errors import DataError
from uda.evaluation.miou import (
    Confusion,
    histogram,
    histogram_by_sorting,
    pair_index,
    summarise_iou,
)
from uda.types import IGNORE

CLASSES = ("road", "sky", "car")
K = len(CLASSES)
Labels = npt.NDArray[np.uint8]
Pair = tuple[Labels, Labels]

predictions = arrays(np.uint8, (4, 5), elements=st.integers(0, K - 1))
references = arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2, IGNORE]))
image_sets = st.lists(st.tuples(predictions, references), min_size=1, max_size=5)


def counted(pairs: list[Pair], classes: int = K) -> Confusion:
    confusion = Confusion(classes, len(pairs))
    for number, (prediction, reference) in enumerate(pairs):
        confusion.add(number, torch.from_numpy(prediction), torch.from_numpy(reference))
    return confusion


def summary_of(pairs: list[Pair], **options: Any) -> dict[str, Any]:
    return summarise_iou(counted(pairs).matrices(), CLASSES, **options)


def row(*labels: int) -> Labels:
    return np.array([labels], np.uint8)


def brute_iou(pairs: list[Pair], k: int) -> float:
    """IoU from the sets of pixels of a class in prediction and reference; NaN if both are empty."""
    right = either = 0
    for prediction, reference in pairs:
        for p, r in zip(prediction.flat, reference.flat, strict=True):
            if r != IGNORE:
                right += p == k and r == k
                either += p == k or r == k
    return right / either if either else math.nan


@settings(max_examples=25, deadline=None)
@given(image_sets)
def test_every_cell_counts_the_pixels_of_its_pair(pairs: list[Pair]) -> None:
    confusion = counted(pairs)
    matrices = confusion.matrices()
    assert matrices.dtype == np.int64
    for (prediction, reference), matrix in zip(pairs, matrices, strict=True):
        for r in range(K):
            for p in range(K):
                assert matrix[r, p] == np.count_nonzero((reference == r) & (prediction == p))
    assert confusion.total().tolist() == matrices.sum(0).tolist()


@settings(max_examples=25, deadline=None)
@given(image_sets, st.sampled_from([torch.uint8, torch.int16, torch.int32, torch.int64]))
def test_any_integer_prediction_and_any_layout_give_the_same_counts(
    pairs: list[Pair], kind: torch.dtype
) -> None:
    turned = Confusion(K, len(pairs))
    for number, (prediction, reference) in enumerate(pairs):
        turned.add(
            number, torch.from_numpy(prediction).to(kind).T, torch.from_numpy(reference.copy()).T
        )
    assert (turned.matrices() == counted(pairs).matrices()).all()


@pytest.mark.parametrize(
    ("classes", "kind"),
    [(1, torch.int16), (128, torch.int16), (129, torch.int32), (255, torch.int32)],
)
def test_the_largest_label_has_a_cell_of_its_own(classes: int, kind: torch.dtype) -> None:
    last = np.full((2, 3), classes - 1, np.uint8)
    ignored = np.full((2, 3), IGNORE, np.uint8)
    index = pair_index(torch.from_numpy(last), torch.from_numpy(ignored), classes)
    assert index.dtype == kind
    assert index.tolist() == [IGNORE * classes + classes - 1] * 6
    matrices = counted([(last, last), (last, ignored)], classes).matrices()
    assert matrices[0, -1, -1] == matrices.sum() == 6


@settings(max_examples=25, deadline=None)
@given(arrays(np.int16, st.integers(0, 40), elements=st.integers(0, 11)))
def test_sorting_counts_as_bincount_does(values: npt.NDArray[np.int16]) -> None:
    index = torch.from_numpy(values)
    by_sorting = histogram_by_sorting(index, 12)
    assert by_sorting.dtype == torch.int64
    assert by_sorting.tolist() == histogram(index, 12).tolist()
    assert by_sorting.tolist() == [int((values == k).sum()) for k in range(12)]


class Calls(TorchFunctionMode):
    """Names of the called torch functions, and the bytes of the largest tensor that one returned."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.largest = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.names.add(func.__name__)
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.nbytes)
        return result


READS = {"item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__index__", "any", "nonzero"}


def test_counting_reads_nothing_back_and_holds_two_bytes_a_pixel() -> None:
    image = torch.zeros(200, 300, dtype=torch.uint8)
    confusion = Confusion(19, 1)
    with Calls() as calls:
        confusion.add(0, image, image)
    assert calls.names.isdisjoint(READS)
    assert "bincount" in calls.names
    assert calls.largest == 2 * image.numel()
    with Calls() as calls:
        confusion.total()
    assert "cpu" in calls.names


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_counts_the_same_and_the_host_does_not_wait() -> None:
    draw = torch.Generator().manual_seed(0)
    prediction = torch.randint(0, 19, (300, 400), generator=draw)
    reference = torch.randint(0, 20, (300, 400), generator=draw)
    reference = torch.where(reference == 19, IGNORE, reference).to(torch.uint8)
    here, there = Confusion(19, 1), Confusion(19, 1, "cuda")
    here.add(0, prediction, reference)
    on_device = prediction.cuda(), reference.cuda()
    torch.use_deterministic_algorithms(True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        there.add(0, *on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.use_deterministic_algorithms(False)
    assert (there.matrices() == here.matrices()).all()


def test_a_perfect_prediction_has_iou_one_and_no_doubt() -> None:
    pair = row(0, 0, 1, 2), row(0, 0, 1, 2)
    summary = summary_of([pair, pair])
    assert summary["iou"]["mean"] == summary["accuracy"] == 1.0
    assert summary["iou"]["ci95"] == [1.0, 1.0]
    assert summary["iou"]["per_class"]["road"] == {
        "mean": 1.0,
        "n": 2,
        "missed": 0,
        "spurious": 0,
        "share": 0.5,
    }


def test_two_images_worked_by_hand() -> None:
    pairs = [(row(0, 0, 1, 1), row(0, 0, 0, 1)), (row(0, 1, 1, 1), row(0, 2, IGNORE, 1))]
    summary = summary_of(pairs)
    per_class = summary["iou"]["per_class"]
    # road: 3 right, 1 called sky; sky: 2 right, 1 was road and 1 was car; car: missed
    assert per_class["road"]["mean"] == 3 / 4
    assert per_class["sky"]["mean"] == 2 / 4
    assert per_class["car"] == {"mean": 0.0, "n": 1, "missed": 1, "spurious": 0, "share": 1 / 7}
    assert summary["iou"]["mean"] == pytest.approx((3 / 4 + 2 / 4) / 3)
    assert summary["accuracy"] == 5 / 7


def test_the_iou_is_of_all_images_together_and_not_a_mean_over_them() -> None:
    pairs = [(row(0, 0, 0, 0), row(0, 0, 0, 0)), (row(0, 1, 1, 1), row(1, 1, 1, 1))]
    assert summary_of(pairs)["iou"]["per_class"]["road"]["mean"] == 4 / 5  # 1/2 as a mean


@settings(max_examples=25, deadline=None)
@given(image_sets)
def test_the_iou_is_that_of_the_definition(pairs: list[Pair]) -> None:
    summary = summary_of(pairs, subsets={"two": ("car", "road")})
    wanted = [brute_iou(pairs, k) for k in range(K)]
    for k, name in enumerate(CLASSES):
        one = summary["iou"]["per_class"][name]
        assert one["mean"] == (None if math.isnan(wanted[k]) else pytest.approx(wanted[k]))
        shown = [bool((r == k).any()) for _, r in pairs]
        found = [bool(((p == k) & (r != IGNORE)).any()) for p, r in pairs]
        assert one["n"] == sum(shown)
        assert one["missed"] == sum(s and not f for s, f in zip(shown, found, strict=True))
        assert one["spurious"] == sum(f and not s for s, f in zip(shown, found, strict=True))
    for mean, members in (
        (summary["iou"]["mean"], wanted),
        (summary["subsets"]["two"], wanted[::2]),
    ):
        defined = [value for value in members if not math.isnan(value)]
        assert mean == (pytest.approx(sum(defined) / len(defined)) if defined else None)
    json.dumps(summary, allow_nan=False)


def test_a_class_that_is_nowhere_does_not_count_and_one_only_predicted_counts_zero() -> None:
    nowhere = summary_of([(row(0, 1), row(0, 1))])
    assert nowhere["iou"]["per_class"]["car"]["mean"] is None
    assert nowhere["iou"]["mean"] == 1.0
    invented = summary_of([(row(0, 1, 2), row(0, 1, 1))])
    assert invented["iou"]["per_class"]["car"]["mean"] == 0.0
    assert invented["iou"]["per_class"]["car"]["spurious"] == 1
    assert invented["iou"]["mean"] == pytest.approx((1 + 1 / 2 + 0) / 3)


@settings(max_examples=15, deadline=None)
@given(predictions, references, st.integers(0, K - 1))
def test_what_is_predicted_on_ignored_pixels_changes_nothing(
    prediction: Labels, reference: Labels, other: int
) -> None:
    changed = np.where(reference == IGNORE, other, prediction).astype(np.uint8)
    assert summary_of([(changed, reference)]) == summary_of([(prediction, reference)])


def test_nothing_labelled_gives_none_and_valid_json() -> None:
    pairs = [(row(0, 1), row(IGNORE, IGNORE))] * 2
    none = np.zeros((0, K, K), np.int64)
    for summary in (summary_of(pairs, subsets={"a": ["sky"]}), summarise_iou(none, CLASSES)):
        assert summary["iou"]["mean"] is summary["iou"]["ci95"] is summary["accuracy"] is None
        assert summary["iou"]["per_class"]["sky"]["mean"] is None
        assert summary["iou"]["per_class"]["sky"]["share"] is None
        assert set(summary["subsets"].values()) <= {None}
        json.dumps(summary, allow_nan=False)


def test_the_13_of_16_classes_keep_their_iou_among_all() -> None:
    names = [f"c{k}" for k in range(16)]
    draw = np.random.default_rng(0)
    matrices = draw.integers(0, 50, (3, 16, 16)) + 200 * np.eye(16, dtype=np.int64)
    kept = [name for name in names if name not in {"c3", "c4", "c5"}]
    summary = summarise_iou(matrices, names, {"13": kept, "16": names, "none": []})
    per_class = summary["iou"]["per_class"]
    mean = sum(per_class[name]["mean"] for name in kept) / 13
    assert summary["subsets"] == {
        "13": pytest.approx(mean),
        "16": summary["iou"]["mean"],
        "none": None,
    }
    assert abs(mean - summary["iou"]["mean"]) > 1e-4


@settings(max_examples=25, deadline=None)
@given(image_sets, st.integers(0, 3))
def test_the_interval_is_seeded_and_lies_between_none_and_all(pairs: list[Pair], seed: int) -> None:
    summary = summary_of(pairs, seed=seed)
    assert summary == summary_of(pairs, seed=seed)
    labelled = sum(bool((reference != IGNORE).any()) for _, reference in pairs)
    assert (summary["iou"]["ci95"] is None) == (labelled < 2)
    if labelled >= 2:
        low, high = summary["iou"]["ci95"]
        assert 0 <= low <= high <= 1


def test_images_without_labels_do_not_widen_the_interval() -> None:
    draw = np.random.default_rng(0)
    pairs = [(draw.integers(0, K, (4, 5), np.uint8), draw.integers(0, K, (4, 5), np.uint8))] * 2
    pairs += [(row(0, 1, 1), row(0, 1, 1)), (row(2, 0, 1), row(2, 0, 0))]
    empty = (row(0, 1), row(IGNORE, IGNORE))
    assert summary_of([empty, *pairs, empty])["iou"] == summary_of(pairs)["iou"]


def test_the_interval_is_that_of_copies_drawn_one_by_one() -> None:
    draw = np.random.default_rng(1)
    matrices = draw.integers(0, 30, (12, K, K)) * draw.integers(0, 2, (12, 1, K))
    means = []
    for _ in range(2000):
        total = matrices[draw.integers(0, 12, 12)].sum(0)
        right = np.diag(total)
        means.append(np.mean(right / (total.sum(0) + total.sum(1) - right)))
    wanted = np.quantile(means, [0.025, 0.975])
    assert summarise_iou(matrices, CLASSES)["iou"]["ci95"] == pytest.approx(wanted, abs=0.01)


def test_counts_beyond_float32_stay_exact() -> None:
    many = 2**31 + 1
    matrices = np.diag([many, many, many])[None]
    matrices[0, 0, 1] = 1
    road = summarise_iou(matrices, CLASSES)["iou"]["per_class"]["road"]["mean"]
    assert road == many / (many + 1)


@settings(max_examples=15, deadline=None)
@given(image_sets, st.integers(0, 5))
def test_shares_of_the_images_merge_into_the_whole(pairs: list[Pair], cut: int) -> None:
    parts = [Confusion(K, len(pairs)) for _ in range(2)]
    for number, (prediction, reference) in enumerate(pairs):
        parts[number >= cut].add(number, torch.from_numpy(prediction), torch.from_numpy(reference))
    parts[0].merge(parts[1])
    assert (parts[0].matrices() == counted(pairs).matrices()).all()


def test_an_image_counts_once() -> None:
    image = torch.zeros(2, 2, dtype=torch.uint8)
    one, other = counted([(row(0), row(0))]), counted([(row(0), row(0))])
    with pytest.raises(DataError, match="image 0 is counted twice"):
        one.add(0, image, image)
    with pytest.raises(DataError, match="image 0 is counted twice"):
        one.merge(other)
    with pytest.raises(DataError, match=r"\(1, 4, 4\) do not fit \(1, 3, 3\)"):
        one.merge(Confusion(4, 1))
    assert one.total().sum() == 1
    whole = Confusion(K, 1)
    whole.merge(other)
    with pytest.raises(DataError, match="image 0 is counted twice"):
        whole.merge(other)


def test_reference_values_without_a_class_are_told_when_the_counts_are_read() -> None:
    pairs = [
        (row(0, 1, 2), row(0, 1, IGNORE)),
        (row(0, 1, 2), row(3, 254, 3)),
        (row(0, 1, 2), row(7, 2, 2)),
    ]
    confusion = counted(pairs)
    with pytest.raises(DataError) as caught:
        confusion.matrices(["a.png", "b.png", "c.png"])
    text = str(caught.value)
    assert "without a class: 3 (2 pixels), 7 (1 pixels), 254 (1 pixels)" in text
    assert "b.png, c.png" in text
    assert "a.png" not in text
    with pytest.raises(DataError, match="image 1, image 2"):
        confusion.total()
    whole = Confusion(K, 3)
    whole.merge(confusion)
    with pytest.raises(DataError, match="254"):
        whole.total()


def test_many_faulty_images_are_counted_and_not_all_listed() -> None:
    confusion = counted([(row(0), row(9))] * 8)
    with pytest.raises(DataError, match="image 4 and 3 more"):
        confusion.total()


def test_what_cannot_be_counted_is_refused_at_once() -> None:
    confusion = Confusion(K, 1)
    image = torch.zeros(2, 3, dtype=torch.uint8)
    with pytest.raises(DataError, match=r"shape \(3, 2\), the reference \(2, 3\)"):
        confusion.add(0, image.T, image)
    for wrong in (image.float(), image.bool()):
        with pytest.raises(DataError, match="argmax of the logits"):
            confusion.add(0, wrong, image)
    with pytest.raises(DataError, match=r"the reference torch\.int64"):
        confusion.add(0, image, image.long())
    with pytest.raises(DataError, match="1 to 255"):
        Confusion(256, 1)
    assert confusion.total().sum() == 0


def test_matrices_and_subsets_must_fit_the_classes() -> None:
    with pytest.raises(DataError, match=r"\(1, 4, 4\) for 3 classes"):
        summarise_iou(np.zeros((1, 4, 4), np.int64), CLASSES)
    with pytest.raises(DataError, match=r"subset '13' names 'raod'.*\n.*did you mean 'road'"):
        summarise_iou(np.zeros((1, K, K), np.int64), CLASSES, {"13": ["raod"]})


@pytest.fixture
def cityscapes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_script(Path(__file__).parents[2] / "benchmarks" / "cityscapes.py", monkeypatch)
    # a separate process matters only for the memory measurement, and takes seconds to start
    monkeypatch.setattr(module, "ProcessPoolExecutor", lambda n, mp_context: ThreadPoolExecutor(n))
    return module


def test_the_benchmark_times_every_part_and_counts_every_labelled_pixel(
    cityscapes: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    cityscapes.main(
        ["--images", "5", "--distinct", "2", "--size", "64", "128", "--network", "stand-in"]
    )
    printed = capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if "|" in line]
    for part in cityscapes.PARTS:
        (cells,) = [cells for cells in rows if cells[0] == part]
        assert all(math.isfinite(float(cell.split()[0].rstrip("%"))) for cell in cells[1:3])
    assert "5 images of 2048" not in printed
    assert "5 images of 128×64" in printed


def test_the_fake_download_has_the_names_of_the_real_one(
    cityscapes: ModuleType, tmp_path: Path
) -> None:
    pairs = cityscapes.write_cityscapes(tmp_path, images=5, distinct=2, size=(32, 64))
    assert len(pairs) == 5
    for image, label in pairs:
        stem = image.name.removesuffix("_leftImg8bit.png")
        assert image.parent.parent == tmp_path / "leftImg8bit" / "val"
        city = image.parent.name
        assert stem.startswith(f"{city}_")
        assert label == tmp_path / "gtFine" / "val" / city / f"{stem}_gtFine_labelIds.png"
    assert len({image.stat().st_ino for image, _ in pairs}) == 2
