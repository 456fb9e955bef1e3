"""The README's commands run as printed, in its order, on few people and with a few training steps."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from uda.cli.main import app

README = Path(__file__).parents[2] / "README.md"
STREET = ["pretrain.steps=2", "adapt.*.steps=2", "network.stride=16"]
STREET += [f"data.streets.{key}" for key in ("source=4", "target=4", "test=2")]
FEW = ["--set", "steps=2", "--set", "guard.images=8", "--allow-fallback"]
SHORT = [
    *("pretrain.steps=2", "adapt.*.steps=2", "evaluate.distances=false"),
    *("adapt.ratio_teacher.guard.images=8", "--allow-fallback"),
]


def commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", README.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("uda ")]


@pytest.mark.usefixtures("few_people")
def test_every_command_of_the_readme_runs() -> None:
    runner = CliRunner()
    demo = runner.invoke(app, ["run", "cardiac_phantom", *SHORT, "--quiet"], catch_exceptions=False)
    assert demo.exit_code == 0, demo.output
    assert "target_supervised" in demo.output
    listed = commands()
    assert {words[0] for words in listed} >= {
        "adapt",
        "predict",
        "run",
        "check",
        "evaluate",
        "report",
    }
    for words in listed:
        recipe = words[1] if words[0] == "run" else ""
        short = {"cardiac_phantom": SHORT, "street_phantom": STREET}.get(recipe, [])
        if words[:2] == ["adapt", "--model"]:
            short = FEW
        result = runner.invoke(app, [*words, *short], catch_exceptions=False)
        assert result.exit_code == 0, (words, result.output)


def test_files_the_readme_links_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []


def test_make_targets_of_the_readme_exist() -> None:
    targets = re.findall(r"^make (\w+)", README.read_text(), re.MULTILINE)
    makefile = (README.parent / "Makefile").read_text()
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
