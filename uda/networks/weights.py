"""Weights of a backbone before training: torchvision's from ImageNet, or a file of them."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import nn

from uda.config.networks import AnyNetwork, DeepLab
from uda.errors import ConfigError, ModelError
from uda.networks.foreign import match_state, read_state

_CLASSIFIER = "fc."
"""what ImageNet's thousand classes have and a segmentation network has not"""
_PATIENCE = 30.0
"""seconds without an answer after which a download is given up"""


@dataclass(frozen=True)
class BackboneWeights:
    """What was loaded."""

    file: Path
    matched: int
    """tensors, all of the backbone's; counters of batches are not counted"""
    dropped: tuple[str, ...]
    """names of the file that belong to ImageNet's classifier"""


def weights_file(settings: DeepLab) -> Path | None:
    """The file that ``settings.weights`` names, there or not; for ``imagenet`` the one in torch hub's cache.

    Raises:
        ConfigError: ``imagenet`` for a backbone that nobody trained on it.
    """
    if settings.weights == "none":
        return None
    if settings.weights == "imagenet":
        return Path(torch.hub.get_dir()) / "checkpoints" / _name(_url(settings))
    return Path(settings.weights).expanduser()


def fetch_weights(settings: AnyNetwork) -> Path | None:
    """The file that ``settings.weights`` names, there and whole; that of ``imagenet`` is downloaded if need be.
    None for a network whose settings name none.

    Raises:
        ConfigError: ``imagenet`` for a backbone that nobody trained on it.
        ModelError: the file cannot be had, or is not what its name says.
    """
    if not isinstance(settings, DeepLab) or (file := weights_file(settings)) is None:
        return None
    if settings.weights == "imagenet" and not file.is_file():
        _download(_url(settings), file, settings.backbone)
    _check_hash(file)
    return file


def load_backbone_weights(model: nn.Module, settings: AnyNetwork) -> BackboneWeights | None:
    """Fill the ``backbone`` of a network; None where its settings name no weights, which leaves it as it was
    initialised.

    Raises:
        ConfigError: ``imagenet`` for a backbone that nobody trained on it.
        ModelError: the file cannot be had, is not what its name says, or holds other tensors than the
            backbone's; nothing is loaded then.
    """
    if not isinstance(settings, DeepLab) or (file := fetch_weights(settings)) is None:
        return None
    backbone = model.get_submodule("backbone")
    matches = match_state(backbone, read_state(file))
    dropped = tuple(name for name in matches.unexpected if name.startswith(_CLASSIFIER))
    if matches.missing or matches.misshapen or len(dropped) < len(matches.unexpected):
        raise ModelError(
            f"the weights are of another backbone: {matches.report()}",
            where=file,
            expected=f"every tensor of torchvision's {settings.backbone}, and at most its {_CLASSIFIER}* besides",
            fix="name the backbone these weights are of in network.backbone, or set network.weights=none",
        )
    matches.require(file)  # finite
    backbone.load_state_dict(matches.matched, strict=False)  # old files count no batches
    return BackboneWeights(file, matches.counted, dropped)


def _official() -> dict[str, Any]:
    from torchvision.models import ResNet18_Weights, ResNet50_Weights, ResNet101_Weights

    return {
        "resnet18": ResNet18_Weights,
        "resnet50": ResNet50_Weights,
        "resnet101": ResNet101_Weights,
    }


def _url(settings: DeepLab) -> str:
    """torchvision's address; the first version, trained as the ResNet paper says, is the one the field starts from."""
    makers = _official()
    if settings.backbone not in makers:
        raise ConfigError(
            f"there are no ImageNet weights of the {settings.backbone!r} backbone",
            where="network.weights",
            expected=f"network.backbone in {', '.join(makers)}, or weights: none",
            fix="set network.weights=none, or a file of your own",
        )
    return str(makers[settings.backbone].IMAGENET1K_V1.url)


def _name(url: str) -> str:
    return url.rpartition("/")[2]


def _download(url: str, file: Path, backbone: str) -> None:
    """Fetch torchvision's file into torch hub's cache, whole and with the right hash or not at all."""
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), _digest(file.name), progress=False)
    except (OSError, HTTPException, RuntimeError, ValueError) as error:
        raise ModelError(
            f"the ImageNet weights of {backbone} are not in torch hub's cache and cannot be downloaded: {error}",
            where=file,
            expected=f"the file {file.name} of {url}",
            fix=f"put it into {file.parent} (TORCH_HOME moves that folder), or name it where it lies: "
            f"network.weights=/path/to/{file.name}; or train from scratch: network.weights=none",
        ) from error
    finally:
        socket.setdefaulttimeout(patience)


def _digest(name: str) -> str | None:
    """The beginning of the SHA-256 that torchvision writes into its file names."""
    found = re.search(r"-([0-9a-f]{8,})\.pth$", name)
    return found.group(1) if found else None


def _check_hash(file: Path) -> None:
    """Refuse a file that bears a name of torchvision's and another content, such as half of it."""
    names = {_name(weights.url) for makers in _official().values() for weights in makers}
    digest = _digest(file.name) if file.name in names else None
    if digest is None or not file.is_file():
        return
    from uda.files.digests import sha256_of

    found = sha256_of(file)
    if not found.startswith(digest):
        raise ModelError(
            f"is not torchvision's file of this name: its SHA-256 begins with {found[: len(digest)]}",
            where=file,
            expected=digest,
            fix="copy or download the file again (half a file has this fault), or give it another name",
        )
