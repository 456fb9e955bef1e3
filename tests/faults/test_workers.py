"""Processes and threads that die beside others, and runs that meet in one folder: named, and nobody hangs."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from conftest import Tiny
from fault_injection import Fault, command, contents, ended, hidden, started
from test_signals import Slow, wait_for
from tiny_photos import card_of, write_world

from uda.data import writing
from uda.data.cases import Case, cases_of
from uda.data.store import open_store
from uda.errors import RunError

PATIENCE = 120


def given(tiny: Tiny, out: Path) -> list[str]:
    return ["pretrain", tiny.recipe, *tiny.overrides, "--device=cpu", "-q", f"--out={out}"]


class Rank:
    """One process of two, as a launcher would start it."""

    def __init__(self, rank: int, port: str, then: Callable[[], object]) -> None:
        self.rank, self.port, self.then = rank, port, then

    def __call__(self) -> None:
        rank = str(self.rank)
        os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": self.port}
        self.then()


def pair(arguments: list[str], out: Path, then: Callable[[], object]) -> list[ForkServerProcess]:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    return [
        started(command, arguments, errors_of(out, rank), Fault(out), Rank(rank, port, then))
        for rank in range(2)
    ]


def errors_of(out: Path, rank: int) -> Path:
    return out.parent / f"errors.{rank}.txt"


def codes(children: Sequence[ForkServerProcess]) -> list[int | None]:
    for child in children:
        child.join(PATIENCE)
    found = [child.exitcode for child in children]
    for child in children:
        child.kill()
    return found


def test_what_befalls_one_process_ends_all_and_the_run_goes_on_bit_for_bit(
    tiny: Tiny, tmp_path: Path
) -> None:
    """A signal to one alone, the death of the second, the death of the first, then in peace."""
    out, straight, mark = tmp_path / "run", tmp_path / "straight", tmp_path / "mark"
    assert codes(pair(given(tiny, straight), straight, int)) == [0, 0]

    def struck(number: int, rank: int) -> list[int | None]:
        mark.unlink(missing_ok=True)
        children = pair(given(tiny, out), out, Slow(mark, 0.1))
        wait_for(mark)
        os.kill(children[rank].pid or 0, number)
        return codes(children)

    assert struck(signal.SIGTERM, 1) == [143, 143]
    first, second = (errors_of(out, rank).read_text() for rank in range(2))
    assert "stopped by SIGTERM, pretrain saved at step" in first
    assert "stopped" not in second
    assert struck(signal.SIGKILL, 1) == [1, -signal.SIGKILL]
    assert "error: another process of this run ended" in errors_of(out, 0).read_text()
    assert struck(signal.SIGKILL, 0) == [-signal.SIGKILL, 1]
    assert codes(pair(given(tiny, out), out, int)) == [0, 0]
    assert contents(out) == contents(straight)
    assert hidden(out) == []


def test_a_second_run_in_a_folder_is_refused_and_the_first_does_not_notice(
    tiny: Tiny, tmp_path: Path
) -> None:
    out, errors, mark = tmp_path / "run", tmp_path / "errors.txt", tmp_path / "mark"
    first = started(command, given(tiny, out), tmp_path / "first.txt", Fault(out), Slow(mark, 0.15))
    wait_for(mark)
    assert ended(command, given(tiny, out), errors, Fault(out)) == 1
    assert "error: another run is writing into this folder" in errors.read_text()
    assert str(out) in errors.read_text()
    first.join(PATIENCE)
    assert first.exitcode == 0
    straight = tmp_path / "straight"
    assert ended(command, given(tiny, straight), errors, Fault(straight)) == 0
    assert contents(out) == contents(straight)


def test_the_lock_of_a_killed_run_does_not_block(tiny: Tiny, tmp_path: Path) -> None:
    out, errors, mark = tmp_path / "run", tmp_path / "errors.txt", tmp_path / "mark"
    first = started(command, given(tiny, out), errors, Fault(out), Slow(mark))
    wait_for(mark)
    first.kill()
    first.join()
    assert (out / ".uda.lock").exists()
    assert ended(command, given(tiny, out), errors, Fault(out)) == 0
    assert hidden(out) == []


@pytest.mark.parametrize("error", [MemoryError("no room"), ValueError("of the decoder")])
def test_a_thread_that_fails_over_a_photograph_names_it_and_ends_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    card = card_of("gta5")
    cases = cases_of(card, write_world(tmp_path / "data", game=6), "train", labels=True)
    read = writing.prepared_stack

    def failing(case: Case, *rest: object) -> object:
        if case is cases[3]:
            raise error
        return read(case, *rest)

    monkeypatch.setattr(writing, "prepared_stack", failing)
    with pytest.raises(RunError, match=type(error).__name__) as caught:
        open_store(card, cases, tmp_path / "store", workers=3)
    assert cases[3].image.name in str(caught.value.where)
    assert not [t for t in threading.enumerate() if t.name.startswith("uda-images")]
    assert list((tmp_path / "store").iterdir()) == []
