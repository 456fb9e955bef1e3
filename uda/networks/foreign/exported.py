"""Make an exported program trainable: restore BatchNorm layers and dropouts that follow the mode.

An export fixes the network's mode in its graph. Here every BatchNorm operator becomes a call of a layer with the same
tensors under the same names, and every dropout follows the mode, so the network behaves like its Python module.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from uda.errors import ModelError
from uda.networks.foreign.recurrent import check_recurrent

_DROPOUTS = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
_COUNTER = "num_batches_tracked"
_ADVICE = (
    "export it in evaluation mode and without decompositions: "
    "torch.export.export(model.eval(), (torch.zeros(2, 1, 192, 192),), "
    'dynamic_shapes=({0: torch.export.Dim("batch")},))'
)


def trainable(program: Any, name: str) -> fx.GraphModule:
    """A module of an ``ExportedProgram`` whose mode and device may change; names in the state dict stay.

    Raises:
        ModelError: random draws in every prediction, or a BatchNorm that cannot be restored from the graph.
    """
    unlift = program.module
    guards = "check_guards" in inspect.signature(unlift).parameters  # torch ≥ 2.9
    module: fx.GraphModule = unlift(check_guards=True) if guards else unlift()
    graph = module.graph
    _layers_again(module, name)
    _dropouts_again(module)
    _portable(graph)
    _refuse_remains(module, name)
    check_recurrent(module, name)
    graph.lint()
    result = fx.GraphModule(module, graph)
    _own_constants(result, program.constants)
    return result


def _named(node: fx.Node) -> str:
    """Name of an aten operator without its overload; empty for other nodes."""
    target = node.target
    if node.op == "call_function" and isinstance(target, torch._ops.OpOverload):
        space, _, name = target._schema.name.partition("::")
        return name if space == "aten" else ""
    return ""


def _arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments of an operator by their names in its schema."""
    target: Any = node.target
    names = [argument.name for argument in target._schema.arguments]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _is_tensor(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.op == "get_attr"


def _norms(graph: fx.Graph) -> Iterator[tuple[fx.Node, dict[str, Any]]]:
    """BatchNorm operators with running statistics, and their arguments."""
    for node in list(graph.nodes):
        if "batch_norm" in _named(node):
            arguments = _arguments(node)
            if arguments.get("running_mean") is not None:
                yield node, arguments


def _layers_again(module: fx.GraphModule, name: str) -> None:
    graph, made = module.graph, dict[str, nn.Module]()
    for node, arguments in list(_norms(graph)):
        if not (_is_tensor(arguments["running_mean"]) and _is_tensor(arguments["running_var"])):
            raise _unknown(f"the statistics of {node.name} are computed", name)
        owner = str(arguments["running_mean"].target).rpartition(".")[0]
        if not owner:
            raise _unknown("the network itself keeps the statistics", name)
        if owner not in made:
            made[owner] = _layer(module, owner, arguments, name)
        with graph.inserting_before(node):
            call = graph.call_module(owner, (arguments["input"],))
        call.meta = dict(node.meta)
        _replace(node, call)
    for owner, layer in made.items():
        module.set_submodule(owner, layer)
        for node in list(graph.nodes):
            if _is_tensor(node) and str(node.target).rpartition(".")[0] == owner:
                _erase(node, name)


def _layer(module: fx.GraphModule, owner: str, arguments: dict[str, Any], name: str) -> nn.Module:
    """A BatchNorm layer with the tensors of the submodule ``owner``."""
    old = module.get_submodule(owner)
    tensors = dict(old.named_parameters()) | dict(old.named_buffers())
    for key in ("weight", "bias", "running_mean", "running_var"):
        node = arguments.get(key)
        if node is not None and str(node.target) != f"{owner}.{key}":
            raise _unknown(f"{owner} keeps its {key} as {node.target}", name)
    if others := set(tensors) - {"weight", "bias", "running_mean", "running_var", _COUNTER}:
        raise _unknown(f"{owner} also has {', '.join(sorted(others))}", name)
    dims = arguments["input"].meta["val"].dim()
    kind = {4: nn.BatchNorm2d, 5: nn.BatchNorm3d}.get(dims, nn.BatchNorm1d)
    momentum = arguments.get("momentum", arguments.get("exponential_average_factor", 0.1))
    layer = kind(
        len(tensors["running_mean"]),
        eps=arguments.get("eps", arguments.get("epsilon", 1e-5)),
        momentum=momentum or None,  # the export writes momentum None as 0
    )
    layer.register_parameter("weight", tensors.get("weight"))  # type: ignore[arg-type]
    layer.register_parameter("bias", tensors.get("bias"))  # type: ignore[arg-type]
    for key in ("running_mean", "running_var", _COUNTER):
        if key in tensors:
            setattr(layer, key, tensors[key])
    return layer


def _replace(node: fx.Node, call: fx.Node) -> None:
    """Replace the operator's first result by the layer's; erase its other results."""
    target: Any = node.target
    if len(target._schema.returns) == 1:
        node.replace_all_uses_with(call)
    for user in list(node.users):
        if user.target is operator.getitem and user.args[1] == 0:
            user.replace_all_uses_with(call)
    _erase_users(node)
    node.graph.erase_node(node)


def _erase_users(node: fx.Node) -> None:
    """Erase unused users of a node, such as copies of statistics into buffers and counters."""
    for user in list(node.users):
        if user.op == "output" or user not in node.users:
            continue
        _erase_users(user)
        if not user.users:
            user.graph.erase_node(user)


def _erase(node: fx.Node, name: str) -> None:
    _erase_users(node)
    if node.users:
        raise _unknown(f"{node.target} is used outside its BatchNorm layer", name)
    node.graph.erase_node(node)


def _unknown(what: str, name: str) -> ModelError:
    return ModelError(
        f"its BatchNorm cannot be made a layer again: {what}",
        where=name,
        fix=f"{_ADVICE}; or give the network as a Python factory",
    )


class _Dropout(nn.Module):
    """A dropout operator that follows the mode."""

    def __init__(self, function: Any, p: float) -> None:
        super().__init__()
        self.function, self.p = function, p

    def forward(self, image: Tensor) -> Tensor:
        dropped: Tensor = self.function(image, self.p, self.training)
        return dropped


def _dropouts_again(module: fx.GraphModule) -> None:
    graph = module.graph
    functions = {name: getattr(torch, name) for name in _DROPOUTS}
    for number, node in enumerate([n for n in graph.nodes if _named(n) in functions]):
        arguments = _arguments(node)
        target = f"_dropout_{number}"
        module.add_submodule(target, _Dropout(functions[_named(node)], float(arguments["p"])))
        with graph.inserting_before(node):
            call = graph.call_module(target, (arguments["input"],))
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        graph.erase_node(node)


def _portable(graph: fx.Graph) -> None:
    """Remove what the export fixed from its example: the device, and contiguous images in memory."""
    image = graph.find_nodes(op="placeholder")[0]
    with graph.inserting_after(image):
        device = graph.call_function(getattr, (image, "device"))
    for node in list(graph.nodes):
        if _named(node) == "_assert_tensor_metadata":
            graph.erase_node(node)
        elif _named(node) == "view" and node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
        elif isinstance(node.kwargs.get("device"), torch.device):
            node.update_kwarg("device", device)
    if not device.users:
        graph.erase_node(device)


def _refuse_remains(module: fx.GraphModule, name: str) -> None:
    """Refuse random draws in every prediction, and BatchNorm operators that remain in a branch."""
    for part in module.modules():
        if not isinstance(part, fx.GraphModule):
            continue
        for node in part.graph.nodes:
            if _draws(node):
                raise ModelError(
                    f"the program draws at random in every prediction ({node.name})",
                    where=name,
                    fix=_ADVICE,
                )
        if next(_norms(part.graph), None) is not None:
            raise _unknown("it lies in a branch of the program", name)


def _draws(node: fx.Node) -> bool:
    """Whether an operator draws at random; attention and recurrent layers do not without dropout or training."""
    target: Any = node.target
    if torch.Tag.nondeterministic_seeded not in getattr(target, "tags", ()):
        return False
    defaults = {one.name: one.default_value for one in target._schema.arguments}
    given = {**defaults, **_arguments(node)}
    probability = given.get("dropout_p", given.get("dropout"))
    mode = given.get("training", given.get("train"))
    return probability != 0 and mode is not False


def _own_constants(module: fx.GraphModule, names: Iterable[str]) -> None:
    """Make constant tensors non-persistent buffers, which move to a device but stay out of the state dict."""
    for name in names:
        place, _, key = name.rpartition(".")
        owner = module.get_submodule(place)
        value = getattr(owner, key, None)
        if isinstance(value, Tensor):
            delattr(owner, key)
            owner.register_buffer(key, value, persistent=False)
