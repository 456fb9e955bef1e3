"""YAML, JSON and CSV files, sound and odd, and what reads them."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml
from feeding import Mutate, Reader, Seed
from mutations import damaged, regrown, reworded
from volume_files import CARD, image, nifti, packed

from uda.config.loading import load_card, load_recipe, show
from uda.data.cases import Case, cases_of
from uda.data.hashes import Hashes
from uda.data.nnunet import read_listing, write_card
from uda.data.store import Store, open_store
from uda.data.tags import read_tags
from uda.errors import UdaError
from uda.files.atomic import read_json
from uda.files.stage_folder import StageFolder
from uda.priors import Prior
from uda.priors.size_csv import read_sizes
from uda.report.files import read_cases, read_curves, read_metrics, read_overlays, read_stages

CLASSES = ("background", "disk", "ring")


def as_json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def as_yaml(tree: Any) -> bytes:
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode(
        "utf-8", "surrogatepass"
    )


def by_tree(read: Callable[[str], Any], write: Callable[[Any], bytes]) -> Mutate:
    """Damage to the values of a file; now and then to its text or its bytes."""

    def mutate(content: bytes, rng: Random) -> bytes:
        how = rng.random()
        if how < 0.2:
            return damaged(content, rng)
        if how < 0.5:
            return reworded(content, rng)
        return write(regrown(read(content.decode()), rng))

    return mutate


json_damaged = by_tree(json.loads, as_json)
yaml_damaged = by_tree(yaml.safe_load, as_yaml)


def text_damaged(content: bytes, rng: Random) -> bytes:
    return damaged(content, rng) if rng.random() < 0.3 else reworded(content, rng)


# --- YAML -------------------------------------------------------------------------------------

ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(f'*{old}' for _ in range(9))}]\n"
    for old, new in zip("abcdefghijk", "bcdefghijkl", strict=True)
)
ODD_YAML = (
    "", "~", "[]", "hello", "- a\n- b", ALIASES, "a: &a [*a]", "a: &a {b: *a}", "[" * 5000, "{a: " * 3000,
    "- " * 5000, "!!python/object/apply:os.system ['true']", "a: !!python/name:os.system", "!foo {}",
    "a: !!python/object:object {}", "name: a\nname: b", "? [a, b]\n: c", "? {a: b}\n: c", "a: !!int ''",
    "a: !!int x", "a: !!float x", "a: !!bool maybe", "a: !!timestamp x", "a: 2020-13-45", "a: !!binary '%'",
    "a: !!set {b, c}", "a: !!omap [b: c]", "a: !!pairs [b: c]", "a: " + "9" * 5000, "a: " + "9" * 30,
    "a: 0x" + "f" * 40, "a: " + ":".join(["59"] * 300), "a: 1e999", "a: .nan", 'a: "\\ud800"',
    'a: "\\UFFFFFFFF"', "a: \0", "a: \x1b[31m", "\ufeffname: x", "a: b: c", "a:\tb", "%YAML 9.9\n---\na: b",
    "--- a\n--- b", "<<: {a: b}", "<<: [1, 2]", "<<: x", "a: *b", "x" * 100_000, "a: " + "x" * 10**6,
    "1: 2\ntrue: 3\n~: 4", "a: |\n" + " x\n" * 1000, "&a a: *a", "a: !!str [b]", "a: !!map [b]",
    "".join(f"k{n}: {n}\n" for n in range(1000)),
)  # fmt: skip


def odd_yaml(*bases: bytes) -> list[Seed]:
    contents = [text.encode() for text in ODD_YAML]
    contents += [base + b"\n" + text.encode() for base in bases for text in ODD_YAML]
    contents += [base.decode().encode("utf-16") for base in bases]
    values = (
        ".nan",
        ".inf",
        "-1",
        "0",
        "1e30",
        "9" * 18,
        "[]",
        "{}",
        "~",
        "'{case}{x}'",
        "'{case}{case.__class__}'",
        "/x/{case}",
    )
    for base in bases:
        for line in base.decode().splitlines():
            key = line.partition(":")[0]
            contents += [
                base.replace(line.encode(), f"{key}: {value}".encode()) for value in values
            ]
    return [Seed("x.yaml", content) for content in dict.fromkeys(contents)]


CARD_YAML = b"""name: small
title: A small card
root: .
images: ["images/{case}.nii.gz", "{folder}/*/{case}.nii"]
labels: labels/{case}.nii.gz
modality: ct
axes: {npz: RSP}
tags: tags.csv
classes: [background, disk, ring]
label_values: {background: [0], disk: [10], ring: [20], ignore: [9]}
prepare: {orientation: RAS, spacing: 1.5, size: [32, 32], offset: -1024, clip: [0.5, 99.5], normalize: [-100, 300]}
splits: {train: [c0, c1], adapt: ["*"], test: ["a/c?", "b/*"]}
"""
PHOTO_YAML = b"""name: street
title: A card of photographs
images: images/{case}.png
labels: labels/{case}.png
indexed: _labelTrainIds.png
skip: [unreadable]
classes: [road, car]
colors: {road: [128, 64, 128], car: [0, 0, 142]}
ignore_colors: [[0, 0, 0]]
label_values: {road: [7], car: [26], ignore: [0, 255]}
prepare: {kind: photo, size: [36, 64], mean: [0.5, 0.5, 0.5]}
splits: {train: ["*"]}
"""
RECIPE_YAML = b"""name: tiny
title: A recipe
data: {source: source, target: target, root: .}
network: {channels: [4, 8], res_units: 1, dropout: 0.1}
pretrain:
  steps: 10
  batch: 4
  lr: 0.001
  ema: 0.5
  objective: [{term: cross_entropy}, {term: dice}]
  augment: {rotate: 20, scale: 0.1, flip: true, noise: 0.1, gamma: 0.2}
prior: {ratio: {kind: source_labels}, tags: {kind: target_tags}}
adapt:
  minent: {steps: 6, batch: 4, lr: 0.001, objective: [{term: entropy}], snapshot_every: 3}
  adami:
    steps: 6
    batch: 4
    lr: 0.001
    prior: tags
    objective: [{term: entropy}, {term: class_ratio_kl, direction: prediction_to_prior}]
"""


def read_a_card(path: Path) -> None:
    """Read it and look for its cases in an empty folder, as every verb begins."""
    card = load_card(str(path))
    for split in (*card.splits, "none"):
        with contextlib.suppress(UdaError):
            cases_of(card.model_copy(update={"root": "."}), path.parent, split)


def read_a_recipe(path: Path) -> None:
    show(load_recipe(str(path)))


# --- JSON -------------------------------------------------------------------------------------

ODD_JSON = (
    "", "null", "[]", "0", '"x"', "{}", "[" * 100_000, '{"a":' * 50_000, "NaN", '{"a": NaN}', '{"a": 1e999}',
    '{"a": Infinity}', "9" * 5000, '{"a": 1, "a": 2}', '"\\ud800"', '{"\\ud800": 1}', "\ufeff{}", "{}{}",
    "{'a': 1}", '{"a": 1,}', "tru", "//", "\0", '{"a": "' + "x" * 10**6 + '"}', "[" + "0," * 10**5 + "0]",
    '{"format": "uda-prior-1"}', '{"a": 01}', '{"a": -}', "1e5",
)  # fmt: skip


def odd_json(file: str, beside: dict[str, bytes] | None = None) -> Callable[[], list[Seed]]:
    contents = [text.encode() for text in ODD_JSON] + [b"\xff\xfe{\0}\0", b"\xff", bytes(100)]
    return lambda: [Seed(file, content, beside=beside or {}) for content in contents]


PRIOR = {
    "format": "uda-prior-1",
    "classes": CLASSES,
    "ratio": [0.7, 0.2, 0.1],
    "supervision": ["target_tags"],
    "how": "by hand",
    "images": {"c0": {"0": [0.7, 0.2, 0.1], "1": [1.0, 0.0, 0.0]}, "c1": {"3": [0.5, 0.25, 0.25]}},
    "sizes": {
        "levels": [0.05, 0.25, 0.5, 0.75, 0.95],
        "shown": [1, 0.5, 0.25],
        "quantiles": [[0.1, 0.2, 0.3, 0.4, 0.5]] * 3,
    },
}


def read_prior(path: Path) -> None:
    prior = Prior.load(path).validate(CLASSES, path)
    if prior.images is not None:
        places = [(case, number) for case, rows in prior.images.items() for number in rows]
        assert np.isfinite(prior.table(places).numpy()).all()


def read_stage(path: Path) -> None:
    assert read_json(path) is not NotImplemented
    StageFolder(path.parent, "0" * 64).recorded()


@cache
def stored() -> dict[str, bytes]:
    """The files of a small store, and the images that it was made of."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "c0.nii.gz").write_bytes(packed(nifti(image().astype(np.int16))))
        store = open_store(CARD, [Case("c0", folder / "c0.nii.gz")], folder / "store")
        files = {f"store/{p.parent.name}/{p.name}": p.read_bytes() for p in store.folder.iterdir()}
        return {**files, "c0.nii.gz": (folder / "c0.nii.gz").read_bytes()}


def store_seeds() -> list[Seed]:
    files = stored()
    found = []
    for name in files:
        if name.startswith("store/"):
            mutate = json_damaged if name.endswith(".json") else damaged
            found.append(Seed(name, files[name], beside=files, mutate=mutate))
    return found


def read_store(path: Path) -> None:
    """Whatever became of it: what it gives is what the images say."""
    place = path.parents[2]
    store = open_store(CARD, [Case("c0", place / "c0.nii.gz")], place / "store")
    sound = np.load(io.BytesIO(next(v for k, v in stored().items() if k.endswith("images.npy"))))
    assert np.array_equal(store.images, sound)
    assert isinstance(store, Store)
    assert store.places() == [("c0", n) for n in range(len(sound))]


BOTH = ("a1", "a2")
DATASET = {
    "name": "Heart",
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "left ventricle": 1, "ring": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
    "dataset": {
        name: {"images": [f"imagesTr/{name}_0000.nii.gz"], "label": f"labelsTr/{name}.nii.gz"}
        for name in BOTH
    },
}
DECATHLON = {
    "name": "Heart",
    "modality": {"0": "MRI"},
    "labels": {"0": "background", "1": "left ventricle", "2": "ring"},
    "numTraining": 2,
    "training": [
        {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        for name in BOTH
    ],
    "test": ["./imagesTr/a1.nii.gz"],
}


def dataset_seeds() -> list[Seed]:
    content = packed(nifti(image().astype(np.int16)))
    channels = {f"imagesTr/{n}_0000.nii.gz": content for n in ("a1", "a2")}
    labels = {f"labelsTr/{n}.nii.gz": content for n in ("a1", "a2")}
    plain = {name: value for name, value in DATASET.items() if name != "dataset"}
    return [
        Seed("dataset.json", as_json(raw), beside={**channels, **labels}, mutate=json_damaged)
        for raw in (DATASET, plain, DECATHLON)
    ]


def read_dataset(path: Path) -> None:
    written = write_card(read_listing(path.parent), path.parent.parent / f"{path.parent.name}.yaml")
    assert load_card(str(written.path)) == written.card


def read_hashes(path: Path) -> None:
    Hashes(path).of(path)


def metrics() -> dict[str, Any]:
    one = {"mean": 0.5, "sd": 0.1, "n": 2, "missed": 0, "spurious": 0}
    summary = {"mean": 0.5, "sd": None, "ci95": [0.4, 0.6], "per_class": {"disk": one, "ring": one}}
    row = {
        "name": "adabn",
        "supervision": ["none"],
        **dict.fromkeys(("dice", "hd95", "assd"), summary),
    }
    return {
        "recipe": "tiny",
        "classes": ["disk", "ring"],
        "distance_unit": "mm",
        "rows": [row, {**row, "name": "source_only"}],
        "environment": {"uda": "0.1.0"},
        "data": {"cases": 2},
        "rules": ["a rule"],
        "published": [{"row": "a paper", "dice": 50.0, "source": "there"}],
    }


CASES_CSV = b"row,case,structure,dice,hd95,assd,state\n" + b"".join(
    f"adabn,c{case},{name},0.5,2.5,,ok\n".encode() for case in range(3) for name in ("disk", "ring")
)
CURVES_CSV = b"step,loss,entropy\n2,0.5,0.5\n4,0.25,\n"


def run_seeds() -> list[Seed]:
    entry = {"case": "c0", "slice": 1, "rank": "worst", "row": "adabn", "aspect": 1.5, "key": "0"}
    stream = io.BytesIO()
    names = ("image_0", "reference_0", "source_only__0", "adabn__0", "adabn__entropy__0")
    np.savez(stream, **{name: np.zeros((6, 7), np.uint8) for name in names})  # type: ignore[arg-type]
    files = {
        "evaluate/metrics.json": as_json(metrics()),
        "evaluate/overlays.json": as_json([entry]),
        "evaluate/overlays.npz": stream.getvalue(),
        "evaluate/cases.csv": CASES_CSV,
        "adapt-x/metrics.csv": CURVES_CSV,
        "adapt-x/stage.json": as_json({"stage": "adapt-x", "hash": "0" * 64, "seconds": 1.5}),
    }
    ways = {".json": json_damaged, ".csv": text_damaged, ".npz": damaged}
    return [
        Seed(name, content, beside=files, mutate=ways[Path(name).suffix])
        for name, content in files.items()
    ]


def read_run(path: Path) -> None:
    run = path.parents[1]
    readers = (read_metrics, read_overlays, read_cases, read_curves, read_stages)
    for reader in readers:
        reader(run)


# --- CSV --------------------------------------------------------------------------------------

TAGS = b"case,slice,disk,ring\n" + b"".join(
    f"c{c},{s},1,{s % 2}\n".encode() for c in range(3) for s in range(4)
)
SIZES = b"val_ids;other;val_gt_size\n" + b"".join(
    f"c{c}_{s}.png;x;[{90 - s}, 8, {s}]\n".encode() for c in range(3) for s in range(4)
)
QUOTED = b'val_ids,val_gt_size\n1003_17,"[60, 12, 0]"\n1003_18,"[5, 1e1, 3.5]"\n'


def odd_csv() -> Iterator[bytes]:
    yield from (
        b"",
        b"\n",
        b"\xef\xbb\xbf" + TAGS,
        TAGS.replace(b"\n", b"\r\n"),
        TAGS.replace(b"\n", b"\r"),
        b"\0",
    )
    yield from (
        TAGS.decode().encode("utf-16"),
        TAGS.replace(b"c0", b"c\xe9"),
        TAGS.replace(b"c0", b"c\0"),
        TAGS + TAGS,
    )
    yield from (
        TAGS.replace(b",", b";"),
        TAGS.replace(b"c0,0", b"c0," + b"9" * 5000),
        TAGS.replace(b"c0,0", "c0,٣".encode()),
    )
    yield from (
        b"case,slice,disk,ring\n" + b"x" * 10**6,
        b"x" * 10**6,
        b"," * 10**6,
        b'"' + b"x" * 1000,
        b"case,slice,disk\n",
    )
    yield from (
        TAGS.replace(b"disk,ring", b"disk,disk"),
        b"case,slice,disk,ring\n",
        TAGS + b'c9,"0,1,1',
        b"\x1b[31m" + TAGS,
    )
    yield from (
        b"\n\n" + TAGS,
        TAGS.replace(b"\n", b"\n\n"),
        TAGS.replace(b"1", b" 1 "),
        TAGS[:-3],
        TAGS + b"c8,0,1,1,1,1\n",
    )
    for text in (
        b"[1e999, 1, 1]",
        b"[nan, 1, 1]",
        b"[" + b"9" * 4000 + b", 1, 1]",
        b"[]",
        b"[-1, 2, 3]",
        b"[1e308, 1e308, 1]",
        b"[0,0,0]",
    ):
        yield b"val_ids;val_gt_size\nc_1;" + text + b"\n"
    for name in (
        b"_" * 100_000,
        b"c_" + b"9" * 100,
        b"c_1.a.b.c",
        b"_1",
        b"a" * 10**6 + b"_1",
        b"__import__('os')_1",
    ):
        yield b"val_ids;val_gt_size\n" + name + b";[1, 2, 3]\n"
    yield b";".join([b"val_ids", b"val_gt_size", *(b"c%d" % n for n in range(20_000))]) + b"\n"
    yield b";".join(b"c%d" % n for n in range(20_000))


def read_table(path: Path) -> None:
    if path.name.startswith("sizes"):
        found = read_sizes(path, "val_gt_size", CLASSES, pixels=10_000)
        assert all(np.isfinite(sum(sizes)) for sizes in found.values())
    else:
        read_tags(path, CLASSES[1:])


def one(file: str, content: bytes, mutate: Mutate) -> Callable[[], list[Seed]]:
    return lambda: [Seed(file, content, mutate=mutate)]


def card_seeds() -> list[Seed]:
    return [Seed("x.yaml", raw, mutate=yaml_damaged) for raw in (CARD_YAML, PHOTO_YAML)]


def odd_cards() -> list[Seed]:
    return odd_yaml(CARD_YAML, PHOTO_YAML)


def table_seeds() -> list[Seed]:
    tables = (("tags.csv", TAGS), ("sizes.csv", SIZES), ("sizes.csv", QUOTED))
    return [Seed(name, raw, mutate=text_damaged) for name, raw in tables]


def odd_tables() -> list[Seed]:
    return [Seed(name, content) for content in odd_csv() for name in ("tags.csv", "sizes.csv")]


def odd_stores() -> list[Seed]:
    name = next(name for name in stored() if name.endswith(".json"))
    return odd_json(name, stored())()


def odd_runs() -> list[Seed]:
    files = {seed.file: seed.content for seed in run_seeds()}
    return [seed for name in files if name.endswith(".json") for seed in odd_json(name, files)()]


PRIOR_JSON, HASHES = as_json(PRIOR), as_json({"/x": [1, 2, "ab"]})
STAGE = as_json({"hash": "0" * 64, "files": {}})
READERS = [
    Reader("YAML card", card_seeds, read_a_card, odd_cards, 0.6),
    Reader(
        "YAML recipe",
        one("x.yaml", RECIPE_YAML, yaml_damaged),
        read_a_recipe,
        lambda: odd_yaml(RECIPE_YAML),
        0.6,
    ),
    Reader(
        "JSON prior",
        one("prior.json", PRIOR_JSON, json_damaged),
        read_prior,
        odd_json("prior.json"),
    ),
    Reader(
        "JSON stage", one("stage.json", STAGE, json_damaged), read_stage, odd_json("stage.json")
    ),
    Reader("JSON of nnU-Net", dataset_seeds, read_dataset, odd_json("dataset.json")),
    Reader(
        "JSON of hashes", one("h.json", HASHES, json_damaged), read_hashes, odd_json("h.json"), 0.5
    ),
    Reader("store", store_seeds, read_store, odd_stores, 0.5),
    Reader("files of a report", run_seeds, read_run, odd_runs, 1.5),
    Reader("CSV", table_seeds, read_table, odd_tables),
]
