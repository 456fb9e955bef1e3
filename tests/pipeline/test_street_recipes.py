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
    "adapt.*.steps=2",
    "adapt.*.batch=2",
    "adapt.dacs.photo.crop=[64,96]",
    "prior.spatial.sigma=2",
]


def rows_of(out: Path) -> dict[str, Any]:
    metrics = json.loads((out / "evaluate" / "metrics.json").read_text())
    return {row["name"]: row for row in metrics["rows"]}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of CI, exactly as shipped."""
    out = tmp_path_factory.mktemp("street_phantom")
    run(load_recipe("street_phantom", ["compute.device=cpu"]), out)
    return out


def test_the_street_phantom_has_a_real_gap(phantom: Path) -> None:
    """Target labels gain more than 10 points of mIoU, the target's BatchNorm statistics more than 2."""
    miou = {name: row["iou"]["mean"] for name, row in rows_of(phantom).items()}
    assert list(miou)[:2] == ["source_only", "adabn"]
    assert miou["target_supervised"] - miou["source_only"] > 0.10
    assert miou["adabn"] - miou["source_only"] > 0.02
    assert all(np.isfinite(value) for value in miou.values())


def test_every_row_of_the_street_phantom_says_what_it_was_told(phantom: Path) -> None:
    ledgers = {name: set(row["supervision"]) for name, row in rows_of(phantom).items()}
    assert (
        ledgers["source_only"] == ledgers["adabn"] == ledgers["mean_teacher"] == {"source_labels"}
    )
    assert ledgers["dacs"] == {"source_labels", "source_images"}
    assert ledgers["target_supervised"] == {"target_labels"}


def test_the_street_phantom_leaves_a_page_its_pictures_and_its_maps(phantom: Path) -> None:
    page = (phantom / "report" / "report.html").read_text()
    for word in ("traffic_light", "several scales", "entropy", "prior"):
        assert word in page.lower(), word
    picture = Image.open(phantom / "prior-spatial" / "prior.png")
    assert picture.width > 500
    arrays = np.load(phantom / "evaluate" / "overlays.npz")
    assert arrays["dacs__entropy__0"].dtype == np.uint8


def test_target_labels_change_nothing_but_the_table(phantom: Path, tmp_path: Path) -> None:
    """The training labels of Cityscapes are deleted, and its test labels flipped."""
    out = tmp_path / "run"
    few = [
        *("adapt.*.steps=1", "pretrain.steps=1", "target_supervised=false"),
        *("evaluate.convention=ours", "network.stride=16", "data.size=[48,96]"),
    ]
    streets = phantom / "streets"
    models = []
    for changed in (False, True):
        if changed:
            streets = Path(shutil.copytree(streets, tmp_path / "streets"))
            shutil.rmtree(streets / "cityscapes" / "gtFine" / "train")
            for path in (streets / "cityscapes" / "gtFine" / "val").rglob("*labelIds.png"):
                Image.open(path).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(path)
        recipe = load_recipe(
            "street_phantom",
            [*few, "data.streets=null", f"data.root={streets}", "compute.device=cpu"],
        )
        run(recipe, out / str(changed))
        found = sorted((out / str(changed)).glob("*/model.safetensors"))
        models.append([path.read_bytes() for path in found])
    assert len(models[0]) == 6
    assert models[0] == models[1]
    first, second = (rows_of(out / str(changed)) for changed in (False, True))
    assert first["source_only"]["iou"] != second["source_only"]["iou"]


@pytest.mark.parametrize("name", ["gta5_cityscapes", "synthia_cityscapes"])
def test_the_benchmarks_run_from_folders_as_downloaded(name: str, tmp_path: Path) -> None:
    """Every variant runs two small steps on enough images to show every class. After pretraining the source's folder
    is deleted, and the source-free variants still run."""
    write_streets(
        tmp_path / "data",
        game=24,
        camera_train=4,
        camera_val=2,
        size=(72, 128),
        camera_size=(64, 128),
    )
    write_synthia(tmp_path / "data", count=24, size=(76, 128))
    recipe = load_recipe(name, [*SMALL, f"data.root={tmp_path / 'data'}", "compute.device=cpu"])
    done = run(recipe, tmp_path / "run")
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
