"""docs/extending.md, made and run as printed in a copy of the package: its lines suffice."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
COPIED = ("uda", "pipelines", "datasets", "benchmarks", "tests/losses", "tests/training/parts")
FOLLOWED = (
    "A loss and its term",
    "A network",
    "A file format",
    "A score",
    "A method",
)
FEW = ["pretrain.steps=2", "pretrain.batch=2", "sources={}"]
FEW += ["adapt.*.steps=2", "adapt.*.batch=2"]
SHORT = {
    "run": [
        *FEW,
        *("network.channels=[4,8]", "adapt.*.guard.images=4", "evaluate.distances=false"),
    ],
    "pretrain": FEW,
    "adapt": [*("--set", "steps=2"), *("--set", "batch=2"), *("--set", "guard.images=4")],
}


def blocks(section: str) -> list[tuple[str, str]]:
    """Language and text of the code of a section, in order."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def change(checkout: Path, text: str) -> None:
    """Apply changes to one file: what is there already stands in it once, hunk by hunk."""
    head, _, body = text.partition("\n")
    path = checkout / head.removeprefix("--- ")
    content = path.read_text(encoding="utf-8")
    for hunk in body.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        assert content.count(before) == 1, (path, before)
        content = content.replace(before, "".join(line[1:] for line in lines if line[0] in " +"))
    path.write_text(content, encoding="utf-8")


def python(checkout: Path, *arguments: str, cwd: Path | None = None) -> str:
    """Run Python on the copy's package; what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout


FOLLOW = """
import json, sys
from typer.testing import CliRunner
import uda
from uda.cli.main import app
print(uda.__file__)
for step in json.loads(sys.argv[1]):
    if isinstance(step, str):
        exec(step, {})
    else:
        result = CliRunner().invoke(app, step, catch_exceptions=False)
        assert result.exit_code == 0, (step, result.output)
"""


def prepared(checkout: Path, section: str) -> list[str | list[str]]:
    """Make a section's changes and files; what it runs: Python, or words for ``uda``."""
    steps: list[str | list[str]] = []
    for language, text in blocks(section):
        named = re.match(r"# (\S+)\n", text)
        if language == "diff":
            change(checkout, text)
        elif named:
            (Path() if language == "yaml" else checkout).joinpath(named[1]).write_text(text)
        elif language == "python":
            steps.append(text)
        else:
            lines = [shlex.split(line)[1:] for line in text.splitlines()]
            steps += [[*words, *SHORT.get(words[0], [])] for words in lines]
    return steps


@pytest.mark.usefixtures("few_people")
def test_what_the_page_adds_works(tmp_path: Path) -> None:
    checkout, home = tmp_path / "checkout", Path("checkpoints")
    for name in COPIED:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, checkout / name, ignore=ignored)
    steps = [step for section in FOLLOWED for step in prepared(checkout, section)]
    where = python(checkout, "-c", FOLLOW, json.dumps(steps))
    assert Path(where.strip()).is_relative_to(checkout)
    logged = home / "short_borders" / "adapt-short_borders" / "metrics.csv"
    assert "total_variation" in logged.read_text()
    assert b"plain" in (home / "plain" / "pretrain" / "model.safetensors").read_bytes()
    assert Path("masks/1003.nii.gz").is_file()
    assert '"margin": 0.' in (home / "judged" / "stage.json").read_text()
    assert '"total_variation"' in (home / "named" / "stage.json").read_text()

    # what the project's own tests say of the new loss
    chosen = [*("-q", "--jaxtyping-packages=uda.losses,beartype.beartype"), "-k", "total_variation"]
    files = ["tests/losses/test_every_loss.py", "tests/training/parts/test_assembly.py"]
    files += ["--doctest-modules", "uda/losses/total_variation.py"]
    shown = python(checkout, "-m", "pytest", *chosen, *files, cwd=checkout)
    assert re.search(r"\b2\d passed", shown), shown


def test_every_section_is_followed_but_the_one_without_code() -> None:
    sections = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    assert [name for name in sections if not blocks(name)] == ["A prior"]
    assert [name for name in sections if blocks(name)] == list(FOLLOWED)


def test_files_the_page_names_are_there() -> None:
    named = set(re.findall(r"`((?:uda|tests|benchmarks|docs)/[\w/]+\.(?:py|md))`", PAGE))
    new = set(re.findall(r"^# (\S+\.py)$", PAGE, re.MULTILINE))
    assert len(named) > 10
    assert [name for name in sorted(named - new) if not (ROOT / name).is_file()] == []
