"""Safe reading of text, JSON and YAML files of unknown origin, with limits on size, number of values, depth and memory.

Every limit is checked before the work that it limits, so time and memory grow linearly with the file. The readers
raise ``OSError`` or ``ValueError``; their callers know the file and turn it into a :class:`UdaError`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import resource
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from uda.errors import DataError, ModelError

INFLATES = 1032
"""Most bytes that one byte of a deflate stream (gzip, zip, PNG) can expand to: 258 from 2 bits."""
MAX_TEXT = 1 << 27
"""Most bytes of a text, JSON or CSV file: a prior of half a million slices."""
MAX_VALUES = 10**7
"""Most values of a JSON or CSV file."""
MAX_YAML = 1 << 23
"""Most bytes of a YAML file or a dataset.json: a card with the names of 100,000 cases."""
MAX_NODES = 250_000
"""Most values of a YAML file after its aliases are expanded; 64 characters of text count as one more."""
MAX_DEPTH = 100
"""Most levels of nested lists and mappings."""

_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_CONTROL_IN_JSON = re.compile(r"[\x7f-\x9f]|\\(?:[bf]|u00(?:0[0-8bBcCeEfF]|1.|7[fF]|[89].))")
"""Control characters in JSON text without its ``\\\\``; a terminal would execute them, such as escape sequences."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_DIRECTIVE = re.compile(r"(?:^|[\n\r\x85\u2028\u2029])\ufeff?%(?!YAML )")
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)")
_FLOAT = re.compile(
    r"(?:[-+]?[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_LONGEST = 1000
"""Most characters of a number."""
_TEXT = "tag:yaml.org,2002:str"
_TAGS = {None, "!", _TEXT, "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"}
_WORDS: dict[str, bool | None] = {
    written: value
    for words, value in (("yes true on", True), ("no false off", False), ("null", None))
    for word in words.split()
    for written in (word, word.capitalize(), word.upper())
} | {"": None, "~": None}
"""Words of YAML 1.1 that are no text."""


def memory() -> int:
    """Bytes of memory for this process: the least of the machine's, the container's and its own limit."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            limits.append(int(Path(path).read_text(encoding="ascii")))
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return min(limits) if soft == resource.RLIM_INFINITY else min(*limits, soft)


def check_memory(needed: int, what: str, where: str | Path) -> None:
    """Refuse an array that does not fit into memory, before it is allocated.

    Args:
        needed: bytes.
        what: the array, for the message.

    Raises:
        DataError: names the needed and the available memory.
    """
    available = memory()
    if needed > available:
        raise DataError(
            f"{what} would take {needed / 2**30:.4g} GiB",
            where=where,
            expected=f"at most the {available / 2**30:.4g} GiB of memory",
            fix="correct the sizes and spacings in its header and its card; if they are right, use a machine with "
            "more memory",
        )


def head_of(path: Path, fix: str, expected: str | None = None, copies: int = 1) -> bytes:
    """The first 9 bytes of a regular file that fits into memory; a pipe or a device may have no end.

    Args:
        copies: how many times the file's content will lie in memory.

    Raises:
        ModelError: anything else has this name; with the given expectation and remedy.
    """
    try:
        state = path.stat()
        if stat.S_ISREG(state.st_mode):
            if state.st_size * copies <= memory():
                with path.open("rb") as file:
                    return file.read(9)
            reason = f"its {state.st_size / 2**30:.4g} GiB do not fit into memory"
        elif stat.S_ISDIR(state.st_mode):
            reason = "it is a folder"
        else:
            reason = "it is no regular file, but a pipe, a socket or a device"
    except FileNotFoundError:
        reason = "there is no such file"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = str(getattr(error, "strerror", None) or error)
    raise ModelError(f"cannot be read: {reason}", where=path, expected=expected, fix=fix)


def read_text(path: Path, most: int = MAX_TEXT) -> str:
    """Read a UTF-8 text file, with or without a byte order mark, of at most ``most`` bytes.

    Raises:
        OSError, ValueError: the file is missing, not a regular file, too large, or not text.
    """
    if path.exists() and not path.is_file():  # reading a pipe would block
        raise OSError("it is not a regular file")
    with path.open("rb") as file:
        large = os.fstat(file.fileno()).st_size > most
        data = b"" if large else file.read(most + 1)
    if large or len(data) > most:
        raise ValueError(f"it has more than {most} bytes")
    text = data.decode("utf-8-sig")
    if "\0" in text:
        raise ValueError("it holds NUL bytes, so it is not text")
    return text


def parse_json(text: str) -> Any:
    """Parse strict JSON: unique keys, finite numbers, integers of at most 64 bits, no control characters.

    Raises:
        ValueError: the text is anything else, is nested too deeply, or has too many values.
    """
    check_values(text, ",[{")
    if found := _CONTROL_IN_JSON.search(text.replace("\\\\", "  ")):
        raise ValueError(f"it holds a control character: {found[0]!a}")
    try:
        value = json.loads(
            text,
            parse_constant=_not_json,
            parse_float=_finite,
            parse_int=_integer,
            object_pairs_hook=_each_once,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_depth(value)
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate cannot be encoded
    return value


def check_values(text: str, signs: str) -> None:
    """Refuse a text with more than :data:`MAX_VALUES` of the signs that begin or separate values.

    Raises:
        ValueError: there are more.
    """
    if sum(text.count(sign) for sign in signs) > MAX_VALUES:
        raise ValueError(f"it has more than {MAX_VALUES} values")


def _check_depth(value: Any) -> None:
    level: list[Iterable[Any]] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner.values() if isinstance(inner, dict) else inner
            for outer in level
            for inner in outer
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _not_json(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _finite(text: str) -> float:
    if len(text) > _LONGEST or math.isinf(value := float(text)):
        raise ValueError(f"the number {text[:30]} is too large or too long")
    return value


def _integer(text: str) -> int:
    if len(text) > 20 or (value := int(text)).bit_length() > 64:
        raise ValueError(f"the number {text[:30]} has more than 64 bits")
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {key[:60]!r} is given twice")
            seen.add(key)
    return found


def parse_yaml(text: str) -> Any:
    """Parse YAML of plain values: text, decimal numbers, true and false, null, lists and mappings with unique keys.

    What other readers compute stays text: dates, ``1:30``, ``0b1``, ``0x1f``, ``017``.

    Raises:
        ValueError: the text is anything else, has another tag, a merge key ``<<``, a directive, an integer of more
            than 64 bits, is nested too deeply, or its aliases expand to too many values.
    """
    if found := _DIRECTIVE.search(text):
        line = text.count("\n", 0, found.end()) + 1
        raise ValueError(f"line {line}: directives (%) are not read")
    try:
        return _Builder().built(yaml.parse(text, Loader=yaml.CSafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


@dataclass
class _Open:
    """A list or mapping that is not complete yet."""

    value: list[Any] | dict[Any, Any]
    anchor: str | None
    before: int
    """values counted before it"""
    key: Any = None
    keyed: bool = False
    """whether ``key`` waits for its value"""


class _Builder:
    """Builds plain values from YAML events, without recursion, and counts them as it goes."""

    def __init__(self) -> None:
        self.open: list[_Open] = []
        self.count = 0
        self.anchors: dict[str, tuple[Any, int] | None] = {}
        """value and number of values inside; None while the value is not complete"""

    def built(self, events: Iterable[yaml.Event]) -> Any:
        top = _Open([], None, 0)
        self.open.append(top)
        line = 1
        try:
            for event in events:
                line = event.start_mark.line + 1 if event.start_mark else line
                self._take(event)
        except ValueError as fault:
            raise ValueError(f"line {line}: {fault}") from None
        return top.value[0] if top.value else None

    def _take(self, event: yaml.Event) -> None:
        if isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            _check_tag(event.tag)
            self._count(1)
            if len(self.open) > MAX_DEPTH:
                raise ValueError("it is nested too deeply")
            if event.anchor is not None:
                self.anchors[event.anchor] = None
            value: Any = [] if isinstance(event, yaml.SequenceStartEvent) else {}
            self.open.append(_Open(value, event.anchor, self.count - 1))
        elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            done = self.open.pop()
            self._put(done.value, done.anchor, self.count - done.before)
        elif isinstance(event, yaml.ScalarEvent):
            weight = 1 + len(event.value) // 64
            self._count(weight)
            self._put(_scalar(event), event.anchor, weight)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise ValueError(f"*{event.anchor!s:.60} has no anchor")
            known = self.anchors[event.anchor]
            if known is None:
                raise ValueError("a value contains itself")
            self._count(known[1])
            self._put(known[0], None, 0)
        elif isinstance(event, yaml.DocumentStartEvent) and self.open[0].value:
            raise ValueError("it holds more than one document")

    def _count(self, more: int) -> None:
        self.count += more
        if self.count > MAX_NODES:
            raise ValueError(f"it, with its aliases expanded, has more than {MAX_NODES} values")

    def _put(self, value: Any, anchor: str | None, weight: int) -> None:
        """Add a complete value to the list or mapping that is open."""
        if anchor is not None:
            self.anchors[anchor] = value, weight
        parent = self.open[-1]
        if isinstance(parent.value, list):
            parent.value.append(value)
        elif parent.keyed:
            parent.value[parent.key], parent.keyed = value, False
        elif isinstance(value, (list, dict)):
            raise ValueError("a key is a list or a mapping")
        elif value in parent.value:
            raise ValueError(f"key {str(value)[:60]!r} is given twice")
        elif value == "<<":
            raise ValueError("merge keys (<<) are not read")
        else:
            parent.key, parent.keyed = value, True


def _check_tag(tag: str | None) -> None:
    if tag not in _TAGS:
        raise ValueError(f"the tag {tag!s:.60} is not read, only plain values are")


def _scalar(event: yaml.ScalarEvent) -> Any:
    """Text, or what the text of a plain scalar without a tag stands for in YAML 1.1."""
    text: str = event.value
    _check_tag(event.tag)
    if found := _CONTROL.search(text):
        raise ValueError(f"a value holds the control character {found[0]!a}")
    if event.tag is not None or not event.implicit[0]:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return _integer(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        if len(text) > _LONGEST:
            raise ValueError(f"the number {text[:30]} is too long")
        return float((text.replace(".", "") if text[-1].isalpha() else text).replace("_", ""))
    return text
