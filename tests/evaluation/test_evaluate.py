"""Evaluation: refused cases, reading of cases, and a second table by a paper's convention."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from conftest import CLASSES, SIZE, Tiny, make_case, write_nifti
from nifti_bytes import PLACE, SHEARED, header_of, nifti

from uda.config.card import DatasetCard, Prepare
from uda.config.loading import load_card, override
from uda.config.networks import Network
from uda.config.recipe import Compute, Evaluate
from uda.data.cases import Case, cases_of
from uda.data.records import write_npz, write_records
from uda.errors import ConfigError, DataError
from uda.evaluation.evaluate import evaluate
from uda.evaluation.rows import Row
from uda.evaluation.volumes import read_references
from uda.networks.build import build
from uda.networks.model_file import ModelInfo, load_model, save_model

CPU = Compute(device="cpu")


def model_of(folder: Path, name: str, prepare: Prepare, ledger: str = "source_labels") -> Row:
    """A small network with random weights."""
    torch.manual_seed(len(name))
    network = Network(channels=(4, 8), res_units=0)
    info = ModelInfo(network, tuple(CLASSES), prepare, (ledger,))
    path = folder / name / "model.safetensors"
    save_model(path, build(network, len(CLASSES)), info)
    return Row(name, name, path)


@pytest.fixture
def card(tiny: Tiny) -> DatasetCard:
    return load_card(str(tiny.home / "target.yaml"))


@pytest.fixture
def cases(tiny: Tiny, card: DatasetCard) -> list[Case]:
    return cases_of(card, tiny.root, "test", labels=True)


@pytest.fixture
def info(tmp_path: Path, card: DatasetCard) -> ModelInfo:
    return load_model(model_of(tmp_path, "any", card.prepare).model)[1]


def test_a_case_with_no_label_is_named(
    card: DatasetCard, cases: list[Case], info: ModelInfo
) -> None:
    unlabelled = replace(cases[0], label=None)
    with pytest.raises(DataError, match="case 'c2' has no label, so it cannot be scored") as caught:
        read_references([unlabelled], card, info)
    assert caught.value.where == cases[0].image
    assert "test split" in str(caught.value)


def test_a_card_without_labels_cannot_be_evaluated_on(tiny: Tiny, card: DatasetCard) -> None:
    with pytest.raises(ConfigError, match="names no labels"):
        cases_of(override(card, ["labels=null"]), tiny.root, "test", labels=True)


def test_a_label_file_that_is_gone_is_named(tiny: Tiny, card: DatasetCard) -> None:
    (tiny.root / "t/labels/c2.nii.gz").unlink()
    with pytest.raises(DataError) as caught:
        cases_of(card, tiny.root, "test", labels=True)
    assert str(tiny.root / "t/labels/c2.nii.gz") in str(caught.value)


def wrong_value(label: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    raw = label.astype(np.int16) * 10
    raw[0, 0, 0] = 421
    return raw, None


def wrong_place(label: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    return label * np.uint8(10), np.diag([1.5, 1.5, 5.0, 1.0])


def wrong_shape(label: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    return label[..., :-1] * np.uint8(10), None


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (wrong_value, r"does not name: 421 \(1 voxels\)"),
        (wrong_place, "affine differs from the image's by up to 1 mm"),
        (wrong_shape, "the label has shape"),
    ],
)
def test_a_label_that_does_not_fit_is_refused_by_file(
    card: DatasetCard,
    cases: list[Case],
    info: ModelInfo,
    spoil: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]],
    says: str,
) -> None:
    assert cases[0].label is not None
    write_nifti(cases[0].label, *spoil(make_case(12, inverted=True)[1]))
    with pytest.raises(DataError, match=says) as caught:
        read_references(cases, card, info)
    assert caught.value.where == cases[0].label


def arrays_card(card: DatasetCard, suffix: str) -> DatasetCard:
    changes: dict[str, Any] = {
        "images": (f"{{case}}{suffix}",),
        "labels": ("inside",),
        "axes": {suffix.removeprefix("."): "RAS"},
        "distance_unit": "voxel",
    }
    return card.model_copy(update=changes)


def test_records_are_no_volumes_to_score(
    tmp_path: Path, card: DatasetCard, info: ModelInfo
) -> None:
    image, label = (a[..., :3].astype(np.float32) for a in make_case(12, inverted=True))
    path = tmp_path / "c2.tfrecords"
    write_records(path, [(image, label * 10)])
    with pytest.raises(DataError, match="single slices, but distances need volumes") as caught:
        read_references([Case("c2", path, path)], arrays_card(card, ".tfrecords"), info)
    assert caught.value.where == path


def test_an_npz_is_scored_as_the_nifti_file_it_came_from(
    tmp_path: Path, card: DatasetCard, cases: list[Case], info: ModelInfo
) -> None:
    image, label = make_case(12, inverted=True)
    path = tmp_path / "c2.npz"
    write_npz(path, image.astype(np.float32), label.astype(np.float32) * 10)
    (found,) = read_references([Case("c2", path, path)], arrays_card(card, ".npz"), info)
    (expected,) = read_references(cases, card, info)
    assert (found.label == expected.label).all()
    assert (found.case.slices == expected.case.slices).all()
    assert found.spacing == (1.0, 1.0, 1.0)


def test_a_sheared_case_is_scored_and_saved_through_its_affine(
    tiny: Tiny, card: DatasetCard, cases: list[Case], info: ModelInfo, tmp_path: Path
) -> None:
    case = cases[0]
    assert case.label is not None
    for path in (case.image, case.label):
        array = np.asanyarray(nibabel.load(path).dataobj)
        path.write_bytes(gzip.compress(nifti(array, srow=SHEARED)))
    (reference,) = read_references([case], card, info)
    np.testing.assert_array_equal(reference.spacing, np.reshape(SHEARED, (3, 4))[:, :3])
    row = model_of(tmp_path, "source", info.prepare)
    evaluate([row], [case], card, Evaluate(save_predictions=True), CPU, tmp_path / "out")
    written = tmp_path / f"out/predictions/{row.name}/{case.name}.nii.gz"
    for field in PLACE:
        assert header_of(written)[field] == header_of(case.image)[field], field


def test_an_npz_without_label_is_refused(
    tmp_path: Path, card: DatasetCard, info: ModelInfo
) -> None:
    path = tmp_path / "c2.npz"
    write_npz(path, make_case(12, inverted=True)[0].astype(np.float32))
    with pytest.raises(DataError, match="no label") as caught:
        read_references([Case("c2", path, path)], arrays_card(card, ".npz"), info)
    assert caught.value.where == path


def test_every_row_sees_the_images_as_the_adapted_models_do(
    tmp_path: Path, card: DatasetCard, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Source and target may be normalised differently; an adapted model has the target's preparation."""
    source = card.prepare.model_copy(update={"normalize": (-5000.0, 0.0)})
    rows = [model_of(tmp_path, "source_only", source), model_of(tmp_path, "adabn", card.prepare)]
    seen: list[np.ndarray] = []

    def remember(_model: Any, _info: Any, case: Any, *_: Any) -> np.ndarray:
        seen.append(case.slices)
        return np.zeros(case.geometry.shape, np.uint8)

    monkeypatch.setattr("uda.evaluation.volumes.predict_case", remember)
    evaluate(rows, cases, card, Evaluate(), CPU, tmp_path / "out")
    assert len(seen) == 2
    assert all(abs(float(slices.mean())) < 1e-5 for slices in seen)  # z-scores, not a window


def test_the_convention_stands_beside_our_rules_and_changes_none(
    tmp_path: Path, card: DatasetCard, cases: list[Case]
) -> None:
    rows = [
        model_of(tmp_path, "source_only", card.prepare),
        model_of(tmp_path, "minent", card.prepare, "source_images"),
    ]
    ours = evaluate(rows, cases, card, Evaluate(), CPU, tmp_path / "ours")
    both = evaluate(rows, cases, card, Evaluate(convention="sifa"), CPU, tmp_path / "both")
    assert "conventions" not in ours
    assert {key: both[key] for key in ours} == ours
    sifa = both["conventions"]["sifa"]
    assert any("population sd" in rule for rule in sifa["rules"])
    assert [row["name"] for row in sifa["rows"]] == ["source_only", "minent"]
    assert sifa["rows"][1]["supervision"] == ["source_images"]
    # These slices are prepared without crop and resampling, so Dice is that of the file's grid.
    for found, row in zip(sifa["rows"], ours["rows"], strict=True):
        for name in CLASSES[1:]:
            expected = row["dice"]["per_class"][name]["mean"]
            assert found["dice"]["per_class"][name]["mean"] == pytest.approx(expected)
    json.dumps(sifa, allow_nan=False)


def test_the_convention_measures_in_voxels_where_we_measure_in_mm(
    tmp_path: Path, card: DatasetCard, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prediction one slice (4 mm) away from a reference of one slice."""
    label = np.zeros((SIZE, SIZE, 4), np.uint8)
    label[4:9, 4:9, 1] = 10
    assert cases[0].label is not None
    write_nifti(cases[0].label, label)
    found = np.roll(label, 1, axis=2) // 10
    monkeypatch.setattr("uda.evaluation.volumes.predict_case", lambda *_: found)
    rows = [model_of(tmp_path, "source_only", card.prepare)]
    result = evaluate(rows, cases, card, Evaluate(convention="sifa"), CPU, tmp_path / "out")
    (sifa,) = result["conventions"]["sifa"]["rows"]
    assert result["rows"][0]["assd"]["per_class"]["disk"]["mean"] == 4.0
    assert sifa["assd"]["per_class"]["disk"]["mean"] == 1.0
