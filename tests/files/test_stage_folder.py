"""Stage folders: foreign files outlive a stage, and a commit goes on from wherever it was killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from uda.errors import DataError, ModelError
from uda.files.ledger import LEDGER, Ledger
from uda.files.stage_folder import (
    REPLACED,
    STAGE_FILE,
    StageFolder,
    content_of,
    own_files,
    recorded_files,
)


def run(place: Path, name: str, restart: bool = False, **files: str) -> StageFolder:
    """Make a stage with these files, whose names have ``__`` for ``/``."""
    folder = StageFolder(place, name * 12)
    work = folder.begin(restart)
    for file, text in files.items():
        path = work / file.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def commit(folder: StageFolder) -> None:
    folder.commit({"hash": folder.hash})


def contents(place: Path) -> dict[str, str]:
    return {
        path.relative_to(place).as_posix(): path.read_text()
        for path in place.rglob("*")
        if path.is_file() and path.name != STAGE_FILE
    }


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A finished stage, to which somebody added files and folders."""
    place = tmp_path / "stage"
    commit(run(place, "a", model="old", gone="old", logs__old="old", snapshots__1__model="old"))
    (place / "masks" / "deep").mkdir(parents=True)
    (place / "empty").mkdir()
    (place / "notes.txt").write_text("mine")
    (place / "masks" / "deep" / "a.nii.gz").write_text("mine")
    (place / "logs" / "mine").write_text("mine")
    (place / "snapshots" / "1" / "mine").write_text("mine")
    (place / "link").symlink_to("notes.txt")
    return place


MINE = {
    "notes.txt": "mine",
    "masks/deep/a.nii.gz": "mine",
    "logs/mine": "mine",
    "snapshots/1/mine": "mine",
    "link": "mine",
}


@pytest.mark.parametrize("restart", [False, True])
def test_foreign_files_outlive_the_stage_and_nothing_else_does(place: Path, restart: bool) -> None:
    commit(run(place, "b", restart, model="new", logs__new="new"))
    assert contents(place) == {"model": "new", "logs/new": "new", **MINE}
    assert (place / "empty").is_dir()
    assert (place / "link").is_symlink()
    assert [path.name for path in place.parent.iterdir()] == ["stage"]
    commit(run(place, "c", model="newest"))
    assert contents(place) == {"model": "newest", **MINE}


@pytest.mark.parametrize("name", ["snapshots/1/model", "snapshots/2/model"])
def test_a_changed_file_that_no_stage_reads_outlives_the_stage(place: Path, name: str) -> None:
    (place / "snapshots/1/model").write_text("edited")
    folder = run(place, "b", model="new", **{name.replace("/", "__"): "new"})
    if name == "snapshots/1/model":
        with pytest.raises(DataError, match="uda did not write the one that is there"):
            commit(folder)
    else:
        commit(folder)
    assert (place / "snapshots/1/model").read_text() == "edited"


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("name", ["model", "gone"])
def test_a_changed_file_is_not_replaced_and_named_before_the_work(
    place: Path, name: str, restart: bool
) -> None:
    (place / name).write_text("edited")
    before = contents(place)
    with pytest.raises(DataError, match=f"changed after uda wrote it.*: {name}") as refused:
        StageFolder(place, "b" * 12).begin(restart)
    assert str(place) in str(refused.value)
    assert contents(place) == before
    (place / name).unlink()
    commit(run(place, "b", restart, model="new"))
    assert contents(place) == {"model": "new", **MINE}


@pytest.mark.parametrize("digest", ["0" * 64, None, 7])
@pytest.mark.parametrize("record", ["files", "unread", "list", "older", "ledger"])
def test_a_record_that_somebody_else_made_deletes_nothing(
    place: Path, record: str, digest: object
) -> None:
    names = ["notes.txt", "masks/deep/a.nii.gz", "link"]
    (place / "predictions" / "1").mkdir(parents=True)
    (place / "predictions" / "1" / "c.nii.gz").write_text("mine")
    recorded = json.loads((place / STAGE_FILE).read_text())
    recorded["files"] = {}
    if record == "ledger":
        line = json.dumps({"file": "notes.txt", "sha256": digest})
        (place / LEDGER).write_text(line + "\n")
    elif record == "list":
        recorded["unread"] = names
    elif record == "older":
        del recorded["unread"]
    else:
        recorded[record] = dict.fromkeys(names, digest)
    (place / STAGE_FILE).write_text(json.dumps(recorded))
    mine = {name: text for name, text in contents(place).items() if text == "mine"}
    with contextlib.suppress(DataError):
        commit(run(place, "b", other="new"))
    assert contents(place).items() >= mine.items()
    assert "predictions/1/c.nii.gz" in mine


def test_what_another_verb_wrote_there_outlives_the_stage(place: Path) -> None:
    ledger = Ledger(place)
    (place.parent / "finished").write_text("theirs")
    ledger.add(place / "mask.nii.gz", place.parent / "finished")
    (place.parent / "finished").rename(place / "mask.nii.gz")
    commit(run(place, "b", model="new"))
    assert (place / "mask.nii.gz").read_text() == "theirs"
    assert Ledger(place).owns(place / "mask.nii.gz")


def test_foreign_files_never_enter_the_record(place: Path) -> None:
    commit(run(place, "b", model="new"))
    assert own_files(place) & MINE.keys() == set()
    recorded = json.loads((place / STAGE_FILE).read_text())
    assert list(recorded["files"]) == ["model"]


@pytest.mark.parametrize("name", ["notes.txt", "masks", "masks__deep", "notes.txt__x", "link"])
def test_a_name_that_is_taken_is_refused_and_committed_once_it_is_free(
    place: Path, name: str
) -> None:
    before = contents(place)
    folder = run(place, "b", model="new", **{name: "new"})
    with pytest.raises(DataError, match="uda did not write the one that is there") as refused:
        commit(folder)
    assert str(place) in str(refused.value)
    assert contents(place) == before
    with pytest.raises(DataError):
        StageFolder(place, folder.hash).recorded()
    for path in (place / "notes.txt", place / "link", place / "masks"):
        path.rename(place.parent / f"my {path.name}")
    recorded = StageFolder(place, folder.hash).recorded()
    assert recorded is not None
    assert recorded["hash"] == folder.hash
    assert contents(place)[name.replace("__", "/")] == "new"
    assert not folder.work.exists()


@pytest.mark.parametrize("call", range(20))
def test_a_commit_killed_anywhere_goes_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Killed at its n-th rename or deletion."""
    folder, calls = run(place, "b", model="new", logs__new="new"), iter(range(call))

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def called(*arguments: object, **options: object) -> object:
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return called

    with monkeypatch.context() as patch:
        for name in ("replace", "unlink", "rmdir"):
            patch.setattr(os, name, counted(getattr(os, name)))
        with contextlib.suppress(KeyboardInterrupt):
            commit(folder)
    recorded = StageFolder(place, folder.hash).recorded()
    if recorded is None or recorded["hash"] != folder.hash:  # before stage.json was written
        assert call < 3
        commit(run(place, "b", model="new", logs__new="new"))
    assert contents(place) == {"model": "new", "logs/new": "new", **MINE}
    assert [path.name for path in place.parent.iterdir()] == ["stage"]


@pytest.mark.parametrize("name", [".stage.old", f".stage.{'b' * 12}", ".stage.0123456789ab"])
@pytest.mark.parametrize("hash_", ["a", "b"])
def test_a_copy_that_somebody_keeps_beside_the_stage_stays(
    place: Path, name: str, hash_: str
) -> None:
    copy = place.parent / name
    shutil.copytree(place, copy, symlinks=True)
    (copy / "notes.txt").write_text("older")
    before, older = contents(place), contents(copy)
    assert StageFolder(place, hash_ * 12).recorded() is not None
    if name == ".stage.0123456789ab":
        commit(run(place, "b", model="new"))
        assert contents(place)["notes.txt"] == "mine"
    else:
        with pytest.raises(ModelError, match="uda did not write it"):
            StageFolder(place, "b" * 12).begin(False)
        assert contents(place) == before
    assert contents(copy) == older


def test_killed_between_the_renames_a_file_of_the_user_is_not_replaced(place: Path) -> None:
    folder = run(place, "b", model="new")
    (place / REPLACED).touch()
    place.rename(place.parent / ".stage.old")
    write = folder.work / STAGE_FILE
    write.write_text(json.dumps({"hash": folder.hash, "files": {}, "unread": {}}))
    folder.work.rename(place)
    (place / "notes.txt").write_text("newer")
    with pytest.raises(DataError, match="would replace"):
        StageFolder(place, folder.hash).recorded()
    assert (place / "notes.txt").read_text() == "newer"
    (place / "notes.txt").rename(place.parent / "newer.txt")
    assert StageFolder(place, folder.hash).recorded() is not None
    assert contents(place) == {"model": "new", **MINE}
    assert not (place.parent / ".stage.old").exists()


def test_killed_between_the_renames_another_configuration_finds_the_older_stage(
    place: Path,
) -> None:
    before = contents(place)
    folder = run(place, "b", model="new")
    (place / REPLACED).touch()
    place.rename(place.parent / ".stage.old")  # as far as the first rename
    recorded = StageFolder(place, "c" * 12).recorded()
    assert recorded is not None
    assert recorded["hash"] == "a" * 12
    assert contents(place) == before
    StageFolder(place, "c" * 12).begin(restart=False)
    assert not folder.work.exists()


@pytest.mark.parametrize("name", [".stage.0123456789ab", ".stage.old", ".uda-mine", ".stage.notes"])
def test_a_hidden_folder_that_uda_did_not_start_stays(place: Path, name: str) -> None:
    mine = place.parent / name
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    if name == ".stage.old":
        with pytest.raises(ModelError, match="uda did not write it"):
            run(place, "b", restart=True)
    else:
        commit(run(place, "b", restart=True, model="new"))
    assert contents(mine) == {"notes.txt": "mine"}


def test_an_empty_folder_is_used_and_another_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    commit(run(tmp_path / "empty", "a", model="new"))
    assert contents(tmp_path / "empty") == {"model": "new"}
    (tmp_path / "full" / "deep").mkdir(parents=True)
    (tmp_path / "file").touch()
    for name in ("full", "file"):
        with pytest.raises(ModelError, match="uda did not write it"):
            run(tmp_path / name, "a")


def test_a_folder_that_appears_during_the_work_is_not_replaced(tmp_path: Path) -> None:
    folder = run(tmp_path / "stage", "a", model="new")
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="uda did not write it"):
        commit(folder)
    assert contents(tmp_path / "stage") == {"notes.txt": "mine"}


@pytest.mark.parametrize("files", [[], ["model"], "model", 1, None])
def test_a_record_whose_files_are_no_mapping_names_none(tmp_path: Path, files: object) -> None:
    (tmp_path / STAGE_FILE).write_text(json.dumps({"hash": "a", "files": files}))
    assert recorded_files(tmp_path) == []


@pytest.mark.parametrize("key", ["files", "unread"])
@pytest.mark.parametrize("name", ["/etc/passwd", "../model", "a/../../b", "", ".", "a" * 1001])
def test_a_record_that_names_files_elsewhere_is_refused(
    tmp_path: Path, name: str, key: str
) -> None:
    (tmp_path / STAGE_FILE).write_text(json.dumps({"hash": "a", key: {name: "a"}}))
    with pytest.raises(ModelError, match=f"{key} names"):
        content_of(tmp_path)
