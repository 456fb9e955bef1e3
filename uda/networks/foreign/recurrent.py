"""Check the tensors of recurrent operators: torch reads beyond the end of weights that are too small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from uda.errors import ModelError

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def check_recurrent(module: fx.GraphModule, name: str) -> None:
    """Let every recurrent operator of the program check its arguments in each call.

    Raises:
        ModelError: one lies in a branch of the program.
    """
    for part in module.modules():
        for node in part.graph.nodes if isinstance(part, fx.GraphModule) else ():
            operator = _operator(node.target)
            if operator is None:
                continue
            if part is not module:
                raise ModelError(
                    f"the recurrent operator {node.name} lies in a branch of the program",
                    where=name,
                    fix="export a network that calls it outside torch.cond and torch.while_loop",
                )
            node.args, node.kwargs = (node.target, *node.args), dict(node.kwargs)
            node.target = checked


def _operator(target: Any) -> str | None:
    if not isinstance(target, torch._ops.OpOverload):
        return None
    name = target._schema.name.removeprefix("aten::")
    return name if name in _GATES else None


def checked(
    operator: Any,
    image: Tensor,
    hx: Tensor | Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Any:
    """The result of a recurrent operator ``aten::lstm.input``, ``gru.input`` or ``rnn_*.input``.

    The arguments are those of ``torch.lstm``; the shapes of the weights are those that ``torch.nn.LSTM`` documents.

    Raises:
        ModelError: a tensor has another shape, type or device than the operator needs.
    """
    name, states = str(_operator(operator)), [hx] if isinstance(hx, Tensor) else list(hx)
    tensors = [image, *states, *params]
    found = [tuple(tensor.shape) for tensor in tensors[1:]]
    sound = image.dim() == 3 and num_layers > 0 and len(states) == (2 if name == "lstm" else 1)
    sound = sound and all(state.dim() == 3 for state in states)
    if sound:
        layers, batch = num_layers * (1 + bidirectional), image.shape[0 if batch_first else 1]
        result, hidden = states[0].shape[2], states[-1].shape[2]
        wanted: list[tuple[int, ...]] = [(layers, batch, result), (layers, batch, hidden)]
        del wanted[len(states) :]
        wanted += _weights(
            name, image.shape[2], result, hidden, num_layers, bidirectional, has_biases
        )
        sound = found == wanted
    types = {tensor.dtype for tensor in (params if torch.is_autocast_enabled("cpu") else tensors)}
    plain = all(tensor.layout == torch.strided for tensor in tensors)
    if not (sound and plain and len(types) == 1 and len({t.device for t in tensors}) == 1):
        raise ModelError(
            f"its operator {name} gets weights or states that do not fit each other: {str(found)[:300]}",
            expected="states [layers, b, k] and the weights that torch.nn documents, of one type",
            fix="export the network again",
        )
    return operator(
        image, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first
    )


def _weights(
    name: str, inputs: int, result: int, hidden: int, layers: int, both: bool, biases: bool
) -> Iterator[tuple[int, ...]]:
    """Shapes of all weights in torch's order: of the input, of the state, two biases, the projection."""
    gates = _GATES[name] * hidden
    for layer in range(layers):
        for _ in range(1 + both):
            yield gates, result * (1 + both) if layer else inputs
            yield gates, result
            yield from [(gates,), (gates,)] if biases else []
            yield from [(result, hidden)] if result != hidden else []
