"""The global batch: the rows that each process runs, and tensors gathered from all processes.

The network runs on a process's own rows and the objective on all rows. So a loss is that of the whole batch,
and no term handles processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from uda.devices.distributed import this_process, together
from uda.errors import ConfigError
from uda.types import Batch, Heads, SourceBatch, TargetBatch


def rows_of(batch: int, where: str = "batch") -> slice:
    """This process's rows of a global batch of ``batch`` rows.

    Args:
        where: the setting that holds the batch size.

    Raises:
        ConfigError: the batch size is not a multiple of the number of processes.
    """
    here = this_process()
    if batch % here.size:
        raise ConfigError(
            f"a batch of {batch} cannot be shared evenly by {here.size} processes",
            where=where,
            expected=f"a multiple of {here.size}; batch counts the images of all processes",
            fix=f"set {where}={here.size * max(1, round(batch / here.size))}, "
            "or start a different number of processes",
        )
    own = batch // here.size
    return slice(here.rank * own, (here.rank + 1) * own)


def own_rows(batch: Batch) -> Batch:
    """This process's rows of a global batch."""
    source, target = batch.source, batch.target
    if source is not None:
        own = rows_of(len(source.image))
        source = SourceBatch(source.image[own], source.label[own])
    if target is not None:
        own = rows_of(len(target.image))
        target = TargetBatch(target.image[own], target.index[own])
    return Batch(source, target)  # no network reads an annotation


def gathered(batch: Batch) -> Batch:
    """All processes' rows of a batch, in the order of a single process."""
    source, target = batch.source, batch.target
    if source is not None:
        source = SourceBatch(all_rows(source.image), all_rows(source.label))
    if target is not None:
        target = TargetBatch(all_rows(target.image), all_rows(target.index))
    return Batch(source, target, batch.annotation and batch.annotation.mapped(all_rows))


def all_rows(tensor: Tensor) -> Tensor:
    """All processes' rows ``[w·b, …]`` of a tensor ``[b, …]``; for its gradient see :func:`all_outputs`."""
    if this_process().size == 1:
        return tensor
    if not tensor.requires_grad:
        return _gather(tensor)
    gathered: Tensor = _AllRows.apply(tensor)
    return gathered


def all_outputs(outputs: Sequence[Heads | None]) -> list[Heads | None]:
    """All processes' rows of the network outputs of a step; None, a pass that was not run, stays None.

    One autograd function gathers all outputs, so an output that no loss reads gets a zero gradient and DDP
    does not wait for its parameters in vain. The gradient of a row is multiplied by the number of processes,
    because DDP divides by it.
    """
    if this_process().size == 1:
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
        here = this_process()
        return tuple(
            here.size * gradient[here.rank * own : (here.rank + 1) * own]
            for gradient, own in zip(gradients, ctx.rows, strict=True)
        )


def _gather(tensor: Tensor) -> Tensor:
    """Gather rows as bytes, since not every backend supports every dtype; keep the memory layout."""
    from torch import distributed

    last = tensor.dim() > 2 and not tensor.is_contiguous()  # channels last, perhaps
    rows = tensor.detach()
    rows = (rows.movedim(1, -1) if last else rows).contiguous()
    size = this_process().size
    everything = rows.new_empty((size * len(rows), *rows.shape[1:]))
    parts = [part.view(torch.uint8) for part in everything.chunk(size)]
    with together():
        distributed.all_gather(parts, rows.view(torch.uint8))
    return everything.movedim(-1, 1) if last else everything
