"""Versions and hardware that a result depends on beside its recipe."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import monai
import torch

from uda import __version__
from uda.config.recipe import Compute
from uda.devices.device import make_fabric


def environment(compute: Compute) -> dict[str, Any]:
    """Versions of packages, device, processor, and numbers of cores and threads."""
    device = make_fabric(compute).device
    return {
        "uda": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "monai": monai.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
