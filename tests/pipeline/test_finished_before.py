"""Runs and models that version 0.1 wrote before its modules moved into rooms are read, skipped and used.

``finished_0_1.zip`` holds a tiny data set, its cards and recipe, the finished run, an adapted model and its label maps,
as the commit before the move wrote them (without pages, pictures, logs and the store).
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest

import uda
from uda.api import evaluate_model
from uda.errors import DataError
from uda.networks.model_file import load_model
from uda.pipeline.run import run

ARCHIVE = Path(__file__).with_name("finished_0_1.zip")
STAGES = ["pretrain", "prior-ratio", "prior-tags", "adabn"]
STAGES += ["adapt-minent", "adapt-adami_tags", "adapt-guarded", "evaluate", "report"]


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path / "home")  # the recipe names its cards by relative paths
    return tmp_path


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_finished_run_is_skipped_stage_by_stage(finished: Path) -> None:
    before = files(finished / "run")
    recipe = uda.load_recipe("tiny.yaml", ["data.root=../data", "compute.device=cpu"])
    done = run(recipe, "../run")
    assert [(one.name, one.ran) for one in done] == [(name, False) for name in STAGES]
    after = files(finished / "run")
    assert {path: after[path] for path in before} == before


def test_a_changed_setting_runs_its_stage_from_the_old_models(finished: Path) -> None:
    changes = ["data.root=../data", "compute.device=cpu", "adapt.minent.steps=5"]
    done = run(uda.load_recipe("tiny.yaml", changes), "../run", until="adapt")
    assert [one.name for one in done if one.ran] == ["adapt-minent"]
    assert load_model(finished / "run" / "adapt-minent")[1].step == 5


def test_a_finished_adaptation_of_a_model_is_skipped(finished: Path) -> None:
    before = files(finished / "mine")
    arguments = finished / "run" / "pretrain", finished / "data" / "t" / "images", finished / "mine"
    uda.adapt(*arguments, method="minent", overrides=["steps=4", "batch=4"])
    assert files(finished / "mine") == before


def test_an_old_model_predicts_and_scores_as_before(finished: Path) -> None:
    model, images = finished / "mine", finished / "data" / "t" / "images"
    assert not any(outcome.skipped for outcome in uda.predict(model, images, finished / "again"))
    for name in ("c0", "c1", "c2"):
        old, new = (
            np.asarray(nibabel.load(finished / folder / f"{name}.nii.gz").dataobj)
            for folder in ("masks", "again")
        )
        assert (old == new).mean() > 0.99  # rounding differs between processors
    metrics = evaluate_model(model, "target.yaml", Path("../data"), finished / "score")
    assert metrics["rows"][0]["name"] == "model"
    assert 0 < metrics["rows"][0]["dice"]["mean"] < 1


def test_predictions_of_an_unknown_image_are_kept_and_not_taken_for_its_own(finished: Path) -> None:
    """Version 0.1 recorded neither what it predicted from nor what it wrote."""
    before = files(finished / "masks")
    with pytest.raises(
        DataError, match=r"c0\.nii\.gz(.|\n)*the list \.uda-files of this folder is missing"
    ):
        list(uda.predict(finished / "mine", finished / "data/t/images", finished / "masks"))
    assert files(finished / "masks") == before
