"""Load stored programs: those of ``torch.export`` after a check, TorchScript only where the caller trusts it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from uda.errors import ModelError
from uda.networks.foreign.archives import known_parts, packed, read_parts
from uda.networks.foreign.descriptions import check_payload, checked_description

Kind = Literal["torchscript", "exported"]

_DESCRIPTION = "models/model.json"
_EXAMPLE = "data/sample_inputs/model.pt"
_PAYLOADS = {
    "data/weights": "model_weights_config.json",
    "data/constants": "model_constants_config.json",
}


def kind_of(data: bytes, name: str) -> Kind:
    """The kind of program in a file's bytes.

    Raises:
        ModelError: weights without a program, a truncated file, or something else.
    """
    return _kind(read_parts(data, name), name)


def _kind(parts: Mapping[str, bytes], name: str) -> Kind:
    if any(path.startswith("models/") for path in parts):
        return "exported"
    if "constants.pkl" in parts:
        return "torchscript"
    raise ModelError(
        "holds weights or other objects, and no program",
        where=name,
        expected="a program of torch.jit.save or torch.export.save",
        fix="export the network with torch.export.export and torch.export.save, and give this file "
        "as weights (--weights)",
    )


def load_program(kind: Kind, data: bytes, name: str, trust_code: bool = False) -> Any:
    """Load a ``ScriptModule`` (TorchScript) or an ``ExportedProgram`` (``torch.export``).

    An exported program computes with listed operators alone; torch reads checked parts of the file only. TorchScript
    is code that can do whatever its user can, already while torch opens it.

    Args:
        trust_code: open TorchScript, too.

    Raises:
        ModelError: the file is damaged, of the other kind, has parts that are not opened, or is not trusted.
    """
    parts = read_parts(data, name)
    if (found := _kind(parts, name)) != kind:
        raise ModelError(
            f"is a {found} program", where=name, expected=kind, fix="import the file again"
        )
    if kind == "exported":
        return _exported(parts, name)
    if not trust_code:
        raise ModelError(
            f"holds a TorchScript program, which is code of its author (SHA-256 {digest(data)}): it could read and "
            "write your files, already while it is opened",
            where=name,
            expected="a program of torch.export, or the weights of a network that you have",
            fix="have it saved by torch.export.export and torch.export.save, or import a network of yours with its "
            "state dict (--weights); only if you would run its author's programs, open it with --trust-code "
            "(Python: trust_code=True)",
        )
    return _torchscript(data, name)


def digest(program: bytes) -> str:
    """SHA-256 of a program."""
    return hashlib.sha256(program).hexdigest()


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Drop what a program, or torch on its behalf, prints, logs and warns of: it could command the terminal."""
    with (
        open(os.devnull, "w", encoding="utf-8", errors="replace") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        shown, warnings.showwarning = warnings.showwarning, lambda *args, **more: None
        level = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            warnings.showwarning = shown
            logging.disable(level)


def unreadable(error: Exception, name: str) -> ModelError:
    """The error for a program that torch refuses."""
    reason = str(error).strip().splitlines()
    if "weights_only" in str(error):  # torch advises to open the objects
        reason = ["it holds objects beside tensors, which are not opened"]
    if any("warnings above" in line for line in reason):  # there are none: torch is not heard
        reason = ["torch finds no network in its parts"]
    return ModelError(
        f"cannot be loaded: {reason[0][:200] if reason else type(error).__name__}",
        where=name,
        expected=f"a program that torch {torch.__version__} can read",
        fix="save the program again with this version of torch",
    )


def _torchscript(data: bytes, name: str) -> nn.Module:
    try:
        with unheard(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated
            module: nn.Module = torch.jit.load(io.BytesIO(data), map_location="cpu")
            _refuse_baked(module, name)
            module.state_dict()  # decodes the names
            frozen = not list(module.parameters())
    except ModelError:
        raise
    except Exception as error:  # its parser and its unpickler raise many types
        raise unreadable(error, name) from error
    if frozen:
        raise ModelError(
            "has no weights that could be adapted: the program was frozen",
            where=name,
            fix="save it without torch.jit.freeze, or export it with torch.export.export",
        )
    return module


_MODE_INPUTS = {"aten::batch_norm": 5, "aten::dropout": 2, "aten::feature_dropout": 2}
"""operator → position of its training flag among the inputs"""


def _refuse_baked(module: nn.Module, name: str) -> None:
    """Refuse a network that was traced in training mode, because its predictions vary."""
    graph: Any = module.inlined_graph
    for kind, position in _MODE_INPUTS.items():
        for node in graph.findAllNodes(kind, recurse=True):
            inputs = [value.node() for value in node.inputs()]
            stateless = kind == "aten::batch_norm" and inputs[3].mustBeNone()
            mode = inputs[position]
            if mode.kind() == "prim::Constant" and mode.output().toIValue() and not stateless:
                raise ModelError(
                    "was traced in training mode: it would use the statistics of each batch, or draw "
                    "at random, in every prediction",
                    where=name,
                    fix="call model.eval() before torch.jit.trace, or (better) export it with "
                    "torch.export.export",
                )


def _exported(parts: Mapping[str, bytes], name: str) -> Any:
    known = known_parts(parts, name)
    for folder, tensors in _PAYLOADS.items():
        if (listed := known.get(f"{folder}/{tensors}")) is not None:
            check_payload(listed, known, folder, name)
    if (description := known.get(_DESCRIPTION)) is not None:
        known[_DESCRIPTION] = checked_description(description, name)
    known[_EXAMPLE] = b""  # a pickle that is not needed
    try:
        with _only_tensors(), unheard():
            program = torch.export.load(packed(known))
            _check_tensors(program, name)
            return program
    except ModelError:
        raise
    except Exception as error:  # schema, decoder and operators raise many types
        raise unreadable(error, name) from error


def _check_tensors(program: Any, name: str) -> None:
    """Refuse tensors other than those that the description promises to the operators."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    stored = {**program.constants, **program.state_dict}
    promised = {
        spec.target: nodes[spec.arg.name].meta.get("val")
        for spec in program.graph_signature.input_specs
        if spec.target is not None and getattr(spec.arg, "name", None) in nodes
    }
    for key, tensor in stored.items():
        if not isinstance(tensor, Tensor) or tensor.device.type != "cpu":
            raise _differs(key, "is no tensor of the CPU", name)
        if key in promised and (told := _difference(tensor, promised[key])):
            raise _differs(key, told, name)


def _difference(tensor: Tensor, promised: Any) -> str:
    """How a tensor differs from the promised one; empty if it does not."""
    if not isinstance(promised, Tensor) or not all(type(n) is int for n in promised.shape):
        return "has no size in the description"
    if tensor.shape != promised.shape:
        return f"has the size {list(tensor.shape)} for {list(promised.shape)}"
    # The step along an axis of length 1 has no meaning.
    steps = [
        tuple(step for step, length in zip(one.stride(), one.shape, strict=True) if length != 1)
        for one in (tensor, promised)
        if one.numel()
    ]
    if len(set(steps)) > 1:
        return f"has the strides {tensor.stride()} for {promised.stride()}"
    if (tensor.dtype, tensor.layout) != (promised.dtype, promised.layout):
        return f"has the type {tensor.dtype} for {promised.dtype}"
    return ""


def _differs(key: str, how: str, name: str) -> ModelError:
    return ModelError(
        f"its tensor {key!r} {how}; this is not opened",
        where=name,
        expected="the tensors of its description, on the CPU",
        fix="export the network again: torch.export.export(model.cpu().eval(), …)",
    )


@contextlib.contextmanager
def _only_tensors() -> Iterator[None]:
    """Restrict every ``torch.load`` inside the block, also torch's internal ones, to tensors."""
    key = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before
