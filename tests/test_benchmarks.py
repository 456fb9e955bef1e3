"""The benchmarks run on what their headers name; what they measure is not judged here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from uda.data.cases import cases_of
from uda.data.phantom import write_phantom
from uda.data.store import open_store
from uda.recipes import load_card

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("loop", FOLDER / "loop.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "loop", module)
    spec.loader.exec_module(module)
    return module


def test_loop_and_store_are_measured_on_the_phantom(loop: ModuleType, tmp_path: Path) -> None:
    card = load_card("phantom_mr")
    write_phantom(tmp_path, mr=[int(case) for case in card.splits["validate"]], ct=[])
    cases = cases_of(card, tmp_path, "validate", labels=True)
    store = open_store(card, cases, tmp_path / "store")
    row = loop.loop_lines(store, batch=1, blocks=1)[0]
    assert row.startswith("| loop, batch 1 of 96×96, 1 blocks of 20 steps | ")
    assert row.count(" steps/s") == 2
    paths = {case.name: (case.image, case.label) for case in cases}
    assert loop.store_line(store, paths, batch=1).startswith("| store, a batch of 1 image+label")
