"""DeepLab: the image's size comes back, heads come and go, and torchvision's V3 is the same network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from uda.config.networks import DeepLab
from uda.errors import ModelError
from uda.networks.batchnorm import estimate_batchnorm, set_mode
from uda.networks.deeplab import build_deeplab
from uda.networks.heads import features_of, head
from uda.networks.resize import by_matrices, upsample

CPU = torch.device("cpu")
KINDS = pytest.mark.parametrize("kind", ["deeplab_v2", "deeplab_v3"])


def small(kind: str = "deeplab_v2", **changes: Any) -> DeepLab:
    return DeepLab(kind=kind, backbone="small", **changes)  # type: ignore[arg-type]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def settled(module: nn.Module) -> nn.Module:
    """In evaluation, with statistics and scales that are not a new network's."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.running_mean, layer.bias.data):
                nn.init.normal_(values, std=0.1)
            for values in (layer.running_var, layer.weight.data):
                nn.init.uniform_(values, 0.5, 1.5)
    return module.eval()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


# sizes, heads and parameters


@KINDS
@pytest.mark.parametrize("stride", [8, 16])
def test_logits_have_the_size_of_the_image_whatever_it_is(kind: str, stride: int) -> None:
    model = build_deeplab(small(kind, stride=stride), 5).eval()
    for size in ((33, 33), (34, 47), (64, 50)):
        assert model(torch.randn(1, 3, *size)).shape == (1, 5, *size)


@KINDS
def test_two_logits_come_only_in_training_with_the_second_head_on(kind: str) -> None:
    model = build_deeplab(small(kind, auxiliary=True, stride=16), 4)
    image = torch.randn(2, 3, 40, 36)
    both = model(image)
    assert [logits.shape for logits in both] == [(2, 4, 40, 36)] * 2
    assert not torch.equal(*both)
    model.aux_head = False
    assert isinstance(model(image), Tensor)
    model.aux_head = True
    assert isinstance(model.eval()(image), Tensor)


def test_a_network_of_one_head_gives_one_and_says_what_it_lacks() -> None:
    model = build_deeplab(small(stride=16), 4)
    image = torch.randn(2, 3, 40, 36)
    assert not model.aux_head
    assert model.heads() == [model.classifier]
    assert isinstance(model(image), Tensor)
    model.aux_head = True
    with pytest.raises(ModelError, match="no second classifier") as caught:
        model(image)
    assert "network.auxiliary=true" in str(caught.value)


@KINDS
def test_gradients_reach_every_parameter_through_both_heads(kind: str) -> None:
    model = build_deeplab(small(kind, auxiliary=True, stride=16), 4)
    main, second = model(torch.randn(2, 3, 48, 40))
    (main.square().mean() + second.square().mean()).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize(
    ("kind", "backbone", "parameters"),
    [
        ("deeplab_v2", "resnet101", 44_601_560),
        ("deeplab_v2", "small", 1_493_048),
        ("deeplab_v3", "resnet50", 42_003_046),
        ("deeplab_v3", "small", 4_094_310),
    ],
)
def test_networks_of_two_heads_for_nineteen_classes_are_this_large(
    kind: str, backbone: str, parameters: int
) -> None:
    with torch.device("meta"):
        model = build_deeplab(DeepLab(kind=kind, backbone=backbone, auxiliary=True), 19)
    assert count(model) == parameters


def test_v2_is_a_plain_sum_of_four_dilated_convolutions() -> None:
    model = build_deeplab(small(), 19)
    pyramid = [m for m in model.classifier.modules() if isinstance(m, nn.Conv2d)]
    assert [m.dilation for m in pyramid] == [(6, 6), (12, 12), (18, 18), (24, 24)]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.classifier.modules())
    for layer in pyramid:
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert layer.bias is not None
        assert not layer.bias.any()
    features = torch.randn(1, 256, 5, 6)
    torch.testing.assert_close(model.classifier(features), sum(m(features) for m in pyramid))


def test_at_twice_the_stride_the_pyramid_sees_as_much_of_the_image() -> None:
    for kind in ("deeplab_v2", "deeplab_v3"):
        fine, coarse = (
            [
                m.dilation[0]
                for m in build_deeplab(small(kind, stride=s), 3).classifier.modules()
                if isinstance(m, nn.Conv2d) and m.dilation[0] > 1
            ]
            for s in (8, 16)
        )
        assert [2 * rate for rate in coarse] == fine


@KINDS
@pytest.mark.parametrize(("stride", "size"), [(8, (6, 5)), (16, (3, 3))])
def test_the_input_of_the_head_are_the_features_at_the_output_stride(
    kind: str, stride: int, size: tuple[int, int]
) -> None:
    model = build_deeplab(small(kind, stride=stride), 4).eval()
    with features_of(model) as seen:
        logits = model(torch.randn(2, 3, 48, 40))
    assert [tuple(features.shape) for features in seen] == [(2, 256, *size)]
    assert head(model) is model.head
    torch.testing.assert_close(upsample(model.head(seen[0]), (48, 40)), logits)


def test_images_of_other_than_three_channels_have_a_stem_of_their_own() -> None:
    model = build_deeplab(small(stride=16), 4, channels=5).eval()
    assert model(torch.randn(1, 5, 40, 40)).shape == (1, 4, 40, 40)


# V3


def test_v3_takes_torchvisions_weights_by_name_and_computes_the_same() -> None:
    from torchvision.models.segmentation import deeplabv3_resnet50

    theirs = deeplabv3_resnet50(weights_backbone=None, num_classes=4, aux_loss=True)
    settled(theirs)
    setting = DeepLab(kind="deeplab_v3", backbone="resnet50", auxiliary=True)
    ours = build_deeplab(setting, 4).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 65, 49)
    with torch.no_grad():
        expected = theirs(image)
        torch.testing.assert_close(ours(image), expected["out"])
        third = ours.backbone(image)[0]
        second = upsample(ours.aux_classifier(third), (65, 49))
    torch.testing.assert_close(second, expected["aux"])


def test_v3_refuses_to_learn_from_a_batch_of_one_and_names_the_remedies() -> None:
    model = build_deeplab(small("deeplab_v3", stride=16), 4)
    image = torch.randn(1, 3, 48, 48)
    with pytest.raises(ModelError, match="a batch of one image") as caught:
        model(image)
    for remedy in ("batch: 2", "batchnorm: frozen", "deeplab_v2"):
        assert remedy in str(caught.value)
    set_mode(model, "frozen")
    model(image).sum().backward()
    build_deeplab(small(stride=16), 4)(image)


def test_a_last_batch_of_one_does_not_stop_adabn_in_v3() -> None:
    model = build_deeplab(small("deeplab_v3", stride=16), 4)
    pooled = model.classifier.get_submodule("0.convs.4.2")
    batches = [torch.randn(2, 3, 48, 48), torch.randn(2, 3, 48, 48)]
    estimate_batchnorm(model, batches, CPU)
    expected = pooled.running_mean.clone()
    assert expected.any()
    estimate_batchnorm(model, [*batches, torch.randn(1, 3, 48, 48)], CPU)
    torch.testing.assert_close(pooled.running_mean, expected)
    with pytest.raises(ModelError, match="a batch of one image"):
        estimate_batchnorm(model, [torch.randn(1, 3, 48, 48)], CPU)


@pytest.mark.parametrize("on", [True, False])
def test_adabn_reaches_the_second_head_too(on: bool) -> None:
    model = build_deeplab(small("deeplab_v3", auxiliary=True, stride=16), 4)
    model.aux_head = on
    image = torch.randn(4, 3, 48, 48)
    estimate_batchnorm(model.eval(), [image], CPU)
    norm = model.aux_classifier.get_submodule("1")
    assert norm.num_batches_tracked == 1
    assert (norm.running_mean != 0).all()
    assert (norm.running_var != 1).all()


# precision, layout, export, repetition


@KINDS
def test_logits_are_float32_under_autocast_and_close_to_it(kind: str) -> None:
    model = build_deeplab(small(kind, stride=16), 4).eval()
    image = torch.randn(2, 3, 48, 40)
    with torch.no_grad():
        exact = model(image)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(image)
    assert mixed.dtype == torch.float32
    assert 0 < (mixed - exact).abs().max() < 0.05 * exact.abs().max()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = by_matrices(mixed, (96, 80))
    torch.testing.assert_close(rounded, by_matrices(mixed, (96, 80)), atol=0, rtol=0)


@KINDS
def test_the_layout_in_memory_changes_nothing(kind: str) -> None:
    model = build_deeplab(small(kind, stride=16), 4).eval()
    image = torch.randn(2, 3, 48, 40)
    with torch.no_grad():
        expected = model(image)
        model = model.to(memory_format=torch.channels_last)
        found = model(image.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


@KINDS
def test_the_network_can_be_exported_for_any_size(kind: str) -> None:
    model = settled(build_deeplab(small(kind, stride=16, auxiliary=True), 4))
    auto = torch.export.Dim.AUTO
    program = torch.export.export(
        model, (torch.randn(2, 3, 48, 64),), dynamic_shapes=({0: auto, 2: auto, 3: auto},)
    )
    other = torch.randn(3, 3, 61, 77)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(other), model(other))


@pytest.mark.usefixtures("deterministic")
@KINDS
def test_a_step_repeats_itself_bit_for_bit(kind: str) -> None:
    def step() -> list[Tensor]:
        torch.manual_seed(3)
        model = build_deeplab(small(kind, auxiliary=True, stride=16), 4)
        main, second = model(torch.randn(2, 3, 48, 40))
        (main.exp().mean() + 0.1 * second.exp().mean()).backward()
        return [parameter.grad for parameter in model.parameters()]  # type: ignore[misc]

    assert all(torch.equal(one, other) for one, other in zip(step(), step(), strict=True))


def test_a_few_steps_learn_which_half_is_bright() -> None:
    model = build_deeplab(small(stride=8, auxiliary=True), 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    label = torch.zeros(4, 48, 48, dtype=torch.long)
    label[:2, :, 24:], label[2:, :, :24] = 1, 1
    image = (label[:, None] - 0.5 + 0.3 * torch.randn(4, 3, 48, 48)) * 2
    for _ in range(12):
        losses = [functional.cross_entropy(logits, label) for logits in model(image)]
        optimizer.zero_grad()
        (losses[0] + 0.1 * losses[1]).backward()
        optimizer.step()
    main, second = model(image)
    assert (main.argmax(1) == label).float().mean() > 0.9
    assert functional.cross_entropy(second, label) < 0.6
