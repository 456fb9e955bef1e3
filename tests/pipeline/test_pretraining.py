"""Source training: the step that is best on perturbed validation images, and agreement of two appearances."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import Tiny

from uda.config.recipe import Compute
from uda.errors import ConfigError
from uda.networks.model_file import load_model
from uda.pipeline import run as pipeline
from uda.pipeline import validation
from uda.pipeline.plan import plan
from uda.training.run import StageRun

STRONG = (
    "pretrain.augment={generalize: strong, elastic: {spacing: 8}, convolve: {spacing: 8}, bias: {spacing: 8}}",
    "pretrain.select=perturbed",
    "pretrain.steps=12",
    "pretrain.snapshot_every=4",
)
AGREEING = (
    "pretrain.augment={generalize: strong, views: 2, bias: {spacing: 8}}",
    "pretrain.objective=[{term: cross_entropy}, {term: view_agreement, weight: 10}]",
)


class Killed(BaseException):
    """Ends the run on the spot."""


def pretrained(tiny: Tiny, out: Path, *overrides: str) -> dict[str, Any]:
    pipeline.run(tiny.load(*overrides), out, until="pretrain")
    record: dict[str, Any] = json.loads((out / "pretrain" / "stage.json").read_text())
    return record


def weights(out: Path) -> bytes:
    return (out / "pretrain" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("best", [4, 8, 12])
def test_the_snapshot_that_is_best_on_perturbed_images_is_kept(
    tiny: Tiny, tmp_path: Path, best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = iter(
        [0.3, 0.2, 0.1] if best == 4 else [0.1, 0.5, 0.4] if best == 8 else [0.2, 0.1, 0.2]
    )
    monkeypatch.setattr(validation, "_mean", lambda scores: next(order))
    record = pretrained(tiny, tmp_path / "run", *STRONG)
    assert load_model(tmp_path / "run" / "pretrain")[1].step == best
    assert [one["step"] for one in record["validation_steps"]] == [4, 8, 12]
    assert record["validation_step"] == best
    assert set(record["validation_dice"]) == set(record["validation_perturbed"])
    snapshot = tmp_path / "run" / "pretrain" / "snapshots" / f"{best:06d}"
    kept, of_step = (load_model(p)[0].state_dict() for p in (snapshot.parents[1], snapshot))
    assert all(torch.equal(kept[name], of_step[name]) for name in kept)


def test_snapshots_nobody_asked_for_are_gone(tiny: Tiny, tmp_path: Path) -> None:
    pretrained(tiny, tmp_path / "run", *STRONG[:2])
    assert not (tmp_path / "run" / "pretrain" / "snapshots").exists()


@pytest.mark.parametrize("agreeing", [(), AGREEING])
@pytest.mark.parametrize("kept", [3, 7])
def test_a_resumed_source_training_gives_the_same_weights(
    tiny: Tiny,
    tmp_path: Path,
    kept: int,
    agreeing: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from uda.training import batches

    overrides = (*STRONG, *agreeing)
    whole = pretrained(tiny, tmp_path / "whole", *overrides)
    fetch, calls = batches.source_batch, 0

    def dies(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > kept + 1:
            raise Killed
        return fetch(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(batches, "source_batch", dies)
        with pytest.raises(Killed):
            pretrained(tiny, tmp_path / "cut", *overrides)
    cut = pretrained(tiny, tmp_path / "cut", *overrides)
    assert weights(tmp_path / "whole") == weights(tmp_path / "cut")
    assert whole["validation_steps"] == cut["validation_steps"]


def test_messages_name_the_stage_although_two_source_trainings_draw_alike(tmp_path: Path) -> None:
    run = StageRun(0, "pretrain", tmp_path, compute=Compute(), origin={"stage": "pretrain-far"})
    assert (run.stage, run.name) == ("pretrain", "pretrain-far")
    assert StageRun(0, "adapt", tmp_path, compute=Compute(), origin={}).name == "adapt"


def test_the_perturbations_are_those_of_the_seed_and_of_the_case() -> None:
    case = np.random.default_rng(0).normal(size=(3, 32, 32)).astype(np.float32)
    first, again, other = (validation._images(case, False, s, "a") for s in (1, 1, 2))
    assert len(first) == validation.TIMES
    for one, same, changed in zip(first, again, other, strict=True):
        assert one.shape == case.shape
        np.testing.assert_array_equal(one, same)
        assert not np.array_equal(one, changed)
        assert not np.array_equal(one, case)
    assert not np.array_equal(first[0], validation._images(case, False, 1, "b")[0])
    assert validation._images(case, False, None, "a")[0] is case


def test_without_validation_images_there_is_nothing_to_select_by(
    tiny: Tiny, tmp_path: Path
) -> None:
    card = tiny.home / "source.yaml"
    card.write_text(card.read_text().replace("validate:", "unused:"))
    with pytest.raises(ConfigError, match="needs labelled validation images") as caught:
        pretrained(tiny, tmp_path / "run", *STRONG)
    assert "pretrain.select=last" in str(caught.value)
    with pytest.raises(
        ConfigError, match=r"sources\.wide\.select=last"
    ):  # before the first is trained
        pretrained(tiny, tmp_path / "run", "sources={wide: {select: perturbed}}")
    assert not (tmp_path / "run").exists()


def test_no_steps_have_no_best_one(tiny: Tiny, tmp_path: Path, no_page: None) -> None:
    record = pretrained(tiny, tmp_path / "run", "pretrain.select=perturbed", "pretrain.steps=0")
    assert "validation_steps" not in record
    assert load_model(tmp_path / "run" / "pretrain")[1].step == 0


def test_agreement_needs_two_views(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match=r"set augment\.views: 2"):
        tiny.load(*AGREEING[1:])


@pytest.mark.parametrize("training", ["pretrain", "sources.far"])
def test_maps_by_class_are_refused_where_a_slab_has_labels_of_its_middle_slice(
    tiny: Tiny, tmp_path: Path, training: str
) -> None:
    for card in (tiny.home / "source.yaml", tiny.home / "target.yaml"):
        content = yaml.safe_load(card.read_text())
        content["prepare"]["slab"] = 3
        card.write_text(yaml.safe_dump(content))
    form = (
        "pretrain.augment={}"
        if training == "pretrain"
        else "sources={{far: {{steps: 4, augment: {}}}}}"
    )
    with pytest.raises(ConfigError, match="labels of the middle slice") as caught:
        plan(tiny.load(form.format("{generalize: strong}")), tmp_path / "run")
    assert caught.value.where == f"{training}.augment.class_bezier"
    plan(tiny.load(form.format("{generalize: strong, class_bezier: null}")), tmp_path / "run")
