"""Annotations and NRRD files of a stranger: no other file is opened, no case of a test is read."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from uda.data.annotations.folder import find_annotations, read_annotations
from uda.data.annotations.grids import Grid

from uda.config.loading import load_card
from uda.data.nrrd import MAX_HEADER, read_header
from uda.data.volumes import read_volume
from uda.errors import DataError

HEADER = (
    "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 3 4\nencoding: raw\n"
    "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n"
)
CARD = load_card("cmrseg_lge")


WATCHED: list[list[str]] = []


def _note(event: str, values: tuple[object, ...]) -> None:
    if event == "open":
        for names in WATCHED:
            names.append(str(values[0]))


sys.addaudithook(_note)


@contextmanager
def watched(folder: Path) -> Iterator[list[str]]:
    """Names of the files below a folder that anybody opens within the block."""
    names: list[str] = []
    WATCHED.append(names)
    try:
        yield names
    finally:
        WATCHED.clear()
        names[:] = [Path(name).name for name in names if name.startswith(str(folder))]


@pytest.mark.parametrize("field", ["data file", "datafile"])
@pytest.mark.parametrize(
    "named", ["secret.raw", "../secret.raw", "{}/secret.raw", "LIST", "%03d.raw 0 9 1"]
)
@pytest.mark.parametrize("end", ["\n", ""])
def test_a_header_opens_no_other_file(tmp_path: Path, field: str, named: str, end: str) -> None:
    """Not even to look whether it is there; with the empty line that ends a header, and without."""
    for folder in (tmp_path, tmp_path / "in"):
        folder.mkdir(exist_ok=True)
        (folder / "secret.raw").write_bytes(b"the secret that is kept.")
    path = tmp_path / "in" / "x.nrrd"
    path.write_text(f"{HEADER}{field}: {named.format(tmp_path)}\n{end}")
    with (
        watched(tmp_path) as opened,
        pytest.raises(DataError, match="its voxels lie in another file") as caught,
    ):
        read_volume(path)
    assert "the secret" not in str(caught.value)
    assert opened == ["x.nrrd"]


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.nrrd")
    with pytest.raises(DataError, match="no such file"):
        read_header(tmp_path / "x.nrrd")
    os.mkfifo(tmp_path / "points.csv")
    with pytest.raises(DataError, match=r"'points\.csv' is no file"):
        find_annotations(tmp_path, photos=False)


def test_a_header_is_read_up_to_its_limit_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.nrrd"
    with path.open("wb") as file:
        file.write(HEADER.encode())
        file.truncate(1 << 40)  # a hole of a terabyte without an empty line
    with pytest.raises(DataError, match=f"more than {MAX_HEADER} bytes"):
        read_header(path)


def test_a_terminal_obeys_no_name(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text(
        "case,slice,row,column,class\n\x1b[2Jp1,0,0,0,\x1b[31mlv\n"
    )
    with pytest.raises(DataError) as caught:
        read_annotations(
            find_annotations(tmp_path, False), CARD, {"p1": Grid((9, 9, 9), np.eye(4))}
        )
    assert "\x1b" not in str(caught.value)
    assert r"\x1b[31mlv" in str(caught.value)


def test_cases_of_a_test_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("case,slice,row,column,class\np1,0,0,0,lv\n")
    grids = {"p1": Grid((9, 9, 9), np.eye(4))}
    with pytest.raises(
        DataError, match="case 'p1' may not be annotated: scores are computed on it"
    ):
        read_annotations(
            find_annotations(tmp_path, False), CARD, grids, {"p1": "scores are computed on it"}
        )
