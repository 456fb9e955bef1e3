"""Killed between two file operations of whatever runs, the same command ends as if nothing had happened."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from conftest import make_tiny
from fault_injection import (
    ORDER,
    Work,
    command_works,
    killed_at,
    moments,
    rendering_work,
    stage_works,
)

NAMES = (*ORDER, "rendering", "adapt --model", "predict", "import", "convert")
FEWEST = 12
"""file operations of the shortest of them"""


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Work]:
    home = tmp_path_factory.mktemp("moments")
    tiny = make_tiny(home)
    made = [*stage_works(tiny, home), rendering_work(home)]
    made += command_works(tiny, home, home / "straight" / "pretrain" / "model.safetensors")
    return {work.name: work for work in made}


@pytest.mark.parametrize("name", NAMES)
def test_a_kill_at_any_moment_loses_nothing(
    works: dict[str, Work], name: str, tmp_path: Path
) -> None:
    work = works[name]
    expected = work.expected(tmp_path / "straight")
    moment = random.Random(name).randint(2, FEWEST)  # noqa: S311
    assert killed_at(work, tmp_path / "killed", moment, expected) == "exact"


@pytest.mark.campaign
@pytest.mark.parametrize("name", NAMES)
def test_a_kill_at_every_seventh_moment_loses_nothing(
    works: dict[str, Work], name: str, tmp_path: Path
) -> None:
    """`python benchmarks/faults.py` takes every moment of each."""
    verdicts = dict(moments(works[name], tmp_path / "killed", every=7))
    assert verdicts
    assert set(verdicts.values()) == {"exact"}, verdicts
