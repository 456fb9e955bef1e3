"""Photographs from model to score: whole pictures on the files' own pixels, one confusion matrix, two scales."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_photos import SIZE, card_of, write_model, write_world
from torch import nn
from torch.nn import functional

import uda
from uda.config.card import DatasetCard
from uda.config.recipe import Compute, Evaluate
from uda.data.cases import Case, cases_of
from uda.data.sources import photo_classes
from uda.devices.device import make_fabric
from uda.devices.distributed import Process
from uda.errors import ConfigError, ModelError
from uda.evaluation.evaluate import evaluate
from uda.evaluation.photos import PhotoScorer
from uda.evaluation.rows import Row, Task
from uda.networks.model_file import load_model
from uda.prediction.photos import (
    classes_of,
    entropy_of,
    multi_scale_classes,
    photo_logits,
    read_prepared,
)
from uda.types import IGNORE

CPU = Compute(device="cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("streets"))


@pytest.fixture(scope="module")
def card() -> DatasetCard:
    return card_of("cityscapes")


@pytest.fixture(scope="module")
def cases(card: DatasetCard, root: Path) -> list[Case]:
    return cases_of(card, root, "test", labels=True)


@pytest.fixture(scope="module")
def rows(card: DatasetCard, root: Path) -> list[Row]:
    names = ("source_only", "adabn")
    paths = [
        write_model(root / name / "model.safetensors", card, n) for n, name in enumerate(names)
    ]
    return [Row(name, name, path) for name, path in zip(names, paths, strict=True)]


def test_the_largest_interpolated_logit_wins() -> None:
    logits = torch.randn(1, 19, 12, 24, generator=torch.Generator().manual_seed(0))
    whole = functional.interpolate(logits, (64, 128), mode="bilinear")
    torch.testing.assert_close(classes_of(logits, (64, 128)).long(), whole[0].argmax(0))


def test_of_equal_logits_the_first_class_wins() -> None:
    assert classes_of(torch.zeros(1, 5, 4, 4), (8, 8)).eq(0).all()


def test_entropy_is_0_where_the_network_is_sure_and_1_where_it_knows_nothing() -> None:
    logits = torch.zeros(1, 4, 1, 2)
    logits[0, 2, 0, 0] = 100.0
    torch.testing.assert_close(entropy_of(logits), torch.tensor([[0.0, 1.0]]))


def test_the_table_is_the_confusion_matrix_of_all_images(
    rows: list[Row], cases: list[Case], card: DatasetCard, tmp_path: Path
) -> None:
    """Against the definition: pooled true positives over pooled unions at the files' own size."""
    result = evaluate(rows, cases, card, Evaluate(subsets={"two": ("road", "sky")}), CPU, tmp_path)
    fabric = make_fabric(CPU)
    for row, scored in zip(rows, result["rows"], strict=True):
        model, info = load_model(row.model)
        shared, union = np.zeros(19), np.zeros(19)
        for case in cases:
            photo = read_prepared(case, info.prepare)
            reference = photo_classes(case, photo.geometry, card)
            assert reference.shape == (64, 128)
            found = classes_of(photo_logits(model, fabric, photo, info.prepare), photo.size)
            prediction, counted = found.numpy(), reference != IGNORE
            for k in range(19):
                both = (prediction == k) & counted, (reference == k)
                shared[k] += (both[0] & both[1]).sum()
                union[k] += (both[0] | both[1]).sum()
        expected = {n: shared[k] / union[k] for k, n in enumerate(card.classes) if union[k]}
        per_class = scored["iou"]["per_class"]
        for name in card.classes:
            assert per_class[name]["mean"] == (
                pytest.approx(expected[name]) if name in expected else None
            )
        assert scored["iou"]["mean"] == pytest.approx(np.mean(list(expected.values())))
        two = np.mean([expected["road"], expected["sky"]])
        assert scored["subsets"]["two"] == pytest.approx(two)
    assert {"cases.csv", "overlays.npz", "overlays.json"} <= {p.name for p in tmp_path.iterdir()}
    with (tmp_path / "cases.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(rows) * len(cases) * 19
    arrays = np.load(tmp_path / "overlays.npz")
    assert arrays["adabn__entropy__0"].shape == arrays["adabn__0"].shape == SIZE
    assert arrays["image_0"].shape == (*SIZE, 3)


def test_one_scale_that_is_1_differs_from_single_scale_by_the_mirror_image_alone(
    rows: list[Row], cases: list[Case], card: DatasetCard
) -> None:
    fabric = make_fabric(CPU)
    model, info = load_model(rows[0].model)
    photo = read_prepared(cases[0], info.prepare)
    logits = photo_logits(model, fabric, photo, info.prepare)
    image = torch.from_numpy(photo.planes)[None].float() / 255
    mean, sd = (torch.tensor(v)[:, None, None] for v in (info.prepare.mean, info.prepare.sd))
    mirrored = model.eval()(((image - mean) / sd).flip(-1)).flip(-1)
    expected = sum(
        functional.interpolate(one, photo.size, mode="bilinear").softmax(1)
        for one in (logits, mirrored)
    )
    found = multi_scale_classes(model, fabric, photo, info.prepare, [1.0])
    same = (found.long() == expected[0].argmax(0)).float().mean()
    assert same > 0.999


def test_many_scales_stand_beside_our_table_and_change_nothing_in_it(
    rows: list[Row], cases: list[Case], card: DatasetCard, tmp_path: Path
) -> None:
    ours = evaluate(rows, cases, card, Evaluate(), CPU, tmp_path / "one")
    settings = Evaluate(convention="multi_scale", scales=(0.75, 1.0))
    both = evaluate(rows, cases, card, settings, CPU, tmp_path / "two")
    assert {key: both[key] for key in ours} == ours
    table = both["conventions"]["multi_scale"]
    assert [row["name"] for row in table["rows"]] == ["source_only", "adabn"]
    assert "0.75, 1" in table["rules"][0]


def test_a_convention_of_volumes_is_refused(
    rows: list[Row], cases: list[Case], card: DatasetCard, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="sifa"):
        evaluate(rows, cases, card, Evaluate(convention="sifa"), CPU, tmp_path)


def test_saved_predictions_are_the_scored_ones_with_the_official_palette(
    rows: list[Row], cases: list[Case], card: DatasetCard, tmp_path: Path
) -> None:
    evaluate(rows[:1], cases, card, Evaluate(save_predictions=True), CPU, tmp_path)
    model, info = load_model(rows[0].model)
    photo = read_prepared(cases[1], info.prepare)
    found = classes_of(photo_logits(model, make_fabric(CPU), photo, info.prepare), photo.size)
    image = Image.open(tmp_path / "predictions/source_only" / f"{cases[1].name}.png")
    np.testing.assert_array_equal(np.asarray(image), found.numpy())
    assert image.getpalette()[:3] == list(card.colors["road"])


def test_ones_own_model_adapts_to_and_segments_a_folder_of_photographs(
    rows: list[Row], cases: list[Case], root: Path, tmp_path: Path
) -> None:
    """No recipe: a model file and a folder, PNGs of class indices at the photographs' own size out."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for case in cases:
        (folder / f"{case.name}.png").write_bytes(case.image.read_bytes())
    (folder / "broken.png").write_bytes(cases[0].image.read_bytes()[:100])
    outcomes = list(uda.predict(rows[0].model, folder, tmp_path / "out", compute=CPU))
    faults = {o.case: o.fault for o in outcomes if o.fault}
    assert list(faults) == ["broken"]
    assert "broken.png" in faults["broken"]
    for case in cases:
        classes = np.asarray(Image.open(tmp_path / "out" / f"{case.name}.png"))
        assert classes.shape == (64, 128)
        assert classes.max() < 19
    (folder / "broken.png").unlink()
    adapted = uda.adapt(
        rows[0].model,
        folder,
        tmp_path / "adapted",
        method="minent",
        overrides=["steps=2", "batch=2"],
        compute=CPU,
    )
    before, after = (load_model(path)[0].state_dict() for path in (rows[0].model, adapted))
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_model_of_volumes_does_not_score_photographs(
    cases: list[Case], card: DatasetCard, tmp_path: Path
) -> None:
    from uda.config.card import Prepare
    from uda.config.networks import Network
    from uda.networks.build import build
    from uda.networks.model_file import ModelInfo, save_model

    network = Network(channels=(4, 8))
    info = ModelInfo(network, card.classes, Prepare(size=(32, 32)), ("source_labels",))
    save_model(tmp_path / "model.safetensors", build(network, 19), info)
    row = Row("source_only", "pretrain", tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="volumes"):
        evaluate([row], cases, card, Evaluate(), CPU, tmp_path / "out")


def test_processes_share_the_images_and_count_each_once(
    rows: list[Row],
    cases: list[Case],
    card: DatasetCard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two processes, one after the other: their matrices are apart, and together those of one."""
    model, info = load_model(rows[0].model)

    def matrices() -> np.ndarray:
        settings, fabric = Evaluate(), make_fabric(CPU)
        scorer = PhotoScorer(Task(cases, card, info, settings, fabric, 1, tmp_path))
        return scorer._matrices(model)[0]

    whole = matrices()
    monkeypatch.setattr("uda.evaluation.photos.sum_arrays", lambda array: array)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(
            "uda.evaluation.photos.this_process", lambda rank=rank: Process(rank, 2, rank)
        )
        parts.append(matrices())
    counted = [{n for n, matrix in enumerate(part) if matrix.any()} for part in parts]
    assert counted[0].isdisjoint(counted[1])
    assert counted[0] | counted[1] == set(range(len(cases)))
    np.testing.assert_array_equal(parts[0] + parts[1], whole)


def test_a_network_of_ones_own_is_imported_for_photographs(
    cases: list[Case], card: DatasetCard, tmp_path: Path
) -> None:
    """Any Python network with three channels in: registered, filled, run on the card's size, predicted with."""

    def factory() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 19, 1))

    weights = tmp_path / "weights.safetensors"
    save_file(factory().state_dict(), weights)
    path = uda.import_model(factory, tmp_path / "model", card=card, weights=weights, name="three")
    rows = [Row("source_only", "given", Path(path))]
    result = evaluate(rows, cases, card, Evaluate(), CPU, tmp_path / "out")
    assert result["rows"][0]["iou"]["mean"] is not None
