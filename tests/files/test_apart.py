"""Outputs lie apart from inputs, however their paths are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from uda.errors import DataError
from uda.files.apart import check_apart


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``data/scans/a.nii.gz``, and a link to its folder."""
    scans = tmp_path / "data" / "scans"
    scans.mkdir(parents=True)
    (scans / "a.nii.gz").touch()
    (tmp_path / "data" / "x").mkdir()
    (tmp_path / "data" / "masks").mkdir()
    (tmp_path / "link").symlink_to(scans)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("out", "given"),
    [
        ("data/scans", "data/scans"),
        ("data/scans/masks", "data/scans"),
        ("data/scans/new/masks", "data/scans"),
        ("data", "data/scans"),
        (".", "data/scans"),
        ("data/scans", "link"),
        ("link", "data/scans"),
        ("link/masks", "data/scans"),
        ("data/../data/scans", "data/scans"),
        ("data/scans/a.nii.gz", "data/scans/a.nii.gz"),
        ("data/scans", "data/scans/a.nii.gz"),
        ("data", "data/scans/a.nii.gz"),
        ("data/x", "data/x/../x/y"),
    ],
)
def test_an_output_in_on_or_around_an_input_is_refused(data: Path, out: str, given: str) -> None:
    for written, read in ((Path(out), Path(given)), (Path(out).absolute(), data.parent / given)):
        with pytest.raises(DataError, match="of the same command"):
            check_apart(written, [read])


@pytest.mark.parametrize(
    ("out", "given"),
    [
        ("data/masks", "data/scans"),
        ("data/scans2", "data/scans"),
        ("masks", "data/scans"),
        ("data/scans/masks", "data/scans/a.nii.gz"),
        ("data/scans/b.json", "data/scans/a.nii.gz"),
        ("data/masks", "data/masks/../scans"),
        ("data/masks", "data/masks/../scans/a.nii.gz"),
    ],
)
def test_an_output_beside_an_input_is_fine(data: Path, out: str, given: str) -> None:
    check_apart(Path(out), [Path(given)])


def test_a_path_that_leads_up_from_the_output_is_beside_it(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data / "masks")
    for out in (".", "./", "../masks", "new"):
        check_apart(Path(out), [Path("../scans"), Path("../scans/a.nii.gz"), Path("../../link")])
    with pytest.raises(DataError, match="holds an input"):
        check_apart(Path(".."), [Path("../scans")])
