"""Rows that are not ranked in tables and on the page: with post-processing, and of last steps beside the kept one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from report_runs import ROWS, of_seed, rendered, write_run

from uda.errors import DataError
from uda.report.files import read_metrics
from uda.report.page import write_report
from uda.report.seeds import seeds_summary, seeds_table
from uda.report.tables import table
from uda.report.wording import best, leads, ordered, role, tops

STEPS = {"views": 5, "largest": ["myo"]}
SAID = '+ post: views 5, largest ["myo"]'


@pytest.fixture
def metrics(tmp_path: Path) -> dict[str, Any]:
    """Those of a run in which every row is better with the steps than any row without."""
    content = write_run(tmp_path / "run")
    for row in list(content["rows"]):
        stepped = copy.deepcopy(row)
        stepped |= {"name": f"{row['name']} + post", "postprocess": STEPS}
        stepped["dice"]["mean"] = 0.5 + stepped["dice"]["mean"] / 2
        for one in stepped["dice"]["per_class"].values():
            one["mean"] = 0.5 + one["mean"] / 2
        content["rows"].append(stepped)
    (tmp_path / "run" / "evaluate" / "metrics.json").write_text(json.dumps(content))
    return read_metrics(tmp_path / "run")


def test_a_row_follows_that_of_the_same_network_and_plays_its_part(metrics: Any) -> None:
    rows = ordered(metrics["rows"])
    names = [row["name"] for row in rows]
    assert names[:4] == ["source_only", "source_only + post", "adabn", "adabn + post"]
    roles = {row["name"]: role(row) for row in rows}
    assert all(roles[f"{name} + post"] == roles[name] for name in ROWS)
    assert set(names) == {*ROWS, *(f"{name} + post" for name in ROWS)}


def test_rows_with_steps_win_nothing(metrics: Any) -> None:
    top = best(metrics["rows"])
    assert top is not None
    assert top["name"] == "minent"
    highest = tops(metrics["rows"], ["myo"])
    winners = [row["name"] for row in metrics["rows"] if leads(row, "myo", highest[0])]
    assert winners == ["minent"]


def test_the_terminal_lists_the_rows_and_says_the_steps(metrics: Any) -> None:
    text = rendered(table(metrics))
    assert "adabn + post" in text
    assert SAID in " ".join(text.split())
    plain = {**metrics, "rows": [r for r in metrics["rows"] if "postprocess" not in r]}
    assert "post" not in rendered(table(plain))


def test_the_page_lists_them_and_its_headline_is_of_a_row_without(
    metrics: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("box_plot", "curve", "overlay"):
        monkeypatch.setattr(f"uda.report.figures.{name}", lambda *_: "data:image/png;base64,")
    text = write_report(tmp_path / "run", tmp_path).read_text(encoding="utf-8")
    flat = " ".join(text.split())
    assert "<b>minent</b> has the highest mean Dice" in flat
    assert "+ post: views 5, largest [&#34;myo&#34;] (the same network with post-processing" in flat
    assert "adabn + post" in flat


def test_over_seeds_rows_with_steps_are_averaged_apart(metrics: Any) -> None:
    other = of_seed(metrics, 1, 0.7)
    summary, shown = seeds_table([metrics, other])
    rows = {row["name"]: row for row in summary["rows"]}
    assert rows["minent + post"]["postprocess"] == STEPS
    assert "postprocess" not in rows["minent"]
    before = next(row for row in metrics["rows"] if row["name"] == "minent + post")
    assert rows["minent + post"]["dice"]["mean"] == pytest.approx(before["dice"]["mean"])
    assert rows["minent"]["dice"]["mean"] != rows["minent + post"]["dice"]["mean"]
    assert SAID in " ".join(rendered(shown).split())


def test_runs_with_different_steps_do_not_belong_together(metrics: Any) -> None:
    other = of_seed(metrics, 1, 0.7)
    for row in other["rows"]:
        if "postprocess" in row:
            row["postprocess"] = {"views": 5}
    with pytest.raises(DataError, match="different postprocess in different runs"):
        seeds_summary([metrics, other])


def test_a_last_step_beside_the_kept_one_wins_nothing_and_is_explained(tmp_path: Path) -> None:
    run = tmp_path / "run"
    content = write_run(run)
    last = copy.deepcopy(next(row for row in content["rows"] if row["name"] == "minent"))
    last["name"] = "minent_last"
    last["dice"]["mean"] = 0.99
    content["rows"].append(last)
    (run / "evaluate" / "metrics.json").write_text(json.dumps(content))
    metrics = read_metrics(run)
    top = best(metrics["rows"])
    assert top is not None
    assert top["name"] == "minent"
    said = "…_last: the last step of a training of which another was kept, not ranked"
    assert said in " ".join(rendered(table(metrics)).split())
    write_report(run, tmp_path / "page")
    page = (tmp_path / "page" / "report.html").read_text()
    assert said in page
    assert "Not judged: minent_last" not in page


def test_tables_say_why_there_is_a_row_of_views(tmp_path: Path) -> None:
    run = tmp_path / "run"
    content = write_run(run)
    assert "for want of BatchNorm" not in rendered(table(content))
    row = copy.deepcopy(content["rows"][0])
    content["rows"].append({**row, "name": "views", "postprocess": {"views": 5}})
    assert "for want of BatchNorm" in " ".join(rendered(table(content)).split())
    (run / "evaluate" / "metrics.json").write_text(json.dumps(content))
    write_report(run, tmp_path / "page")
    assert "for want of BatchNorm" in (tmp_path / "page" / "report.html").read_text()
