"""From the settings of a network to the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from uda.config.networks import AnyNetwork, DeepLab, ForeignNetwork, Network
from uda.networks.deeplab import build_deeplab
from uda.networks.foreign.adapter import build_foreign
from uda.networks.unet import build_unet

BUILDERS: dict[type[AnyNetwork], Callable[[Any, int, int], nn.Module]] = {
    Network: build_unet,
    DeepLab: build_deeplab,
}
"""A function of settings, classes and input channels for each network that is ours."""


def build(
    network: AnyNetwork,
    classes: int,
    channels: int = 1,
    program: bytes | None = None,
    trust_code: bool = False,
) -> nn.Module:
    """A network of ``channels`` input channels (in 3-D always one) and ``classes`` outputs.

    Ours is freshly initialised; a registered one is as its factory makes it; a stored program has the weights it was
    stored with.

    Args:
        program: the bytes of a TorchScript or exported program.
        trust_code: run the code of a TorchScript program.

    Raises:
        ModelError: a foreign network that is not there, or a program that cannot be used or is not trusted.
    """
    if isinstance(network, ForeignNetwork):
        return build_foreign(network, classes, program, trust_code)
    return BUILDERS[type(network)](network, classes, channels)
