"""SIGTERM and SIGINT save the step and end with a line; the same command goes on from exactly there."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny
from fault_injection import Fault, command, contents, ended, hidden, started

from uda.pipeline import run as pipeline
from uda.training import loop, signals
from uda.training.signals import Stopped, stopping_on_signals

NEITHER_SAVED_NOR_LOGGED = 3
SLOW = 0.2


def run(tiny: Tiny, out: Path) -> None:
    pipeline.run(tiny.load(), out, until="pretrain")


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], object]) -> list[int]:
    """Act in the midst of a step of pretraining; returns the steps taken."""
    taken: list[int] = []
    original = loop._step

    def acting(state: Any, settings: Any, batch: Any, place: Any) -> Any:
        if place.stage == "pretrain":
            taken.append(state.step)
            if len(taken) == step:
                act()
        return original(state, settings, batch, place)

    monkeypatch.setattr(loop, "_step", acting)
    return taken


@pytest.fixture
def heard() -> Iterator[None]:
    """Also where these tests run in the background, whose SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_training_after_its_step_and_nothing_is_done_twice(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        taken = at_step(patch, NEITHER_SAVED_NOR_LOGGED, lambda: os.kill(os.getpid(), number))
        with (
            stopping_on_signals(),
            pytest.raises(Stopped, match="pretrain saved at step 3") as stop,
        ):
            run(tiny, out)
    assert stop.value.exit_code == code
    assert taken == [0, 1, 2]
    with monkeypatch.context() as patch:
        taken = at_step(patch, 0, lambda: None)
        run(tiny, out)
    assert taken == list(range(3, 10))
    run(tiny, tmp_path / "straight")
    assert contents(out) == contents(tmp_path / "straight")
    assert hidden(out) == []


def test_a_signal_ends_what_is_no_training_at_once(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uda.data import writing

    def asked(*given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

    monkeypatch.setattr(writing, "prepared_stack", asked)
    with (
        stopping_on_signals(),
        pytest.raises(Stopped, match="stopped by SIGTERM; the same command goes on"),
    ):
        run(tiny, tmp_path / "run")
    assert list((tmp_path / "run" / "store").iterdir()) == []


def test_a_signal_before_the_first_step_is_answered_at_once(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*given: Any) -> Iterator[Any]:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
        yield

    monkeypatch.setattr(loop, "_prefetched", asked)
    with stopping_on_signals(), pytest.raises(Stopped, match="by SIGTERM; the same command"):
        run(tiny, tmp_path / "run")
    assert not (tmp_path / "run" / "pretrain").exists()
    monkeypatch.undo()
    run(tiny, tmp_path / "run")
    assert (tmp_path / "run" / "pretrain").exists()


def test_a_signal_that_something_swallows_is_raised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python does in callbacks of the garbage collector."""
    monkeypatch.setattr(signals, "REPEAT", 0.05)

    def swallowing() -> None:
        with contextlib.suppress(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        time.sleep(30)

    with pytest.raises(Stopped, match="stopped by SIGTERM"), stopping_on_signals():
        swallowing()
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_terminal_that_vanishes_ends_nothing() -> None:
    before = signal.getsignal(signal.SIGHUP)
    with stopping_on_signals():
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.01)
    assert signal.getsignal(signal.SIGHUP) == before


IMPORTING = """
import os, signal, sys, time
class Finder:
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), signal.{name})
            time.sleep(30)
sys.meta_path.insert(0, Finder())
signal.signal(signal.SIGINT, signal.default_int_handler)
from uda.__main__ import main
main()
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_while_the_command_line_is_imported_is_answered(name: str, code: int) -> None:
    command = [sys.executable, "-c", IMPORTING.replace("{name}", name)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == code
    assert result.stderr == f"stopped by {name}; the same command goes on from there\n"


def test_a_library_that_takes_the_signal_for_its_own_error_does_not_hide_it() -> None:
    """As code in other languages does that calls Python."""

    def swallowing() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        except Stopped:
            raise ValueError("cannot be read") from None

    with pytest.raises(Stopped, match="stopped by SIGTERM"), stopping_on_signals():
        swallowing()
    with pytest.raises(ValueError, match="of our own"), stopping_on_signals():
        raise ValueError("of our own")


def test_an_ignored_signal_stays_ignored_and_handlers_come_back() -> None:
    """As nohup has it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping_on_signals():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


class Slow:
    """Makes each step of a training last; the first marks a file."""

    def __init__(self, mark: Path, seconds: float = SLOW) -> None:
        self.mark, self.seconds = mark, seconds

    def __call__(self) -> None:
        original = loop._step

        def slow(*given: Any) -> Any:
            self.mark.touch()
            time.sleep(self.seconds)
            return original(*given)

        loop._step = slow


def wait_for(mark: Path) -> None:
    until = time.monotonic() + 120
    while not mark.exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert mark.exists()


def test_the_command_line_says_where_it_stopped(tiny: Tiny, tmp_path: Path) -> None:
    out, errors, mark = tmp_path / "run", tmp_path / "errors.txt", tmp_path / "mark"
    given = ["pretrain", tiny.recipe, *tiny.overrides, "--device=cpu", "-q", f"--out={out}"]
    child = started(command, given, errors, Fault(out), Slow(mark))
    wait_for(mark)
    os.kill(child.pid or 0, signal.SIGTERM)
    child.join(60)
    assert child.exitcode == 143
    said = errors.read_text().splitlines()[-1]
    assert said.startswith("stopped by SIGTERM, pretrain saved at step ")
    assert said.endswith("; the same command goes on from there")
    assert list(out.glob(".pretrain.*/resume.safetensors"))

    straight = tmp_path / "straight"
    assert ended(command, given, errors, Fault(out)) == 0
    assert ended(command, [*given, f"--out={straight}"], errors, Fault(out)) == 0
    assert contents(out) == contents(straight)


def test_a_second_signal_ends_at_once(tiny: Tiny, tmp_path: Path) -> None:
    out, mark = tmp_path / "run", tmp_path / "mark"
    given = ["pretrain", tiny.recipe, *tiny.overrides, "--device=cpu", "-q", f"--out={out}"]
    child = started(command, given, tmp_path / "errors.txt", Fault(out), Slow(mark, 100))
    wait_for(mark)
    for pause in (0.2, 1.5, 0.0):  # the second comes too soon to be another request
        os.kill(child.pid or 0, signal.SIGTERM)
        time.sleep(pause)
        if pause:
            assert child.is_alive()
    child.join(20)
    assert child.exitcode == -signal.SIGTERM
