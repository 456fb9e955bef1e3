"""A second network that follows the one being trained: a copy, or a running average."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def twin_of(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that no gradient reaches."""
    return copy.deepcopy(model).requires_grad_(False).eval()


@torch.no_grad()
def follow(twin: nn.Module, model: nn.Module, share: float) -> None:
    """twin ← (1 − share) · twin + share · model for weights and float buffers; counters are copied.

    torch's AveragedModel counts its updates in a tensor, and asks it in every step.
    """
    pairs = list(zip(_tensors(twin), _tensors(model), strict=True))
    floats = [(mean, new) for mean, new in pairs if mean.is_floating_point()]
    torch._foreach_lerp_([mean for mean, _ in floats], [new for _, new in floats], share)
    for mean, new in pairs:
        if not mean.is_floating_point():
            mean.copy_(new)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
