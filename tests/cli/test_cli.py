"""The command line: every verb does what its help says, and bad input costs one message and nothing else."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import CLASSES, SIZE, SLICES, Tiny, make_case, write_nifti

from uda import __version__
from uda.cli import main as cli
from uda.cli.main import _print_doubtful
from uda.cli.options import exit_on_fallback
from uda.config.loading import load_recipe
from uda.config.priors import KINDS
from uda.pipeline import run as pipeline
from uda.prediction.outcome import Outcome
from uda.prediction.trust import Flag
from uda.priors import Prior

LAST = "adapt.*.select=last"
HELP = Path(__file__).with_name("help.txt")
VERBS = [
    "run",
    "pretrain",
    "prior",
    "adapt",
    "evaluate",
    "predict",
    "suggest",
    "report",
    "check",
    "import",
    "convert",
    "tags",
    "simulate",
    "show",
    "list",
]


@dataclass(frozen=True)
class Ended:
    """How a call of ``uda`` ended."""

    code: int
    out: str
    err: str


Uda = Callable[..., Ended]


@pytest.fixture
def uda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Uda:
    """``uda …`` through its entry point, in an empty folder, on a wide terminal."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("UDA_DEBUG", raising=False)

    def call(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["uda", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as exited:
            code = exited.code if isinstance(exited.code, int) else int(exited.code is not None)
        return Ended(code, *capsys.readouterr())

    return call


def fine(ended: Ended) -> Ended:
    assert ended.code == 0, ended.err
    return ended


def refused(ended: Ended, *told: str) -> None:
    """Exit code 2, one message that says all of this, no traceback, nothing written here."""
    assert ended.code == 2
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert ended.err.count("error:") == 1
    for text in told:
        assert text in ended.err
    assert list(Path().iterdir()) == []


@pytest.fixture
def trained(tiny: Tiny, tmp_path: Path) -> Path:
    """The tiny recipe's source model."""
    recipe = load_recipe(tiny.recipe, [*tiny.overrides, "compute.device=cpu"])
    return pipeline.run(recipe, tmp_path / "trained", until="pretrain")[-1].folder


def python(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    return result.stdout


# Help ----------------------------------------------------------------------------------------------

EVERY_HELP = """
import sys
from uda.cli.main import app
for verb in ([], *([v] for v in sys.stdin.read().split())):
    print("$ uda", *verb, "--help")
    app([*verb, "--help"], prog_name="uda", standalone_mode=False)
"""


def printed_help() -> str:
    """What ``--help`` prints for every verb, 100 columns wide and without colours."""
    plain = {"TERMINAL_WIDTH": "100", "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    result = subprocess.run(
        [sys.executable, "-c", EVERY_HELP],
        input=" ".join(VERBS),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **plain, "PYTHONIOENCODING": "utf-8"},
    )
    text = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def test_help_of_every_verb_is_as_recorded() -> None:
    """After a wanted change: ``UDA_UPDATE=1 make test`` (or pytest) writes ``tests/cli/help.txt`` anew."""
    printed = printed_help()
    if os.environ.get("UDA_UPDATE"):
        HELP.write_text(printed, encoding="utf-8")
    assert printed == HELP.read_text(encoding="utf-8")


def test_help_lists_exactly_the_verbs() -> None:
    commands = [command.name or "" for command in cli.app.registered_commands]
    functions = [
        command.callback.__name__ for command in cli.app.registered_commands if command.callback
    ]
    assert [a or b for a, b in zip(commands, functions, strict=True)] == VERBS
    assert cli.app.registered_groups == []


def test_command_line_is_imported_without_the_heavy_libraries() -> None:
    loaded = python("import sys, uda.cli.main; print(*sys.modules)").split()
    assert "uda.cli.main" in loaded
    assert not {"torch", "monai", "pydantic", "matplotlib", "numpy", "yaml"} & set(loaded)


def test_python_m_uda_is_the_same_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "uda", "show", "no_such_recipe"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: there is no recipe 'no_such_recipe'")


# Reading -------------------------------------------------------------------------------------------


def test_show_is_a_recipe_that_shows_itself(uda: Uda, tiny: Tiny) -> None:
    first = fine(uda("show", tiny.recipe, *tiny.overrides, "adapt.*.steps=4", "seed=3")).out
    shown = yaml.safe_load(first)
    assert shown["seed"] == 3
    assert [variant["steps"] for variant in shown["adapt"].values()] == [4, 4]
    Path("shown.yaml").write_text(first)
    assert fine(uda("show", "shown.yaml")).out == first


def test_shown_recipe_runs_as_the_recipe_it_shows(uda: Uda, tiny: Tiny) -> None:
    Path("shown.yaml").write_text(fine(uda("show", tiny.recipe, *tiny.overrides)).out)
    fine(uda("pretrain", tiny.recipe, *tiny.overrides, "--out", "run", "--device", "cpu"))
    again = fine(uda("pretrain", "shown.yaml", "--out", "run", "--device", "cpu"))
    assert "pretrain                 complete, skipped" in again.err


def test_list_names_shipped_recipes_and_cards(uda: Uda) -> None:
    listed = fine(uda("list")).out
    root = Path(cli.__file__).parents[2]
    for folder in ("pipelines", "datasets"):
        for path in (root / folder).glob("*.yaml"):
            assert re.search(rf"^  {re.escape(path.stem)} +\S", listed, re.MULTILINE)
    assert listed.startswith("recipes\n")
    assert "\ncards\n" in listed


def test_list_goes_on_after_a_bad_file_and_shows_names_as_codes(uda: Uda) -> None:
    Path("pipelines").mkdir()
    Path("pipelines/bad.yaml").write_text("[1")
    Path("pipelines/turned.yaml").write_text("title: a\u202eb\n", encoding="utf-8")
    listed = fine(uda("list")).out
    assert re.search(r"^  bad +cannot be read as YAML", listed, re.MULTILINE)
    assert re.search(r"^  turned +a\\u202eb$", listed, re.MULTILINE)
    assert "\ncards\n" in listed


def test_check_passes_a_sound_card_and_lists_every_fault_of_another(uda: Uda, tiny: Tiny) -> None:
    card = tiny.home / "target.yaml"
    sound = fine(uda("check", card, "--root", tiny.root))
    assert "no faults" in sound.out
    assert "32×32×4" in sound.out

    (tiny.root / "t" / "images" / "c0.nii.gz").write_bytes(b"not an image")
    (tiny.root / "t" / "tags.csv").write_text("case,slice,disk\n")
    faulty = uda("check", card, "--root", tiny.root)
    assert faulty.code == 2
    assert "2 fault(s)" in faulty.out
    assert "1. " in faulty.err
    assert "c0.nii.gz" in faulty.err
    assert "tags.csv" in faulty.err
    assert "Traceback" not in faulty.err


def test_check_shows_the_first_of_many_faulty_cases(uda: Uda, tiny: Tiny, tmp_path: Path) -> None:
    card = yaml.safe_load((tiny.home / "target.yaml").read_text())
    card["splits"] = {"adapt": [f"gone{number}" for number in range(60)]}
    del card["tags"]
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    faulty = uda("check", tmp_path / "card.yaml", "--root", tiny.root)
    assert faulty.code == 2
    assert "the first 50 of 60 faulty cases" in faulty.out
    assert "gone49 " in faulty.out
    assert "gone50 " not in faulty.out
    assert "60 fault(s)" in faulty.out


def test_a_deleted_current_folder_is_told(uda: Uda) -> None:
    Path.cwd().rmdir()
    ended = uda("check", "phantom_ct")
    assert ended.code == 2
    assert "the current folder does not exist any more" in ended.err


@pytest.mark.parametrize("empty", [("--out", ""), ("--out=",)])
def test_an_empty_path_is_not_the_current_folder(uda: Uda, tiny: Tiny, empty: tuple[str]) -> None:
    ended = uda("check", tiny.home / "target.yaml", "--root", tiny.root, *empty)
    assert ended.code == 2
    assert "--out is empty" in ended.err
    assert list(Path.cwd().iterdir()) == []


def test_a_seed_given_twice_is_refused_before_the_run(uda: Uda) -> None:
    ended = uda("run", "cardiac_phantom", "--seeds", "0,1,0")
    assert ended.code == 2
    assert "names a seed twice" in ended.err
    assert list(Path.cwd().iterdir()) == []


def test_a_seed_that_no_record_can_hold_is_refused_before_the_training(
    uda: Uda, tmp_path: Path
) -> None:
    ended = uda("adapt", "--model", "m", "--target", "t", "--seed", 2**63, "--out", "o")
    assert ended.code == 2
    assert f"seed is {2**63}" in ended.err
    assert uda("show", "cardiac_phantom", f"seed={2**63}").code == 2


# Recipes -------------------------------------------------------------------------------------------


def on_tiny(tiny: Tiny) -> list[str]:
    """Arguments of a verb that works on the tiny recipe in ``run``."""
    return [tiny.recipe, *tiny.overrides, LAST, "--out", "run", "--device", "cpu"]


def test_run_prints_the_table_and_where_the_report_is(uda: Uda, tiny: Tiny) -> None:
    arguments = ("run", *on_tiny(tiny), "--quiet")
    first = fine(uda(*arguments))
    for row in ("source_only", "adabn", "minent", "adami_tags"):
        assert row in first.out
    assert "report: run/report/report.html" in first.out
    assert Path("run/report/report.html").is_file()
    assert "pretrain                 …" in first.err
    second = fine(uda(*arguments))
    assert second.out == first.out
    assert second.err == ""

    report = fine(uda("report", "run", "--out", "page"))
    assert Path("page/report.html").is_file()
    assert "report: page/report.html" in report.out
    assert fine(uda("evaluate", *on_tiny(tiny))).out == first.out


def test_run_with_seeds_makes_a_folder_for_each_and_their_mean(
    uda: Uda, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uda.pipeline.plan.write_report", lambda run, out: None)
    arguments = ("run", *on_tiny(tiny), "--quiet")
    told = fine(uda(*arguments, "--seeds", "0,1"))
    made = [path.name for path in Path("run").iterdir()]
    assert sorted(made) == [".uda-files", "seed-0", "seed-1", "seeds.json"]
    assert "over seeds: run/seeds.json" in told.out
    for seed in (0, 1):
        stage = json.loads(Path(f"run/seed-{seed}/pretrain/stage.json").read_text())
        assert stage["settings"]["seed"] == seed
    told_again = fine(uda("report", "run/seed-0", "run/seed-1"))
    for row in ("source_only", "adabn", "minent", "adami_tags"):
        assert row in told.out
        assert row in told_again.out


def test_default_folder_is_named_after_the_recipe(uda: Uda, tiny: Tiny) -> None:
    fine(uda("pretrain", tiny.recipe, *tiny.overrides, "--device", "cpu", "--quiet"))
    assert Path("checkpoints/tiny/pretrain/model.safetensors").is_file()


def test_adapt_only_runs_one_variant(uda: Uda, tiny: Tiny) -> None:
    common = (tiny.recipe, *tiny.overrides, "--out", "run", "--device", "cpu", "--quiet")
    fine(uda("adapt", *common, "--only", "minent", "--allow-fallback"))
    assert Path("run/adapt-minent").is_dir()
    assert not Path("run/adapt-adami_tags").exists()
    fine(uda("prior", *common))
    assert {p.name for p in Path("run").glob("prior-*")} == {"prior-ratio", "prior-tags"}


# A model and a folder of images --------------------------------------------------------------------


def test_adapt_a_model_to_a_folder_without_recipe_or_source(
    uda: Uda, tiny: Tiny, trained: Path
) -> None:
    images = tiny.root / "t" / "images"
    arguments = ("adapt", "--model", trained, "--target", images, "--method", "adami")
    arguments = (
        *arguments,
        "--set",
        "steps=4",
        "--set",
        "select=last",
        "--out",
        "mine",
        "--device",
        "cpu",
        "--quiet",
    )
    for folder in (tiny.root / "s", tiny.root / "t" / "labels"):
        folder.rename(folder.with_name("hidden"))
    assert "adapted model: mine/model.safetensors" in fine(uda(*arguments)).out
    before = {path: path.stat().st_mtime_ns for path in Path("mine").rglob("*")}
    assert Path("mine/model.safetensors") in before
    assert fine(uda(*arguments)).out.startswith("adapted model: mine/model.safetensors\n")
    assert {path: path.stat().st_mtime_ns for path in Path("mine").rglob("*")} == before
    assert (
        Path("mine/model.safetensors").read_bytes() != (trained / "model.safetensors").read_bytes()
    )


def test_prior_of_a_model_from_its_labels_from_tags_and_from_volumes(
    uda: Uda, tiny: Tiny, trained: Path
) -> None:
    images, tags = tiny.root / "t" / "images", tiny.root / "t" / "tags.csv"
    voxels_ml = SIZE * SIZE * SLICES * 1.5 * 1.5 * 4 / 1000
    disk, ring = f"sizes_ml.disk={voxels_ml / 4}", f"sizes_ml.ring={voxels_ml / 8}"
    kinds: dict[str, tuple[object, ...]] = {
        "own": (),
        "tags": ("--kind", "target_tags", "--tags", tags),
        "ml": ("--kind", "sizes_ml", "--set", disk, "--set", ring, "--target", images),
    }
    made = {}
    for name, options in kinds.items():
        told = fine(uda("prior", "--model", trained, *options, "--out", f"{name}.json")).out
        assert told.startswith(f"{name}.json: background ")
        made[name] = json.loads(Path(f"{name}.json").read_text())
    assert made["own"]["supervision"] == ["source_labels"]
    assert "target_tags" in made["tags"]["supervision"]
    assert made["ml"]["supervision"] == ["anatomical"]
    np.testing.assert_allclose(made["ml"]["ratio"], [5 / 8, 1 / 4, 1 / 8], rtol=1e-5)


def settings(*pairs: str) -> list[str]:
    return [word for pair in pairs for word in ("--set", pair)]


def test_prior_of_a_model_of_every_other_kind(uda: Uda, tiny: Tiny, trained: Path) -> None:
    images, card = tiny.root / "t" / "images", tiny.home / "source.yaml"
    tags = tiny.root / "t" / "tags.csv"
    tags.write_text(tags.read_text() + "".join(f"c2,{s},1,1\n" for s in range(SLICES)))
    lines = [f"c{case}_{s};[1000, 20, 4]" for case in range(3) for s in range(SLICES)]
    (tiny.root / "sizes.csv").write_text("\n".join(["val_ids;gt", *lines]) + "\n")
    domains = ("--source", card, "--root", tiny.root)
    kinds: dict[str, tuple[tuple[object, ...], str]] = {
        "mm2": (("areas_mm2", *settings("areas_mm2.disk=576", "areas_mm2.ring=288")), "anatomical"),
        "predicted": (("predicted", *settings("per_image=true")), "none"),
        "sizes": (
            ("size_csv", *settings(f"file={tiny.root / 'sizes.csv'}", "column=gt")),
            "target_sizes",
        ),
        "nearest": (("image_level", *domains), "source_labels"),
        "logistic": (("image_level", *settings("method=logistic"), *domains), "source_labels"),
        "ridge": (("image_level", *settings("method=ridge", "l2=0.1"), *domains), "source_labels"),
        "cam": (("cam", *settings("min_accuracy=0"), "--tags", tags), "source_labels, target_tags"),
        "landmarks": (("landmarks", *settings("segments=9"), *domains), "source_labels"),
        "spatial": (("spatial", *settings("sigma=1"), *domains), "source_labels"),
    }
    for name, (options, told) in kinds.items():
        target = () if name == "spatial" else ("--target", images)
        arguments = ("prior", "--model", trained, "--out", f"{name}.json", *target)
        arguments = (*arguments, "--kind", *options)
        printed = fine(uda(*arguments, "--device", "cpu")).out
        assert re.fullmatch(
            rf"{name}\.json: background [\d.]+, disk [\d.]+, ring [\d.]+ \({told}\)\n", printed
        )
        made = Prior.load(Path(f"{name}.json")).validate(CLASSES)
        assert (made.images is None) == (name in ("mm2", "spatial"))
    np.testing.assert_allclose(Prior.load(Path("mm2.json")).ratio, [5 / 8, 1 / 4, 1 / 8])
    assert {path.name for path in Path().glob("spatial.*")} == {
        "spatial.json",
        "spatial.safetensors",
        "spatial.png",
    }


def test_prior_of_a_recipe_prints_each_with_its_supervision(uda: Uda, tiny: Tiny) -> None:
    told = fine(uda("prior", tiny.recipe, *tiny.overrides, "--out", "run", "--device", "cpu")).out
    first, second = told.splitlines()
    assert first.startswith("run/prior-ratio/prior.json: background ")
    assert first.endswith("(source_labels)")
    assert second.startswith("run/prior-tags/prior.json: background ")
    assert second.endswith("(source_labels, target_tags)")


def test_predict_writes_label_maps_once_and_names_a_bad_case(
    uda: Uda, tiny: Tiny, trained: Path
) -> None:
    images = tiny.root / "t" / "images"
    arguments = ("predict", "--model", trained, "--images", images, "--out", "labels")
    told = fine(uda(*arguments, "--device", "cpu"))
    assert len(list(Path("labels").glob("*.nii.gz"))) == 3
    assert "(already there)" not in told.out
    assert fine(uda(*arguments, "--device", "cpu")).out.count("(already there)") == 3

    (images / "broken.nii.gz").write_bytes(b"not an image")
    faulty = uda(*arguments, "--device", "cpu")
    assert faulty.code == 2
    assert "broken" in faulty.err
    assert "1 case(s) failed" in faulty.err
    assert "Traceback" not in faulty.err
    assert faulty.out.count("(already there)") == 3


def test_predict_does_not_call_failed_cases_trusted(
    uda: Uda, tmp_path: Path, trained: Path
) -> None:
    (tmp_path / "bad").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "bad" / f"{name}.nii.gz").write_bytes(b"not an image")
    arguments = ("predict", "--model", trained, "--images", tmp_path / "bad", "--out", "labels")
    told = uda(*arguments, "--device", "cpu")
    assert told.code == 2
    assert "no case was predicted" in told.err
    assert "3 case(s) failed" in told.err
    assert "0 of" not in told.err
    page = Path("labels/report.html").read_text(encoding="utf-8")
    assert "No case was predicted: all 3 failed." in page
    write_nifti(tmp_path / "bad" / "a.nii.gz", make_case(0, True)[0])
    told = uda(*arguments, "--device", "cpu")
    assert "of 1 predicted case(s) not to be trusted" in told.err
    assert "2 case(s) failed" in told.err
    assert "2 of them failed" in Path("labels/report.html").read_text(encoding="utf-8")


def test_label_maps_beside_images_are_refused_by_every_verb(
    uda: Uda, tiny: Tiny, trained: Path
) -> None:
    images = tiny.root / "t" / "images"
    write_nifti(images / "c0_seg.nii.gz", make_case(0, True)[1])
    for verb, given in (("adapt", "--target"), ("predict", "--images"), ("prior", "--target")):
        more = ("--kind", "predicted") if verb == "prior" else ()
        told = uda(
            verb, "--model", trained, given, images, *more, "--out", "new", "--device", "cpu"
        )
        assert told.code == 2, told
        assert "1 of 4 files" in told.err
        assert "c0_seg.nii.gz" in told.err
        assert not Path("new").exists()
        pattern = told.err.rpartition("quotes: '")[2].partition("'")[0]
        assert pattern == f"{images}/c?.nii.gz"
    fine(uda("predict", "--model", trained, "--images", pattern, "--out", "new", "--device", "cpu"))


def test_predict_ends_its_work_when_nobody_reads_what_it_prints(
    uda: Uda, tiny: Tiny, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = io.TextIOWrapper(io.FileIO(writer, "w"), line_buffering=True, write_through=True)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, stream)
        monkeypatch.setattr(sys, f"__{name}__", stream)
    images = tiny.root / "t" / "images"
    arguments = ("predict", "--model", trained, "--images", images, "--out", "labels")
    assert uda(*arguments, "--device", "cpu").code == 0
    assert len(list(Path("labels").glob("*.nii.gz"))) == 3
    assert Path("labels/report.html").is_file()


def test_evaluate_a_model_on_a_card(uda: Uda, tiny: Tiny, trained: Path) -> None:
    card = tiny.home / "target.yaml"
    arguments = ("evaluate", "--model", trained, "--card", card, "--root", tiny.root)
    told = fine(uda(*arguments, "--out", "scored", "--device", "cpu"))
    metrics = json.loads(Path("scored/evaluate/metrics.json").read_text())
    assert [row["name"] for row in metrics["rows"]] == ["model"]
    assert metrics["data"]["cases"] == 1
    assert "disk" in told.out
    assert "ring" in told.out


# Bad input -----------------------------------------------------------------------------------------


def test_unknown_recipe_proposes_the_nearest(uda: Uda) -> None:
    names = [path.stem for path in (Path(cli.__file__).parents[2] / "pipelines").glob("*.yaml")]
    assert names
    refused(uda("run", names[0][:-1]), f"no recipe {names[0][:-1]!r}", "did you mean")


def test_unknown_key_of_an_override_proposes_the_nearest(uda: Uda, tiny: Tiny) -> None:
    told = ("'adapt.minent.step=4'", "did you mean 'steps'?")
    refused(uda("run", tiny.recipe, "adapt.minent.step=4"), *told)


def edited(tiny: Tiny, change: Callable[[dict[str, Any]], object]) -> str:
    raw = yaml.safe_load(Path(tiny.recipe).read_text())
    change(raw)
    Path(tiny.recipe).write_text(yaml.safe_dump(raw))
    return tiny.recipe


def test_unknown_key_of_a_recipe_proposes_the_nearest(uda: Uda, tiny: Tiny) -> None:
    recipe = edited(tiny, lambda raw: raw["pretrain"].update(batchsize=4))
    refused(uda("run", recipe), "'pretrain.batchsize'", "did you mean 'batch'?", recipe)


def test_wrong_type_names_key_value_and_expectation(uda: Uda, tiny: Tiny) -> None:
    refused(uda("run", tiny.recipe, "pretrain.steps=many"), "pretrain.steps: got 'many'", "integer")


def test_several_faults_are_listed_at_once(uda: Uda, tiny: Tiny) -> None:
    def damage(raw: dict[str, Any]) -> None:
        raw["pretrain"].update(batchsize=4, lr="fast")
        raw["seed"] = -1
        del raw["title"]

    told = ("4 faults", "'title' is missing", "seed: got -1", "'pretrain.batchsize'", "pretrain.lr")
    refused(uda("run", edited(tiny, damage)), *told)


def test_several_faulty_overrides_are_listed_at_once(uda: Uda, tiny: Tiny) -> None:
    told = ("2 faults", "'sed=1'", "did you mean 'seed'?", "'steps' is not key=value")
    refused(uda("run", tiny.recipe, "sed=1", "steps"), *told)


def test_missing_card_is_named(uda: Uda, tiny: Tiny) -> None:
    (tiny.home / "target.yaml").unlink()
    refused(uda("run", tiny.recipe, *tiny.overrides), "no card", str(tiny.home / "target.yaml"))


def test_missing_data_leave_no_folder(uda: Uda, tiny: Tiny) -> None:
    told = ("no such folder of data", "nowhere")
    refused(uda("run", tiny.recipe, "data.root=nowhere", "--device", "cpu", "--out", "run"), *told)


def test_a_folder_of_somebody_else_is_never_replaced(uda: Uda, tiny: Tiny, trained: Path) -> None:
    theirs = tiny.root / "theirs"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("years of work")
    arguments = ("adapt", "--model", trained, "--target", tiny.root / "t" / "images")
    told = ("uda did not write", str(theirs), "another --out")
    refused(uda(*arguments, "--out", theirs, "--device", "cpu"), *told)
    assert (theirs / "thesis.txt").read_text() == "years of work"
    assert list(theirs.iterdir()) == [theirs / "thesis.txt"]


def test_missing_device_is_refused_before_anything_is_written(
    uda: Uda, tiny: Tiny, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    told = ("device 'cuda'", "use --device auto")
    refused(uda("run", tiny.recipe, *tiny.overrides, "--device", "cuda"), *told)
    mine = ("--model", trained, "--device", "cuda", "--out", "mine")
    refused(uda("adapt", *mine, "--target", tiny.root / "t" / "images"), *told)
    refused(uda("predict", *mine, "--images", tiny.root / "t" / "images"), *told)
    card = ("--card", tiny.home / "target.yaml", "--root", tiny.root)
    refused(uda("evaluate", *mine, *card), *told)


def test_unknown_device_method_and_setting_are_refused(uda: Uda, tiny: Tiny, trained: Path) -> None:
    refused(uda("run", tiny.recipe, *tiny.overrides, "--device", "tpu"), "compute.device", "'tpu'")
    mine = ("adapt", "--model", trained, "--target", tiny.root / "t" / "images", "--out", "mine")
    refused(uda(*mine, "--method", "adam"), "did you mean 'adami'?")
    refused(uda(*mine, "--method", "adami", "--set", "step=4"), "did you mean 'steps'?")


def test_a_model_that_is_a_pickle_is_never_opened(uda: Uda, tiny: Tiny, tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    model.write_bytes(b"\x80\x04K\x01.")
    images = tiny.root / "t" / "images"
    refused(uda("adapt", "--model", model, "--target", images), "is a pickle", str(model))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["adapt"], "give a recipe, or --model and --target"),
        (["prior"], "give a recipe, or --model"),
        (["evaluate"], "give a recipe, or --model and --card"),
        (["adapt", "--model", "m"], "--model needs --target"),
        (["evaluate", "--model", "m"], "--model needs --card"),
        (["prior", "r", "--model", "m"], "give a recipe or --model, not both"),
        (["prior", "r", "--kind", "spatial"], "--kind is for --model"),
        (["prior", "r", "--set", "sigma=1"], "--set is for --model"),
        (["prior", "r", "--target", "t"], "--target is for --model"),
        (["runn"], "No such command"),
        (["run"], "Missing argument"),
    ],
)
def test_incomplete_command_says_what_is_missing(uda: Uda, arguments: list[str], told: str) -> None:
    ended = uda(*arguments)
    assert ended.code == 2
    assert told in ended.err
    assert "Traceback" not in ended.err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--kind sizes_ml --set sizes_ml.disk", "'sizes_ml.disk' is not key=value"),
        ("--kind areas_mm2 --set areas_mm2.disk=big", "areas_mm2.disk: got 'big'"),
        ("--kind areas_mm2 --set areas_mm2.disk=big", "valid number"),
        ("--kind sizes_ml --set sizes_ml.a=1 --tags t", "'sizes_ml' does not use --tags"),
        ("--kind image_level --set method=nearest --set method=ridge", "gives 'method' twice"),
        ("--kind sizes_ml --set sizes_ml=5 --set sizes_ml.a=1", "gives 'sizes_ml.a' twice"),
        ("--source c", "fix:      say with --kind what to make of it, or leave --source out"),
        ("--target t", "--kind with one of cam, sizes_ml, areas_mm2, predicted, image_level"),
        ("--kind predicted --root r", "'predicted' does not use --root"),
        ("--kind spatail", "there is no kind of prior 'spatail'"),
        ("--kind spatail", "did you mean 'spatial'? valid: areas_mm2, cam, image_level"),
        ("--kind spatial --set sigm=2", "'spatial' has no setting 'sigm'"),
        ("--kind spatial --set sigm=2", "did you mean 'sigma'?"),
        ("--kind image_level --set method=forest", "'nearest', 'logistic' or 'ridge'"),
        ("--kind sizes_ml", "expected: --set sizes_ml.STRUCTURE=NUMBER"),
        ("--kind size_csv", "expected: --set file=FILE --set column=COLUMN"),
        ("--kind size_csv --set file=f", "expected: --set column=COLUMN"),
        ("--kind sizes_ml --set size_ml.a=1", "did you mean 'sizes_ml'?"),
        ("--kind sizes_ml --set size_ml.a=1", "2 faults in --set"),
        ("--set sizes_ml.a=1", "fix:      use --kind sizes_ml"),
    ],
)
def test_a_prior_that_cannot_be_made_says_what_to_change(uda: Uda, words: str, told: str) -> None:
    refused(uda("prior", "--model", "m", *words.split()), told)


def test_a_prior_without_its_images_tags_or_source_names_the_option(
    uda: Uda, trained: Path
) -> None:
    for kind, option in {
        "target_tags": "--tags FILE",
        "cam": "--target FOLDER",
        "predicted": "--target FOLDER",
        "spatial": "--source CARD",
    }.items():
        refused(uda("prior", "--model", trained, "--kind", kind), repr(kind), option)


def test_help_of_prior_describes_every_kind_by_its_docstring(uda: Uda) -> None:
    shown = fine(uda("prior", "--help")).out
    for name, kind in KINDS.items():
        assert kind.__doc__
        summary = kind.__doc__.splitlines()[0]
        assert re.search(rf"{name} +{re.escape(summary)}", shown)
        for setting in kind.model_fields.keys() - {"kind"}:
            assert re.search(rf" {setting}[=.]", shown)


def test_version_is_that_of_the_package(uda: Uda) -> None:
    assert fine(uda("--version")).out == f"uda {__version__}\n"


def test_help_states_the_exit_codes(uda: Uda) -> None:
    codes = re.findall(r"^ +(\d+)  \S", fine(uda("--help")).out, re.MULTILINE)
    assert codes == ["0", "1", "2", "3", "130", "143"]


def test_the_shell_completes_verbs(tmp_path: Path) -> None:
    asked = {"_UDA_COMPLETE": "complete_bash", "COMP_WORDS": "uda pre", "COMP_CWORD": "1"}
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.argv[0] = 'uda'; from uda.cli.main import main; main()",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **asked},
    )
    assert result.stdout.split() == ["pretrain", "predict"], result.stderr


def test_seeds_that_are_no_numbers_are_refused(uda: Uda, tiny: Tiny) -> None:
    ended = uda("run", tiny.recipe, *tiny.overrides, "--seeds", "0,one")
    assert ended.code == 2
    assert "expected numbers such as 0,1,2" in ended.err
    assert list(Path().iterdir()) == []


# Failures ------------------------------------------------------------------------------------------


def test_a_run_that_fails_exits_with_1_and_a_message(uda: Uda, tiny: Tiny) -> None:
    ended = uda(
        "pretrain", tiny.recipe, *tiny.overrides, "pretrain.lr=1e30", "--device", "cpu", "--quiet"
    )
    assert ended.code == 1
    assert "error: the loss became" in ended.err
    assert "Traceback" not in ended.err


def test_a_fault_of_ours_exits_with_1_and_a_message(
    uda: Uda, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(kind: str) -> dict[str, Path]:
        raise ZeroDivisionError("of our own\nerror: fake")

    monkeypatch.setattr("uda.config.loading.available", broken)
    ended = uda("list")
    assert ended.code == 1
    assert "unexpected ZeroDivisionError: of our own\\nerror: fake\n" in ended.err
    assert "UDA_DEBUG=1" in ended.err
    assert "Traceback" not in ended.err
    monkeypatch.setenv("UDA_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        uda("list")


def test_an_interrupt_exits_with_130(uda: Uda, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(kind: str) -> dict[str, Path]:
        raise KeyboardInterrupt

    monkeypatch.setattr("uda.config.loading.available", interrupted)
    ended = uda("list")
    assert ended.code == 130


def test_words_of_a_stage_and_of_a_record_are_printed_without_invisible_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {"fallback": True, "kept": "source", "why": "x\u202egpj"}
    (tmp_path / "stage.json").write_text(json.dumps({"selection": kept}))
    exit_on_fallback([tmp_path], allowed=True)
    flag = Flag("intensity", "intensity_p5", 9.0, 1.0, 2.0, "1 to 2", "in training\u202e", "look")
    _print_doubtful([Outcome("case", tmp_path / "case.nii.gz", flags=(flag,))], tmp_path)
    printed = capsys.readouterr().err
    assert printed.count("\\u202e") == 2
    assert "\u202e" not in printed
