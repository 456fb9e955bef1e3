"""Foreign networks: a program behaves as the Python module it came from, and opening one runs nothing else."""

from __future__ import annotations

import copy
import io
import json
import os
import tarfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_networks import (
    Answers,
    Plain,
    Shared,
    Solid,
    exported,
    frozen,
    repacked,
    scripted,
    traced,
    used,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from uda.config.networks import ForeignNetwork
from uda.errors import ConfigError, ModelError
from uda.files.atomic import load_tensors
from uda.networks.batchnorm import copy_statistics, estimate_batchnorm, layers, set_mode
from uda.networks.ema import ema_update, frozen_copy
from uda.networks.foreign import (
    kind_of,
    load_program,
    match_state,
    read_state,
    register_network,
    registered,
)
from uda.networks.foreign.adapter import ForeignModel, build_foreign, select, two_logits

CPU = torch.device("cpu")
IMAGES = [1 + torch.randn(n, 1, 16, 16, generator=torch.Generator().manual_seed(n)) for n in (4, 3)]


def describe(kind: Any, **changes: Any) -> ForeignNetwork:
    return ForeignNetwork(kind=kind, name="plain", **changes)


def opened(data: bytes, classes: int = 3) -> ForeignModel:
    return build_foreign(describe(kind_of(data, "plain")), classes, data, trust_code=True)


def statistics(model: nn.Module) -> dict[str, Tensor]:
    state = model.network.state_dict() if isinstance(model, ForeignModel) else model.state_dict()
    return {name: tensor.clone() for name, tensor in state.items() if "running" in name}


@pytest.fixture(scope="module")
def original() -> nn.Module:
    torch.manual_seed(0)
    return used(Plain(dropout=0.5))


@pytest.fixture(scope="module")
def programs(original: nn.Module) -> dict[str, bytes]:
    """The same network in every adaptable form."""
    fresh = copy.deepcopy(original)
    return {
        "scripted": scripted(original),
        "exported": exported(original),
        "exported while training": exported(copy.deepcopy(original).train()),
        "exported and decomposed": exported(fresh, decomposed=True),
    }


FORMS = ["scripted", "exported", "exported while training", "exported and decomposed"]
each_form = pytest.mark.parametrize("form", FORMS)


# ---------------------------------------------------------------- every form behaves as the original


@each_form
def test_a_program_predicts_as_its_module_and_keeps_its_names(
    form: str, programs: dict[str, bytes], original: nn.Module
) -> None:
    model = opened(programs[form]).eval()
    assert sorted(model.network.state_dict()) == sorted(original.state_dict())
    for image in IMAGES:
        torch.testing.assert_close(model(image), original(image))


@each_form
def test_estimated_statistics_are_those_of_the_python_module(
    form: str, programs: dict[str, bytes], original: nn.Module
) -> None:
    model, expected = opened(programs[form]), copy.deepcopy(original)
    before = {n: p.clone() for n, p in model.named_parameters()}
    estimate_batchnorm(expected, IMAGES, CPU)
    estimate_batchnorm(model, IMAGES, CPU)
    found = statistics(model)
    assert len(found) == 4
    for name, tensor in statistics(expected).items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    torch.testing.assert_close(model.eval()(IMAGES[0]), expected.eval()(IMAGES[0]))


@each_form
def test_statistics_are_copied_to_the_bit_and_weights_are_not(
    form: str, programs: dict[str, bytes]
) -> None:
    model, other = opened(programs[form]), opened(programs[form])
    estimate_batchnorm(model, IMAGES, CPU)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    before = {name: parameter.clone() for name, parameter in other.named_parameters()}
    copy_statistics(model, other)
    expected = statistics(model)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in statistics(other).items())
    assert all(torch.equal(p, before[name]) for name, p in other.named_parameters())


@each_form
@pytest.mark.parametrize("policy", ["train", "warmed", "frozen", "target"])
def test_statistics_follow_only_under_the_policies_that_let_them(
    form: str, policy: Any, programs: dict[str, bytes], original: nn.Module
) -> None:
    model, expected = opened(programs[form]).eval(), copy.deepcopy(original)
    set_mode(model, policy)
    set_mode(expected, policy)
    before = statistics(model)
    assert layers(model)
    assert len(layers(model)) == 2
    for network in (model, expected):
        network(IMAGES[0])
    after = statistics(model)
    moved = [not torch.equal(before[name], after[name]) for name in before]
    assert moved == [policy in ("train", "warmed")] * 4
    for name, tensor in statistics(expected).items():
        torch.testing.assert_close(after[name], tensor)


@each_form
def test_a_copy_has_its_own_weights_and_modes(form: str, programs: dict[str, bytes]) -> None:
    model = opened(programs[form])
    set_mode(model, "train")
    ema = frozen_copy(model)
    assert not ema.training
    assert not any(p.requires_grad for p in ema.parameters())
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())
    torch.testing.assert_close(ema(IMAGES[0]), model.eval()(IMAGES[0]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    kept = ema(IMAGES[0])
    assert not torch.allclose(kept, model(IMAGES[0]))
    ema_update(ema, model, 1.0)
    torch.testing.assert_close(ema(IMAGES[0]), model(IMAGES[0]))


@each_form
def test_a_program_trains_in_any_memory_layout_and_under_autocast(
    form: str, programs: dict[str, bytes], original: nn.Module
) -> None:
    model, expected = opened(programs[form]), copy.deepcopy(original)
    model.to(memory_format=torch.channels_last)
    for network in (model, expected):
        set_mode(network, "frozen")
        network.apply(lambda m: m.eval())
        network(IMAGES[0].to(memory_format=torch.channels_last)).square().mean().backward()
    gradients = dict(model.network.named_parameters())
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(gradients[name].grad, parameter.grad, rtol=1e-4, atol=1e-6)
    original.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(IMAGES[0]).isfinite().all()


@each_form
def test_the_same_pass_gives_the_same_bits_however_often_it_runs(
    form: str, programs: dict[str, bytes]
) -> None:
    model = opened(programs[form]).eval()
    first, *others = [model(IMAGES[0]) for _ in range(4)]
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("form", ["scripted", "exported", "exported while training"])
def test_dropout_is_off_in_prediction_and_on_in_training(
    form: str, programs: dict[str, bytes]
) -> None:
    model = opened(programs[form]).eval()
    assert torch.equal(model(IMAGES[0]), model(IMAGES[0]))
    set_mode(model, "frozen")
    assert not torch.equal(model(IMAGES[0]), model(IMAGES[0]))


def test_a_program_of_volumes_gets_layers_of_volumes() -> None:
    network = used(Solid(), (1, 4, 8, 8))
    model = opened(exported(network, (1, 4, 8, 8)))
    assert [type(layer) for layer in layers(model)] == [nn.BatchNorm3d]
    image = torch.randn(3, 1, 4, 8, 8)
    torch.testing.assert_close(model.eval()(image), network(image))


# ---------------------------------------------------------------- exported programs


def test_a_layer_that_runs_twice_is_one_layer() -> None:
    network = used(Shared())
    model = opened(exported(network))
    assert len(layers(model)) == 1
    estimate_batchnorm(network, IMAGES, CPU)
    estimate_batchnorm(model, IMAGES, CPU)
    for name, tensor in statistics(network).items():
        torch.testing.assert_close(statistics(model)[name], tensor)


class Functional(nn.Module):
    """Batch normalisation by hand, with names of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(1, 3, 1)
        self.register_buffer("centre", torch.zeros(3))
        self.register_buffer("spread", torch.ones(3))

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.batch_norm(self.last(image), self.centre, self.spread)


def test_batch_normalisation_under_other_names_is_refused_and_not_overlooked() -> None:
    with pytest.raises(ModelError, match="cannot be made a layer again") as caught:
        opened(exported(Functional()))
    assert "Python factory" in str(caught.value)


class Noisy(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image + torch.rand_like(image)


def test_a_program_that_draws_at_random_in_prediction_is_refused() -> None:
    with pytest.raises(ModelError, match="draws at random") as caught:
        opened(exported(Noisy()))
    assert "torch.export.export(model.eval()" in str(caught.value)
    with pytest.raises(ModelError, match="draws at random"):
        opened(exported(Plain(dropout=0.5).train(), decomposed=True))


class Two(nn.Module):
    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        return image + other


def test_a_program_of_two_inputs_is_refused_by_their_names() -> None:
    program = torch.export.export(Two(), (torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    with pytest.raises(ModelError, match="takes 2 inputs: image, other"):
        opened(buffer.getvalue())


class Positions(nn.Module):
    """Makes tensors as it goes, and keeps one as a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(2, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        row = torch.arange(image.shape[3], device=image.device, dtype=image.dtype)
        row = row * torch.tensor([0.5])
        place = row.expand(image.shape[0], 1, image.shape[2], image.shape[3])
        return self.last(torch.cat([image, place], 1))


def test_tensors_that_a_program_makes_follow_its_device() -> None:
    network = Positions().eval()
    model = opened(exported(network))
    torch.testing.assert_close(model.eval()(IMAGES[0]), network(IMAGES[0]))
    assert sorted(model.network.state_dict()) == ["last.bias", "last.weight"]
    elsewhere = copy.deepcopy(model).to("meta")
    assert all(t.is_meta for t in [*elsewhere.parameters(), *elsewhere.buffers()])
    assert elsewhere(IMAGES[0].to("meta")).is_meta


def refusal(model: nn.Module, *size: int) -> str:
    with pytest.raises(ModelError) as caught:
        model(torch.zeros(size))
    return str(caught.value)


def test_a_program_of_one_batch_size_says_how_to_export_it() -> None:
    model = opened(exported(Plain().eval(), dynamic={})).eval()
    assert model(torch.zeros(2, 1, 16, 16)).shape == (2, 3, 16, 16)
    message = refusal(model, 1, 1, 16, 16)
    assert "exported for images [2, 1, 16, 16], and gets [1, 1, 16, 16]" in message
    assert "torch.export.export(model.eval(), (torch.zeros(2, 1, 16, 16),)" in message
    assert 'dynamic_shapes=({0: torch.export.Dim("batch")},)' in message


@pytest.mark.parametrize("size", [(2, 1, 16, 8), (2, 3, 16, 16), (1, 16, 16), (2, 1, 16, 16, 16)])
def test_images_that_a_program_was_not_exported_for_are_refused(
    programs: dict[str, bytes], size: tuple[int, ...]
) -> None:
    message = refusal(opened(programs["exported"]), *size)
    assert f"[n, 1, 16, 16], and gets {list(size)}" in message


def test_a_single_image_and_many_pass_where_the_batch_is_dynamic(
    programs: dict[str, bytes],
) -> None:
    model = opened(programs["exported"]).eval()
    assert [len(model(torch.zeros(n, 1, 16, 16))) for n in (1, 2, 9)] == [1, 2, 9]


def test_sizes_that_are_multiples_or_equal_stay_so() -> None:
    half = torch.export.Dim("half", min=4, max=16)
    dynamic = {0: torch.export.Dim("batch"), 2: 2 * half, 3: 2 * half}
    model = opened(exported(Plain().eval(), dynamic=dynamic)).eval()
    assert model(torch.zeros(1, 1, 12, 12)).shape == (1, 3, 12, 12)
    for height, width in ((13, 13), (12, 16), (6, 6), (34, 34)):
        assert "2·" in refusal(model, 1, 1, height, width)


class Branch(nn.Module):
    """Takes another branch for wide images."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(1, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(image) if image.shape[3] < 64 else -self.last(image)


def test_a_branch_that_was_not_exported_is_refused_and_not_taken_wrongly() -> None:
    auto = torch.export.Dim.AUTO
    model = opened(exported(Branch(), dynamic={0: auto, 3: auto})).eval()
    assert model(torch.zeros(1, 1, 16, 20)).shape == (1, 3, 16, 20)
    assert "exported for" in refusal(model, 1, 1, 16, 80)


# ---------------------------------------------------------------- TorchScript


@pytest.mark.parametrize("momentum", [None, 0.5, 1.0])
def test_any_momentum_of_a_scripted_layer_gives_the_same_statistics(momentum: Any) -> None:
    network = used(Plain(momentum=momentum))
    model = opened(scripted(network))
    for one in (network, model):
        estimate_batchnorm(one, IMAGES, CPU)
    for name, tensor in statistics(network).items():
        torch.testing.assert_close(statistics(model)[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_scripted_layer_without_momentum_or_run_twice_cannot_be_estimated() -> None:
    with pytest.raises(ModelError, match="momentum 0"):
        estimate_batchnorm(opened(scripted(Plain(momentum=0.0))), IMAGES, CPU)
    with pytest.raises(ModelError, match="runs 2 times in one pass") as caught:
        estimate_batchnorm(opened(scripted(Shared())), IMAGES, CPU)
    assert "torch.export.export" in str(caught.value)


@pytest.mark.parametrize("training", [True, False])
def test_estimation_leaves_the_mode_of_a_scripted_network(training: bool) -> None:
    model = opened(scripted(used(Plain()))).train(training)
    estimate_batchnorm(model, IMAGES, CPU)
    assert model.training == training
    assert all(layer.training == training for layer in layers(model))


@pytest.fixture(scope="module")
def trace() -> bytes:
    return traced(used(Plain()))


def test_a_traced_network_predicts_and_trains_with_its_statistics_kept(trace: bytes) -> None:
    model = opened(trace)
    assert layers(model)
    set_mode(model, "frozen")
    before = statistics(model)
    model(IMAGES[0]).square().mean().backward()
    assert all(torch.equal(before[name], t) for name, t in statistics(model).items())
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("policy", ["train", "warmed"])
def test_statistics_of_a_traced_network_cannot_be_estimated_and_the_error_says_so(
    trace: bytes, policy: Any
) -> None:
    model = opened(trace)
    for attempt in (
        lambda: set_mode(model, policy),
        lambda: estimate_batchnorm(model, IMAGES, CPU),
    ):
        with pytest.raises(ModelError, match="of 2 BatchNorm layers cannot follow") as caught:
            attempt()
        assert "torch.jit.script" in str(caught.value)
        assert "batchnorm: frozen" in str(caught.value)


def test_a_network_traced_in_training_mode_is_refused() -> None:
    with pytest.raises(ModelError, match="traced in training mode") as caught:
        opened(traced(Plain().train()))
    assert "model.eval()" in str(caught.value)


def test_a_frozen_program_has_nothing_to_adapt() -> None:
    with pytest.raises(ModelError, match="no weights that could be adapted"):
        opened(frozen(Plain()))


def test_instance_normalisation_is_no_batch_normalisation() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.InstanceNorm2d(4, track_running_stats=True), nn.Conv2d(4, 3, 1)
    ).eval()
    assert not layers(opened(scripted(network)))
    assert not layers(opened(exported(network)))


# ---------------------------------------------------------------- files that are none of this


def test_weights_junk_and_truncated_files_are_distinguished(programs: dict[str, bytes]) -> None:
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, buffer)
    with pytest.raises(ModelError, match="holds weights or other objects, and no program") as found:
        kind_of(buffer.getvalue(), "net.pt")
    assert "--weights" in str(found.value)
    for form in ("scripted", "exported"):
        for data in (
            b"",
            b"junk",
            programs[form][:-30],
            programs[form][: len(programs[form]) // 2],
        ):
            with pytest.raises(ModelError, match=r"cannot be read as a network") as found:
                kind_of(data, "net.pt")
            assert "net.pt" in str(found.value)


@pytest.mark.parametrize("form", ["scripted", "exported"])
def test_a_flipped_bit_is_found(form: str, programs: dict[str, bytes]) -> None:
    data = bytearray(programs[form])
    data[data.index(b"archive/data/") + 120] ^= 1
    with pytest.raises(ModelError, match=r"damaged|cannot be read"):
        kind_of(bytes(data), "net.pt")


def test_a_program_of_the_other_kind_is_refused(programs: dict[str, bytes]) -> None:
    with pytest.raises(ModelError, match="is a exported program"):
        load_program("torchscript", programs["exported"], "net.pt2")


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.command = f"touch {path}"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_a_pickle_inside_an_exported_program_is_not_opened(
    tmp_path: Path, programs: dict[str, bytes]
) -> None:
    trap = tmp_path / "trap"
    payload = pickled((Payload(trap),))

    def change(name: str, data: bytes) -> bytes:
        return payload if "sample_inputs" in name else data

    load_program("exported", repacked(programs["exported"], change), "net.pt2")
    assert not trap.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_objects_beside_tensors_are_refused_by_name(programs: dict[str, bytes]) -> None:
    extra = "archive/data/constants/opaque_obj_0"
    hostile = repacked(programs["exported"], lambda _, data: data, extra)
    with pytest.raises(ModelError, match="opaque_obj_0"):
        load_program("exported", hostile, "net.pt2")


def test_a_repacked_program_still_works(programs: dict[str, bytes], original: nn.Module) -> None:
    model = opened(repacked(programs["exported"], lambda _, data: data)).eval()
    torch.testing.assert_close(model(IMAGES[0]), original(IMAGES[0]))


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch {trap}')",
        "Max(2, exec('import os'))",
        "().__class__.__base__",
        "Mod('open(1)', 2)",
        "[n for n in (1, 2)]",
        "(lambda: 2)()",
        "open('{trap}', 'w')",
        "f'{{2}}'",
        "2 +",
    ],
)
@pytest.mark.parametrize("place", ["size", "guard"])
def test_a_size_that_is_no_arithmetic_is_not_evaluated(
    text: str, place: str, tmp_path: Path, programs: dict[str, bytes]
) -> None:
    text = text.format(trap=tmp_path / "trap")

    def hostile(node: Any) -> Any:
        if isinstance(node, list):
            return [hostile(item) for item in node]
        if isinstance(node, dict):
            changed = {key: hostile(value) for key, value in node.items()}
            if place == "size" and "expr_str" in changed:
                changed["expr_str"] = text
            if place == "guard" and "guards_code" in changed:
                changed["guards_code"] = [text]
            return changed
        return node

    def change(name: str, data: bytes) -> bytes:
        return json.dumps(hostile(json.loads(data))).encode() if "/models/" in name else data

    data = repacked(programs["exported"], change)
    assert data != programs["exported"]
    with pytest.raises(ModelError, match="is not arithmetic and is not evaluated"):
        opened(data)
    assert not (tmp_path / "trap").exists()


# ---------------------------------------------------------------- the registry


def test_a_network_of_python_code_is_known_only_where_it_is_registered() -> None:
    with pytest.raises(ModelError, match="not registered here") as caught:
        registered("unregistered")
    assert "uda.register_network('unregistered', factory)" in str(caught.value)
    assert "torch.export" in str(caught.value)
    register_network("user_network", Plain)
    assert isinstance(registered("user_network"), Plain)
    assert registered("user_network") is not registered("user_network")


def test_what_is_no_factory_is_refused() -> None:
    with pytest.raises(ConfigError, match="a function without arguments"):
        register_network("mine", Plain())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cannot be called"):
        register_network("../mine", Plain)
    register_network("wrong", lambda: {"weight": 1})  # type: ignore[arg-type,return-value]
    with pytest.raises(ModelError, match="returned a dict"):
        registered("wrong")


# ---------------------------------------------------------------- answers


def answers(wrap: Callable[[Tensor], Any], **changes: Any) -> ForeignModel:
    register_network("answers", lambda: Answers(wrap))
    foreign = ForeignNetwork(kind="registered", name="answers", **changes)
    return build_foreign(foreign, 3, None)


@pytest.mark.parametrize(
    ("wrap", "output"),
    [
        (lambda z: z, None),
        (lambda z: {"logits": z}, None),
        (lambda z: {"aux": z * 0, "out": z}, None),
        (lambda z: {"aux": z * 0, "main": z}, "main"),
        (lambda z: [z], None),
        (lambda z: (z * 0, z), 1),
        (lambda z: (z, z * 0), 0),
    ],
)
def test_the_logits_are_found_among_what_a_network_answers(
    wrap: Callable[[Tensor], Any], output: Any
) -> None:
    model = answers(wrap, output=output)
    assert torch.equal(model(IMAGES[0]), model.network.last(IMAGES[0]))


@pytest.mark.parametrize(
    ("answer", "output", "message"),
    [
        ((torch.zeros(1, 3), torch.zeros(1, 2)), None, "0: a tensor [1, 3], 1: a tensor [1, 2]"),
        ({"a": torch.zeros(1), "b": 2}, None, "a: a tensor [1], b: a int"),
        ({"a": torch.zeros(1)}, "b", "output 'b' is no tensor"),
        ((torch.zeros(1),), 3, "output 3 is no tensor"),
        (torch.zeros(1), "a", "output 'a' is no tensor"),
        (None, None, "a NoneType"),
        ((), None, "a tuple"),
    ],
)
def test_nothing_is_guessed_among_several_answers(answer: Any, output: Any, message: str) -> None:
    with pytest.raises(ModelError, match="--output") as caught:
        select(answer, output)
    assert message in str(caught.value)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-60, 60, width=32), min_size=1, max_size=6))
def test_the_softmax_of_two_logits_is_the_sigmoid_of_one(values: list[float]) -> None:
    z = torch.tensor(values).reshape(1, 1, -1)
    p = two_logits(z).softmax(1)
    torch.testing.assert_close(p[:, 1:], torch.sigmoid(z))
    assert torch.equal(two_logits(z).argmax(1)[:, None] == 1, z > 0)


def test_one_logit_is_one_channel() -> None:
    with pytest.raises(ModelError, match=r"has the shape \[1, 3, 4, 4\]"):
        two_logits(torch.zeros(1, 3, 4, 4))


# ---------------------------------------------------------------- state dicts

OWN = Plain().state_dict()
PREFIXES = ("module.", "model.", "network.", "net.", "_orig_mod.")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(PREFIXES), max_size=3),
    st.sampled_from([(), ("state_dict",), ("model",), ("checkpoint", "state_dict")]),
)
def test_wrappers_and_checkpoints_are_seen_through(
    prefixes: Sequence[str], keys: Sequence[str]
) -> None:
    state: Any = {"".join(prefixes) + name: tensor for name, tensor in OWN.items()}
    for key in reversed(keys):
        state = {"epoch": 3, key: state, "optimizer": {"state": {0: {"step": torch.zeros(1)}}}}
    found = match_state(Plain(), state)
    assert found.share == 1
    assert found.report() == "matched 14 of 14 tensors"
    assert all(torch.equal(found.matched[name], OWN[name]) for name in OWN)


def test_a_network_inside_a_wrapper_takes_the_weights_of_the_bare_one() -> None:
    wrapper = nn.ModuleDict({"model": Plain()})
    assert match_state(wrapper, OWN).share == 1


def test_part_of_a_compiled_network_is_seen_through() -> None:
    state = {name.replace("inner.", "inner._orig_mod."): t for name, t in OWN.items()}
    assert match_state(Plain(), state).share == 1


def test_what_does_not_fit_is_named_and_less_than_ninety_percent_refused() -> None:
    state = {n: t for n, t in OWN.items() if n != "enter.bias"} | {
        "criterion.weight": OWN["last.bias"]
    }
    found = match_state(Plain(), state)
    assert found.report() == (
        "matched 13 of 14 tensors; missing: enter.bias; unexpected: criterion.weight"
    )
    found.require("net.pt")
    state["last.weight"] = torch.zeros(4, 6, 1, 1)
    found = match_state(Plain(), state)
    assert found.misshapen == ("last.weight [4, 6, 1, 1] for [3, 6, 1, 1]",)
    with pytest.raises(ModelError, match="matched 12 of 14") as caught:
        found.require("net.pt")
    assert "at least 90%" in str(caught.value)
    assert "net.pt" in str(caught.value)


def test_many_small_tensors_weigh_more_than_one_large_one() -> None:
    """By elements this network would pass with its head and norms missing."""
    network = nn.Sequential(nn.Conv2d(1, 200, 9), nn.BatchNorm2d(200), nn.Conv2d(200, 2, 1))
    found = match_state(network, {"0.weight": network[0].weight, "0.bias": network[0].bias})
    assert found.share == pytest.approx(2 / 8)


def test_counters_of_batches_weigh_nothing() -> None:
    state = {name: t for name, t in OWN.items() if "num_batches" not in name}
    assert match_state(Plain(), state).report() == "matched 14 of 14 tensors"
    counters = {name: t for name, t in OWN.items() if "num_batches" in name}
    assert match_state(Plain(), counters).share == 0


def test_nothing_matches_nothing() -> None:
    with pytest.raises(ModelError, match="matched 0 of 14"):
        match_state(Plain(), {}).require("x")


def test_weights_that_are_not_finite_are_refused() -> None:
    state = dict(OWN, **{"last.bias": torch.tensor([1.0, float("nan"), 0.0])})
    with pytest.raises(ModelError, match=r"NaN or infinity: last\.bias"):
        match_state(Plain(), state).require("x")


def test_weights_beyond_the_network_s_type_are_refused() -> None:
    state = dict(OWN, **{"last.bias": torch.full((3,), 1e300, dtype=torch.float64)})
    with pytest.raises(ModelError, match=r"NaN or infinity: last\.bias"):
        match_state(Plain(), state).require("x")


ODD: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "meta": (lambda t: t.to("meta"), "is on the device 'meta'"),
    "sparse": (Tensor.to_sparse, "is sparse (torch.sparse_coo)"),
    "rows": (lambda t: t.to_sparse_csr(), "is sparse (torch.sparse_csr)"),
    "mkldnn": (lambda t: t.to_mkldnn(), "is sparse (torch._mkldnn)"),
    "complex": (lambda t: t.to(torch.complex64), "is complex (torch.complex64)"),
    "quantized": (
        lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
        "is quantized (torch.qint8)",
    ),
    "nested": (lambda t: torch.nested.nested_tensor([t[0], t[1]]), "is nested"),
    "jagged": (
        lambda t: torch.nested.nested_tensor([t[0], t[1]], layout=torch.jagged),
        "is a NestedTensor",
    ),
    "lazy": (lambda _: nn.UninitializedParameter(), "is a UninitializedParameter"),
    "float8": (lambda t: t.to(torch.float8_e4m3fn), "is torch.float8_e4m3fn for torch.float32"),
    "bits": (lambda t: t.to(torch.uint8).view(torch.bits8), "is torch.bits8 for torch.float32"),
    "codes": (lambda t: t.to(torch.int8), "is torch.int8 for torch.float32"),
    "bool": (Tensor.bool, "is torch.bool for torch.float32"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_a_tensor_that_is_not_plain_is_named(kind: str) -> None:
    change, told = ODD[kind]
    network = nn.Sequential(nn.Linear(4, 3))
    state = network.state_dict()
    for key in ((), ("model",), ("a", "b")):
        wrapped: Any = {
            "module.0.bias": state["0.bias"],
            "module.0.weight": change(state["0.weight"]),
        }
        for part in key:
            wrapped = {part: wrapped}
        with pytest.raises(ModelError, match="not plain") as caught:
            match_state(network, wrapped).require("w.pt")
        assert caught.value.what.endswith(
            f"not plain: 0.weight {told}" + ", without values" * (kind == "meta")
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_taken(dtype: torch.dtype) -> None:
    found = match_state(Plain(), {name: tensor.to(dtype) for name, tensor in OWN.items()})
    assert found.report() == "matched 14 of 14 tensors"  # counters are averaged, too
    assert found.matched["last.weight"].dtype == torch.float32
    found.require("x")


def test_whole_numbers_that_were_averaged_are_taken_if_whole() -> None:
    network = nn.Module()
    network.register_buffer("index", torch.arange(5))
    assert match_state(network, {"index": torch.arange(5).float()}).share == 1
    with pytest.raises(ModelError, match=r"index is torch\.float32 for torch.int64"):
        match_state(network, {"index": torch.arange(5) + 0.5}).require("x")


def test_of_several_state_dicts_the_taken_one_is_named() -> None:
    twice = {name: tensor * 2 for name, tensor in OWN.items()}
    sparse = {name: tensor.to_sparse() for name, tensor in OWN.items()}
    for state, report in (
        ({"ema": twice, "model": OWN}, "taken from model, although others fit, too: ema"),
        ({"ema": OWN, "model": sparse}, "taken from ema, although others fit, too: model"),
        (dict(OWN, a={"b": twice}), "taken from its top level, although others fit, too: a.b"),
        ({0: OWN, 1: twice}, "taken from 0, although others fit, too: 1"),
        ({"state_dict": OWN, "ema": {"step": torch.ones(1)}}, ""),
        ({"state_dict": OWN, "model": OWN}, ""),
    ):
        found = match_state(Plain(), state)
        assert found.report() == "; ".join(filter(None, ["matched 14 of 14 tensors", report]))
        assert torch.equal(found.matched["last.weight"], OWN["last.weight"])


def test_a_checkpoint_that_holds_itself_or_is_very_deep_is_searched_once() -> None:
    state: Any = {"model": OWN}
    state["self"] = state
    for _ in range(3000):
        state = {"inner": state}
    assert match_state(Plain(), state).report() == "matched 14 of 14 tensors"


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".safetensors"])
def test_state_dicts_are_read_from_both_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(OWN, path)
    else:
        torch.save({"state_dict": OWN, "epoch": 3}, path)
    assert match_state(Plain(), read_state(path)).share == 1


@pytest.mark.parametrize("kind", ["object", "module", "namespace", "old archive", "damaged"])
def test_no_message_repeats_torch_s_advice_to_open_objects(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights.pt"
    if kind == "damaged":
        path.write_bytes(b"\x80\x02junk")
    elif kind == "old archive":
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo("storages"))
    else:
        made = {"object": Payload(tmp_path), "module": Plain(), "namespace": Namespace(lr=1)}
        torch.save({"state_dict": OWN, "extra": made[kind]}, path)
    with pytest.raises(ModelError, match="cannot be read as tensors alone") as caught:
        read_state(path)
    for advice in ("weights_only", "torch.load", "options", "trust", "x1b", "PyTorch"):
        assert advice not in str(caught.value)
    if kind == "namespace":
        assert "it needs argparse.Namespace" in caught.value.what


@pytest.mark.parametrize("kind", ["exported", "scripted"])
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_program_in_the_place_of_weights_or_a_model_is_called_so(
    kind: str, ending: str, programs: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / f"file{ending}"
    path.write_bytes(programs[kind])
    told = {"exported": "is a program of torch.export", "scripted": "is a TorchScript program"}
    with pytest.raises(ModelError, match=told[kind]):
        read_state(path)
    with pytest.raises(ModelError, match=told[kind]) as caught:
        load_tensors(path)
    assert "uda import" in str(caught.value)
    assert "torch.load" not in str(caught.value)


def test_a_hostile_state_dict_is_refused_and_not_run(tmp_path: Path) -> None:
    trap, path = tmp_path / "trap", tmp_path / "weights.pt"
    torch.save({"state_dict": OWN, "extra": Payload(trap)}, path)
    with pytest.raises(ModelError, match="cannot be read as tensors alone") as caught:
        read_state(path)
    assert not trap.exists()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk", None, "tensor"])
def test_files_without_a_state_dict_are_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "weights.pt"
    if content == "tensor":
        torch.save(torch.zeros(3), path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read_state(path)
    assert str(path) in str(caught.value)
