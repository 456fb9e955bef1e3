"""A network as several processes train it: BatchNorm over the batch of all, and no weights that DDP waits for in vain.

torch's own SyncBatchNorm takes CUDA tensors alone; :class:`SyncedBatchNorm` does the same on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from uda.devices.distributed import together, world
from uda.errors import ModelError
from uda.networks.batchnorm import layers, set_mode


def shared(model: nn.Module, image: Callable[[], Tensor], device: torch.device) -> nn.Module:
    """The first process's network as several train it, on its device; with one process as it was.

    Args:
        image: gives images ``[b, c, *s]`` such as it will see.
    """
    if world().size == 1:
        return model
    with torch.no_grad():
        for tensor in model.to(device).state_dict().values():
            dense = tensor.contiguous()  # channels last is not
            torch.distributed.broadcast(dense, 0)
            tensor.copy_(dense)
    freeze_idle(model, image()[:1].to(device))
    return synchronised(model, device)


def freeze_idle(model: nn.Module, image: Tensor) -> None:
    """Ask no gradient of weights on which no output depends, such as those of a classifier that is switched off.

    They would not get one anyway, and DDP would wait for it.
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
    """The network with BatchNorm layers that see the batch of all processes; with one process as it was.

    Weights, buffers and their names stay the same, so what is saved loads into the plain network. Layers inside
    TorchScript programs cannot be exchanged; see :func:`check_synchronised`.
    """
    if world().size == 1:
        return model
    if _exchangeable(model):
        return _exchanged(model, device)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if _exchangeable(child):
                setattr(parent, name, _exchanged(child, device))
    return model


def check_synchronised(model: nn.Module) -> None:
    """Refuse a network whose statistics would be those of a process's own rows.

    Raises:
        ModelError: BatchNorm layers of a TorchScript program follow the batch, which several processes share.
    """
    if world().size == 1:
        return
    synced = (SyncedBatchNorm, nn.SyncBatchNorm)
    if loose := [m for m in layers(model) if m.training and not isinstance(m, synced)]:
        raise ModelError(
            f"{len(loose)} BatchNorm layers lie inside a TorchScript program and would follow each "
            "process's own images instead of the whole batch",
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
    """BatchNorm of ``[b, c, *s]`` whose batch statistics are those of all processes; their ``b`` may differ.

    Counts, means and sums of squared deviations are merged, not sums of squares, so a large mean does no harm.
    In evaluation mode it is a plain BatchNorm.
    """

    @classmethod
    def of(cls, layer: Any) -> SyncedBatchNorm:
        """The same layer, with the same parameters and buffers, synchronised."""
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
        """Normalised by the batch of all processes in training, by the running statistics otherwise."""
        if not self.training or world().size == 1:
            return super().forward(x)
        self._check_input_dim(x)
        normalised, mean, var, count = _Normalise.apply(x, self.weight, self.bias, self.eps)
        self._follow(mean, var * (count / (count - 1)))
        result: Tensor = normalised
        return result

    @torch.no_grad()
    def _follow(self, mean: Tensor, unbiased: Tensor) -> None:
        """Running statistics by the layer's momentum, or their mean over batches where that is None."""
        means, variances, tracked = self.running_mean, self.running_var, self.num_batches_tracked
        if means is None or variances is None or tracked is None:
            return
        tracked.add_(1)
        share = 1 / float(tracked) if self.momentum is None else self.momentum
        means.lerp_(mean.to(means.dtype), share)
        variances.lerp_(unbiased.to(variances.dtype), share)


class _Normalise(torch.autograd.Function):
    """(x − mean) / √(var + ε) · weight + bias, mean and var over the rows and pixels of all processes."""

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
    """All axes but that of the channels."""
    return [axis for axis in range(x.dim()) if axis != 1]


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of each channel ``[c]`` and the number of values, over all processes, in double."""
    var, mean = torch.var_mean(x.to(_wide(x)), _others(x), correction=0)
    values = torch.full_like(mean, x.numel() // x.shape[1], dtype=torch.float64)
    own = torch.stack([values, mean.double(), var.double()])
    parts = [torch.empty_like(own) for _ in range(world().size)]
    with together():
        torch.distributed.all_gather(parts, own)
    count, means, variances = torch.stack(parts).unbind(1)
    total = count.sum(0)
    mean = (count * means).sum(0) / total
    var = (count * (variances + (means - mean) ** 2)).sum(0) / total
    return mean, var, total[0]
