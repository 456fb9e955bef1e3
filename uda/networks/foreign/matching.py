"""State dicts of other programs: reading them without running anything, and finding whose tensors they are."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from uda.errors import ModelError
from uda.files.atomic import load_tensors

LEAST = 0.9
"""share of a network's tensors that a state dict must fit"""

_GROUPS = (
    "state_dict",
    "model_state_dict",
    "network_weights",
    "model",
    "network",
    "net",
    "weights",
)
_PREFIXES = ("module.", "model.", "network.", "net.", "_orig_mod.")
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Matches:
    """Which tensors of a file belong to which of a network; counters of batches, which weigh nothing, are left out."""

    matched: dict[str, Tensor]
    """name in the network → tensor of the file"""
    missing: tuple[str, ...]
    """names of the network that the file lacks"""
    unexpected: tuple[str, ...]
    """names of the file that the network lacks"""
    misshapen: tuple[str, ...]
    """names of both, with the two shapes"""

    @property
    def counted(self) -> int:
        return len(self._weights) + len(self.missing) + len(self.misshapen)

    @property
    def _weights(self) -> list[str]:
        return [name for name in self.matched if not name.endswith(_COUNTER)]

    @property
    def share(self) -> float:
        """Share of the network's *tensors* that the file fills.

        By number, not by elements: a decoder or a head may hold one percent of the elements, and a network
        without it predicts noise.
        """
        return len(self._weights) / self.counted if self.counted else 0.0

    def report(self) -> str:
        """One line: ``matched 118 of 120 tensors; missing: …; unexpected: …``."""
        groups = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", self.misshapen),
        )
        said = [f"matched {len(self._weights)} of {self.counted} tensors"]
        said += [f"{word}: {_listed(names)}" for word, names in groups if names]
        return "; ".join(said)

    def require(self, where: str | Path) -> None:
        """Refuse a file of which less than :data:`LEAST` fits.

        Raises:
            ModelError: with the report.
        """
        if self.share < LEAST:
            raise ModelError(
                f"the weights are of another network: {self.report()}",
                where=where,
                expected=f"at least {LEAST:.0%} of the network's tensors, by name and shape",
                fix="give the state dict of this very network; prefixes such as 'module.' are taken off",
            )
        if bad := [name for name, tensor in self.matched.items() if not _is_finite(tensor)]:
            raise ModelError(
                f"the weights hold NaN or infinity: {_listed(bad)}",
                where=where,
                fix="take a checkpoint from before the training diverged",
            )


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def match_state(model: nn.Module, tensors: Mapping[str, Any]) -> Matches:
    """Find the network's tensors in a state dict, also in a checkpoint that holds it under a key.

    Prefixes that wrappers leave (``module.``, ``model.``, ``network.``, ``net.``, ``_orig_mod.``) are taken off, or put
    on, where more tensors fit then. Names must agree otherwise, and so must shapes.
    """
    own = model.state_dict()
    best: Matches | None = None
    for group in _groups(tensors):
        for names in _renamings(list(group), own):
            found = _compare(own, dict(zip(names, group.values(), strict=True)))
            if best is None or len(found.matched) > len(best.matched):
                best = found
    return best or _compare(own, {})


def _groups(tensors: Mapping[str, Any]) -> Iterator[dict[str, Tensor]]:
    """The mapping's own tensors, then those below its keys, the usual ones first."""
    flat = {str(name): value for name, value in tensors.items() if isinstance(value, Tensor)}
    if flat:
        yield flat
    nested = [key for key, value in tensors.items() if isinstance(value, Mapping)]
    for key in sorted(nested, key=lambda k: _GROUPS.index(k) if k in _GROUPS else len(_GROUPS)):
        yield from _groups(tensors[key])


def _renamings(names: list[str], own: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """The names as they are, then without up to three prefixes, then with one."""
    seen: set[tuple[str, ...]] = set()
    stage = [names, [name.replace("_orig_mod.", "") for name in names]]
    for _ in range(4):
        following = []
        for candidate in stage:
            if tuple(candidate) in seen:
                continue
            seen.add(tuple(candidate))
            yield candidate
            following += [
                [name.removeprefix(prefix) for name in candidate]
                for prefix in _PREFIXES
                if any(name.startswith(prefix) for name in candidate)
            ]
        stage = following
    for prefix in _PREFIXES:
        if any(name.startswith(prefix) for name in own):
            yield [prefix + name for name in names]


def _compare(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Matches:
    matched = {n: given[n] for n in own if n in given and given[n].shape == own[n].shape}
    counts = [name for name in own if not name.endswith(_COUNTER)]
    return Matches(
        matched=matched,
        missing=tuple(name for name in counts if name not in given),
        unexpected=tuple(n for n in given if n not in own and not n.endswith(_COUNTER)),
        misshapen=tuple(
            f"{name} {list(given[name].shape)} for {list(own[name].shape)}"
            for name in counts
            if name in given and name not in matched
        ),
    )


def read_state(path: Path) -> Mapping[str, Any]:
    """A state dict or checkpoint: safetensors, or a torch file of which only tensors and plain values are opened.

    Raises:
        ModelError: missing, damaged, or with pickled objects, which are not opened.
    """
    if path.suffix == ".safetensors":
        return load_tensors(path)[0]
    if not path.is_file():
        raise ModelError("there is no such file", where=path, fix="give the path of a state dict")
    try:
        with warnings.catch_warnings():  # of what it does not know it raises, too
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or damaged file can make the unpickler raise anything
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"cannot be read as tensors alone: {reason[0][:200]}",
            where=path,
            expected="a state dict: torch.save(model.state_dict(), path), or .safetensors",
            fix="save the state dict alone; pickled objects can run code and are not opened",
        ) from error
    if isinstance(found, Tensor) or not isinstance(found, Mapping):
        raise ModelError(
            f"holds a {type(found).__name__}", where=path, expected="names and tensors"
        )
    return found
