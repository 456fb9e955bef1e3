"""A stage runs again if a stage that it reads left other files, whatever the settings say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from uda.config.recipe import Compute
from uda.errors import DataError, RunError
from uda.files.digests import fingerprint
from uda.files.stage_folder import STAGE_FILE
from uda.pipeline.stage_protocol import Done, Stage, run_stage


class Chain:
    """Two stages: ``pretrain`` writes weights, a page and logs; ``adapt`` copies the weights."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.weights, self.page, self.fails, self.gone = "1", "as it was", False, False

    def run(self, *, restart: bool = False) -> list[str]:
        """Run both and return the names of those that ran; ``restart`` concerns the first."""
        first = self._one("pretrain", (), self._pretrain, restart)
        second = self._one("adapt", (first,), self._adapt, False)
        return [done.name for done in (first, second) if done.ran]

    def record(self, stage: str) -> dict[str, Any]:
        record = json.loads((self.out / stage / STAGE_FILE).read_text())
        assert isinstance(record, dict)
        return record

    def _one(self, name: str, parents: tuple[Done, ...], body: Any, restart: bool) -> Done:
        stage = Stage(name, {}, tuple(one.name for one in parents), self._data, body)
        hashes = {one.name: one.hash for one in parents}
        read = [self.out / one for one in hashes]
        return run_stage(
            stage, self.out / name, hashes, Compute(device="cpu"), restart=restart, read=read
        )

    def _data(self) -> dict[str, str]:
        if self.gone:
            raise DataError("no images")
        return {"images": "key"}

    def _pretrain(self, work: Path) -> dict[str, Any]:
        (work / "model").write_text(self.weights)
        (work / "report.html").write_text(self.page)
        (work / "tensorboard").mkdir()
        (work / "tensorboard" / "events").write_text(self.page)
        return {}

    def _adapt(self, work: Path) -> dict[str, Any]:
        resumed = work / "resumed"
        if not resumed.exists():
            resumed.write_text((self.out / "pretrain" / "model").read_text())
        if self.fails:
            raise RunError("killed")
        resumed.rename(work / "model")
        return {}


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    chain = Chain(tmp_path)
    assert chain.run() == ["pretrain", "adapt"]
    return chain


def test_other_files_at_the_same_settings_run_the_next_stage_again(chain: Chain) -> None:
    chain.weights = "2"
    assert chain.run(restart=True) == ["pretrain", "adapt"]
    assert (chain.out / "adapt" / "model").read_text() == "2"
    assert chain.run() == []


def test_the_same_files_made_again_run_nothing_else(chain: Chain) -> None:
    chain.page = "another minute"  # pages and logs tell the time
    assert chain.run(restart=True) == ["pretrain"]


def test_unfinished_work_is_not_resumed_from_other_files(chain: Chain) -> None:
    chain.weights, chain.fails = "2", True
    with pytest.raises(RunError):
        chain.run(restart=True)
    chain.weights, chain.fails = "3", False
    assert chain.run(restart=True) == ["pretrain", "adapt"]
    assert (chain.out / "adapt" / "model").read_text() == "3"


def test_unfinished_work_is_resumed_from_the_same_files(chain: Chain) -> None:
    chain.weights, chain.fails = "2", True
    with pytest.raises(RunError):
        chain.run(restart=True)
    (kept,) = chain.out.glob(".adapt.*/resumed")
    kept.write_text("half")
    chain.fails = False
    assert chain.run() == ["adapt"]
    assert (chain.out / "adapt" / "model").read_text() == "half"


def test_without_its_images_a_stage_is_skipped_only_if_its_parents_left_the_same(
    chain: Chain,
) -> None:
    chain.gone = True
    assert chain.run() == []
    chain.gone, chain.weights, chain.fails = False, "2", True
    with pytest.raises(RunError):
        chain.run(restart=True)
    chain.gone = True
    with pytest.raises(DataError, match="no images"):
        chain.run()


def without_read(chain: Chain) -> None:
    """Records as they were before they named parents' files."""
    record = chain.record("adapt")
    del record["read"]
    keys = ("stage", "settings", "parents", "data")
    record["hash"] = fingerprint({key: record[key] for key in keys})
    (chain.out / "adapt" / STAGE_FILE).write_text(json.dumps(record))


def test_a_stage_from_before_is_skipped_as_it_was(chain: Chain) -> None:
    without_read(chain)
    assert chain.run() == []
    chain.gone = True
    assert chain.run() == []


def test_a_stage_from_before_that_runs_again_records_what_it_read(chain: Chain) -> None:
    without_read(chain)
    chain._data = lambda: {"images": "another key"}  # type: ignore[method-assign]
    assert chain.run() == ["pretrain", "adapt"]
    assert set(chain.record("adapt")["read"]) == {"pretrain"}


def test_a_record_without_its_data_is_not_taken_for_a_complete_one(chain: Chain) -> None:
    record = chain.record("adapt")
    del record["data"]
    (chain.out / "adapt" / STAGE_FILE).write_text(json.dumps(record))
    chain.gone = True
    with pytest.raises(DataError, match="no images"):
        chain.run()
