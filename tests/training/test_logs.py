"""The log of a run: one slice of each image, also of volumes and slabs; one error of a disk that refuses."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch
from tensorboard.summary.writer import event_file_writer, record_writer
from torch import Tensor

from uda.errors import RunError
from uda.training.logs import RunLog


def grid_of(folder: Path, monkeypatch: pytest.MonkeyPatch, image: Tensor, logits: Tensor) -> Tensor:
    shown: list[Tensor] = []
    with RunLog(folder, "stage", 1, 0, quiet=True) as log:
        monkeypatch.setattr(log._board, "add_image", lambda name, grid, step: shown.append(grid))
        log.images(1, image, logits)
    return shown[0]


def test_of_a_volume_the_middle_slice_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    image, logits = (torch.randn(2, c, 5, 8, 8, generator=draw) for c in (1, 3))
    flat = grid_of(tmp_path / "a", monkeypatch, image[:, :, 2], logits[:, :, 2])
    assert torch.equal(grid_of(tmp_path / "b", monkeypatch, image, logits), flat)
    assert float(flat.std()) > 0


def test_of_a_slab_the_slice_itself_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    image, logits = (torch.randn(2, 3, 8, 8, generator=draw) for _ in range(2))
    alone = grid_of(tmp_path / "a", monkeypatch, image[:, 1:2], logits)
    assert torch.equal(grid_of(tmp_path / "b", monkeypatch, image, logits), alone)


def test_a_disk_that_refuses_the_first_event_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(5, "Input/output error")

    def end_late(thread: threading.Thread) -> None:
        try:
            run(thread)
        finally:
            time.sleep(0.1)

    told: list[threading.ExceptHookArgs] = []
    run = event_file_writer._AsyncWriterThread.run
    monkeypatch.setattr(event_file_writer._AsyncWriterThread, "run", end_late)
    monkeypatch.setattr(record_writer.RecordWriter, "write", refuse)
    monkeypatch.setattr(threading, "excepthook", told.append)
    before = set(threading.enumerate())
    with pytest.raises(RunError, match="Input/output error"), RunLog(tmp_path, "stage", 1, 0, True):
        pass
    assert set(threading.enumerate()) == before
    assert told == []
    assert threading.excepthook == told.append


# metrics.csv


def test_the_file_has_every_row_as_soon_as_it_is_known(tmp_path: Path) -> None:
    with RunLog(tmp_path, "stage", 4, 0, quiet=True) as log:
        for step in (1, 2, 3):
            log.row(step, {"loss": 1 / step, "lr": 0.1})
            assert log.path.read_text() == log.text()
            assert len(log.path.read_text().splitlines()) == 1 + step


def test_rows_beyond_the_last_checkpoint_and_half_rows_are_written_again(tmp_path: Path) -> None:
    with RunLog(tmp_path, "stage", 4, 0, quiet=True) as log:
        log.row(1, {"loss": 1.0, "lr": 0.1})
        checkpoint = log.text()
        for step in (2, 3):
            log.row(step, {"loss": 1 / step, "lr": 0.1})
        straight = log.path.read_text()
    with log.path.open("a") as file:
        file.write("4,0.2")  # the process was killed
    with RunLog(tmp_path, "stage", 4, 1, quiet=True, rows=checkpoint) as log:
        assert log.path.read_text() == checkpoint
        for step in (2, 3):
            log.row(step, {"loss": 1 / step, "lr": 0.1})
    assert log.path.read_text() == straight
    with RunLog(tmp_path, "stage", 4, 0, quiet=True) as log:  # there was no checkpoint
        log.row(1, {"loss": 1.0, "lr": 0.1})
        assert log.path.read_text() == checkpoint


def test_a_disk_that_refuses_a_row_is_told(tmp_path: Path) -> None:
    with RunLog(tmp_path, "stage", 4, 0, quiet=True) as log:
        log.row(1, {"loss": 1.0, "lr": 0.1})
        log.path.unlink()
        log.path.mkdir()
        with pytest.raises(RunError, match="cannot be written"):
            log.row(2, {"loss": 1.0, "lr": 0.1})
