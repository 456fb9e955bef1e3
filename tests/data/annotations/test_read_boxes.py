"""Boxes of CSV and JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from annotated import photo_target, target, told

from uda.data.annotations.boxes import Boxes, boxes_of_list, read_boxes
from uda.data.annotations.faults import Faults
from uda.data.annotations.marks import Box
from uda.data.annotations.target import Target

HEAD = "case,slice,class,row0,column0,row1,column1\n"
TABLE = HEAD + "p1,0,disk,0,0,6,5\np1,0,disk,1,1,1,1\np2,4,ring,2,3,4,5\n"
BOXES = {
    "p1": (Box(0, 1, 0, 0, 6, 5), Box(0, 1, 1, 1, 1, 1)),
    "p2": (Box(4, 3, 2, 3, 4, 5),),
}


def read(path: Path, content: str, of: Target | None = None) -> tuple[dict, str]:
    path.write_text(content, encoding="utf-8")
    of = target() if of is None else of
    faults = Faults()
    boxes = Boxes(of.card.classes, faults)
    read_boxes(path, of, boxes)
    return boxes.boxes(), told(faults.first)


def listed(raw: Any) -> tuple[dict, str]:
    faults = Faults()
    boxes = Boxes(target().card.classes, faults)
    boxes_of_list(raw, Path("boxes.json"), target(), boxes)
    return boxes.boxes(), told(faults.first)


def objects(table: str) -> list[dict[str, Any]]:
    head, *lines = (line.split(",") for line in table.splitlines())
    rows = (dict(zip(head, line, strict=True)) for line in lines)
    return [{k: int(v) if v.isdigit() else v for k, v in row.items()} for row in rows]


def test_both_ends_belong_to_a_box(tmp_path: Path) -> None:
    assert read(tmp_path / "boxes.csv", TABLE) == (BOXES, "")


def test_a_list_says_the_same(tmp_path: Path) -> None:
    assert listed(json.loads(json.dumps(objects(TABLE)))) == (BOXES, "")


def test_photographs_have_one_slice(tmp_path: Path) -> None:
    content = "case,class,row0,column0,row1,column1\nb,sky,0,0,7,11\n"
    found = read(tmp_path / "boxes.csv", content, photo_target())
    assert found == ({"b": (Box(0, 2, 0, 0, 7, 11),)}, "")


FAULTS = {
    "rows inside out": (HEAD + "p1,0,disk,5,0,4,5\n", ["turned inside out: rows 5 to 4"]),
    "columns inside out": (HEAD + "p1,0,disk,0,3,4,2\n", ["turned inside out", "columns 3 to 2"]),
    "outside": (
        HEAD + "p1,0,disk,0,0,7,5\n",
        ["a box lies outside the image of case 'p1': row 7, column 5", "rows 0 to 6"],
    ),
    "in no slice": (HEAD + "p1,9,disk,0,0,6,5\n", ["a box lies in slice 9", "5 slices"]),
    "twice": (HEAD + "p1,0,disk,0,0,6,5\np1,0,disk,0,0,6,5\n", ["given twice", "line 2"]),
    "an unknown class": (HEAD + "p1,0,dsik,0,0,6,5\n", ["no class 'dsik'", "'disk'"]),
    "an unknown case": (HEAD + "q1,0,disk,0,0,6,5\n", ["case 'q1'"]),
    "no number": (HEAD + "p1,0,disk,0,0,six,5\n", ["row1 is 'six'"]),
    "columns of points": ("case,slice,row,column,class\np1,0,1,1,disk\n", ["first line"]),
    "an empty file": ("", ["is empty"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_says_where_and_what(tmp_path: Path, name: str) -> None:
    content, parts = FAULTS[name]
    boxes, faults = read(tmp_path / "boxes.csv", content)
    for part in (*parts, str(tmp_path / "boxes.csv")):
        assert part in faults
    assert sum(map(len, boxes.values())) == (1 if name == "twice" else 0)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ([], "the list is empty"),
        ([7], "entry 1 has no case"),
        ([{"case": "p1"}], "entry 1 has no class"),
        ([objects(TABLE)[0] | {"row0": True}], "row0 is 'True'"),
        ([objects(TABLE)[0] | {"row0": -1}], "row0 is '-1'"),
        ([objects(TABLE)[0] | {"row0": 1.0}], "row0 is '1.0'"),
        ([objects(TABLE)[0] | {"row0": [1]}], "row0 is '[1]'"),
        ([objects(TABLE)[0] | {"by": "me"}], "entry 1 has 'by'"),
        ([objects(TABLE)[0] | {"row1": 10**30}], "row1 is '1000"),
    ],
)
def test_a_list_is_held_to_the_same(raw: Any, told: str) -> None:
    boxes, faults = listed(raw)
    assert told in faults
    assert boxes == {}
