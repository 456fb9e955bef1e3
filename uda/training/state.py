"""State of a training at a step, and its last two checkpoints on disk."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from uda.config.recipe import Training
from uda.devices.distributed import this_process
from uda.errors import ModelError
from uda.files.atomic import (
    CHECKSUM,
    grouped,
    load_optimizer,
    load_tensors,
    optimizer_tensors,
    prefixed,
    save_tensors,
)
from uda.networks.ema import ema_update, frozen_copy
from uda.training.logs import say
from uda.training.objective import Objective

RESUME_FILE = "resume.safetensors"
OLDER_FILE = "resume.older.safetensors"
_RESTART = "start the stage again with --restart"


def forget_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a finished training."""
    for name in (OLDER_FILE, RESUME_FILE):
        (folder / name).unlink(missing_ok=True)


class TrainingState:
    """Weights and buffers, their moving average, the optimiser, the terms' state, the step and the log.

    It starts from the latest checkpoint in the folder whose checksum is right, if there is any.

    Raises:
        ModelError: no checkpoint in the folder is valid, or one is of another stage.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: Training,
        objective: Objective,
        folder: Path,
    ) -> None:
        self.fabric, self.objective, self.folder, self.step = fabric, objective, folder, 0
        self.log = ""
        """rows of ``metrics.csv`` up to this step"""
        self.pending: list[Tensor] = []
        """losses since the last row, on the device"""
        self.forward, self.optimizer = fabric.setup(model, optimizer)
        self.model: nn.Module = self.forward.module
        self.ema = frozen_copy(self.model) if settings.ema else None
        objective.setup(fabric, self.model)
        self._resume()

    @property
    def kept(self) -> nn.Module:
        """The model that a stage saves."""
        return self.model if self.ema is None else self.ema

    def average(self, decay: float) -> None:
        """average ← decay · average + (1 − decay) · weights; after the first step a copy."""
        if self.ema is not None:
            ema_update(self.ema, self.model, 1 - decay if self.step > 1 else 1.0)

    def save(self) -> None:
        """Write a checkpoint and keep the one before it as the older one."""
        tensors = prefixed("model", self.model.state_dict())
        if self.ema is not None:
            tensors |= prefixed("ema", self.ema.state_dict())
        tensors |= prefixed("optimizer", optimizer_tensors(self.optimizer))
        tensors |= prefixed("objective", self.objective.state())
        if self.pending:
            tensors["pending.losses"] = torch.stack(self.pending)
        precision = json.dumps(self.fabric.strategy.precision.state_dict())
        metadata = {"step": str(self.step), "precision": precision, "log": self.log}
        save_tensors(self.folder / RESUME_FILE, tensors, metadata, keep=self.folder / OLDER_FILE)

    def _resume(self) -> None:
        faults = []
        for path in (self.folder / RESUME_FILE, self.folder / OLDER_FILE):
            if not path.is_file():
                continue
            try:
                tensors, metadata = _verified(path)
            except ModelError as error:
                faults.append(error)
                continue
            self._load(path, tensors, metadata)
            for fault in faults if this_process().first else ():
                say(f"{fault.where} {fault.what}; going on from {path.name}, step {self.step}")
            return
        if faults:
            raise ModelError(
                "; ".join(f"{Path(str(f.where)).name} {f.what}" for f in faults),
                where=self.folder,
                expected="an undamaged checkpoint of this stage",
                fix=_RESTART,
            )

    def _load(self, path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        try:
            groups = grouped(tensors)
            self.model.load_state_dict(groups["model"])
            if self.ema is not None:
                self.ema.load_state_dict(groups["ema"])
            load_optimizer(self.optimizer, groups.get("optimizer", {}))
            self.objective.load(groups.get("objective", {}))
            self.fabric.strategy.precision.load_state_dict(json.loads(metadata["precision"]))
            self.step, self.log = int(metadata["step"]), metadata["log"]
        except (KeyError, ValueError, IndexError, RuntimeError) as error:
            raise ModelError(
                f"is not a checkpoint of this stage: {error}", where=path, fix=_RESTART
            ) from error
        losses = groups.get("pending", {}).get("losses")
        self.pending = [] if losses is None else list(losses.to(self.fabric.device))


def _verified(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors, metadata = load_tensors(path)
    if CHECKSUM not in metadata:
        raise ModelError("is not a checkpoint of this stage: it has no checksum", where=path)
    return tensors, metadata
