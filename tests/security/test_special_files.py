"""Pipes, devices, folders and files larger than memory in the place of a network, its weights or a model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from uda.errors import ModelError
from uda.files import untrusted
from uda.networks.foreign import read_state
from uda.networks.importing import import_model
from uda.networks.model_file import load_model

DOORS: dict[str, Callable[[Path], object]] = {
    "network": lambda path: import_model(path, path.parent / "out", card="phantom_ct"),
    "trusted network": lambda path: import_model(
        path, path.parent / "out", card="phantom_ct", trust_code=True
    ),
    "weights": read_state,
    "model": load_model,
}
each_door = pytest.mark.parametrize("door", DOORS)


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a pipe would never end, so it fails here."""

    def refuse(*_: object) -> bytes:
        raise AssertionError("it was read")

    monkeypatch.setattr(Path, "read_bytes", refuse)


@each_door
@pytest.mark.parametrize("kind", ["pipe", "device", "link to a device"])
def test_a_special_file_is_called_so_and_not_read(
    door: str, kind: str, tmp_path: Path, unread: None
) -> None:
    path = tmp_path / "file.pt2"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/null")
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(ModelError, match="it is no regular file") as caught:
        DOORS[door](path)
    assert caught.value.where == path
    assert not (path.parent / "out").exists()


@pytest.mark.parametrize("door", ["network", "weights"])
def test_a_folder_is_called_so(door: str, tmp_path: Path, unread: None) -> None:
    with pytest.raises(ModelError, match="it is a folder"):
        DOORS[door](tmp_path)


@each_door
@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "file/below"], ids=["long", "NUL", "below"])
def test_a_name_that_no_file_can_have_is_refused(door: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="cannot be read"):
        DOORS[door](tmp_path / name)


@each_door
def test_a_file_larger_than_memory_is_not_read(
    door: str, tmp_path: Path, unread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.pt2"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    monkeypatch.setattr(untrusted, "memory", lambda: 103)
    with pytest.raises(ModelError, match="do not fit into memory") as caught:
        DOORS[door](path)
    assert caught.value.where == path


def test_a_file_that_is_no_archive_is_not_read_whole(tmp_path: Path, unread: None) -> None:
    path = tmp_path / "file.pt2"
    path.write_bytes(b"\x80\x02" + bytes(100))
    with pytest.raises(ModelError, match="cannot be read as a network"):
        DOORS["network"](path)
