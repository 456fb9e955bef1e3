"""Standard input and output under which any work goes on: closed, without a reader, in ASCII, of any width."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from typing import Any, TextIO

from uda.errors import RunError

_GONE = {errno.EPIPE, errno.EIO, errno.ENXIO, errno.ECONNRESET, errno.ENOTCONN, errno.ESHUTDOWN}
"""errors of writing to a pipe without a reader, to a terminal that has vanished, to a closed connection"""
_WIDTHS = ("COLUMNS", "LINES", "TERMINAL_WIDTH")


_refused: list[OSError] = []
"""errors of a disk, or the like, that did not take what was printed"""


class _Lasting(io.FileIO):
    """A file of whose content the rest is dropped once it can no longer be written."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _GONE:
                _refused.append(error)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(
            null, self.fileno()
        )  # for libraries that write by themselves, and for the next line
        os.close(null)
        return memoryview(data).nbytes


def steady_streams() -> None:
    """Let the work go on whatever happens to the terminal.

    A closed stream becomes ``/dev/null``, so that no file of ours gets its number. What nobody reads any more is
    dropped, and so is what a full disk does not take (:func:`check_printed`). Characters that the encoding lacks are
    replaced. Widths that no terminal has are ignored.
    """
    for name in _WIDTHS:
        if name in os.environ and re.fullmatch("[1-9][0-9]{1,3}", os.environ[name]) is None:
            del os.environ[name]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:
            opened = os.open(
                os.devnull, os.O_RDWR
            )  # the lowest free number, which is the closed one
            mode = "w" if number else "r"
            setattr(sys, name, open(opened, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
        elif (
            number
            and stream is getattr(sys, f"__{name}__")
            and isinstance(stream, io.TextIOWrapper)
        ):
            setattr(sys, name, _lasting(stream))


def check_printed() -> None:
    """Say so where a disk did not take all that was printed.

    Raises:
        RunError: it did not, although all other work is done.
    """
    sys.stdout.flush()
    if _refused:
        raise RunError(
            f"not all of the output could be written: {_refused[0]}",
            where="standard output",
            fix="make room for the file that it goes to; the work is done, and the same command prints it again",
        )


def _lasting(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    stream.flush()
    raw = _Lasting(stream.fileno(), "w", closefd=False)
    errors = "replace" if stream.errors in ("strict", "surrogateescape") else stream.errors
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
