"""The list of files that uda wrote: after a kill in any line, and where another file has its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from uda.errors import DataError
from uda.files.atomic import write_text
from uda.files.ledger import LEDGER, Ledger, enter_files


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
