"""Model files: a network with everything its next user needs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from uda.config.card import AnyPrepare, DatasetCard, PhotoPrepare, Prepare
from uda.config.fields import FILE_NAME
from uda.config.loading import parse
from uda.config.networks import NETWORKS, AnyNetwork, ForeignNetwork, Network
from uda.errors import ModelError, UdaError, nearest
from uda.files.atomic import load_tensors, save_tensors
from uda.files.untrusted import parse_json
from uda.networks.build import build
from uda.networks.foreign import ForeignModel, digest
from uda.networks.image_ranges import ImageRanges
from uda.networks.limits import Limits
from uda.networks.size_distribution import SizeDistribution

MODEL_FILE = "model.safetensors"
"""name of a model file in the folder of its stage"""
FORMAT = "uda-model-1"
PROGRAM = "uda.program"
"""tensor of a model file that holds the bytes of a foreign program"""
TRUSTED = "trusted_code"
"""entry of a model's origin: SHA-256 of the TorchScript program that the writer of the file trusted; no permission"""


@dataclass(frozen=True)
class ModelInfo:
    """What travels with the weights: with this and an image a stranger can predict and adapt."""

    network: AnyNetwork
    classes: tuple[str, ...]
    prepare: AnyPrepare
    """how the images of its (last) domain are read"""
    supervision: tuple[str, ...]
    """everything that any stage on the way to these weights was told"""
    class_ratio: tuple[float, ...] | None = None
    """mean class ratio of the labelled training slices: the prior a source-free user has"""
    presence_ratio: tuple[float, ...] | None = None
    """the same over slices that show the class"""
    step: int = 0
    origin: dict[str, str] = field(default_factory=dict)
    sizes: SizeDistribution | None = None
    """how often and how large the classes are in the labelled training slices"""
    images: ImageRanges | None = None
    """what the images of its (last) domain were like, so that others are noticed; None: nobody measured them"""
    limits: Limits | None = None
    """of the measures of a prediction, calibrated on the source's validation images; None: nobody did"""

    def to_json(self) -> str:
        raw = {
            "format": FORMAT,
            "network": self.network.model_dump(mode="json"),
            "classes": self.classes,
            "prepare": self.prepare.model_dump(mode="json"),
            "supervision": self.supervision,
            "class_ratio": self.class_ratio,
            "presence_ratio": self.presence_ratio,
            "step": self.step,
            "origin": self.origin,
        }
        if self.sizes is not None:
            raw["sizes"] = self.sizes.as_json()
        if self.images is not None:
            raw["images"] = self.images.as_json()
        if self.limits is not None:
            raw["limits"] = self.limits.as_json()
        return json.dumps(raw, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, path: Path) -> ModelInfo:
        try:
            raw: dict[str, Any] = parse_json(text)
            if raw["format"] != FORMAT:
                raise ModelError(f"has format {raw['format']!r}", where=path, expected=FORMAT)
            ratios = {
                key: tuple(float(share) for share in raw[key]) if raw[key] else None
                for key in ("class_ratio", "presence_ratio")
            }
            return cls(
                network=_network(raw["network"], path),
                classes=_class_names(raw["classes"]),
                prepare=_prepare(raw["prepare"], path),
                supervision=_names(raw["supervision"]),
                step=int(raw["step"]),
                origin=dict(raw["origin"]),
                sizes=SizeDistribution.from_json(raw["sizes"]) if "sizes" in raw else None,
                images=ImageRanges.from_json(raw["images"]) if "images" in raw else None,
                limits=Limits.from_json(raw["limits"]) if "limits" in raw else None,
                **ratios,
            )
        except UdaError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"its description is incomplete: {error!r}",
                where=path,
                fix="use a model.safetensors that a stage of uda wrote",
            ) from error

    def with_supervision(self, supervision: Iterable[str]) -> ModelInfo:
        """The same with more entries in the ledger."""
        return replace(self, supervision=union(self.supervision, supervision))


def union(*ledgers: Iterable[str]) -> tuple[str, ...]:
    """Ledger entries without repeats, in order; ``none`` only when there is nothing else."""
    entries = list(dict.fromkeys(entry for ledger in ledgers for entry in ledger))
    return tuple(e for e in entries if e != "none") or ("none",)


def _class_names(raw: Any) -> tuple[str, ...]:
    names = _names(raw)
    distinct = len(set(names)) == len(names)
    if len(names) < 2 or not distinct or not all(FILE_NAME.fullmatch(name) for name in names):
        raise ValueError(f"{str(raw)[:80]!r} where distinct classes are expected")
    return names


def _names(raw: Any) -> tuple[str, ...]:
    if not isinstance(raw, list) or not all(isinstance(name, str) for name in raw):
        raise ValueError(f"{str(raw)[:80]!r} where names are expected")
    return tuple(raw)


def _network(raw: Any, path: Path) -> AnyNetwork:
    kind = dict(raw).get("kind", "unet")
    if kind not in NETWORKS:
        raise ModelError(
            f"network.kind: got {kind!r}", where=path, expected=nearest(str(kind), NETWORKS)
        )
    return parse(NETWORKS[kind], raw, path)


def _prepare(raw: Any, path: Path) -> AnyPrepare:
    if dict(raw).get("kind") == "photo":
        return parse(PhotoPrepare, raw, path)
    return parse(Prepare, raw, path)


def own_network(model: nn.Module) -> nn.Module:
    """The module whose names stand in files and reports: a foreign network without its adapter."""
    return model.network if isinstance(model, ForeignModel) else model


def save_model(path: Path, model: nn.Module, info: ModelInfo) -> None:
    """Weights, buffers, description and, where it has one, the program in one safetensors file, whole or not at all."""
    tensors: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in own_network(model).state_dict().items():
        shared = tensor.data_ptr() in places  # tied weights: the file holds each by its name
        places.add(tensor.data_ptr())
        tensors[name] = tensor.clone() if shared else tensor
    if isinstance(model, ForeignModel) and model.program is not None:
        tensors[PROGRAM] = torch.frombuffer(bytearray(model.program), dtype=torch.uint8)
        if model.settings.kind == "torchscript":
            info = replace(info, origin={**info.origin, TRUSTED: digest(model.program)})
    save_tensors(path, tensors, {"uda": info.to_json()})


def model_path(path: Path) -> Path:
    """A model file; of a folder the one in it."""
    return path / MODEL_FILE if os.path.isdir(path) else path


def load_model(
    path: Path, *, trust_code: bool = False, known: nn.Module | None = None
) -> tuple[nn.Module, ModelInfo]:
    """A network with its description; a stage folder stands for the model in it.

    Args:
        trust_code: run the code of a TorchScript program. Nothing in the file can give this permission.
        known: a model that is open already; a file that holds the very same program needs no other permission.

    Raises:
        ModelError: no such file, a pickle, without description, weights of another architecture, a network of
            Python code that this process has not registered, or TorchScript without permission.
    """
    path = model_path(path)
    tensors, info = _opened(path)
    stored = tensors.pop(PROGRAM, None)
    program = None if stored is None else stored.numpy().tobytes()
    if not isinstance(info.network, ForeignNetwork):
        with torch.device("meta"):  # before memory is given to whatever the description says
            shell = build(info.network, len(info.classes), info.prepare.channels)
        check_fit(shell, tensors, path)
        check_finite(tensors, path)
        if isinstance(info.network, Network):  # the others enlarge their logits to any size
            _check_size(shell, info, path)
    try:
        trusted = trust_code or (
            program is not None and isinstance(known, ForeignModel) and known.program == program
        )
        model = build(info.network, len(info.classes), info.prepare.channels, program, trusted)
    except ModelError as error:
        raise ModelError(error.what, where=path, expected=error.expected, fix=error.fix) from error
    load_weights(own_network(model), tensors, path)
    return model, info


def read_info(path: Path) -> ModelInfo:
    """The description of a model file, or of the one in a stage folder; its network is not built and runs no code.

    Raises:
        ModelError: no such file, a pickle, or no description.
    """
    return _opened(model_path(path))[1]


def _opened(path: Path) -> tuple[dict[str, Tensor], ModelInfo]:
    tensors, metadata = load_tensors(path)
    if "uda" not in metadata:
        raise ModelError(
            "holds weights without a description (classes, network, preprocessing)",
            where=path,
            expected="a model.safetensors that a stage of uda wrote",
            fix="import a network of your own with `uda import NETWORK --weights FILE`",
        )
    return tensors, ModelInfo.from_json(metadata["uda"], path)


@torch.no_grad()
def _check_size(shell: nn.Module, info: ModelInfo, path: Path) -> None:
    """Refuse a size of images that the network cannot take; its shell runs without memory.

    Raises:
        ModelError: the network halves the images more often than they can be halved.
    """
    size = info.network.patch or info.prepare.size
    channels = 1 if info.network.patch else info.prepare.channels
    cause: Exception | None = None
    try:
        answer = shell.eval()(torch.empty(1, channels, *size, device="meta"))
        if tuple(answer.shape[2:]) == tuple(size):
            return
    except (RuntimeError, ValueError) as error:
        cause = error
    raise ModelError(
        f"its network cannot take the images of its description: {list(size)} pixels",
        where=path,
        expected="a size that the network can halve at each of its levels",
        fix="use a model.safetensors that a stage of uda wrote",
    ) from cause


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put every tensor in its place.

    Raises:
        ModelError: names missing, unexpected and misshapen tensors; nothing is loaded then.
    """
    check_fit(model, tensors, path)
    model.load_state_dict(tensors)


def check_fit(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that are not those of the network, which may be a shell without memory (``meta``).

    Raises:
        ModelError: names missing, unexpected and misshapen tensors.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in tensors]
    unexpected = [name for name in tensors if name not in own]
    misshapen = [
        f"{name} {told}"
        for name in own
        if name in tensors and (told := _difference(tensors[name], own[name]))
    ]
    if missing or unexpected or misshapen:
        groups = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        listed = "; ".join(f"{len(g)} {word}: {', '.join(g[:3])}" for word, g in groups if g)
        matched = len(own) - len(missing) - len(misshapen)
        raise ModelError(
            f"the weights are of another architecture: {matched} of {len(own)} tensors match; {listed}",
            where=path,
            expected="the weights of the network its description or recipe names",
            fix="use the recipe or network settings this model was trained with",
        )


def _difference(given: Tensor, own: Tensor) -> str:
    """How a tensor differs from the one whose place it should take; whole numbers stay whole, real ones real."""
    if given.shape != own.shape:
        return f"{tuple(given.shape)} for {tuple(own.shape)}"
    if (given.is_floating_point(), given.is_complex()) != (own.is_floating_point(), False):
        return f"{given.dtype} for {own.dtype}"
    return ""


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that are NaN or infinite: every image would get the same answer.

    Raises:
        ModelError: names the first.
    """
    broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ModelError(
            f"{len(broken)} of its tensors hold NaN or infinite values: {', '.join(broken[:3])}",
            where=path,
            expected="finite weights",
            fix="use an earlier model, from before its training diverged",
        )


@dataclass(frozen=True)
class Trained:
    """A trained model as its file holds it: read once, and handed to everything that starts from it."""

    network: nn.Module
    info: ModelInfo
    path: Path

    @classmethod
    def load(cls, path: Path, *, trust_code: bool = False) -> Trained:
        """Read a model file, or the one of a stage folder.

        Args:
            trust_code: run the code of a TorchScript program.

        Raises:
            ModelError: as :func:`load_model`.
        """
        return cls(*load_model(path, trust_code=trust_code), path)


def check_classes(info: ModelInfo, card: DatasetCard, where: Path | str) -> None:
    """Refuse a model whose classes are not the card's."""
    if info.classes != card.classes:
        raise ModelError(
            f"the model has {len(info.classes)} classes {list(info.classes)}",
            where=where,
            expected=f"the {len(card.classes)} of card {card.name!r}: {list(card.classes)}",
            fix="use a card that names the model's classes in the model's order",
        )


def card_of(info: ModelInfo) -> DatasetCard:
    """A card for a folder of images, with the model's classes and preparation."""
    return DatasetCard(
        name="target",
        title="images of a folder",
        images="{case}",
        classes=info.classes,
        label_values={name: (index,) for index, name in enumerate(info.classes)},
        prepare=info.prepare,
    )
