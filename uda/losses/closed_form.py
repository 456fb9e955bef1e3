"""A value whose gradient is known in closed form, so that autograd need not keep the way to it."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from uda.types import Scalar


class _ClosedForm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_p: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None


def with_gradient(
    log_p: Float[Tensor, "b k *s"], value: Scalar, gradient: Float[Tensor, "b k *s"]
) -> Scalar:
    """The value as a function of ``log_p`` that has this gradient. It can be differentiated once.

    By log p and not by p, because p need not be kept then.

    Args:
        log_p: what the value was computed from.
        value, gradient: computed without autograd.

    Example:
        >>> import torch
        >>> log_p = torch.full((1, 1, 2), 3.0, requires_grad=True)
        >>> with_gradient(log_p, torch.tensor(18.0), 2 * log_p.detach()).backward()
        >>> log_p.grad
        tensor([[[6., 6.]]])
    """
    result: Tensor = _ClosedForm.apply(log_p, value, gradient)
    return result
