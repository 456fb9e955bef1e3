"""Reading text, JSON, YAML and CSV of unknown origin: valid content, and the errors for the rest."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from uda.config.loading import available
from uda.data.nnunet.listing import read_listing
from uda.data.tags import read_tags
from uda.errors import DataError
from uda.files import untrusted
from uda.files.csv_files import csv_text, read_rows
from uda.files.untrusted import MAX_NODES, parse_json, parse_yaml, read_text

SHIPPED = [path for kind in ("recipe", "card") for path in available(kind).values()]


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
        ("a: !!python/name:os.system", "tag tag:yaml.org,2002:python/name:os.system is not read"),
        ("a: !!python/tuple []", "is not read"),
        ("a: !!set {x}", "is not read"),
        ("a: !!omap [x: 1]", "is not read"),
        ("a: !!binary aGk=", "is not read"),
        ("a: !!int '1'", "is not read"),
        ("%TAG ! !x\n---\na: 1", "directives"),
        ("a: 1\n--- \nb: 1", "more than one document"),
        ("a: *x", "has no anchor"),
        ("a: &x [*x]", "contains itself"),
        ("- " * 5000, "nested too deeply"),
        (f"a: {2**64}", "more than 64 bits"),
        ("a: !!int ''", "is not read"),
        ("a: [1\nb: 2", "line 2"),
        ('a: "\\ud800"', "invalid Unicode character"),
        ("a: \ud800", "surrogates not allowed"),
    ],
)
def test_yaml_of_more_than_plain_values_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_yaml(text)


def test_yaml_keeps_aliases_of_sane_size_but_no_inheritance() -> None:
    assert parse_yaml("base: &b {lr: 0.1}\nsame: *b") == {"base": {"lr": 0.1}, "same": {"lr": 0.1}}
    assert parse_yaml("") is None
    with pytest.raises(ValueError, match="line 2: merge"):
        parse_yaml("base: &b {lr: 0.1}\nother: {<<: *b}")


def test_yaml_that_other_readers_compute_stays_text() -> None:
    for text in (
        "1:30:00",
        "0b11",
        "0x1f",
        "017",
        "2020-13-45",
        "2001-01-01 00:00:00.5",
        "=",
        "<<",
    ):
        assert parse_yaml(f"a: {text}") == {"a": text}
    found = parse_yaml(
        "[1, -2, +3, 1_000, 0, 1.5, -.5e+3, .inf, 1e-3, yes, Off, ~, null, '1', !!str 1, ]"
    )
    expected = [
        1,
        -2,
        3,
        1000,
        0,
        1.5,
        "-.5e+3",
        math.inf,
        "1e-3",
        True,
        False,
        None,
        None,
        "1",
        "1",
    ]
    assert found == expected
    assert list(map(type, found)) == list(map(type, expected))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_read_as_by_the_common_reader(path: Path) -> None:
    assert repr(parse_yaml(path.read_text())) == repr(yaml.safe_load(path.read_text()))


def test_aliases_that_repeat_values_or_long_text_are_counted_before_they_expand() -> None:
    laughs = "a0: &a0 [x]\n" + "".join(
        f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 90)
    )
    long = f"a: &a {'x' * 64 * 1000}\nb: [{'*a, ' * 300}]"
    for text in (laughs, long):
        with pytest.raises(ValueError, match=f"more than {MAX_NODES} values"):
            parse_yaml(text)
    assert len(parse_yaml(long.replace("*a, " * 300, "*a, " * 200))["b"]) == 200


def steps(work: Callable[[], object]) -> int:
    """Calls of functions, of Python and of C, that a piece of work makes."""
    count = 0

    def counted(*_: object) -> None:
        nonlocal count
        count += 1

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        with contextlib.suppress(ValueError):
            work()
    finally:
        sys.setprofile(before)
    return count


class Key(str):
    """A key that counts how often it is compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Key.compared += 1
        return str.__eq__(self, other)


@pytest.mark.parametrize("number", [1000, 4000])
def test_a_key_given_twice_is_found_by_few_comparisons(number: int) -> None:
    pairs = [(Key(f"k{i}"), 0) for i in range(number)]
    Key.compared = 0
    with pytest.raises(ValueError, match=f"key 'k{number - 1}' is given twice"):
        untrusted._each_once([*pairs, (Key(f"k{number - 1}"), 0)])
    assert Key.compared < number


YAML = {
    "sexagesimal": lambda n: "seed: 1" + ":1" * n,
    "binary": lambda n: "x: 0b" + "1" * n,
    "merge": lambda n: (
        "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i}\n  <<: [*a{i - 1}]\n" for i in range(1, n))
    ),
    "keys": lambda n: "".join(f"k{i}: 1\n" for i in range(n)),
    "flow keys": lambda n: "{" + "".join(f"k{i}: [], " for i in range(n)) + "}",
    "time": lambda n: "x: 2001-01-01 00:00:00." + "1" * n,
    "anchors": lambda n: "".join(f"- &a{i} x\n- *a{i}\n" for i in range(n)),
    "key twice": lambda n: "".join(f"k{i}: 1\n" for i in range(n)) + f"k{n - 1}: 1",
    "comments": lambda n: "# x\n" * n + "a: 1",
    "deep": lambda n: "[" * n,
}


@pytest.mark.parametrize("kind", YAML)
def test_yaml_costs_steps_in_proportion_to_its_size(kind: str) -> None:
    few, many = (steps(lambda n=n: parse_yaml(YAML[kind](n))) for n in (300, 1200))
    assert many <= 4 * few + 100


def test_a_number_longer_than_any_is_refused_before_it_is_computed(tmp_path: Path) -> None:
    for text in ("1" * 5000, "1." + "1" * 5000):
        with pytest.raises(ValueError, match=r"64 bits|too long"):
            parse_yaml(f"a: {text}")
        with pytest.raises(ValueError, match=r"64 bits|too long"):
            parse_json(f"[{text}]")


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.truncate(1 << 40)  # a hole: nothing is on the disk
    with pytest.raises(ValueError, match="more than 134217728 bytes"):
        read_text(tmp_path / "x")


@pytest.mark.parametrize("text", ["[" + "1," * 50 + "1]", "[" * 60, "{" * 60])
def test_json_of_too_many_values_is_refused_before_it_is_parsed(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untrusted, "MAX_VALUES", 40)
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(ValueError, match="more than 40 values"):
        parse_json(text)


def test_json_deeper_than_its_users_can_follow_is_refused() -> None:
    assert parse_json("[" * 100 + "]" * 100)
    for text in ("[" * 102 + "]" * 102, '{"a":' * 102 + "0" + "}" * 102):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(text)


def test_a_spreadsheet_runs_no_cell_of_ours_and_the_names_come_back(tmp_path: Path) -> None:
    names = [
        "=1+1",
        "+x",
        "-x",
        "@sum(a)",
        "\t=x",
        "'=x",
        "''=x",
        "'x",
        " =x",
        "a;=x",
        "a,-b",
        "\uff1dx",
        "x",
    ]
    numbers = ["-1", "-0.5e-3", "-inf", "+2"]
    (tmp_path / "x.csv").write_text(csv_text([[*names, *numbers, -3]]))
    assert read_rows(tmp_path / "x.csv") == [(1, [*names, *numbers, "-3"])]
    with (tmp_path / "x.csv").open(newline="") as file:
        (raw,) = csv.reader(file)
    assert [cell for cell in raw if cell.strip(' "')[0] in "=+-@\t\uff1d"] == [*numbers, "-3"]
    assert "a;'=x" in raw


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


def test_a_data_set_of_nothing_but_faults_ends_at_the_first_hundred(tmp_path: Path) -> None:
    entries = ",".join(['{"image":"a"}'] * 5000)
    (tmp_path / "dataset.json").write_text(f'{{"training":[{entries}]}}')
    with pytest.raises(DataError, match="101 faults in"):
        read_listing(tmp_path)
