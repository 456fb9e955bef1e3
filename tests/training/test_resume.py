"""A run that was killed or met a full disk resumes to the same result, or fails with a clear error."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fault_injection import contents, ended, started

if TYPE_CHECKING:
    from conftest import Tiny

LONG = (
    "pretrain.steps=40",
    "pretrain.save_every=5",
    "adapt.*.steps=20",
    "adapt.*.save_every=5",
    "adapt.*.guard.patience=100",
)


def run_stages(recipe: str, overrides: list[str], out: Path, until: str = "adapt") -> None:
    import torch

    from uda.config.loading import load_recipe
    from uda.pipeline import run as pipeline

    torch.set_num_threads(1)
    changes = [*overrides, "compute.device=cpu"]
    pipeline.run(load_recipe(recipe, changes), out, until=until)


def command_line(arguments: list[str], errors: Path, limit: int) -> None:
    """Run ``uda …`` with files limited to ``limit`` bytes, as on a full disk."""
    import torch

    from uda.cli.main import main

    torch.set_num_threads(1)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.argv = ["uda", *arguments]
    main()


def unfinished(run: Path) -> list[Path]:
    """Hidden folders of unfinished stages."""
    return [p for p in run.glob(".*") if p.is_dir()]


class Stopped(BaseException):
    """Ends a run at once, as SIGKILL would; the package does not catch it."""


def stop_after_saves(monkeypatch: pytest.MonkeyPatch, saves: int) -> None:
    """Stop the next run after its first ``saves`` checkpoints."""
    from uda.training import state

    save, left = state.save_tensors, saves

    def counted(*arguments: Any, **named: Any) -> None:
        nonlocal left
        save(*arguments, **named)
        left -= 1
        if left == 0:
            raise Stopped

    monkeypatch.setattr(state, "save_tensors", counted)


def interrupted(tiny: Tiny, run: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Path:
    """Start a run, stop it in pretraining after one checkpoint, and return that checkpoint."""
    with monkeypatch.context() as patch:
        stop_after_saves(patch, 1)
        with pytest.raises(Stopped):
            run_stages(tiny.recipe, [*tiny.overrides, *overrides], run)
    (checkpoint,) = run.glob(".pretrain.*/resume.safetensors")
    return checkpoint


# Killed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("least", [4, pytest.param(20, marks=pytest.mark.campaign)])
def test_kills_give_the_same_weights(tiny: Tiny, tmp_path: Path, least: int) -> None:
    overrides = [*tiny.overrides, *LONG]
    straight = tmp_path / "straight"
    assert ended(int) == 0  # starts the server before the time is measured
    begin = time.monotonic()
    assert ended(run_stages, tiny.recipe, overrides, straight) == 0
    duration = time.monotonic() - begin

    draw = random.Random(0)  # noqa: S311
    kills, in_a_stage, with_checkpoint, runs = 0, 0, 0, [tmp_path / "killed-0"]
    while kills < least or (min(in_a_stage, with_checkpoint) < least // 4 and kills < 3 * least):
        child = started(run_stages, tiny.recipe, overrides, runs[-1])
        child.join(draw.uniform(0, 0.6 * duration))
        child.kill()
        child.join()
        if child.exitcode == 0:
            runs.append(tmp_path / f"killed-{len(runs)}")
            continue
        assert child.exitcode == -signal.SIGKILL
        kills += 1
        in_a_stage += bool(unfinished(runs[-1]))
        with_checkpoint += bool(list(runs[-1].glob(".*/resume.safetensors")))
    assert ended(run_stages, tiny.recipe, overrides, runs[-1]) == 0

    assert in_a_stage >= least // 4
    assert with_checkpoint >= least // 4
    expected = contents(straight)
    assert "adapt-minent/snapshots/000018/model.safetensors" in expected
    for run in runs:
        assert contents(run) == expected
        assert not unfinished(run)


def test_resume_goes_on_from_the_checkpoint(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uda.training import loop

    interrupted(tiny, tmp_path / "run", monkeypatch)
    steps: list[int] = []
    step = loop._step

    def counted(state: Any, *rest: Any) -> Any:
        steps.append(state.step)
        return step(state, *rest)

    monkeypatch.setattr(loop, "_step", counted)
    run_stages(tiny.recipe, tiny.overrides, tmp_path / "run", "pretrain")
    assert steps == list(range(2, 10))


def test_unfinished_work_of_other_settings_is_not_continued(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tiny, tmp_path / "changed", monkeypatch)
    overrides = [*tiny.overrides, "pretrain.lr=0.002"]
    for run in ("changed", "straight"):
        run_stages(tiny.recipe, overrides, tmp_path / run, "pretrain")
    assert contents(tmp_path / "changed") == contents(tmp_path / "straight")
    assert not unfinished(tmp_path / "changed")


def test_killed_between_the_renames_of_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uda.files.stage_folder import StageFolder

    place = tmp_path / "stage"

    def made(name: str) -> StageFolder:
        folder = StageFolder(place, name)
        (folder.begin(restart=False) / "artefact").write_text(name)
        return folder

    made("old").commit({"hash": "old"})
    new, replace = made("new"), os.replace

    def stop_before_the_second(source: Path, target: Path) -> None:
        if Path(target) == place:
            raise Stopped
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop_before_the_second)
        with pytest.raises(Stopped):
            new.commit({"hash": "new"})
    assert not place.exists()

    recorded = StageFolder(place, "new").recorded()
    assert recorded is not None
    assert recorded["hash"] == "new"
    assert (place / "artefact").read_text() == "new"
    made("newest").commit({"hash": "newest"})
    assert (place / "artefact").read_text() == "newest"
    assert [path.name for path in tmp_path.iterdir()] == ["stage"]


def test_killed_before_the_renames_of_commit_goes_on_with_them(tmp_path: Path) -> None:
    from uda.files.stage_folder import StageFolder

    old = StageFolder(tmp_path / "stage", "old")
    old.begin(restart=False)
    old.commit({"hash": "old"})
    work = StageFolder(tmp_path / "stage", "new").begin(restart=False)
    (work / "stage.json").write_text('{"hash": "new"}')
    assert (StageFolder(tmp_path / "stage", "other").recorded() or {})["hash"] == "old"
    assert StageFolder(tmp_path / "stage", "new").recorded() == {"hash": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["stage"]


def test_a_stage_found_between_the_renames_is_not_run_again(tiny: Tiny, tmp_path: Path) -> None:
    from uda.config.loading import load_recipe
    from uda.files.atomic import read_json
    from uda.files.stage_folder import STARTED, StageFolder
    from uda.pipeline import run as pipeline

    recipe, run = (
        load_recipe(tiny.recipe, [*tiny.overrides, "compute.device=cpu"]),
        tmp_path / "run",
    )
    pipeline.run(recipe, run, until="pretrain")
    expected = contents(run)
    stage = run / "pretrain"
    (stage / STARTED).touch()
    stage.rename(StageFolder(stage, read_json(stage / "stage.json")["hash"]).work)
    (done,) = pipeline.run(recipe, run, until="pretrain")
    assert not done.ran
    assert contents(run) == expected


# Full disk -------------------------------------------------------------------------------


def test_full_disk_keeps_the_old_checkpoint(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, errors = tmp_path / "run", tmp_path / "errors.txt"
    run_stages(tiny.recipe, tiny.overrides, tmp_path / "straight")
    checkpoint = interrupted(tiny, run, monkeypatch)
    before, files = checkpoint.read_bytes(), set(contents(run))
    command = ["adapt", tiny.recipe, *tiny.overrides, "--device=cpu", f"--out={run}"]

    assert ended(command_line, command, errors, len(before) // 2) == 1
    output = errors.read_text()
    assert "error: cannot be written" in output
    assert str(checkpoint) in output
    assert "Traceback" not in output
    assert "fault of uda" not in output
    assert checkpoint.read_bytes() == before
    assert set(contents(run)) == files

    run_stages(tiny.recipe, tiny.overrides, run)
    assert contents(run) == contents(tmp_path / "straight")


def test_full_disk_under_tensorboard_is_a_clear_error_too(tiny: Tiny, tmp_path: Path) -> None:
    run, errors = tmp_path / "run", tmp_path / "errors.txt"
    run_stages(tiny.recipe, tiny.overrides, run)
    (events,) = (run / "adapt-minent" / "tensorboard").iterdir()
    expected, limit = contents(run), events.stat().st_size - 1000
    assert limit > 3 * len(expected["adapt-minent/model.safetensors"])  # a checkpoint fits
    shutil.rmtree(run / "adapt-minent")
    command = ["adapt", tiny.recipe, *tiny.overrides, "--device=cpu", f"--out={run}"]

    assert ended(command_line, command, errors, limit) == 1
    output = errors.read_text()
    assert "error: the log cannot be written" in output
    assert "Traceback" not in output
    assert "Exception in thread" not in output
    assert "fault of uda" not in output
    assert not (run / "adapt-minent").exists()

    run_stages(tiny.recipe, tiny.overrides, run)
    assert contents(run) == expected


def test_full_disk_leaves_no_half_prepared_store(tiny: Tiny, tmp_path: Path) -> None:
    run, errors = tmp_path / "run", tmp_path / "errors.txt"
    command = ["pretrain", tiny.recipe, *tiny.overrides, "--device=cpu", f"--out={run}"]
    assert ended(command_line, command, errors, 20_000) == 1
    assert "error: the store cannot be written" in errors.read_text()
    assert list((run / "store").iterdir()) == []


# Checkpoints that do not fit -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["other_network", "other_file"])
def test_a_sound_file_that_is_no_checkpoint_of_the_stage_is_refused_and_restart_helps(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from uda.config.loading import load_recipe
    from uda.errors import ModelError
    from uda.pipeline import run as pipeline

    run = tmp_path / "run"
    checkpoint = interrupted(tiny, run, monkeypatch)
    if kind == "other_network":
        other = interrupted(tiny, tmp_path / "other", monkeypatch, "network.channels=[4,16]")
        shutil.copy(other, checkpoint)
    else:
        run_stages(tiny.recipe, tiny.overrides, tmp_path / "other", "pretrain")
        shutil.copy(tmp_path / "other" / "pretrain" / "model.safetensors", checkpoint)
    held = checkpoint.read_bytes()

    with pytest.raises(ModelError, match="not a checkpoint of this stage") as error:
        run_stages(tiny.recipe, tiny.overrides, run, "pretrain")
    assert str(checkpoint) in str(error.value)
    assert "--restart" in str(error.value)
    assert checkpoint.read_bytes() == held
    assert not (run / "pretrain").exists()

    recipe = load_recipe(tiny.recipe, [*tiny.overrides, "compute.device=cpu"])
    pipeline.run(recipe, run, until="pretrain", restart=True)
    run_stages(tiny.recipe, tiny.overrides, tmp_path / "straight", "pretrain")
    assert contents(run) == contents(tmp_path / "straight")


# Diverged ------------------------------------------------------------------------------------------


def test_nan_loss_stops(tiny: Tiny, tmp_path: Path) -> None:
    from uda.errors import RunError

    overrides = [*tiny.overrides, "pretrain.lr=1e30", "pretrain.clip=0"]
    with pytest.raises(RunError, match=r"the loss became \S+ between steps \d+ and \d+") as error:
        run_stages(tiny.recipe, overrides, tmp_path / "run")
    assert error.value.exit_code == 1
    assert "lower lr" in str(error.value)
    assert not (tmp_path / "run" / "pretrain").exists()
    assert not list((tmp_path / "run").rglob("model.safetensors"))
