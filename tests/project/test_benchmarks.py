"""The benchmarks run on what their headers name; what they measure is not judged here."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml
from conftest import Tiny, load_script, write_nifti

import uda.losses
from uda.config.guard import IMAGES, SLICES, Guard
from uda.config.loading import load_card, load_recipe
from uda.data.cases import cases_of
from uda.data.store import open_store
from uda.data.synthetic.phantom.dataset import write_phantom
from uda.files.atomic import read_json
from uda.networks.model_file import load_model
from uda.pipeline import run as pipeline
from uda.types import Scalar

FOLDER = Path(__file__).parents[2] / "benchmarks"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script(FOLDER / f"{name}.py", monkeypatch)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("loop", monkeypatch)


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("losses", monkeypatch)


def test_loop_and_store_are_measured_on_the_phantom(loop: ModuleType, tmp_path: Path) -> None:
    card = load_card("phantom_mr")
    write_phantom(tmp_path, mr=[int(case) for case in card.splits["validate"]], ct=[])
    cases = cases_of(card, tmp_path, "validate", labels=True)
    store = open_store(card, cases, tmp_path / "store")
    row = loop.loop_lines(store, batch=1, blocks=1)[0]
    assert row.startswith("| loop, batch 1 of 96×96, 1 blocks of 20 steps | ")
    assert row.count(" steps/s") == 2
    paths = {case.name: (case.image, case.label) for case in cases}
    assert loop.store_line(store, paths, batch=1).startswith("| store, a batch of 1 image+label")


SMALL = "--shape 2 5 32 32 --rounds 1 --threads 1 --images 2 --classes 3 --size 16 32"


def test_every_loss_is_measured_once_and_the_numbers_are_finite(
    losses: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # a process of its own matters to the memory it measures alone, and takes seconds to start
    monkeypatch.setattr(losses, "ProcessPoolExecutor", lambda n, mp_context: ThreadPoolExecutor(n))
    losses.main(SMALL.split())
    printed = capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if "|" in line]
    names = [row[0] for row in rows]
    assert [name for name in names if name in losses.ROWS] == list(losses.ROWS)
    for row in rows:
        if row[0] in losses.ROWS:
            numbers = [float(n) for n in re.findall(r"\d+(?:\.\d+)?", " ".join(row[1:]))]
            assert len(numbers) >= 5
            assert all(map(math.isfinite, numbers))
    assert not re.search(r"\b(nan|inf)\b", printed)
    assert "| one Prediction | 1, 1 |" in printed
    assert "| logits each | 2, 2 |" in printed
    assert "| 2 images of 3×16×32 (0 MB each) |" in printed


def test_no_public_loss_is_left_out(losses: ModuleType) -> None:
    public = {
        name
        for name, value in vars(uda.losses).items()
        if inspect.isfunction(value)
        and inspect.signature(value).return_annotation in {"Scalar", Scalar}
    }
    assert {name.partition(" ")[0] for name in losses.ROWS} == public


def test_reading_records_is_measured_against_a_plain_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    records = load("records", monkeypatch)
    monkeypatch.setattr(records, "ProcessPoolExecutor", lambda n, mp_context: ThreadPoolExecutor(n))
    records.main(["--megabytes", "6.4", "--rounds", "1"])
    printed = capsys.readouterr().out
    for title in ("one small file: 1 record, 2", "one file: 4 records, 6", "one file a record: 4"):
        assert f"| {title}" in printed
    for name in records.WORKS:
        assert printed.count(f"| {name} |") == 4  # three speeds, one row of memory
    assert not re.search(r"\b(nan|inf)\b", printed)


def test_the_memory_meter_counts_what_lives_at_once(losses: ModuleType) -> None:
    start = torch.zeros(1000)

    def two_at_once() -> None:
        for _ in range(3):
            second = start.clone()
            del second
        second = start.clone()
        second.clone()

    assert losses.peak_bytes(two_at_once, torch.device("cpu")) == 2 * start.nbytes


def test_a_value_past_its_limit_is_marked(losses: ModuleType) -> None:
    assert losses.judged("9%", 0.09, 0.1, "10%") == "9% | ≤ 10%"
    assert losses.judged("11%", 0.11, 0.1, "10%") == "11% | over 10%"
    assert losses.judged("11%", 0.11, None, "") == "11% | –"


def test_a_large_volume_is_predicted_in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = "--shape 24 24 12 --patch 4 16 16 --channels 4 8 --networks 3-D"
    load("volume", monkeypatch).main(small.split())
    assert "| 3-D U-Net" in capsys.readouterr().out


def test_the_default_is_measured_away_from_its_settings(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["compute.device=cpu", "pretrain.steps=2"]
    run, out = tiny.home / "run", tiny.home / "sensitivity"
    pipeline.run(load_recipe(tiny.recipe, [*tiny.overrides, *few]), run, until="pretrain")
    bench = load("sensitivity", monkeypatch)
    panels = (bench.Panel("steps", "steps", (1, 2)), bench.Panel("prior", "factor", (0.5,)))
    monkeypatch.setattr(bench, "PANELS", panels)
    monkeypatch.setattr(bench.Setting, "overrides", ["steps=2", "batch=2", "snapshot_every=1"])
    card = str(tiny.home / "target.yaml")
    bench.main([str(run / "pretrain"), "--card", card, "--root", str(tiny.root), "--out", str(out)])
    printed = capsys.readouterr().out
    assert re.findall(r"^\| (steps|prior) \| ([\d.]+) \| \d+\.\d \|", printed, re.MULTILINE) == [
        ("steps", "1"),
        ("steps", "2"),
        ("prior", "0.5"),
    ]
    assert (out / "sensitivity.png").is_file()
    halved = read_json(next(out.glob("model-0/*prior0.5")) / "prior.json")["ratio"]
    usual = uda.estimate_prior(run / "pretrain").ratio
    assert halved[1:] == pytest.approx([share / 2 for share in usual[1:]])
    assert sum(halved) == pytest.approx(1)


def test_text_readers_are_measured_up_to_their_limits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = load("texts", monkeypatch)
    monkeypatch.setattr(texts, "ProcessPoolExecutor", lambda n, mp_context: ThreadPoolExecutor(n))
    monkeypatch.setattr(texts.gc, "freeze", lambda: None)
    texts.main(["--share", "0.0005"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "|" in line]
    assert [row[0].strip("| ") for row in rows[2:]] == [
        name for name, kinds in texts.KINDS.items() for _ in kinds
    ]
    assert set(texts.KINDS) == set(texts.READERS)
    assert {row[2] for row in rows[2:]} == {"read", "refused"}


@pytest.fixture
def selecttable(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("selecttable", monkeypatch)


def picked_from(selecttable: ModuleType, *changes: dict[str, Any]) -> Any:
    """A run whose AdaBN has 70 points and 0.5 of every score; each of its checkpoints differs as said."""
    scores = dict.fromkeys(vars(selecttable.Scores()), 0.5) | {"ratio_distance": 0.01}
    common = {**scores, "true": 70.0, "faults": "", "agreement_safe": 0.5}
    before = [{"name": name, "step": 0, **common} for name in ("source", "adabn")]
    after = [
        {"name": f"{step:06d}", "step": step, **common, **change}
        for step, change in enumerate(changes, 1)
    ]
    return selecttable.Run("cardiac", "ordinary", 0, "minent", (*before, *after))


def test_what_a_pick_is_worth_is_told_in_points_and_shares(selecttable: ModuleType) -> None:
    high = {"consistency": 0.9, "nuclear_norm": 0.9}
    good = picked_from(selecttable, {"true": 75.0, **high}, {"true": 80.0})
    poor = picked_from(selecttable, {"true": 69.0, **high})
    lost = picked_from(selecttable, {"true": 20.0, **high})
    said = selecttable.summary([good, poor, lost], selecttable.by_rule(selecttable.Rule()))
    assert said == {
        "mean": pytest.approx((75 + 69 + 20) / 3),
        "gain": pytest.approx((5 - 1 - 50) / 3),
        "regret": pytest.approx((5 + 1 + 50) / 3),
        "worst regret": 50.0,
        "collapsed": pytest.approx(100 / 3),
        "against AdaBN": -50.0,
        "below AdaBN": pytest.approx(200 / 3),
    }


def test_a_rule_sees_what_passed_the_gates_before_the_training_ended(
    selecttable: ModuleType,
) -> None:
    best = {"consistency": 0.9, "nuclear_norm": 0.9}
    rule, guard = selecttable.Rule(), selecttable.Guard(settled=0.9)
    pick = selecttable.by_rule(rule, guard)
    unsafe = picked_from(selecttable, {**best, "faults": "lost"}, {"consistency": 0.7}, best)
    assert pick(unsafe)["step"] == 3
    ended = picked_from(selecttable, {"faults": "lost"}, {"faults": "lost"}, best)
    assert pick(ended)["name"] == "adabn"
    settled = picked_from(selecttable, {}, {"previous_agreement": 0.95}, best)
    assert pick(settled)["name"] == "adabn"
    assert selecttable.by_rule(rule)(settled)["step"] == 3
    far = picked_from(selecttable, {**best, "ratio_distance": 0.1})
    assert selecttable.by_rule(selecttable.Rule(distance=2.0))(far)["name"] == "adabn"


def test_trainings_are_ranked_by_what_the_guard_kept_and_without_their_truth(
    selecttable: ModuleType,
) -> None:
    names = selecttable.SLICES.ranked
    better = picked_from(selecttable, {**dict.fromkeys(names, 0.9), "true": 60.0})
    good = picked_from(selecttable, {**dict.fromkeys(names, 0.8), "true": 80.0})
    runs = [
        dataclasses.replace(run, variant=name)
        for name, run in (("good", good), ("better", better), ("refused", picked_from(selecttable)))
    ]
    lines = selecttable.variants(runs).splitlines()
    assert [line.split(" | ")[0] for line in lines if line.startswith("| ")] == [
        "| variant", "| better", "| good", "| adabn"
    ]  # fmt: skip
    assert lines[-1] == "Nothing kept of: refused (adabn)"


def test_trainings_on_images_without_neighbours_are_ranked_by_their_own_rule(
    selecttable: ModuleType,
) -> None:
    """`held_out` and `continuity` are unknown there."""
    unknown = {"held_out": math.nan, "continuity": math.nan}
    good = picked_from(selecttable, {"consistency": 0.9, "nuclear_norm": 0.9})
    records = tuple({**one, **unknown} for one in good.records)
    lines = selecttable.variants([dataclasses.replace(good, records=records)]).splitlines()
    assert "| minent | 2.0 | 000001 | 70.0 |" in lines


def test_every_criterion_has_one_name_and_one_rule(selecttable: ModuleType) -> None:
    names, rules = zip(*selecttable.criteria(), strict=True)
    assert len(set(names)) == len(names) > 100
    assert len({rule.model_dump_json() for rule in rules}) == len(rules)


def test_the_cardiac_grid_has_400_checkpoints_and_every_variant_is_a_method(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid = load("selectgrid", monkeypatch)
    cardiac = grid.BENCHES["cardiac"]
    assert len(cardiac.variants) * (cardiac.steps // cardiac.every) * 2 * 3 >= 400
    for bench in grid.BENCHES.values():
        for name in bench.variants:
            settings = bench.settings(name)
            assert (settings.select, settings.snapshot_every) == ("last", bench.every)
            assert (settings.prior is not None) == bool(settings.needs())


def test_the_selection_bench_trains_judges_and_prints(
    tiny: Tiny,
    finished_once: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tiny.home)
    shutil.copytree(finished_once / "run" / "pretrain", "given/seed-0/pretrain")
    bench = load("selectbench", monkeypatch)

    def printed(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["selectbench.py", *words, "--out", "out"])
        bench.main()
        return capsys.readouterr().out

    where = ["phantom", "--recipe", tiny.recipe, "--root", str(tiny.root), "--steps", "10"]
    where += ["--source", "strong=given", "--only", "adami_1e-3"]
    printed("train", *where)
    folder = Path("out/phantom/strong/seed-0")
    trained = sorted(folder.glob("adapt-adami_1e-3/snapshots/*/model.safetensors"))
    assert [int(path.parent.name) for path in trained] == [2, 4, 6, 8, 10]
    before = [path.stat().st_mtime_ns for path in trained]
    printed("train", *where, "--repeat")
    assert [path.stat().st_mtime_ns for path in trained] == before
    printed("judge", *where)
    rows = bench.read_csv(folder / "judged" / "adami_1e-3.csv")
    assert [row["step"] for row in rows] == [0, 0, 2, 4, 6, 8, 10]
    for row in rows:
        assert 0 <= row["true"] <= 100
        assert 0 <= row["held_out"] <= 1
        assert 0 <= row["continuity"] <= 1
        assert math.isfinite(row["repeat_agreement"]) == (row["step"] > 0)
        assert math.isfinite(row["previous_agreement"]) == (row["step"] > 2)
    told = printed("table", "--write", "all.csv")
    assert "**phantom, strong**, seeds 0: 1 runs, 5 checkpoints" in told
    assert "| held_out + ratio_distance; margin 0.25 |" in told
    assert printed("table", "--read", "all.csv") == told
    assert printed("table", "--read", "all.csv", "--seeds", "1,2").strip() == ""


@pytest.mark.parametrize("source", ["ordinary", "generalised"])
def test_the_guards_rule_for_slices_keeps_its_promise_on_the_measured_checkpoints(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pick is collapsed or more than half a point below AdaBN, and on average less than a point is lost."""
    bench, tables = load("selectbench", monkeypatch), load("selecttable", monkeypatch)
    rows = bench.read_csv(FOLDER / "selection_cardiac.csv")
    runs = [run for run in bench.runs_of(rows) if run.source == source]
    assert len(runs) >= 36
    said = tables.summary(runs, tables.by_rule(SLICES, Guard()))
    assert said["collapsed"] == 0
    assert said["against AdaBN"] >= -0.5
    assert said["regret"] <= 1.0
    assert tables.summary(runs, tables.by_rule(IMAGES, Guard()))["against AdaBN"] < -5


def test_the_guards_cost_is_a_share_of_the_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cost = load("guard_cost", monkeypatch)
    small = ["--methods", "minent", "--size", "32", "--images", "40", "--rounds", "2", "--every"]
    monkeypatch.setattr("sys.argv", ["guard_cost.py", *small])
    cost.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| minent")]
    ranked = "held_out, nuclear_norm, continuity, largest_component, before_agreement"
    assert [row.split(" | ")[1] for row in rows] == [ranked, "every one"]
    for row in rows:
        assert len(re.findall(r"[\d.]+ (?:s|%)", row)) == 4


def test_flags_are_counted_against_the_dice_of_each_case(
    finished: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust = load("trust", monkeypatch)
    sure = trust.flags_of({"confidence": 0.1}, load_model(finished / "pretrain")[1])
    assert [flag.kind for flag in sure] == ["model", "class ratio", "confidence"]
    cases = [
        trust.Case("minent", "a", 0.9, (), sure),
        trust.Case("minent", "b", 0.6, (), sure),
        trust.Case("minent", "c", 0.5, (), ()),
    ]
    assert (
        trust.line("minent", cases, False) == "| minent | 2 of 3 | 0 | – | 0.00 | 2 | 0.50 | 0.50 |"
    )
    limits, found = trust.measured(finished, tiny.load())
    rows = ["source_only", "adabn", "adami_tags", "minent"]
    assert limits == dict.fromkeys(rows, load_model(finished / "pretrain")[1].limits)
    assert trust.described(limits).startswith("source_only, adabn, adami_tags, minent: ")
    assert [(case.row, case.name) for case in found] == [(row, "c2") for row in rows]
    scored = read_json(finished / "evaluate" / "metrics.json")["rows"]
    dice = {row["name"]: row["dice"]["mean"] for row in scored}
    assert {case.row: case.dice for case in found} == pytest.approx(dice)
    assert trust.listed(found).count("\n") == 5


def test_augmentation_is_a_share_of_the_training_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cost = load("augment", monkeypatch)
    cost.main(["--size", "32", "--depth", "16", "--batch", "2", "--rounds", "1"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.count("%") >= 3]
    names = [row.split(" | ")[1] for row in rows]
    assert names.count("`strong`") == 2
    assert set(cost.CHANGES) | {f"`{name}`" for name in cost.SETS} == set(names)
    assert sum("15%" in row for row in rows) == 3


def test_suggestions_are_held_against_boxes_and_scribbles(
    tiny: Tiny,
    finished_once: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    suggest = load("suggest", monkeypatch)
    lines = ["case,slice,class,row0,column0,row1,column1"]
    for case in ("c0", "c1"):
        label = np.asarray(nibabel.load(tiny.root / "t" / "labels" / f"{case}.nii.gz").dataobj)
        write_nifti(tiny.root / "scribbles" / f"{case}.nii.gz", label // 10)
        for number in range(label.shape[2]):
            for name, value in (("disk", 10), ("ring", 20)):
                ends = suggest.tight(label[..., number] == value)
                lines.append(",".join(map(str, (case, number, name, *ends))))
    (tiny.root / "boxes.csv").write_text("\n".join(lines) + "\n")
    model = str(finished_once / "run" / "pretrain")
    where = ["--root", str(tiny.root), "--card", str(tiny.home / "target.yaml"), "--k", "1"]
    where += ["--boxes", "boxes.csv", "--scribbles", "scribbles"]
    suggest.main([model, "--with", model, *where])
    printed = capsys.readouterr().out
    for name in ("random", "BALD", "views: 1 − Dice", "views: score", "other model: share"):
        assert f"\n| {name}" in printed
    assert "| `uda suggest` | " in printed
    (listed,) = re.findall(r"^cases: \[(c[01])\]$", printed, re.MULTILINE)
    assert yaml.safe_load(printed[printed.index("cases: ") :])["slices"].keys() == {listed}
    assert not re.search(r"\b(nan|inf)\b", printed)


def test_errors_from_boxes_and_scribbles_are_those_of_a_plain_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suggest = load("suggest", monkeypatch)
    mask = np.zeros((6, 7), bool)
    assert suggest.tight(mask) is None
    mask[1, 2] = mask[3, 5] = True
    assert suggest.tight(mask) == (1, 2, 3, 5)
    assert suggest.overlap((1, 2, 3, 5), (3, 4, 4, 5)) == (2 / 14, 12.0)
    assert suggest.overlap((0, 0, 1, 1), (2, 2, 2, 2)) == (0.0, 5.0)
    assert suggest.overlap((0, 0, 1, 1), None) == (0.0, 4.0)
    said, labels = np.array([0, 0, 1, 1, 255]), np.array([0, 1, 1, 1, 0])
    assert suggest.wrong_share(labels, said, 3) == pytest.approx((0.5 + 0) / 2)


def test_views_that_agree_have_no_mutual_information_and_opposite_ones_all_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suggest = load("suggest", monkeypatch)
    sure = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 3, 4)
    shown = torch.ones(3, 4)
    assert suggest.bald([(sure, shown), (sure, shown)]).item() == 0
    both = suggest.bald([(sure, shown), (sure.flip(1), shown)])
    torch.testing.assert_close(both, torch.tensor([12 * math.log(2)]))
    torch.testing.assert_close(suggest.entropy(torch.full((1, 2, 3, 4), 0.5)), both)
    assert suggest.bald([(sure, shown), (sure.flip(1), 0 * shown)]).item() == 0
    assert suggest.soft_dice_doubt(sure.flip(1)).item() == 0
    half = torch.tensor([0.4, 0.6]).view(1, 2, 1, 1).expand(1, 2, 3, 4)
    assert suggest.soft_dice_doubt(half).item() == pytest.approx(1 - 1.2 / 1.6)
