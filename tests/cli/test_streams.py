"""The work goes on whatever happens to standard input and output, and every page of help prints anywhere."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_cli import VERBS

from uda.cli import streams
from uda.errors import RunError

CLOSED = {"PATH": os.environ["PATH"], "HOME": "/"}
EVERY_HELP = """
import sys
from uda.cli.main import main
for verb in ([], *([v] for v in sys.argv[1:])):
    sys.argv = ["uda", *verb, "--help"]
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise
"""


@pytest.fixture
def ends() -> Iterator[list[int]]:
    """Descriptors that the test may close itself."""
    found: list[int] = []
    yield found
    for number in found:
        os.close(number)


def text_on(number: int, encoding: str = "utf-8") -> io.TextIOWrapper:
    file = io.FileIO(number, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(file), encoding, line_buffering=True)


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_what_nobody_reads_any_more_is_dropped(kind: str, ends: list[int]) -> None:
    reader, writer = os.pipe() if kind == "pipe" else pty.openpty()
    ends.append(writer)
    stream = streams._lasting(text_on(writer))
    stream.write("first\n")
    assert os.read(reader, 5) == b"first"
    os.close(reader)
    for _ in range(3):
        stream.write("x" * 10**5 + "\n")
    stream.close()
    os.write(writer, b"a library's own line")  # as C code does


def test_what_a_full_disk_does_not_take_ends_no_work_and_is_told_at_the_end(
    ends: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_refused", [])
    ends.append(os.open("/dev/full", os.O_WRONLY))
    stream = streams._lasting(text_on(ends[0]))
    streams.check_printed()
    for _ in range(3):
        stream.write("x" * 10**5 + "\n")
    with pytest.raises(RunError, match="No space left"):
        streams.check_printed()
    stream.close()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_character_that_the_encoding_lacks_is_replaced(encoding: str, ends: list[int]) -> None:
    reader, writer = os.pipe()
    ends += [reader, writer]
    stream = streams._lasting(text_on(writer, encoding))
    stream.write("Dice → 1, \udce9\n")
    assert os.read(reader, 100) == b"Dice ? 1, ?\n"


@pytest.mark.parametrize("width", ["0", "1", "-1", "wide", "", "9" * 5000, "12345"])
def test_a_width_that_no_terminal_has_is_ignored(
    width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("TERMINAL_WIDTH", "77")
    streams.steady_streams()
    assert "COLUMNS" not in os.environ
    assert os.environ["TERMINAL_WIDTH"] == "77"


def test_help_of_every_verb_prints_in_ascii_alone(tmp_path: Path) -> None:
    bare = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "0"}
    result = subprocess.run(
        [sys.executable, "-c", EVERY_HELP, *VERBS],
        capture_output=True,
        env={**CLOSED, **bare, "TERMINAL_WIDTH": "0"},
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.isascii()
    assert result.stdout.count(b"Usage: uda") == 1 + len(VERBS)
    assert result.stderr == b""


FIRST_FILE = """
import os, sys
from uda.cli.main import main
sys.argv = ["uda", "list"]
try:
    main()
except SystemExit as ended:
    code = ended.code or 0
descriptor = os.open("mine", os.O_WRONLY | os.O_CREAT)
os.write(1, b"a library prints")
os.write(descriptor, b"%d" % code)
"""


def test_closed_streams_end_nothing_and_no_file_of_ours_becomes_one(tmp_path: Path) -> None:
    command = f"exec {sys.executable} -c '{FIRST_FILE}' <&- >&- 2>&-"
    result = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=CLOSED)
    assert result.returncode == 0
    assert (tmp_path / "mine").read_text() == "0"
