"""The training loop: schedule, moving average, clipping, log, and no waiting for the device."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from uda.config.recipe import Compute, Training
from uda.config.terms import CrossEntropyTerm, DiceTerm
from uda.devices.device import make_fabric
from uda.errors import ConfigError, RunError
from uda.training import loop
from uda.training.loop import Run, fit, learning_rate
from uda.training.objective import Objective
from uda.types import Batch, SourceBatch

CPU = Compute(device="cpu")
TERMS = (CrossEntropyTerm(), DiceTerm())


def settings(**changes: Any) -> Training:
    plain = {"steps": 6, "batch": 2, "lr": 0.05, "objective": TERMS, "log_every": 3, "clip": 0.0}
    return Training(**{**plain, **changes})


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1)
    )


def batch_of(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    image = torch.randn(2, 1, 8, 8, generator=generator)
    return Batch(source=SourceBatch(image, (image[:, 0] > 0).long() + (image[:, 0] > 1).long()))


class Recording(Objective):
    """Records its results."""

    def __init__(self) -> None:
        super().__init__(TERMS)
        self.seen: list[tuple[Tensor, dict[str, Tensor]]] = []

    def __call__(self, *given: Any, **named: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss, values = super().__call__(*given, **named)
        self.seen.append((loss.detach().clone(), values))
        return loss, values


def train(
    folder: Path,
    changes: dict[str, Any],
    batches: Callable[[int], Batch] = batch_of,
    objective: Objective | None = None,
    seed: int = 0,
) -> tuple[nn.Module, list[dict[str, Tensor]]]:
    """The kept model, and its weights at each snapshot."""
    snapshots: list[dict[str, Tensor]] = []

    def snapshot(model: nn.Module, step: int) -> bool:
        snapshots.append({k: v.detach().clone() for k, v in model.state_dict().items()})
        return False

    kept = fit(
        make_fabric(CPU),
        network(),
        objective or Objective(TERMS),
        settings(**changes),
        batches,
        Run(seed, "stage", folder),
        set_mode=lambda model: model.train(),
        snapshot=snapshot,
    )
    return kept, snapshots


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the losses treat every tensor as one on a device, whose values they must not read."""
    for name, module in list(sys.modules.items()):
        if name.startswith("uda.losses.") and hasattr(module, "readable"):
            monkeypatch.setattr(module, "readable", lambda values: False)


# the schedule


def test_warm_up_is_linear_and_reaches_the_full_rate() -> None:
    warm = settings(steps=100, warmup=4, lr=1.0)
    assert [learning_rate(warm, s) for s in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


@pytest.mark.parametrize(
    ("schedule", "first", "middle", "last"),
    [
        ("constant", 1.0, 1.0, 1.0),
        ("cosine", 1.0, 0.5, (1 + math.cos(math.pi * 0.99)) / 2),
        ("poly", 1.0, 0.5**0.9, 0.01**0.9),
    ],
)
def test_schedule_runs_from_the_end_of_the_warm_up_to_the_last_step(
    schedule: str, first: float, middle: float, last: float
) -> None:
    for warmup in (0, 20):
        made = settings(steps=100 + warmup, warmup=warmup, schedule=schedule, lr=2.0)
        found = [learning_rate(made, warmup + s) for s in (0, 50, 99)]
        assert found == pytest.approx([2 * first, 2 * middle, 2 * last])


def test_a_warm_up_longer_than_the_run_never_divides_by_0() -> None:
    short = settings(steps=3, warmup=10, schedule="cosine", lr=1.0)
    assert [learning_rate(short, s) for s in range(3)] == pytest.approx([0.1, 0.2, 0.3])


def test_the_optimiser_steps_with_the_scheduled_rate(tmp_path: Path) -> None:
    """Plain SGD: each weight moves by rate × gradient, so half the rate is half the first move."""
    start = {k: v.clone() for k, v in network().state_dict().items()}
    moves = []
    for warmup in (0, 2):
        changes = {"optimizer": "sgd", "momentum": 0, "weight_decay": 0, "lr": 0.1, "steps": 1}
        kept, _ = train(tmp_path / str(warmup), {**changes, "warmup": warmup})
        moves.append(kept.state_dict()["3.weight"] - start["3.weight"])
    assert float(moves[0].abs().max()) > 0
    torch.testing.assert_close(moves[0], 2 * moves[1], rtol=1e-4, atol=1e-7)


# the model to keep


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_training_lowers_the_loss(tmp_path: Path, optimizer: str) -> None:
    train(tmp_path, {"optimizer": optimizer, "steps": 60, "log_every": 10})
    losses = [float(row["loss"]) for row in rows(tmp_path)]
    assert losses[-1] < 0.7 * losses[0]


def test_average_of_weights_and_buffers_is_the_hand_formula(tmp_path: Path) -> None:
    _, plain = train(tmp_path / "plain", {"snapshot_every": 1})
    kept, averaged = train(tmp_path / "ema", {"snapshot_every": 1, "ema": 0.7})
    expected = plain[0]
    for weights, found in zip(plain, averaged, strict=True):
        if weights is not plain[0]:
            expected = {k: 0.7 * expected[k] + 0.3 * v for k, v in weights.items()}
        for name, tensor in found.items():
            if tensor.is_floating_point():
                torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)
    assert "1.running_mean" in expected
    assert not torch.equal(averaged[-1]["1.running_mean"], plain[-1]["1.running_mean"])
    for name, tensor in kept.state_dict().items():
        assert torch.equal(tensor, averaged[-1][name])


def test_averaging_and_snapshots_do_not_change_the_training(tmp_path: Path) -> None:
    for name, changes in (("a", {}), ("b", {"ema": 0.5}), ("c", {"snapshot_every": 2})):
        train(tmp_path / name, changes)
    assert rows(tmp_path / "a") == rows(tmp_path / "b") == rows(tmp_path / "c")


def test_same_seed_same_weights_bit_for_bit(tmp_path: Path) -> None:
    changes = {"augment": {"rotate": 30, "noise": 0.2}}
    first, again, other = (
        train(tmp_path / name, changes, seed=seed)[0].state_dict()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_no_steps_keep_the_model_as_it_was(tmp_path: Path) -> None:
    kept, _ = train(tmp_path, {"steps": 0})
    before = network().state_dict()
    assert all(torch.equal(before[k], v) for k, v in kept.state_dict().items())


def test_snapshots_come_every_so_many_steps(tmp_path: Path) -> None:
    assert len(train(tmp_path / "a", {"snapshot_every": 2})[1]) == 3
    assert len(train(tmp_path / "b", {"snapshot_every": 4})[1]) == 2  # and at the last
    assert train(tmp_path / "c", {})[1] == []


def test_clipping_bounds_the_norm_of_a_step(tmp_path: Path) -> None:
    start = network().state_dict()
    moves = {}
    for clip in (0.0, 0.01):
        changes = {"optimizer": "sgd", "momentum": 0, "weight_decay": 0, "lr": 1.0, "steps": 1}
        kept, _ = train(tmp_path / str(clip), {**changes, "clip": clip})
        parameters = dict(kept.named_parameters())
        moves[clip] = torch.cat([(v - start[k]).flatten() for k, v in parameters.items()]).detach()
    assert float(moves[0.0].norm()) > 0.1
    assert float(moves[0.01].norm()) == pytest.approx(0.01, rel=1e-2)
    cosine = torch.cosine_similarity(moves[0.0], moves[0.01], dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-4)


# the log


def test_rows_are_averages_since_the_row_before(tmp_path: Path) -> None:
    objective = Recording()
    train(tmp_path, {"steps": 8, "log_every": 3, "warmup": 10}, objective=objective)
    written = rows(tmp_path)
    assert [int(row["step"]) for row in written] == [3, 6, 8]
    assert list(written[0]) == ["step", "loss", "cross_entropy", "dice", "lr"]
    for row, steps in zip(written, (range(3), range(3, 6), range(6, 8)), strict=True):
        seen = [objective.seen[s] for s in steps]
        assert float(row["loss"]) == pytest.approx(sum(float(s[0]) for s in seen) / len(seen))
        for name in ("cross_entropy", "dice"):
            mean = sum(float(s[1][name]) for s in seen) / len(seen)
            assert float(row[name]) == pytest.approx(mean)
        assert float(row["lr"]) == pytest.approx(0.05 * (steps[-1] + 1) / 10)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, bad: float) -> None:
    def poisoned(step: int) -> Batch:
        batch = batch_of(step)
        assert batch.source is not None
        if step == 4:
            batch.source.image[0, 0, 0, 0] = bad
        return batch

    with pytest.raises(RunError, match="the loss became nan between steps 4 and 6") as caught:
        train(tmp_path, {"steps": 9}, poisoned)
    assert caught.value.exit_code == 1
    assert "lower lr" in str(caught.value)


def test_a_run_that_fails_keeps_its_last_sound_checkpoint(tmp_path: Path) -> None:
    def poisoned(step: int) -> Batch:
        batch = batch_of(step)
        assert batch.source is not None
        if step == 5:
            batch.source.image[:] = float("nan")
        return batch

    with pytest.raises(RunError):
        train(tmp_path, {"save_every": 2}, poisoned)
    resumed, _ = train(tmp_path, {"save_every": 2})
    whole, _ = train(tmp_path / "whole", {"save_every": 2})
    pairs = zip(resumed.state_dict().items(), whole.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for (_, a), b in pairs)
    assert rows(tmp_path) == rows(tmp_path / "whole")


# batches and the device


def test_each_batch_is_asked_for_once_and_in_order(tmp_path: Path) -> None:
    asked: list[int] = []

    def counted(step: int) -> Batch:
        asked.append(step)
        return batch_of(step)

    train(tmp_path, {"steps": 7, "snapshot_every": 7}, counted)
    assert asked == list(range(7))


def test_a_batch_that_cannot_be_made_ends_the_run_with_its_own_error(tmp_path: Path) -> None:
    def failing(step: int) -> Batch:
        if step == 3:
            raise RunError("the disk is gone")
        return batch_of(step)

    with pytest.raises(RunError, match="the disk is gone"):
        train(tmp_path, {}, failing)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_nothing_between_reports_reads_a_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: float
) -> None:
    """Reading a value makes the host wait for the device; only reports, checkpoints and code after the loop may."""
    reads: list[str] = []
    reports: list[bool] = []
    watched = False
    report = loop._report

    def pausing(function: Any) -> Any:
        def paused(*given: Any, **named: Any) -> Any:
            nonlocal watched
            before, watched = watched, False
            try:
                return function(*given, **named)
            finally:
                watched = before

        return paused

    def reporting(state: Any, *given: Any) -> None:
        nonlocal watched
        reports.append(watched)
        watched = False
        report(state, *given)
        watched = state.step < 8

    def counting(name: str, function: Any) -> Any:
        def counted(self: Tensor, *given: Any, **named: Any) -> Any:
            if watched:
                reads.append(name)
            return function(self, *given, **named)

        return counted

    def watching(step: int) -> Batch:
        nonlocal watched
        batch = batch_of(step)
        watched = watched or (step == 0 and not reports)
        return batch

    for name in ("item", "tolist", "numpy", "cpu", "nonzero"):
        monkeypatch.setattr(Tensor, name, counting(name, getattr(Tensor, name)))
    for name in ("__bool__", "__float__", "__int__", "__index__", "__array__"):
        monkeypatch.setattr(Tensor, name, counting(name, getattr(Tensor, name)))
    unreadable(monkeypatch)
    monkeypatch.setattr(loop, "_report", reporting)
    monkeypatch.setattr(loop, "_save", pausing(loop._save))
    changes = {"steps": 8, "log_every": 4, "clip": 1.0, "augment": {"rotate": 10, "gamma": 0.1}}
    train(tmp_path, {**changes, "ema": ema}, watching)
    assert reports == [True, True]
    watched = True
    bool(torch.ones(()))  # the counter works
    assert reads == ["__bool__"]


def test_a_device_that_is_not_there_is_refused() -> None:
    absent: Any = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(ConfigError, match=f"device '{absent}' was requested") as caught:
        make_fabric(Compute(device=absent))
    assert "--device auto" in str(caught.value)


def test_the_log_does_not_wait_for_a_checkpoint(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def batches(step: int) -> Batch:
        if step == 5:
            raise Killed
        return batch_of(step)

    changes = {"steps": 8, "log_every": 1, "save_every": 100}
    with pytest.raises(Killed):
        train(tmp_path, changes, batches)
    assert not list(tmp_path.glob("resume*"))
    before = rows(tmp_path)
    assert [row["step"] for row in before] == ["1", "2", "3", "4", "5"]
    train(tmp_path, changes)
    assert rows(tmp_path)[:5] == before
    assert len(rows(tmp_path)) == 8
