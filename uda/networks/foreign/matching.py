"""Read state dicts of other programs without running code, and match their tensors to a network."""

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
"""smallest share of a network's tensors that a state dict must match"""

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
    """Matches between the tensors of a file and of a network; batch counters (no weights) are not counted."""

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
        """Share of the network's *tensors* that the file has.

        The share counts tensors, not elements: a decoder or a head may hold one percent of the elements, and a
        network without it predicts noise.
        """
        return len(self._weights) / self.counted if self.counted else 0.0

    def report(self) -> str:
        """One line: ``matched 118 of 120 tensors; missing: …; unexpected: …``."""
        groups = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", self.misshapen),
        )
        parts = [f"matched {len(self._weights)} of {self.counted} tensors"]
        parts += [f"{word}: {_listed(names)}" for word, names in groups if names]
        return "; ".join(parts)

    def require(self, where: str | Path) -> None:
        """Refuse a file that matches less than :data:`LEAST` of the network, or holds NaN or infinity.

        Raises:
            ModelError: with the report, or with the names of the bad tensors.
        """
        if self.share < LEAST:
            raise ModelError(
                f"the weights are of another network: {self.report()}",
                where=where,
                expected=f"at least {LEAST:.0%} of the network's tensors, by name and shape",
                fix="give the state dict of this network; prefixes such as 'module.' are removed",
            )
        if bad := [name for name, tensor in self.matched.items() if not _is_finite(tensor)]:
            raise ModelError(
                f"the weights hold NaN or infinity: {_listed(bad)}",
                where=where,
                fix="use a checkpoint from before the training diverged",
            )


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def match_state(model: nn.Module, tensors: Mapping[str, Any]) -> Matches:
    """Find the network's tensors in a state dict, or in a checkpoint that holds one under a key.

    Prefixes of wrappers (``module.``, ``model.``, ``network.``, ``net.``, ``_orig_mod.``) are removed or added where
    more tensors match then. Otherwise names and shapes must be equal.
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
    """The tensors of the mapping, then those of its nested mappings, usual keys first."""
    flat = {str(name): value for name, value in tensors.items() if isinstance(value, Tensor)}
    if flat:
        yield flat
    nested = [key for key, value in tensors.items() if isinstance(value, Mapping)]
    for key in sorted(nested, key=lambda k: _GROUPS.index(k) if k in _GROUPS else len(_GROUPS)):
        yield from _groups(tensors[key])


def _renamings(names: list[str], own: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """The unchanged names, then the names without up to three prefixes, then with one more prefix."""
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
    """Read a state dict or checkpoint: safetensors, or a torch file of tensors and plain values only.

    Raises:
        ModelError: the file is missing, damaged, or holds pickled objects, which are not opened.
    """
    if path.suffix == ".safetensors":
        return load_tensors(path)[0]
    if not path.is_file():
        raise ModelError("there is no such file", where=path, fix="give the path of a state dict")
    try:
        with warnings.catch_warnings():  # what it does not know also raises
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
