"""Clicks: what a table may look like, and every way in which it can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from annotated import PHOTO_CARD, photo_target, target, told
from hypothesis import given
from hypothesis import strategies as st

from uda.data.annotations.faults import Faults
from uda.data.annotations.marks import Point
from uda.data.annotations.points import Clicks, read_points
from uda.data.annotations.target import Target


def read(path: Path, content: str, of: Target | None = None) -> tuple[dict, str]:
    path.write_text(content, encoding="utf-8")
    of = target() if of is None else of
    faults = Faults()
    clicks = Clicks(of.card.classes, faults)
    read_points(path, of, clicks)
    return clicks.points(), told(faults.first)


TABLE = """case,slice,row,column,class
p1,0,6,5,disk
p1,4,0,0,background
p2,2,3,4,ring
"""
POINTS = {"p1": (Point(0, 6, 5, 1), Point(4, 0, 0, 0)), "p2": (Point(2, 3, 4, 3),)}


def test_a_click_is_a_pixel_and_a_class(tmp_path: Path) -> None:
    assert read(tmp_path / "points.csv", TABLE) == (POINTS, "")


@pytest.mark.parametrize(
    "content",
    [
        TABLE.replace(",", ";"),
        TABLE.replace(",", "\t"),
        TABLE.replace("\n", "\r\n"),
        "\ufeff" + TABLE,
        TABLE.replace(",", " , "),
        TABLE.replace("case,", "Case,").replace("class\n", "CLASS\n"),
        TABLE + "\n,,,,\n",
        TABLE.replace("disk", "Disk").replace("ring", "RING"),
        "class,column,row,slice,case\ndisk,5,6,0,p1\nbackground,0,0,4,p1\nring,4,3,2,p2\n",
    ],
)
def test_tables_of_spreadsheets_say_the_same(tmp_path: Path, content: str) -> None:
    assert read(tmp_path / "points.csv", content) == (POINTS, "")


def test_photographs_have_one_slice(tmp_path: Path) -> None:
    for content in (
        "case,row,column,class\na,7,11,car\n",
        "case,slice,row,column,class\na,,7,11,car\n",
    ):
        points, faults = read(tmp_path / "points.csv", content, photo_target())
        assert points == {"a": (Point(0, 7, 11, 1),)}
        assert faults == ""


HEAD = "case,slice,row,column,class\n"
FAULTS = {
    "an unknown class": (
        HEAD + "p1,0,1,1,dsk\np1,0,2,2,dsk\n",
        ["has no class 'dsk' (line 2, line 3)", "did you mean 'disk'?"],
    ),
    "an unknown case": (HEAD + "p3,0,1,1,disk\n", ["case 'p3' is not among", "did you mean 'p2'"]),
    "a row too many": (
        HEAD + "p1,0,7,1,disk\n",
        ["line 2", "row 7, column 1 of 7 rows and 6 columns", "rows 0 to 6 and columns 0 to 5"],
    ),
    "row and column exchanged": (HEAD + "p1,0,5,6,disk\n", ["seem to be exchanged"]),
    "a slice too many": (
        HEAD + "p1,5,1,1,disk\n",
        ["slice 5 of case 'p1', which has 5 slices", "0 to 4, along axis 1 of the file"],
    ),
    "a negative row": (HEAD + "p1,0,-1,1,disk\n", ["row is '-1'", "a whole number from 0"]),
    "half a pixel": (HEAD + "p1,0,1.5,1,disk\n", ["row is '1.5'"]),
    "a number without end": (HEAD + f"p1,0,{'9' * 5000},1,disk\n", ["row is '9999"]),
    "no class": (HEAD + "p1,0,1,1,\n", ["line 2 has no class"]),
    "a short line": (HEAD + "p1,0,1\n", ["line 2 has no class"]),
    "a long line": (HEAD + "p1,0,1,1,disk,yes\n", ["line 2 has more than its columns"]),
    "no slice": ("case,row,column,class\np1,1,1,disk\n", ["columns case,slice,row,column,class"]),
    "another column": ("case,slice,row,column,class,by\np1,0,1,1,disk,me\n", ["first line"]),
    "a column twice": ("case,slice,row,row,class\np1,0,1,1,disk\n", ["first line"]),
    "an empty file": ("", ["the file is empty"]),
    "no lines": (HEAD, ["no line below its first"]),
    "a click twice": (
        HEAD + "p1,0,1,1,disk\np1,0,2,1,disk\np1,0,1,1,disk\n",
        ["line 4", "a click on disk is given twice: case 'p1', slice 0, row 1, column 1", "line 2"],
    ),
    "two classes on a pixel": (
        HEAD + "p1,0,1,1,disk\np1,0,1,1,ring\n",
        ["a click on ring where another one says disk", "one click a pixel"],
    ),
    "no text": (HEAD + "p1,0,1,1,di\0sk\n", ["cannot be read", "NUL"]),
    "an open quote": (HEAD + '"p1,0,1,1,disk\n', ["cannot be read"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_says_where_and_what(tmp_path: Path, name: str) -> None:
    content, parts = FAULTS[name]
    points, faults = read(tmp_path / "points.csv", content)
    for part in (*parts, str(tmp_path / "points.csv")):
        assert part in faults
    kept = {"a click twice": 2, "two classes on a pixel": 1}.get(name, 0)
    assert len(points.get("p1", ())) == kept


def test_a_refused_case_says_why(tmp_path: Path) -> None:
    reason = "it belongs to the split 'test', on which scores are computed"
    _, faults = read(tmp_path / "points.csv", TABLE, target("p1", p2=reason))
    assert faults.startswith(f"case 'p2' may not be annotated: {reason} (line 4)")


def test_a_refused_case_is_refused_even_if_it_has_a_grid(tmp_path: Path) -> None:
    points, faults = read(tmp_path / "points.csv", TABLE, target("p1", "p2", p2="scores"))
    assert "p2" not in points
    assert "may not be annotated" in faults


def test_all_faults_are_told_at_once_and_the_rest_is_read(tmp_path: Path) -> None:
    content = HEAD + "p1,0,9,1,disk\np9,0,1,1,disk\np1,0,1,1,blob\np1,9,1,1,disk\np1,0,1,1,disk\n"
    points, faults = read(tmp_path / "points.csv", content)
    assert points == {"p1": (Point(0, 1, 1, 1),)}
    assert faults.count("where:") == 4


def test_a_fault_of_many_lines_is_one_fault(tmp_path: Path) -> None:
    content = HEAD + "".join(f"p9,0,{n},1,disk\n" for n in range(500))
    _, faults = read(tmp_path / "points.csv", content)
    assert faults.count("where:") == 1
    assert "(line 2, line 3, line 4, line 5, line 6 and 495 more)" in faults


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 7), st.integers(0, 11)),
        st.integers(0, 2),
        min_size=1,
    )
)
def test_any_table_of_clicks_inside_comes_back(clicks: dict[tuple[str, int, int], int]) -> None:
    import tempfile

    lines = [
        f"{case},{row},{column},{PHOTO_CARD.classes[index]}"
        for (case, row, column), index in clicks.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        points, faults = read(
            Path(folder) / "points.csv",
            "\n".join(["case,row,column,class", *lines]),
            photo_target(),
        )
    assert faults == ""
    found = {(case, p.row, p.column): p.class_index for case in points for p in points[case]}
    assert found == clicks
