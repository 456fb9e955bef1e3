"""Out of memory, and losses that are no number: a message that names the setting, the last good checkpoint stays."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from fault_injection import contents

from uda.api import predict
from uda.errors import NotFiniteError, RunError
from uda.evaluation import volumes as evaluation_volumes
from uda.files.atomic import load_tensors
from uda.pipeline import run as pipeline
from uda.prediction import folder as prediction_folder
from uda.training import loop


def run(tiny: Tiny, out: Path, *overrides: str, until: str = "pretrain") -> None:
    pipeline.run(tiny.load(*overrides), out, until=until)


def in_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[Any], object]) -> None:
    """Act on the state at the end of a step of any training."""
    original = loop._step

    def acting(state: Any, *given: Any) -> Any:
        found = original(state, *given)
        if state.step == step:
            act(state)
        return found

    monkeypatch.setattr(loop, "_step", acting)


def checkpoint(out: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    (path,) = out.glob(".pretrain.*/resume.safetensors")
    return load_tensors(path)


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError("Unable to allocate 93.1 TiB"),
    ],
)
def test_a_training_without_memory_names_the_setting_and_keeps_its_checkpoint(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(state: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        in_step(patch, 5, full)
        with pytest.raises(RunError, match="ran out of memory in pretrain") as caught:
            run(tiny, tmp_path / "run")
    assert caught.value.exit_code == 1
    assert str(error) in caught.value.what
    assert all(
        word in str(caught.value.fix) for word in ("batch", "patch", "compute.precision=bf16-mixed")
    )
    assert checkpoint(tmp_path / "run")[1]["step"] == "4"
    run(tiny, tmp_path / "run")
    run(tiny, tmp_path / "straight")
    assert contents(tmp_path / "run") == contents(tmp_path / "straight")


def test_a_stage_that_trains_nothing_says_it_too(
    finished: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> Any:
        raise MemoryError

    shutil.rmtree(finished / "evaluate")
    monkeypatch.setattr(evaluation_volumes, "predict_case", full)
    with pytest.raises(RunError, match="the machine ran out of memory in evaluate") as caught:
        run(tiny, finished, until="evaluate")
    assert "network.patch" in str(caught.value.fix)
    assert not (finished / "evaluate").exists()
    assert (finished / "pretrain" / "model.safetensors").is_file()


def test_a_case_that_is_too_large_is_named_and_the_others_stay(
    finished: Path, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (finished / "pretrain", tiny.root / "t" / "images", tmp_path / "out")
    read = prediction_folder.read_case

    def full(case: Any, *rest: Any) -> Any:
        if case.name == "c1":
            raise MemoryError
        return read(case, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(prediction_folder, "read_case", full)
        with pytest.raises(RunError, match="the machine ran out of memory in case 'c1'"):
            list(predict(*given))
    assert (tmp_path / "out" / "c0.nii.gz").is_file()
    assert [one.skipped for one in predict(*given)] == [True, False, False]


def test_other_errors_of_a_step_stay_what_they_are(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(state: Any) -> None:
        raise RuntimeError("sizes do not match")

    in_step(monkeypatch, 2, broken)
    with pytest.raises(RuntimeError, match="sizes do not match"):
        run(tiny, tmp_path / "run")


def test_weights_that_are_no_number_are_never_saved(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The update that broke them is seen by no loss yet when the checkpoint is due."""

    def break_weights(state: Any) -> None:
        next(state.model.parameters()).data.view(-1)[0] = torch.nan

    with monkeypatch.context() as patch:
        in_step(patch, 6, break_weights)
        with pytest.raises(NotFiniteError, match="the weights are not finite") as caught:
            run(tiny, tmp_path / "run")
    assert caught.value.exit_code == 1
    tensors, said = checkpoint(tmp_path / "run")
    assert said["step"] == "4"
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    run(tiny, tmp_path / "run")
    run(tiny, tmp_path / "straight")
    assert contents(tmp_path / "run") == contents(tmp_path / "straight")


def test_a_loss_that_is_no_number_ends_the_same_way_when_it_is_tried_again(
    tiny: Tiny, tmp_path: Path
) -> None:
    """Clipping keeps the numbers finite for a while: there is a checkpoint to go on from."""
    much = ("pretrain.lr=1e18", "pretrain.save_every=1", "pretrain.log_every=1")
    said = []
    for _ in range(2):
        with pytest.raises(NotFiniteError) as caught:
            run(tiny, tmp_path / "run", *much)
        said.append(str(caught.value))
        for path in (tmp_path / "run").glob(".pretrain.*/resume*.safetensors"):
            tensors, _ = load_tensors(path)
            assert all(bool(tensor.isfinite().all()) for tensor in tensors.values()), path
    assert said[0] == said[1]
    assert "lower lr" in said[0]
    assert not (tmp_path / "pretrain").exists()
