"""A guarded stage keeps the best safe checkpoint or the model before adaptation, and records which."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Once, Tiny, make_tiny
from torch import nn
from typer.testing import CliRunner

from uda.cli.main import app
from uda.config.guard import SLICES, Rule
from uda.config.loading import load_recipe
from uda.config.recipe import Recipe
from uda.errors import RunError
from uda.files.atomic import load_tensors
from uda.pipeline import run as pipeline
from uda.pipeline import stages
from uda.selection import Choice, Judge, Scores, needed
from uda.selection import judge as judging
from uda.selection.guard import Watch

ONE = "adapt-minent"
COLLAPSING = "adapt.minent.lr=1.0"


def recipe_of(tiny: Tiny, *overrides: str) -> Recipe:
    fixed = ["compute.device=cpu", "pretrain.steps=60", "pretrain.lr=0.01", "pretrain.ema=0"]
    return load_recipe(tiny.recipe, [*tiny.overrides, *fixed, *overrides])


@pytest.fixture(scope="module")
def pretrained(once: Once) -> Path:
    """A run of the recipe as far as its source model."""

    def fill(folder: Path) -> None:
        pipeline.run(recipe_of(make_tiny(folder)), folder / "run", until="pretrain")

    return once("guard", fill) / "run"


@pytest.fixture
def runs(tmp_path: Path, pretrained: Path) -> Path:
    """Runs in here find the source model trained."""
    runs = tmp_path / "runs"
    for run in (runs, *(runs / name for name in ("whole", "killed", "guarded", "last", "run"))):
        shutil.copytree(pretrained, run, dirs_exist_ok=True)
    return runs


def adapted(tiny: Tiny, out: Path, *overrides: str) -> dict[str, Any]:
    """Run the variant and return its ``stage.json``."""
    pipeline.run(recipe_of(tiny, *overrides), out, until=ONE)
    record: dict[str, Any] = json.loads((out / ONE / "stage.json").read_text())
    return record


def weights(folder: Path) -> dict[str, list[float]]:
    tensors, _ = load_tensors(folder / "model.safetensors")
    return {name: tensor.double().flatten().tolist() for name, tensor in tensors.items()}


def favouring(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make the rule choose candidate ``name`` if it exists."""

    def choose(scores: dict[str, Scores], rule: Rule) -> Choice:
        return Choice(name if name in scores else "adabn", dict.fromkeys(scores, 1.0))

    monkeypatch.setattr(judging, "choose", choose)


def test_a_collapse_falls_back_to_the_model_before_adaptation_weight_for_weight(
    tiny: Tiny, runs: Path
) -> None:
    record = adapted(tiny, runs, COLLAPSING, "adapt.minent.guard.overlap=0.99")
    pipeline.run(recipe_of(tiny, COLLAPSING), runs, until="adabn")
    selection = record["selection"]
    assert selection["fallback"]
    assert selection["why"].startswith("no checkpoint was safe: ")
    assert selection["ended"].startswith("2 checkpoints in a row were unsafe: ")
    assert [one["safe"] for one in selection["candidates"]] == [True, True, False, False]
    before = runs / {"source": "pretrain", "adabn": "adabn"}[selection["kept"]]
    assert weights(runs / ONE) == weights(before)


def test_a_training_whose_faults_may_pass_goes_on(tiny: Tiny, runs: Path) -> None:
    limits = ["adapt.minent.guard.overlap=0.99", "adapt.minent.guard.unsafe=100"]
    selection = adapted(tiny, runs, COLLAPSING, *limits)["selection"]
    assert selection["fallback"]
    assert selection["ended"] == "at its last step"


@pytest.mark.parametrize(("name", "stage"), [("source", "pretrain"), ("adabn", "adabn")])
def test_both_models_before_adaptation_can_be_kept(
    tiny: Tiny, runs: Path, monkeypatch: pytest.MonkeyPatch, name: str, stage: str
) -> None:
    favouring(monkeypatch, name)
    assert adapted(tiny, runs)["selection"]["kept"] == name
    pipeline.run(recipe_of(tiny), runs, until=stage)
    assert weights(runs / ONE) == weights(runs / stage)


def test_the_checkpoint_that_the_rule_likes_is_kept_and_not_the_last(
    tiny: Tiny, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    favouring(monkeypatch, "000003")
    wide = ("adapt.minent.guard.overlap=0", "adapt.minent.guard.factor=1000")
    record = adapted(tiny, runs, "adapt.minent.lr=1e-5", *wide)["selection"]
    assert (record["kept"], record["step"], record["fallback"]) == ("step 3", 3, False)
    assert set(record["rule"]) <= set(record["better"])
    assert all(set(one["scores"]) == set(needed(SLICES)) for one in record["candidates"])
    assert record["better"]["ratio_distance"] == record["better"]["entropy"] == "smaller"
    assert record["better"]["consistency"] == "larger"
    kept = runs / ONE / "snapshots" / "000003"
    assert weights(runs / ONE) == weights(kept)
    assert weights(kept) != weights(runs / ONE / "snapshots" / "000006")


def test_snapshots_that_nobody_asked_for_do_not_stay(tiny: Tiny, runs: Path) -> None:
    record = adapted(tiny, runs, "adapt.minent.snapshot_every=0", "adapt.minent.steps=16")
    steps = [one["step"] for one in record["selection"]["candidates"]]
    assert steps[:4] == [0, 0, 2, 4]
    assert not (runs / ONE / "snapshots").exists()


def test_the_last_step_is_judged_even_off_the_beat(tiny: Tiny, runs: Path) -> None:
    record = adapted(
        tiny,
        runs,
        "adapt.minent.lr=1e-6",
        "adapt.minent.steps=5",
        "adapt.minent.guard.patience=9",
    )
    assert [one["step"] for one in record["selection"]["candidates"]] == [0, 0, 3, 5]


def test_training_ends_when_nothing_gets_better(
    tiny: Tiny, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores fall from step to step, and all checkpoints are safe."""
    real = Judge.scores

    def falling(self: Judge, some: Any = None) -> dict[str, Scores]:
        found = real(self, some)
        return {
            name: Scores(*[1 / (1 + int(name)) if name.isdecimal() else 0.0] * 8) for name in found
        }

    monkeypatch.setattr(Judge, "scores", falling)
    record = adapted(
        tiny,
        runs,
        "adapt.minent.lr=1e-6",
        "adapt.minent.steps=8",
        "adapt.minent.snapshot_every=1",
        "adapt.minent.guard.patience=2",
    )["selection"]
    assert record["ended"] == "none of the last 2 checkpoints was better"
    assert [one["step"] for one in record["candidates"]][-1] < 8


def test_training_ends_where_the_labels_hardly_change(tiny: Tiny, runs: Path) -> None:
    plan = ("adapt.minent.lr=1e-9", "adapt.minent.steps=8", "adapt.minent.snapshot_every=1")
    frozen = "adapt.minent.batchnorm=frozen"
    goes_on = adapted(tiny, runs / "whole", *plan, frozen, "adapt.minent.guard.patience=9")
    assert goes_on["selection"]["ended"] == "at its last step"
    settled = (*plan, frozen, "adapt.minent.guard.patience=9", "adapt.minent.guard.settled=0.99")
    record = adapted(tiny, runs / "run", *settled)["selection"]
    assert record["ended"] == "the labels of the last two checkpoints agree by Dice 1.000"
    assert [one["step"] for one in record["candidates"]] == [0, 0, 1, 2]


def test_training_goes_on_where_the_labels_change(tiny: Tiny, runs: Path) -> None:
    limits = ("adapt.minent.guard.unsafe=100", "adapt.minent.guard.settled=1.0")
    assert adapted(tiny, runs, COLLAPSING, *limits)["selection"]["ended"] == "at its last step"


def test_the_record_says_what_a_better_checkpoint_lacked(tiny: Tiny, runs: Path) -> None:
    """No class ratio is at a distance of 0 from the expected one."""
    rule = "adapt.minent.guard.rule={ranked: [nuclear_norm], better: {}, trust_region: null, distance: 0}"
    wide = ("adapt.minent.guard.overlap=0", "adapt.minent.guard.factor=1000")
    record = adapted(tiny, runs, "adapt.minent.lr=1e-3", rule, *wide)["selection"]
    assert (record["kept"], record["fallback"]) == ("adabn", True)
    assert record["rule"] == ["nuclear_norm"]
    assert record["criteria"]["distance"] == 0
    assert re.search(
        r"^none of \d safe checkpoints ranks above AdaBN and may replace it; the best by rank, step \d, may not "
        r"replace AdaBN: its distance to the expected class ratio is \S+, expected at most 0$",
        record["why"],
    )
    refused = {one["name"] for one in record["candidates"] if one["refused"]}
    assert refused == {one["name"] for one in record["candidates"] if one["safe"]} - {"adabn"}
    for one in record["candidates"]:
        assert set(one["scores"]) == {"nuclear_norm", "ratio_distance"}


def test_what_was_kept_although_another_ranked_higher_is_explained(
    tiny: Tiny, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(scores: dict[str, Scores], rule: Rule) -> Choice:
        ranks = {name: float(number) for number, name in enumerate(scores)}
        return Choice("000003", ranks, refused={[*scores][-1]: "it is far away"})

    monkeypatch.setattr(judging, "choose", choose)
    wide = ("adapt.minent.guard.overlap=0", "adapt.minent.guard.factor=1000")
    record = adapted(tiny, runs, "adapt.minent.lr=1e-5", *wide)["selection"]
    told = {one["step"]: one["refused"] for one in record["candidates"]}
    assert (record["kept"], told[3]) == ("step 3", "")
    last = max(told)
    assert told[last] == "it is far away"
    number = len(told) - 1  # both models before adaptation have step 0
    assert record["why"] == (
        f"best combined rank among AdaBN and {number - 1} of {number} checkpoints, those that are safe and may replace "
        f"AdaBN; the best by rank, step {last}, may not replace AdaBN: it is far away"
    )


WARMED = ("adapt.minent.batchnorm=warmed", "adapt.minent.lr=1e-4")


@pytest.mark.parametrize("warmed", [True, False])
def test_adabn_is_estimated_once(
    tiny: Tiny, runs: Path, monkeypatch: pytest.MonkeyPatch, warmed: bool
) -> None:
    """A training with warmed statistics has made the pass that the guard's AdaBN needs, to the bit."""
    real, passes, judged = stages.estimate_batchnorm, [], []

    def estimate(model: nn.Module, images: Any, device: Any) -> bool:
        known = real(model, images, device)
        passes.append(copy.deepcopy(model.state_dict()))
        return known

    class Seen(Judge):
        def __init__(self, *args: Any, **more: Any) -> None:
            judged.append(args[5])
            super().__init__(*args, **more)

    monkeypatch.setattr(stages, "estimate_batchnorm", estimate)
    monkeypatch.setattr(stages, "Judge", Seen)
    adapted(tiny, runs, *(WARMED if warmed else ()))
    (statistics,), (adabn,) = passes, judged
    found = adabn.state_dict()
    assert any("running_mean" in name for name in found)
    assert all(torch.equal(value, found[name]) for name, value in statistics.items())


def test_a_guard_that_shares_the_pass_changes_no_weight(tiny: Tiny, runs: Path) -> None:
    kept = ("adapt.minent.snapshot_every=3", "adapt.minent.guard.patience=9")
    adapted(tiny, runs / "guarded", *WARMED, *kept, "adapt.minent.guard.unsafe=9")
    adapted(tiny, runs / "last", *WARMED, *kept, "adapt.minent.select=last")
    for step in ("000003", "000006"):
        both = [runs / name / ONE / "snapshots" / step for name in ("guarded", "last")]
        assert weights(both[0]) == weights(both[1])


def test_of_a_large_target_the_guards_adabn_sees_a_sample(
    tiny: Tiny, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = stages.estimate_batchnorm, []

    def estimate(model: nn.Module, images: Any, device: Any) -> bool:
        batches = list(images)
        seen.append([len(batch) for batch in batches])
        return real(model, batches, device)

    monkeypatch.setattr(stages, "estimate_batchnorm", estimate)
    monkeypatch.setattr("uda.training.batches.BATCHNORM_BATCH", 2)
    adapted(tiny, runs / "whole")
    monkeypatch.setattr(stages, "ADABN_BATCHES", 3)
    adapted(tiny, runs / "run")
    assert seen == [[2] * 4, [2] * 3]


JUDGED = "adapt.minent.guard.rule={ranked: [consistency, held_out, agreement]}"


def test_a_killed_stage_judges_and_keeps_what_the_uninterrupted_one_does(
    tiny: Tiny, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = ("adapt.minent.lr=1e-4", "adapt.minent.steps=8", "adapt.minent.snapshot_every=2", JUDGED)
    whole = adapted(tiny, runs / "whole", *plan)["selection"]
    seen, calls = Watch._seen, []

    def killed(self: Watch, step: int) -> bool:
        calls.append(step)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return seen(self, step)

    monkeypatch.setattr(Watch, "_seen", killed)
    with pytest.raises(KeyboardInterrupt):
        adapted(tiny, runs / "killed", *plan)
    again = adapted(tiny, runs / "killed", *plan)["selection"]
    assert calls == [2, 4, 6, 4, 6, 8]  # it resumes from the checkpoint of step 4
    assert again == whole
    assert weights(runs / "killed" / ONE) == weights(runs / "whole" / ONE)


def test_a_loss_that_is_no_number_ends_a_guarded_training_and_fails_another(
    tiny: Tiny, runs: Path
) -> None:
    exploding = ("adapt.minent.lr=1e30", "adapt.minent.clip=0", "adapt.minent.snapshot_every=1")
    record = adapted(tiny, runs / "guarded", *exploding)["selection"]
    assert record["fallback"]
    with pytest.raises(RunError, match=r"not finite|became nan"):
        adapted(tiny, runs / "last", *exploding, "adapt.minent.select=last")
    assert not (runs / "last" / ONE).exists()


def test_without_a_guard_nothing_is_judged(
    tiny: Tiny, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "Judge", None)
    record = adapted(tiny, runs, "adapt.minent.select=last")
    assert "selection" not in record


def test_the_guards_settings_make_a_new_stage_only_where_they_act(tiny: Tiny, runs: Path) -> None:
    def is_new(*overrides: str) -> bool:
        return pipeline.run(recipe_of(tiny, *overrides), runs, until=ONE)[-1].ran

    last, other = "adapt.minent.select=last", "adapt.minent.guard.factor=5"
    assert is_new(last)
    assert not is_new(last, other)
    assert is_new()
    assert is_new(other)


def test_the_oracle_is_a_snapshot_and_says_that_it_used_target_labels(
    tiny: Tiny, runs: Path
) -> None:
    recipe = recipe_of(tiny, "adapt.minent.select=oracle", "adapt.minent.snapshot_every=1")
    pipeline.run(recipe, runs, until="evaluate")
    rows = json.loads((runs / "evaluate" / "metrics.json").read_text())["rows"]
    row = next(one for one in rows if one["name"] == "minent")
    assert "target_labels" in row["supervision"]
    assert 1 <= row["step"] <= 6


def test_the_table_says_what_was_kept(tiny: Tiny, runs: Path) -> None:
    recipe = recipe_of(tiny, COLLAPSING, "adapt.minent.guard.overlap=0.99")
    pipeline.run(recipe, runs, until="evaluate")
    rows = json.loads((runs / "evaluate" / "metrics.json").read_text())["rows"]
    by_name = {row["name"]: row for row in rows}
    kept = by_name["minent"]["selection"]
    assert kept["fallback"]
    before = by_name[{"source": "source_only", "adabn": "adabn"}[kept["kept"]]]
    assert by_name["minent"]["dice"] == before["dice"]
    assert "selection" not in by_name["adabn"]


@pytest.mark.parametrize(("extra", "code"), [([], 3), (["--allow-fallback"], 0)])
def test_the_command_ends_with_3_where_it_fell_back_unless_that_is_allowed(
    tiny: Tiny, runs: Path, extra: list[str], code: int
) -> None:
    changes = [*tiny.overrides, COLLAPSING, "adapt.minent.guard.overlap=0.99"]
    call = ["adapt", tiny.recipe, *changes, "--only", "minent", "--out", str(runs), "-q"]
    result = CliRunner().invoke(app, [*call, "--device", "cpu", *extra])
    assert result.exit_code == code, result.output
    assert f"{ONE}: kept " in result.stderr
    again = CliRunner().invoke(app, [*call, "--device", "cpu", *extra])
    assert again.exit_code == code


def test_ones_own_model_is_guarded_too(tiny: Tiny, runs: Path) -> None:
    pipeline.run(recipe_of(tiny), runs / "run", until="pretrain")
    images = tiny.root / "t" / "images"
    model, out = runs / "run" / "pretrain", runs / "own"
    call = ["adapt", "--model", str(model), "--target", str(images), "--out", str(out)]
    sets = ["--set", "steps=4", "--set", "lr=1.0", "--set", "guard.overlap=0.99"]
    result = CliRunner().invoke(app, [*call, "--method", "minent", *sets, "--device", "cpu", "-q"])
    assert result.exit_code == 3, result.output
    record = json.loads((out / "stage.json").read_text())["selection"]
    assert record["fallback"]
    assert weights(out)
