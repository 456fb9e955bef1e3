"""What the tables and the page tell of the checkpoint that a guarded adaptation kept."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny
from report_runs import HOSTILE, Reader, of_seed, rendered, with_papers, write_run
from typer.testing import CliRunner

from uda import api
from uda.cli.main import app
from uda.config.guard import Rule
from uda.config.loading import load_recipe
from uda.errors import DataError
from uda.pipeline import run as pipeline
from uda.report import selection as report_selection
from uda.report.adaptation import write_adaptation
from uda.report.files import read_metrics, read_selections
from uda.report.html import templates
from uda.report.page import write_report
from uda.report.seeds import seeds_summary, seeds_table
from uda.report.selection import SCORES, judged, kept_words, safe_ranks
from uda.report.tables import class_tables, table
from uda.report.wording import FELL_BACK, FELL_BACK_SEEDS, best, head_lines, marked
from uda.selection import Scores, choose

TITLE = "<h2>Which checkpoint was kept</h2>"
RULE = ("consistency", "ratio_distance", "agreement", "confidence")
FAULT = "myo <b> is not found any more"


def scores(quality: float) -> Scores:
    """All scores the better the larger ``quality`` is, but for the entropy, which likes a collapse."""
    values = dict.fromkeys((one.name for one in fields(Scores)), quality)
    return Scores(**{**values, "ratio_distance": 1 - quality, "entropy": quality / 10})


def selection(kept: str, **safe: float) -> dict[str, Any]:
    """As a guarded stage writes it: candidates by name and quality; steps 3 and 4 of 4 are unsafe."""
    ranked = {name.removeprefix("s_"): scores(value) for name, value in safe.items()}
    ranks = choose({"source": scores(0.5), "adabn": scores(0.6), **ranked}, Rule(ranked=RULE)).ranks
    judged = {"source": scores(0.5), "adabn": scores(0.6), **ranked}
    judged |= {"000030": scores(0.9), "000040": scores(math.nan)}
    candidates = []
    for name, one in judged.items():
        told = {k: None if math.isnan(v) else v for k, v in asdict(one).items()}
        step = int(name) if name.isdecimal() else 0
        lost = [FAULT, "lv takes 70 % of the pixels"] if step >= 30 else []
        entry = {"name": name, "step": step, "safe": not lost, "faults": lost}
        candidates.append({**entry, "rank": ranks.get(name), "scores": told})
    fallback = kept in ("source", "adabn")
    return {
        "select": "guarded",
        "kept": kept if fallback else f"step {int(kept)}",
        "step": 0 if fallback else int(kept),
        "fallback": fallback,
        "why": "best <i>rank</i>" if not fallback else "none of 2 safe checkpoints was better",
        "ended": f"2 checkpoints in a row were unsafe: {FAULT}",
        "rule": list(RULE),
        "candidates": candidates,
    }


GOOD = selection("000020", s_000010=0.7, s_000020=0.8)
POOR = selection("adabn", s_000010=0.3, s_000020=0.4)
KEYS = ("select", "kept", "step", "fallback", "why", "ended")


def guard(run: Path, name: str, said: dict[str, Any]) -> None:
    """Let a variant of a written run be a guarded one."""
    path = run / "evaluate" / "metrics.json"
    metrics = json.loads(path.read_text())
    row = next(row for row in metrics["rows"] if row["name"] == name)
    row["selection"] = {key: said[key] for key in KEYS}
    path.write_text(json.dumps(metrics))
    stage = run / f"adapt-{name}" / "stage.json"
    stage.parent.mkdir(exist_ok=True)
    record = json.loads(stage.read_text()) if stage.exists() else {"stage": f"adapt-{name}"}
    stage.write_text(json.dumps({**record, "selection": said}))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("box_plot", "curve", "overlay"):
        monkeypatch.setattr(f"uda.report.figures.{name}", lambda *_: "data:image/png;base64,")
    monkeypatch.setattr("uda.report.selection.rank_plot", lambda *_: "data:image/png;base64,")
    monkeypatch.setattr("uda.report.adaptation.curve", lambda *_: "data:image/png;base64,")


def shown(**selections: dict[str, Any]) -> str:
    """The section of variants alone."""
    template: Any = templates().get_template("selection.html").module
    return str(template.kept(**judged(selections)))  # type: ignore[arg-type]


def section(text: str) -> Reader:
    return Reader(text.partition(TITLE)[2].partition("</section>")[0])


def lines_of(text: str, name: str) -> list[list[str]]:
    """The words of a row's line of a terminal table, and of the line below it."""
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.split()[:1] == [name])
    return [line.split() for line in lines[at : at + 2]]


def test_a_row_that_fell_back_leads_to_the_row_of_the_same_network(run: Path) -> None:
    guard(run, "minent", POOR)
    text = rendered(table(read_metrics(run)))
    assert lines_of(text, "minent")[1] == ["→", "adabn"]
    assert FELL_BACK in " ".join(text.split())
    guard(run, "minent", selection("source", s_000010=0.1))
    assert lines_of(rendered(table(read_metrics(run))), "minent")[1] == ["→", "source_only"]


def test_a_row_that_kept_a_checkpoint_has_no_arrow(run: Path) -> None:
    before = rendered(table(read_metrics(run)))
    guard(run, "minent", GOOD)
    assert rendered(table(read_metrics(run))) == before
    assert "→" not in before


def test_the_arrow_costs_no_column_in_a_narrow_terminal(run: Path) -> None:
    before = rendered(table(read_metrics(run)), width=80)
    guard(run, "minent", POOR)
    after = rendered(table(read_metrics(run)), width=80)
    assert len(max(after.splitlines(), key=len)) == len(max(before.splitlines(), key=len))
    assert lines_of(after, "minent")[0] == lines_of(before, "minent")[0]


def test_the_arrow_stands_in_other_conventions_and_over_classes_too(run: Path) -> None:
    with_papers(run)
    guard(run, "minent", POOR)
    metrics = read_metrics(run)
    text = rendered(table(metrics)).partition("By the convention of")[2]
    assert lines_of(text, "minent")[1] == ["→", "adabn"]
    many = {**metrics, "classes": [f"c{i}" for i in range(9)]}
    for row in many["rows"]:
        one = row["dice"]["per_class"]["myo"]
        row["dice"]["per_class"] = dict.fromkeys(many["classes"], one)
    assert "→ adabn" in rendered(class_tables(many, 200)[0])


def test_an_oracles_row_keeps_its_dagger(run: Path) -> None:
    metrics = read_metrics(run)
    row = next(row for row in metrics["rows"] if row["name"] == "minent_oracle")
    assert marked(row) == "minent_oracle †"


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (24, ["self_training", "→ source_only"]),
        (10, ["self_", "training", "→ source_", "only"]),
    ],
)
def test_the_arrow_has_a_line_of_its_own(width: int, lines: list[str]) -> None:
    assert head_lines("self_training → source_only", width) == lines


def test_over_seeds_the_table_says_in_how_many_it_fell_back(run: Path) -> None:
    runs = []
    for seed, said in enumerate((POOR, GOOD, selection("source"))):
        guard(run, "minent", said)
        runs.append(of_seed(read_metrics(run), seed, 0.7))
    summary, shown = seeds_table(runs)
    json.dumps(summary, allow_nan=False)
    row = next(row for row in summary["rows"] if row["name"] == "minent")
    assert row["selection"] == {"fallbacks": 2, "kept": ["adabn", "step 20", "source"]}
    text = rendered(shown)
    assert lines_of(text, "minent")[1] == ["→", "2", "of", "3", "seeds"]
    assert FELL_BACK_SEEDS in " ".join(text.split())


def test_over_seeds_that_all_kept_a_checkpoint_there_is_no_arrow(run: Path) -> None:
    guard(run, "minent", GOOD)
    runs = [of_seed(read_metrics(run), seed, 0.7) for seed in (0, 1)]
    assert "→" not in rendered(seeds_table(runs)[1])
    rows = {row["name"]: row for row in seeds_summary(runs)["rows"]}
    assert rows["minent"]["selection"]["fallbacks"] == 0
    assert "selection" not in rows["adabn"]


def test_a_row_that_fell_back_does_not_win_over_what_it_fell_back_to(run: Path) -> None:
    """The same network twice: the adaptation is not what made it."""
    guard(run, "minent", POOR)
    rows = read_metrics(run)["rows"]
    by_name = {row["name"]: row for row in rows}
    by_name["adabn"]["dice"] = copy.deepcopy(by_name["minent"]["dice"])
    top = best(rows)
    assert top is not None
    assert top["name"] == "adabn"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("fallback", "perhaps", r"rows\.2\.selection\.fallback"),
        ("kept", None, r"rows\.2\.selection\.kept"),
    ],
)
def test_a_fault_in_what_a_row_kept_is_named(run: Path, key: str, value: Any, says: str) -> None:
    guard(run, "minent", {**POOR, key: value})
    with pytest.raises(DataError, match=says):
        read_metrics(run)


@pytest.mark.usefixtures("no_figures")
def test_without_a_guard_the_page_has_no_such_section(run: Path, tmp_path: Path) -> None:
    assert TITLE not in write_report(run, tmp_path).read_text(encoding="utf-8")
    assert read_selections(run) == {}


@pytest.mark.usefixtures("no_figures")
def test_the_page_tells_what_each_variant_kept_and_why(run: Path, tmp_path: Path) -> None:
    long = "adami_with_a_name_that_is_far_too_long_for_a_figure"
    guard(run, "minent", GOOD)
    guard(run, long, POOR)
    text = write_report(run, tmp_path).read_text(encoding="utf-8")
    assert "<small>kept step 20</small>" in text
    shown = section(text)
    flat = " ".join(shown.text.split())
    assert "minent step 20 2 of 4 best <i>rank</i> 2 checkpoints in a row were unsafe" in flat
    assert "→ adabn 2 of 4 none of 2 safe checkpoints was better" in flat
    assert flat.index("minent") < flat.index("→ adabn")  # as in the table of results
    assert "Not judged: minent_oracle †." in flat
    assert shown.tags.count("details") == 2
    assert f"Ranks of the checkpoints of {long} over its steps" in shown.alts
    assert "it cannot promise" in flat


@pytest.mark.usefixtures("no_figures")
def test_candidates_are_listed_with_their_faults_and_the_kept_one_is_shaded(
    run: Path, tmp_path: Path
) -> None:
    guard(run, "minent", GOOD)
    text = write_report(run, tmp_path).read_text(encoding="utf-8").partition("class=judged")[2]
    rows = text.partition("</table>")[0].partition("<tbody>")[2].split("<tr class=")[1:]
    heads = [row.partition("</th>")[0] for row in rows]
    assert [head.partition("<th scope=row>")[2] for head in heads] == [
        *("source_only", "adabn", "step 10", "step 20"),
        *("step 30", "", "step 40", ""),
    ]
    assert [head.startswith("'best'") for head in heads].index(True) == 3
    unsafe, faults = rows[4:6]
    assert "myo &lt;b&gt; is not found any more<br>lv takes 70 % of the pixels" in faults
    # Safe, mean rank, then the scores of the rule.
    cells = [cell.partition("</td>")[0] for cell in unsafe.split("<td>")[1:]]
    assert cells[:2] == ["<b class=bad>no</b>", "–"]
    assert dict(zip(RULE, cells[2:], strict=False))["agreement"] == "–"
    kept = [cell.partition("</td>")[0] for cell in rows[3].split("<td>")[1:]]
    assert kept[1:6] == ["<b>4.00</b>", *["<b>0.800</b>", "<b>0.200</b>"], *["<b>0.800</b>"] * 2]


@pytest.mark.usefixtures("no_figures")
def test_the_entropy_is_shown_last_and_said_not_to_count(run: Path, tmp_path: Path) -> None:
    guard(run, "minent", GOOD)
    shown = section(write_report(run, tmp_path).read_text(encoding="utf-8"))
    flat = " ".join(shown.text.split())
    glossary = flat.partition("What the scores measure")[2]
    assert "It is shown and never used, because it falls straight through a collapse" in glossary
    titles = [SCORES[name].title for name in (*RULE, "density", "entropy")]
    places = [glossary.index(title) for title in titles]
    assert places == sorted(places)


@pytest.mark.usefixtures("no_figures")
def test_a_damaged_record_of_the_guard_is_explained(run: Path, tmp_path: Path) -> None:
    guard(run, "minent", GOOD)
    damaged = {**GOOD, "candidates": [{"name": "source"}]}
    (run / "adapt-minent" / "stage.json").write_text(json.dumps({"selection": damaged}))
    text = Reader(write_report(run, tmp_path).read_text(encoding="utf-8")).text
    assert "Left out: adapt-minent/stage.json is not usable: selection.candidates.0.step" in text


def test_every_score_is_explained_and_its_direction_is_the_judges() -> None:
    assert set(SCORES) == {one.name for one in fields(Scores)}
    low, high = (Scores(*[value] * len(fields(Scores))) for value in (0.0, 1.0))
    for name, words in SCORES.items():
        grows = high.merit(name) > low.merit(name)
        assert words.better == ("" if name == "entropy" else "more" if grows else "less")


def test_the_mean_of_the_drawn_ranks_is_the_rank_that_decided() -> None:
    ranks = safe_ranks(GOOD)  # type: ignore[arg-type]
    decided = {one["name"]: one["rank"] for one in GOOD["candidates"] if one["safe"]}
    assert list(ranks) == list(decided)
    for name, rank in decided.items():
        assert sum(ranks[name].values()) / len(RULE) == pytest.approx(rank)


@pytest.mark.usefixtures("no_figures")
def test_a_score_that_nobody_knows_any_more_is_shown_by_its_name() -> None:
    said = copy.deepcopy(POOR)
    for one in said["candidates"]:
        one["scores"]["sharpness"] = 1e-5
    text = Reader(shown(minent=said)).text
    assert "sharpness" in text
    assert "1.0e−05" in text


def drawn(monkeypatch: pytest.MonkeyPatch, said: dict[str, Any]) -> Any:
    """The axes of the figure of a variant."""
    figures: list[Any] = []
    monkeypatch.setattr(report_selection, "svg", figures.append)
    titles = [SCORES[name].title for name in said["rule"]]
    report_selection.rank_plot("x", said, safe_ranks(said), titles)  # type: ignore[arg-type]
    return figures[0].axes[0]


def test_the_figure_shows_ranks_over_steps_the_kept_one_and_crosses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    axes = drawn(monkeypatch, GOOD)
    lines = {line.get_label(): line for line in axes.lines}
    mean = lines["their mean"]
    assert list(mean.get_xdata()) == [10, 20, 30, 40]
    assert list(mean.get_ydata())[:2] == [3.0, 4.0]
    assert all(math.isnan(y) for y in list(mean.get_ydata())[2:])
    assert list(lines["unsafe"].get_xdata()) == [30, 40]
    band = next(one for one in axes.patches if one.get_label() == "kept").get_extents()
    left, right = axes.transData.inverted().transform(band.get_points())[:, 0]
    assert left < 20 < right
    assert {SCORES[name].title for name in RULE} <= set(lines)
    assert [one.get_text() for one in axes.get_xticklabels()][:2] == ["source", "adabn"]


def test_what_may_not_replace_adabn_is_white_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    said = copy.deepcopy(GOOD)
    said["candidates"][2]["refused"] = "its labels are <far>"
    white = next(
        one for one in drawn(monkeypatch, said).lines if one.get_label() == "may not replace AdaBN"
    )
    assert (list(white.get_xdata()), white.get_markerfacecolor()) == ([10], "white")
    assert "may not replace AdaBN: its labels are <far>" in Reader(shown(minent=said)).text


@pytest.mark.usefixtures("no_figures")
def test_a_score_that_limits_says_so() -> None:
    said = copy.deepcopy(GOOD)
    said["criteria"] = {"better": {"consistency": 0}, "trust_region": 4.0, "distance": None}
    text = Reader(shown(minent=said)).text
    assert text.count("it limits what may replace AdaBN") == 2  # consistency, agreement before
    assert "it does not rank, and it limits" in text


def test_a_training_that_failed_before_its_first_checkpoint_still_has_a_figure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = copy.deepcopy(POOR)
    said["candidates"] = said["candidates"][:2]
    axes = drawn(monkeypatch, said)
    assert [one.get_text() for one in axes.get_xticklabels()] == ["source", "adabn"]


def test_the_same_selection_gives_the_same_section() -> None:
    assert shown(minent=GOOD) == shown(minent=GOOD)


def record(said: dict[str, Any] | None, **settings: Any) -> dict[str, Any]:
    plan = {"steps": 40, "batch": 4, "lr": 0.1, "batchnorm": "train", "freeze_head": False}
    plan |= {"snapshot_every": 10, "select": "guarded", "guard": {"images": 64}}
    plan |= {"objective": [{"term": "entropy", "weight": 1.0}], **settings}
    base = {"settings": plan, "seed": 3, "supervision": ["source_labels"], "environment": {}}
    return {**base, **({"selection": said} if said else {})}


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("said", [GOOD, POOR])
def test_the_page_of_ones_own_model_begins_with_what_was_kept_and_why(
    tmp_path: Path, said: dict[str, Any]
) -> None:
    text = write_adaptation(tmp_path, HOSTILE, record(said)).read_text(encoding="utf-8")
    assert HOSTILE not in text
    assert str(tmp_path) not in text
    page = Reader(text)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    lead = " ".join(page.text.partition("This page tells")[0].split())
    why = said["why"]
    assert lead.endswith(f"Kept {kept_words(said)} . {why[0].upper()}{why[1:]}.")  # type: ignore[arg-type]
    assert ("headline fell" in text) == said["fallback"]
    assert "seed 3 · used beyond images: source_labels" in page.text


@pytest.mark.usefixtures("no_figures")
def test_the_page_of_ones_own_model_says_where_nothing_was_judged(tmp_path: Path) -> None:
    last = write_adaptation(tmp_path, "x", record(None, select="last")).read_text(encoding="utf-8")
    assert "nothing was judged" in last
    assert TITLE not in last
    plain = {**record(None), "settings": "adabn"}
    adabn = write_adaptation(tmp_path, "x", plain).read_text(encoding="utf-8")
    assert "BatchNorm statistics of the target</b> and nothing else" in adabn


def test_adapting_ones_own_model_leaves_its_page_beside_it(tiny: Tiny, tmp_path: Path) -> None:
    fixed = ["compute.device=cpu", "pretrain.steps=2"]
    pipeline.run(
        load_recipe(tiny.recipe, [*tiny.overrides, *fixed]), tmp_path / "run", until="pretrain"
    )
    model, images, out = tmp_path / "run" / "pretrain", tiny.root / "t" / "images", tmp_path / "own"
    call = ["adapt", "--model", str(model), "--target", str(images), "--out", str(out), "-q"]
    sets = ["--method", "minent", "--set", "steps=2", "--set", "snapshot_every=1"]
    result = CliRunner().invoke(app, [*call, *sets, "--device", "cpu", "--allow-fallback"])
    assert result.exit_code == 0, result.output
    assert f"report: {out / 'report.html'}" in result.output.replace("\n", "")
    said = json.loads((out / "stage.json").read_text())
    assert "report.html" in said["files"]
    text = (out / "report.html").read_text(encoding="utf-8")
    assert "<title>own · uda report</title>" in text
    assert said["selection"]["why"][1:] in Reader(text).text.replace("\n", "")
    plain = api.adapt(model, images, tmp_path / "plain", method="adabn")
    assert plain == tmp_path / "plain" / "model.safetensors"
    assert (tmp_path / "plain" / "report.html").is_file()


@pytest.mark.parametrize(("better", "arrow"), [("smaller", "↓"), ("larger", "↑")])
def test_of_a_score_that_the_report_does_not_know_the_record_says_what_is_better(
    better: str, arrow: str
) -> None:
    told = selection("000010", s_000010=0.7)
    told["better"] = {"spread": better}
    for one in told["candidates"]:
        one["scores"]["spread"] = 0.5
    (variant,) = judged({"mine": told})["variants"]
    assert [head[-1] for head in variant["heads"] if head.startswith("spread")] == [arrow]
