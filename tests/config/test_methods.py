"""Published methods by name: in a recipe, for a folder of images, and all from one source model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from conftest import CLASSES, SIZE
from torch import nn

from uda import api
from uda.config.card import Prepare
from uda.config.default_method import default_method, preset
from uda.config.loading import load_recipe, parse, show
from uda.config.methods import METHODS, SOURCE_FREE, WEAK
from uda.config.networks import Network
from uda.config.recipe import Adapt
from uda.errors import ConfigError, ModelError
from uda.files.atomic import read_json
from uda.networks.build import build
from uda.networks.heads import head
from uda.networks.model_file import ModelInfo, load_model, save_model
from uda.networks.normalization import normalization_only
from uda.pipeline import run as pipeline

if TYPE_CHECKING:
    from conftest import Tiny

PLAIN = {"select": "last", "steps": 2, "batch": 2, "lr": 1e-3}
UNLABELLED = [name for name in METHODS if name not in WEAK]
"""methods without weak labels; tests/pipeline/test_annotated_training.py runs the others"""
PRIORS = {"cbst_sp": "spatial", "curriculum": "sizes"}


def settings(**raw: Any) -> Adapt:
    return parse(Adapt, {**PLAIN, **raw}, "a variant")


def named(method: str) -> dict[str, Any]:
    return {"preset": method, "prior": PRIORS.get(method, "ratio")}


@pytest.mark.parametrize("method", METHODS)
def test_a_preset_is_a_whole_variant_but_for_steps_batch_and_rate(method: str) -> None:
    made = settings(**named(method))
    assert made.preset == method
    assert len(made.objective) == len(METHODS[method]["objective"])


def test_what_a_variant_says_itself_wins_over_its_preset() -> None:
    own = [{"term": "mutual_information", "alpha": 0.5}]
    made = settings(preset="shot", objective=own)
    assert [t.term for t in made.objective] == ["mutual_information"]
    assert made.freeze_head
    assert not settings(preset="shot", freeze_head=False).freeze_head


def test_a_shown_recipe_with_presets_is_the_same_recipe(tiny: Tiny, tmp_path: Path) -> None:
    raw = yaml.safe_load(Path(tiny.recipe).read_text())
    raw["adapt"] = {"shot": {**PLAIN, "preset": "shot"}}
    path = tmp_path / "presets.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    recipe = load_recipe(str(path), ["adapt.shot.freeze_head=false"])
    path.write_text(show(recipe))
    assert load_recipe(str(path)) == recipe
    assert not recipe.adapt["shot"].freeze_head


def test_an_unknown_preset_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no preset 'minnet'; did you mean 'minent'"):
        settings(preset="minnet")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"objective": [{"term": "adversarial"}]}, "need source images"),
        ({"objective": [{"term": "sorted_area"}]}, "need a prior"),
        ({"preset": "cbst_sp"}, "need a prior"),
        ({"preset": "advent", "source_free": True}, "need source labels"),
        (
            {
                "objective": [
                    {"term": "pseudo_labels", "classmix": "target"},
                    {"term": "view_consistency"},
                ]
            },
            "pastes images together, which view_consistency does not support",
        ),
        ({"objective": [{"term": "seeds"}]}, "need a prior"),
        (
            {
                "objective": [
                    {"term": "pseudo_labels", "classmix": "target"},
                    {"term": "seeds"},
                ],
                "prior": "cam",
            },
            "pastes images together, which seeds does not support",
        ),
        (
            {"objective": [{"term": "seeds"}], "prior": "cam", "photo": {"mirror": True}},
            "maps, landmarks or seeds needs whole images",
        ),
        (
            {
                "objective": [{"term": "spatial_prior_kl"}],
                "prior": "spatial",
                "augment": {"flip": True},
            },
            "must be off",
        ),
    ],
)
def test_a_variant_that_cannot_work_is_refused(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**raw)


@pytest.mark.parametrize("method", [name for name in SOURCE_FREE if name not in ("adabn", *WEAK)])
def test_a_method_for_ones_own_folder_asks_for_a_prior_only_where_it_needs_one(method: str) -> None:
    made = preset(method, ["steps=7"])
    assert made is not None
    assert made.steps == 7
    assert (made.prior == "given") == bool(made.needs())


def test_the_default_fits_the_images_and_what_is_known() -> None:
    assert default_method(photos=False, ratio_known=True) == "ratio_teacher"
    assert default_method(photos=False, ratio_known=False) == "mean_teacher"
    assert default_method(photos=True, ratio_known=True) == "street_ratio_teacher"
    assert default_method(photos=True, ratio_known=False) == "street_teacher"


@pytest.mark.parametrize("ratio", [None, (0.8, 0.1, 0.1)])
def test_without_a_word_a_model_is_adapted_by_the_default_that_fits_it(
    tiny: Tiny, tmp_path: Path, ratio: tuple[float, ...] | None
) -> None:
    network, prepare = Network(channels=(4, 8), res_units=0), Prepare(size=(SIZE, SIZE))
    info = ModelInfo(network, tuple(CLASSES), prepare, ("source_labels",), class_ratio=ratio)
    save_model(tmp_path / "model.safetensors", build(network, len(CLASSES)), info)
    short = ["steps=2", "batch=2"]
    out = api.adapt(
        tmp_path / "model.safetensors", tiny.root / "t" / "images", tmp_path / "o", overrides=short
    )
    record = read_json(out.parent / "stage.json")
    assert record["settings"]["preset"] == ("ratio_teacher" if ratio else "mean_teacher")
    assert (out.parent / "prior.json").is_file() == bool(ratio)
    assert record["selection"]["select"] == "guarded"


def test_a_method_that_needs_the_source_says_where_it_can_be_had() -> None:
    with pytest.raises(ConfigError, match="needs the source's images") as caught:
        preset("advent", [])
    assert "preset: advent" in str(caught.value)


def with_methods(tiny: Tiny, adapt: dict[str, Any]) -> str:
    raw = yaml.safe_load(Path(tiny.recipe).read_text())
    raw["prior"] = {
        "ratio": {"kind": "source_labels"},
        "sizes": {"kind": "image_level", "method": "logistic"},
        "spatial": {"kind": "spatial", "sigma": 2.0},
    }
    raw["adapt"] = adapt
    path = tiny.home / "methods.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return str(path)


def test_every_method_runs_from_one_source_model_into_one_table(tiny: Tiny, tmp_path: Path) -> None:
    recipe = load_recipe(
        with_methods(tiny, {m: {**PLAIN, **named(m)} for m in UNLABELLED}),
        [*tiny.overrides, "compute.device=cpu"],
    )
    pipeline.run(recipe, tmp_path / "run", until="evaluate")
    metrics = read_json(tmp_path / "run" / "evaluate" / "metrics.json")
    rows = {row["name"]: row for row in metrics["rows"]}
    assert list(rows) == ["source_only", "adabn", *UNLABELLED]
    again = {name for name, row in rows.items() if "source_images" in row["supervision"]}
    assert again == {"advent", "dacs"}
    assert {word for row in rows.values() for word in row["supervision"]} == {
        "source_labels",
        "source_images",
    }
    stages = {m: read_json(tmp_path / "run" / f"adapt-{m}" / "stage.json") for m in UNLABELLED}
    seeing = [m for m, stage in stages.items() if not stage["source_free"]]
    assert seeing == ["dacs", "advent"]
    assert [m for m in UNLABELLED if "source/train" in stages[m]["data"]] == seeing


def weights(path: Path) -> dict[str, torch.Tensor]:
    model, _ = load_model(path)
    top = set(head(model).parameters())
    return {
        ("head." if weight in top else "body.") + name: weight.detach()
        for name, weight in model.named_parameters()
    }


def test_a_frozen_head_keeps_its_weights_and_the_rest_moves(tiny: Tiny, tmp_path: Path) -> None:
    adapt = {
        "frozen": {**PLAIN, "preset": "im", "freeze_head": True},
        "free": {**PLAIN, "preset": "im"},
    }
    recipe = load_recipe(with_methods(tiny, adapt), [*tiny.overrides, "compute.device=cpu"])
    pipeline.run(recipe, tmp_path / "run", until="adapt")
    before = weights(tmp_path / "run" / "pretrain")
    for variant in adapt:
        after = weights(tmp_path / "run" / f"adapt-{variant}")
        moved = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
        assert moved == ({"body"} if variant == "frozen" else {"body", "head"})


def test_with_batchnorm_alone_scales_and_shifts_move_but_not_those_of_a_frozen_head(
    tiny: Tiny, tmp_path: Path
) -> None:
    adapt = {
        "tent": {**PLAIN, "preset": "tent"},
        "both": {**PLAIN, "preset": "tent", "freeze_head": True},
    }
    recipe = load_recipe(with_methods(tiny, adapt), [*tiny.overrides, "compute.device=cpu"])
    pipeline.run(recipe, tmp_path / "run", until="adapt")
    before, _ = load_model(tmp_path / "run" / "pretrain")
    top = {
        name
        for name, weight in before.named_parameters()
        if weight in set(head(before).parameters())
    }
    norms = {
        f"{name}.{key}"
        for name, layer in before.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
        for key in ("weight", "bias")
    }
    old = dict(before.named_parameters())
    for variant in adapt:
        after, _ = load_model(tmp_path / "run" / f"adapt-{variant}")
        moved = {n for n, weight in after.named_parameters() if not torch.equal(weight, old[n])}
        assert moved == (norms - top if variant == "both" else norms)
    stage = read_json(tmp_path / "run" / "adapt-tent" / "stage.json")
    assert stage["settings"]["adapt"]["train"] == "batchnorm"


def test_a_network_without_normalisation_cannot_train_it_alone(tiny: Tiny, tmp_path: Path) -> None:
    adapt = {"tent": {**PLAIN, "preset": "tent"}}
    changes = [*tiny.overrides, "compute.device=cpu", "network.norm=instance"]
    recipe = load_recipe(with_methods(tiny, adapt), changes)
    with pytest.raises(ConfigError, match=r"norm: instance has none(.|\n)*adapt\.tent"):
        pipeline.run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ModelError, match="no normalisation layer"):
        normalization_only(nn.Conv2d(1, 2, 3))


LATER = {
    "train",
    "tolerance",
    *("views", "view", "prune", "threshold", "largest", "cross_entropy"),
}


def test_settings_that_came_later_leave_no_trace_while_they_are_off() -> None:
    off = settings(preset="ratio_teacher", prior="ratio").model_dump(mode="json")
    assert LATER.isdisjoint({*off, *(key for term in off["objective"] for key in term)})
    changes = {
        "views": 3,
        "view": {"rotate": 5},
        "prune": 0.1,
        "threshold": 0.5,
        "largest": "ignore",
    }
    on = settings(
        prior="ratio",
        train="batchnorm",
        objective=[
            {"term": "pseudo_labels", **changes, "cross_entropy": 0.5},
            {"term": "class_ratio_kl", "direction": "prior_to_prediction", "tolerance": 0.1},
        ],
    )
    dumped = on.model_dump(mode="json")
    assert {*dumped, *(key for term in dumped["objective"] for key in term)} >= LATER
    assert Adapt.model_validate(dumped) == on


def test_warmed_statistics_start_as_the_targets_and_then_follow_the_batches(
    tiny: Tiny, tmp_path: Path
) -> None:
    base = {**PLAIN, "lr": 1e-12, "objective": [{"term": "entropy"}]}
    adapt = {
        "target": {**base, "batchnorm": "target"},
        "still": {**base, "batchnorm": "warmed", "steps": 0},
        "warmed": {**base, "batchnorm": "warmed"},
        "train": {**base, "batchnorm": "train"},
    }
    recipe = load_recipe(with_methods(tiny, adapt), [*tiny.overrides, "compute.device=cpu"])
    pipeline.run(recipe, tmp_path / "run", until="adapt")
    found = {}
    for variant in adapt:
        model, _ = load_model(tmp_path / "run" / f"adapt-{variant}")
        found[variant] = next(v for n, v in model.named_buffers() if n.endswith("running_mean"))
    torch.testing.assert_close(found["still"], found["target"], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found["warmed"], found["target"])
    far = (found["train"] - found["target"]).abs().sum()
    near = (found["warmed"] - found["target"]).abs().sum()
    assert float(near) < float(far)
