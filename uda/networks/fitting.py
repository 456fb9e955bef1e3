"""Whether tensors of a file are the weights of a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from uda.errors import ModelError


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
