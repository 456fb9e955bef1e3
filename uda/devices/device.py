"""Device, precision and distributed strategy of a run; deterministic kernels; out-of-memory errors."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Iterator
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from uda.config.recipe import Compute
from uda.devices.distributed import ALONE, Process, this_process
from uda.errors import ConfigError, RunError

_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
    else "broadcast_buffers"
)
"""DDP's argument that broadcasts rank 0's buffers before each forward pass; newer torch renamed it."""


def make_fabric(compute: Compute, alone: bool = False) -> Fabric:
    """Fabric with the run's device and precision, and DDP if there are several processes.

    Args:
        alone: this process works without the others.

    Raises:
        ConfigError: the device is not available, a process has no GPU, or ``mps`` has several processes.
    """
    device = _device_of(compute)
    here = ALONE if alone else this_process()
    for name in [name for name in os.environ if name.startswith("LT_")]:
        del os.environ[name]  # of `fabric run`; they would replace the arguments of Fabric
    if here.size == 1:  # Fabric must not ask the environment, whose launcher started something else
        own = _Joined(here)
        return Fabric(accelerator=device, devices=1, precision=compute.precision, plugins=own)
    if device == "mps":
        raise ConfigError(
            f"{here.size} processes were started, but device 'mps' supports one",
            fix="start one process, or use --device cpu",
        )
    # Every process computes BatchNorm statistics of the whole batch, so the buffers are equal.
    buffers: dict[str, Any] = {_BUFFERS: False}
    strategy = DDPStrategy(
        parallel_devices=[_place(device, rank) for rank in range(here.local_rank + 1)],
        cluster_environment=_Joined(here),
        **buffers,
    )
    fabric = Fabric(accelerator=device, strategy=strategy, precision=compute.precision)
    fabric.launch()
    return fabric


def check_processes(compute: Compute) -> None:
    """Refuse a run that asks for another number of processes than runs.

    Raises:
        ConfigError: ``devices`` × ``num_nodes`` is neither 1 nor the number of processes.
    """
    here = this_process()
    if compute.devices == "auto":
        return
    asked = compute.devices * compute.num_nodes
    if asked in (1, here.size):
        return
    start = f"torchrun --nproc-per-node {compute.devices} -m uda run …"
    if compute.num_nodes > 1:
        start = f"torchrun --nnodes {compute.num_nodes} " + start.removeprefix("torchrun ")
    raise ConfigError(
        f"{asked} processes were requested ({compute.num_nodes} × {compute.devices}), but "
        f"{'1 runs' if here.size == 1 else f'{here.size} run'}",
        where="compute.devices, compute.num_nodes",
        expected="a launcher that starts them",
        fix=f"start the run with `{start}`, or with srun under SLURM; "
        "or leave both settings out to use the processes that run",
    )


@contextlib.contextmanager
def memory_for(work: str, training: bool = False) -> Iterator[None]:
    """Turn an out-of-memory error of the block into a :class:`RunError` that says what to change.

    Args:
        work: name of the stage or task, for the message.
        training: suggest what to change in a training.

    Raises:
        RunError: the device or the machine has no memory left.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        device = "the machine" if isinstance(error, MemoryError) else "the device"
        detail = (str(error).strip().splitlines() or [""])[0]
        raise RunError(
            f"{device} ran out of memory in {work}{detail and ': '}{detail}",
            where=work,
            fix=(
                "lower batch, network.patch or the image size, or set "
                "compute.precision=bf16-mixed; checkpoints stay, and the same command resumes from "
                "them where there is more memory"
                if training
                else "use smaller images or network.patch, compute.precision=bf16-mixed or "
                "--device cpu; complete results stay"
            ),
        ) from error


def _out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory is exhausted; not every allocator has its own error type."""
    signs = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        sign in str(error).lower() for sign in signs
    )


def _device_of(compute: Compute) -> str:
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    device: str = compute.device
    if device == "auto":
        device = "cuda" if present["cuda"] else "mps" if present["mps"] else "cpu"
    if not present[device]:
        raise ConfigError(
            f"device {device!r} was requested, but this machine or this torch build has none",
            expected=", ".join(name for name, available in present.items() if available),
            fix="use --device auto",
        )
    return device


def _place(device: str, local_rank: int) -> torch.device:
    """Device of a local rank; under SLURM a process may see only its own GPU.

    Raises:
        ConfigError: the machine runs more processes than it has GPUs.
    """
    if device == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if local_rank >= count and count != 1:
        raise ConfigError(
            f"local rank {local_rank} has no GPU; this machine has {count}",
            fix=f"start {count} processes per machine: torchrun --nproc-per-node {count} …",
        )
    return torch.device("cuda", min(local_rank, count - 1))


class _Joined(ClusterEnvironment):
    """Gives Fabric the ranks of processes that a launcher started and :mod:`uda.devices.distributed` connected."""

    def __init__(self, here: Process) -> None:
        super().__init__()
        self.here = here

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return os.environ.get("MASTER_ADDR", "")

    @property
    def main_port(self) -> int:
        return int(os.environ.get("MASTER_PORT", "0"))

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.here.size

    def set_world_size(self, size: int) -> None:
        """Do nothing; the launcher sets it."""

    def global_rank(self) -> int:
        return self.here.rank

    def set_global_rank(self, rank: int) -> None:
        """Do nothing; the launcher sets it."""

    def local_rank(self) -> int:
        return self.here.local_rank

    def node_rank(self) -> int:
        return 0


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Allow only kernels that repeat bit for bit; restore settings and random state afterwards."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    memory.fill_uninitialized_memory = False  # for debugging only; costs a pass over each buffer
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark
        memory.fill_uninitialized_memory = fill
