"""The tutorials run as printed, on few people, small slices and a few training steps; the README draws the reports."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from uda.cli.main import app

QUICK = [
    *("--set", "steps=2"),
    *("--set", "batch=2"),
    *("--set", "guard.images=4"),
    "--allow-fallback",
]
TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
SHORT = [
    "pretrain.steps=2",
    "pretrain.batch=2",
    "sources.*.steps=2",
    "sources.*.batch=2",
    "adapt.*.steps=2",
    "adapt.*.batch=2",
    "network.channels=[4,8,16]",
    "evaluate.distances=false",
]
SHORT_3D = [*SHORT, "network.patch=[8,32,32]"]
PEOPLE = "range(1001, 1021)"


def blocks(name: str) -> list[tuple[str, str]]:
    """The tutorial's code in order: language and text."""
    text = (TUTORIALS / f"{name}.md").read_text()
    return re.findall(r"```(sh|python)\n(.*?)```", text, re.DOTALL)


def follow(name: str, replace: dict[str, str], short: dict[str, list[str]]) -> list[str]:
    """Run a tutorial; returns its verbs."""
    verbs, names = [], dict[str, Any]()
    assert all(any(old in text for _, text in blocks(name)) for old in replace)
    for language, text in blocks(name):
        for old, new in replace.items():
            text = text.replace(old, new)
        if language == "python":
            exec(compile(text, f"{name}.md", "exec"), names)  # noqa: S102
            continue
        for line in text.splitlines():
            words = shlex.split(line)
            assert words[0] == "uda", line
            extra = short.get(words[2], []) if words[1] in ("run", "adapt") else []
            if words[1:3] == ["adapt", "--model"] and "adabn" not in words:
                extra = QUICK
            result = CliRunner().invoke(app, [*words[1:], *extra], catch_exceptions=False)
            assert result.exit_code == 0, (line, result.output)
            verbs.append(words[1])
    return verbs


@pytest.mark.usefixtures("few_people", "no_page")
def test_mr_to_ct() -> None:
    assert sum(PEOPLE in text for _, text in blocks("mr_to_ct")) == 1
    recipes = {
        line.split()[2]
        for _, text in blocks("mr_to_ct")
        for line in text.splitlines()
        if line.startswith("uda run")
    }
    short = {name: SHORT_3D if name.endswith("_3d") else SHORT for name in recipes}
    assert "cardiac_mr2ct_records" in short
    short = {k: v if k == "cardiac_mr2ct_records" else [*v, "sources={}"] for k, v in short.items()}
    verbs = follow("mr_to_ct", {PEOPLE: "[1001, 1002, 1003, 1010]"}, short)
    assert set(verbs) == {"check", "run", "tags", "convert"}
    assert (Path("checks/ct/index.html")).is_file()


@pytest.mark.usefixtures("few_people", "no_page")
def test_which_prior() -> None:
    few = {"--kind cam ": "--kind cam --set min_accuracy=0 "}
    verbs = follow("which_prior", few, {"cardiac_phantom": [*SHORT, "--allow-fallback"]})
    assert verbs.count("prior") == 7
    assert Path("priors/cam-seeds.png").is_file()
    assert Path("checkpoints/with-tags/model.safetensors").is_file()


@pytest.mark.usefixtures("few_people", "no_page")
def test_ten_minutes() -> None:
    from uda.cli.main import app as verbs_of

    demo = [*SHORT, "--allow-fallback", "--rows", "ratio_teacher", "--quiet"]
    made = CliRunner().invoke(verbs_of, ["run", "cardiac_phantom", *demo])
    assert made.exit_code == 0, made.output
    verbs = follow("ten_minutes", {}, {})
    assert verbs == ["suggest", "simulate", "check", "adapt", "predict", "evaluate"]
    assert "target_scribbles" in Path("checkpoints/clicked/stage.json").read_text()


STREETS = [
    *(
        "pretrain.steps=2",
        "pretrain.batch=2",
        "sources={}",
        "network.backbone=small",
        "network.stride=16",
    ),
    *("network.weights=none", "data.size=[64,96]", "compute.precision=32-true"),
]
ONE_METHOD = "adapt={im: {preset: im, select: last, steps: 2, batch: 2, lr: 1.0e-4}}"


@pytest.mark.usefixtures("no_page")
def test_gta5_to_cityscapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = {
        "game=64, camera_train=48, camera_val=16": "game=3, camera_train=5, camera_val=3",
        "--set steps=20": "--set steps=2 --set batch=2",
    }
    rendered = ["data.streets.source=4", "data.streets.target=4", "data.streets.test=2"]
    short = {
        "street_phantom": [*STREETS, *rendered, ONE_METHOD],
        "gta5_cityscapes": [*STREETS, ONE_METHOD, "prior={}"],
    }
    verbs = follow("gta5_to_cityscapes", few, short)
    assert set(verbs) == {"check", "run", "adapt", "predict", "evaluate"}
    assert list(Path("checkpoints/my-masks").glob("lindau_*.png"))
    assert Path("checks/gta5/index.html").is_file()


def test_my_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = {PEOPLE: "[1001]", "STEPS = 300": "STEPS = 3"}
    small = {"SIZE = 128": "SIZE = 64", "size: [128, 128]": "size: [64, 64]"}
    verbs = follow("my_model", few | small, {})
    assert set(verbs) == {"import", "adapt", "predict", "evaluate"}


def test_every_tutorial_is_run_and_linked() -> None:
    names = {path.stem for path in TUTORIALS.glob("*.md")}
    tested = {n.removeprefix("test_") for n in globals() if n.startswith("test_")}
    assert names <= tested
    readme = (TUTORIALS.parents[1] / "README.md").read_text()
    assert all(f"docs/tutorials/{name}.md" in readme for name in names)
