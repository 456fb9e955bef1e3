"""Weights from ImageNet: all of a backbone's tensors or none, from where they lie, and what is missing is named."""

from __future__ import annotations

import hashlib
import shutil
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from uda.config.networks import DeepLab
from uda.errors import ConfigError, ModelError
from uda.networks import weights
from uda.networks.deeplab import build_deeplab
from uda.networks.weights import load_backbone_weights, weights_file


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Of torchvision's ResNet-18."""
    from torchvision.models import resnet18

    torch.manual_seed(7)
    return dict(resnet18().state_dict())


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, state: dict[str, Tensor]) -> Path:
    """A file such as torchvision's: names, classifier and all."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(state, path)
    return path


def resnet18_settings(weights: str | Path) -> DeepLab:
    return DeepLab(kind="deeplab_v2", backbone="resnet18", weights=str(weights))


def content(model: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def test_a_file_fills_the_backbone_and_leaves_the_heads(
    file: Path, state: dict[str, Tensor]
) -> None:
    setting = resnet18_settings(file)
    model = build_deeplab(setting, 4)
    before = content(model.classifier)
    loaded = load_backbone_weights(model, setting)
    assert loaded is not None
    assert (loaded.file, loaded.matched) == (file, 100)
    assert loaded.dropped == ("fc.weight", "fc.bias")
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert all(map(torch.equal, content(model.classifier), before))


def test_the_filled_backbone_computes_what_torchvisions_network_computes(file: Path) -> None:
    from torchvision.models import resnet18

    setting = resnet18_settings(file)
    model = build_deeplab(setting, 4)
    load_backbone_weights(model, setting)
    net = resnet18()
    net.load_state_dict(torch.load(file, weights_only=True))
    net.eval().fc = nn.Identity()
    with torch.no_grad():
        image = torch.randn(2, 3, 64, 64)
        features = model.eval().backbone(image)[1][..., ::4, ::4]
        torch.testing.assert_close(features.mean((2, 3)), net(image))


def test_without_weights_nothing_changes() -> None:
    setting = resnet18_settings("none")
    model = build_deeplab(setting, 4)
    before = content(model)
    assert load_backbone_weights(model, setting) is None
    assert weights_file(setting) is None
    assert all(map(torch.equal, content(model), before))


def test_a_safetensors_file_without_counters_or_classifier_fills_it_too(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    from safetensors.torch import save_file

    kept = {
        n: t
        for n, t in state.items()
        if not n.startswith("fc.") and not n.endswith("num_batches_tracked")
    }
    save_file(kept, tmp_path / "own.safetensors")
    setting = resnet18_settings(tmp_path / "own.safetensors")
    model = build_deeplab(setting, 4)
    loaded = load_backbone_weights(model, setting)
    assert loaded is not None
    assert loaded.dropped == ()
    assert torch.equal(model.backbone.conv1.weight, state["conv1.weight"])


def without_one(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t for n, t in state.items() if n != "layer3.1.conv2.weight"}


def with_another(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "layer5.0.conv1.weight": torch.zeros(1)}


def with_four_channels(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "conv1.weight": torch.zeros(64, 4, 7, 7)}


def with_nan(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "bn1.weight": torch.full((64,), torch.nan)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_one, "matched 99 of 100 tensors; missing: layer3.1.conv2.weight"),
        (with_another, "unexpected: fc.weight, fc.bias, layer5.0.conv1.weight"),
        (with_four_channels, r"of another shape: conv1.weight \[64, 4, 7, 7\] for \[64, 3, 7, 7\]"),
        (with_nan, "hold NaN or infinity: bn1.weight"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_none_is_loaded(
    tmp_path: Path, state: dict[str, Tensor], change: Any, message: str
) -> None:
    torch.save(change(state), tmp_path / "bad.pth")
    setting = resnet18_settings(tmp_path / "bad.pth")
    model = build_deeplab(setting, 4)
    before = content(model)
    with pytest.raises(ModelError, match=message) as caught:
        load_backbone_weights(model, setting)
    assert caught.value.where == tmp_path / "bad.pth"
    assert all(map(torch.equal, content(model), before))


def test_weights_of_another_resnet_are_refused(file: Path) -> None:
    setting = DeepLab(kind="deeplab_v2", backbone="small", weights=str(file))
    with pytest.raises(ModelError, match="of another backbone") as caught:
        load_backbone_weights(build_deeplab(setting, 4), setting)
    assert "network.backbone" in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    setting = resnet18_settings(tmp_path / "none.pth")
    with pytest.raises(ModelError, match="no such file") as caught:
        load_backbone_weights(build_deeplab(setting, 4), setting)
    assert caught.value.where == tmp_path / "none.pth"


def test_objects_in_a_file_are_not_opened(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Path("x")}, tmp_path / "object.pth")
    setting = resnet18_settings(tmp_path / "object.pth")
    with pytest.raises(ModelError, match="cannot be read as tensors alone"):
        load_backbone_weights(build_deeplab(setting, 4), setting)


def test_the_small_backbone_has_no_weights_from_imagenet() -> None:
    setting = DeepLab(kind="deeplab_v2", backbone="small", weights="imagenet")
    with pytest.raises(ConfigError, match="no ImageNet weights of the 'small' backbone") as caught:
        load_backbone_weights(build_deeplab(setting, 4), setting)
    assert "network.weights=none" in str(caught.value)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch hub's folder of files, empty."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def published(monkeypatch: pytest.MonkeyPatch, folder: Path, file: Path, digest: str = "") -> str:
    """Let torchvision's ResNet-18 lie in a folder of ours; the name of its file."""
    digest = digest or hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    address = (folder / f"resnet18-{digest}.pth").as_uri()

    class Weights(Enum):
        IMAGENET1K_V1 = address

        @property
        def url(self) -> str:
            return self.value

    monkeypatch.setattr(weights, "_official", lambda: {"resnet18": Weights})
    return f"resnet18-{digest}.pth"


def test_torchvisions_file_is_looked_for_where_torchvision_keeps_it(cache: Path) -> None:
    names = {
        backbone: weights_file(
            DeepLab(kind="deeplab_v2", backbone=backbone, weights="imagenet")  # type: ignore[arg-type]
        )
        for backbone in ("resnet18", "resnet50", "resnet101")
    }
    assert names == {
        "resnet18": cache / "resnet18-f37072fd.pth",
        "resnet50": cache / "resnet50-0676ba61.pth",
        "resnet101": cache / "resnet101-63fe2227.pth",
    }


def test_a_file_in_the_cache_is_used_and_not_fetched(
    cache: Path,
    file: Path,
    tmp_path: Path,
    state: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = published(monkeypatch, tmp_path / "nowhere", file)
    cache.mkdir(parents=True)
    shutil.copy(file, cache / name)
    setting = resnet18_settings("imagenet")
    model = build_deeplab(setting, 4)
    loaded = load_backbone_weights(model, setting)
    assert loaded is not None
    assert loaded.file == cache / name
    assert torch.equal(model.backbone.bn1.weight, state["bn1.weight"])
    assert torch.equal(model.backbone.conv1.weight, state["conv1.weight"])


def test_a_file_is_fetched_into_the_cache_without_a_word(
    cache: Path,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    name = published(monkeypatch, tmp_path, file)
    shutil.copy(file, tmp_path / name)
    setting = resnet18_settings("imagenet")
    assert load_backbone_weights(build_deeplab(setting, 4), setting) is not None
    assert (cache / name).read_bytes() == file.read_bytes()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("there", [False, True])
def test_what_cannot_be_fetched_says_which_file_belongs_where(
    cache: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    name = published(monkeypatch, tmp_path, file, "0123abcd")
    if there:  # but another file
        shutil.copy(file, tmp_path / name)
    setting = resnet18_settings("imagenet")
    with pytest.raises(ModelError, match="ImageNet weights of resnet18") as caught:
        load_backbone_weights(build_deeplab(setting, 4), setting)
    for message in (
        name,
        str(cache),
        "TORCH_HOME",
        "network.weights=none",
        "network.weights=/path",
    ):
        assert message in str(caught.value)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("by_path", [False, True])
def test_half_a_file_of_torchvisions_name_is_refused(
    cache: Path, file: Path, tmp_path: Path, by_path: bool
) -> None:
    folder = tmp_path if by_path else cache
    folder.mkdir(parents=True, exist_ok=True)
    half = folder / "resnet18-f37072fd.pth"
    half.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    setting = resnet18_settings(half if by_path else "imagenet")
    with pytest.raises(ModelError, match="is not torchvision's file of this name") as caught:
        load_backbone_weights(build_deeplab(setting, 4), setting)
    assert caught.value.where == half
    assert caught.value.expected == "f37072fd"
