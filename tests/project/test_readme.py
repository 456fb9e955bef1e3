"""The commands of README and of the pages of docs run as printed, on few people and with a few training steps."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from conftest import load_script
from typer.testing import CliRunner

import uda
from uda.cli.main import app

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *(ROOT / "docs" / f"{name}.md" for name in ("commands", "annotations", "recipes"))]
"""in the order in which they run; each goes on with what those before it made"""
ELSEWHERE = {"extending", "losses"}
"""pages of docs that have tests of their own"""
STREET = ["pretrain.steps=2", "sources.*.steps=2", "adapt.*.steps=2", "network.stride=16"]
STREET += [f"data.streets.{key}" for key in ("source=4", "target=4", "test=2")]
FEW = ["--set", "steps=2", "--set", "guard.images=8", "--allow-fallback"]
SHORT = [
    *("pretrain.steps=2", "sources.*.steps=2", "adapt.*.steps=2", "evaluate.distances=false"),
    "network.channels=[4,8,16]",
    *("adapt.ratio_teacher.guard.images=8", "--allow-fallback"),
]


def commands(page: Path) -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("uda ")]


@pytest.mark.usefixtures("few_people")
def test_every_command_of_readme_and_docs_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = CliRunner()
    demo = runner.invoke(app, ["run", "cardiac_phantom", *SHORT, "--quiet"], catch_exceptions=False)
    assert demo.exit_code == 0, demo.output
    assert "target_supervised" in demo.output
    listed = [words for page in PAGES for words in commands(page)]
    assert {words[0] for words in listed} >= {
        *("adapt", "predict", "run", "check", "evaluate", "report"),
        *("prior", "list", "show"),
    }
    for words in listed:
        recipe = words[1] if words[0] == "run" else ""
        short = {"cardiac_phantom": SHORT, "street_phantom": STREET}.get(recipe, [])
        if words[:2] == ["adapt", "--model"]:
            short = FEW
        result = runner.invoke(app, [*words, *short], catch_exceptions=False)
        assert result.exit_code == 0, (words, result.output)
    draw_concepts(Path("checkpoints/cardiac_phantom"), Path("pictures"), monkeypatch)


def draw_concepts(run: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures of the concepts can be drawn again from any run of the demo."""
    load_script(ROOT / "docs" / "make_concepts.py", monkeypatch).main(run, out)
    drawn = [path.name for path in sorted(out.iterdir())]
    text = (ROOT / "docs" / "concepts.md").read_text()
    assert sorted(re.findall(r"\]\(concepts/(\w+\.png)\)", text)) == drawn
    assert [path.name for path in sorted((ROOT / "docs" / "concepts").iterdir())] == drawn


def test_no_page_has_commands_that_nobody_runs() -> None:
    pages = [path for path in (ROOT / "docs").glob("*.md") if path.stem not in ELSEWHERE]
    assert [path.name for path in pages if commands(path) and path not in PAGES] == []


def test_make_targets_of_the_readme_exist() -> None:
    targets = re.findall(r"^make (\w+)", README.read_text(), re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert targets == ["setup", "demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_python_of_readme_and_docs_names_what_is_public() -> None:
    text = "".join(page.read_text() for page in PAGES)
    names = set(re.findall(r"\buda\.([a-z]\w*)(?=[(`])", text))
    assert names >= {"adapt", "evaluate", "load_recipe", "import_model"}
    assert names <= set(uda.__all__)
