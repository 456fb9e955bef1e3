"""Killed between two file operations of whatever runs, the same command ends as if nothing had happened."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import make_tiny
from fault_injection import ORDER, Work, command_works, killed_at, rendering_work, stage_works

COMMANDS = ("adapt --model", "predict", "import", "convert")
NAMES = (*ORDER, "rendering", *COMMANDS)
TIMES = 2
"""of some tens; `python benchmarks/faults.py` takes them all"""


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Work]]:
    home = tmp_path_factory.mktemp("moments")
    tiny = make_tiny(home)
    made = [*stage_works(tiny, home), rendering_work(home)]
    made += command_works(tiny, home, home / "straight" / "pretrain" / "model.safetensors")
    return {work.name: work for work in made}


@pytest.mark.parametrize("name", NAMES)
def test_a_kill_at_any_moment_loses_nothing(
    works: dict[str, Work], name: str, tmp_path: Path
) -> None:
    work, draw = works[name], random.Random(name)  # noqa: S311
    work.place(tmp_path / "straight")
    (tmp_path / "straight").mkdir(exist_ok=True)
    assert work.life(tmp_path / "straight") == 0
    expected = work.found(tmp_path / "straight")
    assert expected or name == "report"
    at = [draw.randint(2, 9), draw.randint(10, 18)][:TIMES]
    assert [killed_at(work, tmp_path / "killed", moment, expected) for moment in at] == [
        "exact"
    ] * 2
