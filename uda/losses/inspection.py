"""When a loss may look at values."""

from __future__ import annotations

from torch import Tensor


def readable(values: Tensor) -> bool:
    """Whether values can be looked at, to refuse impossible ones, without making the host wait for a device."""
    return values.device.type == "cpu"
