"""A user's network: after one import it is adapted, predicts, is scored and gives priors like ours."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from conftest import CLASSES, Tiny, write_nifti
from foreign_networks import Answers, Plain, Solid, exported, scripted, traced, used
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from uda import api
from uda.cli.main import import_
from uda.config.card import Prepare
from uda.config.recipe import Compute
from uda.errors import ModelError, PriorError, UdaError
from uda.networks.importing import import_model
from uda.networks.model_file import PROGRAM, load_model

CPU = Compute(device="cpu")
TWO_STEPS = ("steps=2", "batch=2", "lr=1e-3", "select=last")
SIZE = (1, 32, 32)


def trained(**changes: Any) -> nn.Module:
    torch.manual_seed(1)
    return used(Plain(**changes), SIZE)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return trained()


@pytest.fixture(scope="module")
def program(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported program of a fresh network, so that its weights can only come from the state dict."""
    path = tmp_path_factory.mktemp("program") / "my net (v2).pt2"
    path.write_bytes(exported(Plain().eval(), SIZE))
    return path


@pytest.fixture(scope="module")
def state(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "best.ckpt"
    wrapped = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"epoch": 9, "state_dict": wrapped}, path)
    return path


def imported(kind: str, network: nn.Module, program: Path, state: Path, tiny: Tiny) -> Path:
    out, card = tiny.home / kind, str(tiny.home / "source.yaml")
    ratio = {"disk": 0.1, "ring": 0.2}
    if kind == "instance":
        return import_model(copy.deepcopy(network), out, card=card, class_ratio=ratio)
    if kind == "factory":
        return import_model(
            Plain, out, card=card, weights=state, name="plain-factory", class_ratio=ratio
        )
    if kind == "exported":
        return import_model(program, out, card=card, weights=state, class_ratio=ratio)
    path = tiny.home / "net.pt"
    path.write_bytes(scripted(network))
    return import_model(path, out, card=card, class_ratio=ratio, trust_code=True)


KINDS = ["instance", "factory", "scripted", "exported"]
each_kind = pytest.mark.parametrize("kind", KINDS)


def own(path: Path) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in load_file(path).items() if name != PROGRAM}


def differences(a: Path, b: Path) -> set[str]:
    first, second = own(a), own(b)
    assert first.keys() == second.keys()
    return {name for name in first if not torch.equal(first[name], second[name])}


# ---------------------------------------------------------------- the whole way


@each_kind
def test_an_imported_network_goes_the_whole_way(
    kind: str, network: nn.Module, program: Path, state: Path, tiny: Tiny
) -> None:
    model = imported(kind, network, program, state, tiny)
    assert own(model).keys() == network.state_dict().keys()
    images, out = tiny.root / "t" / "images", tiny.home / "out" / kind
    ours: dict[str, Any] = {"compute": CPU, "trust_code": kind == "scripted"}
    minent = api.adapt(model, images, out / "minent", method="minent", overrides=TWO_STEPS, **ours)
    teacher = api.adapt(
        model, images, out / "teacher", method="mean_teacher", overrides=TWO_STEPS, **ours
    )
    adabn = api.adapt(model, images, out / "adabn", method="adabn", **ours)
    norms = {n for n in own(model) if "running" in n or "num_batches" in n}
    assert differences(model, adabn) == norms
    for adapted in (minent, teacher):
        assert {"last.weight", "enter.weight"} <= differences(model, adapted)
    prior = api.estimate_prior(model, **ours)
    assert prior.ratio == pytest.approx((0.7, 0.1, 0.2))
    done = list(api.predict(teacher, images, out / "masks", **ours))
    assert [outcome.fault for outcome in done] == [""] * 3
    metrics = api.evaluate_model(
        teacher, str(tiny.home / "target.yaml"), tiny.root, out / "scores", **ours
    )
    assert metrics["rows"][0]["supervision"] == ["source_labels"]
    assert 0 <= metrics["rows"][0]["dice"]["mean"] <= 1


def test_every_form_of_a_network_is_adapted_alike(
    network: nn.Module, program: Path, state: Path, tiny: Tiny
) -> None:
    images = tiny.root / "t" / "images"
    found = {}
    for kind in KINDS:
        model = imported(kind, network, program, state, tiny)
        out = tiny.home / f"adapted-{kind}"
        overrides = [*TWO_STEPS, "batchnorm=warmed"]
        trust = kind == "scripted"
        path = api.adapt(
            model, images, out, method="minent", overrides=overrides, compute=CPU, trust_code=trust
        )
        found[kind] = own(path)
    for kind in KINDS[1:]:
        for name, tensor in found["instance"].items():
            if "num_batches" not in name:
                torch.testing.assert_close(found[kind][name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["scripted", "exported"])
def test_the_same_seed_gives_the_same_bits(
    kind: str, network: nn.Module, program: Path, state: Path, tiny: Tiny
) -> None:
    model = imported(kind, network, program, state, tiny)
    images, paths = tiny.root / "t" / "images", []
    for number in range(2):
        out = tiny.home / f"again-{number}"
        method = {"method": "mean_teacher", "overrides": TWO_STEPS}
        paths.append(api.adapt(model, images, out, compute=CPU, trust_code=True, **method))
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_network_of_one_logit_is_a_network_of_two_classes(tiny: Tiny) -> None:
    network = trained(classes=1)
    prepare = Prepare(size=(32, 32))
    path = import_model(
        network, tiny.home / "one", classes=("rest", "disk"), prepare=prepare, one_logit=True
    )
    model, _ = load_model(path)
    image = torch.randn(2, *SIZE)
    p = model.eval()(image).softmax(1)[:, 1:]
    torch.testing.assert_close(p, torch.sigmoid(network.eval()(image)))
    images = tiny.root / "t" / "images"
    out = tiny.home / "adapted"
    overrides = [*TWO_STEPS, "freeze_head=true"]
    adapted = api.adapt(path, images, out, method="minent", overrides=overrides, compute=CPU)
    moved = differences(path, adapted)
    assert "enter.weight" in moved
    assert not {"last.weight", "last.bias"} & moved


def test_a_network_of_slabs_takes_their_channels(tiny: Tiny) -> None:
    prepare = Prepare(size=(32, 32), slab=3)
    network = used(Plain(channels=3), (3, 32, 32))
    path = import_model(network, tiny.home / "slab", classes=CLASSES, prepare=prepare)
    assert load_model(path)[0](torch.zeros(2, 3, 32, 32)).shape == (2, 3, 32, 32)
    with pytest.raises(ModelError, match="with 3 channels"):
        import_model(Plain(), tiny.home / "wrong", classes=CLASSES, prepare=prepare)


@pytest.mark.parametrize("form", ["class", "program"])
def test_a_network_of_volumes_takes_patches(form: str, tiny: Tiny) -> None:
    network: Any = used(Solid(), (1, 4, 8, 8))
    if form == "program":
        path = tiny.home / "solid.pt2"
        path.write_bytes(exported(network, (1, 4, 8, 8)))
        network = path
    path = import_model(
        network,
        tiny.home / form,
        classes=CLASSES,
        prepare=Prepare(size=(32, 32)),
        spatial_dims=3,
        patch=(4, 8, 8),
    )
    model, info = load_model(path)
    assert (info.network.spatial_dims, info.network.patch) == (3, (4, 8, 8))
    assert model(torch.zeros(1, 1, 4, 8, 8)).shape == (1, 3, 4, 8, 8)


def test_a_traced_network_is_adapted_with_its_statistics_or_told_how_not(
    network: nn.Module, tiny: Tiny
) -> None:
    path = tiny.home / "net.pt"
    path.write_bytes(traced(network, SIZE))
    card = str(tiny.home / "source.yaml")
    model = import_model(path, tiny.home / "traced", card=card, trust_code=True)
    images = tiny.root / "t" / "images"
    for method in ("adabn", "minent"):
        with pytest.raises(ModelError, match="cannot follow other images"):
            api.adapt(
                model, images, tiny.home / method, method=method, compute=CPU, trust_code=True
            )
        assert not (tiny.home / method).exists()
    kept = [*TWO_STEPS, "batchnorm=frozen"]
    adapted = api.adapt(
        model,
        images,
        tiny.home / "kept",
        method="minent",
        overrides=kept,
        compute=CPU,
        trust_code=True,
    )
    moved = differences(model, adapted)
    assert "last.weight" in moved
    assert not any("running" in name for name in moved)


# ---------------------------------------------------------------- what is told


def test_the_origin_says_which_weights_were_found(
    program: Path, network: nn.Module, state: Path, tiny: Tiny
) -> None:
    card = str(tiny.home / "source.yaml")
    _, info = load_model(import_model(program, tiny.home / "a", card=card, weights=state))
    assert info.origin == {
        "network": "my net (v2).pt2",
        "weights": "matched 14 of 14 tensors",
        "card": "source",
    }
    assert info.network.name == "my_net_v2_"
    assert info.supervision == ("source_labels",)
    part = {n: t for n, t in network.state_dict().items() if n != "last.bias"}
    file = tiny.home / "part.safetensors"
    save_file(part, file)
    for weights in (part, file):
        made = import_model(Plain, tiny.home / "b", card=card, weights=weights, name="partly")
        _, info = load_model(made)
        assert info.origin["weights"] == "matched 13 of 14 tensors; missing: last.bias"
    _, info = load_model(import_model(program, tiny.home / "c", card=card))
    assert info.origin["weights"] == "of the program"


def test_what_no_weight_fills_is_the_same_every_time(state: Path, tiny: Tiny) -> None:
    card = str(tiny.home / "source.yaml")
    part = {n: t for n, t in Plain().state_dict().items() if n != "last.bias"}
    files = []
    for number in range(2):
        torch.manual_seed(number)
        out = tiny.home / str(number)
        files.append(import_model(Plain, out, card=card, weights=part, name="partly").read_bytes())
    assert files[0] == files[1]


def test_weights_of_another_network_are_refused_and_nothing_is_written(
    program: Path, tiny: Tiny
) -> None:
    weights, out = Solid().state_dict(), tiny.home / "no"
    with pytest.raises(ModelError, match="the weights are of another network: matched 1 of 14"):
        import_model(program, out, card=str(tiny.home / "source.yaml"), weights=weights)
    assert not out.exists()


def test_a_network_given_as_it_is_stays_as_it_is(network: nn.Module, tiny: Tiny) -> None:
    mine = copy.deepcopy(network)
    path = import_model(mine, tiny.home / "a", card=str(tiny.home / "source.yaml"))
    before = copy.deepcopy(mine.state_dict())
    with torch.no_grad():
        mine.last.weight.zero_()
    model, _ = load_model(path)
    assert torch.equal(model.network.last.weight, before["last.weight"])
    with torch.no_grad():
        model.network.last.weight.fill_(5)
    assert torch.equal(load_model(path)[0].network.last.weight, before["last.weight"])


def test_a_scripted_network_in_memory_needs_no_registration(
    network: nn.Module, tiny: Tiny, tmp_path: Path
) -> None:
    (tmp_path / "net.pt").write_bytes(scripted(network))
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = torch.jit.load(tmp_path / "net.pt")
    path = import_model(loaded, tiny.home / "a", card=str(tiny.home / "source.yaml"))
    with pytest.raises(ModelError, match="holds a TorchScript program"):
        load_model(path)
    _, info = load_model(path, trust_code=True)
    assert (info.network.kind, info.network.name) == ("torchscript", "Plain")


# ---------------------------------------------------------------- what is refused

RUIN: list[tuple[Callable[[], nn.Module], dict[str, Any], str]] = [
    (lambda: Plain(classes=4), {}, "[1, 3, 32, 32]"),
    (lambda: Plain(classes=1), {}, "--one-logit"),
    (lambda: Answers(lambda z: z.softmax(1)), {}, "returns probabilities"),
    (lambda: Answers(lambda z: z[..., ::2, ::2]), {}, "the output has the shape [1, 3, 16, 16]"),
    (lambda: Answers(lambda z: z.argmax(1)), {}, "the output has the shape [1, 32, 32]"),
    (lambda: Answers(lambda z: z / 0), {}, "not finite"),
    (lambda: Answers(lambda z: (z, z)), {}, "--output"),
    (lambda: Answers(lambda z: {"a": z}), {"output": "b"}, "output 'b' is no tensor"),
    (
        lambda: Answers(lambda z: z @ z.new_zeros(5, 5)),
        {},
        "cannot be run on images [1, 1, 32, 32]",
    ),
    (Plain, {"one_logit": True}, "has two classes, but 3 are given"),
    (Plain, {"class_ratio": {"disk": 0.1}}, "a share for each of disk, ring"),
    (Plain, {"class_ratio": {"disk": 0.9, "ring": 0.3}}, "with sum 1"),
    (Plain, {"class_ratio": (0.5, 0.5)}, "3 shares from 0 to 1"),
    (Plain, {"class_ratio": {"disk": float("nan"), "ring": 0.1}}, "3 shares from 0 to 1"),
    (Plain, {"patch": (4, 8, 8)}, "patch belongs to spatial_dims: 3"),
    (Plain, {"classes": ("a", "b")}, "both the card and the caller give classes"),
    (Plain, {"card": None}, "--card NAME"),
    (Plain, {"name": "no name"}, "cannot be called 'no name'"),
]


@pytest.mark.parametrize(
    ("make", "settings", "message"), RUIN, ids=[message for *_, message in RUIN]
)
def test_what_cannot_be_adapted_is_refused_before_anything_is_written(
    make: Callable[[], nn.Module], settings: dict[str, Any], message: str, tiny: Tiny
) -> None:
    out = tiny.home / "no"
    with pytest.raises(UdaError) as caught:
        import_model(make(), out, **{"card": str(tiny.home / "source.yaml"), **settings})
    assert message in str(caught.value)
    assert not out.exists()


def test_a_sigmoid_is_no_logit(tiny: Tiny) -> None:
    for wrap, works in ((torch.sigmoid, False), (lambda z: z, True)):
        arguments: dict[str, Any] = {
            "classes": ("rest", "disk"),
            "prepare": Prepare(size=(32, 32)),
            "one_logit": True,
        }
        network = Answers(wrap, classes=1)
        if works:
            import_model(network, tiny.home / "yes", **arguments)
            continue
        with pytest.raises(ModelError, match="before softmax or sigmoid"):
            import_model(network, tiny.home / "no", **arguments)


@pytest.mark.parametrize("content", [None, b"", b"junk"])
def test_a_file_that_is_no_program_is_named(content: bytes | None, tiny: Tiny) -> None:
    path = tiny.home / "net.pt2"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read") as caught:
        import_model(path, tiny.home / "no", card=str(tiny.home / "source.yaml"))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("sign", ["\x1b[31m", "\n", "\u202e", "\udcff", "\x9b"], ids=ascii)
def test_a_file_of_any_name_is_imported_with_the_name_in_a_harmless_form(
    sign: str, program: Path, network: nn.Module, tiny: Tiny
) -> None:
    path = tiny.home / f"e{sign}.pt2"
    path.write_bytes(program.read_bytes())
    weights = network.state_dict() | {f"x{sign}": torch.zeros(1)}
    out = import_model(path, tiny.home / "a", card=str(tiny.home / "source.yaml"), weights=weights)
    _, info = load_model(out)
    code = ascii(sign)[1:-1]
    assert info.origin["network"] == f"e{code}.pt2"
    assert info.origin["weights"] == f"matched 14 of 14 tensors; unexpected: x{code}"


def test_long_names_are_shortened(program: Path, tiny: Tiny) -> None:
    path = tiny.home / f"{'n' * 200}.pt2"
    path.write_bytes(program.read_bytes())
    weights = Plain().state_dict() | {"x" * 10_000: torch.zeros(1)}
    out = import_model(path, tiny.home / "a", card=str(tiny.home / "source.yaml"), weights=weights)
    _, info = load_model(out)
    assert info.network.name == "n" * 100
    assert len(info.origin["weights"]) == 2000


UNREADABLE: list[dict[str, Any]] = [
    {"classes": ("a b", "c", "d")},
    {"classes": ("a", "a", "b")},
    {"output": "\x1b[31m"},
]


@pytest.mark.parametrize("changes", UNREADABLE, ids=["space", "twice", "output"])
def test_what_a_reader_of_the_model_would_refuse_is_not_written(
    changes: dict[str, Any], tiny: Tiny
) -> None:
    settings = {"classes": CLASSES, "prepare": Prepare(size=(32, 32)), **changes}
    key = changes.get("output", "out")
    with pytest.raises(ModelError, match="cannot describe this network") as caught:
        import_model(Answers(lambda z: {key: z}), tiny.home / "no", **settings)
    assert caught.value.where == "Answers"
    assert not (tiny.home / "no").exists()


class WithExtraState(Answers):
    def get_extra_state(self) -> Any:
        return {"scale": 1}


@pytest.mark.parametrize("kind", ["meta", "complex", "extra"])
def test_a_network_whose_state_no_model_file_holds_is_refused(kind: str, tiny: Tiny) -> None:
    network: nn.Module = Answers(lambda z: z)
    if kind == "meta":
        network = network.to("meta")
    elif kind == "complex":
        network.register_buffer("phase", torch.zeros(2, dtype=torch.complex64))
    else:
        network = WithExtraState(lambda z: z)
    name = {"meta": "last.weight", "complex": "phase", "extra": "_extra_state"}[kind]
    with pytest.raises(ModelError, match=f"the network's own tensor '{name}' is"):
        import_model(network, tiny.home / "no", card=str(tiny.home / "source.yaml"))
    assert not (tiny.home / "no").exists()


def test_a_program_of_one_image_at_a_time_is_refused_with_the_line_that_helps(tiny: Tiny) -> None:
    path = tiny.home / "net.pt2"
    path.write_bytes(exported(Plain().eval(), SIZE, dynamic={}))
    with pytest.raises(ModelError, match="exported for images") as caught:
        import_model(path, tiny.home / "no", card=str(tiny.home / "source.yaml"))
    assert 'dynamic_shapes=({0: torch.export.Dim("batch")},)' in str(caught.value)


def test_an_imported_model_without_a_class_ratio_says_what_a_prior_lacks(
    network: nn.Module, tiny: Tiny
) -> None:
    path = import_model(
        copy.deepcopy(network), tiny.home / "a", card=str(tiny.home / "source.yaml")
    )
    with pytest.raises(PriorError, match="does not know the class ratio"):
        api.estimate_prior(path)


# ---------------------------------------------------------------- the command


@pytest.fixture
def command() -> Callable[..., Any]:
    app = typer.Typer()
    app.command()(import_)
    app.command("other")(lambda: None)
    return lambda *arguments: CliRunner().invoke(app, ["import-", *map(str, arguments)])


def test_the_command_prints_what_was_matched(
    command: Callable[..., Any], program: Path, state: Path, tiny: Tiny
) -> None:
    out, card = tiny.home / "mine", tiny.home / "source.yaml"
    ended = command(
        *(program, "--card", card, "--weights", state, "--out", out),
        *("--ratio", "disk=0.1", "--ratio", "ring=0.05"),
    )
    assert ended.exit_code == 0, ended.output
    assert ended.output == (
        f"{out / 'model.safetensors'}: 3 classes (background, disk, ring)\n"
        "weights: matched 14 of 14 tensors\n"
    )
    _, info = load_model(out)
    assert info.class_ratio == pytest.approx((0.85, 0.1, 0.05))


def test_the_command_takes_position_and_patch(command: Callable[..., Any], tiny: Tiny) -> None:
    path, card = tiny.home / "solid.pt2", tiny.home / "source.yaml"
    path.write_bytes(exported(Solid().eval(), (1, 4, 8, 8)))
    ended = command(path, "--card", card, "--out", tiny.home / "a", "--patch", "4,8,8")
    assert ended.exit_code == 0, ended.output
    assert load_model(tiny.home / "a")[1].network.patch == (4, 8, 8)
    ended = command(
        path, "--card", card, "--out", tiny.home / "b", "--output", "1", "--patch", "4,8,8"
    )
    assert isinstance(ended.exception, ModelError)
    assert "output 1 is no tensor" in str(ended.exception)


@pytest.mark.parametrize(
    "wrong", [("--patch", "4,8"), ("--patch", "a,b,c"), ("--ratio", "disk"), ("--ratio", "disk=x")]
)
def test_the_command_refuses_what_it_cannot_read(
    command: Callable[..., Any], wrong: tuple[str, str], program: Path, tiny: Tiny
) -> None:
    ended = command(program, "--card", "source", "--out", tiny.home / "a", *wrong)
    assert ended.exit_code == 2
    assert wrong[0] in ended.output


def test_masks_of_a_program_are_those_of_its_class(
    network: nn.Module, program: Path, state: Path, tiny: Tiny, tmp_path: Path
) -> None:
    import nibabel

    image = np.random.default_rng(0).normal(size=(40, 36, 3)).astype(np.float32)
    write_nifti(tmp_path / "scans" / "a.nii.gz", image)
    masks = []
    for kind in ("instance", "exported"):
        model = imported(kind, network, program, state, tiny)
        (done,) = api.predict(model, tmp_path / "scans", tmp_path / kind, compute=CPU)
        masks.append(np.asarray(nibabel.load(done.file).dataobj))
    assert masks[0].shape == (40, 36, 3)
    assert len(np.unique(masks[0])) > 1
    np.testing.assert_array_equal(*masks)
