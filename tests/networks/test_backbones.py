"""Backbones: dilated, they compute the features of the network they come from, at more pixels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from uda.config.networks import DeepLab
from uda.networks.backbones import Backbone, build_backbone, dilate


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def strided(backbone: nn.Module, blocks: str) -> Backbone:
    """A plain ResNet of the same weights, of output stride 32."""
    import torchvision

    net = getattr(torchvision.models, blocks)()
    plain = Backbone(net.conv1, net.bn1, (net.layer1, net.layer2, net.layer3, net.layer4))
    plain.load_state_dict(backbone.state_dict())
    return plain.eval().double()


@pytest.mark.parametrize("blocks", ["resnet18", "resnet50"])
@pytest.mark.parametrize("stride", [8, 16])
def test_every_kth_pixel_of_the_dilated_features_is_the_strided_networks(
    blocks: str, stride: int
) -> None:
    setting = DeepLab(kind="deeplab_v2", backbone=blocks, stride=stride)  # type: ignore[arg-type]
    backbone = build_backbone(setting, 3).eval().double()
    plain = strided(backbone, blocks)
    with torch.no_grad():
        image = torch.randn(1, 3, 70, 97, dtype=torch.double)
        third, fourth = backbone(image)
        expected_third, expected_fourth = plain(image)
    assert fourth.shape[2:] == third.shape[2:] == (-(-70 // stride), -(-97 // stride))
    step = 32 // stride
    torch.testing.assert_close(fourth[..., ::step, ::step], expected_fourth)
    torch.testing.assert_close(third[..., :: step // 2, :: step // 2], expected_third)


def test_bottlenecks_are_dilated_as_torchvision_dilates_its_own() -> None:
    from torchvision.models import resnet50

    with torch.device("meta"):
        ours = build_backbone(DeepLab(kind="deeplab_v3", backbone="resnet50"), 3)
        theirs = resnet50(replace_stride_with_dilation=[False, True, True])
    for name, layer in ours.named_modules():
        if isinstance(layer, nn.Conv2d):
            other = theirs.get_submodule(name)
            for key in ("stride", "padding", "dilation"):
                assert getattr(layer, key) == getattr(other, key), (name, key)


def test_a_stage_is_dilated_from_its_stride_on() -> None:
    from torchvision.models import resnet18

    stage = resnet18().layer4
    dilate(stage, 2)
    three = [m for m in stage.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert [m.dilation[0] for m in three] == [2, 4, 4, 4]
    assert {m.stride for m in stage.modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}


def test_the_small_backbone_is_small_and_keeps_the_names() -> None:
    from torchvision.models import resnet18

    backbone = build_backbone(DeepLab(kind="deeplab_v2", backbone="small"), 3)
    assert sum(weights.numel() for weights in backbone.parameters()) == 1_230_240
    assert set(backbone.state_dict()) < set(resnet18().state_dict())
