"""A recipe's own choice of cases and of rows: what is chosen is what is read, and nothing else is made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Tiny, make_case, write_nifti

from uda.config.loading import load_recipe
from uda.errors import ConfigError, DataError, UdaError
from uda.pipeline import run as pipeline
from uda.pipeline.domains import Domains
from uda.pipeline.plan import plan
from uda.priors.estimate import card_tags
from uda.report.files import read_metrics
from uda.report.tables import table

ONE_STEP = (
    "pretrain.steps=1",
    "adapt.*.steps=1",
    "adapt.*.select=last",
    "evaluate.distances=false",
)


def ran(done: list[pipeline.Done]) -> list[str]:
    return [stage.name for stage in done if stage.ran]


def keys(tiny: Tiny, out: Path, *overrides: str) -> dict[str, str]:
    """Content hashes of what every stage reads."""
    stages = plan(tiny.load(*overrides), out)
    return {key: value for stage in stages for key, value in stage.data().items()}


def rows_of(run: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((run / "evaluate" / "metrics.json").read_text())["rows"]
    return rows


# data.splits


def test_chosen_cases_have_the_hashes_of_a_card_with_these_splits(
    tiny: Tiny, tmp_path: Path
) -> None:
    chosen = keys(
        tiny,
        tmp_path / "a",
        "data.splits.source={train: [c1], validate: [c0, c2]}",
        "data.splits.target={adapt: test, test: [c0, 'c1*']}",
    )
    for name, splits in (
        ("source", {"train": ["c1"], "validate": ["c0", "c2"]}),
        ("target", {"adapt": ["c2"], "test": ["c0", "c1"]}),
    ):
        card = tiny.home / f"{name}.yaml"
        card.write_text(yaml.safe_dump({**yaml.safe_load(card.read_text()), "splits": splits}))
    assert chosen == keys(tiny, tmp_path / "b")


def test_the_cards_own_splits_by_name_make_no_stage_again(finished: Path, tiny: Tiny) -> None:
    same = ["data.splits.source={train: train}", "data.splits.target={adapt: [c0, c1], test: test}"]
    assert ran(pipeline.run(tiny.load(*same), finished)) == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.splits.source.train=trian"], "no split 'trian'"),
        (["data.splits.source.train=trian"], "did you mean 'train'"),
        (["data.splits.target.test=[c2, c9]"], "case 'c9'"),
        (["data.splits.target.adapt=['x*']"], "no image of card 'target' matches"),
        (["data.splits.source.validate=[c0]"], "would train and judge the same network: c0"),
        (["data.splits.target.test=[c1]", "target_supervised=true"], "splits 'adapt' and 'test'"),
        (["data.splits.target.train=[c2]", "target_supervised=true"], "splits 'train' and 'test'"),
    ],
)
def test_cases_that_cannot_serve_are_refused_before_anything_is_trained(
    tiny: Tiny, tmp_path: Path, overrides: list[str], words: str
) -> None:
    with pytest.raises(UdaError) as caught:
        pipeline.run(tiny.load(*overrides), tmp_path / "run")
    assert words in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("card", ["source", "target"])
def test_source_labels_train_nothing_that_is_tested_on_them(
    tiny: Tiny, tmp_path: Path, card: str
) -> None:
    raw = yaml.safe_load((tiny.home / "source.yaml").read_text())
    raw |= {
        "name": card,
        "splits": {"train": ["c1"], "validate": ["c2"], "adapt": ["c1"], "test": ["c0"]},
    }
    (tiny.home / f"{card}.yaml").write_text(yaml.safe_dump(raw))

    def check(train: str, validate: str) -> None:
        chosen = f"data.splits.source={{train: [{train}], validate: [{validate}]}}"
        recipe = tiny.load(f"data.target={tiny.home}/{card}.yaml", chosen)
        Domains(recipe, tmp_path).check_splits()

    check("c1", "c2")
    with pytest.raises(ConfigError, match="splits 'train' and 'test'"):
        check("c1, c0", "c2")
    with pytest.raises(ConfigError, match="splits 'validate' and 'test'"):
        check("c1", "c0")


def test_the_same_image_under_two_names_does_not_train_and_judge(
    tiny: Tiny, tmp_path: Path
) -> None:
    for folder, ending in (("images", "nii.gz"), ("labels", "nii.gz")):
        (tiny.root / "t" / folder / f"d2.{ending}").symlink_to(f"c2.{ending}")
    recipe = tiny.load("target_supervised=true", "data.splits.target={train: [d2], test: [c2]}")
    with pytest.raises(ConfigError, match="would train and judge the same network: d2 = c2"):
        pipeline.run(recipe, tmp_path / "run")
    raw = yaml.safe_load((tiny.home / "source.yaml").read_text())
    raw |= {"images": "t/images/c{case}.nii.gz", "labels": "t/labels/c{case}.nii.gz"}
    raw["splits"] = {"train": ["0", "2"]}
    (tiny.home / "source.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match="would train and judge the same network: 2 = c2"):
        pipeline.run(tiny.load(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


THREE_D = ["network.spatial_dims=3"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["network.channels=[2, 4, 8, 16, 32, 64, 128]"], ["card 'source'", "multiples of 64"]),
        (["network.size=base", "network.channels=[16, 32, 64, 128, 256]", *THREE_D,
          "network.patch=[4, 16, 20]"], ["network.patch", "multiples of 16, such as [16, 16, 16]"]),
        ([*THREE_D, "network.patch=[2, 2, 2]", "pretrain.batch=1"], ["pretrain.batch", "2 or more"]),
        (
            [*THREE_D, "network.patch=[2, 8, 8]", "adapt.minent.preset=slice_teacher",
             "adapt.minent.objective=[{term: pseudo_labels, smooth: 0.8}]"],
            ["adapt.minent", "pseudo_labels.smooth"],
        ),
        (["network.norm=instance", "adapt.minent.train=batchnorm"], ["adapt.minent", "train: all"]),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_the_network_are_refused_before_anything_is_trained(
    tiny: Tiny, tmp_path: Path, overrides: list[str], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        pipeline.run(tiny.load(*overrides), tmp_path / "run")
    assert all(word in str(caught.value) for word in words), caught.value
    assert not (tmp_path / "run").exists()


def test_rendered_data_are_checked_when_they_are_there(tmp_path: Path) -> None:
    short = [
        "pretrain.steps=1",
        "adapt={}",
        "data.streets={source: 2, target: 1, test: 1, size: [32, 64]}",
    ]
    both = "data.splits.source={train: ['*'], validate: ['*']}"
    recipe = load_recipe("street_phantom", [*short, both])
    with pytest.raises(ConfigError, match="would train and judge the same network"):
        pipeline.run(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "pretrain").exists()


def test_a_further_subject_is_rendered_where_others_are(tmp_path: Path) -> None:
    (tmp_path / "phantom" / "mr_train").mkdir(parents=True)
    further = load_recipe("cardiac_phantom", ["data.splits.source.train=['1050']"])
    Domains(further, tmp_path).check_splits()


def test_test_cases_may_be_adapted_to_without_their_labels(tiny: Tiny, tmp_path: Path) -> None:
    Domains(tiny.load("data.splits.target.adapt=[c1, c2]"), tmp_path).check_splits()


def test_cases_are_not_looked_for_where_there_are_no_data(finished: Path, tiny: Tiny) -> None:
    shutil.rmtree(tiny.root)
    same = "data.splits.source={train: [c0, c1]}"
    assert ran(pipeline.run(tiny.load(same), finished, until="adabn")) == []


def test_tags_may_speak_of_cases_that_the_recipe_leaves_out(tiny: Tiny, tmp_path: Path) -> None:
    domains = Domains(tiny.load("data.splits.target.adapt=['c0*']"), tmp_path)
    assert {case for case, _ in card_tags(domains.target, tiny.root)} == {"c0"}


def test_the_phantom_renders_chosen_subjects_and_refuses_a_name() -> None:
    recipe = load_recipe("cardiac_phantom", ["data.splits.target.test=['1050']"])
    subjects = plan(recipe, Path("nowhere"))[0].settings["ct"]
    assert set(plan(load_recipe("cardiac_phantom"), Path("nowhere"))[0].settings["ct"]) | {
        1050
    } == set(subjects)
    with pytest.raises(ConfigError, match="cannot render case 'p1'"):
        plan(load_recipe("cardiac_phantom", ["data.splits.source.train=[p1]"]), Path("nowhere"))


# target_supervised and rows


def test_the_upper_bound_says_which_labels_it_saw_and_can_have_its_own(
    tiny: Tiny, tmp_path: Path, no_page: None
) -> None:
    image, label = make_case(30, True)
    write_nifti(tiny.root / "t" / "images" / "c3.nii.gz", image)
    write_nifti(tiny.root / "t" / "labels" / "c3.nii.gz", label * np.uint8(10))
    for case in ("c0", "c1"):  # of the cases to adapt to
        (tiny.root / "t" / "labels" / f"{case}.nii.gz").unlink()
    recipe = tiny.load(*ONE_STEP, "target_supervised=true", "data.splits.target.train=[c3]")
    pipeline.run(recipe, tmp_path / "run", rows=["target_supervised"])
    record = json.loads((tmp_path / "run" / "target_supervised" / "stage.json").read_text())
    assert record["trained_on"] == {"split": "target/train", "cases": ["c3"]}
    assert set(record["data"]) == {"target/train"}
    assert [row.get("trained_on") for row in rows_of(tmp_path / "run")] == [
        None,
        None,
        "target/train",
    ]
    caption = str(table(read_metrics(tmp_path / "run")).caption)
    assert "target_supervised: trained on the labels of target/train" in caption


def test_rows_left_out_are_neither_trained_nor_shown_and_come_later(
    tiny: Tiny, tmp_path: Path, no_page: None
) -> None:
    recipe = tiny.load(*ONE_STEP)
    some = pipeline.run(recipe, tmp_path / "run", rows=["minent"])
    assert ran(some) == ["pretrain", "adabn", "adapt-minent", "evaluate", "report"]
    assert [row["name"] for row in rows_of(tmp_path / "run")] == ["source_only", "adabn", "minent"]
    assert ran(pipeline.run(recipe, tmp_path / "run", rows=["minent", "adabn"])) == []
    rest = pipeline.run(recipe, tmp_path / "run")
    assert ran(rest) == ["prior-ratio", "prior-tags", "adapt-adami_tags", "evaluate", "report"]
    assert [row["name"] for row in rows_of(tmp_path / "run")][-1] == "adami_tags"


@pytest.mark.parametrize(
    ("row", "words"),
    [("minnet", "did you mean 'minent'?"), ("target_supervised", "add target_supervised=true")],
)
def test_a_row_that_the_recipe_lacks_is_refused(
    tiny: Tiny, tmp_path: Path, row: str, words: str
) -> None:
    with pytest.raises(ConfigError, match="has no row") as caught:
        pipeline.run(tiny.load(), tmp_path / "run", rows=["adabn", row])
    assert words in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_label_that_is_missing_is_told_before_the_training(tiny: Tiny, tmp_path: Path) -> None:
    (tiny.root / "t" / "labels" / "c1.nii.gz").unlink()
    with pytest.raises(DataError, match="case 'c1'"):
        pipeline.run(tiny.load("data.splits.target.test=[c1]"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_source_model_that_failed_where_it_was_trained_is_named_below_the_table(
    tiny: Tiny, tmp_path: Path, no_page: None
) -> None:
    again = "sources={again: {steps: 1}}"
    pipeline.run(tiny.load(*ONE_STEP, again), tmp_path / "run", rows=["again_adabn"])
    rules = " ".join(read_metrics(tmp_path / "run")["rules"])
    for row in ("source_only", "again_source_only"):
        assert f"The model of {row} is poor where it was trained: all 12 predictions" in rules
