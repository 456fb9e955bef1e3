"""Model files: what goes in comes out, nothing runs when one is opened, and what does not fit is named."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_networks import Answers, Plain, exported, scripted, traced, used
from safetensors.torch import load_file, save_file
from torch import nn

from uda.config.card import DatasetCard, Prepare
from uda.config.networks import ForeignNetwork, Network
from uda.errors import ModelError, UdaError
from uda.files.atomic import load_tensors, save_tensors
from uda.networks.batchnorm import estimate_batchnorm, layers, set_mode
from uda.networks.build import build
from uda.networks.foreign import register_network
from uda.networks.heads import features_of, head
from uda.networks.model_file import (
    PROGRAM,
    TRUSTED,
    ModelInfo,
    check_classes,
    load_model,
    load_weights,
    read_info,
    save_model,
    union,
)

NETWORK = Network(channels=(4, 8), res_units=1, dropout=0.1)
CLASSES = ("background", "disk", "ring")
CPU = torch.device("cpu")


def describe(**changes: Any) -> ModelInfo:
    info = ModelInfo(
        network=NETWORK,
        classes=CLASSES,
        prepare=Prepare(size=(32, 24), spacing=1.5, normalize=(-100.0, 300.0), clip=(1, 99)),
        supervision=("source_labels", "target_tags"),
        class_ratio=(0.7, 0.2, 0.1),
        presence_ratio=(0.7, 0.25, 1 / 3),
        step=17,
        origin={"recipe": "tiny", "stage": "adapt-x"},
    )
    return replace(info, **changes)


def content(model: nn.Module) -> dict[str, bytes]:
    """Every bit of every weight and buffer."""
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return build(NETWORK, 3)


@pytest.fixture
def saved(tmp_path: Path, model: nn.Module) -> Path:
    model(torch.randn(4, 1, 32, 24))  # so that the statistics are not those of a new network
    save_model(tmp_path / "model.safetensors", model, describe())
    return tmp_path / "model.safetensors"


def test_weights_buffers_and_description_come_back_bit_for_bit(
    saved: Path, model: nn.Module
) -> None:
    loaded, info = load_model(saved)
    assert info == describe()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert content(loaded) == content(model)


def test_what_is_not_known_comes_back_as_not_known(tmp_path: Path, model: nn.Module) -> None:
    info = describe(class_ratio=None, presence_ratio=None)
    save_model(tmp_path / "m.safetensors", model, info)
    assert load_model(tmp_path / "m.safetensors")[1] == info


def test_equal_models_are_equal_files(tmp_path: Path, saved: Path, model: nn.Module) -> None:
    save_model(tmp_path / "again.safetensors", model, describe())
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


def test_the_description_alone_needs_no_network(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_model(saved)[1]
    monkeypatch.setattr("uda.networks.model_file.build", None)
    assert read_info(saved) == read_info(saved.parent) == expected


def test_a_folder_stands_for_the_model_in_it(saved: Path) -> None:
    assert load_model(saved.parent)[1] == describe()


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def torch_zip(value: Any, path: Path) -> None:
    torch.save(value, path)


def torch_legacy(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def raw_pickle(protocol: int) -> Callable[[Any, Path], None]:
    return lambda value, path: (
        path.write_bytes(pickle.dumps(value, protocol)) and None  # type: ignore[return-value]
    )


@pytest.mark.parametrize(
    "write",
    [torch_zip, torch_legacy, *(raw_pickle(p) for p in range(2, 6))],
    ids=["zip", "legacy", "2", "3", "4", "5"],
)
def test_a_pickle_is_refused_by_name_and_never_opened(
    tmp_path: Path, write: Callable[[Any, Path], None]
) -> None:
    trap, path = tmp_path / "trap", tmp_path / "model.safetensors"
    write({"weights": Malicious(trap)}, path)
    with pytest.raises(ModelError, match="is a pickle") as caught:
        load_model(path)
    assert not trap.exists()
    assert str(path) in str(caught.value)
    assert "weights_only=True" in str(caught.value)


def test_a_header_as_long_as_a_pickle_begins_is_no_pickle(tmp_path: Path) -> None:
    """Its length fills the first bytes: 640, 896, 1152 and 1408 read like protocols 2 to 5 of pickle."""
    path, first = tmp_path / "model.safetensors", set()
    for padding in range(0, 1400, 8):
        save_tensors(path, {"weight": torch.ones(1)}, {"note": "x" * padding})
        first.add(path.read_bytes()[:2])
        assert load_tensors(path)[0]["weight"].item() == 1
    assert first >= {bytes([0x80, protocol]) for protocol in range(2, 6)}


@pytest.mark.parametrize("protocol", [0, 1])
def test_an_old_text_pickle_is_not_opened_either(tmp_path: Path, protocol: int) -> None:
    trap, path = tmp_path / "trap", tmp_path / "model.safetensors"
    raw_pickle(protocol)(Malicious(trap), path)
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        load_model(path)
    assert not trap.exists()


def test_the_trap_of_these_tests_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Malicious(tmp_path / "trap")))  # noqa: S301
    assert (tmp_path / "trap").exists()


@pytest.mark.parametrize("keep", [0, 5, 100, 2000, -1])
def test_a_file_cut_short_is_refused(saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(ModelError, match="cannot be read as safetensors") as caught:
        load_model(saved)
    assert str(saved) in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such file"):
        load_model(tmp_path / "none.safetensors")
    with pytest.raises(ModelError, match="there is no such file"):
        load_model(tmp_path)


def test_the_models_of_a_run_folder_are_named(saved: Path) -> None:
    stage = saved.parent / "adabn"
    stage.mkdir()
    saved.rename(stage / saved.name)
    with pytest.raises(ModelError, match="there is no such file") as caught:
        load_model(saved.parent)
    assert caught.value.expected == f"one of {stage / saved.name}"


def test_weights_without_a_description_are_refused(tmp_path: Path, model: nn.Module) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    with pytest.raises(ModelError, match="without a description"):
        load_model(path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"format": "uda-model-9"}, "has format 'uda-model-9'"),
        ({"format": None}, "has format None"),
        ({"classes": None}, "its description is incomplete"),
        ({"step": "many"}, "its description is incomplete"),
        ({"class_ratio": 1}, "its description is incomplete"),
        ({"network": {"kind": "vit"}}, "kind: got 'vit'"),
        ({"network": {"kind": "registered"}}, "key 'name' is missing"),
        ({"network": {"kind": "exported", "name": "x"}}, "the program 'x' is missing"),
        ({"network": {"kind": "registered", "name": "x"}}, "uda.register_network('x', factory)"),
        ({"network": {"kind": "exported", "name": "../x"}}, "name: got '../x'"),
        ({"network": 3}, "its description is incomplete"),
        ({"prepare": {}}, "key 'size' is missing"),
    ],
)
def test_a_description_of_another_kind_is_refused(
    tmp_path: Path, model: nn.Module, change: dict[str, Any], expected: str
) -> None:
    path = tmp_path / "m.safetensors"
    text = json.dumps({**json.loads(describe().to_json()), **change})
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path, {"uda": text})
    with pytest.raises(UdaError) as caught:
        load_model(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "no json", "[]", "3", "{}"])
def test_a_description_that_is_none_is_refused(tmp_path: Path, model: nn.Module, text: str) -> None:
    path = tmp_path / "m.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path, {"uda": text})
    with pytest.raises(ModelError, match="its description is incomplete"):
        load_model(path)


def test_another_architecture_lists_what_is_missing_unexpected_and_misshapen() -> None:
    own = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = content(own)
    tensors = dict(own.state_dict())
    del tensors["1.running_mean"]
    tensors["0.weight"] = torch.zeros(4, 1, 3, 3)
    tensors["head.weight"] = torch.zeros(2)
    with pytest.raises(ModelError, match="5 of 7 tensors match") as caught:
        load_weights(own, tensors, Path("m.safetensors"))
    text = str(caught.value)
    assert "1 missing: 1.running_mean" in text
    assert "1 unexpected: head.weight" in text
    assert "1 of another shape: 0.weight (4, 1, 3, 3) for (2, 1, 3, 3)" in text
    assert content(own) == before


def test_a_description_of_another_number_of_classes_than_the_weights_is_refused(
    tmp_path: Path, model: nn.Module
) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, model, describe(classes=("background", "disk")))
    with pytest.raises(ModelError, match="of another shape"):
        load_model(path)


@pytest.mark.parametrize("classes", [("background", "disk"), ("background", "ring", "disk")])
def test_a_model_of_other_classes_than_the_card_is_refused(classes: tuple[str, ...]) -> None:
    card = DatasetCard(
        name="target",
        title="x",
        images="{case}",
        classes=classes,
        label_values={name: (i,) for i, name in enumerate(classes)},
        prepare=Prepare(size=(8, 8)),
    )
    with pytest.raises(ModelError, match="the model has 3 classes") as caught:
        check_classes(describe(), card, "m.safetensors")
    assert f"the {len(classes)} of card 'target'" in str(caught.value)


def test_the_ledger_keeps_every_entry_once_and_none_only_alone() -> None:
    assert union(("none",), ("none",)) == ("none",)
    assert union(("source_labels",), ("none",)) == ("source_labels",)
    assert union(("source_labels",), ("target_tags", "source_labels")) == (
        "source_labels",
        "target_tags",
    )
    assert describe(supervision=("source_labels",)).with_supervision(("none",)).supervision == (
        "source_labels",
    )


class OneNorm(nn.Module):
    """A BatchNorm over the image itself, whose statistics can be computed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.head = nn.Conv2d(1, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(image))


def test_estimated_statistics_are_those_of_the_images_and_weights_stay() -> None:
    batches = [5 + 2 * torch.randn(4, 1, 6, 6) for _ in range(3)]
    model = OneNorm().eval()
    model(batches[0] * 100)
    weights = [p.clone() for p in model.parameters()]
    estimate_batchnorm(model, batches, CPU)
    mean = torch.stack([b.mean() for b in batches]).mean()
    variance = torch.stack([b.var() for b in batches]).mean()  # unbiased, as BatchNorm keeps it
    torch.testing.assert_close(model.norm.running_mean, mean[None])
    torch.testing.assert_close(model.norm.running_var, variance[None])
    for before, after in zip(weights, model.parameters(), strict=True):
        assert torch.equal(before, after)


def test_estimation_forgets_the_former_domain() -> None:
    batches = [torch.randn(4, 1, 6, 6) for _ in range(3)]
    fresh, used = OneNorm(), OneNorm()
    used.train()
    used(1000 + 50 * torch.randn(4, 1, 6, 6))
    for model in (fresh, used):
        estimate_batchnorm(model, batches, CPU)
    assert torch.equal(fresh.norm.running_mean, used.norm.running_mean)
    assert torch.equal(fresh.norm.running_var, used.norm.running_var)


@pytest.mark.parametrize("training", [True, False])
def test_estimation_leaves_mode_and_momentum_as_they_were(training: bool) -> None:
    model = OneNorm().train(training)
    estimate_batchnorm(model, [torch.randn(4, 1, 6, 6)], CPU)
    assert [m.training for m in model.modules()] == [training] * 3
    assert model.norm.momentum == 0.1


def test_estimation_draws_nothing_at_random(model: nn.Module) -> None:
    """Dropout would make the adabn row depend on whatever ran before it in the process."""
    batches = [torch.randn(4, 1, 32, 24) for _ in range(2)]
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        estimate_batchnorm(model, batches, CPU)
        found.append(content(model))
    assert found[0] == found[1]


def norms_and_others(model: nn.Module) -> tuple[set[bool], set[bool]]:
    norms = {m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    others = {m.training for m in model.modules() if isinstance(m, nn.Dropout)}
    return norms, others


def test_policy_train_lets_the_statistics_follow(model: nn.Module) -> None:
    set_mode(model.eval(), "train")
    assert norms_and_others(model) == ({True}, {True})
    before = content(model)
    model(torch.randn(4, 1, 32, 24))
    assert content(model) != before


@pytest.mark.parametrize("policy", ["frozen", "target"])
def test_other_policies_keep_the_statistics_and_let_dropout_work(
    model: nn.Module, policy: Any
) -> None:
    set_mode(model.eval(), policy)
    assert norms_and_others(model) == ({False}, {True})
    before = content(model)
    model(torch.randn(4, 1, 32, 24))
    assert content(model) == before


def test_only_batchnorm_counts_as_batchnorm(model: nn.Module) -> None:
    assert layers(model)
    assert not layers(build(Network(channels=(4, 8), norm="instance"), 2))


@pytest.mark.parametrize("res_units", [0, 2])
def test_a_network_gives_one_logit_map_per_class(res_units: int) -> None:
    network = build(Network(channels=(4, 8, 8), res_units=res_units), 5).eval()
    assert network(torch.zeros(2, 1, 16, 24)).shape == (2, 5, 16, 24)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_takes_as_many_channels_as_a_slab_has(channels: int) -> None:
    assert build(NETWORK, 3, channels)(torch.zeros(2, channels, 32, 24)).shape == (2, 3, 32, 24)


def test_a_network_of_volumes_is_saved_and_opened(tmp_path: Path) -> None:
    network = Network(channels=(4, 8), res_units=1, spatial_dims=3, patch=(4, 16, 16))
    path = tmp_path / "m.safetensors"
    save_model(path, build(network, 3), describe(network=network))
    model, info = load_model(path)
    assert info.network == network
    assert model(torch.zeros(1, 1, 4, 16, 16)).shape == (1, 3, 4, 16, 16)
    assert estimated(model, torch.randn(2, 1, 4, 16, 16))


def estimated(model: nn.Module, image: torch.Tensor) -> bool:
    before = content(model)
    estimate_batchnorm(model, [image], CPU)
    return content(model) != before


def test_the_channels_of_a_file_are_those_of_its_slab(tmp_path: Path) -> None:
    prepare = Prepare(size=(32, 24), slab=3)
    path = tmp_path / "m.safetensors"
    save_model(path, build(NETWORK, 3, 3), describe(prepare=prepare))
    assert load_model(path)[0](torch.zeros(1, 3, 32, 24)).shape == (1, 3, 32, 24)


def test_a_file_from_before_there_were_volumes_slabs_and_foreign_networks_loads(
    saved: Path, model: nn.Module
) -> None:
    text = json.loads(describe().to_json())
    text["network"] = {
        key: text["network"][key] for key in ("kind", "channels", "res_units", "norm", "dropout")
    }
    for key in ("slice_spacing", "offset", "slab"):
        del text["prepare"][key]
    save_file(dict(load_file(saved)), saved, {"uda": json.dumps(text)})
    loaded, info = load_model(saved)
    assert info == describe()
    assert content(loaded) == content(model)


FOREIGN = {
    "registered": lambda network: None,
    "torchscript": scripted,
    "exported": exported,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_model_is_one_file_under_its_own_names(tmp_path: Path, kind: Any) -> None:
    network = used(Plain())
    register_network("plain", Plain)
    info = describe(network=ForeignNetwork(kind=kind, name="plain"))
    model = build(info.network, 3, program=FOREIGN[kind](network), trust_code=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_model(first, model, info)
    names = set(network.state_dict()) | ({PROGRAM} if kind != "registered" else set())
    assert set(load_file(first)) == names
    loaded, found = load_model(first, trust_code=True)
    trusted = found.origin.get(TRUSTED)
    assert (trusted is None) == (kind != "torchscript")
    assert replace(found, origin=info.origin) == info
    assert found.origin == info.origin | ({} if trusted is None else {TRUSTED: trusted})
    assert content(loaded) == content(model)
    image = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(loaded.eval()(image), model.eval()(image))
    save_model(second, loaded, found)
    assert first.read_bytes() == second.read_bytes()


def test_a_program_cut_out_of_its_file_is_missed(tmp_path: Path) -> None:
    info = describe(network=ForeignNetwork(kind="torchscript", name="plain"))
    path = tmp_path / "m.safetensors"
    save_model(path, build(info.network, 3, program=scripted(Plain()), trust_code=True), info)
    tensors = load_file(path)
    program = tensors.pop(PROGRAM)
    save_file(tensors, path, {"uda": info.to_json()})
    with pytest.raises(ModelError, match="the program 'plain' is missing"):
        load_model(path)
    save_file({**tensors, PROGRAM: program[:-100].clone()}, path, {"uda": info.to_json()})
    with pytest.raises(ModelError, match="cannot be read as a network"):
        load_model(path)


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)
        self.two.weight = self.one.weight
        self.last = nn.Conv2d(1, 3, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.last(self.two(self.one(image)))


def test_tied_weights_are_saved_and_stay_tied(tmp_path: Path) -> None:
    register_network("tied", Tied)
    info = describe(network=ForeignNetwork(kind="registered", name="tied"))
    model = build(info.network, 3)
    save_model(tmp_path / "m.safetensors", model, info)
    loaded, _ = load_model(tmp_path / "m.safetensors")
    assert content(loaded) == content(model)
    assert loaded.network.one.weight is loaded.network.two.weight


@pytest.mark.parametrize(("outputs", "one_logit"), [(3, False), (1, True)])
def test_the_head_of_a_python_network_is_its_last_layer_of_that_many_outputs(
    outputs: int, one_logit: bool
) -> None:
    register_network("plain", lambda: Plain(classes=outputs))
    foreign = ForeignNetwork(kind="registered", name="plain", one_logit=one_logit)
    model = build(foreign, 2 if one_logit else 3)
    assert head(model) is model.network.last
    with features_of(model) as seen:
        model(torch.zeros(2, 1, 16, 16))
    assert [tuple(features.shape) for features in seen] == [(2, 6, 16, 16)]


@pytest.mark.parametrize("make", [exported, scripted, traced])
def test_the_head_of_a_program_is_not_known(make: Callable[[nn.Module], bytes]) -> None:
    kind = "exported" if make is exported else "torchscript"
    foreign = ForeignNetwork(kind=kind, name="x")
    model = build(foreign, 3, program=make(used(Plain())), trust_code=True)
    with pytest.raises(ModelError, match=r"the last layer of a .* is not known") as caught:
        head(model)
    assert "freeze_head: false" in str(caught.value)


def test_a_python_network_without_such_a_layer_has_no_known_head() -> None:
    register_network("other", lambda: Answers(lambda z: z, classes=5))
    with pytest.raises(ModelError, match="the last layer of a Answers is not known"):
        head(build(ForeignNetwork(kind="registered", name="other"), 3))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ("a", "a", "a")}, "distinct classes"),
        ({"prepare": Prepare(size=(1, 1))}, "cannot take the images of its description"),
        ({"prepare": Prepare(size=(7, 9))}, "cannot take the images of its description"),
    ],
)
def test_a_description_that_its_network_cannot_serve_is_refused(
    changes: dict[str, Any], words: str, tmp_path: Path, model: nn.Module
) -> None:
    save_model(tmp_path / "model.safetensors", model, describe(**changes))
    with pytest.raises(ModelError, match=words):
        load_model(tmp_path)
