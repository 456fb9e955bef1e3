"""The processes that share a run: who this one is, and how they agree.

`torchrun` or SLURM starts the same command several times. What the network's batches need goes through the
default process group (gloo, on CUDA devices NCCL); what the processes have to tell each other otherwise goes
through a gloo group of its own, because the first process may be busy for hours while the others wait.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from uda.errors import RunError, UdaError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")

PATIENCE = timedelta(days=1)
"""how long a process waits for what the first one does alone"""
ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""what torchrun tells each process"""


@dataclass(frozen=True)
class World:
    """One process among those of a run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """among the processes of its machine"""

    @property
    def first(self) -> bool:
        """Whether it is the one that writes, prints and logs."""
        return self.rank == 0


ALONE = World()
_alone: ContextVar[bool] = ContextVar("alone", default=False)
_repeated: list[BaseException] = []


def world() -> World:
    """This process among those that share the run; of one process, and inside :func:`on_first`, ``ALONE``.

    The first call joins the others.
    """
    return ALONE if _alone.get() else _joined()[0]


@functools.cache
def _joined() -> tuple[World, Any]:
    """This process, and the group through which the processes talk about everything but tensors."""
    here = launched()
    if here.size == 1:
        return ALONE, None
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        cuda = torch.cuda.is_available() and distributed.is_nccl_available()
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        distributed.init_process_group(backend, rank=here.rank, world_size=here.size)
        atexit.register(_leave)
    return here, distributed.new_group(backend="gloo", timeout=PATIENCE)


def _leave() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def launched() -> World:
    """What the launcher says of this process: torchrun, `srun` with several tasks, or nobody.

    An allocation of several tasks without `srun` starts one process, and is taken as such.
    """
    told = os.environ
    if all(name in told for name in ENVIRONMENT):
        return World(int(told["RANK"]), int(told["WORLD_SIZE"]), int(told["LOCAL_RANK"]))
    size = int(told.get("SLURM_STEP_NUM_TASKS", "1"))
    if size == 1:
        return ALONE
    _meet_in_slurm()
    return World(int(told["SLURM_PROCID"]), size, int(told["SLURM_LOCALID"]))


def _meet_in_slurm() -> None:
    """Where the tasks of a SLURM step find the first one: on its first node, at a port of the job's own."""
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

    told = os.environ
    nodes = told.get("SLURM_STEP_NODELIST", told.get("SLURM_NODELIST", "127.0.0.1"))
    told.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes))
    told.setdefault("MASTER_PORT", str(15000 + int(told.get("SLURM_JOB_ID", "0")) % 10000))


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Say that another process ended, where the work fails because of it.

    Raises:
        RunError: the connection to another process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        signs = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")
        if world().size == 1 or not any(sign in str(error).lower() for sign in signs):
            raise
        raise RunError(
            f"another process of this run ended, and process {world().rank} of {world().size} "
            "cannot go on without it",
            fix="see what the other one said; the same command goes on from the last checkpoint",
        ) from error


def on_first(work: Callable[[], T]) -> T:
    """What ``work`` returns on the first process, which alone does it; the others wait for it.

    Inside ``work`` the first process is :data:`ALONE`. Everything that one process alone should do goes
    through here, because what is called in there may itself want to ask the others.

    Args:
        work: returns something small that can be sent.

    Raises:
        UdaError: the first process's own, on every process; of any other exception the others get a RunError.
    """
    here = world()
    if here.size == 1:
        return work()
    if not here.first:
        value, failure = _broadcast(None)
        if failure is not None:
            _repeat(failure)
        told: T = value
        return told
    try:
        with _by_itself():
            done = work()
    except Exception as error:
        _broadcast((None, error if isinstance(error, UdaError) else _failed(error)))
        raise
    _broadcast((done, None))
    return done


def first_then_all(work: Callable[[], T]) -> T:
    """What ``work`` returns on each process, after the first has done it: it makes files, the others find them.

    Inside ``work`` every process is :data:`ALONE`.
    """
    made: list[T] = []
    on_first(lambda: made.append(work()))
    with _by_itself():
        return made[0] if made else work()


@contextlib.contextmanager
def _by_itself() -> Iterator[None]:
    """Whoever asks meanwhile is told that there is one process."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def _failed(error: Exception) -> RunError:
    return RunError(f"the first process failed with {type(error).__name__}: {error}")


def _repeat(error: UdaError) -> NoReturn:
    _repeated[:] = [error]
    raise error


def repeated(error: BaseException) -> bool:
    """Whether another process has said this already."""
    return any(error is known for known in _repeated)


def _broadcast(value: Any) -> Any:
    """The first process's value, on all."""
    from torch import distributed

    held = [value]
    with together():
        distributed.broadcast_object_list(held, src=0, group=_joined()[1])
    return held[0]


def gather_objects(value: T) -> list[T]:
    """Every process's value in the order of their ranks, on all; nobody goes on before all have given theirs."""
    if world().size == 1:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * world().size
    with together():
        distributed.all_gather_object(values, value, group=_joined()[1])
    return values


def sum_arrays(own: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum of every process's array, on all."""
    return functools.reduce(lambda total, part: total + part, gather_objects(own))


def any_of(here: bool) -> bool:
    """Whether it is so on any process; all get the same answer."""
    if world().size == 1:
        return here
    import torch
    from torch import distributed

    count = torch.tensor([int(here)])
    with together():
        distributed.all_reduce(count, group=_joined()[1])
    return bool(count)


def check_same_place(folder: Path, step: int) -> None:
    """Refuse to go on where the processes found different checkpoints.

    Raises:
        RunError: the run's folder is not the same one for all.
    """
    steps = gather_objects(step)
    if len(set(steps)) > 1:
        raise RunError(
            f"the processes would go on from different steps: {steps}",
            where=folder,
            expected="one folder that all of them see",
            fix="put --out on a disk that all machines share",
        )


def share(count: int, here: World) -> range:
    """Which of ``count`` things a process works on: every one belongs to exactly one process."""
    return range(here.rank, count, here.size)


def gather_shares(own: Sequence[T], count: int) -> list[T]:
    """What all processes made of their :func:`share`, in the order of one process; the first gets it, the others [].

    Only the first process needs to hold all of it, so it may be large.
    """
    here = world()
    if here.size == 1:
        return list(own)
    from torch import distributed

    parts: list[Any] | None = [None] * here.size if here.first else None
    with together():
        distributed.gather_object(list(own), parts, dst=0, group=_joined()[1])
    if parts is None:
        return []
    return [parts[number % here.size][number // here.size] for number in range(count)]
