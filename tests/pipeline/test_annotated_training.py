"""Training on what somebody marked: from a recipe and from `uda adapt`; who sees annotations, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import SIZE, SLICES, Tiny, make_case, write_nifti

import uda
from uda.config.recipe import Adapt
from uda.errors import ConfigError, DataError, UdaError
from uda.files.atomic import read_json
from uda.networks.model_file import load_model
from uda.pipeline.run import run
from uda.training import objective as objectives
from uda.types import Annotation, Batch

SHORT = {"steps": 4, "batch": 4, "lr": 1e-3, "save_every": 2, "log_every": 2, "select": "last"}


def mark(
    folder: Path, number_to_case: dict[int, str], inverted: bool = True, scale: int = 10
) -> Path:
    """Points, boxes, scribbles, partial and complete labels of cases, as somebody could have drawn them."""
    folder.mkdir(parents=True, exist_ok=True)
    points, boxes = ["case,slice,row,column,class"], ["case,slice,class,row0,column0,row1,column1"]
    for number, case in number_to_case.items():
        _, label = make_case(number + 10 * inverted, inverted)
        for index, name in ((0, "background"), (1, "disk"), (2, "ring")):
            row, column = np.argwhere(label[..., 1] == index)[5]
            points.append(f"{case},1,{row},{column},{name}")
        for index, name in ((1, "disk"), (2, "ring")):
            rows, columns = np.nonzero(label[..., 2] == index)
            corners = f"{rows.min()},{columns.min()},{rows.max()},{columns.max()}"
            boxes.append(f"{case},2,{name},{corners}")
        scribble = np.full(label.shape, 255, np.uint8)
        scribble[SIZE // 2, :, 0] = scale * label[SIZE // 2, :, 0]
        write_nifti(folder / "scribbles" / f"{case}.nii.gz", scribble)
        write_nifti(folder / "partial_disk" / f"{case}.nii.gz", np.uint8(scale) * (label == 1))
        write_nifti(folder / "labels" / f"{case}.nii.gz", label * np.uint8(scale))
    (folder / "points.csv").write_text("\n".join(points) + "\n")
    (folder / "boxes.csv").write_text("\n".join(boxes) + "\n")
    return folder


def annotated(tiny: Tiny, **variants: dict[str, Any]) -> Tiny:
    """The small world with annotations of its target, and these variants."""
    mark(tiny.root / "t" / "marks", {0: "c0", 1: "c1"})
    card = yaml.safe_load((tiny.home / "target.yaml").read_text())
    (tiny.home / "target.yaml").write_text(yaml.safe_dump({**card, "annotations": "t/marks"}))
    raw = yaml.safe_load((tiny.home / "tiny.yaml").read_text())
    raw["adapt"] = {name: {**SHORT, **one} for name, one in variants.items()}
    (tiny.home / "tiny.yaml").write_text(yaml.safe_dump(raw))
    return tiny


LEDGER = {
    "points": "target_points",
    "scribbles": "target_scribbles",
    "scribbles_crf": "target_scribbles",
    "scribbles_adm": "target_scribbles",
    "boxes": "target_boxes",
    "deepcut": "target_boxes",
    "partial": "target_partial",
    "labels": "target_few_labels",
    "few_shot": "target_few_labels",
}


@pytest.fixture(scope="module")
def table(once: Any) -> Path:
    """The run of a recipe with every method of annotations, alone, joined and from scratch."""

    def fill(folder: Path) -> None:
        from conftest import make_tiny

        variants: dict[str, dict[str, Any]] = {
            name: {"preset": name, "prior": "ratio"} for name in LEDGER
        }
        variants["ccnn"] = {"preset": "ccnn", "prior": "tags"}
        joined = {"preset": "ratio_teacher+scribbles+boxes", "prior": "ratio", "batch": 6}
        variants["joined"] = {**joined, "annotated_share": 0.34}
        variants["scratch"] = {"preset": "points", "start": "scratch", "batchnorm": "train"}
        tiny = annotated(make_tiny(folder / "world"), **variants)
        run(tiny.load(), folder / "run")

    return once("annotated", fill) / "run"


@pytest.mark.parametrize("row", [*LEDGER, "ccnn", "joined", "scratch"])
def test_every_method_says_in_the_table_what_it_used(table: Path, row: str) -> None:
    metrics = read_json(table / "evaluate" / "metrics.json")
    (found,) = [one for one in metrics["rows"] if one["name"] == row]
    own = {
        "ccnn": ["source_labels", "target_tags"],
        "joined": ["source_labels", "target_boxes", "target_scribbles"],
        "scratch": ["target_points"],
    }
    expected = own.get(row) or ["source_labels", LEDGER[row]]
    assert sorted(found["supervision"]) == sorted(expected)
    page = (table / "report" / "report.html").read_text()
    for word in expected:
        assert word in page
    _, info = load_model(table / f"adapt-{row}")
    assert sorted(info.supervision) == sorted(expected)


def test_the_stage_records_how_much_was_marked(table: Path) -> None:
    record = read_json(table / "adapt-points" / "stage.json")["annotations"]
    assert record == {"cases": ["c0", "c1"], "slices": 2, "pixels": 6, "boxes": 0, "outside": 0}
    record = read_json(table / "adapt-joined" / "stage.json")["annotations"]
    assert record["boxes"] == 4
    assert record["slices"] == 4


def test_scratch_starts_from_new_weights(table: Path) -> None:
    start, _ = load_model(table / "pretrain")
    weights, _ = load_model(table / "adapt-scratch")
    near, _ = load_model(table / "adapt-points")
    pairs = [
        (dict(model.named_parameters()), dict(start.named_parameters()))
        for model in (weights, near)
    ]
    far, close = (
        sum(float((one[name] - other[name]).abs().sum().detach()) for name in one)
        for one, other in pairs
    )
    assert far > 2 * close


def test_a_stage_without_annotations_cannot_see_them(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its batches hold none, and whatever lies in the folder leaves every byte of it as it was."""
    seen: list[Batch] = []
    annotate = objectives.Objective.annotate

    def watch(self: objectives.Objective, batch: Batch) -> Any:
        seen.append(batch)
        return annotate(self, batch)

    monkeypatch.setattr(objectives.Objective, "annotate", watch)
    objective = {"objective": [{"term": "entropy"}]}
    world = annotated(tiny, plain=objective)
    run(world.load(), tmp_path / "first", until="adapt")
    assert all(batch.annotation is None for batch in seen)
    (tiny.root / "t" / "marks" / "points.csv").write_text("nonsense")
    shutil.rmtree(tiny.root / "t" / "marks" / "labels")
    run(world.load(), tmp_path / "second", until="adapt")
    names = ["adapt-plain/model.safetensors", "pretrain/model.safetensors"]
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_what_is_marked_reaches_the_objective_under_the_images_changes(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Disk and ring are bright and dark in the images, so every moved label lies on its own intensity."""
    seen: list[Batch] = []
    value = objectives.Objective.__call__

    def watch(self: objectives.Objective, batch: Batch, *rest: Any) -> Any:
        seen.append(batch)
        return value(self, batch, *rest)

    monkeypatch.setattr(objectives.Objective, "__call__", watch)
    moving = {"rotate": 40, "scale": 0.2, "shift": 0.1, "flip": True}
    world = annotated(tiny, full={"preset": "labels", "augment": moving, "steps": 6})
    run(world.load(), tmp_path / "run", until="adapt-full")
    marked = [batch for batch in seen if batch.annotation is not None]
    assert len(marked) == 6
    means = {index: [] for index in range(3)}
    for batch in marked:
        assert isinstance(batch.annotation, Annotation)
        assert batch.target is not None
        for index, found in means.items():
            found.append(batch.target.image[:, 0][batch.annotation.label == index])
    background, disk, ring = (torch.cat(means[index]).median() for index in range(3))
    assert disk < background < ring


def test_the_last_safe_checkpoint_is_kept(tiny: Tiny, tmp_path: Path) -> None:
    row = {"preset": "ratio_teacher+points", "prior": "ratio", "select": "guarded", "steps": 8}
    lenient = {"guard": {"factor": 1000.0}}
    world = annotated(tiny, marked={**row, **lenient, "batch": 6, "annotated_share": 0.34})
    run(world.load(), tmp_path / "run", until="adapt-marked")
    selection = read_json(tmp_path / "run" / "adapt-marked" / "stage.json")["selection"]
    assert selection["kept"] == "step 8"
    assert selection["why"].startswith("the last of 8 safe checkpoints")


def test_annotations_of_test_cases_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    world = annotated(tiny, points={"preset": "points"})
    with (tiny.root / "t" / "marks" / "points.csv").open("a") as file:
        file.write("c2,0,3,3,disk\n")
    with pytest.raises(DataError, match=r"case 'c2' may not be annotated.*leak into the score"):
        run(world.load(), tmp_path / "run")
    assert not (tmp_path / "run" / "pretrain").exists()


def test_a_test_image_under_another_name_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    world = annotated(tiny, points={"preset": "points"})
    images = tiny.root / "t" / "images"
    (images / "c1.nii.gz").unlink()
    (images / "c1.nii.gz").symlink_to(images / "c2.nii.gz")
    with pytest.raises(DataError, match=r"case 'c1' may not be annotated"):
        run(world.load(), tmp_path / "run")


def test_annotations_of_cases_that_the_recipe_leaves_out_are_passed_over(
    tiny: Tiny, tmp_path: Path
) -> None:
    world = annotated(tiny, points={"preset": "points"})
    run(world.load("data.splits.target.adapt=[c0]"), tmp_path / "run", until="adapt-points")
    record = read_json(tmp_path / "run" / "adapt-points" / "stage.json")
    assert record["annotations"]["cases"] == ["c0"]


def test_changed_annotations_make_their_rows_run_again(tiny: Tiny, tmp_path: Path) -> None:
    plain = {"objective": [{"term": "entropy"}]}
    world = annotated(tiny, points={"preset": "points"}, plain=plain)
    run(world.load(), tmp_path / "run", until="adapt")
    path = tiny.root / "t" / "marks" / "points.csv"
    path.write_text(path.read_text().replace("c0,1,", "c0,3,"))
    states = dict[str, str]()
    run(world.load(), tmp_path / "run", until="adapt", announce=states.__setitem__)
    assert states["adapt-points"] == "run"
    assert states["adapt-plain"] == "skip"


def test_chosen_cases(tiny: Tiny, tmp_path: Path) -> None:
    world = annotated(tiny, one={"preset": "labels", "annotated_cases": ["c1"]})
    run(world.load(), tmp_path / "run", until="adapt-one")
    record = read_json(tmp_path / "run" / "adapt-one" / "stage.json")
    assert record["annotations"]["cases"] == ["c1"]


def test_a_killed_training_on_annotations_resumes_to_the_bit(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepCut's copy of the network is part of the checkpoint, and the draw of images a function of the step."""
    row = {"preset": "ratio_teacher+deepcut+points", "prior": "ratio", "batch": 6, "steps": 6}
    row |= {"annotated_share": 0.34, "objective": None}
    from uda.config.methods import method_settings

    terms = method_settings("ratio_teacher+deepcut+points")["objective"]
    row["objective"] = [
        {**term, "round_steps": 2} if term["term"] in ("deepcut", "pseudo_labels") else term
        for term in terms
    ]
    world = annotated(tiny, cut=row)
    run(world.load(), tmp_path / "whole", until="adapt-cut")
    from uda.training import batches

    drawn = batches.Share.indices

    def dies(self: batches.Share, count: int, positions: Any, seed: int) -> Any:
        if positions[0] // self.batch == 5:
            raise KeyboardInterrupt
        return drawn(self, count, positions, seed)

    monkeypatch.setattr(batches.Share, "indices", dies)
    with pytest.raises(KeyboardInterrupt):
        run(world.load(), tmp_path / "killed", until="adapt-cut")
    monkeypatch.setattr(batches.Share, "indices", drawn)
    run(world.load(), tmp_path / "killed", until="adapt-cut")
    whole, resumed = (
        (tmp_path / name / "adapt-cut" / "model.safetensors").read_bytes()
        for name in ("whole", "killed")
    )
    assert whole == resumed


def test_a_source_model_may_be_trained_on_annotations(tiny: Tiny, tmp_path: Path) -> None:
    mark(tiny.root / "s" / "marks", {0: "c0", 1: "c1"}, inverted=False)
    card = yaml.safe_load((tiny.home / "source.yaml").read_text())
    card |= {"annotations": "s/marks"}
    (tiny.home / "source.yaml").write_text(yaml.safe_dump(card))
    changes = [
        "pretrain.annotations=[scribbles, boxes]",
        "pretrain.objective=[{term: partial_labels}, {term: boxes}, {term: potts, weight: 0.1}]",
        "pretrain.augment={}",
    ]
    (tiny.root / "s" / "labels" / "c0.nii.gz").unlink()  # no label of a training image is opened
    run(tiny.load(*changes), tmp_path / "run", until="pretrain")
    _, info = load_model(tmp_path / "run" / "pretrain")
    assert sorted(info.supervision) == ["source_boxes", "source_scribbles"]
    assert info.class_ratio is None
    record = read_json(tmp_path / "run" / "pretrain" / "stage.json")
    assert record["annotations"]["cases"] == ["c0", "c1"]


def test_annotations_of_validation_cases_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    mark(tiny.root / "s" / "marks", {0: "c0", 2: "c2"}, inverted=False)
    card = yaml.safe_load((tiny.home / "source.yaml").read_text())
    (tiny.home / "source.yaml").write_text(yaml.safe_dump(card | {"annotations": "s/marks"}))
    changes = ["pretrain.annotations=[points]", "pretrain.objective=[{term: partial_labels}]"]
    with pytest.raises(DataError, match=r"case 'c2' may not be annotated"):
        run(tiny.load(*changes), tmp_path / "run")


@pytest.mark.parametrize(
    ("variant", "says"),
    [
        (
            {"objective": [{"term": "entropy"}], "annotations": ["points"]},
            "no term uses annotations",
        ),
        ({"objective": [{"term": "partial_labels"}]}, "needs annotations"),
        ({"preset": "points", "annotations": ["points", "points"]}, "a kind twice"),
        ({"preset": "points", "annotations": ["boxes"]}, "no term uses annotations of kind"),
        ({"preset": "points", "start": "scratch", "select": "guarded"}, "select: last"),
        (
            {"preset": "few_shot", "prior": "ratio", "annotated_share": 1.0},
            "annotated_share below 1",
        ),
        ({"objective": [{"term": "entropy"}], "annotated_cases": ["c0"]}, "annotations names none"),
        ({"preset": "ratio_teacher+cbst", "prior": "ratio"}, "none of weak labels"),
        ({"preset": "ratio_teacher+pionts", "prior": "ratio"}, "no preset 'pionts'"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    variant: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        Adapt.model_validate({**SHORT, "batch": 4, **variant})


def test_a_card_without_annotations_is_told(tiny: Tiny, tmp_path: Path) -> None:
    world = annotated(tiny, points={"preset": "points"})
    card = yaml.safe_load((tiny.home / "target.yaml").read_text())
    del card["annotations"]
    (tiny.home / "target.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(ConfigError, match="names no annotations"):
        run(world.load(), tmp_path / "run")


@pytest.fixture
def own(tiny: Tiny, finished: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """A model, a folder of images and a folder of annotations, without a card."""
    images = tmp_path / "scans"
    images.mkdir()
    for case in ("c0", "c1"):
        shutil.copy(tiny.root / "t" / "images" / f"{case}.nii.gz", images)
    return finished / "pretrain", images, mark(tmp_path / "clicks", {0: "c0", 1: "c1"}, scale=1)


def test_adapt_picks_what_fits_the_annotations(
    own: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    model, images, clicks = own
    for kind in ("labels", "scribbles", "partial_disk"):
        shutil.rmtree(clicks / kind)
    path = uda.adapt(
        model, images, tmp_path / "out", annotations=clicks, overrides=["steps=2", "batch=6"]
    )
    record = read_json(path.parent / "stage.json")
    assert record["settings"]["preset"] == "ratio_teacher+points+deepcut"
    assert record["settings"]["annotations"] == ["points", "boxes"]
    assert {"target_points", "target_boxes"} <= set(record["supervision"])
    assert record["annotations"]["cases"] == ["c0", "c1"]


def test_adapt_makes_a_prior_of_tags(own: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model, images, clicks = own
    shutil.rmtree(clicks)
    clicks.mkdir()
    lines = [f"{c},{s},1,{int(s > 0)}" for c in ("c0", "c1") for s in range(SLICES)]
    (clicks / "tags.csv").write_text("case,slice,disk,ring\n" + "\n".join(lines) + "\n")
    path = uda.adapt(model, images, tmp_path / "out", annotations=clicks, overrides=["steps=2"])
    record = read_json(path.parent / "stage.json")
    assert record["settings"]["preset"] == "ratio_teacher"
    assert "target_tags" in record["supervision"]
    assert json.loads((path.parent / "prior.json").read_text())["images"]


@pytest.mark.parametrize(
    ("method", "given", "says"),
    [
        ("points", False, "but none were given"),
        ("ratio_teacher", True, "uses no annotations"),
        ("default+tents", True, "no method 'tents' of weak labels"),
    ],
)
def test_methods_that_do_not_fit_the_annotations_are_refused(
    own: tuple[Path, Path, Path], tmp_path: Path, method: str, given: bool, says: str
) -> None:
    model, images, clicks = own
    with pytest.raises(UdaError, match=says):
        uda.adapt(
            model, images, tmp_path / "out", method=method, annotations=clicks if given else None
        )
    assert not (tmp_path / "out").exists()


def test_kinds_that_are_not_there_are_named(own: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model, images, clicks = own
    (clicks / "boxes.csv").unlink()
    with pytest.raises(ConfigError, match="no annotations of kind boxes"):
        uda.adapt(model, images, tmp_path / "out", method="deepcut", annotations=clicks)
