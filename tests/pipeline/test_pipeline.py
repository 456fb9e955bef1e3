"""A run reads only the documented files, repeats bit for bit, and runs no stage twice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Tiny, make_case, write_nifti

from uda.errors import ConfigError, DataError, RunError
from uda.files.stage_folder import StageFolder
from uda.pipeline import run as pipeline
from uda.pipeline.domains import Domains
from uda.types import TargetBatch

ENTROPY_AND_SOURCE = "adapt.minent.objective=[{term: entropy}, {term: cross_entropy}]"


def ran(done: list[pipeline.Done]) -> list[str]:
    return [stage.name for stage in done if stage.ran]


def artefacts(run: Path) -> dict[str, Any]:
    """Every file of a run by its path, without event files, wall seconds and environment."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.is_dir() or "tensorboard/" in name or name == ".uda.lock":
            continue
        found[name] = path.read_bytes()
        if path.name in ("stage.json", "metrics.json"):
            content = json.loads(found[name])
            found[name] = {
                k: v for k, v in content.items() if k not in ("seconds", "environment", "unread")
            }
    return found


def outside(found: dict[str, Any], *stages: str) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name.split("/")[0] not in stages}


def target_labels(tiny: Tiny) -> list[Path]:
    return sorted((tiny.root / "t" / "labels").iterdir())


# Files that stages read ------------------------------------------------------------------------------------


def test_target_batch_holds_images_and_their_numbers_and_nothing_else() -> None:
    assert [field.name for field in fields(TargetBatch)] == ["image", "index"]


def test_target_labels_deleted_changes_nothing_but_evaluate(tiny: Tiny, tmp_path: Path) -> None:
    card = tiny.home / "target.yaml"
    raw = yaml.safe_load(card.read_text())
    raw["splits"]["test"] = ["c2", "c1"]
    card.write_text(yaml.safe_dump(raw))
    recipe = tiny.load()
    for stage in ("adabn", "adapt"):
        pipeline.run(recipe, tmp_path / "whole", until=stage)
    shutil.rmtree(tiny.root / "t" / "labels")
    for stage in ("adabn", "adapt"):
        pipeline.run(recipe, tmp_path / "blind", until=stage)
    whole = artefacts(tmp_path / "whole")
    assert "adapt-minent/model.safetensors" in whole
    assert artefacts(tmp_path / "blind") == whole

    with pytest.raises(DataError) as error:
        pipeline.run(recipe, tmp_path / "blind", until="evaluate")
    for case in ("c1", "c2"):
        assert str(tiny.root / "t" / "labels" / f"{case}.nii.gz") in str(error.value)
    assert "2 faults" in str(error.value)
    assert not (tmp_path / "blind" / "evaluate").exists()


def test_target_labels_shuffled_changes_nothing_but_evaluate(
    finished: Path, tiny: Tiny, tmp_path: Path
) -> None:
    recipe = tiny.load()
    labels = target_labels(tiny)
    held = [path.read_bytes() for path in labels]
    for path, other in zip(labels, [*held[1:], held[0]], strict=True):
        path.write_bytes(other)
    pipeline.run(recipe, tmp_path / "false")

    true, false = (outside(artefacts(run), "report") for run in (finished, tmp_path / "false"))
    assert "adapt-minent/snapshots/000003/model.safetensors" in outside(true, "evaluate")
    assert outside(false, "evaluate") == outside(true, "evaluate")
    assert false["evaluate/cases.csv"] != true["evaluate/cases.csv"]


def test_an_edit_between_two_stages_of_a_run_is_noticed(
    finished: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = StageFolder.commit

    def edited(folder: StageFolder, record: dict[str, Any]) -> None:
        commit(folder, record)
        if folder.path.name == "adabn":
            write_nifti(tiny.root / "t" / "images" / "c0.nii.gz", make_case(9, True)[0])

    changed = tiny.load("seed=1")
    with monkeypatch.context() as patch:
        patch.setattr(StageFolder, "commit", edited)
        with pytest.raises(RunError, match="changed during the run"):
            pipeline.run(changed, finished)
    assert "adabn" in ran(pipeline.run(changed, finished))
    keys = {
        str(json.loads((finished / stage / "stage.json").read_text())["data"])
        for stage in ("adabn", "adapt-minent")
    }
    assert len(keys) == 1


def test_an_edit_of_a_file_of_both_domains_is_noticed(tiny: Tiny, tmp_path: Path) -> None:
    domains = Domains(tiny.load(), tmp_path)
    shared = tiny.root / "t" / "images" / "c0.nii.gz"
    card = domains.source.model_copy(update={"images": domains.target.images})
    domains.key(card, "train", False)
    write_nifti(shared, make_case(9, True)[0])
    with pytest.raises(RunError, match="changed during the run") as error:
        domains.key(domains.target, "adapt", False)
    assert str(shared) in str(error.value)


def test_source_files_removed_adapt_still_runs(finished: Path, tiny: Tiny) -> None:
    run = finished
    shutil.rmtree(tiny.root / "s")
    shutil.rmtree(run / "store")  # it holds prepared source slices
    changed = tiny.load("adapt.minent.lr=0.002", "adapt.minent.select=last")
    assert ran(pipeline.run(changed, run, until="adapt")) == ["adapt-minent"]

    with_source = tiny.load(ENTROPY_AND_SOURCE, "adapt.minent.source_free=false")
    with pytest.raises(DataError) as error:
        pipeline.run(with_source, run, until="adapt-minent")
    assert str(tiny.root / "s" / "images" / "c0.nii.gz") in str(error.value)


def test_pretrain_runs_again_only_with_its_source_files(finished: Path, tiny: Tiny) -> None:
    shutil.rmtree(tiny.root / "s")
    assert ran(pipeline.run(tiny.load(), finished, until="pretrain")) == []
    for recipe, restart in ((tiny.load(), True), (tiny.load("pretrain.lr=0.01"), False)):
        with pytest.raises(DataError, match=r"c0\.nii\.gz"):
            pipeline.run(recipe, finished, until="pretrain", restart=restart)
    assert (finished / "pretrain" / "model.safetensors").is_file()


def test_source_access_variant_runs(finished: Path, tiny: Tiny) -> None:
    recipe = tiny.load(ENTROPY_AND_SOURCE, "adapt.minent.source_free=false")
    assert ran(pipeline.run(recipe, finished, until="adapt-minent")) == ["adapt-minent"]
    record = json.loads((finished / "adapt-minent" / "stage.json").read_text())
    header = (finished / "adapt-minent" / "metrics.csv").read_text().splitlines()[0]
    assert record["source_free"] is False
    assert set(record["data"]) == {"source/train", "target/adapt"}
    assert {"entropy", "cross_entropy"} <= set(header.split(","))


def test_supervision_ledger(finished: Path, tiny: Tiny) -> None:
    recipe = tiny.load("target_supervised=true", "evaluate.oracle=true")
    pipeline.run(recipe, finished, until="evaluate")
    rows = json.loads((finished / "evaluate" / "metrics.json").read_text())["rows"]
    ledgers = {row["name"]: set(row["supervision"]) for row in rows}
    assert [row["name"] for row in rows] == [
        "source_only",
        "adabn",
        "minent",
        "minent_oracle",
        "adami_tags",
        "target_supervised",
    ]
    assert ledgers["source_only"] == {"source_labels"}
    assert not {s for s in ledgers["adabn"] | ledgers["minent"] if s.startswith("target_")}
    assert "target_tags" in ledgers["adami_tags"]
    assert "target_labels" not in ledgers["adami_tags"]
    assert "target_labels" in ledgers["minent_oracle"]
    assert ledgers["target_supervised"] == {"target_labels"}


# Stages that run again -----------------------------------------------------------------------------------


def test_second_run_does_nothing(finished: Path, tiny: Tiny) -> None:
    run = finished
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != ".uda.lock"}
    announced: list[tuple[str, str]] = []
    second = pipeline.run(tiny.load(), run, announce=lambda *said: announced.append(said))
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != ".uda.lock"}
    assert ran(second) == []
    assert announced == [(stage.name, "skip") for stage in second]
    assert len(second) == 8
    assert after == before


def test_changing_one_variant_reruns_only_it_and_what_hangs_on_it(
    finished: Path, tiny: Tiny
) -> None:
    before = artefacts(finished)
    changed = tiny.load("adapt.minent.lr=0.002", "adapt.minent.select=last")
    done = pipeline.run(changed, finished)
    assert ran(done) == ["adapt-minent", "evaluate", "report"]
    rerun = ("adapt-minent", "evaluate", "report")
    after = artefacts(finished)
    assert outside(after, *rerun) == outside(before, *rerun)
    model = "adapt-minent/model.safetensors"
    assert after[model] != before[model]


def test_changed_prior_reruns_only_the_variant_that_uses_it(finished: Path, tiny: Tiny) -> None:
    tags = tiny.root / "t" / "tags.csv"
    tags.write_text(tags.read_text().replace("c1,3,1,1", "c1,3,1,0"))
    done = pipeline.run(tiny.load(), finished, until="evaluate")
    assert ran(done) == ["prior-tags", "adapt-adami_tags", "evaluate"]


def test_changed_seed_reruns_everything_to_other_bytes(finished: Path, tiny: Tiny) -> None:
    zero = artefacts(finished)
    done = pipeline.run(tiny.load("seed=1"), finished, until="evaluate")
    assert ran(done) == [stage.name for stage in done]
    assert set(ran(done)) == {
        name.split("/")[0] for name in outside(zero, "store", "report", "prior-ratio")
    }
    one = artefacts(finished)
    assert set(zero) == set(one)
    models = [name for name in zero if name.endswith(("model.safetensors", "metrics.csv"))]
    assert len(models) >= 6
    assert not [name for name in models if zero[name] == one[name]]


def test_changed_device_reruns_nothing(finished: Path, tiny: Tiny) -> None:
    assert ran(pipeline.run(tiny.load("compute.device=auto"), finished, until="adapt")) == []


def test_restart_runs_what_was_asked_for_again_to_the_same_bytes(
    finished: Path, tiny: Tiny
) -> None:
    recipe, run = tiny.load(), finished
    before = outside(artefacts(run), "report")
    adapted = pipeline.run(recipe, run, until="adapt", restart=True)
    assert ran(adapted) == ["adapt-minent", "adapt-adami_tags"]
    assert outside(artefacts(run), "report") == before
    whole = pipeline.run(recipe, run, restart=True)
    assert ran(whole) == [stage.name for stage in whole]
    assert len(whole) == 8
    assert outside(artefacts(run), "report") == before


def test_until_unknown_proposes_nearest(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'adapt-minent'"):
        pipeline.run(tiny.load(), tmp_path / "run", until="adapt-minant")
    assert not (tmp_path / "run").exists()


def test_until_runs_a_stage_and_its_parents_only(tiny: Tiny, tmp_path: Path) -> None:
    done = pipeline.run(tiny.load(), tmp_path / "run", until="adapt-adami_tags")
    assert ran(done) == ["pretrain", "prior-tags", "adapt-adami_tags"]


# Reproducibility ------------------------------------------------------------------------------------


def test_same_seed_same_bytes(finished: Path, tiny: Tiny, tmp_path: Path) -> None:
    done = pipeline.run(tiny.load(), tmp_path / "elsewhere" / "deeper")
    assert ran(done) == [stage.name for stage in done]
    here = outside(artefacts(finished), "report")
    assert {
        "pretrain/model.safetensors",
        "pretrain/metrics.csv",
        "prior-tags/prior.json",
        "adapt-minent/snapshots/000006/model.safetensors",
        "evaluate/cases.csv",
        "evaluate/metrics.json",
    } <= set(here)
    assert outside(artefacts(tmp_path / "elsewhere" / "deeper"), "report") == here


def test_models_can_be_read_by_whoever_may_read_their_folder(tiny: Tiny, tmp_path: Path) -> None:
    pipeline.run(tiny.load(), tmp_path / "run", until="pretrain")
    model = tmp_path / "run" / "pretrain" / "model.safetensors"
    assert model.stat().st_mode & 0o666 == model.parent.stat().st_mode & 0o666


# Lock -------------------------------------------------------------------------------------

HOLD = """
import fcntl, sys
with open(sys.argv[1], "w") as handle:
    fcntl.flock(handle, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_lock_of_another_process_gives_one_clear_error(tiny: Tiny, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    command = [sys.executable, "-c", HOLD, str(run / ".uda.lock")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="another run is writing") as error:
            pipeline.run(tiny.load(), run, until="pretrain")
        other.communicate()
    assert error.value.exit_code == 1
    assert str(run) in str(error.value)
    assert [path.name for path in run.iterdir()] == [".uda.lock"]
    assert ran(pipeline.run(tiny.load(), run, until="pretrain")) == ["pretrain"]
