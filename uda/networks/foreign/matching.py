"""Read state dicts of other programs without running code, and match their tensors to a network."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from uda.errors import ModelError
from uda.files.atomic import load_tensors, program_in
from uda.files.untrusted import head_of

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
_REAL = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_WHOLE = {torch.bool, torch.int8, torch.int16, torch.int32, torch.int64} | {
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
}
_OBJECT = re.compile(r"GLOBAL ([\w.]{1,100}) ")
"""how torch names the class of an object that it does not open"""


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
    odd: tuple[str, ...] = ()
    """names of both whose tensors have no plain real values, with what they are instead"""
    place: str = ""
    """key of the mapping in the file that these tensors are in"""
    others: tuple[str, ...] = ()
    """keys of further mappings that fit the network"""

    @property
    def counted(self) -> int:
        return len(self._weights) + len(self.missing) + len(self.misshapen) + len(self.odd)

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

    @property
    def fits(self) -> bool:
        """Whether the file is of this network: it has at least :data:`LEAST` of the tensors, plain or not."""
        return 0 < LEAST * self.counted <= len(self._weights) + len(self.odd)

    def report(self) -> str:
        """One line: ``matched 118 of 120 tensors; missing: …; unexpected: …``.

        Where several mappings of a checkpoint fit, it says which one was taken.
        """
        groups = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", self.misshapen),
            ("not plain", self.odd),
        )
        parts = [f"matched {len(self._weights)} of {self.counted} tensors"]
        if self.others:
            parts += [f"taken from {self.place}, although others fit, too: {_listed(self.others)}"]
        parts += [f"{word}: {_listed(names)}" for word, names in groups if names]
        return "; ".join(parts)

    def require(self, where: str | Path) -> None:
        """Refuse a file that matches less than :data:`LEAST` of the network, or holds no plain finite values.

        Raises:
            ModelError: with the report, or with the names of the bad tensors.
        """
        if self.odd:
            raise ModelError(
                f"the weights hold tensors that are not plain: {_listed(self.odd)}",
                where=where,
                expected="dense tensors with values, float32, float64, float16 or bfloat16 where the network's are",
                fix="save the weights themselves as such tensors: .to_dense(), .dequantize() or .float() makes them; "
                "a tensor on the device 'meta' has none",
            )
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

    Of several state dicts, such as one of the weights and one of their moving average, the one with the most
    matches is taken; among equals the first under a usual key (``state_dict``, …, ``model``, …), then the first.
    """
    own = model.state_dict()
    found = [replace(_best(own, group), place=place) for place, group in _groups(tensors)]
    best = max(found, key=_fit, default=_compare(own, {}))
    return replace(
        best,
        matched={
            name: tensor.to(own[name].dtype) if own[name].is_floating_point() else tensor
            for name, tensor in best.matched.items()
        },
        others=tuple(one.place for one in found if one.fits and one is not best),
    )


def _best(own: Mapping[str, Tensor], group: Mapping[str, Tensor]) -> Matches:
    """The most matches that one state dict has under any renaming."""
    return max(
        (
            _compare(own, dict(zip(names, group.values(), strict=True)))
            for names in _renamings(list(group), own)
        ),
        key=_fit,
    )


def _fit(matches: Matches) -> tuple[int, int]:
    return len(matches.matched), len(matches.odd)


def _groups(tensors: Mapping[Any, Any]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Keys and tensors of the mapping, then of its nested mappings, usual keys first; each mapping once."""
    waiting: list[tuple[str, Mapping[Any, Any]]] = [("", tensors)]
    seen: dict[int, Mapping[Any, Any]] = {}
    while waiting:
        place, found = waiting.pop()
        if id(found) in seen:
            continue
        seen[id(found)] = found
        flat = {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if flat:
            yield place or "its top level", flat
        nested = [key for key, value in found.items() if isinstance(value, Mapping)]
        nested.sort(key=lambda k: _GROUPS.index(k) if k in _GROUPS else len(_GROUPS))
        for key in reversed(nested):
            name = str(key) if isinstance(key, str | int) else type(key).__name__
            waiting.append((f"{place}.{name}".lstrip(".")[-100:], found[key]))


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
    both = [name for name in own if name in given]
    odd = {n: told for n in both if (told := oddity(n, given[n], own[n]))}
    matched = {n: given[n] for n in both if n not in odd and given[n].shape == own[n].shape}
    counts = [name for name in own if not name.endswith(_COUNTER)]
    return Matches(
        matched=matched,
        missing=tuple(name for name in counts if name not in given),
        unexpected=tuple(n for n in given if n not in own and not n.endswith(_COUNTER)),
        misshapen=tuple(
            f"{name} {list(given[name].shape)} for {list(own[name].shape)}"
            for name in counts
            if name in given and name not in matched and name not in odd
        ),
        odd=tuple(f"{name} {told}" for name, told in odd.items()),
    )


def oddity(name: str, given: Tensor, own: Tensor) -> str:
    """Why a tensor cannot take the place of a network's own; empty if it can, or has another shape.

    Whole numbers do not stand for real ones, because they are codes that need a scale. Real ones stand for whole
    ones, as averaging leaves them, if they are whole; batch counters need not be.
    """
    if type(given) not in (Tensor, nn.Parameter):
        return f"is a {type(given).__name__}"
    if given.is_nested:
        return "is nested"
    if given.shape != own.shape:
        return ""
    if given.layout != torch.strided:
        return f"is sparse ({given.layout})"
    if given.is_quantized:
        return f"is quantized ({given.dtype})"
    if given.is_complex():
        return f"is complex ({given.dtype})"
    if given.is_meta:
        return "is on the device 'meta', without values"
    if own.is_floating_point():
        fits = given.dtype in _REAL
    else:
        fits = given.dtype in _REAL | _WHOLE and (
            given.dtype == own.dtype
            or name.endswith(_COUNTER)
            or torch.equal(given.to(own.dtype).to(given.dtype), given)
        )
    if fits:
        return ""
    return f"is {given.dtype}" + (f" for {own.dtype}" if given.dtype != own.dtype else "")


def read_state(path: Path) -> Mapping[str, Any]:
    """Read a state dict or checkpoint: safetensors, or a torch file of tensors and plain values only.

    Raises:
        ModelError: the file is missing, damaged, or holds pickled objects, which are not opened.
    """
    if path.suffix == ".safetensors":
        return load_tensors(path)[0]
    head_of(path, "give the path of a state dict")
    if program := program_in(path):
        raise ModelError(
            f"cannot be read as tensors alone: it is {program}",
            where=path,
            expected="a state dict: torch.save(model.state_dict(), path), or .safetensors",
            fix="give a program as the network, which has its own weights",
        )
    try:
        with warnings.catch_warnings():  # what it does not know also raises
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or damaged file can make the unpickler raise anything
        # What torch says is not repeated: it advises to open the objects.
        named = _OBJECT.search(str(error))
        reason = f"it needs {named[1]}" if named else "it is damaged, or no file of torch.save"
        raise ModelError(
            f"cannot be read as tensors alone: {reason}",
            where=path,
            expected="a state dict: torch.save(model.state_dict(), path), or .safetensors",
            fix="save the state dict alone; pickled objects can run code and are not opened",
        ) from error
    if isinstance(found, Tensor) or not isinstance(found, Mapping):
        raise ModelError(
            f"holds a {type(found).__name__}",
            where=path,
            expected="names and tensors",
            fix="save the state dict: torch.save(model.state_dict(), path)",
        )
    return found
