"""The street recipes from generated GTA5, SYNTHIA and Cityscapes folders to their tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from uda.config.loading import load_recipe
from uda.data.synthetic.streets.dataset import write_streets, write_synthia
from uda.pipeline.run import run

SMALL = [
    "network.backbone=small",
    "network.stride=16",
    "network.weights=none",
    "data.size=[64,128]",
    "compute.precision=32-true",
    "pretrain.steps=2",
    "pretrain.batch=2",
    "sources.*.steps=2",
    "sources.*.batch=2",
    "adapt.*.steps=2",
    "adapt.*.batch=2",
    "adapt.dacs.photo.crop=[64,96]",
    "prior.spatial.sigma=2",
]

SHORT = [
    *("network.stride=16", "pretrain.steps=120", "adapt.*.steps=2", "target_supervised=false"),
    "sources.*.steps=2",
]


def rows_of(out: Path) -> dict[str, Any]:
    metrics = json.loads((out / "evaluate" / "metrics.json").read_text())
    return {row["name"]: row for row in metrics["rows"]}


def write_few(root: Path) -> Path:
    """The folders of GTA5 and Cityscapes, small."""
    write_streets(
        root, game=24, camera_train=4, camera_val=2, size=(72, 128), camera_size=(64, 128)
    )
    return root


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(SHORT, id="short"),
        pytest.param([], id="as it ships", marks=pytest.mark.campaign),
    ],
)
def test_the_street_phantom(changes: list[str], tmp_path: Path) -> None:
    """What labels of the target are worth, and what BatchNorm statistics of its images are; the ledger of each row; the
    page, its pictures and its maps. The short run trains its source for as long as the gap needs to show."""
    run(load_recipe("street_phantom", ["compute.device=cpu", *changes]), tmp_path)
    rows = rows_of(tmp_path)
    miou = {name: row["iou"]["mean"] for name, row in rows.items()}
    generalised = ["generalised_source_only", "generalised_adabn"]
    assert list(miou)[:4] == ["source_only", generalised[0], "adabn", generalised[1]]
    if not changes:
        assert miou["target_supervised"] - miou["source_only"] > 0.10
        assert rows["target_supervised"]["supervision"] == ["target_labels"]
    assert miou["adabn"] - miou["source_only"] > 0.02
    assert all(np.isfinite(value) for value in miou.values())

    told = {name: set(row["supervision"]) for name, row in rows.items()}
    assert told["source_only"] == told["adabn"] == told["mean_teacher"] == {"source_labels"}
    assert told["dacs"] == {"source_labels", "source_images"}

    page = (tmp_path / "report" / "report.html").read_text()
    for word in ("traffic_light", "several scales", "entropy", "prior"):
        assert word in page.lower(), word
    picture = Image.open(tmp_path / "prior-spatial" / "prior.png")
    assert picture.width > 500
    arrays = np.load(tmp_path / "evaluate" / "overlays.npz")
    assert arrays["dacs__entropy__0"].dtype == np.uint8


def test_target_labels_change_nothing_but_the_table(tmp_path: Path) -> None:
    """Cityscapes' training labels may be missing, and those to test on upside down."""
    few = [
        *("adapt.*.steps=1", "pretrain.steps=1", "sources.*.steps=1", "target_supervised=false"),
        *("evaluate.convention=ours", "network.stride=16", "data.size=[48,96]"),
    ]
    streets = write_few(tmp_path / "streets")
    models, tables = [], []
    for changed in (False, True):
        if changed:
            shutil.rmtree(streets / "cityscapes" / "gtFine" / "train")
            for path in (streets / "cityscapes" / "gtFine" / "val").rglob("*labelIds.png"):
                Image.open(path).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(path)
        own = ["data.streets=null", f"data.root={streets}", "compute.device=cpu"]
        out = tmp_path / str(changed)
        run(load_recipe("street_phantom", [*few, *own]), out, until="evaluate")
        models.append([path.read_bytes() for path in sorted(out.glob("*/model.safetensors"))])
        tables.append(rows_of(out))
    assert len(models[0]) == 9
    assert models[0] == models[1]
    assert tables[0]["source_only"]["iou"] != tables[1]["source_only"]["iou"]


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize("name", ["gta5_cityscapes", "synthia_cityscapes"])
def test_the_benchmarks_run_from_folders_as_downloaded(name: str, tmp_path: Path) -> None:
    """Every variant with two small steps, on as many images as it takes to show every class; the source's folder may go
    once the source has been trained on."""
    write_few(tmp_path / "data")
    write_synthia(tmp_path / "data", count=24, size=(76, 128))
    changes = [*SMALL, "sources={}", f"data.root={tmp_path / 'data'}", "compute.device=cpu"]
    recipe = load_recipe(name, changes)
    done = run(recipe, tmp_path / "run", until="evaluate")
    assert all(stage.ran for stage in done)
    rows = rows_of(tmp_path / "run")
    assert len(rows) == 2 + len(recipe.adapt)
    classes = 19 if name == "gta5_cityscapes" else 16
    assert all(len(row["iou"]["per_class"]) == classes for row in rows.values())
    if classes == 16:
        assert set(rows["adabn"]["subsets"]) == {"13 classes"}
    free = [n for n, variant in recipe.adapt.items() if variant.source_free]
    assert free == ["im", "adami", "mean_teacher"]
    assert all("source_images" not in rows[n]["supervision"] for n in free)
    for folder in ("gta5", "synthia"):
        shutil.rmtree(tmp_path / "data" / folder)
    for variant in free:
        again = run(recipe, tmp_path / "run", until=f"adapt-{variant}", restart=True)
        assert [stage.name for stage in again if stage.ran] == [f"adapt-{variant}"]
