"""Which files are a case: layouts, wildcards, doubles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import CLASSES

from uda.config.card import DatasetCard
from uda.data.cases import cases_of, image_path, label_path, names_of
from uda.errors import ConfigError, DataError


def card(**changes: Any) -> DatasetCard:
    raw = {
        "name": "mr",
        "title": "two layouts",
        "images": ["{case}_image.nii", "mr/mr_{case}_image.nii"],
        "labels": ["{case}_label.nii", "mr/mr_{case}_label.nii"],
        "classes": CLASSES,
        "label_values": {"background": [0], "disk": [1], "ring": [2]},
        "prepare": {"size": [8, 8]},
        "splits": {"train": ["*"], "some": ["p1?", "p2"]},
    }
    return DatasetCard.model_validate(raw | changes)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize("layout", ["{}_{}.nii", "mr/mr_{}_{}.nii"])
def test_either_layout_is_found(tmp_path: Path, layout: str) -> None:
    touch(tmp_path, layout.format("p2", "image"), layout.format("p2", "label"))
    (case,) = cases_of(card(splits={"train": ["p2"]}), tmp_path, "train", labels=True)
    assert case.name == "p2"
    assert case.image == tmp_path / layout.format("p2", "image")
    assert case.label == tmp_path / layout.format("p2", "label")


def test_a_file_that_is_nowhere_is_named_where_the_first_layout_has_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="p7_image"):
        cases_of(card(splits={"train": ["p7"]}), tmp_path, "train")


def test_wildcards_stand_for_the_images_that_are_there_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, "p10_image.nii", "p2_image.nii", "p9_image.nii", "p10_label.nii", "notes.txt")
    assert names_of(card(), tmp_path, "train") == ["p2", "p9", "p10"]
    assert names_of(card(), tmp_path, "some") == ["p10", "p2"]


def test_a_wildcard_does_not_cross_folders_nor_match_other_names(tmp_path: Path) -> None:
    touch(tmp_path, "mr/mr_p1_image.nii", "mr/deep/mr_p2_image.nii", "mr/ct_p3_image.nii")
    assert names_of(card(), tmp_path, "train") == ["p1"]


def test_a_pattern_that_names_the_case_twice_wants_it_twice(tmp_path: Path) -> None:
    touch(tmp_path, "p1/p1.nii", "p2/p3.nii")
    twice = card(images="{case}/{case}.nii")
    assert names_of(twice, tmp_path, "train") == ["p1"]


def test_a_pattern_that_would_take_for_ever_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more than 2 \\* in one name"):
        names_of(card(images="*a*b*/{case}.nii"), tmp_path, "train")


def test_wildcards_that_match_nothing_are_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="matches its split 'train'") as error:
        names_of(card(), tmp_path, "train")
    assert str(tmp_path) in str(error.value)
    assert "data.root" in str(error.value)


def test_one_case_in_two_layouts_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "p2_image.nii", "mr/mr_p2_image.nii")
    with pytest.raises(DataError, match="2 files claim to be case 'p2'") as error:
        cases_of(card(), tmp_path, "train")
    assert str(tmp_path / "p2_image.nii") in str(error.value)
    assert str(tmp_path / "mr" / "mr_p2_image.nii") in str(error.value)


def test_labels_inside_lie_in_the_images_own_file(tmp_path: Path) -> None:
    touch(tmp_path, "p1.npz")
    inside = card(images="{case}.npz", labels="inside")
    assert label_path(inside, tmp_path, "p1") == image_path(inside, tmp_path, "p1")
    (case,) = cases_of(inside, tmp_path, "train", labels=True)
    assert case.label == case.image
    assert cases_of(inside, tmp_path, "train")[0].label is None


def test_images_cannot_lie_inside_and_patterns_must_name_the_case() -> None:
    for changes in ({"images": "inside"}, {"images": "a.nii"}, {"labels": ["{case}.nii", "b.nii"]}):
        with pytest.raises(ValueError, match="pattern must contain"):
            card(**changes)


def test_an_unknown_split_proposes_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        names_of(card(), tmp_path, "trian")
