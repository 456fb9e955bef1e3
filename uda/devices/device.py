"""The devices and precision of a run, and arithmetic that repeats itself bit for bit."""

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
from uda.devices.distributed import ALONE, World, world
from uda.errors import ConfigError, RunError

_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
    else "broadcast_buffers"
)
"""DDP's word for sending the first process's buffers before each pass; newer torch has another."""


def make_fabric(compute: Compute, alone: bool = False) -> Fabric:
    """The device and precision of a run, and how its processes keep one network.

    Args:
        alone: this process's work is its own, though there may be others.

    Raises:
        ConfigError: the device asked for is not there, or not as many processes as asked for.
    """
    device = _device_of(compute)
    here = ALONE if alone else world()
    if here.size == 1:
        return Fabric(accelerator=device, devices=1, precision=compute.precision)
    if device == "mps":
        raise ConfigError(
            f"{here.size} processes were started, and device 'mps' serves one",
            fix="start one process, or use --device cpu",
        )
    # Statistics are made of the whole batch and so the same everywhere.
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
    """Refuse to do in one process what was asked of several.

    Raises:
        ConfigError: ``devices`` and ``num_nodes`` ask for processes that nobody started, or there are others.
    """
    here = world()
    if compute.devices == "auto":
        return
    asked = compute.devices * compute.num_nodes
    if asked in (1, here.size):
        return
    start = f"torchrun --nproc-per-node {compute.devices} -m uda run …"
    if compute.num_nodes > 1:
        start = f"torchrun --nnodes {compute.num_nodes} " + start.removeprefix("torchrun ")
    raise ConfigError(
        f"{asked} processes were asked for ({compute.num_nodes} × {compute.devices}), and there "
        f"{'is 1' if here.size == 1 else f'are {here.size}'}",
        where="compute.devices, compute.num_nodes",
        expected="a launcher that starts them",
        fix=f"start it with `{start}` or with srun under SLURM; "
        "or leave both settings out and take what is there",
    )


@contextlib.contextmanager
def memory_for(work: str, training: bool = False) -> Iterator[None]:
    """Say what to change where the memory does not suffice for what runs inside.

    Args:
        work: the stage, or what else it is.

    Raises:
        RunError: the device or the machine has no memory left.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _no_memory(error):
            raise
        device = "the machine" if isinstance(error, MemoryError) else "the device"
        told = (str(error).strip().splitlines() or [""])[0]
        raise RunError(
            f"{device} ran out of memory in {work}{told and ': '}{told}",
            where=work,
            fix=(
                "lower batch, network.patch or the size of the images, or set "
                "compute.precision=bf16-mixed; what is saved stays, and where there is more memory "
                "the same command goes on from it"
                if training
                else "use smaller images or network.patch, compute.precision=bf16-mixed or "
                "--device cpu; what is complete stays"
            ),
        ) from error


def _no_memory(error: Exception) -> bool:
    """Not every allocator has an error of its own."""
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
            f"device {device!r} was asked for, but this machine or this torch build has none",
            expected=", ".join(name for name, there in present.items() if there),
            fix="use --device auto",
        )
    return device


def _place(device: str, local_rank: int) -> torch.device:
    """The device of a process; under SLURM each may see its own alone.

    Raises:
        ConfigError: there are more processes than devices.
    """
    if device == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if local_rank >= count and count != 1:
        raise ConfigError(
            f"process {local_rank} of this machine has no GPU of its own; there are {count}",
            fix=f"start {count} processes a machine: torchrun --nproc-per-node {count} …",
        )
    return torch.device("cuda", min(local_rank, count - 1))


class _Joined(ClusterEnvironment):
    """What :mod:`uda.devices.distributed` knows, in Fabric's words: the processes are there and have met."""

    def __init__(self, here: World) -> None:
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
        """Nothing to do: it is known."""

    def global_rank(self) -> int:
        return self.here.rank

    def set_global_rank(self, rank: int) -> None:
        """Nothing to do: it is known."""

    def local_rank(self) -> int:
        return self.here.local_rank

    def node_rank(self) -> int:
        return 0


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Only kernels that give the same bits on the same machine; settings and random state return afterwards."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    memory.fill_uninitialized_memory = False  # a debugging aid that costs a pass over each buffer
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark
        memory.fill_uninitialized_memory = fill
