"""The same stages with a 3-D network on patches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SIZE, SLICES, Tiny

from uda import api
from uda.config.loading import load_recipe
from uda.config.recipe import Recipe
from uda.errors import ConfigError, PriorError
from uda.networks.model_file import load_model
from uda.pipeline import run as pipeline
from uda.priors import Prior

SOLID = ["network.spatial_dims=3", "network.patch=[4,16,16]", "compute.device=cpu"]
SHORT = "steps: 4, batch: 2, lr: 0.001, save_every: 2, log_every: 2"
METHODS = {
    "minent": "{preset: minent, %s}",
    "shot": "{preset: shot, %s}",
    "mean_teacher": "{preset: mean_teacher, %s}",
    "upl": "{preset: upl, %s}",
    "adami": "{preset: adami, prior: tags, %s}",
    "advent": "{objective: [{term: cross_entropy}, {term: adversarial, width: 2}], source_free: false, %s}",
}


def recipe_of(tiny: Tiny, *overrides: str) -> Recipe:
    return load_recipe(tiny.recipe, [*tiny.overrides, *SOLID, *overrides])


def variants(*names: str) -> str:
    chosen = ", ".join(f"{name}: {METHODS[name] % SHORT}" for name in names)
    return f"adapt={{{chosen}}}"


def test_a_whole_recipe_runs_on_patches(tiny: Tiny, tmp_path: Path) -> None:
    recipe = recipe_of(tiny, variants("minent", "shot", "mean_teacher", "upl", "adami"))
    pipeline.run(recipe, tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "evaluate" / "metrics.json").read_text())
    assert [row["name"] for row in metrics["rows"]] == ["source_only", "adabn", *recipe.adapt]
    model, info = load_model(tmp_path / "run" / "adapt-mean_teacher")
    assert info.network.patch == (4, 16, 16)
    with torch.no_grad():
        assert model(torch.zeros(1, 1, 4, 16, 16)).shape == (1, 3, 4, 16, 16)
    record = json.loads((tmp_path / "run" / "pretrain" / "stage.json").read_text())
    assert set(record["validation_dice"]) == {"disk", "ring"}
    before, after = (
        load_model(tmp_path / "run" / s)[0].state_dict() for s in ("pretrain", "adabn")
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all("running" in name or "tracked" in name for name in moved)


def test_a_3d_network_learns_what_the_slices_show(tiny: Tiny, tmp_path: Path) -> None:
    recipe = recipe_of(tiny, "pretrain.steps=150", "pretrain.lr=0.01", "pretrain.ema=0")
    pipeline.run(recipe, tmp_path / "run", until="pretrain")
    record = json.loads((tmp_path / "run" / "pretrain" / "stage.json").read_text())
    assert min(record["validation_dice"].values()) > 0.8


def test_an_adversary_judges_patches_slice_by_slice(tiny: Tiny, tmp_path: Path) -> None:
    recipe = recipe_of(tiny, variants("advent"), "network.patch=[4,32,32]")
    done = pipeline.run(recipe, tmp_path / "run", until="adapt-advent")
    stage = json.loads((done[-1].folder / "stage.json").read_text())
    assert "source_images" in stage["supervision"]


@pytest.mark.parametrize("kept", [2, 4])
def test_a_resumed_3d_run_gives_the_same_weights(
    tiny: Tiny, tmp_path: Path, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uda.training import batches

    recipe = recipe_of(tiny, variants("mean_teacher"), "adapt.mean_teacher.steps=6")
    for out in ("whole", "cut"):
        pipeline.run(recipe, tmp_path / out, until="pretrain")
    pipeline.run(recipe, tmp_path / "whole", until="adapt-mean_teacher")

    fetch = batches.target_batch
    calls = 0

    def dies(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls > kept + 1:
            raise KeyboardInterrupt
        return fetch(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(batches, "target_batch", dies)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(recipe, tmp_path / "cut", until="adapt-mean_teacher")
    monkeypatch.setattr(batches, "target_batch", fetch)
    pipeline.run(recipe, tmp_path / "cut", until="adapt-mean_teacher")
    whole, cut = (
        tmp_path / out / "adapt-mean_teacher" / "model.safetensors" for out in ("whole", "cut")
    )
    assert whole.read_bytes() == cut.read_bytes()


def test_priors_of_slices_and_places_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    priors = "prior={sizes: {kind: image_level}, maps: {kind: spatial, sigma: 1.0}, ratio: {kind: predicted}}"
    cut = f"adapt={{cbst_sp: {{preset: cbst_sp, prior: maps, {SHORT}}}}}"
    with pytest.raises(
        ConfigError, match=r"a 3-D network sees patches anywhere(.|\n)*adapt\.cbst_sp"
    ):
        pipeline.run(recipe_of(tiny, priors, cut), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    recipe = recipe_of(tiny, "adapt={}", priors)
    with pytest.raises(PriorError, match="asks the network about single slices"):
        pipeline.run(recipe, tmp_path / "run", until="prior-sizes")
    (*_, done) = pipeline.run(recipe, tmp_path / "run", until="prior-ratio")
    assert sum(Prior.load(done.folder).ratio) == pytest.approx(1, abs=1e-4)


def test_patch_and_dimension_go_together(tiny: Tiny) -> None:
    for wrong in (["network.spatial_dims=3"], ["network.patch=[4,16,16]"]):
        with pytest.raises(ConfigError, match="patch belongs to spatial_dims: 3"):
            load_recipe(tiny.recipe, [*tiny.overrides, *wrong])


def test_a_3d_model_adapts_to_a_folder_and_predicts_on_its_grid(tiny: Tiny, tmp_path: Path) -> None:
    import nibabel

    pipeline.run(recipe_of(tiny), tmp_path / "run", until="pretrain")
    images = tiny.root / "t" / "images"
    out = api.adapt(
        tmp_path / "run" / "pretrain",
        images,
        tmp_path / "mine",
        method="minent",
        overrides=["steps=2", "batch=2"],
    )
    outcomes = list(api.predict(out, images, tmp_path / "masks"))
    assert [o.fault for o in outcomes] == [""] * 3
    mask = nibabel.load(tmp_path / "masks" / "c0.nii.gz")
    assert mask.shape == (SIZE, SIZE, SLICES)
    np.testing.assert_allclose(mask.affine, nibabel.load(images / "c0.nii.gz").affine)
