"""DeepLab V2 with the field's two heads, and V3 with torchvision's, on a dilated ResNet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from uda.config.networks import DeepLab
from uda.errors import ModelError
from uda.networks.backbones import Backbone, build_backbone, feature_channels
from uda.networks.resize import upsample

_V2_RATES = (6, 12, 18, 24)
_V3_RATES = (12, 24, 36)
"""dilations at output stride 8; half of that at 16, so that the view in pixels of the image stays"""


class PyramidSum(nn.Module):
    """The sum of dilated 3×3 convolutions straight to the classes (V2's atrous spatial pyramid); no BatchNorm.

    Source: Chen et al., DeepLab, TPAMI 2018; initialised with N(0, 0.01²) as AdaptSegNet does.
    """

    def __init__(self, channels: int, classes: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_branch(channels, classes, rate) for rate in rates)

    def forward(self, features: Tensor) -> Tensor:
        first, *others = self.branches
        total: Tensor = first(features)
        for branch in others:
            total = total + branch(features)
        return total


def _branch(channels: int, classes: int, rate: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, classes, 3, padding=rate, dilation=rate)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.constant_(layer.get_parameter("bias"), 0.0)
    return layer


class ImagePooling(nn.Sequential):
    """V3's mean over the image: torchvision's layers and names, without an interpolation of one pixel."""

    def forward(self, features: Tensor) -> Tensor:
        _, project, norm, rectify = self
        pooled: Tensor = rectify(
            self._normalised(project(features.mean((2, 3), keepdim=True)), norm)
        )
        return pooled.expand(-1, -1, *features.shape[2:])

    @staticmethod
    def _normalised(pooled: Tensor, norm: nn.Module) -> Tensor:
        """One value a channel has no variance: what only looks (AdaBN's last batch) passes by the running statistics.

        Raises:
            ModelError: there is something to learn from it, or there are no statistics yet.
        """
        if not norm.training or pooled.shape[0] > 1 or not isinstance(norm, nn.BatchNorm2d):
            normalised: Tensor = norm(pooled)
            return normalised  # a SyncBatchNorm counts the images of all ranks itself
        if torch.is_grad_enabled() or not norm.num_batches_tracked:
            raise ModelError(
                "a batch of one image: deeplab_v3 normalises one value an image and has no variance then",
                expected="at least two images in a batch",
                fix="set batch: 2 or more, keep the statistics (batchnorm: frozen), or use network.kind=deeplab_v2",
            )
        return functional.batch_norm(
            pooled, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        )


class DeepLabNet(nn.Module):
    """Backbone, classifier and, where asked for, a second classifier on the last stage but one."""

    def __init__(
        self, backbone: Backbone, classifier: nn.Module, aux_classifier: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.backbone, self.classifier, self.aux_classifier = backbone, classifier, aux_classifier
        self.aux_head = aux_classifier is not None
        """whether training sees the second classifier's logits too"""

    @property
    def head(self) -> nn.Module:
        """The last linear layer; its input are the features: the last stage's in V2, the pyramid's in V3."""
        if isinstance(self.classifier, nn.Sequential):
            return self.classifier[-1]
        return self.classifier

    def heads(self) -> list[nn.Module]:
        """What is new on top of the backbone, and learns ten times as fast in the field's recipes."""
        return [one for one in (self.classifier, self.aux_classifier) if one is not None]

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits ``[b, k, h, w]`` of an image ``[b, c, h, w]``; in training with ``aux_head`` also the second ones.

        Raises:
            ModelError: ``aux_head`` is on and there is no such classifier.
        """
        size = (image.shape[2], image.shape[3])
        third, fourth = self.backbone(image)
        logits = upsample(self.classifier(fourth), size)
        if self.training and self.aux_head:
            return logits, upsample(self._second()(third), size)
        if _estimating(self.aux_classifier):
            self._second()(third)
        return logits

    def _second(self) -> nn.Module:
        if self.aux_classifier is None:
            raise ModelError(
                "this network has no second classifier",
                where="network.auxiliary",
                fix="train it with network.auxiliary=true, or leave aux_head off",
            )
        return self.aux_classifier


def _estimating(classifier: nn.Module | None) -> bool:
    """Whether BatchNorm layers inside follow the images while the rest predicts, as in AdaBN."""
    if classifier is None or classifier.training:
        return False
    return any(isinstance(m, _BatchNorm) and m.training for m in classifier.modules())


def build_deeplab(settings: DeepLab, classes: int, channels: int = 3) -> DeepLabNet:
    """A freshly initialised network; ImageNet's weights are :func:`uda.networks.weights.load_backbone_weights`."""
    backbone = build_backbone(settings, channels)
    third, fourth = feature_channels(backbone)
    second = _second_classifier(settings, third, classes) if settings.auxiliary else None
    return DeepLabNet(backbone, _classifier(settings, fourth, classes), second)


def _classifier(settings: DeepLab, channels: int, classes: int) -> nn.Module:
    if settings.kind == "deeplab_v2":
        return PyramidSum(channels, classes, _at(_V2_RATES, settings.stride))
    from torchvision.models.segmentation.deeplabv3 import DeepLabHead

    head: nn.Sequential = DeepLabHead(channels, classes, _at(_V3_RATES, settings.stride))
    pyramid: Any = head[0].convs
    pyramid[-1] = ImagePooling(*pyramid[-1])
    return head


def _second_classifier(settings: DeepLab, channels: int, classes: int) -> nn.Module:
    if settings.kind == "deeplab_v2":
        return PyramidSum(channels, classes, _at(_V2_RATES, settings.stride))
    from torchvision.models.segmentation.fcn import FCNHead

    second: nn.Module = FCNHead(channels, classes)
    return second


def _at(rates: tuple[int, ...], stride: int) -> tuple[int, ...]:
    return tuple(rate * 8 // stride for rate in rates)
