"""Pixel counts from a CSV: read exactly, every faulty line reported, no text evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uda.errors import DataError, PriorError
from uda.priors import from_size_counts, read_sizes

CLASSES = ("background", "disk", "ring")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path, text: str, **more: Any) -> Any:
    return read_sizes(write(path / "sizes.csv", text), "gt_size", CLASSES, **more)


# What is right -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "val_ids;gt_size\n1003_17.png;[90, 6, 4]\n1003_2.png;[100, 0, 0]\n",
        'val_ids,gt_size\n1003_17.png,"[90, 6, 4]"\n1003_2.png,"[100, 0, 0]"\n',
        "val_ids;gt_size\r\n1003_17;[90,6,4]\r\n\r\n1003_2;[100.0,0.,0e3]\r\n",
        ',val_ids,other,gt_size\n0,1003_17.nii.gz,"[1, 2]","[90.0, 6.0, 4.0]"\n'
        '1,1003_2.npy,x,"[ 100 , 0 , 0 ]"\n',
        "\ufeffgt_size;val_ids\n [90, 6, 4] ; 1003_17 \n[100, 0, 0];1003_2\n",
    ],
    ids=["semicolon", "comma", "windows", "more columns", "byte order mark"],
)
def test_both_separators_and_every_usual_way_of_writing_are_read(tmp_path: Path, text: str) -> None:
    expected = {("1003", 17): (90.0, 6.0, 4.0), ("1003", 2): (100.0, 0.0, 0.0)}
    assert read(tmp_path, text, pixels=100) == expected


@pytest.mark.parametrize(
    ("id_", "place"),
    [
        ("1003_17", ("1003", 17)),
        ("Case_01_3.png", ("Case_01", 3)),
        ("a.b_007.nii.gz", ("a.b", 7)),
        ("x__0", ("x_", 0)),
    ],
)
def test_the_last_number_of_an_id_is_the_slice(tmp_path: Path, id_: str, place: Any) -> None:
    assert list(read(tmp_path, f"val_ids;gt_size\n{id_};[1, 0, 0]\n")) == [place]


@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(
        st.tuples(*(st.integers(0, 65536) for _ in CLASSES)).filter(sum), min_size=1, max_size=20
    ),
    comma=st.booleans(),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, counts: Any, comma: bool
) -> None:
    lines = [f"c_{i}," + f'"{list(row)}"' for i, row in enumerate(counts)]
    text = "\n".join(["val_ids,gt_size", *lines]) + "\n"
    if not comma:
        text = text.replace('"', "").replace("_ids,", "_ids;").replace(",[", ";[")
    found = read(tmp_path_factory.mktemp("csv"), text)
    assert found == {("c", i): tuple(map(float, row)) for i, row in enumerate(counts)}


# What is wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("[90, 10]", "2 sizes in '[90, 10]'"),
        ("[90, 5, 4, 1]", "4 sizes in"),
        ("[90, -5, 15]", "negative or not finite"),
        ("[90, 1e999, 5]", "negative or not finite"),
        ("[0, 0, 0]", "cover no pixel"),
        ("[90, 6, 5]", "cover 101 pixels, but a prepared slice has 100"),
        ("[]", "the sizes are '[]'"),
        ("", "the sizes are ''"),
        ("90, 6, 4", "the sizes are '90, 6, 4'"),
        ("[90 6 4]", "the sizes are '[90 6 4]'"),
        ("[nan, 6, 4]", "the sizes are '[nan, 6, 4]'"),
        ("[90, [6], 4]", "the sizes are '[90, [6], 4]'"),
        ("[True, 6, 4]", "the sizes are '[True, 6, 4]'"),
        ("[0x10, 6, 4]", "the sizes are '[0x10, 6, 4]'"),
        ("[1_0, 6, 4]", "the sizes are '[1_0, 6, 4]'"),
        ("[90, 6, 4],", "the sizes are '[90, 6, 4],'"),
        ("[" * 5000, "the sizes are '[[["),
    ],
)
def test_sizes_no_image_can_have_are_refused(tmp_path: Path, cell: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, f"val_ids;gt_size\nok_1;[1, 0, 0]\nc_3;{cell}\n", pixels=100)
    for text in (message, "sizes.csv, line 3", "3 pixel counts", "fix:"):
        assert text in str(caught.value)
    assert len(str(caught.value)) < 600


def test_text_is_never_evaluated(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    code = f"[__import__('pathlib').Path({str(trap)!r}).touch(), 1, 2]"
    with pytest.raises(DataError, match="the sizes are"):
        read(tmp_path, f"val_ids;gt_size\nc_3;{code}\n")
    assert not trap.exists()


@pytest.mark.parametrize(
    "id_", ["1003", "_17", "1003_", "1003;17x", "c_x.png", "c_-1", "", "c_1 2"]
)
def test_an_id_that_names_no_slice_is_refused(tmp_path: Path, id_: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, f'val_ids;gt_size\n"{id_}";[1, 0, 0]\n')
    for text in (f"the id is {id_!r}", "line 2", "<case>_<slice>", "1003_17.png"):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "0 columns 'val_ids'"),
        ("val_ids\nc_1\n", "0 columns 'gt_size'"),
        ("ids;gt_size\nc_1;[1, 0, 0]\n", "its columns are ['ids', 'gt_size']"),
        ("val_ids;gtsize\nc_1;[1, 0, 0]\n", "did you mean 'gtsize'?"),
        ("val_ids;gt_size;gt_size\nc_1;[1, 0, 0];[1, 0, 0]\n", "2 columns 'gt_size'"),
        ("val_ids;gt_size\n", "names no image"),
        ("val_ids,gt_size\nc_1,[1, 0, 0]\n", "4 cells for 2 columns"),
        ("val_ids;gt_size\nc_1\n", "1 cells for 2 columns"),
        ("val_ids;gt_size\nc_1;[1, 0, 0]\nc_1.png;[1, 0, 0]\n", "a second line for c slice 1"),
    ],
)
def test_a_csv_of_another_form_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)
    assert "sizes.csv" in str(caught.value)
    assert "expected:" in str(caught.value)


def test_every_faulty_line_is_listed(tmp_path: Path) -> None:
    text = "val_ids;gt_size\nc_1;[1, 0]\nc_2;[1, 0, 0]\nc;[1, 0, 0]\nc_4;[-1, 2, 0]\n"
    with pytest.raises(DataError, match="3 faults") as caught:
        read(tmp_path, text)
    for line in (2, 4, 5):
        assert f"line {line}" in str(caught.value)
    assert "line 3" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_a_csv_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "sizes.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="sizes cannot be read") as caught:
        read_sizes(path, "gt_size", CLASSES)
    assert str(path) in str(caught.value)


# The prior -----------------------------------------------------------------------------------------

COUNTS = {("c", 1): (90.0, 6.0, 4.0), ("c", 0): (50.0, 0.0, 0.0)}


def test_each_image_has_its_counts_as_shares() -> None:
    made = from_size_counts(CLASSES, COUNTS, [("c", 0), ("c", 1)], "target_labels", "s.csv")
    assert made.supervision == ("target_labels",)
    assert made.ratio == pytest.approx((0.95, 0.03, 0.02))
    expected = np.array([[1, 0, 0], [0.9, 0.06, 0.04]])
    np.testing.assert_allclose(made.table([("c", 0), ("c", 1)]).numpy(), expected, atol=1e-7)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([("c", 0)], "1 images that the target does not have: c slice 1"),
        ([("c", 0), ("c", 1), ("d", 5)], "no sizes of 1 of 3 target images: d slice 5"),
    ],
)
def test_images_and_lines_that_do_not_match_are_reported(places: Any, message: str) -> None:
    with pytest.raises(PriorError, match=message) as caught:
        from_size_counts(CLASSES, COUNTS, places, "target_sizes", "s.csv")
    assert "s.csv" in str(caught.value)
    assert "fix:" in str(caught.value)
