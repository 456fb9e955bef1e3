"""Rows beside those of the stages: views where there is no BatchNorm, the last step beside the chosen one."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Tiny
from typer.testing import CliRunner

from uda.cli.main import app
from uda.config.loading import load_card, load_recipe
from uda.config.postprocess import Postprocess
from uda.data.cases import cases_of
from uda.errors import ConfigError
from uda.evaluation.evaluate import evaluate
from uda.evaluation.rows import Row
from uda.files.atomic import read_json
from uda.pipeline import run as pipeline
from uda.report.files import read_metrics

BARE = ("network.norm=instance", "pretrain.steps=2", "adapt.*.steps=2", "evaluate.distances=false")


def test_a_table_has_the_mean_over_views_where_adabn_changes_nothing(
    tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    assert "views" not in {row["name"] for row in read_metrics(finished)["rows"]}
    recipe = tiny.load(*BARE, "sources={longer: {steps: 3}}", "evaluate.postprocess={smooth: 1}")
    pipeline.run(recipe, tmp_path / "run", rows=["minent", "longer_source_only"])
    metrics = read_metrics(tmp_path / "run")
    rows = {row["name"]: row for row in metrics["rows"]}
    assert rows["adabn"]["dice"] == rows["source_only"]["dice"]
    for name, stage in (("views", "pretrain"), ("longer_views", "pretrain-longer")):
        assert rows[name]["supervision"] == rows["source_only"]["supervision"]
        assert rows[name]["stage"] == stage
        assert rows[name]["postprocess"] == {"views": 5}
    assert "views + post" not in rows
    assert any("no BatchNorm" in rule for rule in metrics["rules"])
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    assert "no BatchNorm" in page
    assert "+ post: smooth 1" in page

    card = load_card(str(tiny.home / "target.yaml"))
    cases = cases_of(card, tiny.root, "test", labels=True)
    model = tmp_path / "run" / "pretrain" / "model.safetensors"
    settings = recipe.evaluate.model_copy(update={"postprocess": Postprocess(views=5)})
    again = evaluate([Row("by hand", "", model)], cases, card, settings, recipe.compute, tmp_path)
    assert again["rows"][1]["dice"] == rows["views"]["dice"]


def test_an_adaptation_without_batchnorm_says_so(tiny: Tiny, tmp_path: Path) -> None:
    pipeline.run(tiny.load(*BARE), tmp_path / "run", until="pretrain")
    images = str(tiny.root / "t" / "images")
    call = ["adapt", "--model", str(tmp_path / "run" / "pretrain"), "--target", images]
    for method, more in (("adabn", []), ("minent", ["--set", "steps=2", "--set", "batch=4"])):
        out = tmp_path / method
        chosen = [*call, "--method", method, *more, "--out", str(out), "--device", "cpu"]
        shown = CliRunner().invoke(app, [*chosen, "--quiet", "--allow-fallback"])
        assert shown.exit_code == 0, shown.output
        assert "no BatchNorm layer, so AdaBN changes nothing" in shown.stderr
        assert read_json(out / "stage.json")["batchnorm"] is False
        page = (out / "report.html").read_text()
        assert "--postprocess views=5" in page
        assert "statistics of the target</b>" not in page


def test_no_steps_have_no_best_snapshot(tiny: Tiny, tmp_path: Path, no_page: None) -> None:
    none = ("adapt.minent.steps=0", "adapt.minent.select=oracle", "adapt.minent.source=pretrain")
    pipeline.run(tiny.load(*BARE, *none), tmp_path / "run", rows=["minent"])
    rows = {row["name"]: row for row in read_metrics(tmp_path / "run")["rows"]}
    assert rows["minent"]["dice"] == rows["source_only"]["dice"]


def test_no_variant_may_have_the_name_of_a_baseline(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match=r"adapt\.views: this row name is taken"):
        load_recipe(tiny.recipe, ["adapt={views: {preset: minent, steps: 1, batch: 1, lr: 0.1}}"])


def test_the_last_step_stands_beside_the_one_that_was_chosen(tiny: Tiny, tmp_path: Path) -> None:
    """Where the last step is what was kept there is nothing to add."""
    kept = "adapt.minent.guard={factor: 1.01, overlap: 0.99, unsafe: 9, patience: 9}"
    last = "adapt.adami_tags.select=last"
    recipe = tiny.load("adapt.*.snapshot_every=3", "evaluate={last: true}", kept, last)
    pipeline.run(recipe, tmp_path / "run", until="evaluate")
    rows = {row["name"]: row for row in read_metrics(tmp_path / "run")["rows"]}
    assert list(rows) == ["source_only", "adabn", "minent", "minent_last", "adami_tags"]
    assert (rows["minent"]["step"], rows["minent_last"]["step"]) == (0, 6)
    assert rows["minent_last"]["supervision"] == rows["minent"]["supervision"]
    assert "selection" not in rows["minent_last"]
