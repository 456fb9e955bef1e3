"""MONAI's residual U-Net."""

from __future__ import annotations

from torch import nn

from uda.config.networks import Network


def build_unet(settings: Network, classes: int, channels: int) -> nn.Module:
    """A freshly initialised network; in 3-D it sees one channel."""
    from monai.networks.nets.unet import UNet

    return UNet(
        spatial_dims=settings.spatial_dims,
        in_channels=channels if settings.spatial_dims == 2 else 1,
        out_channels=classes,
        channels=settings.channels,
        strides=(2,) * (len(settings.channels) - 1),
        num_res_units=settings.res_units,
        norm=settings.norm,
        dropout=settings.dropout,
    )
