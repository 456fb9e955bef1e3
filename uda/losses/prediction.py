"""A prediction: logits, and the probabilities that several losses need, computed once for all of them."""

from __future__ import annotations

from functools import cached_property
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from uda.errors import DataError
from uda.types import Logits


class Prediction:
    """Logits ``[b, k, *s]`` with their log-probabilities and probabilities, each computed at most once.

    Every loss takes logits or a ``Prediction``. Given the same ``Prediction``, all of them share one
    ``log_softmax`` in the forward and in the backward pass. Gradients run through it if they did where it was
    made, even if a look at it under ``torch.no_grad`` comes first.

    Raises:
        DataError: there is no pixel or no class.

    Example:
        >>> import torch
        >>> from uda.losses import class_ratio_kl, entropy
        >>> logits = torch.zeros(1, 2, 2, 2)
        >>> prediction = Prediction(logits)
        >>> loss = entropy(prediction) + class_ratio_kl(prediction, torch.tensor([0.75, 0.25]))
        >>> round(float(loss), 4)
        1.1438
    """

    def __init__(self, logits: Logits) -> None:
        if logits.dim() < 3 or logits.numel() == 0:
            raise DataError(
                f"the logits have shape {tuple(logits.shape)}",
                expected="(images, classes, rows, columns) or with more axes, none of them 0",
            )
        self.logits = logits
        self._differentiable = torch.is_grad_enabled()

    @property
    def shape(self) -> torch.Size:
        """``(b, k, *s)``"""
        return self.logits.shape

    @cached_property
    def log_p(self) -> Float[Tensor, "b k *s"]:
        """Log-probabilities; float32, whatever the logits came in, except that float64 stays."""
        with torch.set_grad_enabled(self._differentiable):
            wide = self.logits if self.logits.dtype == torch.float64 else self.logits.float()
            return wide.log_softmax(1)

    @cached_property
    def p(self) -> Float[Tensor, "b k *s"]:
        """Probabilities."""
        with torch.set_grad_enabled(self._differentiable):
            return self.log_p.exp()


Predicted: TypeAlias = Logits | Prediction
"""what every loss takes first"""


def predicted(given: Predicted) -> Prediction:
    """The prediction itself, or one made of logits."""
    return given if isinstance(given, Prediction) else Prediction(given)


def winners(log_p: Float[Tensor, "b k *s"]) -> Float[Tensor, "b k *s"]:
    """1 for the most likely class of each pixel and 0 for the others; classes that tie share the 1."""
    share = (log_p == log_p.amax(1, keepdim=True)).to(log_p)
    return share.div_(share.sum(1, keepdim=True))


def most_likely(values: Tensor, dim: int = 1) -> Tensor:
    """The class with the largest value (logit or probability); of equal ones the first.

    The same as ``argmax``, which torch does not vectorise on the CPU over any but the last axis.

    Example:
        >>> most_likely(torch.tensor([[0.1, 0.3, 0.6], [0.6, 0.4, 0.6], [0.3, 0.3, torch.nan]]), 0)
        tensor([1, 1, 2])
        >>> most_likely(torch.tensor([[2.0, 5.0, 5.0]]))
        tensor([1])
    """
    return values.max(dim).indices
