"""Priors: compared with hand calculations, refused when impossible, with the right ledger entries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from uda.data.geometry import Geometry
from uda.data.tags import read_tags
from uda.errors import DataError, PriorError, UdaError
from uda.priors import (
    Prior,
    SizeDistribution,
    from_areas_mm2,
    from_predictions,
    from_sizes_ml,
    from_source_labels,
    from_tags,
    label_ratios,
    presence_ratio,
    select_tags,
)
from uda.types import IGNORE

CLASSES = ("background", "disk", "ring")


def prior(ratio: Any = (0.7, 0.2, 0.1), images: Any = None) -> Prior:
    return Prior(CLASSES, ratio, ("source_labels",), "by hand", images)


def geometry(
    shape: tuple[int, int, int] = (10, 20, 5),
    spacing: tuple[float, float, float] = (1.0, 2.0, 4.0),
    size: tuple[int, int] = (10, 20),
    resized: tuple[int, int] | None = None,
) -> Geometry:
    return Geometry(
        affine=tuple(tuple(row) for row in np.diag([*spacing, 1.0]).tolist()),
        shape=shape,
        turn=((0, 1), (1, 1), (2, 1)),
        slice_axis=2,
        resized=resized or shape[:2],
        depth=shape[2],
        start=(0, 0),
        size=size,
    )


# validation


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        ((1.2, -0.1, -0.1), "ratio is [1.2, -0.1, -0.1]"),
        ((0.9, float("nan"), 0.1), "ratio is [0.9, nan, 0.1]"),
        ((0.9, float("inf"), 0.1), "ratio is [0.9, inf, 0.1]"),
        ((0.5, 0.5), "ratio has 2 entries"),
        ((0.7, 0.2, 0.2), "ratio sums to 1.1"),
        ((0.0, 0.2, 0.1), "ratio sums to 0.3"),  # without the background, as in published code
    ],
)
def test_a_ratio_no_image_can_have_is_refused(ratio: Any, expected: str) -> None:
    with pytest.raises(PriorError) as caught:
        prior(ratio).validate(CLASSES, "prior.json")
    assert expected in str(caught.value)
    assert "prior.json" in str(caught.value)
    assert "sum to 1" in str(caught.value)


def test_every_faulty_row_is_listed() -> None:
    images = {"c0": {0: (1.0, 0.0, 0.0), 1: (0.5, 0.6, 0.1)}, "c1": {7: (1.0, -1.0, 1.0)}}
    with pytest.raises(PriorError, match="3 faults in the prior") as caught:
        prior((0.5, 0.5), images).validate(CLASSES)
    text = str(caught.value)
    assert "ratio has 2 entries" in text
    assert "images.c0.1 sums to 1.2" in text
    assert "images.c1.7 is [1.0, -1.0, 1.0]" in text
    assert "images.c0.0" not in text


@pytest.mark.parametrize(
    "classes", [("background", "disk"), ("background", "ring", "disk"), ("a", "b", "c")]
)
def test_a_prior_of_other_classes_is_refused(classes: tuple[str, ...]) -> None:
    with pytest.raises(PriorError, match="the prior is for the 3 classes"):
        prior().validate(classes)


def test_a_sound_prior_is_returned() -> None:
    sound = prior(images={"c0": {0: (1.0, 0.0, 0.0)}})
    assert sound.validate(CLASSES) is sound
    rounded = prior((0.33333, 0.33333, 0.33333))
    assert rounded.validate(CLASSES) is rounded


# table


def test_a_prior_of_the_data_set_holds_for_each_image() -> None:
    table = prior().table([("a", 0), ("b", 3)])
    torch.testing.assert_close(table, torch.tensor([[0.7, 0.2, 0.1]] * 2))


def test_a_prior_of_images_gives_each_its_own_in_the_order_asked_for() -> None:
    images = {"a": {0: (1.0, 0.0, 0.0), 1: (0.5, 0.5, 0.0)}, "b": {4: (0.2, 0.3, 0.5)}}
    table = prior(images=images).table([("b", 4), ("a", 1), ("a", 0)])
    assert table.tolist() == torch.tensor([images["b"][4], images["a"][1], images["a"][0]]).tolist()


def test_images_the_prior_does_not_know_are_listed() -> None:
    known = prior(images={"a": {0: (1.0, 0.0, 0.0)}})
    with pytest.raises(PriorError, match="2 of 3 images: a slice 1, b slice 0"):
        known.table([("a", 0), ("a", 1), ("b", 0)])


def test_a_prior_may_name_slices_that_preparation_leaves_out_and_no_others() -> None:
    each = prior(images={"a": dict.fromkeys(range(4), (1.0, 0.0, 0.0))})
    whole = [("a", i) for i in range(4)]
    assert each.table([("a", 0), ("a", 2)], known=whole).shape == (2, 3)
    with pytest.raises(PriorError, match="names 1 images that the target does not have: a slice 3"):
        each.table([("a", 0), ("a", 2)], known=whole[:3])


# from labels


def test_label_ratios_by_hand() -> None:
    labels = [
        np.array([[0, 0], [1, 1]], np.uint8),  # 1/2, 1/2, 0
        np.array([[0, 2], [IGNORE, IGNORE]], np.uint8),  # 1/2, 0, 1/2
        np.array([[0, 0], [0, 1]], np.uint8),  # 3/4, 1/4, 0
        np.full((2, 2), IGNORE, np.uint8),  # is left out
    ]
    ratio, presence = label_ratios(labels, 3)
    assert ratio == pytest.approx((7 / 12, 1 / 4, 1 / 6))
    assert presence == pytest.approx((7 / 12, 3 / 8, 1 / 2))
    assert from_source_labels(CLASSES, ratio).validate(CLASSES).supervision == ("source_labels",)


def test_a_class_that_no_slice_shows_has_ratio_0() -> None:
    ratio, presence = label_ratios([np.zeros((2, 2), np.uint8)], 3)
    assert ratio == presence == (1, 0, 0)


@pytest.mark.parametrize("labels", [[], [np.full((2, 2), IGNORE, np.uint8)]])
def test_no_labelled_pixel_is_refused(labels: list[Any]) -> None:
    with pytest.raises(PriorError, match="no slice has a labelled pixel"):
        label_ratios(labels, 3)


# from tags


def test_tags_by_hand() -> None:
    tags = {("a", 0): (False, False), ("a", 1): (True, False), ("b", 5): (True, True)}
    found = from_tags(CLASSES, (0.8, 0.3, 0.2), tags)
    assert found.images is not None
    assert found.images["a"][0] == (1, 0, 0)
    assert found.images["a"][1] == pytest.approx((0.7, 0.3, 0))
    assert found.images["b"][5] == pytest.approx((0.5, 0.3, 0.2))
    assert found.ratio == pytest.approx((2.2 / 3, 0.2, 0.2 / 3))
    assert found.supervision == ("source_labels", "target_tags")


def test_structures_that_exceed_the_image_together_are_refused() -> None:
    with pytest.raises(PriorError, match=r"images.a.0 is \[-0.2"):
        from_tags(CLASSES, (0.1, 0.7, 0.5), {("a", 0): (True, True)})


def test_no_tags_at_all_are_refused() -> None:
    with pytest.raises(PriorError, match="no image"):
        from_tags(CLASSES, (0.8, 0.1, 0.1), {})


def test_where_every_class_has_a_tag_the_shown_ones_share_the_image() -> None:
    """A photograph has no background that could take the rest."""
    tags = {("a", 0): (True, True, False), ("b", 0): (False, False, True)}
    found = from_tags(CLASSES, (0.6, 0.2, 0.1), tags)
    assert found.images is not None
    assert found.images["a"][0] == pytest.approx((0.75, 0.25, 0.0))
    assert found.images["b"][0] == (0.0, 0.0, 1.0)
    assert found.ratio == pytest.approx((0.375, 0.125, 0.5))
    with pytest.raises(PriorError, match="c slice 0 name no class that the source shows"):
        from_tags(CLASSES, (0.6, 0.2, 0.1), {("c", 0): (False, False, False)})


def test_the_ratio_of_a_structure_is_that_of_the_images_that_show_it() -> None:
    ratios = np.array([[0.5, 0.5, 0.0], [0.2, 0.0, 0.8], [0.6, 0.3, 0.1]])
    tags = np.array([[True, False], [False, False], [True, False]])
    assert presence_ratio(ratios, tags, [1, 2]) == pytest.approx((0.0, 0.4, 0.0))


def test_tags_take_the_sizes_of_the_source_along() -> None:
    sizes = SizeDistribution((1.0, 0.5, 0.5), ((0.7,) * 5, (0.2,) * 5, (0.1,) * 5))
    assert from_tags(CLASSES, (0.7, 0.2, 0.1), {("a", 0): (True, True)}, sizes).sizes == sizes


def test_tags_of_wanted_cases_are_kept_and_those_of_unknown_ones_refused() -> None:
    tags = {("a", 0): (True, False), ("b", 3): (True, True), ("b", 4): (False, False)}
    assert select_tags(tags, {"a"}, {"a", "b"}, "t.csv") == {("a", 0): (True, False)}
    with pytest.raises(
        DataError, match="2 images of unknown cases: b slice 3, b slice 4"
    ) as caught:
        select_tags(tags, {"a"}, {"a", "c"}, "t.csv")
    assert "t.csv" in str(caught.value)
    assert "valid: a, c" in str(caught.value)


def write_tags(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_tags_are_read_in_any_order_of_columns(tmp_path: Path) -> None:
    path = write_tags(tmp_path / "t.csv", "slice,ring,case,disk\n3,1,a,0\n0, 0,b,1\n")
    assert read_tags(path, CLASSES[1:]) == {("a", 3): (False, True), ("b", 0): (True, False)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "tags have columns []"),
        ("case,slice,disk\na,0,1\n", "tags have columns ['case', 'slice', 'disk']"),
        ("case,slice,disk,ring,extra\na,0,1,1,1\n", "'extra'"),
        ("case,slice,disc,ring\na,0,1,1\n", "'disc'"),
        ("case,slice,disk,ring\na,0,1,1\na,1,2,0\n", "line 3 is 'a,1,2,0'"),
        ("case,slice,disk,ring\na,0,yes,0\n", "line 2 is 'a,0,yes,0'"),
        ("case,slice,disk,ring\na,-1,1,0\n", "line 2 is 'a,-1,1,0'"),
        ("case,slice,disk,ring\na,x,1,0\n", "line 2 is 'a,x,1,0'"),
        ("case,slice,disk,ring\na,0,1\n", "line 2 is 'a,0,1'"),
    ],
)
def test_tags_that_cannot_be_read_are_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = write_tags(tmp_path / "t.csv", text)
    with pytest.raises(DataError) as caught:
        read_tags(path, CLASSES[1:])
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert "expected:" in str(caught.value)


def test_missing_tags_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="tags cannot be read"):
        read_tags(tmp_path / "none.csv", CLASSES[1:])


def test_tags_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="tags cannot be read"):
        read_tags(tmp_path / "t.csv", CLASSES[1:])


def test_one_image_tagged_twice_differently_is_refused(tmp_path: Path) -> None:
    path = write_tags(tmp_path / "t.csv", "case,slice,disk,ring\na,0,1,0\na,0,0,0\n")
    with pytest.raises(DataError, match="line 3"):
        read_tags(path, CLASSES[1:])


# from sizes


def test_sizes_by_hand() -> None:
    # 10 × 20 × 5 voxels of 8 mm³ = 8 ml
    found = from_sizes_ml(CLASSES, {"disk": 2.0, "ring": 0.8}, [geometry()], "anatomical")
    assert found.ratio == pytest.approx((0.65, 0.25, 0.1))
    assert found.supervision == ("anatomical",)
    assert found.validate(CLASSES).images is None


def test_sizes_are_shares_of_the_prepared_crop_and_not_of_the_file() -> None:
    half = geometry(size=(5, 20))  # 4 ml
    found = from_sizes_ml(CLASSES, {"disk": 2.0, "ring": 0.8}, [half], "anatomical")
    assert found.ratio == pytest.approx((0.3, 0.5, 0.2))


def test_resampling_does_not_change_what_a_millilitre_is() -> None:
    # the same 10 × 40 mm slices in pixels of 2 × 2 mm
    resampled = geometry(size=(5, 20), resized=(5, 20))
    found = from_sizes_ml(CLASSES, {"disk": 2.0, "ring": 0.8}, [resampled], "target_sizes")
    assert found.ratio == pytest.approx((0.65, 0.25, 0.1))


def test_shares_are_averaged_over_the_volumes() -> None:
    both = [geometry(), geometry(size=(5, 20))]
    found = from_sizes_ml(CLASSES, {"disk": 2.0, "ring": 0.8}, both, "anatomical")
    assert found.ratio == pytest.approx((0.475, 0.375, 0.15))


def test_sizes_larger_than_the_image_are_refused() -> None:
    with pytest.raises(PriorError, match="the sizes fill 350 of the mean target image") as caught:
        from_sizes_ml(CLASSES, {"disk": 2000, "ring": 800}, [geometry()], "anatomical")
    assert "ml, not mm³" in str(caught.value)


def test_an_unknown_structure_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(PriorError, match="'rign'") as caught:
        from_sizes_ml(CLASSES, {"disk": 1.0, "rign": 1.0}, [geometry()], "anatomical")
    assert "did you mean 'ring'?" in str(caught.value)


def test_background_has_no_size_of_its_own() -> None:
    with pytest.raises(PriorError, match="'background'"):
        from_sizes_ml(CLASSES, {"background": 1.0}, [geometry()], "anatomical")


def test_a_structure_without_a_size_is_named() -> None:
    with pytest.raises(PriorError, match=r"nothing about \['ring'\]"):
        from_sizes_ml(CLASSES, {"disk": 1.0}, [geometry()], "anatomical")


@pytest.mark.parametrize("size", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("make", [from_sizes_ml, from_areas_mm2])
def test_a_size_that_is_no_size_is_refused(make: Any, size: float) -> None:
    with pytest.raises(PriorError, match="gives disk") as caught:
        make(CLASSES, {"disk": size, "ring": 1.0}, [geometry()], "anatomical")
    assert "0 or more, finite" in str(caught.value)


@pytest.mark.parametrize("make", [from_sizes_ml, from_areas_mm2])
def test_sizes_without_an_image_are_refused(make: Any) -> None:
    with pytest.raises(PriorError, match="need the target images"):
        make(CLASSES, {"disk": 1.0, "ring": 1.0}, [], "anatomical")


def test_areas_by_hand() -> None:
    # 10 × 20 pixels of 1 × 2 mm = 400 mm² a slice
    found = from_areas_mm2(CLASSES, {"disk": 100.0, "ring": 40.0}, [geometry()], "target_sizes")
    assert found.ratio == pytest.approx((0.65, 0.25, 0.1))
    assert found.supervision == ("target_sizes",)
    assert found.validate(CLASSES).images is None


def test_areas_are_averaged_over_slices_and_shares_of_the_prepared_ones() -> None:
    # 5 slices of 400 mm² and 15 of half that: (5 · 1/4 + 15 · 1/2) / 20
    stacks = [geometry(), geometry(shape=(10, 20, 15), size=(5, 20))]
    found = from_areas_mm2(CLASSES, {"disk": 100.0, "ring": 0.0}, stacks, "anatomical")
    assert found.ratio == pytest.approx((1 - 0.4375, 0.4375, 0))
    resampled = geometry(size=(5, 20), resized=(5, 20))  # the same 400 mm² in fewer pixels
    found = from_areas_mm2(CLASSES, {"disk": 100.0, "ring": 40.0}, [resampled], "anatomical")
    assert found.ratio == pytest.approx((0.65, 0.25, 0.1))


def test_the_same_structure_in_ml_and_in_mm2_has_the_same_ratio() -> None:
    ml = {"disk": 1.2, "ring": 0.4}
    slices, distance = 5, 4.0
    mm2 = {name: 1000 * size / (slices * distance) for name, size in ml.items()}
    by_volume = from_sizes_ml(CLASSES, ml, [geometry()], "anatomical")
    by_area = from_areas_mm2(CLASSES, mm2, [geometry()], "anatomical")
    assert by_area.ratio == pytest.approx(by_volume.ratio)


def test_areas_larger_than_a_slice_are_refused() -> None:
    with pytest.raises(PriorError, match="the sizes fill 1 of the mean target image") as caught:
        from_areas_mm2(CLASSES, {"disk": 300.0, "ring": 100.0}, [geometry()], "anatomical")
    assert "mm², not cm² or pixels" in str(caught.value)


def test_areas_name_the_structures_of_the_model() -> None:
    with pytest.raises(PriorError, match="areas_mm2 names 'rign'"):
        from_areas_mm2(CLASSES, {"disk": 1.0, "rign": 1.0}, [geometry()], "anatomical")
    with pytest.raises(PriorError, match=r"areas_mm2 says nothing about \['ring'\]"):
        from_areas_mm2(CLASSES, {"disk": 1.0}, [geometry()], "anatomical")


# from predictions


def test_predictions_are_averaged_and_kept_per_image_where_asked() -> None:
    ratios = np.array([[0.5, 0.3, 0.2], [0.9, 0.1, 0.0]])
    places = [("a", 1), ("a", 0)]
    mean = from_predictions(CLASSES, ratios, places)
    assert mean.ratio == pytest.approx((0.7, 0.2, 0.1))
    assert mean.images is None
    assert mean.supervision == ("none",)
    each = from_predictions(CLASSES, ratios, places, per_image=True, batchnorm="target")
    np.testing.assert_allclose(each.table(places).numpy(), ratios, atol=1e-7)
    assert "of the target" in each.how


@pytest.mark.parametrize(
    ("ratios", "places", "message"),
    [
        (np.full((1, 3), np.nan), [("a", 0)], "nan"),
        (np.zeros((1, 3)), [("a", 0)], "sums to 0"),
        (np.full((1, 2), 0.5), [("a", 0)], "2 entries"),
        (np.full((1, 3), 1 / 3), [], "1 ratios for 0 images"),
        (np.zeros((0, 3)), [], "0 ratios for 0 images"),
    ],
)
def test_predictions_no_image_can_have_are_refused(ratios: Any, places: Any, message: str) -> None:
    with pytest.raises(PriorError, match=message):
        from_predictions(CLASSES, ratios, places)


# files


@pytest.mark.parametrize("images", [None, {"a": {0: (1.0, 0.0, 0.0), 12: (1 / 3, 1 / 3, 1 / 3)}}])
def test_a_saved_prior_comes_back_as_it_was(tmp_path: Path, images: Any) -> None:
    before = prior((0.7, 0.2, 0.1), images)
    before.save(tmp_path / "prior.json")
    assert Prior.load(tmp_path / "prior.json") == before
    assert Prior.load(tmp_path) == before


def edited(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "prior.json"
    prior(images={"a": {0: (1.0, 0.0, 0.0)}}).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "other"},
        {"ratio": None},
        {"ratio": ["a lot"]},
        {"classes": 3},
        {"images": {"a": {"first": [1, 0, 0]}}},
        {"images": {"a": [1, 0, 0]}},
        {"images": {"a": {"0": 1}}},
    ],
)
def test_a_prior_edited_into_something_else_is_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = edited(tmp_path, **changes)
    with pytest.raises(PriorError, match="is not a prior") as caught:
        Prior.load(path)
    assert str(path) in str(caught.value)


def test_a_prior_edited_so_that_it_cannot_be_is_refused_by_validation(tmp_path: Path) -> None:
    loaded = Prior.load(edited(tmp_path, ratio=[0.9, 0.2, 0.1]))
    with pytest.raises(PriorError, match=r"ratio sums to 1\.2"):
        loaded.validate(CLASSES)


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "3"])
def test_a_file_that_holds_no_prior_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "prior.json").write_text(content)
    with pytest.raises(UdaError) as caught:
        Prior.load(tmp_path / "prior.json")
    assert str(tmp_path / "prior.json") in str(caught.value)


def test_a_missing_prior_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PriorError, match="there is no such file") as caught:
        Prior.load(tmp_path / "none.json")
    assert "`uda prior`" in str(caught.value)
