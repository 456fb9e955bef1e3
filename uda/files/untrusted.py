"""Safe reading of text, JSON, CSV and YAML files of unknown origin, with limits on size, depth and memory.

The readers raise ``OSError`` or ``ValueError``; their callers know the file and turn it into a :class:`UdaError`.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import re
import resource
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from uda.errors import DataError

INFLATES = 1032
"""Most bytes that one byte of a deflate stream (gzip, zip, PNG) can expand to: 258 from 2 bits."""
MAX_TEXT = 1 << 28
"""Most bytes of a text, JSON or CSV file: far more than any data set needs."""
MAX_YAML = 1 << 24
MAX_NODES = 10**6
"""Most values of a YAML file after its aliases are expanded."""

_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_CONTROL_IN_JSON = re.compile(
    r"[\x7f-\x9f]|(?<!\\)(?:\\\\)*\\(?:[bf]|u00(?:0[0-8bBcCeEfF]|1.|7[fF]|[89].))"
)
"""Control characters in JSON text, which a terminal would execute, such as escape sequences."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


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


def read_text(path: Path, most: int = MAX_TEXT) -> str:
    """Read a UTF-8 text file, with or without a byte order mark, of at most ``most`` bytes.

    Raises:
        OSError, ValueError: the file is missing, not a regular file, too large, or not text.
    """
    if path.exists() and not path.is_file():  # reading a pipe would block
        raise OSError("it is not a regular file")
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than {most} bytes")
    text = data.decode("utf-8-sig")
    if "\0" in text:
        raise ValueError("it holds NUL bytes, so it is not text")
    return text


def parse_json(text: str) -> Any:
    """Parse strict JSON: unique keys, finite numbers, integers of at most 64 bits, no control characters.

    Raises:
        ValueError: the text is anything else, or nested too deeply.
    """
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
    if found := _CONTROL_IN_JSON.search(text):
        raise ValueError(f"it holds a control character: {found[0]!a}")
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate cannot be encoded
    return value


def _not_json(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:30]} is too large")
    return value


def _integer(text: str) -> int:
    if len(text) > 20 or (value := int(text)).bit_length() > 64:
        raise ValueError(f"the number {text[:30]} has more than 64 bits")
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for number, key in enumerate(keys) if key in keys[:number])
        raise ValueError(f"key {twice[:60]!r} is given twice")
    return found


def read_rows(path: Path, separators: str = ",") -> list[tuple[int, list[str]]]:
    """Line number and cells of every non-empty line of a CSV file.

    Args:
        separators: candidates; the first that occurs in the first line separates cells, else the last.

    Raises:
        OSError, ValueError: the file is missing or not text, a quote is not closed, or a cell has more than
            131,072 characters.
    """
    text = read_text(path)
    head = text.partition("\n")[0]
    separator = next((sign for sign in separators if sign in head), separators[-1])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        return [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None


def parse_yaml(text: str) -> Any:
    """Parse YAML of plain values: no Python tags, unique keys, integers of at most 64 bits.

    Raises:
        ValueError: the text is anything else, is nested too deeply, or its aliases expand to too many values.
    """
    try:
        loader = _Plain(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _expanded(node, {})
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        # PyYAML raises these if a value does not match its explicit tag, such as `!!int ""`
        raise ValueError(f"a value is not what its tag says: {error!r}") from None


def _expanded(node: yaml.Node, counts: dict[int, int]) -> int:
    """Number of values in a node; an alias counts as all values that it repeats."""
    if id(node) in counts:
        if not counts[id(node)]:
            raise ValueError(f"a value contains itself {node.start_mark}")
        return counts[id(node)]
    if isinstance(node, yaml.ScalarNode):
        node.value.encode()  # a lone surrogate cannot be encoded
        if found := _CONTROL.search(node.value):
            raise ValueError(f"a value holds the control character {found[0]!a} {node.start_mark}")
        return 1
    counts[id(node)] = 0
    inside = (
        node.value if isinstance(node, yaml.SequenceNode) else [n for p in node.value for n in p]
    )
    counts[id(node)] = 1 + sum(_expanded(child, counts) for child in inside)
    if counts[id(node)] > MAX_NODES:
        raise ValueError(f"its aliases stand for more than {MAX_NODES} values")
    return counts[id(node)]


class _Plain(yaml.SafeLoader):
    """``SafeLoader`` that refuses duplicate keys, instead of keeping the last, and integers over 64 bits."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                self._refuse("a key is a list or a mapping", key_node)
            if key in seen:
                self._refuse(f"key {key!r} is given twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value: int = super().construct_yaml_int(node)
        if value.bit_length() > 64:
            self._refuse("a number has more than 64 bits", node)
        return value

    @staticmethod
    def _refuse(what: str, node: yaml.Node) -> NoReturn:
        raise yaml.constructor.ConstructorError(None, None, what, node.start_mark)


_Plain.add_constructor("tag:yaml.org,2002:int", _Plain.construct_yaml_int)
