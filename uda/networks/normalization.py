"""Train nothing but the scales and shifts of a network's normalisation layers."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx, nn

from uda.errors import ModelError


def normalization_only(model: nn.Module) -> None:
    """Freeze every weight but the scales and shifts of normalisation layers; what is frozen already stays so.

    A layer is one by its name (BatchNorm, InstanceNorm, GroupNorm, LayerNorm, …); in an exported program it is what
    enters a normalisation operator as ``weight`` or ``bias``.

    Raises:
        ModelError: no such weight is left to train.

    Source: Wang et al., TENT, ICLR 2021.
    """
    chosen = [weight for weight in _affine(model) if weight.requires_grad]
    if not chosen:
        raise ModelError(
            "the network has no normalisation layer with a scale or shift that can be trained",
            expected="BatchNorm, InstanceNorm, GroupNorm or LayerNorm with affine weights",
            fix="set train: all",
        )
    model.requires_grad_(False)
    for weight in chosen:
        weight.requires_grad_(True)


def _affine(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        name = str(
            getattr(module, "original_name", type(module).__name__)
        )  # of a TorchScript module
        if "Norm" in name:
            yield from module.parameters(recurse=False)
        if isinstance(module, fx.GraphModule):
            yield from _of_operators(module)


def _of_operators(module: fx.GraphModule) -> Iterator[nn.Parameter]:
    """Weights of normalisation operators in a graph."""
    parameters = dict(module.named_parameters())
    for node in module.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op == "call_function" and schema is not None and "norm" in schema.name:
            names = [argument.name for argument in schema.arguments]
            given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
            targets = [str(getattr(given.get(key), "target", "")) for key in ("weight", "bias")]
            yield from (parameters[target] for target in targets if target in parameters)
