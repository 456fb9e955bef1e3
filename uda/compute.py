"""The device and precision of a run, and arithmetic that repeats itself bit for bit."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from lightning_fabric import Fabric

from uda.config import Compute
from uda.errors import ConfigError


def make_fabric(compute: Compute) -> Fabric:
    """The device and precision of a run.

    Raises:
        ConfigError: the device asked for is not there.
    """
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    device = compute.device
    if device == "auto":
        device = "cuda" if present["cuda"] else "mps" if present["mps"] else "cpu"
    if not present[device]:
        raise ConfigError(
            f"device {device!r} was asked for, but this machine or this torch build has none",
            expected=", ".join(name for name, there in present.items() if there),
            fix="use --device auto",
        )
    return Fabric(accelerator=device, devices=1, precision=compute.precision)


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
