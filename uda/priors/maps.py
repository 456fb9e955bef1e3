"""Spatial priors (class frequency at each pixel): relative maps, validation, and their files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uda.errors import PriorError, UdaError
from uda.files.atomic import load_tensors, save_tensors

SUM_TOLERANCE = 1e-4
FORMAT = "uda-prior-maps-1"
METADATA = "uda-prior"
"""the one metadata key of the tensor file; the order of several keys could vary"""


def relative_maps(maps: Tensor, low: float = 0.1, high: float = 10.0) -> Tensor:
    """Each class's map divided by its spatial mean, clamped to ``[low, high]``: CBST-SP multiplies p by it.

    A class that is equally likely everywhere becomes 1. So does a class that occurs nowhere, because its
    place is unknown.

    Source: Zou et al., Unsupervised Domain Adaptation via Class-Balanced Self-Training, ECCV 2018.

    Args:
        maps: ``[k, *s]``, class frequencies.
        low, high: bounds, 0 < low ≤ 1 ≤ high.

    Returns:
        ``[k, *s]`` of the same type.

    Raises:
        PriorError: impossible bounds, or maps that are negative or not finite.

    Example:
        >>> import torch
        >>> relative_maps(torch.tensor([[[0.5, 1.0], [1.0, 1.0]], [[0.5, 0.0], [0.0, 0.0]]]))
        tensor([[[0.5714, 1.1429],
                 [1.1429, 1.1429]],
        <BLANKLINE>
                [[4.0000, 0.1000],
                 [0.1000, 0.1000]]])
    """
    if not 0 < low <= 1 <= high:
        raise PriorError(f"low {low:g} and high {high:g}", expected="0 < low ≤ 1 ≤ high")
    if maps.ndim < 2 or not bool(torch.isfinite(maps).all() & (maps >= 0).all()):
        raise PriorError(
            f"maps of shape {tuple(maps.shape)} cannot be class frequencies",
            expected="[k, h, w], finite and none negative",
            fix="make them with `uda prior --kind spatial`",
        )
    mean = maps.mean(dim=tuple(range(1, maps.ndim)), keepdim=True)
    nowhere = mean == 0
    relative = maps / mean.masked_fill(nowhere, 1)
    return relative.masked_fill(nowhere, 1).clamp(low, high)


def maps_fault(maps: Tensor, classes: int, where: Path | str) -> PriorError | None:
    """The reason why maps cannot be class frequencies, or None."""
    if maps.ndim != 3 or maps.shape[0] != classes:
        what = f"maps have shape {tuple(maps.shape)}"
    elif not bool(torch.isfinite(maps).all()) or bool((maps < 0).any()):
        what = f"maps hold values from {float(maps.min()):g} to {float(maps.max()):g}"
    elif maps.numel() == 0 or float((maps.sum(0) - 1).abs().max()) > SUM_TOLERANCE:
        what = "maps do not sum to 1 over the classes at every pixel"
    else:
        return None
    return PriorError(
        what,
        where=where,
        expected=f"[{classes}, h, w], none negative, sum 1 over the classes (background included)",
        fix="make the prior again with `uda prior`",
    )


def maps_digest(maps: Tensor) -> str:
    """SHA-256 of shape and float32 values."""
    values = maps.detach().cpu().float().contiguous()
    return hashlib.sha256(str(list(values.shape)).encode() + values.numpy().tobytes()).hexdigest()


def save_maps(
    path: Path, classes: Sequence[str], maps: Tensor, upright: bool = False
) -> dict[str, Any]:
    """Write maps and picture beside ``path`` (a prior.json); returns shape and SHA-256 for the JSON.

    Raises:
        PriorError: ``path`` has the name of its own maps or picture.
    """
    from uda.priors.picture import draw_maps

    tensors = _tensors(path)
    if path in (tensors, _picture(path)):
        raise name_taken(path)
    maps = maps.detach().cpu().float().contiguous()
    metadata = json.dumps({"format": FORMAT, "classes": list(classes)})
    save_tensors(tensors, {"maps": maps}, {METADATA: metadata})
    draw_maps(_picture(path), classes, maps, upright)
    return {"shape": list(maps.shape), "sha256": maps_digest(maps)}


def name_taken(path: Path) -> PriorError:
    """The fault of a prior.json whose name is that of its own tensors or picture."""
    return PriorError(
        f"a prior cannot be called {path.name}: its tensors or their picture have this name",
        expected="a name that ends in .json",
        fix="give it another name",
    )


def load_maps(path: Path, said: Mapping[str, Any]) -> Tensor:
    """Read the maps beside ``path`` (a prior.json).

    Args:
        said: their shape and SHA-256, from the JSON.

    Raises:
        PriorError: the file is missing, or its maps have another SHA-256.
    """
    tensors, shape, digest = _tensors(path), list(said["shape"]), str(said["sha256"])
    fix = f"copy it there together with {path.name}, or make the prior again with `uda prior`"
    if not tensors.is_file():
        raise PriorError(
            f"{path.name} refers to maps {shape}, but this file does not exist",
            where=tensors,
            fix=fix,
        )
    try:
        maps = load_tensors(tensors)[0].get("maps")
    except UdaError as error:
        raise PriorError(error.what, where=tensors, expected="the maps", fix=fix) from error
    if maps is None or maps.dtype != torch.float32 or maps_digest(maps) != digest:
        found = "no maps" if maps is None else f"maps {list(maps.shape)}, {maps.dtype}"
        raise PriorError(
            f"holds {found}, not those that {path.name} was written with",
            where=tensors,
            expected=f"maps {shape}, float32, with the SHA-256 in {path.name}",
            fix=fix,
        )
    return maps


def _tensors(path: Path) -> Path:
    return path.with_suffix(".safetensors")


def _picture(path: Path) -> Path:
    return path.with_suffix(".png")
