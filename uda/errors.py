"""Errors a user can act on: what is wrong, where, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

LONGEST = 2000
"""Characters of a line of a message: a file may hold values of any length."""
MOST = 100
"""Faults that one error spells out, and valid names."""


class UdaError(Exception):
    """A fault with its remedy. ``exit_code`` is what the command line returns for it.

    Args:
        what: the fault in one sentence, with the offending value.
        where: file, key or setting that holds the fault.
        expected: what would have been right.
        fix: what the reader can do about it.
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
                lines.append(f"  {name + ':':<10}{_clipped(visible(str(value)))}")
        super().__init__("\n".join(lines))


def visible(text: str) -> str:
    """The text with what a terminal would obey, or not show, written as its code: ``\\x1b``, ``\\u202e``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def _clipped(text: str) -> str:
    """The text with no line longer than a reader could bear."""
    if len(text) <= LONGEST:
        return text
    lines = text.split("\n")
    return "\n".join(t if len(t) <= LONGEST else f"{t[:LONGEST]}…" for t in lines)


class ConfigError(UdaError):
    """A recipe, a card or an override that cannot be used."""


class DataError(UdaError):
    """A data file or folder that cannot be used."""


class UnreadableError(DataError):
    """A file that cannot be decoded: cut short, damaged, or of another kind than its name says."""


class MismatchError(DataError):
    """A label whose size is not its image's."""


class PriorError(UdaError):
    """A prior that contradicts itself, the classes or the loss that wants it."""


class ModelError(UdaError):
    """A model file that cannot be used, or that does not fit."""


class RunError(UdaError):
    """A run that was sound when it started and failed on the way."""

    exit_code = 1


class NotFiniteError(RunError):
    """A training whose loss or weights became NaN or infinite."""


def combine(faults: Sequence[UdaError], subject: str) -> UdaError:
    """One error for one or more faults: the fault itself, or one of its type that lists all."""
    if len(faults) == 1:
        return faults[0]
    listed = "\n".join(f"{i}. {fault}" for i, fault in enumerate(faults[:MOST], 1))
    more = f"\n… and {len(faults) - MOST} more" if len(faults) > MOST else ""
    return type(faults[0])(f"{len(faults)} faults in {subject}:\n{listed}{more}")


def raise_all(faults: Sequence[UdaError], subject: str) -> None:
    """Raise every fault in one report; return when there is none."""
    if faults:
        raise combine(faults, subject)


def nearest(name: str, valid: Iterable[str]) -> str:
    """``"did you mean 'x'? valid: …"`` for an unknown name."""
    names = sorted(valid)
    close = difflib.get_close_matches(name[:LONGEST], names[: 10 * MOST], n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    more = f", … ({len(names)})" if len(names) > MOST else ""
    return f"{hint}valid: {', '.join(names[:MOST])}{more}"
