"""The training loop of all stages. It depends on no stage, method or data set.

Every random draw of step ``n`` comes from a generator seeded with (seed, stage, n), inside the network also with
the rank. So a run that is killed and resumed repeats the uninterrupted one bit for bit. No step waits for the
device.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from uda.config.recipe import Training
from uda.data.augment import augment_batch
from uda.data.seeds import mix
from uda.devices.device import memory_for
from uda.devices.distributed import check_same_place, on_first, this_process, together
from uda.devices.global_batch import all_outputs, all_rows, gathered, own_rows
from uda.devices.sync_batchnorm import check_synchronised, shared
from uda.errors import NotFiniteError, RunError
from uda.training.logs import RunLog, open_log
from uda.training.objective import Objective
from uda.training.signals import after_step, begin_step, is_asked, stopped
from uda.training.state import TrainingState
from uda.types import Batch

Batches = Callable[[int], Batch]
"""step → batch on the host; a pure function of its argument"""


@dataclass(frozen=True)
class Run:
    """Seed, stage name and output folder of a run, and how it logs."""

    seed: int
    stage: str
    folder: Path
    quiet: bool = True
    photos: bool = False
    """whether its images are photographs, which are logged in colour and not rotated"""

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.stage


def learning_rate(settings: Training, step: int) -> float:
    """Learning rate of a step: linear warm-up, then constant, cosine to 0, poly with power 0.9, or step decay."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    horizon = settings.horizon or settings.steps
    done = (step - settings.warmup) / max(1, horizon - settings.warmup)
    if settings.schedule == "step":
        decays = (step - settings.warmup) // settings.decay_every
        return settings.lr * math.pow(settings.decay, decays)
    if settings.schedule == "cosine":
        return settings.lr * (1 + math.cos(math.pi * done)) / 2
    if settings.schedule == "poly":
        return settings.lr * math.pow(1 - done, 0.9)
    return settings.lr


def make_optimizer(
    model: nn.Module, settings: Training, heads: Sequence[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """The recipe's optimiser in its fused form; each parameter group has a factor ``times`` of the learning rate.

    Args:
        heads: parameters whose factor is ``settings.head_lr``.
    """
    common: dict[str, Any] = {
        "lr": settings.lr,
        "weight_decay": settings.weight_decay,
        "fused": True,
    }
    groups = _weights(model, heads, settings.head_lr)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum, **common)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, **common)


def _weights(model: nn.Module, heads: Sequence[nn.Parameter], times: float) -> list[dict[str, Any]]:
    own = {id(parameter) for parameter in heads}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in own]
    groups = [{"params": rest, "times": 1.0}, {"params": list(heads), "times": times}]
    return groups if heads else groups[:1]


def fit(
    fabric: Fabric,
    model: nn.Module,
    objective: Objective,
    settings: Training,
    batches: Batches,
    run: Run,
    *,
    set_mode: Callable[[nn.Module], object],
    snapshot: Callable[[nn.Module, int], bool],
    heads: Sequence[nn.Parameter] = (),
) -> nn.Module:
    """Train ``model`` and return the model to keep: its moving average if ``settings.ema``, else itself.

    Args:
        set_mode: puts a model into training mode with the stage's BatchNorm policy.
        snapshot: called with the model to keep and the step, every ``settings.snapshot_every`` steps and at the last
            step; returns whether the training ends. A run that resumes at such a step calls it again.
        heads: the classifiers' parameters, whose learning rate is ``settings.head_lr`` times as high.

    Raises:
        NotFiniteError: the loss or the weights became NaN or infinite; the last checkpoint is finite.
        RunError: writing fails, or the device runs out of memory.
        Stopped: a signal asked the process to end; the step is saved.
    """
    model = shared(model, lambda: _images(batches(0)), fabric.device)
    optimizer = make_optimizer(model, settings, heads)
    state = TrainingState(fabric, model, optimizer, settings, objective, run.folder)
    check_same_place(run.folder, state.step)
    set_mode(state.model)
    check_synchronised(state.model)
    with (
        memory_for(run.name, training=True),
        together(),
        after_step(),
        open_log(run.folder, run.name, settings.steps, state.step, run.quiet, state.log) as log,
        contextlib.closing(_prefetched(batches, state.step, settings.steps)) as stream,
    ):
        ended = _is_due(state.step, settings) and snapshot(state.kept, state.step)
        for batch in () if ended else stream:
            begin_step()
            state.pending.append(_step(state, settings, batch.to(fabric.device), run))
            log.advance(state.step)
            if _is_due(state.step, settings):
                _check_finite(state.kept, run)
                ended = snapshot(state.kept, state.step)
                _show(state.kept, batch, fabric, log, state.step, run)
                set_mode(state.model)
            save = ended or state.step == settings.steps or state.step % settings.save_every == 0
            if save or state.step % settings.log_every == 0:
                _report(state, settings, log)
            stop = is_asked()
            if save or stop:
                _save(state, log, run)
            if stop:
                raise stopped(f"{run.name} saved at step {state.step}")
            if ended:
                break
        if settings.steps and not settings.snapshot_every:
            _show(state.kept, batches(0), fabric, log, state.step, run)
    _check_finite(state.kept, run)
    return state.kept


def _is_due(step: int, settings: Training) -> bool:
    """Whether a snapshot is due after this many steps."""
    every = settings.snapshot_every
    return bool(every and step) and (step % every == 0 or step == settings.steps)


def _save(state: TrainingState, log: RunLog, run: Run) -> None:
    """Write the log and a checkpoint; weights that are not finite raise an error instead."""
    _check_finite(state.model, run)
    state.log = log.text()
    on_first(log.save)
    on_first(state.save)


def _check_finite(model: nn.Module, run: Run) -> None:
    """Check the weights, because no loss has seen the last update yet."""
    if not all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values()):
        raise NotFiniteError(
            "the weights are not finite any more",
            where=run.folder,
            expected="finite values",
            fix="lower lr, set clip, or use precision 32-true; then run again with --restart",
        )


def _step(state: TrainingState, settings: Training, batch: Batch, run: Run) -> Tensor:
    """Update the network, then the terms' own state. Returns loss and term values on the device."""
    fabric, objective = state.fabric, state.objective
    torch.manual_seed(mix(run.seed, run.stage, "network", state.step, this_process().rank))
    generator = torch.Generator(fabric.device)
    generator.manual_seed(
        mix(run.seed, run.stage, "augment", state.step, 0)
    )  # for the global batch
    objective.begin(state.step)
    notes = [None if note is None else all_rows(note) for note in objective.annotate(batch)]
    batch, notes = objective.mix(gathered(batch), notes, generator)
    batch, notes = augment_batch(batch, notes, settings.augment, generator)
    for group in state.optimizer.param_groups:
        group["lr"] = group["times"] * learning_rate(settings, state.step)
    own = own_rows(batch)
    source = state.forward(own.source.image) if own.source else None
    target = state.forward(own.target.image) if own.target else None
    source, target = all_outputs([source, target])
    loss, values = objective(batch, source, target, state.step, notes)
    fabric.backward(loss)
    if settings.clip:
        fabric.clip_gradients(
            state.model, state.optimizer, max_norm=settings.clip, error_if_nonfinite=False
        )
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    objective.after(state.step)
    state.step += 1
    state.average(settings.ema)
    return torch.stack([loss.detach(), *values.values()])


def _report(state: TrainingState, settings: Training, log: RunLog) -> None:
    """Log the mean loss and term values of the steps since the last row, with one transfer from the device."""
    pending, step = state.pending, state.step
    if not pending:
        return
    means = torch.stack(pending).double().mean(0).tolist()
    if not all(math.isfinite(value) for value in means):
        raise NotFiniteError(
            f"the loss became {means[0]} between steps {step - len(pending) + 1} and {step}",
            where=log.path.parent,
            expected="finite values",
            fix="lower lr, set clip, or use precision 32-true; then run again with --restart",
        )
    values = dict(zip(["loss", *state.objective.names], means, strict=True))
    state.pending = []
    log.row(step, {**values, "lr": learning_rate(settings, step - 1)})


@torch.no_grad()
def _show(model: nn.Module, batch: Batch, fabric: Fabric, log: RunLog, step: int, run: Run) -> None:
    """Log image, entropy and prediction of up to four images to TensorBoard."""
    if not this_process().first:
        return
    image = _images(batch)[:4].to(fabric.device)
    training = model.training
    model.eval()
    log.images(step, image, model(image), run.photos)
    model.train(training)


def _images(batch: Batch) -> Tensor:
    """Target images of a batch, or its source images if it has none of the target."""
    if batch.target is not None:
        return batch.target.image
    if batch.source is not None:
        return batch.source.image
    raise RunError("a batch without images")


def _prefetched(batches: Batches, first: int, last: int) -> Generator[Batch]:
    """Batches in order; a second thread assembles the next one while the device works."""
    if first >= last:
        return
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        future = pool.submit(batches, first)
        for step in range(first, last):
            batch = future.result()
            if step + 1 < last:
                future = pool.submit(batches, step + 1)
            yield batch
