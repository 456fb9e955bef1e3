"""BatchNorm statistics: find the layers, freeze or update the statistics, estimate them on new images (AdaBN).

A layer is a PyTorch module, or part of a TorchScript program and accessible through its buffers alone. The graph of
a *traced* program has a fixed mode, so its statistics can be kept but not estimated.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from uda.errors import ModelError

Policy = Literal["train", "frozen", "target", "warmed"]
BATCHNORM_BATCH = 32
"""Slices of a batch when statistics are estimated."""


def _is_program(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def _keeps_statistics(module: nn.Module) -> bool:
    """Whether a layer of a TorchScript program, which knows its class by name only, is a BatchNorm."""
    buffers = {name for name, _ in module.named_buffers(recurse=False)}
    name = str(getattr(module, "original_name", ""))
    return {"running_mean", "running_var"} <= buffers and "InstanceNorm" not in name


def layers(model: nn.Module) -> list[nn.Module]:
    """Every BatchNorm layer, including those of TorchScript programs."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) or (_is_program(module) and _keeps_statistics(module))
    ]


def _refuse_traced(found: Iterable[nn.Module]) -> None:
    """Refuse layers of a traced graph, whose mode is fixed; unlike them, a scripted layer has its momentum."""
    traced = [layer for layer in found if _is_program(layer) and not hasattr(layer, "momentum")]
    if traced:
        raise ModelError(
            f"the statistics of {len(traced)} BatchNorm layers cannot follow other images: "
            "the network was traced, which writes its mode into the program",
            expected="a program whose BatchNorm layers can be switched",
            fix="export it with torch.export.export or script it with torch.jit.script and import "
            "that; or keep its statistics: batchnorm: frozen",
        )


def set_mode(model: nn.Module, batchnorm: Policy) -> None:
    """Set training mode; ``frozen`` and ``target`` keep BatchNorm layers in evaluation mode.

    Raises:
        ModelError: another policy for a traced program, whose statistics cannot be updated.
    """
    model.train()
    found = layers(model)
    if batchnorm in ("frozen", "target"):
        for layer in found:
            layer.eval()
    else:
        _refuse_traced(found)


@torch.no_grad()
def estimate_batchnorm(model: nn.Module, images: Iterable[Tensor], device: torch.device) -> bool:
    """Replace all running statistics by the mean of the statistics of these image batches (AdaBN).

    Dropout is off and no weight changes. The model's previous mode returns afterwards.

    Returns:
        whether the model has a BatchNorm layer; without one no image is drawn.

    Raises:
        ModelError: a traced program, or a scripted one that uses a layer several times in a pass.

    Source: Li et al., Revisiting Batch Normalization For Practical Domain Adaptation, 2016.
    """
    found = layers(model)
    if not found:
        return False
    _refuse_traced(found)
    training = model.training
    model.eval()
    scripted = [_Scripted(layer) for layer in found if _is_program(layer)]
    plain = [layer for layer in found if isinstance(layer, _BatchNorm)]
    momenta = [layer.momentum for layer in plain]
    for layer in plain:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative mean over batches
        layer.train()
    for batch in images:
        for one in scripted:
            one.forget()
        model(batch.to(device))
        for one in scripted:
            one.collect()
    for one in scripted:
        one.write()
    for layer, momentum in zip(plain, momenta, strict=True):
        layer.momentum = momentum
    model.train(training)
    return True


def copy_statistics(model: nn.Module, into: nn.Module) -> None:
    """Give a network of the same structure the BatchNorm statistics of another."""
    for known, layer in zip(layers(model), layers(into), strict=True):
        buffers = dict(layer.named_buffers(recurse=False))
        for name, value in known.named_buffers(recurse=False):
            buffers[name].copy_(value)


class _Scripted:
    """The cumulative mean of a scripted layer's statistics; its momentum m is a constant of the program.

    When the running statistics start at zero, one pass sets them to m times the statistics of the batch.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer.train()
        buffers = dict(layer.named_buffers(recurse=False))
        self.running = (buffers["running_mean"], buffers["running_var"])
        self.tracked = buffers["num_batches_tracked"]
        self.momentum = 1.0 if layer.momentum is None else float(layer.momentum)  # type: ignore[arg-type]
        if self.momentum == 0:
            raise ModelError(
                "a scripted BatchNorm layer has momentum 0, so its statistics cannot be estimated",
                fix="script the network with a momentum above 0",
            )
        self.mean, self.batches = [torch.zeros_like(r) for r in self.running], 0

    def forget(self) -> None:
        for tensor in (*self.running, self.tracked):
            tensor.zero_()

    def collect(self) -> None:
        used = int(self.tracked)
        if used > 1:
            raise ModelError(
                f"a BatchNorm layer of the scripted network runs {used} times in one pass, so the "
                "statistics of the passes cannot be separated",
                fix="export the network with torch.export.export and import that",
            )
        if used:
            self.batches += 1
            for mean, running in zip(self.mean, self.running, strict=True):
                mean.lerp_(running / self.momentum, 1 / self.batches)

    def write(self) -> None:
        for running, mean in zip(self.running, self.mean, strict=True):
            running.copy_(mean)
        if not self.batches:
            self.running[1].fill_(1.0)  # like a layer that never ran
        self.tracked.fill_(self.batches)
