"""Adapter for foreign networks: images in, one logit map per class out."""

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
from uda.errors import ModelError, UdaError, visible
from uda.networks.foreign.exported import trainable
from uda.networks.foreign.programs import load_program, unheard, unreadable
from uda.networks.foreign.registry import registered
from uda.networks.foreign.shapes import Shape, shape_of


class ForeignModel(nn.Module):
    """A foreign network with the interface of our networks.

    The attribute ``network`` holds it under its own tensor names, which model files and reports use.
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
        answer = self.network(image) if self.program is None else self._run(image)
        logits = select(answer, self.settings.output)
        if self.settings.one_logit:
            return two_logits(logits)
        return logits

    def _run(self, image: Tensor) -> Any:
        """TorchScript optimises a program after a few calls, which changes the last bits; it must not here."""
        jit: Any = torch.jit
        script = self.settings.kind == "torchscript"
        try:
            with jit.optimized_execution(False) if script else nullcontext(), unheard():
                return self.network(image)
        except (UdaError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a program may raise anything
            lines = str(error).strip().split("\n")
            # TorchScript writes its own trace above the message.
            text = visible("\\n".join(lines[-1:] if script else lines))[:300]
            if isinstance(error, RuntimeError) and "allocate memory" in text:
                raise
            if self.shape is not None and text.startswith("Guard failed"):
                raise self._other_images(text, image) from error
            raise ModelError(
                f"cannot be run on images {list(image.shape)}: {type(error).__name__}: {text}",
                where=self.settings.name,
                expected=f"a network of float32 images with {image.shape[1]} channels",
                fix="use the card (size, slab) of its training; if other images can be predicted, leave this one out",
            ) from error

    def _other_images(self, text: str, image: Tensor) -> ModelError:
        return ModelError(
            f"the program was exported for other images: {text}",
            where=self.settings.name,
            expected=f"a program for images {list(image.shape)}",
            fix="export it with an example of this size and dynamic_shapes="
            '({0: torch.export.Dim("batch")},)',
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> ForeignModel:
        # A scripted network copies its weights by a recorded operation, and may run code for it.
        with torch.no_grad(), unheard() if self.program is not None else nullcontext():
            network = copy.deepcopy(self.network, memo)
        copied = ForeignModel(network, self.settings, self.classes, self.program, self.shape)
        pairs = zip(copied.parameters(), self.parameters(), strict=True)
        for own, original in pairs:
            own.requires_grad_(original.requires_grad)
        copied.training = self.training
        return copied


def select(answer: Any, output: str | int | None) -> Tensor:
    """The logits in a network's output: a tensor, a mapping or a sequence.

    Without ``output``, the only entry is used, or the entry ``out`` of a mapping. The function never guesses among
    several entries, because networks with auxiliary outputs put the final one first or last.

    Raises:
        ModelError: no entry is chosen, or it is no tensor; lists the entries.
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
        f"the network returns {listed}"
        + (f", where output {output!r} is no tensor" if output is not None else ""),
        expected="one tensor of logits [b, k, *s]",
        fix="set output= (--output) to the key or position of the logits",
    )


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    return f"a {type(value).__name__}"


def two_logits(logit: Tensor) -> Tensor:
    """Logits (0, z) of a binary network's logit z ``[b, 1, *s]``: their softmax equals its sigmoid.

    Raises:
        ModelError: the output does not have one channel.
    """
    if logit.dim() < 3 or logit.shape[1] != 1:
        raise ModelError(
            f"the network's output has the shape {list(logit.shape)}",
            expected="one logit per pixel, [b, 1, *s]",
            fix="remove one_logit (--one-logit) for a network with a map for each class",
        )
    return torch.cat([torch.zeros_like(logit), logit], 1)


def build_foreign(
    settings: ForeignNetwork, classes: int, program: bytes | None, trust_code: bool = False
) -> ForeignModel:
    """Build the network that the settings name.

    Raises:
        ModelError: the network is not registered in this process, its program is missing or cannot be used, or it
            is TorchScript and not trusted.
    """
    if settings.kind == "registered":
        return ForeignModel(registered(settings.name), settings, classes)
    if program is None:
        raise ModelError(
            f"the program {settings.name!r} is missing",
            expected="a model file, which holds its program",
            fix="import it with `uda import`; a recipe can train a built-in or a registered network",
        )
    loaded = load_program(settings.kind, program, settings.name, trust_code)
    if settings.kind == "torchscript":
        return ForeignModel(loaded, settings, classes, program)
    try:
        with unheard():
            shape = shape_of(loaded, settings.name)
            network = trainable(loaded, settings.name)
    except ModelError:
        raise
    except Exception as error:  # torch makes a module of it, and raises many types
        raise unreadable(error, settings.name) from error
    return ForeignModel(network, settings, classes, program, shape)


def program_bytes(network: nn.Module) -> bytes:
    """The file content of a scripted network."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.save.* is deprecated")
        torch.jit.save(network, buffer)
    return buffer.getvalue()
