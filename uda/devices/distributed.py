"""Ranks of a distributed run, and the exchange of Python objects between its processes.

`torchrun` or SLURM starts the same command several times. Tensors of a training step go through the default
process group (gloo; NCCL on CUDA devices). Everything else goes through a second gloo group with a long
timeout, because rank 0 may work for hours while the others wait.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from uda.errors import ConfigError, RunError, UdaError, one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")

PATIENCE = timedelta(days=1)
"""Longest wait for work that the first process does alone."""
JOIN = timedelta(minutes=10)
"""Longest wait until all processes have started."""
NOTICE = 15
"""Seconds after which a process says that it waits for the others to start."""
ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that torchrun sets."""
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Environment variables that lightning-fabric reads as numbers."""


@dataclass(frozen=True)
class Process:
    """Rank of one process and world size of its run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Rank on its machine."""

    @property
    def first(self) -> bool:
        """Whether this process writes, prints and logs: rank 0."""
        return self.rank == 0


ALONE = Process()
_alone: ContextVar[bool] = ContextVar("alone", default=False)
_repeated: list[BaseException] = []


def this_process() -> Process:
    """Rank and world size of this process; ``ALONE`` in a run of one process and inside :func:`on_first`.

    The first call joins the process group.
    """
    return ALONE if _alone.get() else _joined()[0]


@functools.cache
def _joined() -> tuple[Process, Any]:
    """Rank and world size of this process, and the gloo group for everything but a step's tensors."""
    here = launched()
    if here.size == 1:
        return ALONE, None
    import torch
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    waits = f"process {here.rank} of {here.size} waits for the others (RANK, WORLD_SIZE or srun)\n"
    notice = threading.Timer(NOTICE, sys.stderr.write, [waits])
    notice.daemon = True
    notice.start()
    try:
        if not distributed.is_initialized():
            cuda = torch.cuda.is_available() and distributed.is_nccl_available()
            backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
            place = f"env://?rank={here.rank}&world_size={here.size}"
            store = next(rendezvous(place, timeout=JOIN))[0]
            distributed.init_process_group(
                backend, store=store, rank=here.rank, world_size=here.size
            )
            atexit.register(_leave)
        return here, distributed.new_group(backend="gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:  # torch has several, also for a bad address
        raise RunError(
            f"process {here.rank} of {here.size} did not meet the others: {str(error).splitlines()[0]}",
            where=f"MASTER_ADDR={os.environ.get('MASTER_ADDR')}, MASTER_PORT={os.environ.get('MASTER_PORT')}",
            expected=f"{here.size} processes within {JOIN.seconds // 60} minutes",
            fix="start them with torchrun or srun; to work alone, unset " + ", ".join(ENVIRONMENT),
        ) from error
    finally:
        notice.cancel()


def _leave() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def launched() -> Process:
    """Ranks from the environment that torchrun or `srun` set; ``ALONE`` without a launcher.

    The five variables of :data:`ENVIRONMENT` together mean that several processes were started, by torchrun or by
    hand; some of them do not. Of SLURM only a step counts: an allocation of several tasks without `srun` starts one
    process, and so does a person in the terminal of `srun --pty`. Other launchers start processes that work alone.

    Raises:
        ConfigError: a variable is no whole number, or a rank is not below the number of processes.
    """
    env = os.environ
    for name in _RANKS:
        if name in env and not env[name].strip():
            del env[name]  # lightning-fabric reads it when it is imported
        elif name in env:
            _number(name)
    if all(env.get(name) for name in ENVIRONMENT):
        if _number("WORLD_SIZE") > 1:
            _number("MASTER_PORT")
        return _process("RANK", "WORLD_SIZE", "LOCAL_RANK")
    names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    if not all(env.get(name) for name in names) or _in_terminal():
        return ALONE
    here = _process(*names)
    if here.size > 1:
        _set_slurm_address()
    return here


def _process(rank: str, size: str, local_rank: str) -> Process:
    here = Process(_number(rank), _number(size), _number(local_rank))
    if here.size == 1:
        return ALONE
    if not here.local_rank <= here.rank < here.size:
        raise ConfigError(
            f"{rank} is {here.rank}, {local_rank} is {here.local_rank}, and {size} is {here.size}",
            where="the environment",
            expected=f"{local_rank} ≤ {rank} < {size}",
            fix="start the processes with torchrun or srun, or unset these variables to work alone",
        )
    return here


def _number(name: str) -> int:
    text = os.environ[name].strip()
    if re.fullmatch("[0-9]{1,9}", text) is None:
        raise ConfigError(
            f"{name} is {text[:60]!r}",
            where="the environment",
            expected="a whole number, as torchrun and srun set it",
            fix=f"unset {name}, or start the processes with torchrun or srun",
        )
    return int(text)


def _in_terminal() -> bool:
    """Whether the process was started in a terminal, not by `srun` itself, whose tasks have pipes."""
    return os.environ.get("SLURM_TASK_PID") != str(os.getpid()) and any(map(os.isatty, range(3)))


def _set_slurm_address() -> None:
    """Set the address of a SLURM step's rank 0: its first node, and a port computed from the job's id."""
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

    env = os.environ
    nodes = env.get("SLURM_STEP_NODELIST", env.get("SLURM_NODELIST", "127.0.0.1"))
    env.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes))
    env.setdefault("MASTER_PORT", str(15000 + int(env.get("SLURM_JOB_ID", "0")) % 10000))


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Turn a lost connection to another process into a :class:`RunError`.

    Raises:
        RunError: the connection to another process is lost.
    """
    try:
        yield
    except RuntimeError as error:
        signs = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")
        if this_process().size == 1 or not any(sign in str(error).lower() for sign in signs):
            raise
        raise RunError(
            f"another process of this run ended, and process {this_process().rank} of {this_process().size} "
            "cannot go on without it",
            fix="read the other process's error; the same command resumes from the last checkpoint",
        ) from error


def on_first(work: Callable[[], T]) -> T:
    """Call ``work`` on the first process alone and return its result on all processes; the others wait.

    Inside ``work`` the first process is :data:`ALONE`, so functions that ``work`` calls do not wait for
    the other processes.

    Args:
        work: returns a small object that can be pickled.

    Raises:
        UdaError: the first process's own, on every process; any other exception reaches the others as a RunError.
    """
    here = this_process()
    if here.size == 1:
        return work()
    if not here.first:
        value, failure = _broadcast(None)
        if failure is not None:
            _repeat(failure)
        result: T = value
        return result
    try:
        with _by_itself():
            done = work()
    except Exception as error:
        _broadcast((None, error if isinstance(error, UdaError) else _failed(error)))
        raise
    _broadcast((done, None))
    return done


def first_then_all(work: Callable[[], T]) -> T:
    """Call ``work`` on the first process, then on the others, which find the files that it made.

    Inside ``work`` every process is :data:`ALONE`.
    """
    made: list[T] = []
    on_first(lambda: made.append(work()))
    with _by_itself():
        return made[0] if made else work()


@contextlib.contextmanager
def _by_itself() -> Iterator[None]:
    """Inside the block :func:`this_process` returns :data:`ALONE`."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def _failed(error: Exception) -> RunError:
    return RunError(f"the first process failed with {type(error).__name__}: {one_line(str(error))}")


def _repeat(error: UdaError) -> NoReturn:
    _repeated[:] = [error]
    raise error


def repeated(error: BaseException) -> bool:
    """Whether ``error`` came from the first process, which has reported it already."""
    return any(error is one for one in _repeated)


def _broadcast(value: Any) -> Any:
    """The first process's value, on all processes."""
    from torch import distributed

    held = [value]
    with together():
        distributed.broadcast_object_list(held, src=0, group=_joined()[1])
    return held[0]


def gather_objects(value: T) -> list[T]:
    """Every process's value in rank order, on all processes; each waits for all the others."""
    if this_process().size == 1:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * this_process().size
    with together():
        distributed.all_gather_object(values, value, group=_joined()[1])
    return values


def sum_arrays(own: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum of all processes' arrays, on all processes."""
    return functools.reduce(lambda total, part: total + part, gather_objects(own))


def any_of(here: bool) -> bool:
    """Whether ``here`` is true on any process; all get the same answer."""
    if this_process().size == 1:
        return here
    import torch
    from torch import distributed

    count = torch.tensor([int(here)])
    with together():
        distributed.all_reduce(count, group=_joined()[1])
    return bool(count)


def check_same_place(folder: Path, step: int) -> None:
    """Refuse to resume if the processes found checkpoints of different steps.

    Raises:
        RunError: the steps differ, so the processes do not share the run's folder.
    """
    steps = gather_objects(step)
    if len(set(steps)) > 1:
        raise RunError(
            f"the processes would resume from different steps: {steps}",
            where=folder,
            expected="one folder that all processes share",
            fix="put --out on a disk that all machines share",
        )


def share(count: int, here: Process) -> range:
    """Indices of the ``count`` items that a process works on; each item belongs to exactly one process."""
    return range(here.rank, count, here.size)


def gather_shares(own: Sequence[T], count: int) -> list[T]:
    """Results of all processes' :func:`share` in the order of the items, on the first process; [] on the others.

    Only the first process holds all results, so they may be large.
    """
    here = this_process()
    if here.size == 1:
        return list(own)
    from torch import distributed

    parts: list[Any] | None = [None] * here.size if here.first else None
    with together():
        distributed.gather_object(list(own), parts, dst=0, group=_joined()[1])
    if parts is None:
        return []
    return [parts[number % here.size][number // here.size] for number in range(count)]
