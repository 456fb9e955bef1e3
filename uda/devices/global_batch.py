"""The batch of all processes: what each of them sees of the objective.

A network runs on a process's own rows, everything after it on all rows, so that a loss is that of the whole
batch and no term knows of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from uda.devices.distributed import together, world
from uda.errors import ConfigError
from uda.types import Batch, Heads, SourceBatch, TargetBatch


def rows_of(batch: int, where: str = "batch") -> slice:
    """Which rows of a batch are this process's.

    Args:
        where: the setting that says how large it is.

    Raises:
        ConfigError: the processes cannot share it evenly.
    """
    here = world()
    if batch % here.size:
        raise ConfigError(
            f"a batch of {batch} cannot be shared evenly by {here.size} processes",
            where=where,
            expected=f"a multiple of {here.size}; batch counts the images of all processes",
            fix=f"set {where}={here.size * max(1, round(batch / here.size))}, "
            "or start another number of processes",
        )
    own = batch // here.size
    return slice(here.rank * own, (here.rank + 1) * own)


def own_rows(batch: Batch) -> Batch:
    """This process's rows of everybody's batch."""
    source, target = batch.source, batch.target
    if source is not None:
        own = rows_of(len(source.image))
        source = SourceBatch(source.image[own], source.label[own])
    if target is not None:
        own = rows_of(len(target.image))
        target = TargetBatch(target.image[own], target.index[own])
    return Batch(source, target)


def gathered(batch: Batch) -> Batch:
    """Everybody's rows of a batch, in the order in which one process would see them."""
    source, target = batch.source, batch.target
    if source is not None:
        source = SourceBatch(all_rows(source.image), all_rows(source.label))
    if target is not None:
        target = TargetBatch(all_rows(target.image), all_rows(target.index))
    return Batch(source, target)


def all_rows(tensor: Tensor) -> Tensor:
    """Everybody's rows ``[w·b, …]`` of a tensor ``[b, …]``; a gradient flows back, see :func:`all_outputs`."""
    if world().size == 1:
        return tensor
    if not tensor.requires_grad:
        return _gather(tensor)
    gathered: Tensor = _AllRows.apply(tensor)
    return gathered


def all_outputs(outputs: Sequence[Heads | None]) -> list[Heads | None]:
    """Everybody's rows of what a step's passes through the network gave; None where it was not run.

    They are gathered as one: an output that no loss reads gets a gradient of zeros, and DDP, which waits for
    every parameter, need not know of it. The gradient of a row is multiplied by the number of processes, by
    which DDP divides.
    """
    if world().size == 1:
        return list(outputs)
    tensors = [t for heads in outputs if heads is not None for t in _heads(heads)]
    found = _AllRows.apply(*tensors)
    rows = iter(_heads(found))
    return [_taken(heads, rows) for heads in outputs]


def _heads(heads: Heads | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return heads if isinstance(heads, tuple) else (heads,)


def _taken(like: Heads | None, rows: Iterator[Tensor]) -> Heads | None:
    if like is None:
        return None
    return (next(rows), next(rows)) if isinstance(like, tuple) else next(rows)


class _AllRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        ctx.rows = [len(tensor) for tensor in tensors]
        gathered = tuple(_gather(tensor) for tensor in tensors)
        return gathered if len(gathered) > 1 else gathered[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        here = world()
        return tuple(
            here.size * gradient[here.rank * own : (here.rank + 1) * own]
            for gradient, own in zip(gradients, ctx.rows, strict=True)
        )


def _gather(tensor: Tensor) -> Tensor:
    """As bytes, since not every backend moves every type; in the layout that the tensor has."""
    from torch import distributed

    last = tensor.dim() > 2 and not tensor.is_contiguous()  # channels last, perhaps
    rows = tensor.detach()
    rows = (rows.movedim(1, -1) if last else rows).contiguous()
    size = world().size
    everything = rows.new_empty((size * len(rows), *rows.shape[1:]))
    parts = [part.view(torch.uint8) for part in everything.chunk(size)]
    with together():
        distributed.all_gather(parts, rows.view(torch.uint8))
    return everything.movedim(-1, 1) if last else everything
