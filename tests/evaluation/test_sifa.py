"""The convention of PnP-AdaNet and SIFA: hand-worked numbers, an independent reference, and every slice scored."""

from __future__ import annotations

import json
import math
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from uda.config.card import DatasetCard, Prepare
from uda.data.geometry import Geometry, label_slices
from uda.data.volumes import Volume, prepare_image, prepare_label
from uda.evaluation.dice_hd95 import CaseScore
from uda.evaluation.sifa import Sifa, summarise

CLASSES = ("background", "myo", "lv")
CODES = ["".join(p) for p in permutations("RAS")] + ["LPS", "RSP", "LIP"]


def way(
    shape: tuple[int, int, int], affine: NDArray[np.float64] | None = None, **changes: Any
) -> Geometry:
    """Geometry of an image of this shape."""
    affine = np.diag([1.0, 1.0, 1.0, 1.0]) if affine is None else affine
    image = np.random.default_rng(0).normal(size=shape)
    prepare = Prepare(**{"orientation": "stored", "size": shape[:2], **changes})
    return prepare_image(Volume(image, affine), prepare, Path("image"))[1]


def score(case: str, structure: str, dice: float, assd: float, state: Any = "ok") -> CaseScore:
    return CaseScore("minent", case, structure, dice, assd, assd, state)


def measure(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> tuple[float, float]:
    """Dice and ASSD in voxels by distance transforms of the whole image."""
    edges = [mask & ~binary_erosion(mask) for mask in (prediction, reference)]
    ways = [distance_transform_edt(~there)[here].mean() for here, there in (edges, edges[::-1])]
    dice = 2 * (prediction & reference).sum() / (prediction.sum() + reference.sum())
    return float(dice), float(np.mean(ways))


def test_summary_hand_worked() -> None:
    """Dice 0.8 and 0.6: mean 0.7, population sd 0.1 (a sample's would be 0.141)."""
    scores = [
        score("a", "myo", 0.8, 2.0),
        score("b", "myo", 0.6, 4.0),
        score("a", "lv", 0.4, 10.0),
        score("b", "lv", 0.0, 99.0, "missed"),
    ]
    summary = summarise(scores, CLASSES[1:])
    assert summary["dice"]["per_class"]["myo"] == pytest.approx(
        {"mean": 0.7, "sd": 0.1, "n": 2, "missed": 0}
    )
    assert summary["assd"]["per_class"]["myo"] == pytest.approx(
        {"mean": 3.0, "sd": 1.0, "n": 2, "missed": 0}
    )
    assert summary["dice"]["per_class"]["lv"] == pytest.approx(
        {"mean": 0.2, "sd": 0.2, "n": 2, "missed": 1}
    )
    assert summary["dice"]["mean"] == pytest.approx((0.7 + 0.2) / 2)


def test_a_missed_structure_has_no_distance_and_is_counted() -> None:
    """The image diagonal of our rules must not enter."""
    scores = [score("a", "lv", 0.4, 10.0), score("b", "lv", 0.0, 99.0, "missed")]
    summary = summarise(scores, ["lv"])
    assert summary["assd"]["per_class"]["lv"] == {"mean": 10.0, "sd": 0.0, "n": 1, "missed": 1}
    assert summary["assd"]["mean"] == 10.0


def test_spurious_has_dice_0_and_absent_does_not_count() -> None:
    scores = [
        score("a", "lv", 0.4, 10.0),
        score("b", "lv", 0.0, math.nan, "spurious"),
        score("c", "lv", math.nan, math.nan, "n/a"),
    ]
    summary = summarise(scores, ["lv"])
    assert summary["dice"]["per_class"]["lv"] == pytest.approx(
        {"mean": 0.2, "sd": 0.2, "n": 2, "missed": 0}
    )
    assert summary["assd"]["per_class"]["lv"]["n"] == 1


def test_a_structure_found_nowhere_leaves_null_and_no_nan() -> None:
    summary = summarise([score("a", "lv", 0.0, 99.0, "missed")], CLASSES[1:])
    assert summary["assd"]["mean"] is None
    assert summary["assd"]["per_class"]["lv"] == {"mean": None, "sd": None, "n": 0, "missed": 1}
    assert summary["dice"]["mean"] == 0.0  # of lv; no case has myo
    json.dumps(summary, allow_nan=False)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_equals_an_independent_reference_in_voxels_whatever_the_header_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (9, 11, 7)
    geometry = way(shape, np.diag([0.5, 2.0, 7.0, 1.0]))
    references, predictions = rng.integers(0, 3, (2, 3, *shape), dtype=np.uint8)
    sifa = Sifa(zip("abc", references, [geometry] * 3, strict=True), CLASSES)
    sifa.add("minent", ["none"], predictions)
    (row,) = sifa.table()["rows"]
    means = []
    for k, name in enumerate(CLASSES[1:], 1):
        values = np.array(
            [measure(p == k, r == k) for p, r in zip(predictions, references, strict=True)]
        )
        for found, expected in zip(("dice", "assd"), values.T, strict=True):
            assert row[found]["per_class"][name] == pytest.approx(
                {"mean": expected.mean(), "sd": expected.std(), "n": 3, "missed": 0}, abs=1e-6
            )
        means.append(values.mean(0))
    assert row["dice"]["mean"] == pytest.approx(np.mean(means, axis=0)[0], abs=1e-6)
    assert row["assd"]["mean"] == pytest.approx(np.mean(means, axis=0)[1], abs=1e-6)
    assert (row["name"], row["supervision"]) == ("minent", ["none"])


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(CODES),
    st.sampled_from([0, 1, 2]),
    st.sampled_from([None, 0.7, 1.9]),
    st.sampled_from([None, 1.3, 3.0]),
)
def test_predictions_reach_the_prepared_grid_as_labels_do(
    code: str, slice_axis: int, spacing: float | None, slice_spacing: float | None
) -> None:
    geometry = way(
        (10, 12, 8),
        np.diag([1.0, 1.5, 2.0, 1.0]),
        orientation=code,
        slice_axis=slice_axis,
        spacing=spacing,
        slice_spacing=slice_spacing,
        size=(9, 7),
    )
    labels = np.random.default_rng(1).integers(0, 3, (10, 12, 8), dtype=np.uint8)
    card = DatasetCard(
        name="c",
        title="c",
        images=("{case}.nii",),
        classes=CLASSES,
        label_values={name: (k,) for k, name in enumerate(CLASSES)},
        prepare=Prepare(size=(9, 7)),
    )
    volume = Volume(labels, np.asarray(geometry.affine))
    assert (
        label_slices(labels, geometry) == prepare_label(volume, geometry, card, Path("l"))
    ).all()


def test_what_lies_outside_the_crop_is_not_scored() -> None:
    geometry = way((8, 8, 4), size=(4, 4))
    reference = np.zeros((8, 8, 4), np.uint8)
    reference[3:5, 3:5] = 1
    prediction = reference.copy()
    prediction[0, 0] = 1
    sifa = Sifa([("a", reference, geometry)], CLASSES)
    sifa.add("minent", ["none"], [prediction])
    assert sifa.rows[0]["dice"]["per_class"]["myo"]["mean"] == 1.0


def test_no_trailing_slice_is_lost() -> None:
    """129 slices, with the structure only in the last one: batches of 128 would miss it."""
    reference = np.zeros((4, 4, 129), np.uint8)
    reference[1:3, 1:3, 128] = 1
    sifa = Sifa([("a", reference, way(reference.shape))], CLASSES)
    sifa.add("minent", ["none"], [reference])
    assert sifa.rows[0]["dice"]["per_class"]["myo"] == {"mean": 1.0, "sd": 0.0, "n": 1, "missed": 0}


def test_without_distances_there_is_dice_alone() -> None:
    labels = np.ones((4, 4, 4), np.uint8)
    sifa = Sifa([("a", labels, way((4, 4, 4)))], CLASSES, distances=False)
    sifa.add("minent", ["none"], [labels])
    assert sifa.rows[0]["dice"]["per_class"]["myo"]["mean"] == 1.0
    assert sifa.rows[0]["assd"]["mean"] is None
