"""An exported program calls listed operators alone, wherever its description names them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_networks import Plain, exported, repacked, used
from torch import Tensor, nn
from torch.nn import functional

from uda.config.networks import ForeignNetwork
from uda.errors import ModelError
from uda.networks.foreign import load_program
from uda.networks.foreign.adapter import build_foreign
from uda.networks.foreign.exported import trainable
from uda.networks.foreign.operators import is_listed

IMAGE = torch.zeros(2, 1, 16, 16)


@pytest.fixture(scope="module")
def program() -> bytes:
    torch.manual_seed(0)
    return exported(used(Plain()))


class Branches(nn.Module):
    """Control flow, whose branches are graphs inside the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(1, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        image = torch.cond(image.sum() > 0, lambda x: x * 2, lambda x: x - 1, (image,))
        with torch.no_grad():
            mean = image.mean()
        with torch.autocast("cpu", enabled=False):
            image = image + mean
        return self.last(image)


class Attention(nn.Module):
    """What vision transformers are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.last = nn.Conv2d(1, 8, 4, 4), nn.ConvTranspose2d(8, 3, 4, 4)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.place = nn.Parameter(torch.zeros(1, 16, 8))

    def forward(self, image: Tensor) -> Tensor:
        patches = self.enter(image)
        tokens = self.layer(patches.flatten(2).transpose(1, 2) + self.place)
        query = tokens.unflatten(2, (2, 4)).transpose(1, 2)
        tokens = tokens + functional.scaled_dot_product_attention(query, query, query).transpose(
            1, 2
        ).flatten(2)
        return self.last(functional.gelu(tokens).transpose(1, 2).reshape(patches.shape))


class Mixture(nn.Module):
    """Norms, paddings, samplings and sums of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, 8, 3, padding=1, padding_mode="reflect")
        self.norms = nn.Sequential(nn.GroupNorm(2, 8), nn.SiLU(), nn.InstanceNorm2d(8), nn.PReLU())
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        x, size = self.norms(self.enter(image)), image.shape[2:]
        for mode in ("replicate", "circular", "constant"):
            x = functional.pad(x, (1, 1, 1, 1), mode=mode)
        x = functional.interpolate(x[..., 3:-3, 3:-3], scale_factor=0.5, mode="bicubic")
        x = functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
        grid = functional.affine_grid(
            torch.eye(2, 3).expand(x.shape[0], 2, 3), list(x.shape), align_corners=False
        )
        x = functional.grid_sample(x, grid, align_corners=False)
        x = torch.where(x > 0, x, x / 2).clamp(-5, 5) + x.std((2, 3), keepdim=True)
        x = x + torch.fft.irfft2(torch.fft.rfft2(x), s=size)
        x = x * torch.sigmoid(functional.adaptive_avg_pool2d(x, 1)) + x.amax(1, keepdim=True)
        x = functional.pixel_shuffle(torch.cat([x] * 4, 1), 2)[..., ::2, ::2]
        x = x + torch.einsum("bchw,bchw->bhw", x, x)[:, None] + x.topk(3, 1)[0].sum(1, keepdim=True)
        kept, places = functional.max_pool2d(x, 2, return_indices=True)
        return self.last(x + functional.max_unpool2d(kept, places, 2) + torch.arange(size[1]))


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("make", [Branches, Attention, Mixture])
def test_what_networks_are_made_of_is_listed(
    make: Callable[[], nn.Module], decomposed: bool
) -> None:
    torch.manual_seed(0)
    network = make().eval()
    data = exported(network, decomposed=decomposed)
    model = trainable(load_program("exported", data, "x"), "x").eval()
    image = torch.randn(3, 1, 16, 16)
    torch.testing.assert_close(model(image), network(image), rtol=1e-4, atol=1e-5)


def test_attention_that_drops_at_random_in_every_prediction_is_refused() -> None:
    data = exported(Attention().train(), decomposed=False)
    with pytest.raises(ModelError, match="draws at random in every prediction"):
        trainable(load_program("exported", data, "x"), "x")


UNLISTED = [
    "torch.ops.aten.from_file.default",
    "torch.ops.aten.from_file.out",
    "torch.ops.aten.from_file",
    "torch.ops.aten.save.default",
    "torch.ops.aten.save",
    "torch.ops.aten._print.default",
    "torch.ops.aten.manual_seed.default",
    "torch.ops.aten.set_grad_enabled.default",
    "torch.ops.aten.set_.source_Tensor",
    "torch.ops.aten.set_data.default",
    "torch.ops.aten.resize_.default",
    "torch.ops.aten.as_strided_.default",
    "torch.ops.aten.data.default",
    "torch.ops.aten.to_here.default",
    "torch.ops.aten.record_stream.default",
    "torch.ops.aten.pin_memory.default",
    "torch.ops.aten.quantize_per_tensor.default",
    "torch.ops.aten._cudnn_init_dropout_state.default",
    "torch.ops.aten._foobar.default",
    "torch.ops.aten.add.",
    "torch.ops.aten.add.Tensor.x",
    "torch.ops.aten.add",
    "torch.ops.aten.add.__class__",
    "torch.ops.aten.add._schema",
    "torch.ops.aten.add.default2",
    "torch.ops.aten.__torch_function__.default",
    "torch.ops.aten.__init__.__globals__",
    "torch.ops.aten.ad\u0501.Tensor",
    " torch.ops.aten.add.Tensor",
    "torch.ops.aten.add.Tensor ",
    "torch.ops.aten.add.Tensor\n",
    "torch.ops..add.Tensor",
    "torch.ops.Aten.add.Tensor",
    "torch.ops.prims.device_put.default",
    "torch.ops.prims.resize.default",
    "torch.ops.prims._make_token.default",
    "torch.ops.prim.Print.default",
    "torch.ops.torchvision._cuda_version.default",
    "torch.ops.image.write_file.default",
    "torch.ops.image.read_file.default",
    "torch.ops.profiler._record_function_enter.default",
    "torch.ops.profiler._record_function_enter_new.default",
    "torch.ops.export_test.foo.default",
    "torch.ops.rngprims.philox_rand.default",
    "torch.ops.c10d.send.default",
    "torch.ops._c10d_functional.all_reduce.default",
    "torch.ops.inductor._alloc_from_pool.default",
    "torch.ops.quantized.linear_unpack.default",
    "torch.ops.mylib.custom.default",
    "torch.ops.load_library",
    "torch.ops.higher_order.print",
    "torch.ops.higher_order.call_torchbind",
    "torch.ops.higher_order.with_effects",
    "torch.ops.higher_order.executorch_call_delegate",
    "torch.ops.higher_order.triton_kernel_wrapper_functional",
    "torch.ops.higher_order.invoke_subgraph",
    "torch.ops.higher_order.run_and_save_rng_state",
    "torch.load",
    "torch.save",
    "torch.from_file",
    "torch.hub.load",
    "torch.jit.load",
    "torch.classes.load_library",
    "torch.sym_fresh_size",
    "torch._C._jit_set_print_handler",
    "torch.os.system",
    "_operator.call",
    "_operator.methodcaller",
    "_operator.attrgetter",
    "_operator.setitem",
    "_operator.iadd",
    "_operator.concat",
    "math.factorial",
    "math.comb",
    "math.__loader__.load_module",
    "builtins.eval",
    "eval",
    "",
    "#custom:op",
    "#aten:add",
]


@pytest.mark.parametrize("target", UNLISTED)
@pytest.mark.parametrize("place", ["node", "argument", "branch"])
def test_what_is_not_listed_is_refused_wherever_it_stands(
    target: str,
    place: str,
    program: bytes,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.export, "load", opened)

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        raw = json.loads(content)
        raw["graph_module"]["graph"]["nodes"].insert(0, PLACES[place](target))
        return json.dumps(raw).encode()

    with pytest.raises(ModelError, match="is not opened") as refused:
        load_program("exported", repacked(program, change), "hostile")
    assert "it calls" in str(refused.value)
    assert ascii(target[:20])[1:-1] in str(refused.value) or target in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def opened(*args: Any, **more: Any) -> None:
    raise AssertionError("torch reads the program")


def node(target: str, *inputs: dict[str, Any]) -> dict[str, Any]:
    named = [{"name": "", "arg": one, "kind": 1} for one in inputs]
    return {"target": target, "inputs": named, "outputs": [{"as_none": True}], "metadata": {}}


def branch(target: str) -> dict[str, Any]:
    graph = {"inputs": [], "outputs": [], "nodes": [node(target)], "tensor_values": {}}
    inner = {"as_graph": {"name": "true_graph_0", "graph": graph}}
    outer = node("torch.ops.higher_order.cond", {"as_bool": True}, inner)
    return node(
        "torch.ops.higher_order.cond", {"as_graph": {"name": "g", "graph": {"nodes": [outer]}}}
    )


PLACES: dict[str, Callable[[str], dict[str, Any]]] = {
    "node": lambda target: node(target, {"as_string": "trap"}),
    "argument": lambda target: node(
        "torch.ops.higher_order.associative_scan", {"as_operator": target}
    ),
    "branch": branch,
}


def test_no_listed_operator_names_a_file_or_holds_more_than_values() -> None:
    """Text that a listed operator takes says how to compute: a mode, a direction, an equation, a refusal."""
    import torchvision  # noqa: F401  registers its own

    texts, objects = set(), set()
    for schema in torch._C._jit_get_all_schemas():
        space, _, name = schema.name.partition("::")
        overload = schema.overload_name or "default"
        if not is_listed(f"torch.ops.{space}.{name}.{overload}"):
            continue
        for argument in schema.arguments:
            kind = str(argument.type)
            if "str" in kind:
                texts.add(argument.name)
            if any(
                word in kind for word in ("Storage", "Stream", "__torch__", "Future", "QScheme")
            ):
                objects.add(schema.name)
    assert objects == set()
    assert {"mode", "equation", "reduce"} <= texts
    assert texts.isdisjoint({"filename", "file", "path", "name", "data", "device", "library"})


@pytest.mark.parametrize(("part", "value"), [("signature", None), ("forward_arg_names", [1])])
def test_a_description_that_torch_fails_on_is_refused(
    part: str, value: Any, program: bytes
) -> None:
    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        raw = json.loads(content)
        call = raw["graph_module"]["module_call_graph"][0]
        (call if part in call else call["signature"])[part] = value
        return json.dumps(raw).encode()

    settings, hostile = ForeignNetwork(kind="exported", name="hostile"), repacked(program, change)
    with pytest.raises(ModelError, match="cannot be loaded"):
        build_foreign(settings, 3, hostile)


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


EXPRESSIONS = [
    "-" * 10**5 + "1",
    "(" * 10**4 + "1" + ")" * 10**4,
    "s0+" * 10**5 + "1",
    "x" + ".size" * 10**4,
]


@pytest.mark.parametrize("depth", [900, 5000, 10**5])
def test_a_description_that_is_nested_without_end_is_refused(depth: int, program: bytes) -> None:
    hostile = repacked(program, lambda n, c: nested(depth) if n.endswith("model.json") else c)
    with pytest.raises(ModelError, match=r"nested too deeply|is not JSON"):
        load_program("exported", hostile, "hostile")


@pytest.mark.parametrize("number", range(len(EXPRESSIONS)))
def test_an_expression_without_end_is_refused(number: int, program: bytes) -> None:
    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        return json.dumps({**json.loads(content), "guards_code": [EXPRESSIONS[number]]}).encode()

    with pytest.raises(ModelError, match="is not arithmetic and is not evaluated"):
        load_program("exported", repacked(program, change), "hostile")
