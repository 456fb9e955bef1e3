"""Models, priors' tensors, programs and state dicts, sound and odd, and what reads them."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tempfile
import zipfile
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import foreign_networks
import torch
from feeding import Reader, Seed
from mutations import damaged, regrown
from safetensors.torch import save
from text_files import CLASSES, as_json, by_tree

from uda.config.card import DatasetCard
from uda.config.networks import Network
from uda.files.atomic import load_tensors, prefixed
from uda.networks.build import build
from uda.networks.foreign import read_state
from uda.networks.importing import import_model
from uda.networks.model_file import ModelInfo, load_model
from uda.networks.size_distribution import SizeDistribution
from uda.priors import Prior, Seeds
from uda.priors.landmarks import Landmarks

NETWORK = Network(channels=(2, 3), res_units=0)
CARD = DatasetCard.model_validate(
    {
        "name": "small",
        "title": "small",
        "images": "{case}.nii.gz",
        "classes": CLASSES,
        "label_values": {"background": [0], "disk": [1], "ring": [2]},
        "prepare": {"size": [16, 16]},
    }
)


KINDS = (
    torch.int64,
    torch.float64,
    torch.bool,
    torch.bfloat16,
    torch.complex64,
    torch.float8_e5m2,
)


def info() -> ModelInfo:
    return ModelInfo(
        network=NETWORK,
        classes=CLASSES,
        prepare=CARD.prepare,
        supervision=("source_labels",),
        class_ratio=(0.8, 0.1, 0.1),
        presence_ratio=(0.8, 0.1, 0.1),
        origin={"recipe": "tiny"},
        sizes=SizeDistribution((1.0, 0.5, 0.5), ((0.1, 0.2, 0.3, 0.4, 0.5),) * 3),
    )


@cache
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: t.clone() for name, t in build(NETWORK, len(CLASSES)).state_dict().items()}


def described(text: bytes) -> bytes:
    """A model file with this description and no checksum: damage to it is not noticed by that."""
    return save(weights(), {"uda": text.decode("utf-8", "replace")})


def headed(head: bytes) -> bytes:
    """A tensor file with this header."""
    whole = described(info().to_json().encode())
    (length,) = struct.unpack("<Q", whole[:8])
    return struct.pack("<Q", len(head)) + head + whole[8 + length :]


def header() -> bytes:
    whole = described(info().to_json().encode())
    (length,) = struct.unpack("<Q", whole[:8])
    return whole[8 : 8 + length]


def grown(content: bytes, rng: Random) -> bytes:
    return as_json(regrown(json.loads(content), rng))


description_damaged = by_tree(json.loads, as_json)


def model_seeds() -> list[Seed]:
    whole = described(info().to_json().encode())
    described_by = info().to_json().encode()
    return [
        Seed("model.safetensors", described_by, described, description_damaged),
        Seed("model.safetensors", described_by, described, grown),
        Seed("model.safetensors", header(), headed, grown),
        Seed("model.safetensors", header(), headed),
        Seed("model.safetensors", whole, mutate=partial(damaged, focus=16)),
    ]


def odd_models() -> list[Seed]:
    raw = json.loads(info().to_json())
    networks: list[dict[str, Any]] = [
        *({"channels": c} for c in ([2**30] * 2, [65536] * 16, [4] * 10_000, [60000] * 2, [])),
        *({"kind": kind} for kind in ("deeplab_v3", "os.system", "registered", "exported")),
        {"kind": "registered", "name": "absent"},
        {"spatial_dims": 3, "patch": [2**31] * 3},
        {"res_units": 10**9},
    ]
    changes: list[dict[str, Any]] = [{"network": {**raw["network"], **c}} for c in networks]
    changes += [
        {"prepare": {**raw["prepare"], **change}}
        for change in (
            {"size": [2**31, 2**31]},
            {"slab": 3},
            {"kind": "photo"},
            {"spacing": 1e-300},
            {"clip": [9, 1]},
        )
    ]
    changes += [
        {"classes": c} for c in ([], ["a"], "abc", ["a"] * 300, [1, 2, 3], None, ["a"] * 10**5)
    ]
    changes += [{"class_ratio": c} for c in ("abc", ["x"], {"a": 1}, [None], 5)]
    contents = [described(as_json({**raw, **change})) for change in changes]
    for value in (float("nan"), float("inf")):
        broken = {name: t * value if t.is_floating_point() else t for name, t in weights().items()}
        contents.append(save(broken, {"uda": info().to_json()}))
    first = next(iter(weights()))
    contents += [
        save({**weights(), first: weights()[first].to(kind)}, {"uda": info().to_json()})
        for kind in KINDS
    ]
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    tensors: list[dict[str, Any]] = [
        *({"shape": shape} for shape in ([2**62, 4], [-1], [0], [])),
        *({"dtype": dtype} for dtype in ("F4", "X", "F6_E2M3")),
        *({"data_offsets": span} for span in ([8, 0], [0, 2**63], [4, 12])),
        {"dtype": "F8_E8M0", "shape": [8]},
    ]
    for change in tensors:
        head = as_json({"a": {**tensor, **change}})
        contents.append(struct.pack("<Q", len(head)) + head + bytes(8))
    lengths = (0, 1, 2**31, 2**40, 2**63, 2**64 - 1)
    contents += [struct.pack("<Q", length) + header() for length in lengths]
    contents += [
        b"",
        b"\x80\x02",
        pickle.dumps([1]),
        b"PK\3\4" + bytes(50),
        bytes(8),
        bytes(100),
        headed(b"[" * 10**5),
    ]
    contents.append(headed(b'{"a":' * 10**5))
    return [Seed("model.safetensors", content) for content in contents]


def read_model(path: Path) -> None:
    load_tensors(path)
    model, found = load_model(path)
    size = (1, found.prepare.channels, 16, 16)
    with torch.no_grad():
        if found.network == NETWORK:
            assert bool(model.eval()(torch.zeros(size)).isfinite().all())


@cache
def prior_files() -> dict[str, bytes]:
    maps = torch.tensor([0.5, 0.3, 0.2])[:, None, None].expand(3, 8, 9).contiguous()
    landmarks = Landmarks(
        places=(("c0", 0), ("c0", 1)),
        segments=torch.arange(2 * 4 * 4).reshape(2, 4, 4).remainder(5).to(torch.int16),
        classes=torch.tensor([[0, 1, 2, 255, 1]] * 2, dtype=torch.uint8),
        examples=torch.zeros(1, 1, 8, 9, dtype=torch.uint8),
        shown=(0,),
    )
    known = Seeds(
        places=(("c0", 0), ("c0", 1)),
        labels=torch.tensor([0, 1, 2, 255] * 8, dtype=torch.uint8).reshape(2, 4, 4),
        examples=torch.zeros(1, 1, 8, 9, dtype=torch.uint8),
        maps=torch.zeros(1, 2, 4, 4, dtype=torch.uint8),
        mapped=(1, 2),
        shown=(0,),
    )
    held: dict[str, Any] = {"maps": maps, "landmarks": landmarks, "seeds": known}
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "prior.json"
        Prior(CLASSES, (0.7, 0.2, 0.1), ("target_tags",), "by hand", **held).save(path)
        return {file.name: file.read_bytes() for file in path.parent.iterdir()}


def prior_seeds() -> list[Seed]:
    files = prior_files()
    return [
        Seed("prior.json", files["prior.json"], beside=files, mutate=description_damaged),
        Seed("prior.safetensors", files["prior.safetensors"], beside=files),
        Seed("landmarks.safetensors", files["landmarks.safetensors"], beside=files),
        Seed("seeds.safetensors", files["seeds.safetensors"], beside=files),
    ]


def odd_priors() -> list[Seed]:
    files = prior_files()
    kinds = KINDS
    wrong: list[dict[str, torch.Tensor]] = [
        {},
        {"maps": torch.zeros(0)},
        {"maps": torch.zeros(3, 8, 9)},
    ]
    wrong += [{"maps": torch.ones(3, 8, 9).to(kind)} for kind in kinds]
    wrong += [
        {n: torch.ones(2, 4, 4).to(kind) for n in ("segments", "classes", "examples")}
        for kind in kinds
    ]
    wrong += [
        {n: torch.ones(2, 4, 4).to(kind) for n in ("labels", "examples", "maps")} for kind in kinds
    ]
    names = ("prior.safetensors", "landmarks.safetensors", "seeds.safetensors")
    return [Seed(name, save(tensors), beside=files) for tensors in wrong for name in names]


def read_prior(path: Path) -> None:
    prior = Prior.load(path.parent).validate(CLASSES, path.parent)
    assert prior.classes == CLASSES


# --- programs and state dicts -----------------------------------------------------------------


@cache
def programs() -> dict[str, bytes]:
    network = foreign_networks.used(foreign_networks.Plain())
    return {
        "x.pt2": foreign_networks.exported(network),
    }


@cache
def scripts() -> dict[str, bytes]:
    """Programs that nobody trusts here, so they are refused."""
    network = foreign_networks.used(foreign_networks.Plain())
    return {
        "x.ts": foreign_networks.scripted(network),
        "traced.pt": foreign_networks.traced(network),
    }


def odd_programs() -> list[Seed]:
    return [Seed(name, content) for name, content in scripts().items()]


def member_damaged(content: bytes, rng: Random) -> bytes:
    """Damage inside one part of the archive, whose checksum is right again."""
    names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    chosen = rng.choice(names)

    def change(name: str, part: bytes) -> bytes:
        if name != chosen:
            return part
        if name.endswith(".json") and rng.random() < 0.7:
            return as_json(regrown(json.loads(part), rng))
        return damaged(part, rng)

    return foreign_networks.repacked(content, change)


def program_seeds() -> list[Seed]:
    found = [Seed(name, content) for name, content in programs().items()]
    return [
        *found,
        *(Seed(name, content, mutate=member_damaged) for name, content in programs().items()),
    ]


def read_program(path: Path) -> None:
    import_model(path, path.parent / "out", card=CARD)
    assert (path.parent / "out" / "model.safetensors").is_file()


def script_seeds() -> list[Seed]:
    return [Seed(name, content, mutate=member_damaged) for name, content in scripts().items()]


def cut_scripts() -> list[Seed]:
    return [Seed(name, content[:-30]) for name, content in scripts().items()]


def read_script(path: Path) -> None:
    import_model(path, path.parent / "out", card=CARD, trust_code=True)
    assert (path.parent / "out" / "model.safetensors").is_file()


@cache
def state_dict() -> bytes:
    stream = io.BytesIO()
    torch.save(prefixed("module", weights()), stream)
    return stream.getvalue()


@cache
def old_state_dict() -> bytes:
    stream = io.BytesIO()
    torch.save(dict(weights()), stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def odd_states() -> list[Seed]:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data/0", bytes(64 << 20))
    contents = [
        b"",
        b"hello",
        b"PK\3\4",
        pickle.dumps({}),
        pickle.dumps([1]),
        stream.getvalue(),
        state_dict()[:-30],
    ]
    contents += [pickle.dumps("x" * 10**5), bytes(5000), scripts()["x.ts"]]
    return [Seed("x.pt", content) for content in contents]


def read_a_state(path: Path) -> None:
    assert read_state(path) is not None


def state_seeds() -> list[Seed]:
    return [
        Seed("x.pt", state_dict()),
        Seed("x.pt", state_dict(), mutate=member_damaged),
        Seed("x.pt", old_state_dict()),
    ]


READERS = [
    Reader("safetensors model", model_seeds, read_model, odd_models, 0.6),
    Reader("safetensors of priors", prior_seeds, read_prior, odd_priors),
    Reader("state dict", state_seeds, read_a_state, odd_states, 0.5),
    Reader("program", program_seeds, read_program, odd_programs, share=0.1),
    Reader("trusted script", script_seeds, read_script, cut_scripts, share=0.1),
]
