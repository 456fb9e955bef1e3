"""Which files uda may replace: those that it wrote and nobody changed since."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from uda.errors import DataError, RunError
from uda.files.atomic import write_text
from uda.files.ledger import LEDGER, Ledger, enter_files
from uda.files.output import output_folder


def test_what_uda_wrote_may_be_replaced_by_a_later_process(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with output_folder(tmp_path):
            write_text(tmp_path / "deep" / "a", text)
    assert (tmp_path / "deep" / "a").read_text() == "second"
    assert Ledger(tmp_path).owns(tmp_path / "deep" / "a")


@pytest.mark.parametrize("make", ["file", "edited", "folder", "link", "dangling"])
def test_everything_else_is_refused_and_stays(tmp_path: Path, make: str) -> None:
    path, mine = tmp_path / "out" / "a", tmp_path / "mine"
    mine.write_text("years of work")
    with output_folder(tmp_path / "out"):
        write_text(tmp_path / "out" / ("a" if make == "edited" else "b"), "masks")
    if make in ("file", "edited"):
        path.write_text("years of work")
    elif make == "folder":
        path.mkdir()
    else:
        path.symlink_to(mine if make == "link" else tmp_path / "nowhere")
    before = os.lstat(path)
    told = "changed after uda wrote it" if make == "edited" else "not written by uda"
    with output_folder(tmp_path / "out"), pytest.raises(DataError, match=told) as refused:
        write_text(path, "masks")
    assert str(path) in str(refused.value)
    assert os.lstat(path) == before
    assert mine.read_text() == "years of work"


def test_a_link_to_what_uda_wrote_is_foreign(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with output_folder(out):
        write_text(out / "a", "masks")
    (out / "a").rename(out / "b")
    (out / "a").symlink_to("b")
    with output_folder(out), pytest.raises(DataError, match="changed after uda wrote it"):
        write_text(out / "a", "masks")


def test_a_file_enters_the_ledger_before_it_gets_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in between, the next process may write it all the same."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, output_folder(tmp_path):
        patch.setattr("uda.files.atomic.os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_text(tmp_path / "a", "masks")
    assert not (tmp_path / "a").exists()
    (tmp_path / "a").write_text("mine")  # and what somebody puts there meanwhile is his
    with output_folder(tmp_path), pytest.raises(DataError):
        write_text(tmp_path / "a", "masks")
    (tmp_path / "a").unlink()
    with output_folder(tmp_path):
        write_text(tmp_path / "a", "masks")


@pytest.mark.parametrize("torn", ['{"file": "b", "sha2', '{"file": "b"}', "[]", "1", "\N{SNOWMAN}"])
def test_half_a_line_of_a_killed_process_counts_for_nothing(tmp_path: Path, torn: str) -> None:
    with output_folder(tmp_path):
        write_text(tmp_path / "a", "masks")
    with (tmp_path / LEDGER).open("a", encoding="utf-8") as file:
        file.write(torn)
    with output_folder(tmp_path):
        write_text(tmp_path / "c", "masks")
    ledger = Ledger(tmp_path)
    assert ledger.names() == ["a", "c"]
    assert ledger.owns(tmp_path / "c")


def test_a_ledger_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LEDGER).symlink_to(tmp_path / "mine")
    with pytest.raises(DataError, match="is a link"), output_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "mine").read_text() == ""


def test_a_lock_that_a_kill_left_behind_never_blocks(tmp_path: Path) -> None:
    (tmp_path / ".uda.lock").touch()
    with output_folder(tmp_path):
        write_text(tmp_path / "a", "masks")
    assert sorted(path.name for path in tmp_path.iterdir()) == [LEDGER, "a"]


def test_a_second_process_is_refused_and_an_empty_folder_goes(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with output_folder(out), pytest.raises(RunError, match="another run is writing"):
        output_folder(out).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_of_the_user_and_a_full_lock_file_stay(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with output_folder(tmp_path / "empty"):
        pass
    assert list((tmp_path / "empty").iterdir()) == []
    (tmp_path / "empty" / ".uda.lock").write_text("mine")
    with output_folder(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty" / ".uda.lock").read_text() == "mine"


def test_a_file_system_without_locks_is_told_apart_from_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("uda.files.output.fcntl.flock", refuse)
    with pytest.raises(RunError, match=r"refuses locks.*No locks available"):
        output_folder(tmp_path / "out").__enter__()


def entered(folder: Path, name: str) -> Ledger:
    ledger = Ledger(folder)
    with enter_files(ledger):
        write_text(folder / name, name)
    return ledger


def test_a_foreign_file_of_its_name_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_text("mine\n")
    with pytest.raises(DataError, match="uda did not write it"):
        entered(tmp_path, "a.txt")
    assert (tmp_path / LEDGER).read_text() == "mine\n"
    assert not (tmp_path / "a.txt").exists()


def test_a_ledger_that_was_cut_in_any_line_goes_on(tmp_path: Path) -> None:
    entered(tmp_path, "a.txt")
    whole = (tmp_path / LEDGER).read_bytes()
    for cut in range(len(whole)):
        (tmp_path / LEDGER).write_bytes(whole[:cut])
        again = entered(tmp_path, "b.txt")
        assert again.owns(tmp_path / "b.txt")
        assert Ledger(tmp_path).owns(tmp_path / "b.txt")
        (tmp_path / "b.txt").unlink()
