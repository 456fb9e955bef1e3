"""Hostile files: no reader may unpickle, evaluate, import or load a payload, which would leave a file behind."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import Tiny
from foreign_networks import Plain, exported, repacked, scripted, used
from safetensors.torch import save_file
from torch import nn

from uda.config.card import DatasetCard
from uda.config.loading import load_card, load_recipe, override
from uda.config.networks import ForeignNetwork
from uda.data.cases import Case
from uda.data.records import read_npz, read_records
from uda.data.sources import prepared_stack
from uda.data.store import Store, content_key, open_store
from uda.data.tags import read_tags
from uda.data.volumes import read_volume
from uda.errors import ModelError, UdaError
from uda.networks.foreign import kind_of, load_program, read_state
from uda.networks.foreign.adapter import build_foreign
from uda.networks.importing import import_model
from uda.networks.model_file import PROGRAM, load_model
from uda.priors import Prior
from uda.report.files import read_metrics, read_overlays

IMAGE = torch.zeros(2, 1, 16, 16)


class Payload:
    """Leaves a file when it is unpickled."""

    def __init__(self, trap: Path, by: str) -> None:
        self.trap, self.by = trap, by

    def __reduce__(self) -> tuple[Any, ...]:
        if self.by == "command":
            return os.system, (f"touch {self.trap}",)
        return exec, (f"open({str(self.trap)!r}, 'w').close()",)


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    return tmp_path / "trap"


def torch_zip(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def torch_legacy(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def state_dict(value: Any) -> bytes:
    """A valid checkpoint but for one entry."""
    return torch_zip({"state_dict": {"weight": torch.zeros(2)}, "callbacks": value})


def npy(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([value], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def npz(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, arr_0=np.array([value], dtype=object))
    return buffer.getvalue()


PICKLES: dict[str, Callable[[Any], bytes]] = {
    **{f"protocol {p}": lambda value, p=p: pickle.dumps(value, p) for p in (0, 2, 4)},
    "torch": torch_zip,
    "torch, old": torch_legacy,
    "state dict": state_dict,
    "npy": npy,
    "npz": npz,
}


def opened(path: Path) -> DatasetCard:
    """A card that matches any file."""
    return DatasetCard(
        name="any",
        title="any",
        images=f"{{case}}{''.join(path.suffixes)}",
        axes={"npz": "RAS", "tfrecords": "RAS"},
        classes=("background", "one"),
        label_values={"background": (0,), "one": (1,)},
        prepare={"size": (8, 8)},
    )


def predicted(path: Path) -> object:
    return prepared_stack(Case(path.stem, path), opened(path))


def photographed(path: Path) -> object:
    prepare = {"kind": "photo", "size": (8, 8)}
    card = DatasetCard.model_validate({**opened(path).model_dump(), "prepare": prepare})
    return prepared_stack(Case(path.stem, path), card)


def as_overlays(path: Path) -> object:
    """The pictures of a run of unknown origin."""
    folder = path.parent / "evaluate"
    folder.mkdir()
    (folder / "overlays.npz").write_bytes(path.read_bytes())
    entry = {"case": "a", "slice": 0, "rank": "worst", "row": "adabn", "key": "arr_0", "aspect": 1}
    (folder / "overlays.json").write_text(json.dumps([{**entry, "key": "0"}]))
    return read_overlays(path.parent)


def as_metrics(path: Path) -> object:
    (path.parent / "evaluate").mkdir()
    (path.parent / "evaluate" / "metrics.json").write_bytes(path.read_bytes())
    return read_metrics(path.parent)


DOORS: dict[str, tuple[str, Callable[[Path], object]]] = {
    **{f"model{ending}": (ending, load_model) for ending in (".safetensors", ".pt", ".ckpt")},
    **{f"weights{e}": (e, read_state) for e in (".pt", ".pth", ".ckpt", ".bin", ".safetensors")},
    "network": (".pt2", lambda path: import_model(path, path.parent / "out", card="mmwhs_mr")),
    "prior": (".json", Prior.load),
    "recipe": (".yaml", lambda path: load_recipe(str(path))),
    "card": (".yaml", lambda path: load_card(str(path))),
    "volume": (".nii", read_volume),
    "packed volume": (".nii.gz", read_volume),
    "npz": (".npz", read_npz),
    "npz of a card": (".npz", predicted),
    "records": (".tfrecords", lambda path: list(read_records(path))),
    "png": (".png", photographed),
    "jpeg": (".jpg", photographed),
    "tags": (".csv", lambda path: read_tags(path, ("one",))),
    "pictures of a run": (".npz", as_overlays),
    "table of a run": (".json", as_metrics),
}


@pytest.mark.parametrize("form", PICKLES)
@pytest.mark.parametrize("door", DOORS)
def test_a_pickle_under_any_name_is_refused_and_not_opened(
    door: str, form: str, trap: Path, tmp_path: Path
) -> None:
    ending, read = DOORS[door]
    for number, by in enumerate(("command", "source")):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = folder / f"file{ending}"
        path.write_bytes(PICKLES[form](Payload(trap, by)))
        with pytest.raises(UdaError) as refused:
            read(path)
        assert folder.name in str(refused.value.where) or str(folder) in str(refused.value)
        assert not trap.exists()


@pytest.mark.parametrize("by", ["command", "source"])
@pytest.mark.parametrize("form", ["torch", "protocol 2"])
def test_the_payload_of_these_tests_would_run(form: str, by: str, trap: Path) -> None:
    data = PICKLES[form](Payload(trap, by))
    if form == "torch":
        torch.load(io.BytesIO(data), weights_only=False)
    else:
        pickle.loads(data)  # noqa: S301
    assert trap.exists()


def test_a_store_with_a_pickle_in_it_is_made_again(tiny: Tiny, trap: Path, tmp_path: Path) -> None:
    card = load_card(str(tiny.home / "source.yaml"))
    cases = [Case("c0", tiny.root / "s" / "images" / "c0.nii.gz")]
    root, key = tmp_path / "store", content_key(card, cases)
    open_store(card, cases, root, key)
    (folder,) = root.iterdir()
    (folder / "images.npy").write_bytes(npy(Payload(trap, "command")))
    assert len(open_store(card, cases, root, key)) == 4
    (folder / "images.npy").write_bytes(npy(Payload(trap, "command")))
    with pytest.raises(ValueError, match="object"):
        Store(folder)
    assert not trap.exists()


TAGS = [
    "!!python/object/apply:os.system ['touch {trap}']",
    "!!python/object/new:os.system ['touch {trap}']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object:uda.config.card.DatasetCard {{}}",
]


@pytest.mark.parametrize("text", TAGS)
def test_yaml_makes_no_python_objects(text: str, trap: Path, tmp_path: Path, tiny: Tiny) -> None:
    hostile = text.format(trap=trap)
    for read in (load_recipe, load_card):
        path = tmp_path / "file.yaml"
        path.write_text(f"name: {hostile}\ntitle: hostile\n")
        with pytest.raises(UdaError, match="is not read, only plain values"):
            read(str(path))
    with pytest.raises(UdaError, match="is not YAML"):
        override(load_recipe(tiny.recipe), [f"seed={hostile}"])
    assert not trap.exists()
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(hostile)


# ---------------------------------------------------------------- programs


@pytest.fixture(scope="module")
def programs() -> dict[str, bytes]:
    torch.manual_seed(0)
    network = used(Plain())
    return {"exported": exported(network), "torchscript": scripted(network)}


def run(data: bytes) -> nn.Module:
    """Open a program and predict, as a user does."""
    settings = ForeignNetwork(kind=kind_of(data, "hostile"), name="hostile")
    model = build_foreign(settings, 3, data, trust_code=True)
    model.eval()(IMAGE)
    return model


def described(data: bytes, change: Callable[[Any], Any]) -> bytes:
    """The program with a changed description."""

    def edit(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        raw = json.loads(content)
        return json.dumps(change(raw) or raw).encode()

    return repacked(data, edit)


def renamed(old: str, new: str) -> Callable[[Any], Any]:
    """Replace every string ``old`` of the description."""
    return lambda raw: json.loads(json.dumps(raw).replace(json.dumps(old), json.dumps(new)))


def calls(target: str, *texts: str) -> Callable[[Any], Any]:
    """Insert a call of ``target`` as the first operator."""
    inputs = [{"name": "", "arg": {"as_string": text}, "kind": 1} for text in texts]
    node = {"target": target, "inputs": inputs, "outputs": [{"as_none": True}], "metadata": {}}
    return lambda raw: raw["graph_module"]["graph"]["nodes"].insert(0, node)


def tree(kind: str, context: Any) -> Callable[[Any], Any]:
    """Change the type of the inputs."""

    def change(raw: Any) -> None:
        signature = raw["graph_module"]["module_call_graph"][0]["signature"]
        version, spec = json.loads(signature["in_spec"])
        spec["children_spec"][1] |= {"type": kind, "context": context}
        signature["in_spec"] = json.dumps([version, spec])

    return change


def touch(trap: Path) -> str:
    return f"__import__('os').system('touch {trap}')"


DESCRIPTIONS: dict[str, Callable[[Path], Callable[[Any], Any]]] = {
    "an input's name": lambda trap: renamed("image", f"image={touch(trap)}"),
    "a node's name": lambda trap: renamed("relu", f"relu\n  {touch(trap)}\n  relu"),
    "a weight's name": lambda trap: renamed("last.weight", f'w") or {touch(trap)} or ("'),
    "a command": lambda trap: calls("torch.os.system", f"touch {trap}"),
    "a method": lambda trap: calls("_operator.methodcaller", "system"),
    "a call": lambda trap: calls("_operator.call", f"touch {trap}"),
    "an operator of files": lambda trap: calls("torch.ops.aten.from_file.default", str(trap)),
    "an operator of images": lambda trap: calls("torch.ops.image.write_file.default", str(trap)),
    "torch.load": lambda trap: calls("torch.load", str(trap)),
    "a private name": lambda trap: calls("torch.ops.aten.__class__.__init__"),
    "another loader": lambda trap: calls("#custom:op"),
    "an enumeration": lambda trap: tree(
        "builtins.dict", json.dumps({"__enum__": 1, "fqn": "this:s", "name": "x"})
    ),
    "a factory": lambda trap: tree(
        "collections.defaultdict",
        {"default_factory_module": "this", "default_factory_name": "s", "dict_context": []},
    ),
    "a named tuple": lambda trap: tree("collections.namedtuple", '"this.S"'),
    "a dialect": lambda trap: lambda raw: raw.update(verifiers=["this"]),
    "an endless number": lambda trap: lambda raw: raw.update(guards_code=["9**9**9**9 > 1"]),
    "a long shift": lambda trap: lambda raw: raw.update(guards_code=["1 << 10**12 > 1"]),
    "a tower": lambda trap: lambda raw: raw.update(guards_code=["((((2**64)**64)**64)**64)**64>1"]),
    "an object": lambda trap: (
        lambda raw: raw["graph_module"]["graph"].update(
            custom_obj_values={"a": {"as_custom_obj": {"name": "a", "class_fqn": "b"}}}
        )
    ),
}


@pytest.mark.parametrize("door", DESCRIPTIONS)
def test_a_description_of_a_program_names_nothing_that_could_run(
    door: str, trap: Path, programs: dict[str, bytes]
) -> None:
    assert "this" not in sys.modules
    hostile = described(programs["exported"], DESCRIPTIONS[door](trap))
    assert hostile != programs["exported"]
    with pytest.raises(ModelError, match=r"is not opened|is not evaluated") as refused:
        run(hostile)
    assert not trap.exists()
    assert "this" not in sys.modules
    assert "hostile" in str(refused.value.where)


def test_names_that_are_unusual_and_harmless_pass(programs: dict[str, bytes]) -> None:
    network = nn.Sequential()
    network.add_module("block-1", nn.Conv2d(1, 3, 3, padding=1))
    network.add_module("the head", nn.Conv2d(3, 3, 1))
    assert sorted(run(exported(network)).network.state_dict())[0] == "block-1.bias"


def with_part(path: str, content: bytes) -> Callable[[bytes], bytes]:
    """Add a part to the archive."""

    def change(data: bytes) -> bytes:
        buffer = io.BytesIO(data)
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr(path, content)
        return buffer.getvalue()

    return change


def twice(data: bytes) -> bytes:
    with pytest.warns(UserWarning, match="Duplicate name"):
        return with_part("archive/models/model.json", b"{}")(data)


def bomb(data: bytes) -> bytes:
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/extra/zeros", bytes((1 << 26) + 1))
    return buffer.getvalue()


def promising(data: bytes) -> bytes:
    """Declare a weight of 4 TB without bytes."""

    def edit(name: str, content: bytes) -> bytes:
        if name.endswith("data/weights/weight_1"):
            return b""
        if not name.endswith("model_weights_config.json"):
            return content
        raw = json.loads(content)
        raw["config"]["enter.bias"]["tensor_meta"]["sizes"] = [{"as_int": 10**12}]
        return json.dumps(raw).encode()

    return repacked(data, edit)


def pickled_weight(payload: bytes) -> Callable[[bytes], bytes]:
    def edit(name: str, content: bytes) -> bytes:
        if name.endswith("data/weights/weight_1"):
            return payload
        return content.replace(b'"use_pickle": false', b'"use_pickle": true')

    return lambda data: repacked(data, edit)


def another_name(data: bytes) -> bytes:
    """The local header of a part names another part than the directory of the archive."""
    at = data.index(b"archive/models/model.json")
    return data[:at] + b"archive/models/mode1.json" + data[at + 25 :]


def as_old(payload: bytes) -> Callable[[bytes], bytes]:
    """The form before there were folders in the archive."""

    def change(data: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as new, zipfile.ZipFile(buffer, "w") as old:
            text = new.read("archive/models/model.json")
            old.writestr("hostile/serialized_exported_program.json", text)
            for name in ("state_dict", "constants", "example_inputs"):
                old.writestr(f"hostile/serialized_{name}.pt", payload)
        return buffer.getvalue()

    return change


ARCHIVES: dict[str, Callable[[bytes], Callable[[bytes], bytes]]] = {
    "compiled code": lambda payload: with_part("archive/data/aotinductor/model/a.so", b"\x7fELF"),
    "a second program": lambda payload: with_part("archive/models/other.json", b"{}"),
    "a script object": lambda payload: with_part("archive/data/constants/custom_obj_0", payload),
    "an opaque object": lambda payload: with_part("archive/data/constants/opaque_obj_0", payload),
    "a path upwards": lambda payload: with_part("archive/../../evil", payload),
    "an absolute path": lambda payload: with_part("/etc/evil", payload),
    "another folder": lambda payload: with_part("other/models/model.json", b"{}"),
    "one part twice": lambda payload: twice,
    "a bomb": lambda payload: bomb,
    "an empty promise": lambda payload: promising,
    "a pickled weight": pickled_weight,
    "weights in the old form": lambda payload: with_part("archive/data/weights/model.pt", payload),
    "constants in the old form": lambda payload: with_part(
        "archive/data/constants/model.pt", payload
    ),
    "the old form": as_old,
    "another name in a header": lambda payload: another_name,
    "bytes before the archive": lambda payload: lambda data: payload + data,
    "bytes after the archive": lambda payload: lambda data: data + payload,
}


@pytest.mark.parametrize("door", ARCHIVES)
def test_an_archive_holds_nothing_but_the_parts_of_a_program(
    door: str, trap: Path, programs: dict[str, bytes], tmp_path: Path
) -> None:
    change = ARCHIVES[door](torch_zip(Payload(trap, "command")))
    with pytest.raises(ModelError, match="hostile") as caught:
        run(change(programs["exported"]))
    assert "weights_only" not in str(caught.value)  # torch advises to open objects
    assert list(tmp_path.iterdir()) == []


def test_example_images_of_a_program_are_a_pickle_and_left_out(
    trap: Path, programs: dict[str, bytes]
) -> None:
    payload = torch_zip((Payload(trap, "command"),))
    run(repacked(programs["exported"], lambda n, c: payload if "sample_inputs" in n else c))
    assert not trap.exists()


def test_a_script_is_no_state_dict(programs: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(programs["torchscript"])
    with pytest.raises(ModelError, match="cannot be read as tensors alone"):
        read_state(path)


def test_a_model_file_is_checked_like_the_program_it_holds(
    trap: Path, programs: dict[str, bytes], tmp_path: Path
) -> None:
    good = tmp_path / "good.pt2"
    good.write_bytes(programs["exported"])
    prepare = opened(good).prepare.model_copy(update={"size": (16, 16)})
    model = import_model(good, tmp_path / "m", classes=("a", "b", "c"), prepare=prepare)
    from uda.files.atomic import CHECKSUM, load_tensors

    tensors, metadata = load_tensors(model)
    hostile = described(programs["exported"], DESCRIPTIONS["an input's name"](trap))
    tensors[PROGRAM] = torch.frombuffer(bytearray(hostile), dtype=torch.uint8)
    metadata.pop(CHECKSUM)
    save_file(tensors, model, metadata)
    with pytest.raises(ModelError, match="is not opened"):
        load_model(model)
    assert not trap.exists()


@pytest.mark.parametrize(
    "network",
    [
        {"kind": "registered", "name": "os.system"},
        {"kind": "registered", "name": "uda_networks.Evil"},
        {"kind": "uda.networks.model_file.build"},
        {"kind": "unet", "norm": "os.system"},
        {"kind": "unet", "_target_": "os.system"},
    ],
)
def test_a_model_file_names_no_code(network: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    description = {
        "format": "uda-model-1",
        "network": network,
        "classes": ["background", "one"],
        "prepare": {"kind": "volume", "size": [8, 8]},
        "supervision": ["none"],
        "class_ratio": None,
        "presence_ratio": None,
        "step": 0,
        "origin": {},
    }
    save_file({"weight": torch.zeros(1)}, path, {"uda": json.dumps(description)})
    before = set(sys.modules)
    with pytest.raises(UdaError):
        load_model(path)
    assert not [name for name in set(sys.modules) - before if "uda_networks" in name]


def test_a_header_of_safetensors_that_lies_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for header in (
        {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}},
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}},
        {"__metadata__": {"uda": {"__class__": "os"}}},
    ):
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
        with pytest.raises(ModelError, match=r"safetensors|description"):
            load_model(path)


def test_a_good_program_of_each_kind_still_opens(programs: dict[str, bytes]) -> None:
    for kind, data in programs.items():
        assert run(data)(IMAGE).shape == (2, 3, 16, 16)
        assert load_program(kind_of(data, kind), data, kind, trust_code=True) is not None
