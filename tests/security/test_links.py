"""Links that lead out of an output folder, permissions of written files, and the network."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CLASSES, SIZE, Tiny, make_case, write_nifti

from uda.api import adapt, evaluate_model, predict
from uda.check.page import Album
from uda.config.card import Prepare
from uda.config.loading import find, load_card, load_recipe
from uda.config.networks import Network
from uda.data.convert import convert_to_records
from uda.errors import DataError, UdaError
from uda.files.atomic import save_tensors, write_json
from uda.files.links import check_links, check_output
from uda.files.output import lock
from uda.networks.build import build
from uda.networks.importing import import_model
from uda.networks.model_file import ModelInfo, save_model
from uda.pipeline import run as pipeline
from uda.report.page import write_report


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """A folder that no test may change."""
    folder = tmp_path / "precious"
    (folder / "deep").mkdir(parents=True)
    for name in ("stage.json", "metrics.json", "prediction.json", "deep/.half-done", "a.nii.gz"):
        (folder / name).write_text("{}")
    before = contents(folder)
    yield folder
    assert contents(folder) == before


def contents(folder: Path) -> dict[str, Any]:
    paths = [folder, *sorted(folder.rglob("*"))]
    return {
        str(p): (p.lstat().st_mode, p.lstat().st_mtime_ns, p.read_bytes() if p.is_file() else None)
        for p in paths
    }


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and an image."""
    folder = tmp_path_factory.mktemp("ready")
    network = Network(channels=(4, 8), res_units=0)
    info = ModelInfo(network, tuple(CLASSES), Prepare(size=(SIZE, SIZE)), ("none",), origin={})
    save_model(folder / "model.safetensors", build(network, len(CLASSES)), info)
    write_nifti(folder / "images" / "a.nii.gz", make_case(0, False)[0])
    return folder


def short(tiny: Tiny) -> Any:
    few = ["pretrain.steps=1", "adapt.*.steps=1", "compute.device=cpu", "evaluate.distances=false"]
    return load_recipe(tiny.recipe, [*tiny.overrides, *few])


Writer = Callable[[Tiny, Path, Path], object]


def runs(tiny: Tiny, ready: Path, out: Path) -> object:
    return pipeline.run(short(tiny), out, restart=True)


def imports(tiny: Tiny, ready: Path, out: Path) -> object:
    return import_model(
        lambda: torch.nn.Conv2d(1, 3, 1),
        out,
        name="plain",
        classes=CLASSES,
        prepare=Prepare(size=(SIZE, SIZE)),
    )


WRITERS: dict[str, Writer] = {
    "run": runs,
    "adapt": lambda tiny, ready, out: adapt(
        ready, ready / "images", out, method="adabn", restart=True
    ),
    "predict": lambda tiny, ready, out: list(predict(ready, ready / "images", out)),
    "evaluate": lambda tiny, ready, out: evaluate_model(
        ready, str(tiny.home / "target.yaml"), tiny.root, out
    ),
    "check": lambda tiny, ready, out: Album(out, load_card(str(tiny.home / "source.yaml"))),
    "convert": lambda tiny, ready, out: convert_to_records(
        load_card(str(tiny.home / "source.yaml")), tiny.root, out
    ),
    "import": imports,
}


@pytest.mark.parametrize("verb", WRITERS)
def test_an_output_folder_that_is_a_link_is_not_written_to(
    verb: str, tiny: Tiny, ready: Path, precious: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for target in (precious, tmp_path / "nothing there"):
        out.symlink_to(target)
        with pytest.raises(DataError, match="is a link to"):
            WRITERS[verb](tiny, ready, out)
        out.unlink()
    assert not (tmp_path / "nothing there").exists()


INSIDE = [
    ("run", "store"),
    ("run", "pretrain"),
    ("run", "adapt-minent"),
    ("run", ".adapt-minent.0123456789ab"),
    ("run", "evaluate"),
    ("run", "report"),
    ("run", "prior-ratio"),
    ("adapt", "snapshots"),
    ("adapt", "../.out.0123456789ab"),
    ("adapt", "../.out.old"),
    ("predict", "cases"),
    ("evaluate", "evaluate"),
    ("convert", "training_source"),
]


@pytest.mark.parametrize(("verb", "name"), INSIDE)
def test_a_link_inside_an_output_folder_is_not_followed(
    verb: str, name: str, tiny: Tiny, ready: Path, precious: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).symlink_to(precious)
    with pytest.raises(DataError, match="is a link to") as refused:
        WRITERS[verb](tiny, ready, out)
    assert str(precious) in str(refused.value)


def test_a_link_deep_in_a_stage_is_found_and_one_that_stays_inside_is_none(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "stage" / "deep").mkdir(parents=True)
    (out / "file").write_text("")
    (out / "stage" / "deep" / "inner").symlink_to("../../file")
    assert check_links(out) == out
    (out / "stage" / "deep" / "outer").symlink_to("../../../elsewhere")
    with pytest.raises(DataError, match="is a link to"):
        check_links(out)
    assert check_links(out, ["file"]) == out


@pytest.mark.parametrize("name", ["a.nii.gz", "prediction.json", "report.html", "predictions.json"])
def test_files_that_are_links_are_neither_replaced_nor_written_through(
    ready: Path, precious: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).symlink_to(precious / "deep" / name)  # a dangling link
    with pytest.raises(DataError, match="not written by uda"):
        list(predict(ready, ready / "images", out))
    assert [path.name for path in out.iterdir()] == [name]


def test_writing_a_file_replaces_a_link_and_does_not_follow_it(
    precious: Path, tmp_path: Path
) -> None:
    (tmp_path / "x.json").symlink_to(precious / "metrics.json")
    write_json(tmp_path / "x.json", {"a": 1})
    (tmp_path / "x.safetensors").symlink_to(precious / "a.nii.gz")
    save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {})
    assert not any(path.is_symlink() for path in tmp_path.iterdir())


def test_a_lock_that_is_a_link_does_not_empty_what_it_leads_to(
    precious: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".uda.lock").symlink_to(precious / "metrics.json")
    with pytest.raises(DataError, match="no regular file"), lock(tmp_path / "out"):
        pass


def test_restart_deletes_no_folder_behind_a_link(
    tiny: Tiny, ready: Path, precious: Path, tmp_path: Path
) -> None:
    """The link appears in a finished stage."""
    out = tmp_path / "out"
    adapt(ready, ready / "images", out, method="adabn")
    (out / "more").symlink_to(precious)
    with pytest.raises(DataError, match="is a link to"):
        adapt(ready, ready / "images", out, method="adabn", restart=True)
    (out / "more").unlink()
    adapt(ready, ready / "images", out, method="adabn", restart=True)


def test_a_report_is_not_written_through_a_link(precious: Path, tmp_path: Path) -> None:
    from report_runs import write_run

    write_run(tmp_path / "run")
    (tmp_path / "out").symlink_to(precious)
    with pytest.raises(DataError, match="is a link to"):
        write_report(tmp_path / "run", tmp_path / "out")


def test_inputs_and_the_folders_above_may_be_links(ready: Path, tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(ready / "images")
    (tmp_path / "model.safetensors").symlink_to(ready / "model.safetensors")
    (tmp_path / "disk").mkdir()
    (tmp_path / "checkpoints").symlink_to(tmp_path / "disk")
    out = tmp_path / "checkpoints" / "run"
    (found,) = predict(tmp_path / "model.safetensors", tmp_path / "images", out)
    assert found.file == out / "a.nii.gz"
    assert check_output(out) == out


# ---------------------------------------------------------------- who may read and write


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_others_get_the_rights_that_the_user_gives_and_no_more(umask: int, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    before = os.umask(umask)
    try:
        write_json(shared / "a.json", {})
        save_tensors(shared / "a.safetensors", {"a": torch.zeros(1)}, {})
        with lock(shared):
            locked = stat.S_IMODE((shared / ".uda.lock").stat().st_mode)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in shared.iterdir()} | {locked}
    assert modes == {0o666 & ~umask}


def test_unfinished_work_is_nobody_elses(tmp_path: Path) -> None:
    from uda.files.atomic import atomic_path

    before = os.umask(0)
    try:
        with atomic_path(tmp_path / "a.json") as temporary:
            temporary.write_text("{}")
            folder = stat.S_IMODE(temporary.parent.stat().st_mode)
    finally:
        os.umask(before)
    assert folder == 0o700
    assert temporary.parent != tmp_path


# ---------------------------------------------------------------- looking up, and the network


def test_a_run_listens_on_no_port_and_calls_nobody(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    for name in ("bind", "listen", "connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, lambda *a, name=name: called.append(name))
    out = tmp_path / "run"
    pipeline.run(short(tiny), out, until="pretrain")
    assert list(out.rglob("events.out.tfevents*"))
    assert called == []


def test_a_name_finds_yaml_files_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "evil.py").write_text("raise SystemExit('ran')")
    (tmp_path / "uda_networks.py").write_text("raise SystemExit('ran')")
    (tmp_path / "outside.yaml").write_text("name: outside\n")
    for name in ("evil", "evil.py", "pipelines/evil.py", "uda_networks", "../outside", "os.system"):
        with pytest.raises(UdaError, match="there is no recipe"):
            find(name, "recipe")
    assert find("cardiac_phantom", "recipe").name == "cardiac_phantom.yaml"


def test_a_recipe_of_the_current_folder_comes_first_and_can_still_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documented: a recipe in ./pipelines hides a shipped one of the same name."""
    shipped = find("cardiac_phantom", "recipe").resolve()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipelines").mkdir()
    near = shutil.copy(shipped, tmp_path / "pipelines")
    assert find("cardiac_phantom", "recipe").resolve() == Path(near).resolve()
