"""The last layers of a network: what turns features into logits, and a second head that may rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from uda.errors import ModelError
from uda.networks.foreign import ForeignModel
from uda.networks.model_file import own_network


def head(model: nn.Module) -> nn.Module:
    """The last layer: what turns features into logits. Its input are the features.

    Raises:
        ModelError: a network whose last layer is not known.
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
    """Weights of the classifiers: of every head of a network of several, else of the last layer.

    Raises:
        ModelError: a network whose last layer is not known.
    """
    several = getattr(model, "heads", None)
    heads = several() if callable(several) else [head(model)]
    return [parameter for one in heads for parameter in one.parameters()]


def use_auxiliary(model: nn.Module, wanted: bool) -> None:
    """Whether training also asks the network's auxiliary head; its weights rest where it does not.

    Raises:
        ModelError: wanted, and the network has none.
    """
    head = getattr(model, "aux_classifier", None)
    if wanted and head is None:
        raise ModelError(
            "a term has a weight on the auxiliary head (aux), and the network has one head",
            fix="set network.auxiliary: true (DeepLab), or leave aux out",
        )
    if isinstance(head, nn.Module):
        model.aux_head = wanted  # type: ignore[assignment]
        head.requires_grad_(wanted)


def _last_layer(model: ForeignModel) -> nn.Module | None:
    """The last convolution of a Python network, in order of registration, that has as many outputs as the logits."""
    outputs = 1 if model.settings.one_logit else model.classes
    layers = [m for m in model.network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
    return next((layer for layer in reversed(layers) if layer.out_channels == outputs), None)


@contextmanager
def features_of(model: nn.Module) -> Iterator[list[Tensor]]:
    """Within the block every forward pass appends its features ``[b, d, *s]``, the input of :func:`head`."""
    seen: list[Tensor] = []
    handle = head(model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()
