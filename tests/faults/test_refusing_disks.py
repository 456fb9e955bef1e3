"""A disk that is full, read-only or in the way: one message, exit code 1, and afterwards the same bits."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from conftest import Tiny
from fault_injection import Fault, command, contents, ended, hidden

VERBS = {"run": 320, "own": 25, "predict": 25, "convert": 9}
"""what is tried, and the largest step between two moments at which the disk is full"""
FINER = pytest.param("run", 80, marks=pytest.mark.campaign)


@pytest.fixture
def tiny_run(finished_once: Path) -> tuple[Tiny, Path]:
    """A world and a whole run of it."""
    return Tiny(finished_once / "home", finished_once / "data"), finished_once / "run"


def arguments(tiny: Tiny, run: Path, verb: str, out: Path) -> list[str]:
    model, images = str(run / "pretrain" / "model.safetensors"), str(tiny.root / "t" / "images")
    card = str(tiny.home / "source.yaml")
    if verb == "own":
        method = ["--method", "minent", "--set", "steps=2", "--set", "batch=2"]
        method += ["-q", "--allow-fallback"]
        given = ["adapt", "--model", model, "--target", images, *method, "--device=cpu"]
    elif verb == "predict":
        given = ["predict", "--model", model, "--images", images, "--device=cpu"]
    elif verb == "convert":
        given = ["convert", card, "--root", str(tiny.root)]
    else:
        given = [verb, tiny.recipe, *tiny.overrides, "--device=cpu", "-q", "--allow-fallback"]
    return [*given, f"--out={out}"]


def refused(errors: Path) -> None:
    told = errors.read_text()
    assert sum(line.startswith("error: ") for line in told.splitlines()) == 1, told
    assert "Traceback" not in told
    assert "fault of uda" not in told
    assert "fix:" in told


@pytest.mark.parametrize(("verb", "step"), [*VERBS.items(), FINER])
def test_a_disk_that_fills_up_at_any_moment_costs_nothing_that_was_complete(
    tiny_run: tuple[Tiny, Path], tmp_path: Path, verb: str, step: int
) -> None:
    tiny, run = tiny_run
    out, errors, straight = tmp_path / "on" / "out", tmp_path / "errors.txt", tmp_path / "straight"
    given = arguments(tiny, run, verb, out)
    out.parent.mkdir()
    if verb == "run":
        shutil.copytree(run, straight)
    else:
        assert ended(command, [*given, f"--out={straight}"], errors, Fault(straight)) == 0
    draw, at, refusals, before = random.Random(verb), 1, 0, dict[str, bytes]()  # noqa: S311
    while code := ended(command, given, errors, Fault(out.parent, at, "ENOSPC")):
        assert code == 1
        refused(errors)
        refusals += 1
        now = {n: c for n, c in contents(out).items() if not n.startswith(("store", "."))}
        assert before.items() <= now.items()
        before = now
        at += draw.randint(1, step)
    assert refusals >= 2
    assert contents(out) == contents(straight)
    assert hidden(out.parent) == []


@pytest.mark.parametrize("verb", VERBS)
def test_a_read_only_disk_is_one_message(
    tiny_run: tuple[Tiny, Path], tmp_path: Path, verb: str
) -> None:
    tiny, run = tiny_run
    out, errors = tmp_path / "on" / "out", tmp_path / "errors.txt"
    out.parent.mkdir()
    given = arguments(tiny, run, verb, out)
    assert ended(command, given, errors, Fault(out.parent, 1, "EROFS")) == 1
    refused(errors)
    assert list(out.parent.iterdir()) == []


def test_a_read_only_run_stays_as_it_is(tiny_run: tuple[Tiny, Path], tmp_path: Path) -> None:
    tiny, run = tiny_run
    out, errors = tmp_path / "out", tmp_path / "errors.txt"
    shutil.copytree(run, out)
    held = contents(out)
    given = [*arguments(tiny, run, "run", out), "adapt.minent.steps=5"]
    assert ended(command, given, errors, Fault(out, 1, "EROFS")) == 1
    refused(errors)
    assert contents(out) == held


@pytest.mark.parametrize("verb", VERBS)
def test_a_file_where_the_folder_should_be_is_one_message(
    tiny_run: tuple[Tiny, Path], tmp_path: Path, verb: str
) -> None:
    tiny, run = tiny_run
    errors, out = tmp_path / "errors.txt", tmp_path / "file" / "out"
    out.parent.write_text("not a folder")
    assert ended(command, arguments(tiny, run, verb, out), errors, Fault(out)) == 2
    assert "is no folder" in errors.read_text()
    assert out.parent.read_text() == "not a folder"
