"""The heads of a network: the last layer, the features that enter it, and the auxiliary head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from uda.errors import ModelError
from uda.networks.foreign import ForeignModel
from uda.networks.model_file import own_network


def head(model: nn.Module) -> nn.Module:
    """The last layer, which turns features into logits.

    Raises:
        ModelError: the network's last layer is unknown.
    """
    from monai.networks.nets.unet import UNet

    if isinstance(model, UNet) and isinstance(model.model, nn.Sequential):
        return model.model[-1]
    if isinstance(model, ForeignModel) and (layer := _last_layer(model)) is not None:
        return layer
    if isinstance(own := getattr(model, "head", None), nn.Module):
        return own
    raise ModelError(
        f"the last layer of a {type(own_network(model)).__name__} is not known",
        fix="use a term that needs no features, and freeze_head: false",
    )


def head_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Weights of every head of a network with several, else of the last layer.

    Raises:
        ModelError: the network's last layer is unknown.
    """
    several = getattr(model, "heads", None)
    heads = several() if callable(several) else [head(model)]
    return [parameter for one in heads for parameter in one.parameters()]


def use_auxiliary(model: nn.Module, wanted: bool) -> None:
    """Switch the network's auxiliary head on or off in training; its weights are frozen while it is off.

    Raises:
        ModelError: it is wanted, but the network has none.
    """
    head = getattr(model, "aux_classifier", None)
    if wanted and head is None:
        raise ModelError(
            "a term has a weight on the auxiliary head (aux), but the network has one head",
            fix="set network.auxiliary: true (DeepLab), or remove aux from the term",
        )
    if isinstance(head, nn.Module):
        model.aux_head = wanted  # type: ignore[assignment]
        head.requires_grad_(wanted)


def _last_layer(model: ForeignModel) -> nn.Module | None:
    """The last convolution, in order of registration, with as many output channels as the logits have."""
    outputs = 1 if model.settings.one_logit else model.classes
    layers = [m for m in model.network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
    return next((layer for layer in reversed(layers) if layer.out_channels == outputs), None)


@contextmanager
def features_of(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect features: inside the block every forward pass appends the input ``[b, d, *s]`` of :func:`head`."""
    seen: list[Tensor] = []
    handle = head(model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()
