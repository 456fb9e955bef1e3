"""Prepare a network for several processes: synchronised BatchNorm, and no gradients for unused weights.

torch's SyncBatchNorm accepts only CUDA tensors; :class:`SyncedBatchNorm` does the same on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from uda.devices.distributed import this_process, together
from uda.errors import ModelError
from uda.networks.batchnorm import layers, set_mode


def shared(model: nn.Module, image: Callable[[], Tensor], device: torch.device) -> nn.Module:
    """Give all processes the first one's weights, freeze unused weights and synchronise BatchNorm.

    With one process the network is returned as it is.

    Args:
        image: returns images ``[b, c, *s]`` of the training.
        device: where the network moves.
    """
    if this_process().size == 1:
        return model
    with torch.no_grad():
        for tensor in model.to(device).state_dict().values():
            dense = tensor.contiguous()  # a channels-last tensor is not contiguous
            torch.distributed.broadcast(dense, 0)
            tensor.copy_(dense)
    freeze_idle(model, image()[:1].to(device))
    return synchronised(model, device)


def freeze_idle(model: nn.Module, image: Tensor) -> None:
    """Turn off the gradient of weights that no output depends on, such as those of an unused classifier.

    DDP would wait for their gradients in vain.
    """
    set_mode(model, "frozen")
    outputs = model(image)
    heads = outputs if isinstance(outputs, tuple) else (outputs,)
    total = torch.stack([head.float().sum() for head in heads]).sum()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    slopes = torch.autograd.grad(total, weights, allow_unused=True)
    for weight, slope in zip(weights, slopes, strict=True):
        if slope is None:
            weight.requires_grad_(False)


def synchronised(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace BatchNorm layers by ones with statistics over all processes; with one process change nothing.

    Weights, buffers and their names stay the same, so a saved state loads into the plain network. Layers inside
    TorchScript programs cannot be replaced; see :func:`check_synchronised`.
    """
    if this_process().size == 1:
        return model
    if _exchangeable(model):
        return _exchanged(model, device)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if _exchangeable(child):
                setattr(parent, name, _exchanged(child, device))
    return model


def check_synchronised(model: nn.Module) -> None:
    """Refuse a network with batch statistics of a single process's rows.

    Raises:
        ModelError: a TorchScript program has BatchNorm layers in training mode, and there are several processes.
    """
    if this_process().size == 1:
        return
    synced = (SyncedBatchNorm, nn.SyncBatchNorm)
    if unsynced := [m for m in layers(model) if m.training and not isinstance(m, synced)]:
        raise ModelError(
            f"{len(unsynced)} BatchNorm layers lie inside a TorchScript program and would use the "
            "statistics of each process's own images instead of the whole batch",
            fix="set batchnorm: frozen or target, export the network with torch.export.export, "
            "or run it in one process",
        )


def _exchangeable(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and not isinstance(
        module, (SyncedBatchNorm, nn.SyncBatchNorm)
    )


def _exchanged(layer: nn.Module, device: torch.device) -> nn.Module:
    if device.type == "cuda":
        exchanged: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(layer)
        return exchanged
    return SyncedBatchNorm.of(layer)


class SyncedBatchNorm(_BatchNorm):
    """BatchNorm of ``[b, c, *s]`` with batch statistics over all processes; their ``b`` may differ.

    It merges counts, means and variances, not sums of squares, so a large mean costs no precision.
    In evaluation mode it is a plain BatchNorm.
    """

    @classmethod
    def of(cls, layer: Any) -> SyncedBatchNorm:
        """A synchronised layer that shares ``layer``'s parameters and buffers."""
        synced = cls(
            layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats
        )
        synced.weight, synced.bias = layer.weight, layer.bias
        synced.running_mean, synced.running_var = layer.running_mean, layer.running_var
        synced.num_batches_tracked = layer.num_batches_tracked
        synced.training = layer.training
        return synced

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"expected at least 2 axes, got {x.dim()}")

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by the whole batch in training mode, by the running statistics otherwise."""
        if not self.training or this_process().size == 1:
            return super().forward(x)
        self._check_input_dim(x)
        normalised, mean, var, count = _Normalise.apply(x, self.weight, self.bias, self.eps)
        self._update_running(mean, var * (count / (count - 1)))
        result: Tensor = normalised
        return result

    @torch.no_grad()
    def _update_running(self, mean: Tensor, unbiased: Tensor) -> None:
        """Update the running statistics by the layer's momentum, or to the mean over batches if it is None."""
        means, variances, tracked = self.running_mean, self.running_var, self.num_batches_tracked
        if means is None or variances is None or tracked is None:
            return
        tracked.add_(1)
        share = 1 / float(tracked) if self.momentum is None else self.momentum
        means.lerp_(mean.to(means.dtype), share)
        variances.lerp_(unbiased.to(variances.dtype), share)


class _Normalise(torch.autograd.Function):
    """(x − mean) / √(var + ε) · weight + bias, with mean and var over the rows and pixels of all processes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, var, count = _statistics(x)
        if float(count) < 2:
            raise ValueError(f"expected more than 1 value per channel, got {tuple(x.shape)}")
        wide = _wide(x)
        normalised = functional.batch_norm(
            x, mean.to(wide), var.to(wide), weight, bias, False, 0.0, eps
        )
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt(), count)
        ctx.mark_non_differentiable(mean, var, count)
        return normalised, mean, var, count

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, count = ctx.saved_tensors
        wide = _wide(x)
        over, shape = _others(x), (1, -1, *[1] * (x.dim() - 2))
        slope = dy.to(wide)
        normal = (x.to(wide) - mean.to(wide).view(shape)) * inverse.to(wide).view(shape)
        d_bias, d_weight = slope.sum(over), (slope * normal).sum(over)
        sums = torch.stack([d_bias, d_weight]).double()
        with together():
            torch.distributed.all_reduce(sums)
        along, across = (part.to(wide).view(shape) for part in sums / count)
        factor = inverse.to(wide) if weight is None else inverse.to(wide) * weight.to(wide)
        dx = (slope - along - normal * across) * factor.view(shape)
        if weight is None:
            return dx.to(x.dtype), None, None, None
        return dx.to(x.dtype), d_weight.to(weight.dtype), d_bias.to(weight.dtype), None


def _others(x: Tensor) -> list[int]:
    """All axes but the channel axis."""
    return [axis for axis in range(x.dim()) if axis != 1]


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per channel mean and variance ``[c]`` and the number of values, over all processes, in float64."""
    var, mean = torch.var_mean(x.to(_wide(x)), _others(x), correction=0)
    values = torch.full_like(mean, x.numel() // x.shape[1], dtype=torch.float64)
    own = torch.stack([values, mean.double(), var.double()])
    parts = [torch.empty_like(own) for _ in range(this_process().size)]
    with together():
        torch.distributed.all_gather(parts, own)
    count, means, variances = torch.stack(parts).unbind(1)
    total = count.sum(0)
    mean = (count * means).sum(0) / total
    var = (count * (variances + (means - mean) ** 2)).sum(0) / total
    return mean, var, total[0]
