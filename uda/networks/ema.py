"""Exponential moving average (EMA) of a network's weights, in a frozen copy of the network."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy of the network in evaluation mode and without gradients."""
    return copy.deepcopy(model).requires_grad_(False).eval()


@torch.no_grad()
def ema_update(average: nn.Module, model: nn.Module, share: float) -> None:
    """average ← (1 − share) · average + share · model for weights and float buffers; integer buffers are copied.

    Unlike this function, torch's AveragedModel reads its update counter from a tensor in every step.
    """
    pairs = list(zip(_tensors(average), _tensors(model), strict=True))
    floats = [(mean, new) for mean, new in pairs if mean.is_floating_point()]
    torch._foreach_lerp_([mean for mean, _ in floats], [new for _, new in floats], share)
    for mean, new in pairs:
        if not mean.is_floating_point():
            mean.copy_(new)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
