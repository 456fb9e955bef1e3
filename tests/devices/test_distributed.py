"""Several processes, one result: the same losses, weights, files and table as one process with the same batch.

Two processes run once (``distributed_worker.py``), and the tests read the files that they wrote.
Tolerances: 1e-6 for single layers, 2e-6 for weights and losses of a few steps, because float32 sums have another
order. With a fixed number of processes the same seed gives the same bits.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import distributed_worker
import pytest
import torch
import yaml
from conftest import Once, Tiny, make_tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from uda.config.loading import load_recipe
from uda.config.recipe import Compute
from uda.devices import distributed, global_batch, sync_batchnorm
from uda.devices.device import check_processes, make_fabric
from uda.devices.distributed import ALONE, Process, launched, share
from uda.errors import ConfigError, ModelError, RunError
from uda.pipeline import run as pipeline

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Pair:
    """Output of the two processes, and the recipe for the same run in one process."""

    folder: Path
    codes: tuple[int, ...]
    errors: tuple[str, ...]
    tiny: Tiny

    def of(self, job: str, rank: int = 0) -> dict[str, Tensor]:
        return load_file(self.folder / job / f"{rank}.tensors")


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def start(rank: int, port: str, arguments: list[str]) -> subprocess.Popen[str]:
    """One of two processes as torchrun starts them."""
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    ranks |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "distributed_worker.py"), *arguments]
    return subprocess.Popen(command, env={**os.environ, **ranks}, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def pair(once: Once) -> Pair:
    def fill(folder: Path) -> None:
        tiny, port = small_data(folder), free_port()
        arguments = [str(folder), tiny.recipe, *overrides(tiny)]
        processes = [start(rank, port, arguments) for rank in range(2)]
        errors = [process.communicate(timeout=300)[1] for process in processes]
        codes = [process.returncode for process in processes]
        (folder / "ended.json").write_text(json.dumps([codes, errors]))

    folder = once("two processes", fill)
    codes, errors = json.loads((folder / "ended.json").read_text())
    return Pair(folder, tuple(codes), tuple(errors), Tiny(folder / "home", folder / "data"))


def small_data(folder: Path) -> Tiny:
    """The tiny recipe with two test cases."""
    tiny = make_tiny(folder)
    card = tiny.home / "target.yaml"
    raw = yaml.safe_load(card.read_text())
    raw["splits"]["test"] = ["c2", "c1"]
    card.write_text(yaml.safe_dump(raw))
    return tiny


def overrides(tiny: Tiny) -> list[str]:
    return [
        *tiny.overrides,
        "compute.device=cpu",
        "network.dropout=0",
        # Before BatchNorm the gradient of a bias is rounding error, which Adam scales to full steps.
        *(f"{part}.optimizer=sgd" for part in ("pretrain", "adapt.*")),
        *(f"{part}.lr=0.05" for part in ("pretrain", "adapt.*")),
        "evaluate.oracle=true",
        "adapt.minent.batchnorm=warmed",
    ]


def close(found: dict[str, Tensor], expected: dict[str, Tensor], atol: float) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=name)


# Ranks and batches without a process group


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*distributed.ENVIRONMENT, "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert launched() == ALONE
    monkeypatch.setenv("WORLD_SIZE", "8")  # a container may set it
    monkeypatch.setenv("SLURM_NTASKS", "4")  # an allocation without srun
    assert launched() == ALONE


def test_torchrun_and_srun_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
    slurm |= {"SLURM_JOB_ID": "123456", "SLURM_STEP_NODELIST": "gpu[07-08]"}
    for name in distributed.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # launched() writes to it
    assert launched() == Process(3, 4, 1)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("gpu07", "18456")
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    monkeypatch.setattr(os, "environ", {**os.environ, **torchrun})
    assert launched() == Process(5, 8, 1)


FOREIGN = {
    "an allocation of two tasks": "SLURM_JOB_ID=1 SLURM_NTASKS=2 SLURM_JOB_NAME=train SLURM_PROCID=0",
    "an allocation by node": "SLURM_JOB_ID=1 SLURM_NTASKS_PER_NODE=4 SLURM_NNODES=2 SLURM_JOB_NAME=x",
    "a step of one task": "SLURM_STEP_NUM_TASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=8",
    "part of a step": "SLURM_STEP_NUM_TASKS=2",
    "Open MPI": "OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_LOCAL_RANK=1",
    "MPICH": "PMI_RANK=1 PMI_SIZE=2 MPI_LOCALRANKID=1 PMI_FD=5",
    "PMIx": "PMIX_RANK=1 PMIX_NAMESPACE=x",
    "LSF": "LSB_JOBID=1 LSB_DJOB_RANKFILE=/gone JSM_NAMESPACE_SIZE=2 JSM_NAMESPACE_RANK=1 JSM_NAMESPACE_LOCAL_RANK=1",
    "stale ranks": "RANK=1 WORLD_SIZE=2",
    "a stale local rank": "LOCAL_RANK=3 NODE_RANK=1 GROUP_RANK=1",
    "empty ranks": "RANK= WORLD_SIZE= LOCAL_RANK= MASTER_ADDR= MASTER_PORT= SLURM_PROCID=",
    "torchelastic without ranks": "TORCHELASTIC_RUN_ID=none TORCHELASTIC_RESTART_COUNT=0 GROUP_RANK=0",
    "torchrun of one": "TORCHELASTIC_RUN_ID=x RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 MASTER_ADDR=a MASTER_PORT=x",
    "Kubeflow": "KUBERNETES_PORT=tcp://127.0.0.1:443 MASTER_ADDR=a MASTER_PORT=1 WORLD_SIZE=2 RANK=1",
    "a service called master": "MASTER_PORT=tcp://10.0.0.1:3306 MASTER_ADDR=x WORLD_SIZE=many",
    "a TPU": "XRT_TPU_CONFIG=x TPU_WORKER_ID=1 PJRT_DEVICE=CPU COLAB_TPU_ADDR=x",
    "fabric run": "LT_CLI_USED=1 LT_DEVICES=2 LT_NUM_NODES=2 LT_STRATEGY=ddp LT_ACCELERATOR=cuda LT_PRECISION=64-true",
}


@pytest.mark.parametrize("place", FOREIGN)
def test_one_process_starts_where_a_launcher_started_something_else(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = dict(entry.split("=", 1) for entry in FOREIGN[place].split())
    monkeypatch.setattr(os, "environ", {"PATH": os.environ["PATH"], **found})
    assert launched() == ALONE
    fabric = make_fabric(Compute(device="cpu"))
    assert (fabric.world_size, fabric.global_rank, fabric.device.type) == (1, 0, "cpu")
    assert fabric._precision.precision == "32-true"


def test_a_person_in_the_terminal_of_srun_works_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    monkeypatch.setattr(os, "environ", {**slurm, "SLURM_TASK_PID": "1"})
    monkeypatch.setattr(os, "isatty", lambda number: number == 2)
    assert launched() == ALONE
    os.environ["SLURM_TASK_PID"] = str(os.getpid())  # `srun --pty uda …` itself
    assert launched() == Process(0, 2, 0)
    os.environ["SLURM_TASK_PID"] = "1"  # `srun wrapper.sh`
    monkeypatch.setattr(os, "isatty", lambda number: False)
    assert launched() == Process(0, 2, 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("RANK=one", "RANK is 'one'"),
        ("LOCAL_RANK=-1", "LOCAL_RANK is '-1'"),
        ("SLURM_PROCID=0x1", "SLURM_PROCID is '0x1'"),
        ("RANK=0 WORLD_SIZE=2.0 LOCAL_RANK=0 MASTER_ADDR=a MASTER_PORT=1", "WORLD_SIZE is '2.0'"),
        (
            "RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=a MASTER_PORT=tcp://x",
            "MASTER_PORT is 'tcp",
        ),
        (
            "RANK=2 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=a MASTER_PORT=1",
            "RANK is 2, .* WORLD_SIZE is 2",
        ),
        ("RANK=0 WORLD_SIZE=0 LOCAL_RANK=0 MASTER_ADDR=a MASTER_PORT=1", "WORLD_SIZE is 0"),
        (f"RANK={'9' * 5000}", "RANK is '999"),
    ],
)
def test_numbers_of_a_launcher_that_make_no_sense_are_named(
    given: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(entry.split("=", 1) for entry in given.split()))
    with pytest.raises(ConfigError, match=message):
        launched()


def test_a_process_whose_others_never_start_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    monkeypatch.setattr(os, "environ", {**os.environ, **stale, "MASTER_PORT": free_port()})
    monkeypatch.setattr(distributed, "NOTICE", 0.2)
    monkeypatch.setattr(distributed, "JOIN", timedelta(seconds=1))
    monkeypatch.setattr(distributed, "_joined", distributed._joined.__wrapped__)
    with pytest.raises(RunError, match="process 0 of 2 did not meet the others") as error:
        distributed.this_process()
    assert "unset RANK, WORLD_SIZE" in str(error.value.fix)
    assert "process 0 of 2 waits for the others" in capsys.readouterr().err


@given(st.integers(0, 40), st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_each_thing_is_shared_out_exactly_once(count: int, size: int) -> None:
    shares = [share(count, Process(rank, size)) for rank in range(size)]
    assert sorted(number for own in shares for number in own) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def pretend(monkeypatch: pytest.MonkeyPatch, here: Process) -> None:
    monkeypatch.setattr(distributed, "_joined", lambda: (here, None))


def test_a_batch_that_cannot_be_shared_evenly_is_refused(
    monkeypatch: pytest.MonkeyPatch, tiny: Tiny, tmp_path: Path
) -> None:
    pretend(monkeypatch, Process(1, 3))
    assert global_batch.rows_of(6) == slice(2, 4)
    recipe = load_recipe(tiny.recipe, [*tiny.overrides, "pretrain.batch=6"])
    with pytest.raises(ConfigError, match="a batch of 4 cannot be shared evenly by 3") as error:
        pipeline.run(recipe, tmp_path / "run")
    assert error.value.where == "adapt.minent.batch"
    assert "set adapt.minent.batch=3" in str(error.value.fix)
    assert not (tmp_path / "run").exists()


def test_processes_that_nobody_started_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for fine in (Compute(), Compute(devices="auto")):
        check_processes(fine)
    with pytest.raises(
        ConfigError, match=r"2 processes were requested .1 × 2., but 1 runs"
    ) as error:
        check_processes(Compute(devices=2))
    assert "torchrun --nproc-per-node 2 -m uda run" in str(error.value.fix)
    with pytest.raises(ConfigError, match="but 1 runs") as error:
        check_processes(Compute(devices=4, num_nodes=2))
    assert "--nnodes 2 --nproc-per-node 4" in str(error.value.fix)
    pretend(monkeypatch, Process(0, 8))
    check_processes(Compute(devices=4, num_nodes=2))
    check_processes(Compute())
    with pytest.raises(ConfigError, match="but 8 run"):
        check_processes(Compute(devices=2))


def test_work_of_its_own_gets_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, Process(1, 2))
    assert make_fabric(Compute(device="cpu"), alone=True).world_size == 1


def test_statistics_inside_a_program_are_refused_while_they_follow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, Process(0, 2))
    layer = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    program = torch.jit.script(layer)
    with pytest.raises(ModelError, match="1 BatchNorm layers lie inside a TorchScript program"):
        sync_batchnorm.check_synchronised(program)
    sync_batchnorm.check_synchronised(program.eval())
    sync_batchnorm.check_synchronised(sync_batchnorm.synchronised(layer, torch.device("cpu")))


def test_weights_that_no_output_depends_on_get_no_gradient() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1)
            self.norm = nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.norm(self.used(x))
            return found

    model = Heads()
    sync_batchnorm.freeze_idle(
        model, torch.ones(1, 1, 1, 1)
    )  # one value a channel: no batch statistics
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == [
        "idle.weight",
        "idle.bias",
    ]


# Single operations


def merged(pair: Pair, kind: str) -> dict[str, Tensor]:
    """Merge both processes' results into those of one: rows concatenated, weight gradients summed."""
    first, second = (pair.of("unit", rank) for rank in range(2))
    found = {}
    for name in (name.removeprefix(kind) for name in first if name.startswith(kind)):
        ours, theirs = first[kind + name], second[kind + name]
        if name[2:] in ("y", "dx"):
            found[name] = torch.cat([ours, theirs])
        elif name[2:] in ("d1.weight", "d1.bias"):
            found[name] = ours + theirs
        else:
            assert torch.equal(ours, theirs), name
            found[name] = ours
    return found


def errors_of(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Largest difference divided by the largest value."""
    assert set(found) == set(expected)
    return {
        name: float((found[name] - value).abs().max() / value.abs().max())
        for name, value in expected.items()
    }


@pytest.mark.parametrize(("kind", "momentum"), [("plain.", 0.1), ("cumulative.", None)])
def test_batchnorm_of_two_processes_is_that_of_the_whole_batch(
    pair: Pair, kind: str, momentum: float | None
) -> None:
    """Forward, gradients, running statistics and evaluation, with 4 rows on rank 0 and 2 on rank 1."""
    expected = distributed_worker.batchnorm(momentum)
    assert {"1.y", "1.dx", "0.d1.weight", "state.1.running_var", "eval"} <= set(expected)
    assert max(errors_of(merged(pair, kind), expected).values()) < 1e-6


def test_batchnorm_of_two_processes_stands_a_mean_of_333_sd(pair: Pair) -> None:
    """A mean of squares in float32 would be off by 6 % of the variance, about 3 % of the output."""
    exact = distributed_worker.batchnorm(mean=1000, kind=torch.float64)
    plain = errors_of(distributed_worker.batchnorm(mean=1000), exact)
    for name, error in errors_of(merged(pair, "far."), exact).items():
        assert error < max(2 * plain[name], 3e-5), name


def test_rows_of_any_type_and_layout_are_gathered_in_order(pair: Pair) -> None:
    for rank in range(2):
        found = pair.of("unit", rank)
        for kind in ("uint8", "int64", "float32", "bfloat16"):
            expected = torch.arange(12).view(4, 3).to(getattr(torch, kind))
            assert torch.equal(found[f"rows.{kind}"], expected)
        assert found["rows.bool"].tolist() == [[False, True, True], *[[True] * 3] * 3]
        assert torch.equal(found["rows.last"], found["rows.expected"])
        assert bool(found["rows.layout"])


def test_gradient_of_gathered_rows_is_a_processes_own_times_their_number(pair: Pair) -> None:
    x = torch.linspace(-1, 1, 8).view(4, 2).requires_grad_()
    loss = (x.exp().sum() + (2 * x).sum()) ** 2
    loss.backward()
    assert x.grad is not None
    for rank in range(2):
        found = pair.of("unit", rank)
        torch.testing.assert_close(found["outputs.loss"], loss.detach())
        torch.testing.assert_close(found["outputs.grad"], 2 * x.grad[2 * rank : 2 * rank + 2])
        assert torch.equal(found["outputs.unread"], torch.zeros(2, 2))


def test_processes_agree(pair: Pair) -> None:
    """on_first: result, calls; sum of ranks; first_then_all: result, calls, world size inside; item order."""
    assert pair.of("unit", 0)["agreed"].tolist() == [42, 1, 3, 42, 1, 1, 1]
    assert pair.of("unit", 1)["agreed"].tolist() == [42, 0, 3, 42, 1, 1, 1]


def test_a_fault_of_the_first_process_is_everybodys(pair: Pair) -> None:
    first, second = (
        json.loads((pair.folder / f"faults.{rank}.json").read_text()) for rank in range(2)
    )
    message = "gone\n  where:    a/file\n  fix:      bring it back"
    assert first == [
        ["DataError", message, "bring it back", False],
        ["OSError", "odd\nfault", None, False],
    ]
    assert second[0] == ["DataError", message, "bring it back", True]
    assert second[1][:2] == ["RunError", "the first process failed with OSError: odd\\nfault"]


# The loop


@pytest.mark.parametrize("objective", ["losses", "parts", "marks"])
def test_two_processes_train_as_one_does(pair: Pair, tmp_path: Path, objective: str) -> None:
    """Two passes a step; batch-scope ratio, mutual information, IGNORE; teacher, adversary, dual variables, marks."""
    expected = distributed_worker.JOBS[objective](tmp_path)
    close(pair.of(objective, 0), expected, atol=2e-6)
    for name, value in pair.of(objective, 1).items():
        assert torch.equal(value, pair.of(objective, 0)[name]), name
    found, wanted = (rows(folder / "metrics.csv") for folder in (pair.folder / objective, tmp_path))
    assert len(found) == len(wanted) >= 5
    for row, other in zip(found, wanted, strict=True):
        assert {k: float(v) for k, v in row.items()} == pytest.approx(
            {k: float(v) for k, v in other.items()}, abs=2e-6
        )
    assert wanted[0]["loss"] != wanted[-1]["loss"]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_two_processes_go_on_from_a_checkpoint_bit_for_bit(pair: Pair) -> None:
    for rank in range(2):
        whole, resumed = pair.of("parts", rank), pair.of("resumed", rank)
        assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    logs = [(pair.folder / job / "metrics.csv").read_bytes() for job in ("parts", "resumed")]
    assert logs[0] == logs[1]


def test_a_fault_of_one_process_ends_the_other_with_a_clear_message(pair: Pair) -> None:
    """The other process ends by itself, without torchrun, and does not wait forever."""
    assert pair.codes == (1, 1)
    first, second = pair.errors
    assert "DataError: a file is gone" in second
    assert "RunError: another process of this run ended, and process 0 of 2 cannot go on" in first


# A whole recipe


def test_a_recipe_gives_the_same_table_and_the_same_files(pair: Pair, tmp_path: Path) -> None:
    """The weights differ by rounding, so after 10 steps the argmax may differ in a few of 8000 pixels."""
    done = pipeline.run(load_recipe(pair.tiny.recipe, overrides(pair.tiny)), tmp_path / "run")
    names = [stage.name for stage in done]
    files = [
        {p.relative_to(run).as_posix() for p in run.rglob("*") if "tensorboard/" not in str(p)}
        for run in (pair.folder / "run", tmp_path / "run")
    ]
    assert files[0] == files[1]
    found, expected = (
        json.loads((run / "evaluate" / "metrics.json").read_text())
        for run in (pair.folder / "run", tmp_path / "run")
    )
    assert [row["name"] for row in found["rows"]] == [row["name"] for row in expected["rows"]]
    for row, other in zip(found["rows"], expected["rows"], strict=True):
        assert row["supervision"] == other["supervision"]
        assert row["dice"]["mean"] == pytest.approx(other["dice"]["mean"], abs=2e-3)
    for key in ("data", "rules", "classes"):
        assert found[key] == expected[key]
    models = [
        run / "adapt-minent" / "model.safetensors"
        for run in (pair.folder / "run", tmp_path / "run")
    ]
    close(load_file(models[0]), load_file(models[1]), atol=1e-5)
    stages = [read_stage(run, "pretrain") for run in (pair.folder / "run", tmp_path / "run")]
    assert stages[0]["hash"] == stages[1]["hash"]
    assert stages[0]["environment"]["processes"] == 2
    events = [json.loads((pair.folder / f"events.{rank}.json").read_text()) for rank in range(2)]
    assert events[0] == [[name, "run"] for name in names] + [[name, "skip"] for name in names]
    assert events[1] == []


def read_stage(run: Path, stage: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / stage / "stage.json").read_text())
    return record


def test_one_process_evaluates_the_models_of_two_to_the_same_table(
    pair: Pair, tmp_path: Path
) -> None:
    shutil.copytree(pair.folder / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "evaluate")
    recipe = load_recipe(pair.tiny.recipe, overrides(pair.tiny))
    done = pipeline.run(recipe, tmp_path / "run", until="evaluate")
    assert [stage.name for stage in done if stage.ran] == ["evaluate"]
    for name in ("cases.csv", "overlays.json"):
        both = [run / "evaluate" / name for run in (pair.folder / "run", tmp_path / "run")]
        assert both[0].read_bytes() == both[1].read_bytes()
    tables = [
        json.loads((run / "evaluate" / "metrics.json").read_text())
        for run in (pair.folder / "run", tmp_path / "run")
    ]
    assert tables[0]["rows"] == tables[1]["rows"]
