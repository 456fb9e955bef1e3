"""A foreign network behind one face: images in, one logit map a class out."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from uda.config.networks import ForeignNetwork
from uda.errors import ModelError
from uda.networks.foreign.exported import trainable
from uda.networks.foreign.programs import load_program
from uda.networks.foreign.registry import registered
from uda.networks.foreign.shapes import Shape, shape_of


class ForeignModel(nn.Module):
    """A foreign network that answers like ours.

    The network lies in ``network`` and keeps its own names; model files and reports hold those.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: ForeignNetwork,
        classes: int,
        program: bytes | None = None,
        shape: Shape | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.settings, self.classes, self.program, self.shape = settings, classes, program, shape

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``[b, k, *s]`` of images ``[b, c, *s]``."""
        if self.shape is not None:
            self.shape.check(image)
        # TorchScript rewrites a program after it has seen a few calls, which changes the last bits
        plain = self.settings.kind == "torchscript"
        jit: Any = torch.jit
        with jit.optimized_execution(False) if plain else nullcontext():
            answer = self._run(image)
        logits = select(answer, self.settings.output)
        if self.settings.one_logit:
            return two_logits(logits)
        return logits

    def _run(self, image: Tensor) -> Any:
        try:
            return self.network(image)
        except AssertionError as error:
            if self.shape is None or not str(error).startswith("Guard failed"):
                raise
            raise ModelError(
                f"the program was exported for other images: {error}",
                where=self.settings.name,
                expected=f"that of images {list(image.shape)}",
                fix="export it with an example of this size and dynamic_shapes="
                '({0: torch.export.Dim("batch")},)',
            ) from error

    def __deepcopy__(self, memo: dict[int, Any]) -> ForeignModel:
        with torch.no_grad():  # a scripted network copies its weights by a recorded operation
            network = copy.deepcopy(self.network, memo)
        twin = ForeignModel(network, self.settings, self.classes, self.program, self.shape)
        pairs = zip(twin.parameters(), self.parameters(), strict=True)
        for own, original in pairs:
            own.requires_grad_(original.requires_grad)
        twin.training = self.training
        return twin


def select(answer: Any, output: str | int | None) -> Tensor:
    """The logits among what a network returns: a tensor, a mapping or a sequence.

    Without a key, a mapping's only entry or its ``out`` is taken, and a sequence's only one. Nothing is guessed among
    several, because networks with auxiliary outputs put the final one first as often as last.

    Raises:
        ModelError: lists what there is.
    """
    if isinstance(answer, Tensor) and output is None:
        return answer
    found: dict[str | int, Any] = {}
    if isinstance(answer, Mapping):
        found = dict(answer)
    elif isinstance(answer, Sequence):
        found = dict(enumerate(answer))
    key = output
    if key is None and found:
        key = next(iter(found)) if len(found) == 1 else "out"
    if isinstance(found.get(key), Tensor):  # type: ignore[arg-type]
        chosen: Tensor = found[key]  # type: ignore[index]
        return chosen
    listed = ", ".join(f"{k}: {_describe(v)}" for k, v in found.items()) or _describe(answer)
    raise ModelError(
        f"the network answers with {listed}"
        + (f", where output {output!r} is no tensor" if output is not None else ""),
        expected="one tensor of logits [b, k, *s]",
        fix="name the one that holds the logits: output= (--output), its key or position",
    )


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    return f"a {type(value).__name__}"


def two_logits(logit: Tensor) -> Tensor:
    """Logits (0, z) of a binary network's one logit z ``[b, 1, *s]``: their softmax is its sigmoid.

    Raises:
        ModelError: it has not one channel.
    """
    if logit.dim() < 3 or logit.shape[1] != 1:
        raise ModelError(
            f"the network answers with {list(logit.shape)}",
            expected="one logit a pixel, [b, 1, *s]",
            fix="leave one_logit (--one-logit) out for a network with a map for each class",
        )
    return torch.cat([torch.zeros_like(logit), logit], 1)


def build_foreign(settings: ForeignNetwork, classes: int, program: bytes | None) -> ForeignModel:
    """The network that a description names.

    Raises:
        ModelError: not registered in this process, or a program that is missing or cannot be used.
    """
    if settings.kind == "registered":
        return ForeignModel(registered(settings.name), settings, classes)
    if program is None:
        raise ModelError(
            f"the program {settings.name!r} is not there",
            expected="a model file, which holds its program",
            fix="import it with `uda import`; a recipe can train a network of its own or a registered one",
        )
    loaded = load_program(settings.kind, program, settings.name)
    if settings.kind == "torchscript":
        return ForeignModel(loaded, settings, classes, program)
    shape = shape_of(loaded, settings.name)
    return ForeignModel(trainable(loaded, settings.name), settings, classes, program, shape)


def program_bytes(network: nn.Module) -> bytes:
    """A scripted network as the bytes of its file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.save.* is deprecated")
        torch.jit.save(network, buffer)
    return buffer.getvalue()
