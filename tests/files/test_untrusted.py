"""Reading text, JSON, YAML and CSV of unknown origin: valid content, and the errors for the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from uda.data.tags import read_tags
from uda.files.untrusted import parse_json, parse_yaml, read_rows, read_text


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "tags.csv"
    path.write_text("case,slice,lv\nc0,1,1\n", encoding="utf-8-sig")
    assert read_text(path).startswith("case")
    assert read_tags(path, ["lv"]) == {("c0", 1): (True,)}


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        read_text(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("content", "most", "message"),
    [(b"abc", 2, "more than 2 bytes"), (b"a\0b", 9, "NUL"), (b"\xff\xfea\0", 9, "codec")],
)
def test_what_is_no_text_is_refused(
    tmp_path: Path, content: bytes, most: int, message: str
) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_text(tmp_path / "x", most)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "NaN is not JSON"),
        ("[1e400]", "the number 1e400 is too large"),
        (f"[{2**64}]", "more than 64 bits"),
        (f"[{'9' * 5000}]", "more than 64 bits"),
        ('{"b": {"a": 1, "a": 2}}', "key 'a' is given twice"),
        ("[" * 10**5, "nested too deeply"),
        ('["\\ud800"]', "surrogates not allowed"),
    ],
)
def test_json_that_only_python_reads_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_json_keeps_what_the_standard_has() -> None:
    found = parse_json('{"a": [1, -2.5, 18446744073709551615, "\\ud83d\\ude00", null, true]}')
    assert found == {"a": [1, -2.5, 2**64 - 1, "\U0001f600", None, True]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "key 'a' is given twice"),
        ("{[a]: 1}", "a key is a list"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ("a: &x [*x]", "contains itself"),
        ("- " * 5000, "nested too deeply"),
        (f"a: {2**64}", "more than 64 bits"),
        ("a: !!int ''", "not what its tag says"),
        ("a: 2020-13-45", "month must be in"),
        ('a: "\\ud800"', "surrogates not allowed"),
    ],
)
def test_yaml_of_more_than_plain_values_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_yaml(text)


def test_yaml_keeps_aliases_of_sane_size_but_no_inheritance() -> None:
    assert parse_yaml("base: &b {lr: 0.1}\nsame: *b") == {"base": {"lr": 0.1}, "same": {"lr": 0.1}}
    assert parse_yaml("") is None
    with pytest.raises(ValueError, match="merge"):
        parse_yaml("base: &b {lr: 0.1}\nother: {<<: *b}")


def test_rows_of_a_csv_carry_their_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('a;b\n\n1;"x;y"\r\n')
    assert read_rows(path, ";,") == [(1, ["a", "b"]), (3, ["1", "x;y"])]
    path.write_text("a,b\n1,2\n")
    assert read_rows(path, ";,") == [(1, ["a", "b"]), (2, ["1", "2"])]


@pytest.mark.parametrize(
    ("text", "message"),
    [('a\n"x', "line 2: unexpected end"), ("a\n" + "x" * 10**6, "line 2: field")],
)
def test_a_csv_whose_cells_never_end_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_rows(tmp_path / "x.csv")
