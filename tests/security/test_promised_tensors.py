"""The operators of an exported program get the tensors that its description promises, on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_nifti
from foreign_networks import Plain, exported, repacked
from lightning_fabric import Fabric
from torch import Tensor, nn

from uda.config.card import Prepare
from uda.config.networks import ForeignNetwork
from uda.data.cases import Case
from uda.errors import ModelError
from uda.networks.foreign.adapter import ForeignModel, build_foreign
from uda.networks.foreign.operators import is_listed
from uda.networks.model_file import ModelInfo
from uda.prediction.folder import predict_cases

SETTINGS = ForeignNetwork(kind="exported", name="x")
WEIGHTS, DESCRIPTION = "model_weights_config.json", "models/model.json"


@pytest.fixture(scope="module")
def plain() -> bytes:
    return exported(Plain().eval())


def changed(data: bytes, part: str, change: Callable[[dict[str, Any]], Any]) -> bytes:
    def one(member: str, content: bytes) -> bytes:
        if not member.endswith(part):
            return content
        raw = json.loads(content)
        change(raw)
        return json.dumps(raw).encode()

    return repacked(data, one)


META: list[dict[str, Any]] = [
    {"sizes": [{"as_int": 1}], "strides": [{"as_int": 1}]},
    {"sizes": [{"as_int": n} for n in (6, 1, 3, 1)]},
    {"strides": [{"as_int": n} for n in (9, 9, 1, 3)]},
    {"dtype": 6},
    {"device": {"type": "meta", "index": None}},
    {"device": {"type": "cuda", "index": 0}},
    {"device": {"type": "cpu", "index": 10**12}},
    {"device": None},
]


@pytest.mark.parametrize("meta", META, ids=str)
def test_tensors_that_differ_from_the_description_are_refused(
    meta: dict[str, Any], plain: bytes
) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["config"]["enter.weight"]["tensor_meta"].update(meta)

    with pytest.raises(ModelError, match=r"'enter\.weight' .* is not opened"):
        build_foreign(SETTINGS, 3, changed(plain, WEIGHTS, change))


def test_a_tensor_without_a_description_is_refused(plain: bytes) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["config"]["enter.weight"]["tensor_meta"] = None

    with pytest.raises(ModelError, match=r"'enter\.weight' .* is not opened"):
        build_foreign(SETTINGS, 3, changed(plain, WEIGHTS, change))


@pytest.mark.parametrize("tree", ["in_spec", "out_spec"])
def test_a_tree_that_is_no_text_is_refused(tree: str, plain: bytes) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["graph_module"]["module_call_graph"][0]["signature"][tree] = "\ud800"

    with pytest.raises(ModelError, match="which is no text"):
        build_foreign(SETTINGS, 3, changed(plain, DESCRIPTION, change))


def test_a_program_in_whose_parts_torch_finds_nothing_is_refused_in_our_words(
    plain: bytes,
) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["config"]["enter.weight"]["tensor_meta"]["storage_offset"] = {"as_int": -1}

    with pytest.raises(ModelError, match="torch finds no network in its parts"):
        build_foreign(SETTINGS, 3, changed(plain, WEIGHTS, change))


class Rows(nn.Module):
    """A recurrent layer that reads the rows of an image."""

    def __init__(self, kind: Callable[..., nn.Module], **options: Any) -> None:
        super().__init__()
        self.layer = kind(16, 8, 2, bidirectional=True, **options)
        self.last = nn.Conv2d(1, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        batch_first = getattr(self.layer, "batch_first", False)
        rows = image[:, 0] if batch_first else image[:, 0].transpose(0, 1)
        seen = self.layer(rows)[0]
        return self.last(image) + (seen if batch_first else seen.transpose(0, 1)).mean()


LAYERS: list[tuple[Callable[..., nn.Module], dict[str, Any]]] = [
    (nn.LSTM, {"batch_first": True}),
    (nn.LSTM, {"proj_size": 4}),
    (nn.GRU, {"bias": False}),
    (nn.RNN, {"nonlinearity": "relu"}),
]


def recurrent(kind: Callable[..., nn.Module], options: dict[str, Any]) -> tuple[Rows, ForeignModel]:
    torch.manual_seed(0)
    network = Rows(kind, **options).eval()
    return network, build_foreign(SETTINGS, 3, exported(network)).eval()


@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_recurrent_layers_run_bit_for_bit_and_check_their_weights(
    kind: Callable[..., nn.Module], options: dict[str, Any]
) -> None:
    network, model = recurrent(kind, options)
    image = torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(image), network(image))
        for name, weight in dict(model.network.named_parameters()).items():
            if not name.startswith("layer."):
                continue
            whole, weight.data = weight.data, torch.zeros(1)
            with pytest.raises(ModelError, match="do not fit each other"):
                model(image)
            weight.data = whole
        assert torch.equal(model(image), network(image))


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
def test_packed_sequences_are_not_listed(name: str) -> None:
    assert is_listed(f"torch.ops.aten.{name}.input")
    assert not is_listed(f"torch.ops.aten.{name}.data")


class Late(nn.Module):
    """It fails on bright images alone."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(1, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        text = "boo \x1b[31m\nerror: forged"
        torch.ops.aten._assert_async.msg(image.amax() < 100, text)
        return self.last(image)


def test_a_program_that_fails_late_gives_one_error_on_one_line() -> None:
    model = build_foreign(SETTINGS, 3, exported(Late().eval()))
    assert model(torch.zeros(2, 1, 16, 16)).shape == (2, 3, 16, 16)
    with pytest.raises(ModelError) as refused:
        model(torch.full((2, 1, 16, 16), 200.0))
    assert r"RuntimeError: boo \x1b[31m\nerror: forged" in refused.value.what
    assert "\n" not in refused.value.what


def test_other_cases_are_predicted_where_a_program_fails_on_one(tmp_path: Path) -> None:
    prepare = Prepare(size=(16, 16), normalize="none", clip=(0, 100))
    info = ModelInfo(SETTINGS, ("background", "disk", "ring"), prepare, ("source_labels",))
    model = build_foreign(SETTINGS, 3, exported(Late().eval()))
    for name, value in (("bright", 200.0), ("dark", 1.0)):
        array = np.full((16, 16, 2), value, np.float32)
        array[0] = 0
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", array)
    cases = [Case(name, tmp_path / "in" / f"{name}.nii.gz") for name in ("bright", "dark")]
    fabric = Fabric(accelerator="cpu", devices=1)
    bright, dark = predict_cases(model, info, cases, tmp_path / "out", fabric)
    assert dark.file is not None
    assert not dark.fault
    assert bright.file is None
    assert r"boo \x1b[31m\nerror: forged" in bright.fault
    assert not any(line.startswith("error: forged") for line in bright.fault.splitlines())
