"""THE loop. It knows tensors, an objective, a schedule and a checkpoint; no stage, no method, no data set.

Everything random in step ``n`` is drawn from generators seeded with (seed, stage, n, rank), so a run that is
killed and resumed repeats the uninterrupted one bit for bit. Nothing in a step waits for the device.
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
from uda.devices.distributed import check_same_place, on_first, together, world
from uda.devices.global_batch import all_outputs, all_rows, gathered, own_rows
from uda.devices.sync_batchnorm import check_synchronised, shared
from uda.errors import NotFiniteError, RunError
from uda.training.logs import RunLog, open_log
from uda.training.objective import Objective
from uda.training.signals import after_step, is_asked, stopped
from uda.training.state import TrainingState
from uda.types import Batch

Batches = Callable[[int], Batch]
"""step → batch on the host; a pure function of its argument"""


@dataclass(frozen=True)
class Run:
    """What names a run and where it writes."""

    seed: int
    stage: str
    folder: Path
    quiet: bool = True
    photos: bool = False
    """whether its images are photographs, drawn in colour and as they lie"""


def learning_rate(settings: Training, step: int) -> float:
    """Rate of a step: linear warm-up, then constant, cosine to 0, poly with power 0.9, or falling in steps."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    horizon = settings.horizon or settings.steps
    done = (step - settings.warmup) / max(1, horizon - settings.warmup)
    if settings.schedule == "step":
        fallen = (step - settings.warmup) // settings.decay_every
        return settings.lr * math.pow(settings.decay, fallen)
    if settings.schedule == "cosine":
        return settings.lr * (1 + math.cos(math.pi * done)) / 2
    if settings.schedule == "poly":
        return settings.lr * math.pow(1 - done, 0.9)
    return settings.lr


def make_optimizer(
    model: nn.Module, settings: Training, heads: Sequence[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """The recipe's optimiser in its fused form; each group of weights has its factor ``times`` of the rate.

    Args:
        heads: the weights whose factor is ``settings.head_lr``.
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
    """Train ``model`` and return the one to keep: its weighted average if ``settings.ema``, else itself.

    Args:
        set_mode: puts a model into its training mode, with the stage's BatchNorm policy.
        snapshot: called with the model to keep and the step, every ``settings.snapshot_every`` steps and at the last;
            says whether the training ends here. Where a killed run goes on from such a step it is asked once more.
        heads: the classifiers' weights, which learn ``settings.head_lr`` times as fast.

    Raises:
        NotFiniteError: the loss or the weights; the last checkpoint is from before.
        RunError: the disk refuses a checkpoint, or the device has no room for a step.
        Stopped: a signal asked for it; the step is saved.
    """
    model = shared(model, lambda: _images(batches(0)), fabric.device)
    optimizer = make_optimizer(model, settings, heads)
    state = TrainingState(fabric, model, optimizer, settings, objective, run.folder)
    check_same_place(run.folder, state.step)
    set_mode(state.model)
    check_synchronised(state.model)
    with (
        memory_for(run.stage, training=True),
        together(),
        after_step(),
        open_log(run.folder, run.stage, settings.steps, state.step, run.quiet, state.log) as log,
        contextlib.closing(_ahead(batches, state.step, settings.steps)) as stream,
    ):
        ended = _is_due(state.step, settings) and snapshot(state.kept, state.step)
        for batch in () if ended else stream:
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
                raise stopped(f"{run.stage} saved at step {state.step}")
            if ended:
                break
        if settings.steps and not settings.snapshot_every:
            _show(state.kept, batches(0), fabric, log, state.step, run)
    _check_finite(state.kept, run)
    return state.kept


def _is_due(step: int, settings: Training) -> bool:
    """Whether a snapshot is taken after this many steps."""
    every = settings.snapshot_every
    return bool(every and step) and (step % every == 0 or step == settings.steps)


def _save(state: TrainingState, log: RunLog, run: Run) -> None:
    """Write the log and a checkpoint, from which nobody shall go on with weights that are not finite."""
    _check_finite(state.model, run)
    state.log = log.text()
    on_first(log.save)
    on_first(state.save)


def _check_finite(model: nn.Module, run: Run) -> None:
    """The last update is not seen by any loss; look at what it left."""
    if not all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values()):
        raise NotFiniteError(
            "the weights are not finite any more",
            where=run.folder,
            fix="lower lr, set clip, or use precision 32-true; then run again with --restart",
        )


def _step(state: TrainingState, settings: Training, batch: Batch, run: Run) -> Tensor:
    """One update of the network, then of what the terms own. Returns the values, on the device, unread."""
    fabric, objective = state.fabric, state.objective
    torch.manual_seed(mix(run.seed, run.stage, "network", state.step, world().rank))
    generator = torch.Generator(fabric.device)
    generator.manual_seed(mix(run.seed, run.stage, "augment", state.step, 0))  # of the whole batch
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
    """The only place where the host reads the device: one transfer for all steps since the last."""
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
    """Image, entropy and prediction of a few images into TensorBoard."""
    if not world().first:
        return
    image = _images(batch)[:4].to(fabric.device)
    training = model.training
    model.eval()
    log.images(step, image, model(image), run.photos)
    model.train(training)


def _images(batch: Batch) -> Tensor:
    """Images of a batch, of the target where it has some."""
    if batch.target is not None:
        return batch.target.image
    if batch.source is not None:
        return batch.source.image
    raise RunError("a batch without images")


def _ahead(batches: Batches, first: int, last: int) -> Generator[Batch]:
    """Batches in order, the next one assembled by a second thread while the device works."""
    if first >= last:
        return
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        future = pool.submit(batches, first)
        for step in range(first, last):
            batch = future.result()
            if step + 1 < last:
                future = pool.submit(batches, step + 1)
            yield batch
