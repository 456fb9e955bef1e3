"""Broken input at the command line: exit code 2, one message that names the file, no traceback, nothing written."""

from __future__ import annotations

import gzip
import json
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import foreign_networks
import nibabel
import numpy as np
import pytest
import torch
import yaml
from conftest import CLASSES, SIZE, Tiny, make_tiny
from text_files import ALIASES

from uda.cli import main as cli
from uda.config.card import Prepare
from uda.config.networks import Network
from uda.networks.build import build
from uda.networks.model_file import ModelInfo, save_model


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """The small world, a model and a network of one's own, and an empty folder to work in."""
    tiny = make_tiny(tmp_path)
    network = Network(channels=(2, 3), res_units=0)
    torch.manual_seed(0)
    ratio = (0.8, 0.1, 0.1)
    info = ModelInfo(
        network, tuple(CLASSES), Prepare(size=(SIZE, SIZE)), ("source_labels",), ratio, ratio
    )
    save_model(tiny.home / "model.safetensors", build(network, len(CLASSES)), info)
    program = foreign_networks.scripted(foreign_networks.Plain())
    (tiny.home / "network.pt").write_bytes(program)
    tags = (tiny.root / "t/tags.csv").read_bytes()
    (tiny.home / "tags.csv").write_bytes(tags)
    ids = "".join(f"c0_{s};[900, 100, 24]\n" for s in range(4))
    (tiny.home / "sizes.csv").write_text(f"val_ids;counts\n{ids}")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return tiny


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def terabytes(path: Path) -> None:
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[42:48] = np.array([32767] * 3, "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(raw)))


def not_a_number(path: Path) -> None:
    file = nibabel.load(path)
    array = np.full(file.shape, np.nan, np.float32)  # type: ignore[attr-defined]
    nibabel.save(nibabel.Nifti1Image(array, file.affine), path)  # type: ignore[attr-defined]


def text(content: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(content)

    return write


def data(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def with_value(key: str, value: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), key: value}))

    return change


IMAGE, LABEL = "data/t/images/c0.nii.gz", "data/s/labels/c2.nii.gz"
RECIPE, CARD, MODEL = "home/tiny.yaml", "home/target.yaml", "home/model.safetensors"
RUN = "run {home}/tiny.yaml data.root={root} --out out --device cpu --quiet"
ADAPT = (
    "adapt --model {home}/model.safetensors --target {root}/t/images --out out --device cpu --quiet"
)
PREDICT = "predict --model {home}/model.safetensors --images {root}/t/images --out out --device cpu"
CHECK = "check {home}/target.yaml --root {root}"
TAGS = (
    "prior --model {home}/model.safetensors --kind target_tags --tags {home}/tags.csv"
    " --out prior.json --device cpu"
)
SIZES = (
    "prior --model {home}/model.safetensors --kind size_csv --set file={home}/sizes.csv --set column=counts"
    " --target {root}/t/images --out prior.json --device cpu"
)
IMPORT = "import {home}/network.pt --card {home}/source.yaml --out out"
CONVERT = "convert {home}/source.yaml --root {root} --out out"
LISTED = "check --from-nnunet {home}"
BROKEN: list[tuple[str, str, Callable[[Path], None]]] = [
    *((RUN, RECIPE, how) for how in (text("name: ["), text(ALIASES), text("[" * 5000), data(b"\xff\xfe\0"), text(""))),
    (RUN, RECIPE, with_value("title", 5)),
    *((RUN, CARD, how) for how in (half, text("!!python/object/apply:os.system ['true']"), folder)),
    (RUN, CARD, with_value("images", "{case}{nothing}.nii.gz")),
    *((RUN, "data/s/images/c0.nii.gz", how) for how in (half, terabytes, not_a_number, data(b""))),
    *((ADAPT, MODEL, how) for how in (half, data(pickle.dumps([1])), data(b""), text("hello"), folder)),
    *((ADAPT, IMAGE, how) for how in (half, terabytes, not_a_number, text("hello"))),
    *((f"{ADAPT} --method adami --prior {{home}}/prior.json", "home/prior.json", text(said)) for said in
      ("", "{}", "[" * 10_000, '{"format": "uda-prior-1", "ratio": [NaN]}')),
    *((PREDICT, MODEL, how) for how in (half, data(bytes(100)), folder)),
    *((CHECK, CARD, how) for how in (half, text(ALIASES), with_value("classes", [".."]))),
    *((TAGS, "home/tags.csv", how) for how in (half, data(b"case\0slice"), data(b"\xff\xfe"), folder)),
    (TAGS, "home/tags.csv", text("x" * 10**6)),
    *((SIZES, "home/sizes.csv", how) for how in (text(""), data(bytes(50)))),
    (SIZES, "home/sizes.csv", text("val_ids;counts\nc0_0;[1e999, 1, 1]\n")),
    *((IMPORT, "home/network.pt", how) for how in (half, text("hello"), data(b""), data(pickle.dumps([1])), folder)),
    (IMPORT, "home/source.yaml", half),
    *((CONVERT, LABEL, how) for how in (half, terabytes, not_a_number)),
    (CONVERT, "home/source.yaml", text("~")),
    *((LISTED, "home/dataset.json", text(said)) for said in ("", "[]", "[" * 10_000, json.dumps({"labels": 5}))),
]  # fmt: skip


def written() -> Iterator[Path]:
    """Files, but for what a verb keeps of a run's stages that were complete before."""
    return (path for path in Path().rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("command", "broken", "how"),
    BROKEN,
    ids=[f"{c.split()[0]}-{b}-{n}" for n, (c, b, _) in enumerate(BROKEN)],
)
@pytest.mark.usefixtures("as_users_see")
def test_a_broken_file_costs_one_message(
    world: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    command: str,
    broken: str,
    how: Callable[[Path], None],
) -> None:
    how(tmp_path / broken)
    words = [word.format(home=world.home, root=world.root) for word in command.split()]
    monkeypatch.setattr(sys, "argv", ["uda", *words])
    monkeypatch.delenv("UDA_DEBUG", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capfd.readouterr()
    assert ended.value.code == 2, said.err
    assert "Traceback" not in said.err
    assert said.err.count("error:") == 1
    assert broken.removeprefix("home/").removeprefix("data/") in said.err
    assert len(said.err) < 10_000
    assert list(written()) == []


def test_predict_names_the_image_that_it_left_out_and_writes_the_others(
    world: Tiny, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for number, how in enumerate((half, terabytes)):
        how(world.root / f"t/images/c{number}.nii.gz")
    words = PREDICT.format(home=world.home, root=world.root).split()
    monkeypatch.setattr(sys, "argv", ["uda", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capfd.readouterr()
    assert ended.value.code == 2
    assert "Traceback" not in said.err
    for number in (0, 1):
        assert said.err.count(str(world.root / f"t/images/c{number}.nii.gz")) == 1
    assert [path.name for path in Path("out").glob("*.nii.gz")] == ["c2.nii.gz"]


def test_check_lists_every_broken_image_and_goes_on(
    world: Tiny, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for number, how in enumerate((half, terabytes, not_a_number)):
        how(world.root / f"t/images/c{number}.nii.gz")
    monkeypatch.setattr(
        sys, "argv", ["uda", *CHECK.format(home=world.home, root=world.root).split()]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capfd.readouterr()
    assert ended.value.code == 2
    assert "Traceback" not in said.err + said.out
    for number in (0, 1, 2):
        assert str(world.root / f"t/images/c{number}.nii.gz") in said.err + said.out
