"""Files that never replace another one: all of them appear, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from uda.errors import DataError
from uda.files.new import new_files


def write(folder: Path, **texts: str) -> None:
    with new_files(folder) as work:
        for name, text in texts.items():
            (work / name).write_text(text)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_they_move_together_and_the_same_again_is_fine(tmp_path: Path) -> None:
    for _ in range(2):
        write(tmp_path / "deep", a="1", b="2")
        assert contents(tmp_path / "deep") == {"a": "1", "b": "2"}


def test_one_that_differs_keeps_all_away(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    with pytest.raises(DataError, match="another file of this name") as refused:
        write(tmp_path, a="1", b="2")
    assert str(tmp_path / "b") in str(refused.value)
    assert contents(tmp_path) == {"b": "mine"}


@pytest.mark.parametrize("kind", ["folder", "dangling"])
def test_whatever_has_the_name_stays(tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        (tmp_path / "a").mkdir()
    else:
        (tmp_path / "a").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError):
        write(tmp_path, a="1")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert not (tmp_path / "nowhere").exists()
