"""The report on photographs: tables of many classes, the page's heat table, pictures in the card's colours."""

from __future__ import annotations

import base64
import copy
import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from rich.table import Table

from uda.errors import DataError
from uda.evaluation.miou import summarise_iou
from uda.priors import Prior
from uda.report.files import read_metrics
from uda.report.page import write_report
from uda.report.pictures import class_colours, label_map
from uda.report.seeds import seeds_class_tables, seeds_table
from uda.report.tables import class_tables, table
from uda.report.wording import head_lines
from uda.types import IGNORE

CLASSES = ["road", "sidewalk", "building", "wall", "fence", "pole", "sign", "sky", "train <b>"]
COLOURS = {name: [20 * k, 255 - 20 * k, 7] for k, name in enumerate(CLASSES)}
ROWS = {
    "target_supervised": (["target_labels"], 0.95),
    "self_training_classmix_oracle": (["source_labels", "target_labels"], 0.9),
    "self_training_classmix": (["source_labels", "source_images"], 0.8),
    "minent": (["source_labels"], 0.6),
    "adabn": (["source_labels"], 0.5),
    "source_only": (["source_labels"], 0.3),
}
ORDER = ["source_only", "adabn", "self_training_classmix", "minent", *list(ROWS)[1::-1]]
CASES = ["<i>a", "b", "c"]
SUBSETS = {"13 classes": CLASSES[:3]}
SIZE = (24, 40)


def confusion(share: float, hidden: int | None = None) -> np.ndarray[Any, Any]:
    """Matrices of the cases with ``share`` of each class right, the rest called the next class."""
    count = len(CLASSES)
    matrix = np.zeros((len(CASES), count, count), np.int64)
    for case in range(len(CASES)):
        for k in range(count):
            right = round(100 * share) - 5 * case
            matrix[case, k, k] = right
            matrix[case, k, (k + 1) % count] = 100 - right
    if hidden is not None:
        matrix[:, hidden, :] = matrix[:, :, hidden] = 0
    return matrix


def write_run(run: Path, seed: int = 0, better: float = 0.0) -> dict[str, Any]:
    evaluate = run / "evaluate"
    evaluate.mkdir(parents=True)
    rows, lines = [], []
    for name, (supervision, share) in ROWS.items():
        hidden = CLASSES.index("fence")
        matrices = confusion(min(share + better, 1.0), hidden)
        scores = summarise_iou(matrices, CLASSES, SUBSETS)
        rows.append({"name": name, "stage": name, "supervision": supervision, **scores})
        for case in CASES:
            for structure in CLASSES:
                none = structure == "fence"
                lines.append(
                    [name, case, structure, "" if none else share, "n/a" if none else "ok"]
                )
    metrics = {
        "recipe": "streets",
        "classes": CLASSES,
        "colors": COLOURS,
        "rows": rows,
        "environment": {"uda": "0.5", "seed": seed},
        "data": {"cases": len(CASES), "fingerprint": "abc"},
        "rules": ["One confusion matrix & no more"],
    }
    (evaluate / "metrics.json").write_text(json.dumps(metrics))
    with (evaluate / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["row", "case", "structure", "iou", "state"], *lines])
    write_overlays(evaluate)
    return metrics


def write_overlays(evaluate: Path) -> None:
    labels = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.int64) % len(CLASSES)
    labels = labels.astype(np.uint8)
    labels[0, :3] = IGNORE
    draw = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "image_0": draw.integers(0, 255, (*SIZE, 3), np.uint8),
        "reference_0": labels,
    }
    for k, name in enumerate(ROWS):
        arrays[f"{name}__0"] = np.roll(labels, k, 1)
        arrays[f"{name}__entropy__0"] = draw.integers(0, 255, SIZE, np.uint8)
    np.savez(evaluate / "overlays.npz", **arrays)
    entry = {"case": CASES[0], "slice": 0, "rank": "worst", "row": "minent", "key": "0"}
    (evaluate / "overlays.json").write_text(json.dumps([{**entry, "aspect": 1.0}]))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty drawings, where a test is about words or pixels: axes take a second each."""
    for name in ("class_bars", "map_grid"):
        monkeypatch.setattr(f"uda.report.pictures.{name}", lambda *_: "data:image/png;base64,")
    monkeypatch.setattr("uda.report.photos.box_plot", lambda *_: "data:image/png;base64,")


def rewrite(run: Path, **changes: Any) -> dict[str, Any]:
    metrics = {**read_metrics(run), **changes}
    (run / "evaluate" / "metrics.json").write_text(json.dumps(metrics))
    return metrics


def with_scales(metrics: dict[str, Any]) -> dict[str, Any]:
    rows = copy.deepcopy(metrics["rows"])
    for row in rows:
        row["iou"]["mean"] = 0.123
    return {"multi_scale": {"rules": ["Scales 0.5 & 2"], "rows": rows}}


PUBLISHED = [
    {"row": "MinEnt", "dice": None, "miou": 42.2, "source": "ADVENT, CVPR 2019"},
    {"row": "in Dice", "dice": 77.7, "miou": None, "source": "another paper"},
]


def rendered(*tables: Table, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    for one in tables:
        console.print(one)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def line_of(text: str, word: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [word])


def section(text: str, title: str) -> str:
    return text.partition(f"<h2>{title}</h2>")[2].partition("</section>")[0]


def pixels(uri: str) -> np.ndarray[Any, Any]:
    data = base64.b64decode(uri.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_table_of_photographs_has_miou_interval_accuracy_and_subsets(run: Path) -> None:
    metrics = read_metrics(run)
    row = next(r for r in metrics["rows"] if r["name"] == "minent")
    cells = line_of(rendered(table(metrics)), "minent")
    low, high = (f"{100 * end:.1f}" for end in row["iou"]["ci95"])
    mean, accuracy = 100 * row["iou"]["mean"], 100 * row["accuracy"]
    subset = 100 * row["subsets"]["13 classes"]
    assert cells[1:] == [
        "source_labels",
        f"{mean:.1f}",
        f"{low}–{high}",
        f"{accuracy:.1f}",
        f"{subset:.1f}",
    ]


def test_table_of_photographs_keeps_its_order_and_says_nothing_of_distances(run: Path) -> None:
    text = rendered(table(read_metrics(run)))
    firsts = ("source_only", "adabn", "minent", "target_")
    places = [text.index(f"\n {name}") for name in firsts]
    assert places == sorted(places)
    assert text.index("†") > text.index("minent")
    assert "HD95" not in text
    assert "Dice" not in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_every_class_of_every_row_fits_a_terminal(run: Path, width: int) -> None:
    metrics = read_metrics(run)
    blocks = class_tables(metrics, width)
    assert len(blocks) == {60: 2, 80: 1, 120: 1}[width]
    shown = [rendered(block, width=width) for block in blocks]
    assert max(len(line.rstrip()) for text in shown for line in text.splitlines()) <= width
    numbers = [number for text in shown for number in line_of(text, "road")[1:]]
    means = {r["name"]: r["iou"]["per_class"]["road"]["mean"] for r in metrics["rows"]}
    assert numbers == [f"{100 * means[name]:.1f}" for name in ORDER]
    for text in shown:
        assert line_of(text, "fence")[1:] == ["–"] * len(line_of(text, "road")[1:])


def test_blocks_of_classes_are_of_nearly_the_same_width(run: Path) -> None:
    metrics = read_metrics(run)
    for width in range(40, 130):
        counts = [len(block.columns) - 1 for block in class_tables(metrics, width)]
        assert sum(counts) == len(ROWS)
        assert min(counts) >= 1
        assert max(counts) == -(-len(ROWS) // len(counts)) or len(set(counts)) > 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text("abcdefgh", min_size=1, max_size=14), min_size=1, max_size=4))
def test_a_folded_name_loses_no_letter_and_keeps_to_its_width(words: list[str]) -> None:
    name = "_".join(words)
    lines = head_lines(name)
    assert "".join(lines) == name
    assert all(0 < len(line) <= 10 for line in lines)


def test_other_scales_and_papers_stand_below_our_rows(run: Path) -> None:
    metrics = rewrite(run, conventions=with_scales(read_metrics(run)), published=PUBLISHED)
    text = rendered(table(metrics), width=100)
    ours, scaled = text.split("Several scales")
    scaled, published = scaled.split("Published, not")
    assert "12.3" not in ours
    assert line_of(scaled, "minent")[2] == "12.3"
    assert line_of(published, "MinEnt") == ["MinEnt", "42.2"]
    assert line_of(published, "in") == ["in", "Dice", "–"]
    assert "ADVENT, CVPR 2019" in published


def test_seeds_of_photographs_hand_worked(tmp_path: Path) -> None:
    """mIoU 0.6, 0.7, 0.8: mean 0.7, sd 0.1; a class that never counts has no mean."""
    runs = []
    for seed, mean in enumerate((0.6, 0.7, 0.8)):
        metrics = write_run(tmp_path / str(seed), seed)
        row = next(r for r in metrics["rows"] if r["name"] == "minent")
        row["iou"]["mean"] = row["accuracy"] = row["subsets"]["13 classes"] = mean
        row["iou"]["per_class"]["road"]["mean"] = mean + 0.1
        metrics["conventions"] = with_scales(metrics)
        runs.append(metrics)
    summary, shown = seeds_table(runs)
    json.dumps(summary, allow_nan=False)
    row = next(r for r in summary["rows"] if r["name"] == "minent")
    for one in (row["iou"], row["accuracy"], row["subsets"]["13 classes"]):
        assert (one["mean"], one["sd"], one["n"]) == pytest.approx((0.7, 0.1, 3))
    assert row["iou"]["per_class"]["road"]["mean"] == pytest.approx(0.8)
    assert row["iou"]["per_class"]["fence"] == {"mean": None, "sd": None, "n": 0}
    assert summary["conventions"]["multi_scale"]["rows"][0]["iou"]["sd"] == pytest.approx(0)
    text = rendered(shown)
    assert line_of(text, "minent")[2:4] == ["70.0", "±10.0"]
    assert "mean ±sd over 3 seeds" in text
    classes = rendered(*seeds_class_tables(summary, 200))
    assert "80.0 ±10.0" in classes
    assert [line for line in text.splitlines() if "12.3 ±0.0" in line]


def test_runs_of_volumes_and_of_photographs_make_no_table(tmp_path: Path) -> None:
    metrics = write_run(tmp_path / "a")
    other = copy.deepcopy(metrics)
    other["environment"]["seed"] = 1
    for row in other["rows"]:
        row["dice"] = row.pop("iou")
    with pytest.raises(DataError, match="differ in measure: mIoU, Dice"):
        seeds_table([metrics, other])


@pytest.mark.usefixtures("no_figures")
def test_page_of_photographs_names_its_measure_and_its_best_row(run: Path, tmp_path: Path) -> None:
    metrics = read_metrics(run)
    text = write_report(run, tmp_path / "out").read_text(encoding="utf-8")
    best = next(r for r in metrics["rows"] if r["name"] == "self_training_classmix")
    flat = " ".join(re.sub(r"<[^>]*>", "", text).split())
    assert "self_training_classmix has the highest mIoU without target labels: " in flat
    assert f"{100 * best['iou']['mean']:.1f}" in section(text, "Results")
    assert "3 target images · 9 classes" in flat
    assert "One confusion matrix &amp; no more" in text
    assert not re.search(r"https?://|url\(|@import|<script", text)
    assert not re.search(r"HD95|Dice|surface|structure", flat)
    assert "train <b>" not in text
    assert "<i>a" not in text
    assert str(tmp_path) not in text


@pytest.mark.usefixtures("no_figures")
def test_heat_table_has_every_class_of_every_row_with_its_change(run: Path, tmp_path: Path) -> None:
    metrics = read_metrics(run)
    text = write_report(run, tmp_path / "out").read_text(encoding="utf-8")
    body = section(text, "Class by class")
    rows = body.partition("<tbody>")[2].split("<tr")[1:]
    assert len(rows) == len(ROWS) + 2
    means = {r["name"]: r["iou"]["per_class"]["sky"]["mean"] for r in metrics["rows"]}
    gain = 100 * (means["minent"] - means["source_only"])
    assert f"title='sky: +{gain:.1f} on source_only; missed in 0 of 3 images" in rows[3]
    assert all(row.count("<td") == len(CLASSES) + 1 for row in rows)
    assert rows[0].count("title='in no image'>–") == 1
    bold = [row.count("<b>") - 1 for row in rows[: len(ROWS)]]
    assert bold == [0, 0, len(CLASSES) - 1, 0, 0, 0]  # only what saw no target labels competes
    assert "#14eb07" in body  # the colour of class 1: 20, 235, 7


@pytest.mark.usefixtures("no_figures")
def test_pictures_have_the_cards_colours_and_ignored_pixels_are_black(
    run: Path, tmp_path: Path
) -> None:
    text = write_report(run, tmp_path / "out").read_text(encoding="utf-8")
    found = re.findall(r"<img alt='worst: image &lt;i&gt;a, ([^']*)' src='([^']*)'", text)
    names = [name for name, _ in found]
    assert names[:6] == ["image", "before", "after", "reference", "entropy before", "entropy after"]
    assert set(names[6:]) == set(ROWS) - {"source_only", "minent"}
    uris = dict(found)
    reference = pixels(uris["reference"])
    assert reference.shape == (*SIZE, 3)
    assert reference[0, 0].tolist() == [0, 0, 0]
    labels = np.load(run / "evaluate" / "overlays.npz")["reference_0"]
    for k, name in enumerate(CLASSES):
        assert np.unique(reference[labels == k], axis=0).tolist() == [COLOURS[name]]
    assert (pixels(uris["before"]) != reference).any()


@pytest.mark.usefixtures("no_figures")
def test_without_colours_and_entropy_the_page_still_has_its_pictures(
    run: Path, tmp_path: Path
) -> None:
    metrics = read_metrics(run)
    del metrics["colors"]
    (run / "evaluate" / "metrics.json").write_text(json.dumps(metrics))
    path = run / "evaluate" / "overlays.npz"
    with np.load(path) as arrays:
        kept = {name: arrays[name] for name in arrays if "entropy" not in name}
    np.savez(path, **kept)  # type: ignore[arg-type]
    text = write_report(run, tmp_path / "out").read_text(encoding="utf-8")
    found = re.findall(r"<img alt='worst: image &lt;i&gt;a, ([^']*)'", text)
    assert found[:4] == ["image", "before", "after", "reference"]
    assert not [name for name in found if "entropy" in name]


def test_colours_are_those_of_the_card_and_never_shared() -> None:
    colours, ignored = class_colours(["a", "b", "c"], {"b": (1, 2, 3), "ignore": (9, 9, 9)})
    assert colours[1] == (1, 2, 3)
    assert len(set(colours)) == 3
    assert ignored == (9, 9, 9)
    labels = np.array([[0, 1], [2, IGNORE]], np.uint8)
    shown = pixels(label_map(labels, colours, ignored)).reshape(-1, 3).tolist()
    assert shown == [list(colour) for colour in (*colours, ignored)]


@pytest.mark.usefixtures("no_figures")
def test_maps_of_a_spatial_prior_are_in_the_page(run: Path, tmp_path: Path) -> None:
    write_prior(run / "prior-where")
    text = write_report(run, tmp_path / "out").read_text(encoding="utf-8")
    body = section(text, "Where classes lie: prior where")
    assert "alt='Maps of the prior where, a panel per class'" in body
    (run / "prior-where" / "prior.safetensors").write_bytes(b"cut short")
    text = write_report(run, tmp_path / "out").read_text(encoding="utf-8")
    assert "Left out: prior-where: " in section(text, "Where classes lie: prior where")


def write_prior(folder: Path) -> None:
    folder.mkdir()
    maps = torch.rand(len(CLASSES), 6, 10, generator=torch.Generator().manual_seed(0))
    maps /= maps.sum(0)
    ratio = tuple(float(v) for v in maps.double().mean((1, 2)))
    Prior(tuple(CLASSES), ratio, ("source_labels",), "drawn", maps=maps).save(folder / "prior.json")


@pytest.mark.usefixtures("no_figures")
def test_page_tells_the_scales_and_the_papers(run: Path, tmp_path: Path) -> None:
    rewrite(run, conventions=with_scales(read_metrics(run)), published=PUBLISHED)
    text = write_report(run, tmp_path / "out").read_text(encoding="utf-8")
    body = section(text, "Several scales and mirror images")
    assert "Scales 0.5 &amp; 2" in body
    assert body.count("12.3") >= len(ROWS)
    assert re.search(r"MinEnt</th><td>42\.2</td><td>ADVENT", body)
    assert re.search(r"in Dice</th><td>–</td>", body)
    assert text.count("Published, not run here") == 1


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda m: m["rows"][0]["iou"].pop("mean"), r"rows\.0\.iou\.mean"),
        (lambda m: m["rows"][2].pop("accuracy"), r"rows\.2\.accuracy"),
        (lambda m: m["rows"][3]["iou"]["per_class"].pop("sky"), "row minent has no iou of sky"),
        (lambda m: m["colors"].update(sky=[1, 2]), r"colors\.sky"),
        (lambda m: m["rows"][1].pop("iou"), r"rows\.1\.iou"),
    ],
)
def test_a_fault_in_the_metrics_of_photographs_is_named(run: Path, spoil: Any, says: str) -> None:
    metrics = read_metrics(run)
    spoil(metrics)
    (run / "evaluate" / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(DataError, match=says):
        read_metrics(run)


def test_same_run_of_photographs_gives_the_same_page(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uda.report.photos.box_plot", lambda *_: "")  # has its test elsewhere
    write_prior(run / "prior-where")
    first, second = (write_report(run, tmp_path / name).read_bytes() for name in "ab")
    assert first == second
