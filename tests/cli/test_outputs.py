"""Every verb that writes: files that uda did not write stay, inputs are never outputs, one process at a time."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSES, SIZE, Tiny, make_case, make_tiny, write_nifti

from uda.cli.main import main
from uda.config.card import Prepare
from uda.config.networks import Network
from uda.files.output import lock
from uda.networks.build import build
from uda.networks.model_file import ModelInfo, save_model


@dataclass(frozen=True)
class World:
    """A folder with data, cards, a model, a program, a finished run, and a data set of nnU-Net."""

    folder: Path

    @property
    def tiny(self) -> Tiny:
        return Tiny(self.folder / "home", self.folder / "data")

    @property
    def images(self) -> Path:
        return self.folder / "data" / "t" / "images"


class _Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 3, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(image)
        return logits


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    tiny = make_tiny(folder)
    network = Network(channels=(4, 8), res_units=0)
    info = ModelInfo(
        network, tuple(CLASSES), Prepare(size=(SIZE, SIZE)), ("none",), (0.8, 0.1, 0.1), origin={}
    )
    save_model(folder / "model" / "model.safetensors", build(network, len(CLASSES)), info)
    example = torch.zeros(2, 1, SIZE, SIZE)
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(_Net().eval(), (example,), dynamic_shapes=batch)
    (folder / "program").mkdir()
    torch.export.save(program, folder / "program" / "net.pt2")
    for number in range(2):
        image, label = make_case(number, False)
        nnunet = folder / "nnunet"
        write_nifti(nnunet / "imagesTr" / f"p{number}_0000.nii.gz", image)
        write_nifti(nnunet / "labelsTr" / f"p{number}.nii.gz", label)
    labels = {"background": 0, "disk": 1, "ring": 2}
    listing = {
        "channel_names": {"0": "CT"},
        "labels": labels,
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (nnunet / "dataset.json").write_text(json.dumps(listing))
    card = ("--card", tiny.home / "target.yaml", "--root", tiny.root)
    assert call("evaluate", "--model", folder / "model", *card, "--out", folder / "run") == 0
    return folder


@pytest.fixture
def world(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    shutil.copytree(prepared, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    return World(tmp_path / "world")


Arguments = Callable[[World], list[object]]
VERBS: dict[str, Arguments] = {
    "predict": lambda w: ["--model", "model", "--images", w.images],
    "suggest": lambda w: ["--model", "model", "--images", w.images],
    "adapt": lambda w: ["--model", "model", "--target", w.images, "--method", "adabn"],
    "evaluate": lambda w: ["--model", "model", "--card", "home/target.yaml", "--root", "data"],
    "report": lambda w: ["run"],
    "import": lambda w: ["program/net.pt2", "--card", "home/source.yaml"],
    "prior": lambda w: ["--model", "model"],
    "tags": lambda w: ["home/target.yaml", "--root", "data"],
    "convert": lambda w: ["home/source.yaml", "--root", "data"],
    "check": lambda w: ["home/source.yaml", "--root", "data"],
}
WRITTEN = {
    "predict": ["c0.nii.gz", "prediction.json", "cases/c1.json", "report.html"],
    "suggest": ["."],
    "adapt": ["model.safetensors", "notes.txt"],
    "evaluate": ["evaluate/metrics.json", "evaluate/cases.csv"],
    "report": ["report.html"],
    "import": ["model.safetensors"],
    "prior": ["."],
    "tags": ["."],
    "convert": ["training_source/source_train_c0.tfrecords", "source_records.yaml"],
    "check": ["index.html", "c0.png", "c1.png"],
}
"""for each verb names that it writes below --out; ``.``: --out is a file"""
RUN = [
    "run",
    "home/tiny.yaml",
    "data.root=data",
    "pretrain.steps=1",
    "adapt.*.steps=1",
    "--device",
    "cpu",
    "-q",
]


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def call(*arguments: object) -> int:
    before, sys.argv = sys.argv, ["uda", *map(str, arguments)]
    try:
        main()
    except SystemExit as exited:
        return int(exited.code or 0)
    finally:
        sys.argv = before
    return 0


def refused(capsys: pytest.CaptureFixture[str], code: int, expected: int = 2) -> str:
    told = capsys.readouterr().err
    assert code == expected, told
    assert told.count("error:") == 1
    return told


@pytest.mark.parametrize(("verb", "name"), [(v, name) for v in WRITTEN for name in WRITTEN[v]])
def test_a_file_that_uda_did_not_write_stays(
    world: World, capsys: pytest.CaptureFixture[str], verb: str, name: str
) -> None:
    path = Path("new", "out", name)
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    before = contents(world.folder)
    told = refused(capsys, call(verb, *VERBS[verb](world), "--out", "new/out"))
    assert str(path) in told or verb == "adapt"  # which names the folder
    after = contents(world.folder)
    after.pop(str(world.folder / "new" / "out" / ".uda-files"), None)
    assert after == before


@pytest.mark.parametrize("above", ["file", "dangling"])
@pytest.mark.parametrize("verb", VERBS)
def test_an_output_below_what_is_no_folder_is_refused(
    world: World, capsys: pytest.CaptureFixture[str], verb: str, above: str
) -> None:
    Path("file").write_text("mine")
    Path("dangling").symlink_to("nowhere")
    before = contents(world.folder)
    told = refused(capsys, call(verb, *VERBS[verb](world), "--out", f"{above}/out"))
    assert f"where:    {above}\n" in told
    assert ("leads nowhere" if above == "dangling" else "is no folder") in told
    assert contents(world.folder) == before
    assert not Path("nowhere").exists()


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
@pytest.mark.parametrize("name", [".uda-files", ".uda.lock"])
@pytest.mark.parametrize("verb", ["predict", "report", "import", "convert", "check"])
def test_what_has_the_place_of_a_file_of_uda_is_named_and_stays(
    world: World, capsys: pytest.CaptureFixture[str], verb: str, name: str, kind: str
) -> None:
    place = Path("new/out", name)
    place.parent.mkdir(parents=True)
    Path("new/out/mine.txt").write_text("mine")
    if kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("mine.txt")
    before = contents(world.folder)
    told = refused(capsys, call(verb, *VERBS[verb](world), "--out", "new/out"))
    assert f"where:    {place}\n" in told
    assert "no regular file" in told
    assert os.path.lexists(place)
    assert contents(world.folder) == before


@pytest.mark.parametrize(
    ("verb", "name"),
    [("predict", "cases"), ("convert", "training_source"), ("evaluate", "evaluate")],
)
@pytest.mark.parametrize("kind", ["file", "dangling"])
def test_what_has_the_place_of_a_folder_of_results_is_named(
    world: World, capsys: pytest.CaptureFixture[str], verb: str, name: str, kind: str
) -> None:
    place = Path("new/out", name)
    place.parent.mkdir(parents=True)
    if kind == "file":
        place.write_text("mine")
    else:
        place.symlink_to("nowhere")
    before = contents(world.folder)
    told = refused(capsys, call(verb, *VERBS[verb](world), "--out", "new/out"))
    assert f"where:    {place}\n" in told
    assert contents(world.folder) == before


@pytest.mark.parametrize("verb", VERBS)
def test_the_same_command_again_writes_its_own_files_again(world: World, verb: str) -> None:
    for _ in range(2):
        assert call(verb, *VERBS[verb](world), "--out", "new/out") == 0


@pytest.mark.parametrize(
    ("verb", "out"),
    [
        *[("predict", out) for out in ("data/t/images", "data/t/images/x", "data/t", ".", "model")],
        *[("suggest", out) for out in ("data/t/images/s.csv", "model/model.safetensors")],
        *[("adapt", out) for out in ("data/t/images", "data/t/images/x", "data", "model", ".")],
        *[("evaluate", out) for out in ("data/t/labels", "data/t/images/x", "data", "model")],
        *[("report", out) for out in ("run", "run/x", ".")],
        *[("import", out) for out in ("program", ".")],
        *[("prior", out) for out in ("model/model.safetensors",)],
        *[("tags", out) for out in ("data/t/images/t.csv", "data/t/labels/x/t.csv")],
        *[("convert", out) for out in ("data/s/images", "data/s/labels/x", "data")],
        *[("check", out) for out in ("data/s/images", "data/s/labels/x", "data")],
    ],
)
def test_an_output_in_on_or_around_an_input_is_refused(
    world: World, capsys: pytest.CaptureFixture[str], verb: str, out: str
) -> None:
    before = contents(world.folder)
    told = refused(capsys, call(verb, *VERBS[verb](world), "--out", out))
    assert "of the same command" in told
    assert contents(world.folder) == before


@pytest.mark.parametrize("out", ["data", "data/t/images", "data/s/labels/x", "."])
def test_a_run_apart_from_its_data(
    world: World, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    before = contents(world.folder)
    assert "of the same command" in refused(capsys, call(*RUN, "--out", out))
    assert contents(world.folder) == before


@pytest.mark.parametrize(
    "verb", ["predict", "adapt", "evaluate", "report", "import", "convert", "check"]
)
def test_one_process_at_a_time(world: World, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    folder, name = Path("new/out"), ".uda.lock"
    if verb == "adapt":
        folder, name = Path("new"), ".out.lock"
    elif verb == "evaluate":
        folder = Path("new/out/evaluate")
    with lock(folder, name):
        before = contents(world.folder)
        told = refused(capsys, call(verb, *VERBS[verb](world), "--out", "new/out"), 1)
        assert "another run is writing" in told
        assert contents(world.folder) == before


def test_what_a_user_puts_into_an_adapted_model_outlives_it(world: World) -> None:
    shutil.copytree(world.images, "other")
    write_nifti(Path("other/c0.nii.gz"), make_case(9, True)[0])
    adapt = ["adapt", "--model", "model", "--method", "adabn", "--out", "mine", "--target"]
    assert call(*adapt, world.images) == 0
    model = Path("mine/model.safetensors").read_bytes()
    assert call("predict", "--model", "mine", "--images", world.images, "--out", "mine/masks") == 0
    Path("mine/notes.txt").write_text("mine")
    before = contents(Path("mine/masks")), Path("mine/notes.txt").read_text()
    for more in ([], ["--restart"]):
        assert call(*adapt, "other", *more) == 0
        assert Path("mine/model.safetensors").read_bytes() != model
        assert (contents(Path("mine/masks")), Path("mine/notes.txt").read_text()) == before


def test_what_other_verbs_wrote_into_an_adapted_model_outlives_it(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(world.images, "other")
    write_nifti(Path("other/c0.nii.gz"), make_case(9, True)[0])
    adapt = ["adapt", "--model", "model", "--method", "adabn", "--out", "mine", "--target"]
    assert call(*adapt, world.images) == 0
    Path("mine/report.html").unlink()
    assert call("predict", "--model", "model", "--images", world.images, "--out", "mine") == 0
    Path("mine/c0.nii.gz").write_bytes(b"corrected")
    kept = [Path("mine/prediction.json"), *Path("mine").rglob("*.nii.gz")]
    before = {path: path.read_bytes() for path in kept}
    assert call(*adapt, "other") == 0
    assert {path: path.read_bytes() for path in kept} == before
    Path("mine/report.html").write_text("mine")
    told = refused(capsys, call(*adapt, world.images))
    assert "report.html" in told
    assert Path("mine/report.html").read_text() == "mine"


def test_what_a_user_puts_into_a_run_outlives_its_stages(world: World) -> None:
    assert call(*RUN, "--out", "out") in (0, 3)
    mine = [Path("out", name) for name in ("notes.txt", "pretrain/notes.txt", "store/notes.txt")]
    mine += [
        Path("out", stage, "mine", "a.txt") for stage in ("adapt-minent", "evaluate", "report")
    ]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    for more in (["pretrain.lr=0.01"], ["--restart"]):
        assert call(*RUN, *more, "--out", "out") in (0, 3)
        assert [path.read_text() for path in mine] == ["mine"] * len(mine)


def test_the_card_of_a_data_set_is_not_written_over(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text("mine")
    code = call("check", "--from-nnunet", "nnunet", "--out", "mine.yaml")
    assert "mine.yaml" in refused(capsys, code)
    assert Path("mine.yaml").read_text() == "mine"
    code = call("check", "--from-nnunet", "nnunet", "--out", "nnunet/new.yaml")
    assert "of the same command" in refused(capsys, code)
    for _ in range(2):
        assert call("check", "--from-nnunet", "nnunet", "--out", "new.yaml") == 0


def test_an_edited_image_is_scored_anew(world: World) -> None:
    evaluate = ["evaluate", *VERBS["evaluate"](world), "--out", "scores"]
    metrics = Path("scores/evaluate/metrics.json")
    assert call(*evaluate) == 0
    first = json.loads(metrics.read_text())["data"]["fingerprint"]
    for path in world.images.iterdir():
        write_nifti(path, np.ascontiguousarray(make_case(3, True)[0][::-1]))
    assert call(*evaluate) == 0
    assert json.loads(metrics.read_text())["data"]["fingerprint"] != first


def test_an_edit_while_a_model_is_scored_is_noticed(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from uda import api

    score = api.score

    def edited(rows: object, cases: list[object], *rest: object) -> object:
        result = score(rows, cases, *rest)  # type: ignore[arg-type]
        write_nifti(cases[0].label, make_case(8, True)[1])  # type: ignore[attr-defined]
        return result

    monkeypatch.setattr(api, "score", edited)
    code = call("evaluate", *VERBS["evaluate"](world), "--out", "scores")
    assert "changed while it was read" in refused(capsys, code)
    assert not Path("scores/evaluate/metrics.json").exists()


def test_an_edit_while_a_model_is_adapted_is_noticed(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from uda.data import writing

    prepare = writing.prepared_stack

    def edited(case: object, card: object) -> object:
        result = prepare(case, card)  # type: ignore[arg-type]
        path: Path = case.image  # type: ignore[attr-defined]
        if path.name.startswith("c1"):
            write_nifti(path, make_case(8, True)[0])
        return result

    monkeypatch.setattr(writing, "prepared_stack", edited)
    told = refused(capsys, call("adapt", *VERBS["adapt"](world), "--out", "new/out"))
    assert "'c1' changed while it was read" in told
    assert not Path("new/out").exists()


def test_a_prior_that_a_method_does_not_use_is_refused(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("prior", "--model", "model", "--out", "mine.json") == 0
    capsys.readouterr()
    code = call("adapt", *VERBS["adapt"](world), "--prior", "mine.json", "--out", "new/out")
    assert "'adabn' uses no prior" in refused(capsys, code)
    assert not Path("new").exists()


@pytest.mark.parametrize("damage", ["missing", "edited"])
def test_a_finished_result_that_is_damaged_is_not_told_as_finished(
    world: World, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    adapt = ["adapt", *VERBS["adapt"](world), "--out", "mine"]
    assert call(*adapt) == 0
    model = Path("mine/model.safetensors")
    if damage == "missing":
        model.unlink()
    else:
        content = model.read_bytes()
        model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    capsys.readouterr()
    told = refused(capsys, call(*adapt))
    assert "stage 'mine' wrote it" in told
    assert str(model) in told
    if damage == "edited":
        assert "delete it" in told
        assert "would be replaced: model.safetensors" in refused(capsys, call(*adapt, "--restart"))
        assert model.read_bytes()[:-1] == content[:-1]
        model.unlink()
    assert call(*adapt, "--restart") == 0
    assert call(*adapt) == 0


def test_edited_scores_of_a_run_are_not_printed(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*RUN, "--out", "out") in (0, 3)
    assert call("report", "out") == 0
    assert call(*RUN, "--out", "out") in (0, 3)  # the page that `uda report` wrote is known
    metrics = Path("out/evaluate/metrics.json")
    metrics.write_text(metrics.read_text().replace('"mean": 0.', '"mean": 0.9'))
    capsys.readouterr()
    for verb in (["report", "out"], [*RUN, "--out", "out"]):
        assert "has changed since stage 'evaluate' wrote it" in refused(capsys, call(*verb))


@pytest.mark.parametrize("verb", ["prior", "tags"])
@pytest.mark.parametrize("out", [".", "./", "new/.."])
def test_a_folder_in_the_place_of_a_file_is_refused(
    world: World, capsys: pytest.CaptureFixture[str], verb: str, out: str
) -> None:
    Path("new").mkdir()
    arguments = VERBS[verb](world)
    told = refused(capsys, call(verb, *arguments, "--out", out))
    assert "is a folder" in told or "of the same command" in told


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "report"])
def test_a_home_folder_that_the_shell_left_alone_is_refused(
    world: World, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    told = refused(capsys, call(verb, *VERBS[verb](world), "--out", "~/new"))
    assert "begins with ~" in told
    assert not Path("~").exists()


@pytest.mark.parametrize("verb", ["predict", "evaluate", "import", "convert", "check"])
@pytest.mark.parametrize("name", ["new/out", "new"])
def test_a_file_in_the_place_of_a_folder_is_refused(
    world: World, capsys: pytest.CaptureFixture[str], verb: str, name: str
) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text("mine")
    assert "is no folder" in refused(capsys, call(verb, *VERBS[verb](world), "--out", "new/out"))
    assert Path(name).read_text() == "mine"
