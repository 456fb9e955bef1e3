"""Hostile names of cases, classes, rows, recipes and files: none acts as a path, a terminal command or markup."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import CLASSES, SIZE, Tiny, make_case, write_nifti
from pydantic import TypeAdapter, ValidationError
from report_runs import HOSTILE, write_run

from uda.api import evaluate_model, predict
from uda.check.page import Album
from uda.check.volumes import check_card
from uda.cli import main as cli
from uda.config.card import Prepare
from uda.config.fields import FileName, RowName
from uda.config.loading import available, load_card, load_recipe
from uda.config.networks import Network
from uda.config.recipe import Recipe
from uda.data.cases import cases_in, cases_of
from uda.data.convert import convert_to_records, write_tags
from uda.data.nnunet import read_listing, write_card
from uda.data.tags import read_tags
from uda.errors import DataError, UdaError, visible
from uda.files.untrusted import parse_json, parse_yaml
from uda.networks.build import build
from uda.networks.model_file import ModelInfo, load_model, save_model
from uda.priors import Prior
from uda.report.files import read_cases
from uda.report.page import write_report

PATHS = ["..", ".", "/etc/x", "../x", "a/b", "a/../b", "a\\b", "~/x", "", " ", ".x", "-x"]
SIGNS = ["a\0b", "a\nb", "a\n", "a\rb", "a\x1b[2Jb", "a\x9b2Jb", "a\x07b", "a\x7fb", "a\u202eb"]
ALIKE = ["a\u2215b", "a\uff0fb", "\u2024\u2024", "\uff0e\uff0e", "\u0430b", "a\u200bb"]
LONG = ["a" * 101, "a" * 5000]
CONTROL = ("\x1b", "\x07", "\x9b", "\x7f", "\r", "\u202e")


@pytest.mark.parametrize("name", [*PATHS, *SIGNS, *ALIKE, *LONG], ids=ascii)
@pytest.mark.parametrize("kind", [FileName, RowName], ids=["file", "row"])
def test_a_name_that_becomes_a_folder_is_letters_and_digits(name: str, kind: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(name)


@pytest.mark.parametrize("name", ["..", "../../x", "/etc/x", "a\nb", "a\0b", "a" * 300], ids=ascii)
@pytest.mark.parametrize("place", ["name", "adapt", "prior", "classes"])
def test_a_recipe_or_card_with_such_a_name_is_refused(name: str, place: str, tiny: Tiny) -> None:
    path = tiny.home / ("source.yaml" if place == "classes" else "tiny.yaml")
    raw = yaml.safe_load(path.read_text())
    if place == "classes":
        raw["classes"][1] = name
    elif place == "name":
        raw["name"] = name
    else:
        raw[place][name] = raw[place].popitem()[1]
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(UdaError) as refused:
        (load_card if place == "classes" else load_recipe)(str(path))
    assert "\0" not in str(refused.value)


def with_split(tiny: Tiny, entry: str, card: str = "target") -> Any:
    path = tiny.home / f"{card}.yaml"
    raw = yaml.safe_load(path.read_text())
    raw["splits"]["test"] = [entry]
    path.write_text(yaml.safe_dump(raw))
    return load_card(str(path))


@pytest.mark.parametrize(
    "name",
    ["..", "x/..", "../x", "a/../x", "/x", "a\\b", "a\u202eb", ".x", "x/", "a" * 201],
    ids=ascii,
)
def test_a_case_of_a_card_cannot_be_called_like_that(name: str, tiny: Tiny) -> None:
    card = with_split(tiny, name)
    with pytest.raises(DataError, match="cannot be called"):
        cases_of(card, tiny.root, "test")


@pytest.mark.parametrize("sign", ["\n", "\x1b[2J", "\u202e", "\\", "\udcff"], ids=ascii)
def test_a_file_cannot_be_called_like_that(sign: str, tmp_path: Path) -> None:
    write_nifti(tmp_path / "good.nii.gz", np.zeros((2, 2, 2), np.int16)).rename(
        tmp_path / f"a{sign}b.nii.gz"
    )
    with pytest.raises(DataError, match="cannot be called") as refused:
        cases_in(tmp_path)
    str(refused.value).encode()
    assert not any(letter in str(refused.value) for letter in CONTROL)


def test_names_in_every_language_are_names(tmp_path: Path) -> None:
    for name in ("Größe 1", "患者-7", "case (2)", "a..b", "=1+1"):
        write_nifti(tmp_path / f"{name}.nii.gz", np.zeros((2, 2, 2), np.int16))
    assert len(cases_in(tmp_path)) == 5


def model(path: Path, *classes: str) -> Path:
    network = Network(channels=(4, 8), res_units=0)
    names = classes or tuple(CLASSES)
    info = ModelInfo(network, names, Prepare(size=(SIZE, SIZE)), ("none",), origin={})
    save_model(path, build(network, len(names)), info)
    return path


def test_predictions_and_records_stay_in_their_folder(tiny: Tiny, tmp_path: Path) -> None:
    """The folder above stays unchanged under any case name."""
    above = tmp_path / "above"
    images, out = above / "images", above / "out"
    write_nifti(images / "..a...nii.gz", make_case(0, False)[0]).rename(images / "a...nii.gz")
    list(predict(model(above / "model.safetensors"), images, out))
    assert sorted(path.name for path in above.iterdir()) == ["images", "model.safetensors", "out"]
    assert (out / "a...nii.gz").is_file()
    card = with_split(tiny, "../../outside", "source")
    write_nifti(tiny.root.parent / "outside.nii.gz", make_case(0, False)[0])
    for kind in ("images", "labels"):
        write_nifti(tiny.root / "s" / kind / "c2.nii.gz", make_case(0, False)[1] * np.uint8(10))
    with pytest.raises(UdaError):
        convert_to_records(card, tiny.root, above / "records")
    assert not list(above.rglob("*outside*"))


@pytest.mark.parametrize("place", ["../stolen.csv", "{root}/../stolen.csv", "t/../../stolen.csv"])
def test_a_card_does_not_say_that_tags_are_written_elsewhere(place: str, tiny: Tiny) -> None:
    path = tiny.home / "target.yaml"
    raw = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**raw, "tags": place.format(root=tiny.root)}))
    with pytest.raises(UdaError, match="outside its root"):
        write_tags(load_card(str(path)), tiny.root, "adapt", None)
    assert not (tiny.root.parent / "stolen.csv").exists()


FORMULAS = ("=cmd()", "+x", "-x", "@x", "'=x", "a;=x")


def test_no_table_that_we_write_runs_in_a_spreadsheet(tiny: Tiny, tmp_path: Path) -> None:
    path = tiny.home / "target.yaml"
    raw = yaml.safe_load(path.read_text())
    for name in FORMULAS:
        for kind in ("images", "labels"):
            folder = tiny.root / "t" / kind
            shutil.copy(folder / "c0.nii.gz", folder / f"{name}.nii.gz")
    path.write_text(yaml.safe_dump({**raw, "splits": {"test": list(FORMULAS)}}))
    card = load_card(str(path))
    tags = write_tags(card, tiny.root, "test", tmp_path / "tags.csv")
    found = evaluate_model(
        model(tmp_path / "model.safetensors"), str(path), tiny.root, tmp_path / "run"
    )
    assert found["data"]["cases"] == len(FORMULAS)
    for written in (tags, tmp_path / "run" / "evaluate" / "cases.csv"):
        with written.open(newline="") as file:
            cells = {cell for row in csv.reader(file) for cell in row}
        assert not [c for c in cells if c[:1] in tuple("=+-@")]
        assert "a;'=x" in cells
    assert {case for case, _ in read_tags(tags, card.classes[1:])} == set(FORMULAS)
    assert {score.case for score in read_cases(tmp_path / "run")} == set(FORMULAS)


def test_a_pattern_of_a_card_is_no_format_of_python(tiny: Tiny) -> None:
    path = tiny.home / "target.yaml"
    raw = yaml.safe_load(path.read_text())
    for pattern in ("{case.__class__}/{case}", "{case:>9999999999}{case}", "{0}{case}"):
        path.write_text(yaml.safe_dump({**raw, "images": f"{pattern}.nii.gz"}))
        with pytest.raises(UdaError, match="stand for something"):
            load_card(str(path))


def test_a_model_file_with_such_classes_is_refused(tmp_path: Path) -> None:
    for name in ("../x", "<b>", "a\x1b[2J", "a" * 200):
        with pytest.raises(UdaError, match=r"description|control"):
            load_model(model(tmp_path / "model.safetensors", "background", name))


def test_the_card_of_a_hostile_nnunet_folder_names_nothing_strange(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset001"
    write_nifti(folder / "imagesTr" / "c1_0000.nii.gz", make_case(0, False)[0])
    write_nifti(folder / "labelsTr" / "c1.nii.gz", make_case(0, False)[1])
    record = {
        "name": "../../evil",
        "channel_names": {"0": "MR <script>"},
        "labels": {"background": 0, "../<script>alert(1)</script>": 1, "a\u202e/b": 2},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(record))
    written = write_card(read_listing(folder), tmp_path / "mine.yaml")
    for name in written.card.classes:
        TypeAdapter(FileName).validate_python(name)
    record["labels"] = {"background": 0, "a\x1b[2J": 1}
    (folder / "dataset.json").write_text(json.dumps(record))
    with pytest.raises(UdaError, match="control character"):
        read_listing(folder)


# ---------------------------------------------------------------- the terminal


@pytest.mark.parametrize("code", ["\\u001b", "\\b", "\\f", "\\u0007", "\\u009B", "\\u0000", "\x9b"])
def test_control_characters_in_json_are_refused(code: str) -> None:
    with pytest.raises(ValueError, match=r"control character|NUL"):
        parse_json(f'{{"name": "a{code}"}}')
    escaped = parse_json('{"name": "a\\\\b\\\\\\\\u001b\\n\\t\\r\\n\\u00e9"}')
    assert escaped == {"name": "a\\b\\\\u001b\n\t\r\n\u00e9"}


@pytest.mark.parametrize("code", ["\\e", "\\x1b", "\\a", "\\x9b", "\\u009b", "\\0"])
def test_control_characters_in_yaml_are_refused(code: str) -> None:
    with pytest.raises(ValueError, match="control character"):
        parse_yaml(f'title: "a{code}[2J"')
    assert parse_yaml('title: "a\\n\\t\\xe9"') == {"title": "a\n\té"}


def test_an_error_shows_what_it_quotes_and_orders_nothing() -> None:
    error = UdaError("a\x1b[2J\nb", where=Path("x\r\u202ey"), expected="é ü 患 ×", fix="\x9b\udcff")
    assert str(error).splitlines() == [
        "a\\x1b[2J",
        "b",
        "  where:    x\\r\\u202ey",
        "  expected: é ü 患 ×",
        "  fix:      \\x9b\\udcff",
    ]
    assert visible("plain – text") == "plain – text"


@pytest.mark.parametrize("part", ["where", "expected", "fix"])
def test_a_name_with_a_line_break_forges_no_line_of_a_message(part: str) -> None:
    error = UdaError("cannot be read", **{part: "nl\nerror: fake"})
    assert str(error).splitlines() == ["cannot be read", f"  {part + ':':<10}nl\\nerror: fake"]


def test_a_file_with_a_line_break_in_its_name_forges_no_line(
    uda: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    path = tmp_path / "nl\nerror: fake"
    path.write_bytes(b"\x80\x04K\x01.")
    (tmp_path / "here" / "pipelines").mkdir()
    (tmp_path / "here" / "pipelines" / "a.yaml").write_text('title: "one\\nerror: fake"')
    for words in (
        ("import", path, "--card", "phantom_ct", "--out", "out"),
        ("predict", "--model", path, "--images", tmp_path, "--out", "out"),
        ("list",),
    ):
        _, printed = uda(*words)
        assert "\\nerror: fake" in printed
        assert [line for line in printed.splitlines()[1:] if line.startswith("error")] == []


@pytest.fixture
def uda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Exit code and complete output of a call of ``uda`` in an empty folder."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["uda", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return call


def test_no_verb_prints_what_a_terminal_would_obey(
    uda: Callable[..., tuple[int, str]], tiny: Tiny, tmp_path: Path
) -> None:
    sign = "\x1b]0;owned\x07"
    pipelines = Path("pipelines")
    pipelines.mkdir()
    (pipelines / f"a{sign}.yaml").write_text("title: hidden\n")
    (tmp_path / f"{sign}.yaml").write_text('name: "\\e[2J"\n')
    tags = tmp_path / "tags.csv"
    tags.write_text(f"case,slice,disk,ring\n{sign},x,1,1\n")
    trained = model(tmp_path / "model.safetensors")
    images = tmp_path / "images"
    write_nifti(images / "a.nii.gz", make_case(0, False)[0]).rename(images / f"{sign}.nii.gz")
    evaluate = tmp_path / "run" / "evaluate"
    evaluate.mkdir(parents=True)
    (evaluate / "metrics.json").write_text(json.dumps({"recipe": sign, "rows": []}))
    calls: dict[int, list[tuple[object, ...]]] = {
        0: [("list",)],
        2: [
            ("run", tmp_path / f"{sign}.yaml"),
            ("run", sign),
            ("run", tiny.recipe, f"{sign}=1"),
            ("show", tiny.recipe, f"title={sign}"),
            ("check", tiny.home / "source.yaml", "--root", sign),
            ("predict", "--model", trained, "--images", images, "--out", "out"),
            ("predict", "--model", sign, "--images", images, "--out", "out"),
            ("prior", "--model", trained, "--kind", "target_tags", "--tags", tags),
            ("report", evaluate.parent),
            ("adapt", "--model", trained, "--target", images, "--method", sign),
            ("import", sign, "--card", "mmwhs_mr", "--out", "out"),
        ],
    }
    for expected, lines in calls.items():
        for words in lines:
            code, printed = uda(*words)
            assert code == expected, (words, printed)
            assert printed
            assert [letter for letter in CONTROL if letter in printed] == [], words
    assert [name for name in available("recipe") if "owned" in name] == []


# ---------------------------------------------------------------- pages


class Page(HTMLParser):
    """Everything in a page that a browser would run or fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.found: list[str] = []
        self.policy = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for key, value in attrs:
            if key.startswith("on") or (
                key in ("src", "href", "action", "data", "srcset", "poster")
                and not (value or "").startswith("data:image/")
            ):
                self.found.append(f"{tag} {key}={value}")
            if value and "url(" in value:
                self.found.append(f"{tag} {key}={value}")
        if ("http-equiv", "Content-Security-Policy") in attrs:
            self.policy = dict(attrs)["content"] or ""


ACTIVE = {"script", "iframe", "object", "embed", "link", "base", "form", "svg", "audio", "video"}


def harmless(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.isdisjoint(ACTIVE)
    assert page.found == []
    assert "default-src 'none'" in page.policy
    assert "@import" not in text
    return text


def everywhere(value: Any, text: str) -> Any:
    """Replace every string by ``text``, except names that other files refer to."""
    if isinstance(value, dict):
        kept = {"name", "stage", "per_class", "recipe"}
        return {k: v if k in kept else everywhere(v, text) for k, v in value.items()}
    if isinstance(value, list):
        return [everywhere(item, text) for item in value]
    return text if isinstance(value, str) else value


def test_a_report_of_a_hostile_run_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from uda.report import figures as report_figures

    for draw in ("curve", "box_plot"):
        monkeypatch.setattr(report_figures, draw, lambda *a, **k: "data:image/png;base64,")
    run = tmp_path / "run"
    metrics = write_run(run)
    evil = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>"
    hostile = {**metrics, "recipe": evil, "rules": [evil], "environment": {evil: evil}}
    hostile["data"] = {evil: evil, "cases": 4}
    hostile["published"] = [{"row": evil, "dice": 1.0, "source": evil}]
    for row in hostile["rows"]:
        row["supervision"] = [evil]
    (run / "evaluate" / "metrics.json").write_text(json.dumps(hostile))
    for stage in run.glob("*/stage.json"):
        record = json.loads(stage.read_text())
        stage.write_text(json.dumps(everywhere(record, evil)))
    text = harmless(write_report(run, tmp_path / "out"))
    assert text.count("&lt;script&gt;alert(2)") > 5
    assert HOSTILE not in text


def test_the_pages_of_a_check_and_of_predictions_are_text(tiny: Tiny, tmp_path: Path) -> None:
    evil = "<script>alert(1)<!--\"'"
    for kind in ("images", "labels"):
        folder = tiny.root / "t" / kind
        (folder / "c2.nii.gz").rename(folder / f"{evil.replace('/', '')}.nii.gz")
    path = tiny.home / "target.yaml"
    raw = yaml.safe_load(path.read_text())
    raw |= {"title": evil, "citation": evil, "splits": {evil: [evil]}}
    path.write_text(yaml.safe_dump(raw))
    card = load_card(str(path))
    album = Album(tmp_path / "check", card)
    for report in check_card(card, tiny.root, pictures=True):
        album.add(report)
    text = harmless(album.write())
    assert "&lt;script&gt;" in text
    images = tmp_path / "images"
    write_nifti(images / "x.nii.gz", make_case(0, False)[0]).rename(images / f"{evil}.nii.gz")
    (images / "<b>broken.nii.gz").write_bytes(b"<script>")
    list(predict(model(tmp_path / "model.safetensors"), images, tmp_path / "out"))
    assert "&lt;b&gt;broken" in harmless(tmp_path / "out" / "report.html")


def test_a_prior_of_somebody_quotes_names_and_opens_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "prior.json"
    record = {
        "format": "uda-prior-1",
        "classes": ["background", "one"],
        "ratio": [0.5, 0.5],
        "supervision": ["none"],
        "how": "by hand",
        "images": {"../../x": {"0": [0.5, 0.5]}},
        "maps": {"shape": [2, 4, 4], "sha256": "0", "file": "/etc/passwd"},
    }
    path.write_text(json.dumps(record))
    with pytest.raises(UdaError) as refused:
        Prior.load(path)
    assert refused.value.where == tmp_path / "prior.safetensors"


def test_titles_and_sources_of_a_recipe_are_free_text(tiny: Tiny) -> None:
    recipe = load_recipe(tiny.recipe, ["title=<b>[red]$x$</b>"])
    assert isinstance(recipe, Recipe)
