"""Networks for photographs: DeepLab on torchvision's ResNets."""

from uda.networks.deeplab import DeepLabNet, build_deeplab
from uda.networks.weights import (
    BackboneWeights,
    fetch_weights,
    load_backbone_weights,
    weights_file,
)

__all__ = [
    "BackboneWeights",
    "DeepLabNet",
    "build_deeplab",
    "fetch_weights",
    "load_backbone_weights",
    "weights_file",
]
