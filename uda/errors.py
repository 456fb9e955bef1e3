"""Error classes whose messages say what is wrong, where, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

LONGEST = 2000
"""Longest line of a message, in characters; a value from a file can have any length."""
MOST = 100
"""Most faults, or valid names, that one message lists."""


class UdaError(Exception):
    """A fault and how to fix it. The command line exits with ``exit_code``.

    Args:
        what: the fault in one sentence, with the offending value.
        where: file, key or setting that holds the fault.
        expected: what would be valid.
        fix: what the user can do.

    Each of the last three is one line of the message: a name with a line break forges no line of its own.
    """

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        where: str | Path | None = None,
        expected: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.what, self.where, self.expected, self.fix = (
            _clipped(visible(what)),
            where,
            expected,
            fix,
        )
        lines = [self.what]
        for name, value in (("where", where), ("expected", expected), ("fix", fix)):
            if value is not None:
                lines.append(f"  {name + ':':<10}{_clipped(one_line(str(value)))}")
        super().__init__("\n".join(lines))


def visible(text: str) -> str:
    """Replace control and invisible characters but newlines by their codes: ``\\x1b``, ``\\u202e``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """The same with newlines as codes, too: for names of files and for what other libraries say."""
    return visible(text).replace("\n", "\\n")


def _clipped(text: str) -> str:
    """Cut every line to :data:`LONGEST` characters."""
    if len(text) <= LONGEST:
        return text
    lines = text.split("\n")
    return "\n".join(t if len(t) <= LONGEST else f"{t[:LONGEST]}…" for t in lines)


class ConfigError(UdaError):
    """A recipe, a card or an override that cannot be used."""


class DataError(UdaError):
    """A data file or folder that cannot be used."""


class UnreadableError(DataError):
    """A file that cannot be decoded: truncated, damaged, or in another format than its name says."""


class MismatchError(DataError):
    """A label map whose size differs from its image's."""


class PriorError(UdaError):
    """A prior that contradicts itself, the classes or the loss that uses it."""


class ModelError(UdaError):
    """A model file that cannot be used, or that does not fit."""


class RunError(UdaError):
    """A run that started with valid input and failed later."""

    exit_code = 1


class NotFiniteError(RunError):
    """A training whose loss or weights became NaN or infinite."""


def combine(faults: Sequence[UdaError], subject: str, count: int | None = None) -> UdaError:
    """One fault as it is; several as one error of the first one's type that lists up to :data:`MOST`.

    Args:
        count: number of all faults, where ``faults`` are the first of them.
    """
    count = len(faults) if count is None else count
    if count == 1:
        return faults[0]
    listed = "\n".join(f"{i}. {fault}" for i, fault in enumerate(faults[:MOST], 1))
    more = f"\n… and {count - MOST} more" if count > MOST else ""
    return type(faults[0])(f"{count} faults in {subject}:\n{listed}{more}")


def raise_all(faults: Sequence[UdaError], subject: str) -> None:
    """Raise all faults as one error; return if ``faults`` is empty."""
    if faults:
        raise combine(faults, subject)


def nearest(name: str, valid: Iterable[str]) -> str:
    """``"did you mean 'x'? valid: …"`` for an unknown name."""
    names = sorted(valid)
    short = [n for n in names[: 10 * MOST] if len(n) <= MOST]
    close = difflib.get_close_matches(name, short, n=1, cutoff=0.5) if len(name) <= MOST else []
    hint = f"did you mean {close[0]!r}? " if close else ""
    more = f", … ({len(names)})" if len(names) > MOST else ""
    return f"{hint}valid: {', '.join(names[:MOST])}{more}"
