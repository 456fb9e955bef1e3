"""torchvision's ResNets without their classifier, their last stages dilated.

Differences from the Caffe-style ResNet of the published street-scene tables: torchvision strides in the 3×3
convolution of a bottleneck, not in the 1×1 before it; the stem pools without rounding up; and the first
convolution after a stride that was taken out keeps the dilation from before it. That last point is the à-trous
algorithm as it was meant: on every ``k``-th pixel the dilated network computes what the strided one would have, so
weights from ImageNet keep their meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from uda.config.networks import DeepLab

_HALF = (32, 32, 64, 128, 256)
"""channels of the stem and the four stages of the small backbone: half of a ResNet-18's"""


class Backbone(nn.Module):
    """Stem and four stages; names in the state dict are torchvision's."""

    def __init__(self, conv1: nn.Conv2d, bn1: nn.BatchNorm2d, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = conv1, bn1, nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the last stage but one and of the last, both at the output stride."""
        stem = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        third = self.layer3(self.layer2(self.layer1(stem)))
        return third, self.layer4(third)


def build_backbone(settings: DeepLab, channels: int) -> Backbone:
    """A freshly initialised backbone of ``settings.stride`` for images of ``channels``."""
    if settings.backbone == "small":
        backbone = _small()
    else:
        from torchvision.models import resnet18, resnet50, resnet101

        makers = {"resnet18": resnet18, "resnet50": resnet50, "resnet101": resnet101}
        net = makers[settings.backbone](weights=None)
        backbone = Backbone(net.conv1, net.bn1, (net.layer1, net.layer2, net.layer3, net.layer4))
    if channels != backbone.conv1.in_channels:
        width = backbone.conv1.out_channels
        backbone.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        _initialise(backbone.conv1)
    if settings.stride == 8:
        dilate(backbone.layer3, 1)
        dilate(backbone.layer4, 2)
    else:
        dilate(backbone.layer4, 1)
    return backbone


def feature_channels(backbone: Backbone) -> tuple[int, int]:
    """Channels of what the backbone returns."""
    return _width(backbone.layer3), _width(backbone.layer4)


def _width(stage: nn.Module) -> int:
    return [m.num_features for m in stage.modules() if isinstance(m, nn.BatchNorm2d)][-1]


def dilate(stage: nn.Module, before: int) -> None:
    """Take the stride of 2 out of a stage whose input is dilated ``before`` times; dilate twice that after it.

    One way for both kinds of blocks: torchvision's own does not know the plain ones.
    """
    dilation = before
    for layer in stage.modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        if layer.kernel_size == (3, 3):
            layer.dilation = layer.padding = (dilation, dilation)
        if layer.stride == (2, 2):
            layer.stride = (1, 1)
            dilation = 2 * before


def _small() -> Backbone:
    """One plain block a stage at half width, about 1.2 million weights."""
    from torchvision.models.resnet import BasicBlock

    stages = [nn.Sequential(BasicBlock(_HALF[0], _HALF[1]))]
    for inside, outside in pairwise(_HALF[1:]):
        shortcut = nn.Sequential(
            nn.Conv2d(inside, outside, 1, stride=2, bias=False), nn.BatchNorm2d(outside)
        )
        stages.append(nn.Sequential(BasicBlock(inside, outside, 2, shortcut)))
    stem = nn.Conv2d(3, _HALF[0], 7, stride=2, padding=3, bias=False)
    backbone = Backbone(stem, nn.BatchNorm2d(_HALF[0]), stages)
    for layer in backbone.modules():
        _initialise(layer)
    return backbone


def _initialise(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
