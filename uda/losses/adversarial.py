"""Adversarial alignment of what the network is unsure of: source and target should look alike (AdvEnt)."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn import functional

from uda.errors import DataError
from uda.losses.prediction import Predicted, predicted
from uda.types import Scalar

MIN_SIDE = 32
"""five halvings leave one value of 32 pixels"""


def self_information(logits: Predicted) -> Float[Tensor, "b k *s"]:
    r"""Weighted self-information of each class at each pixel: the entropy before the sum over classes.

    Formula: $-p_c \log_2 p_c / \log_2 K$
    Range: [0, 1/(e log K)]; sums over classes to the normalised entropy, at most 1
    Source: Vu et al., ADVENT, CVPR 2019 (weighted self-information)

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.

    Returns:
        ``[b, k, *s]``, differentiable.

    Example:
        One pixel undecided between two classes, one sure: −½ log₂ ½ = ½ for each class, and 0.

        >>> import torch
        >>> self_information(torch.tensor([[[0.0, 200.0], [0.0, 0.0]]]))
        tensor([[[0.5000, 0.0000],
                 [0.5000, 0.0000]]])
    """
    log_p = predicted(logits).log_p
    # a single class has no information: log p = 0, whatever it is divided by
    maps: Tensor = _SelfInformation.apply(log_p, 1 / math.log(max(2, log_p.shape[1])))
    return maps


class _SelfInformation(torch.autograd.Function):
    """−scale · p log p, keeping nothing but log p."""

    @staticmethod
    def forward(ctx: Any, log_p: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(log_p)
        ctx.scale = scale
        return log_p.abs().mul_(log_p.exp()).mul_(scale)  # abs, so that no value is −0

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (log_p,) = ctx.saved_tensors
        slope = (log_p + 1.0).mul_(log_p.exp()).mul_(-ctx.scale)
        return slope.mul_(gradient), None


class Discriminator(nn.Module):
    """Tells maps of the source from maps of the target, patch by patch; a positive output says source.

    Formula: 5 convolutions 4×4, stride 2, padding 1, with ``width`` · (1, 2, 4, 8) channels and 1 at the end;
        LeakyReLU 0.2 between, no normalisation
    Source: Vu et al., ADVENT, CVPR 2019, after Radford et al., DCGAN, ICLR 2016

    A volume ``[b, k, d, h, w]`` is judged slice by slice, as ``b·d`` images.

    Args:
        classes: number of classes K, the channels of :func:`self_information`.
        width: channels after the first convolution.

    Raises:
        DataError: when called with maps of another number of classes, or with a side of a slice below 32 pixels.

    Example:
        >>> import torch
        >>> Discriminator(classes=5, width=4)(torch.zeros(2, 5, 64, 96)).shape
        torch.Size([2, 1, 2, 3])
    """

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        self.classes = classes
        widths = [classes, *(width * factor for factor in (1, 2, 4, 8)), 1]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1)
            for before, after in itertools.pairwise(widths)
        )

    def forward(self, maps: Float[Tensor, "b k *s"]) -> Float[Tensor, "b_or_bd 1 rows columns"]:
        if maps.dim() == 5:
            maps = maps.transpose(1, 2).flatten(0, 1)
        if maps.dim() != 4 or maps.shape[1] != self.classes or min(maps.shape[2:]) < MIN_SIDE:
            raise DataError(
                f"the discriminator was given maps of shape {tuple(maps.shape)}",
                expected=f"(images, {self.classes}, rows, columns), each side {MIN_SIDE} pixels or more",
                fix="crop or prepare larger images, or leave the adversarial term out",
            )
        first, *others = self.convolutions
        hidden: Tensor = first(maps)
        for convolution in others:
            hidden = convolution(functional.leaky_relu(hidden, 0.2, inplace=True))
        return hidden


def adversarial_loss(discriminator: nn.Module, logits: Predicted) -> Scalar:
    r"""How well the discriminator sees that the target's prediction is not one of the source.

    Formula: $-\frac{1}{BM}\sum_{b,m}\log\sigma\left(D(I)_{b,m}\right)$, I the :func:`self_information` of the target,
        m the patches that the discriminator judges
    Range: [0, ∞)
    Minimum: the discriminator takes every patch for source
    Collapse: any prediction that fools the discriminator will do; weigh it small (1e-3) and train with source labels
    Source: Vu et al., ADVENT, CVPR 2019 (the network's side of AdvEnt)

    The discriminator's own parameters get no gradient.

    Args:
        discriminator: maps ``[b, k, *s]`` → one logit a patch, positive for source; :class:`Discriminator`.
        logits: of target images, ``[b, k, *s]``, or a :class:`Prediction`.

    Returns:
        Scalar; log 2 where the discriminator cannot tell.

    Raises:
        DataError: images too small for the discriminator.

    Example:
        A discriminator that looks at class 0 alone, and a 2×2 image of undecided pixels: I = ½ at each,
        −log σ(½) = 0.4741.

        >>> import torch
        >>> look = torch.nn.Conv2d(2, 1, 1)
        >>> _ = torch.nn.init.zeros_(look.bias)
        >>> look.weight.data = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
        >>> round(float(adversarial_loss(look, torch.zeros(1, 2, 2, 2))), 4)
        0.4741
    """
    frozen = {name: value.detach() for name, value in discriminator.named_parameters()}
    judged: Tensor = functional_call(discriminator, frozen, (self_information(logits),))
    return _cost_of(judged, source=True)


def discriminator_loss(
    discriminator: nn.Module,
    source_maps: Float[Tensor, "b k *s"],
    target_maps: Float[Tensor, "b2 k *s2"],
) -> Scalar:
    r"""What the discriminator learns from: source is source, target is target, half of each.

    Formula: $-\frac12\left(\overline{\log\sigma(D(I_S))} + \overline{\log(1-\sigma(D(I_T)))}\right)$, means over images
        and patches
    Range: [0, ∞)
    Minimum: every patch told right
    Collapse: a discriminator that is always right gives the network no slope to follow
    Source: Vu et al., ADVENT, CVPR 2019 (the discriminator's side of AdvEnt)

    Args:
        discriminator: maps ``[b, k, *s]`` → one logit a patch, positive for source.
        source_maps: :func:`self_information` of source images; no gradient flows back.
        target_maps: the same of target images.

    Returns:
        Scalar; log 2 where the discriminator cannot tell.

    Raises:
        DataError: images too small for the discriminator.

    Example:
        A discriminator that knows nothing says 0 everywhere: ½ (log 2 + log 2).

        >>> import torch
        >>> blind = torch.nn.Conv2d(2, 1, 1)
        >>> for parameter in blind.parameters():
        ...     _ = torch.nn.init.zeros_(parameter)
        >>> maps = torch.rand(1, 2, 2, 2)
        >>> round(float(discriminator_loss(blind, maps, maps).detach()), 4)
        0.6931
    """
    source = _cost_of(discriminator(source_maps.detach()), source=True)
    target = _cost_of(discriminator(target_maps.detach()), source=False)
    return (source + target) / 2


def _cost_of(judged: Tensor, source: bool) -> Tensor:
    """Binary cross-entropy of the discriminator's logits with one answer for all."""
    wide = judged if judged.dtype == torch.float64 else judged.float()
    return functional.softplus(-wide if source else wide).mean()
