"""Damaged files, at every reader: read or refused by name, quietly and within bounds."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from feeding import Reader, Seed, feed
from mutations import damaged, regrown, reworded
from readers import READERS

from uda.errors import DataError

FILES, SAMPLE = 130, 25
"""damaged ones for each reader of a campaign and of the sample, besides some 1,500 that are sound or made by hand"""


@pytest.mark.parametrize("files", [SAMPLE, pytest.param(FILES, marks=pytest.mark.campaign)])
@pytest.mark.parametrize(
    "reader", READERS, ids=[reader.name.replace(" ", "-") for reader in READERS]
)
@pytest.mark.usefixtures("as_users_see")
def test_a_damaged_file_is_read_or_refused_by_name(
    reader: Reader, tmp_path: Path, files: int
) -> None:
    result = feed(reader, round(files * reader.share), 0, tmp_path)
    assert result.failures == []
    assert result.read > 0
    assert result.refused > 0 or "hashes" in reader.name or reader.name == "store"


def test_more_than_two_thousand_files_are_tried_by_the_campaign() -> None:
    assert sum(round(FILES * reader.share) for reader in READERS) >= 2000


def rng(seed: str) -> Random:
    return Random(seed)  # noqa: S311 - no secret


def test_damage_is_the_same_for_the_same_seed() -> None:
    data = b"name: x\n" * 40
    for mutate in (damaged, reworded):
        assert mutate(data, rng("a")) == mutate(data, rng("a")) != mutate(data, rng("b"))
    tree = {"a": [1, {"b": 2}], "c": "d"}
    assert repr(regrown(tree, rng("a"))) == repr(regrown(tree, rng("a")))
    assert tree == {"a": [1, {"b": 2}], "c": "d"}


def _raise(error: BaseException) -> None:
    raise error


BAD_READERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another error": (lambda p: _raise(KeyError("x")), "KeyError"),
    "no name": (lambda p: _raise(DataError("bad", fix="mend it")), "without the file's name"),
    "no remedy": (lambda p: _raise(DataError("bad", where=p)), "without a remedy"),
    "a long message": (lambda p: _raise(DataError("y\n" * 60_000, where=p, fix="x")), "characters"),
    "noise": (lambda p: sys.stdout.write("oops\n"), "printed 'oops"),
    "noise of C": (lambda p: os.write(2, b"oops\n"), "printed 'oops"),
    "a warning": (lambda p: warnings.warn("careful", stacklevel=1), "warned: careful"),
    "greed": (lambda p: bytearray(400 << 20), " MiB"),
    "too much greed": (lambda p: bytearray(1 << 40), "MemoryError"),
}


@pytest.mark.parametrize(("read", "told"), BAD_READERS.values(), ids=list(BAD_READERS))
def test_a_reader_that_misbehaves_is_found(
    read: Callable[[Path], Any], told: str, tmp_path: Path
) -> None:
    reader = Reader("bad", lambda: [Seed("x.bin", b"sound")], read)
    (failure, *_) = feed(reader, 1, 0, tmp_path).failures
    assert told in failure
    assert "x.bin" in failure
