"""The report: one self-contained page from the files of a run, and the tables of the terminal."""

from __future__ import annotations

import copy
import json
import math
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_runs import (
    EXTRA,
    HOSTILE,
    PUBLISHED,
    ROWS,
    STRUCTURES,
    Reader,
    of_seed,
    rendered,
    with_papers,
    write_run,
)

from uda.cli.printing import print_table
from uda.errors import DataError, RunError
from uda.evaluation.dice_hd95 import summarise
from uda.evaluation.sifa import SIFA_RULES
from uda.report.files import read_metrics
from uda.report.page import write_report
from uda.report.sections import SUPERVISION
from uda.report.seeds import seeds_summary, seeds_table
from uda.report.tables import table
from uda.report.wording import number, points


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty pictures, where a test is about the words: figures take seconds."""
    for name in ("box_plot", "curve", "overlay"):
        monkeypatch.setattr(f"uda.report.figures.{name}", lambda *_: "data:image/png;base64,")


def test_page_is_self_contained_and_complete(run: Path, tmp_path: Path) -> None:
    path = write_report(run, tmp_path / "new" / "out")
    assert path == tmp_path / "new" / "out" / "report.html"
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\(|@import", text)
    assert str(tmp_path) not in text
    page = Reader(text)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not page.links
    assert all(source.startswith("data:image/") for source in page.sources)
    for name, (supervision, _) in ROWS.items():
        assert name in page.text.replace("\n", "")
        assert all(word in page.text for word in supervision)
    assert "Left out" not in page.text
    assert "missed: Dice 0 & distance = diagonal" in page.text
    assert "hash-of-pret" in page.text
    assert "1 min 5 s" in page.text


def test_every_structure_and_stage_has_its_figure(run: Path, tmp_path: Path) -> None:
    page = Reader(write_report(run, tmp_path).read_text(encoding="utf-8"))
    for structure in STRUCTURES:
        assert f"Dice of {structure}, a box per row" in page.alts
        assert f"HD95 of {structure}, a box per row" in page.alts
    for stage in ("pretrain", "adapt-minent"):
        assert f"Loss of {stage} over its steps" in page.alts
    panes = [alt for alt in page.alts if alt.startswith("worst: case ")]
    assert [alt.rsplit(", ", 1)[1] for alt in panes] == ["image", "before", "after", "reference"]


def test_names_are_text_and_never_markup(run: Path, tmp_path: Path) -> None:
    text = write_report(run, tmp_path).read_text(encoding="utf-8")
    assert HOSTILE not in text
    page = Reader(text)
    assert HOSTILE in page.text
    assert "cardiac $x_1$ <b>" in page.text
    assert STRUCTURES[1] in page.text


@pytest.mark.usefixtures("no_figures")
def test_invisible_characters_of_every_file_stand_as_codes_on_page_and_terminal(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in [path for path in run.rglob("*") if path.suffix in (".json", ".csv")]:
        text = path.read_text(encoding="utf-8")
        for name in ("minent", "myo", "mm", "p02", "source_labels"):
            text = text.replace(name, f"{name}\u202egpj\u200b")
        path.write_text(
            text.replace('"distance_unit": "mm\u202egpj\u200b"', '"distance_unit": "mm"')
        )
    (run / "adapt-minent").rename(run / "adapt-minent\u202egpj\u200b")
    page = write_report(run, tmp_path).read_text(encoding="utf-8")
    print_table(run)
    for shown in (page, capsys.readouterr().out):
        assert "\\u202e" in shown
        assert all(sign.isprintable() or sign in "\n\u00a0" for sign in shown)


def test_same_run_gives_the_same_page(run: Path, tmp_path: Path) -> None:
    first, second = (write_report(run, tmp_path / name).read_bytes() for name in "ab")
    assert first == second


@pytest.mark.usefixtures("no_figures")
def test_headline_is_the_best_row_without_target_labels(run: Path, tmp_path: Path) -> None:
    metrics = read_metrics(run)
    means = {row["name"]: 100 * row["dice"]["mean"] for row in metrics["rows"]}
    page = Reader(write_report(run, tmp_path).read_text(encoding="utf-8"))
    flat = " ".join(page.text.split())
    gain = means["minent"] - means["source_only"]
    assert "minent has the highest mean Dice without target labels" in flat
    assert f"{means['minent']:.1f}" in flat
    assert f"+{gain:.1f} points on source_only." in flat


@pytest.mark.usefixtures("no_figures")
def test_headline_tells_source_training_from_adaptation(run: Path, tmp_path: Path) -> None:
    metrics = read_metrics(run)
    rows = {row["name"]: row for row in metrics["rows"]}
    other = copy.deepcopy(rows["source_only"]) | {"name": "other_source_only", "source": "other"}
    other["dice"]["mean"] = rows["source_only"]["dice"]["mean"] + 0.05
    rows["minent"]["source"] = "other"
    metrics["rows"].append(other)
    (run / "evaluate" / "metrics.json").write_text(json.dumps(metrics))
    flat = " ".join(Reader(write_report(run, tmp_path).read_text(encoding="utf-8")).text.split())
    whole = 100 * (rows["minent"]["dice"]["mean"] - rows["source_only"]["dice"]["mean"])
    said = f"+{whole:.1f} points on source_only (+5.0 by source training, {whole - 5:+.1f} by adaptation)."
    assert said.replace("-", "−") in flat.replace("-", "−")


@pytest.mark.usefixtures("no_figures")
def test_headline_admits_that_no_adaptation_helped(run: Path, tmp_path: Path) -> None:
    metrics = read_metrics(run)
    adabn = next(row for row in metrics["rows"] if row["name"] == "adabn")
    adabn["dice"]["mean"] = 0.89
    (run / "evaluate" / "metrics.json").write_text(json.dumps(metrics))
    flat = " ".join(write_report(run, tmp_path).read_text(encoding="utf-8").split())
    assert "<b>adabn</b> has the highest mean Dice without target labels" in flat
    assert "no adaptation improves on it" in flat


def test_numbers_have_a_true_minus_and_no_negative_zero() -> None:
    assert [points(v, sign=True) for v in (-0.0321, -0.0004, 0.1)] == ["−3.2", "+0.0", "+10.0"]
    assert number(None) == "–"


@pytest.mark.parametrize(
    ("lost", "sentence"),
    [
        ("evaluate/overlays.json", "evaluate/overlays.json is missing"),
        ("evaluate/overlays.npz", "evaluate/overlays.npz is missing"),
        ("evaluate/cases.csv", "evaluate/cases.csv is missing"),
        ("*/metrics.csv", "no stage has a metrics.csv"),
        ("*/stage.json", "no stage has a stage.json"),
    ],
)
@pytest.mark.usefixtures("no_figures")
def test_a_missing_piece_is_explained(run: Path, tmp_path: Path, lost: str, sentence: str) -> None:
    for path in run.glob(lost):
        path.unlink()
    text = Reader(write_report(run, tmp_path).read_text(encoding="utf-8")).text
    assert f"Left out: {sentence}" in text
    assert "minent" in text


def grow(run: Path) -> None:
    image = np.zeros((4096, 4096), np.uint8)
    names = ("image_0", "reference_0", "source_only__0", "minent__0")
    np.savez_compressed(run / "evaluate/overlays.npz", **dict.fromkeys(names, image))  # type: ignore[arg-type]


def repeat(run: Path) -> None:
    path = run / "evaluate/overlays.json"
    path.write_text(json.dumps(4 * json.loads(path.read_text())))


def add_zeros(run: Path) -> None:
    """An array more that says to hold 4 GB."""
    with zipfile.ZipFile(run / "evaluate/overlays.npz", "a") as archive:
        archive.writestr("zeros.npy", b"")
        archive.infolist()[-1].file_size = 1 << 32


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (grow, "the pictures of case .* are too large"),
        (repeat, "evaluate/overlays.json is not usable: it has 4 entries"),
        (add_zeros, "overlays.npz is not usable: holds arrays of 4294"),
    ],
)
@pytest.mark.usefixtures("no_figures")
def test_pictures_made_to_cost_are_left_out(
    run: Path, tmp_path: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    spoil(run)
    assert re.search(sentence, Reader(write_report(run, tmp_path).read_text()).text)


def test_more_classes_than_a_card_can_have_are_refused(run: Path) -> None:
    path = run / "evaluate/metrics.json"
    content = json.loads(path.read_text())
    content["classes"] = [f"c{number}" for number in range(255)]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="has 255 classes"):
        read_metrics(run)


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("evaluate/cases.csv", "row,case\nminent,p01\n", "cases.csv is not usable: line 2"),
        ("evaluate/overlays.json", '[{"case": "p01"}]', "overlays.json is not usable: 0.slice"),
        ("evaluate/overlays.npz", "no archive", "overlays.npz is not usable"),
        ("pretrain/metrics.csv", "step,loss\n1,low\n", "pretrain/metrics.csv is not usable"),
        ("pretrain/stage.json", "[", "pretrain/stage.json is not usable"),
    ],
)
@pytest.mark.usefixtures("no_figures")
def test_a_damaged_piece_is_explained(
    run: Path, tmp_path: Path, file: str, content: str, sentence: str
) -> None:
    (run / file).write_text(content)
    page = Reader(write_report(run, tmp_path).read_text(encoding="utf-8"))
    assert sentence in page.text


def test_without_metrics_there_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metrics\.json is missing") as caught:
        write_report(tmp_path, tmp_path / "out")
    assert "uda evaluate" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("rules",), "none", "rules: Input should be a valid array"),
        (("rows", 2, "dice", "mean"), "high", r"rows\.2\.dice\.mean"),
        (("rows", 0, "assd", "sd"), math.nan, "NaN is not JSON"),
        (("rows", 2, "hd95", "per_class"), {}, "row minent has no hd95 of myo"),
    ],
)
def test_invalid_metrics_name_the_fault(
    run: Path, place: tuple[Any, ...], value: Any, says: str
) -> None:
    path = run / "evaluate" / "metrics.json"
    metrics = inner = json.loads(path.read_text())
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    path.write_text(json.dumps(metrics))
    with pytest.raises(DataError, match=says) as caught:
        read_metrics(run)
    assert "uda evaluate" in str(caught.value)


@pytest.mark.usefixtures("no_figures")
def test_nothing_scored_is_a_dash(run: Path, tmp_path: Path) -> None:
    """A run whose measures are all undefined still has a page and a table."""
    metrics = read_metrics(run)
    for row in metrics["rows"]:
        row.update(summarise([], STRUCTURES))
    (run / "evaluate" / "metrics.json").write_text(json.dumps(metrics))
    text = Reader(write_report(run, tmp_path).read_text(encoding="utf-8")).text
    assert "No row without target labels has a score." in text
    assert "–" in rendered(table(metrics))
    assert not re.search(r"\b(nan|None)\b", text + rendered(table(metrics)))


@pytest.mark.usefixtures("no_figures")
def test_out_that_is_a_file_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        write_report(run, tmp_path / "out")


def test_table_has_the_baselines_on_top_and_marks_target_labels(run: Path) -> None:
    metrics = read_metrics(run)
    text = rendered(table(metrics))
    lines = [line for line in text.splitlines() if line.split()[:1] and line.split()[0] in ROWS]
    assert [line.split()[0] for line in lines[:3]] == ["source_only", "adabn", "minent"]
    assert [line.split()[0] for line in lines[-2:]] == ["minent_oracle", "target_supervised"]
    assert [("†" in line) for line in lines] == [False] * 3 + [True] * 2  # the long name is folded
    assert "points (0–100)" in text
    assert "HD95 mm" in text
    assert lines[0].split()[-1] == "1"
    minent = next(row for row in metrics["rows"] if row["name"] == "minent")
    assert f"{100 * minent['dice']['mean']:.1f} ±{100 * minent['dice']['sd']:.1f}" in lines[2]


def test_table_keeps_every_column_and_word_in_a_narrow_terminal(run: Path) -> None:
    metrics = read_metrics(run)
    words = {word for supervision, _ in ROWS.values() for word in supervision}
    for shown in (table(metrics), seeds_table([metrics, of_seed(metrics, 1, 0.7)])[1]):
        text = rendered(shown, width=80)
        assert all(word in text for word in words)
        assert "missed" in text
        assert "seeds" in text or "over cases" in text


def test_markup_in_names_is_text(run: Path) -> None:
    metrics = read_metrics(run)
    metrics["recipe"] = metrics["rows"][0]["name"] = "[red]x[/red]"
    assert rendered(table(metrics)).count("[red]x[/red]") == 2


def test_seeds_hand_worked(run: Path) -> None:
    """0.6, 0.7, 0.8: mean 0.7, sd 0.1."""
    metrics = read_metrics(run)
    runs = [of_seed(metrics, seed, dice) for seed, dice in enumerate((0.6, 0.7, 0.8))]
    summary, shown = seeds_table(runs)
    assert summary == seeds_summary(runs)
    json.dumps(summary, allow_nan=False)
    rows = {row["name"]: row for row in summary["rows"]}
    dice = rows["minent"]["dice"]
    assert (dice["mean"], dice["sd"], dice["n"]) == pytest.approx((0.7, 0.1, 3))
    assert dice["per_class"]["myo"]["mean"] == pytest.approx(0.8)
    assert rows["source_only"]["dice"]["sd"] == pytest.approx(0)
    assert rows["source_only"]["missed"]["mean"] == 1
    assert summary["seeds"] == [0, 1, 2]
    assert summary["same_data"]
    text = rendered(shown)
    assert "70.0 ±10.0" in text
    assert "mean ±sd over 3 seeds" in text


def test_one_seed_has_no_spread_and_a_lone_row_says_so(run: Path) -> None:
    metrics = read_metrics(run)
    assert seeds_summary([metrics])["rows"][0]["dice"]["sd"] is None
    other = of_seed(metrics, 1, 0.7)
    other["rows"] = [row for row in other["rows"] if row["name"] != "adabn"]
    rows = {row["name"]: row for row in seeds_summary([metrics, other])["rows"]}
    assert (rows["adabn"]["n"], rows["minent"]["n"]) == (1, 2)


def test_seeds_of_different_data_are_announced(run: Path) -> None:
    metrics = read_metrics(run)
    other = of_seed(metrics, 1, 0.7)
    other["data"]["fingerprint"] = "another"
    summary, shown = seeds_table([metrics, other])
    assert not summary["same_data"]
    assert "DIFFERENT target data" in rendered(shown)


def test_runs_that_do_not_belong_together_are_refused(run: Path) -> None:
    metrics = read_metrics(run)
    for key, value in (("recipe", "other"), ("classes", ["myo"]), ("distance_unit", "voxel")):
        with pytest.raises(DataError, match=f"differ in {key}"):
            seeds_summary([metrics, {**of_seed(metrics, 1, 0.7), key: value}])
    with pytest.raises(DataError, match="seed 0 is given twice"):
        seeds_summary([metrics, metrics])
    with pytest.raises(DataError, match="no run"):
        seeds_summary([])
    other = of_seed(metrics, 1, 0.7)
    other["rows"][-1]["supervision"] = ["target_tags"]
    with pytest.raises(DataError, match="different supervision"):
        seeds_summary([metrics, other])


@pytest.mark.usefixtures("no_figures")
def test_published_rows_stand_apart_and_are_never_ranked(run: Path, tmp_path: Path) -> None:
    before = Reader(write_report(run, tmp_path / "a").read_text(encoding="utf-8")).text
    metrics = with_papers(run, convention=False)
    metrics["published"][1]["dice"] = 99.9  # better than every row of ours
    (run / "evaluate" / "metrics.json").write_text(json.dumps(metrics))
    text = write_report(run, tmp_path / "b").read_text(encoding="utf-8")
    page = Reader(text)
    assert "<b>minent</b> has the highest mean Dice" in text
    results, papers = text.split("<h2>Published, not run here</h2>")
    assert "PnP-AdaNet" not in results
    assert "99.9" in papers.partition("</section>")[0]
    assert "abstract of PnP-AdaNet" in papers
    assert "not ranked with ours" in page.text
    assert "unadapted <i>" in page.text
    assert "another & paper" in page.text
    assert "PnP-AdaNet" not in before


@pytest.mark.usefixtures("no_figures")
def test_the_convention_has_its_rules_its_rows_and_the_published_ones_below(
    run: Path, tmp_path: Path
) -> None:
    with_papers(run)
    text = write_report(run, tmp_path).read_text(encoding="utf-8")
    title = "<h2>By the convention of PnP-AdaNet and SIFA</h2>"
    section = Reader(text.partition(title)[2].partition("</section>")[0]).text
    assert all(rule in section for rule in SIFA_RULES)
    names = [section.index(name) for name in ("source_", "adabn", "minent", "Published, not run")]
    assert names == sorted(names)
    assert "63.9" in section
    assert "1 missed" in section
    assert text.count("Published, not run here") == 1


def test_the_table_has_sections_for_the_convention_and_for_papers(run: Path) -> None:
    metrics = with_papers(run)
    before = rendered(table({k: v for k, v in metrics.items() if k not in EXTRA}))
    text = rendered(table(metrics))
    ours, convention = text.split("By the convention of")
    convention, published = convention.split("Published, not run here")
    assert [line.split() for line in before.splitlines() if "minent" in line] == [
        line.split() for line in ours.splitlines() if "minent" in line
    ]
    assert "PnP-AdaNet" not in ours
    assert "ASSD in voxels" in convention
    mean = next(r for r in metrics["conventions"]["sifa"]["rows"] if r["name"] == "minent")
    line = next(line for line in convention.splitlines() if line.split()[:1] == ["minent"])
    assert line.split()[2] == points(mean["dice"]["mean"])
    lines = [line.split() for line in published.splitlines() if line.strip()]
    assert lines[0] == ["unadapted", "<i>", "13.2"]
    assert lines[1] == ["PnP-AdaNet", "63.9"]
    assert lines[2] == ["no", "number", "–"]
    said = " ".join(published.split())
    assert "unadapted <i>, PnP-AdaNet: abstract of PnP-AdaNet; no number: another" in said


def test_convention_and_papers_stay_readable_in_a_narrow_terminal(run: Path) -> None:
    metrics = with_papers(run)
    text = rendered(table(metrics), width=80)
    assert "Published, not run here" in text
    assert "missed" in text


def test_seeds_average_the_convention_and_keep_what_papers_say(run: Path) -> None:
    """minent 0.6, 0.7, 0.8 by the convention too: mean 0.7, sd 0.1 over seeds."""
    runs = []
    for seed, dice in enumerate((0.6, 0.7, 0.8)):
        metrics = copy.deepcopy(with_papers(run))
        metrics["environment"]["seed"] = seed
        rows = metrics["conventions"]["sifa"]["rows"]
        next(row for row in rows if row["name"] == "minent")["dice"]["mean"] = dice
        runs.append(metrics)
    summary, shown = seeds_table(runs)
    json.dumps(summary, allow_nan=False)
    rows = {row["name"]: row for row in summary["conventions"]["sifa"]["rows"]}
    dice = rows["minent"]["dice"]
    assert (dice["mean"], dice["sd"], dice["n"]) == pytest.approx((0.7, 0.1, 3))
    assert summary["published"] == PUBLISHED
    text = rendered(shown).partition("By the convention of")[2]
    assert "70.0 ±10.0" in text
    assert "63.9" in text
    without = [runs[0], {k: v for k, v in runs[1].items() if k != "conventions"}]
    assert "conventions" not in seeds_summary(without)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda m: m["published"][0].update(dice="high"), r"published\.0\.dice"),
        (lambda m: m["published"][0].pop("source"), r"published\.0\.source"),
        (
            lambda m: m["conventions"]["sifa"]["rows"][2]["assd"]["per_class"].pop("myo"),
            "row minent has no assd of myo",
        ),
        (lambda m: m["conventions"]["sifa"].pop("rules"), r"conventions\.sifa\.rules"),
    ],
)
def test_a_fault_in_what_papers_say_is_named(
    run: Path, spoil: Callable[[dict[str, Any]], object], says: str
) -> None:
    metrics = copy.deepcopy(with_papers(run))
    spoil(metrics)
    (run / "evaluate" / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(DataError, match=says):
        read_metrics(run)


@pytest.mark.usefixtures("no_figures")
def test_source_images_are_explained_in_the_ledger(run: Path, tmp_path: Path) -> None:
    metrics = read_metrics(run)
    minent = next(row for row in metrics["rows"] if row["name"] == "minent")
    minent["supervision"] = ["source_labels", "source_images"]
    (run / "evaluate" / "metrics.json").write_text(json.dumps(metrics))
    text = Reader(write_report(run, tmp_path).read_text(encoding="utf-8")).text
    assert "seen again during adaptation" in text
    assert list(SUPERVISION).index("source_images") == list(SUPERVISION).index("source_labels") + 1
    assert "source_images" in rendered(table(metrics))
