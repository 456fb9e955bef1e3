"""Rows with and without post-processing: the same models, scored twice, and what runs again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from conftest import CLASSES, Tiny
from tiny_photos import card_of, write_model, write_world
from typer.testing import CliRunner

from uda.cli.main import app
from uda.config.card import DatasetCard
from uda.config.loading import load_card
from uda.config.networks import Network
from uda.config.postprocess import Postprocess
from uda.config.recipe import Compute, Evaluate, Recipe
from uda.data.cases import Case, cases_of
from uda.devices.device import make_fabric
from uda.errors import ConfigError
from uda.evaluation.evaluate import evaluate
from uda.evaluation.rows import Row
from uda.networks.build import build
from uda.networks.model_file import ModelInfo, load_model, save_model
from uda.pipeline import run as pipeline
from uda.prediction.volumes import predict_case, read_case
from uda.report.files import read_metrics

CPU = Compute(device="cpu")
STEPS = Postprocess(views=5, smooth=0.8, largest=True)
STEPPED = Evaluate(postprocess=STEPS)


@pytest.fixture
def card(tiny: Tiny) -> DatasetCard:
    return load_card(str(tiny.home / "target.yaml"))


@pytest.fixture
def cases(tiny: Tiny, card: DatasetCard) -> list[Case]:
    return cases_of(card, tiny.root, "test", labels=True)


def rows_of(folder: Path, card: DatasetCard, *names: str) -> list[Row]:
    """Small networks with random weights."""
    rows = []
    for number, name in enumerate(names):
        torch.manual_seed(number)
        network = Network(channels=(4, 8), res_units=0)
        info = ModelInfo(network, tuple(CLASSES), card.prepare, ("none",))
        path = folder / name / "model.safetensors"
        save_model(path, build(network, len(CLASSES)), info)
        rows.append(Row(name, name, path))
    return rows


def test_every_row_has_a_second_one_with_the_steps_and_stays_what_it_was(
    tmp_path: Path, card: DatasetCard, cases: list[Case]
) -> None:
    rows = rows_of(tmp_path, card, "source_only", "adabn", "minent")
    settings = {"convention": "sifa", "save_predictions": True}
    plain = evaluate(rows, cases, card, Evaluate(**settings), CPU, tmp_path / "plain")
    both = evaluate(
        rows, cases, card, Evaluate(**settings, postprocess=STEPS), CPU, tmp_path / "both"
    )
    names = [name for row in rows for name in (row.name, f"{row.name} + post")]
    for table in (both, both["conventions"]["sifa"]):
        assert [row["name"] for row in table["rows"]] == names
    assert both["rows"][::2] == plain["rows"]
    for row, stepped in zip(both["rows"][::2], both["rows"][1::2], strict=True):
        assert stepped["postprocess"] == {"views": 5, "smooth": 0.8, "largest": True}
        assert all(row[key] == stepped[key] for key in ("stage", "supervision", "step"))
        assert row["dice"] != stepped["dice"]
    assert both["rules"] == [*plain["rules"], STEPS.rule]
    assert "views: 5, smooth: 0.8, largest: true" in STEPS.rule
    fabric = make_fabric(CPU)
    for row in rows:
        model, info = load_model(row.model)
        expected = predict_case(model, info, read_case(cases[0], card.prepare), fabric, STEPS)
        for name in (row.name, f"{row.name} + post"):
            saved = tmp_path / f"both/predictions/{name}/c2.nii.gz"
            same = np.array_equal(np.asarray(nibabel.load(saved).dataobj), expected)
            assert same == (name != row.name)


def test_pictures_show_rows_with_steps_and_are_ranked_by_those_without(
    tmp_path: Path, card: DatasetCard, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    from uda.evaluation.volumes import VolumeScorer

    means = {"source_only": 0.3, "adabn": 0.5, "minent": 0.4}
    scored = VolumeScorer.row

    def decided(self: Any, row: Row, extra: Any = ()) -> Any:
        found = scored(self, row, extra)
        mean = means[row.name.removesuffix(" + post")] + (0.2 if row.name == "minent + post" else 0)
        return {**found, "dice": {**found["dice"], "mean": mean}}

    monkeypatch.setattr(VolumeScorer, "row", decided)
    rows = rows_of(tmp_path, card, *means)
    evaluate(rows, cases, card, STEPPED, CPU, tmp_path / "out")
    entries = json.loads((tmp_path / "out" / "overlays.json").read_text())
    assert {entry["row"] for entry in entries} == {"adabn"}
    with np.load(tmp_path / "out" / "overlays.npz") as arrays:
        assert {"minent__0", "minent + post__0"} <= set(arrays)


def test_photographs_have_rows_with_their_mirror_images(tmp_path: Path) -> None:
    root, card = write_world(tmp_path / "data", 1, 1, 2), card_of("cityscapes")
    cases = cases_of(card, root, "test", labels=True)
    rows = [
        Row(name, name, write_model(tmp_path / name / "model.safetensors", card, seed))
        for seed, name in enumerate(("source_only", "adabn"))
    ]
    settings = Evaluate(convention="multi_scale", scales=(1.0,))
    plain = evaluate(rows, cases, card, settings, CPU, tmp_path / "plain")
    steps = settings.model_copy(update={"postprocess": Postprocess(views=2)})
    both = evaluate(rows, cases, card, steps, CPU, tmp_path / "both")
    assert both["rows"][::2] == plain["rows"]
    assert both["conventions"] == plain["conventions"]  # mirrors already
    assert [row["postprocess"] for row in both["rows"][1::2]] == [{"views": 2}] * 2
    assert both["rows"][1]["iou"] != both["rows"][0]["iou"]
    with np.load(tmp_path / "both" / "overlays.npz") as arrays:
        assert (arrays["adabn__0"] != arrays["adabn + post__0"]).any()


def with_steps(recipe: Recipe, steps: Postprocess) -> Recipe:
    scored = recipe.evaluate.model_copy(update={"postprocess": steps})
    return recipe.model_copy(update={"evaluate": scored})


def test_a_recipe_with_steps_scores_again_and_trains_nothing(
    tiny: Tiny, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_metrics(finished)
    recipe = with_steps(tiny.load("evaluate.distances=false"), STEPS)
    done = pipeline.run(recipe, finished)
    assert [stage.name for stage in done if stage.ran] == ["evaluate", "report"]
    metrics = read_metrics(finished)
    rows = {row["name"]: row for row in metrics["rows"]}
    for row in before["rows"]:
        assert rows[row["name"]]["dice"] == row["dice"]
        stepped = rows[f"{row['name']} + post"]
        assert stepped.get("selection") == row.get("selection")
        assert stepped["postprocess"] == STEPS.record()
    assert len(rows) == 2 * len(before["rows"])
    page = (finished / "report" / "report.html").read_text(encoding="utf-8")
    assert "+ post: views 5, smooth 0.8, largest true" in page
    assert page.index("adabn") < page.index("adabn + post")
    assert not any(stage.ran for stage in pipeline.run(recipe, finished))


def test_steps_that_do_not_fit_a_recipe_are_refused_before_anything_runs(
    tiny: Tiny, tmp_path: Path
) -> None:
    for steps, says in (
        (Postprocess(views=2), "views: not for volumes"),
        (Postprocess(largest=("lv",)), "no structure 'lv'"),
    ):
        with pytest.raises(ConfigError, match=says):
            pipeline.run(with_steps(tiny.load(), steps), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_model_is_scored_with_and_without(tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call = ["evaluate", "--model", str(finished / "adabn"), "--device", "cpu", "--out", str(out)]
    call += ["--card", str(tiny.home / "target.yaml"), "--root", str(tiny.root)]
    refused = CliRunner().invoke(app, [*call, "--postprocess", "largest=[lv]"])
    assert isinstance(refused.exception, ConfigError)
    assert not out.exists()
    shown = CliRunner().invoke(app, [*call, "--postprocess", "smooth=2"])
    assert shown.exit_code == 0
    assert "model + post" in shown.stdout
    rows = read_metrics(out)["rows"]
    assert [row.get("postprocess") for row in rows] == [None, {"smooth": 2.0}]
    alone = CliRunner().invoke(app, ["evaluate", tiny.recipe, "--postprocess", "smooth=2"])
    assert alone.exit_code == 2
