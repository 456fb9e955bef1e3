"""Cached hashes: when they are written, of which files, and when they are not used."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from uda.data import hashes
from uda.data.hashes import Hashes
from uda.errors import DataError
from uda.files.digests import sha256_of

OLD = 10**18
"""a time long ago, in nanoseconds"""


def write(path: Path, text: str, changed: int = OLD) -> Path:
    path.write_text(text)
    os.utime(path, ns=(changed, changed))
    return path


def test_a_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a", "street")
    assert Hashes().of(path) == sha256_of(path) == hashlib.sha256(b"street").hexdigest()


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even few bytes are cached, and at once."""
    monkeypatch.setattr(hashes, "WORTH", 1)
    monkeypatch.setattr(hashes, "SETTLED", -1)


@pytest.mark.usefixtures("cached")
def test_an_unchanged_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, kept = write(tmp_path / "a", "street"), tmp_path / "store" / "hashes.json"
    first = Hashes(kept)
    digest = first.of(path)
    first.save()
    monkeypatch.setattr(hashes, "sha256_of", lambda path: pytest.fail("read again"))
    assert Hashes(kept).of(path) == digest


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize(
    ("text", "changed"), [("longer street", OLD), ("STREET", OLD + 1), ("STREET", OLD)]
)
def test_a_changed_file_is_read_again(tmp_path: Path, text: str, changed: int) -> None:
    """Also with the size and the time of modification of before."""
    path, kept = write(tmp_path / "a", "street"), tmp_path / "hashes.json"
    first = Hashes(kept)
    first.of(path)
    first.save()
    time.sleep(0.02)  # more than a tick of the clock
    write(path, text, changed)
    assert Hashes(kept).of(path) == sha256_of(path)


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("text", ["mine", "[]", '{"mine": 1}'])
def test_a_foreign_file_in_the_place_of_the_cache_stays(tmp_path: Path, text: str) -> None:
    kept = write(tmp_path / "hashes.json", text)
    found = Hashes(kept)
    found.of(write(tmp_path / "a", "street"))
    found.save()
    assert kept.read_text() == text


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        Hashes().of(tmp_path / "a")


def test_a_file_changed_just_now_is_not_remembered(tmp_path: Path) -> None:
    """It may change once more within the tick of its clock."""
    path = tmp_path / "a"
    path.write_text("street")
    found = Hashes()
    found.of(path)
    assert found.known == {}


def test_little_is_not_worth_a_file(tmp_path: Path) -> None:
    found = Hashes(tmp_path / "hashes.json")
    found.of(write(tmp_path / "a", "street"))
    found.save()
    assert not (tmp_path / "hashes.json").exists()


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a": [1, 2]}', '{"a": "b"}'])
def test_a_damaged_memory_is_none(tmp_path: Path, text: str) -> None:
    kept = tmp_path / "hashes.json"
    kept.write_text(text)
    path = write(tmp_path / "a", "street")
    assert Hashes(kept).of(path) == sha256_of(path)
    assert json.dumps(Hashes(kept).known) == "{}"
