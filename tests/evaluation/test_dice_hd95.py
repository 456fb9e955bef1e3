"""Dice, HD95 and ASSD: hand-worked numbers, brute force over all pairs, and empty structures."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import load_script
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_erosion, distance_transform_edt

from uda.errors import DataError
from uda.evaluation import surface_distance
from uda.evaluation.dice_hd95 import (
    CaseScore,
    image_diagonal,
    score_case,
    summarise,
)
from uda.types import IGNORE

CLASSES = ("background", "myo", "lv")
STRUCTURES = CLASSES[1:]
spacings = st.tuples(*[st.sampled_from([0.5, 1.0, 1.7, 3.0])] * 3)


def masks(shape: tuple[int, ...] = (4, 5, 3)) -> st.SearchStrategy[npt.NDArray[np.bool_]]:
    return arrays(np.bool_, shape, elements=st.booleans())


def brute_force(
    a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_], spacing: Sequence[float]
) -> tuple[float, float, float]:
    """Dice, HD95 and ASSD from the distances of all pairs of surface pixels."""

    def surface(mask: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        points = []
        for point in product(*map(range, mask.shape)):
            if not mask[point]:
                continue
            for axis, step in product(range(mask.ndim), (-1, 1)):
                near = list(point)
                near[axis] += step
                inside = 0 <= near[axis] < mask.shape[axis]
                if not inside or not mask[tuple(near)]:
                    points.append(point)
                    break
        return np.asarray(np.array(points) * np.asarray(spacing))

    pairs = np.linalg.norm(surface(a)[:, None] - surface(b)[None], axis=-1)
    forth, back = pairs.min(axis=1), pairs.min(axis=0)
    dice = 2 * (a & b).sum() / (a.sum() + b.sum())
    pooled = np.percentile(np.concatenate([forth, back]), 95)
    return float(dice), float(pooled), float((forth.mean() + back.mean()) / 2)


def as_medpy(
    a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_], spacing: Sequence[float]
) -> tuple[float, float, float]:
    """Dice, HD95 and ASSD as medpy 0.4 defines them, by distance transforms of the whole image."""
    edges = [mask & ~binary_erosion(mask) for mask in (a, b)]
    away = [distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    forth, back = away[1][edges[0]], away[0][edges[1]]
    dice = 2 * (a & b).sum() / (a.sum() + b.sum())
    pooled = np.percentile(np.hstack([forth, back]), 95)
    return float(dice), float(pooled), float(np.mean([forth.mean(), back.mean()]))


def blobs(seed: int, shape: tuple[int, int, int] = (14, 22, 18)) -> npt.NDArray[np.uint8]:
    """Two touching structures with uneven walls, each with a few stray voxels."""
    rng = np.random.default_rng(seed)
    grid = np.moveaxis(np.indices(shape), 0, -1) / np.array(shape)
    labels = np.zeros(shape, np.uint8)
    for k, centre in ((1, (0.5, 0.4, 0.5)), (2, (0.5, 0.65, 0.5))):
        distance = np.linalg.norm(grid - centre, axis=-1) + rng.normal(0, 0.03, shape)
        labels[(distance < rng.uniform(0.18, 0.26)) | (rng.random(shape) < 5e-4)] = k
    return labels


def score(case: str, structure: str, dice: float, hd95: float, state: Any = "ok") -> CaseScore:
    return CaseScore("minent", case, structure, dice, hd95, hd95 / 2, state)


def score_structure(
    prediction: npt.NDArray[np.bool_], reference: npt.NDArray[np.bool_], spacing: Sequence[float]
) -> tuple[float, float, float, str]:
    """Dice, HD95, ASSD and state of one structure."""
    names = ["background", "structure"]
    masks = prediction.astype(np.uint8), reference.astype(np.uint8)
    (one,) = score_case(*masks, names, spacing, "row", "case")
    return one.dice, one.hd95, one.assd, one.state


def test_hand_worked_squares() -> None:
    """Two 2×2 squares side by side, one pixel apart in x: all pixels are surface."""
    a, b = np.zeros((6, 8), bool), np.zeros((6, 8), bool)
    a[2:4, 1:3] = True
    b[2:4, 2:4] = True
    dice, hd95, assd, state = score_structure(a, b, (1.0, 2.0))
    # Half of each square overlaps; the other column is one pixel = 2 mm away.
    assert (dice, state) == (0.5, "ok")
    assert (hd95, assd) == (2.0, 1.0)


def test_surface_of_a_solid_is_hollow() -> None:
    """A 3^3 cube inside a 5^3 cube: every distance is 1, so no interior pixel took part."""
    a, b = np.zeros((7, 7, 7), bool), np.zeros((7, 7, 7), bool)
    a[1:6, 1:6, 1:6] = True
    b[2:5, 2:5, 2:5] = True
    dice, hd95, assd, _ = score_structure(a, b, (1, 1, 1))
    assert dice == pytest.approx(2 * 27 / (125 + 27))
    # Outer to inner: 54 face pixels at 1, 36 edge pixels at sqrt 2, 8 corners at sqrt 3.
    forth = (54 + 36 * math.sqrt(2) + 8 * math.sqrt(3)) / 98
    assert assd == pytest.approx((forth + 1) / 2)
    assert hd95 == pytest.approx(math.sqrt(3))


def test_outside_the_image_is_background() -> None:
    """A mask that fills the image still has a surface: its border."""
    full = np.ones((5, 5), bool)
    centre = np.zeros((5, 5), bool)
    centre[2, 2] = True
    _, hd95, _, _ = score_structure(full, centre, (1, 1))
    assert hd95 == pytest.approx(math.sqrt(8))


@given(masks(), masks(), spacings)
def test_equals_brute_force(
    a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_], spacing: tuple[float, ...]
) -> None:
    assume(a.any() and b.any())
    *values, state = score_structure(a, b, spacing)
    assert state == "ok"
    assert values == pytest.approx(brute_force(a, b, spacing))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), spacings)
def test_equals_medpys_definitions_on_anisotropic_volumes(
    seed: int, spacing: tuple[float, ...]
) -> None:
    prediction, reference = blobs(seed), blobs(seed + 1)
    for found in score_case(prediction, reference, CLASSES, spacing, "adabn", "p01"):
        k = CLASSES.index(found.structure)
        expected = as_medpy(prediction == k, reference == k, spacing)
        assert (found.dice, found.hd95, found.assd) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(masks(), masks(), spacings)
def test_the_tree_and_the_transform_find_the_same_distances(
    a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_], spacing: tuple[float, ...]
) -> None:
    assume(b.any())
    tree = surface_distance.by_tree(a, b, spacing)
    assert tree is not None
    assert tree == pytest.approx(surface_distance.by_transform(a, b, spacing))
    assert len(tree) == a.sum()


def test_the_cheaper_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close surfaces use the tree although a stray voxel enlarges the box; noise everywhere uses the transform."""
    asked: list[str] = []

    def transform(*given: Any) -> npt.NDArray[np.float64]:
        asked.append("transform")
        return by_transform(*given)

    by_transform = surface_distance.by_transform
    monkeypatch.setattr(surface_distance, "by_transform", transform)
    near = np.zeros((60, 60, 60), bool)
    near[5:15, 5:15, 5:15] = True
    stray = np.roll(near, 1, axis=0)
    stray[59, 59, 59] = True
    distances = surface_distance.surface_distances(near, stray, (1.0, 1.0, 1.0))
    assert asked == []
    assert distances[1].max() == pytest.approx(math.sqrt(3) * 45)
    noise = np.random.default_rng(0).random(near.shape) < 0.5
    noise[59, 59, 59] = True
    forth, _ = surface_distance.surface_distances(noise, near, (1.0, 1.0, 1.0))
    assert asked == ["transform", "transform"]
    assert forth.max() == pytest.approx(math.sqrt(3) * 45)


@given(arrays(np.uint8, (5, 4, 6), elements=st.sampled_from([0, 1, 2])), st.data())
def test_a_case_is_scored_as_its_structures_are(
    prediction: npt.NDArray[np.uint8], data: st.DataObject
) -> None:
    """Cropping to the box of all structures, and ignored pixels in the reference, change no value."""
    labels = st.sampled_from([0, 1, 2, IGNORE])
    reference = data.draw(arrays(np.uint8, prediction.shape, elements=labels))
    counted = reference != IGNORE
    for found in score_case(prediction, reference, CLASSES, (1, 2, 3), "adabn", "p01"):
        k = CLASSES.index(found.structure)
        alone = score_structure((prediction == k) & counted, reference == k, (1, 2, 3))
        assert (found.dice, found.hd95, found.assd) == pytest.approx(alone[:3], nan_ok=True)
        assert found.state == alone[3]


@given(masks((5, 4)), masks((5, 4)))
def test_equals_brute_force_in_2d(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> None:
    assume(a.any() and b.any())
    assert score_structure(a, b, (2.0, 0.7))[:3] == pytest.approx(brute_force(a, b, (2.0, 0.7)))


@given(masks(), masks(), spacings, st.floats(0.1, 10))
def test_symmetry_identity_and_unit(
    a: npt.NDArray[np.bool_],
    b: npt.NDArray[np.bool_],
    spacing: tuple[float, ...],
    scale: float,
) -> None:
    """Swapping changes nothing, a mask has perfect scores with itself, distances scale with the spacing."""
    assume(a.any() and b.any())
    values = score_structure(a, b, spacing)
    assert score_structure(b, a, spacing)[:3] == pytest.approx(values[:3])
    assert score_structure(a, a, spacing) == (1.0, 0.0, 0.0, "ok")
    scaled = score_structure(a, b, [scale * step for step in spacing])
    assert scaled[:3] == pytest.approx((values[0], scale * values[1], scale * values[2]))


@given(masks(), masks(), st.tuples(*[st.integers(0, 3)] * 6))
def test_padding_changes_only_the_diagonal(
    a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_], margins: tuple[int, ...]
) -> None:
    width = [margins[0:2], margins[2:4], margins[4:6]]
    spacing = (1.0, 2.0, 0.5)
    before = score_structure(a, b, spacing)
    after = score_structure(np.pad(a, width), np.pad(b, width), spacing)
    assert after[3] == before[3]
    if before[3] == "missed":
        assert after[1] == pytest.approx(image_diagonal(np.pad(a, width).shape, spacing))
    else:
        assert after[:3] == pytest.approx(before[:3], nan_ok=True)


def test_both_empty_does_not_count() -> None:
    empty = np.zeros((3, 3, 3), bool)
    dice, hd95, assd, state = score_structure(empty, empty, (1, 1, 1))
    assert state == "n/a"
    assert np.isnan([dice, hd95, assd]).all()


def test_missed_costs_the_diagonal_of_the_whole_image() -> None:
    empty, reference = np.zeros((3, 4, 12), bool), np.zeros((3, 4, 12), bool)
    reference[1, 1, 1] = True
    assert score_structure(empty, reference, (1, 1, 1)) == (0.0, 13.0, 13.0, "missed")
    assert score_structure(empty, reference, (2, 2, 2))[1] == 26.0


def test_spurious_has_no_distance() -> None:
    empty, prediction = np.zeros((3, 3), bool), np.eye(3, dtype=bool)
    dice, hd95, assd, state = score_structure(prediction, empty, (1, 1))
    assert (dice, state) == (0.0, "spurious")
    assert np.isnan([hd95, assd]).all()


@given(masks(), masks(), spacings)
def test_a_miss_is_never_better_than_any_prediction(
    prediction: npt.NDArray[np.bool_],
    reference: npt.NDArray[np.bool_],
    spacing: tuple[float, ...],
) -> None:
    assume(prediction.any() and reference.any())
    hit = score_structure(prediction, reference, spacing)
    miss = score_structure(np.zeros_like(reference), reference, spacing)
    assert miss[0] <= hit[0]
    assert miss[1] >= hit[1]
    assert miss[2] >= hit[2]


def test_without_distances_dice_and_states_are_the_same() -> None:
    rng = np.random.default_rng(0)
    prediction, reference = rng.integers(0, 2, (2, 4, 5, 6))
    reference[0, 0, 0] = 2
    full = score_case(prediction, reference, CLASSES, (1, 1, 1), "adabn", "p01")
    quick = score_case(prediction, reference, CLASSES, (1, 1, 1), "adabn", "p01", distances=False)
    assert [(s.dice, s.state) for s in quick] == [(s.dice, s.state) for s in full]
    assert [s.state for s in full] == ["ok", "missed"]
    assert np.isnan([(s.hd95, s.assd) for s in quick]).all()
    summary = summarise(quick, STRUCTURES)
    assert summary["hd95"]["mean"] is None
    assert summary["hd95"]["per_class"]["lv"]["missed"] == 1


def test_score_case_names_every_structure_in_order() -> None:
    reference = np.zeros((4, 4, 4), np.uint8)
    reference[0], reference[1] = 1, 2
    prediction = np.where(reference == 2, 0, reference)
    scores = score_case(prediction, reference, CLASSES, (1, 1, 1), "adabn", "p01")
    assert [(s.structure, s.state) for s in scores] == [("myo", "ok"), ("lv", "missed")]
    assert {(s.row, s.case) for s in scores} == {("adabn", "p01")}
    assert scores[0].dice == 1.0


def test_ignored_pixels_belong_to_nothing() -> None:
    reference = np.zeros((4, 4), np.uint8)
    reference[:2] = 1
    reference[2:] = 255
    prediction = np.ones((4, 4), np.int64)
    myo, lv = score_case(prediction, reference, CLASSES, (1, 1), "adabn", "p01")
    assert (myo.dice, myo.hd95, lv.state) == (1.0, 0.0, "n/a")


@pytest.mark.parametrize(
    ("prediction", "reference", "spacing", "says"),
    [
        (np.zeros((2, 2), int), np.zeros((2, 3), int), (1, 1), "shape"),
        (np.zeros((2, 2), int), np.zeros((2, 2), int), (1, 1, 1), "spacing"),
        (np.zeros((2, 2), int), np.zeros((2, 2), int), (1, 0), "spacing"),
        (np.zeros((2, 2), int), np.full((2, 2), 7), (1, 1), "labels from 7 to 7"),
        (np.zeros((2, 2), int), np.array([[255, 0], [3, 1]]), (1, 1), "labels from 0 to 3"),
        (np.full((2, 2), 255), np.zeros((2, 2), int), (1, 1), "labels from 255"),
        (np.zeros((2, 2)), np.zeros((2, 2), int), (1, 1), "float64"),
    ],
)
def test_unusable_arrays_are_refused(
    prediction: npt.NDArray[Any], reference: npt.NDArray[Any], spacing: Sequence[float], says: str
) -> None:
    with pytest.raises(DataError, match=says) as caught:
        score_case(prediction, reference, CLASSES, spacing, "adabn", "p01")
    assert "p01" in str(caught.value)
    assert "fix:" in str(caught.value)


def test_summary_hand_worked() -> None:
    """myo 0.8, 0.6; lv 0.4, and n/a in b. Mean (0.7 + 0.4) / 2; case means 0.6 and 0.6."""
    scores = [
        score("a", "myo", 0.8, 2.0),
        score("b", "myo", 0.6, 4.0),
        score("a", "lv", 0.4, 10.0),
        score("b", "lv", math.nan, math.nan, "n/a"),
    ]
    summary = summarise(scores, STRUCTURES)
    dice = summary["dice"]
    assert dice["mean"] == pytest.approx(0.55)
    assert dice["sd"] == pytest.approx(0.0)
    assert dice["per_class"]["myo"] == pytest.approx(
        {"mean": 0.7, "sd": math.sqrt(0.02), "n": 2, "missed": 0, "spurious": 0}
    )
    lv = {"mean": 0.4, "sd": None, "n": 1, "missed": 0, "spurious": 0}
    assert dice["per_class"]["lv"] == pytest.approx(lv)
    assert summary["hd95"]["mean"] == pytest.approx((3 + 10) / 2)
    assert summary["hd95"]["sd"] == pytest.approx(math.sqrt(2))  # of the case means 6 and 4
    assert summary["assd"]["mean"] == pytest.approx((3 + 10) / 4)


def test_spurious_counts_for_dice_and_not_for_distance() -> None:
    scores = [
        score("a", "myo", 1.0, 0.0),
        score("b", "myo", 0.0, math.nan, "spurious"),
        score("a", "lv", 0.0, 30.0, "missed"),
    ]
    summary = summarise(scores, STRUCTURES)
    myo = summary["dice"]["per_class"]["myo"]
    assert (myo["mean"], myo["n"], myo["spurious"]) == (0.5, 2, 1)
    myo = summary["hd95"]["per_class"]["myo"]
    assert (myo["mean"], myo["n"], myo["spurious"]) == (0.0, 1, 1)
    assert summary["dice"]["per_class"]["lv"]["missed"] == 1


def test_nothing_counts_gives_none_and_valid_json() -> None:
    scores = [score("a", name, math.nan, math.nan, "n/a") for name in CLASSES[1:]]
    for given_scores in (scores, []):
        summary = summarise(given_scores, STRUCTURES)
        assert summary["dice"]["mean"] is summary["dice"]["sd"] is summary["dice"]["ci95"] is None
        assert summary["dice"]["per_class"]["lv"]["mean"] is None
        json.dumps(summary, allow_nan=False)


def test_one_case_has_no_spread() -> None:
    summary = summarise([score("a", "myo", 0.5, 1.0)], STRUCTURES)
    assert summary["dice"]["mean"] == 0.5
    assert summary["dice"]["sd"] is summary["dice"]["ci95"] is None


def test_interval_of_many_cases_is_the_textbook_one() -> None:
    """With one structure and many cases the bootstrap agrees with mean ± 1.96 sd / sqrt(n)."""
    values = np.random.default_rng(1).uniform(0.4, 0.9, 400)
    scores = [score(f"p{i:03}", "myo", float(v), 1.0) for i, v in enumerate(values)]
    dice = summarise(scores, STRUCTURES)["dice"]
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert dice["ci95"] == pytest.approx([values.mean() - half, values.mean() + half], abs=2e-3)


@st.composite
def score_sets(draw: st.DrawFn) -> list[CaseScore]:
    """Scores of 2 to 8 cases; at least one structure of one case is ok."""
    scores = [score("c0", "myo", draw(st.floats(0, 1)), draw(st.floats(0, 20)))]
    states = st.sampled_from(["ok", "ok", "ok", "missed", "spurious", "n/a"])
    for i, name in product(range(draw(st.integers(2, 8))), CLASSES[1:]):
        if (i, name) == (0, "myo"):
            continue
        state = draw(states)
        dice = {"ok": draw(st.floats(0, 1)), "n/a": math.nan}.get(state, 0.0)
        hd95 = {"ok": draw(st.floats(0, 20)), "missed": 50.0}.get(state, math.nan)
        scores.append(score(f"c{i}", name, dice, hd95, state))
    return scores


@settings(deadline=None)
@given(score_sets(), st.integers(0, 3))
def test_interval_holds_the_mean_and_is_seeded(scores: list[CaseScore], seed: int) -> None:
    summary = summarise(scores, STRUCTURES, seed)
    assert summary == summarise(scores[::-1], STRUCTURES, seed)
    for measure in summary.values():
        if measure["ci95"] is not None:
            low, high = measure["ci95"]
            assert low - 1e-9 <= measure["mean"] <= high + 1e-9
    json.dumps(summary, allow_nan=False)


@settings(deadline=None)
@given(score_sets(), st.data())
def test_one_more_miss_can_only_worsen_a_mean(scores: list[CaseScore], data: st.DataObject) -> None:
    hit = data.draw(st.sampled_from([s for s in scores if s.state == "ok"]))
    miss = dataclasses.replace(hit, dice=0.0, hd95=50.0, assd=50.0, state="missed")
    before = summarise(scores, STRUCTURES)
    after = summarise([miss if s is hit else s for s in scores], STRUCTURES)
    assert after["dice"]["mean"] <= before["dice"]["mean"] + 1e-12
    assert after["hd95"]["mean"] >= before["hd95"]["mean"] - 1e-12
    assert after["assd"]["mean"] >= before["assd"]["mean"] - 1e-12
    name = hit.structure
    missed = [s["dice"]["per_class"][name]["missed"] for s in (before, after)]
    assert missed[1] == missed[0] + 1


def test_mixed_unknown_and_double_scores_are_refused() -> None:
    one = score("a", "myo", 0.5, 1.0)
    with pytest.raises(DataError, match="several rows"):
        summarise([one, dataclasses.replace(one, row="adabn")], STRUCTURES)
    with pytest.raises(DataError, match="without a class: aorta"):
        summarise([dataclasses.replace(one, structure="aorta")], STRUCTURES)
    with pytest.raises(DataError, match="scored twice"):
        summarise([one, one], STRUCTURES)


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script(Path(__file__).parents[2] / "benchmarks" / "metrics.py", monkeypatch)


def stand_in(error: float = 0.0) -> SimpleNamespace:
    """Stands for medpy in the benchmark, by our independent reference."""

    def asd(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_], voxelspacing: Any) -> float:
        return as_medpy(a, b, voxelspacing)[2]  # the mean of the two directions is their mean

    return SimpleNamespace(
        dc=lambda a, b: as_medpy(a, b, (1, 1, 1))[0],
        hd95=lambda a, b, voxelspacing: as_medpy(a, b, voxelspacing)[1] + error,
        asd=asd,
        assd=asd,
    )


def test_the_benchmark_compares_values_before_it_measures(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--size", "24", "24", "24", "--rounds", "1"]
    monkeypatch.setattr(benchmark, "load_medpy", lambda folder: stand_in())
    benchmark.main(small)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| spacing")]
    assert len(rows) == 2
    assert all(row.count(" s |") == 2 for row in rows)
    monkeypatch.setattr(benchmark, "load_medpy", lambda folder: stand_in(error=1e-3))
    with pytest.raises(SystemExit, match=r"differs from medpy's by 0\.001"):
        benchmark.main(small)


def test_the_benchmark_says_how_to_get_medpy(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "medpy", None)
    with pytest.raises(SystemExit, match=r"--target FOLDER --no-deps medpy==0\.5\.2"):
        benchmark.main(["--rounds", "1"])
