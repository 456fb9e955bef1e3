"""Annotations on the prepared grid: where marks land, which slices are marked, what a batch gets of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from annotated import AFFINE, card_of, write_nifti

from uda.config.card import DatasetCard
from uda.data.annotations.folder import Annotations
from uda.data.annotations.marks import Box, Partial, Point
from uda.data.annotations.prepared import OneCase, PreparedAnnotations, prepared
from uda.data.cases import Case
from uda.data.items import Patches, Slices
from uda.data.store import Store, open_store
from uda.errors import DataError
from uda.types import IGNORE, OTHER

SHAPE = (5, 8, 8)
RNG = np.random.default_rng(3)


def stored(folder: Path, card: DatasetCard, cases: int = 2) -> Store:
    found = []
    for number in range(1, cases + 1):
        image = RNG.normal(size=SHAPE).astype(np.float32)
        found.append(Case(f"p{number}", write_nifti(folder / f"p{number}.nii.gz", image, AFFINE)))
    return open_store(card, found, folder / "store")


def marked(store: Store, card: DatasetCard, given: Annotations, *kinds: str) -> PreparedAnnotations:
    return prepared(given, store, card.classes, card.structures, kinds)  # type: ignore[arg-type]


@pytest.fixture
def card() -> DatasetCard:
    return card_of()


@pytest.fixture
def store(tmp_path: Path, card: DatasetCard) -> Store:
    return stored(tmp_path, card)


def test_a_click_marks_its_pixel_and_no_other(store: Store, card: DatasetCard) -> None:
    given = Annotations(points={"p2": (Point(4, 1, 6, 2), Point(0, 7, 0, 0))})
    found = marked(store, card, given, "points")
    labels = np.full((10, 8, 8), IGNORE)
    labels[5 + 4, 1, 6], labels[5, 7, 0] = 2, 0
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(np.flatnonzero(found.slices), [5, 9])
    assert found.supervision == ("target_points",)
    assert found.cases == ("p2",)
    assert found.record() == {
        "cases": ["p2"],
        "slices": 2,
        "pixels": 2,
        "boxes": 0,
        "outside": 0,
    }


def test_clicks_outside_the_crop_are_counted(tmp_path: Path) -> None:
    card = card_of(prepare={"size": [4, 4], "orientation": "stored", "slice_axis": 0})
    store = stored(tmp_path, card)
    given = Annotations(points={"p1": (Point(0, 0, 0, 1), Point(0, 2, 2, 1))})
    found = marked(store, card, given, "points")
    assert found.outside == 1
    assert found.labels[0, 0, 0] == 1
    assert int((found.labels != IGNORE).sum()) == 1


def test_thin_scribbles_survive_larger_pixels(tmp_path: Path) -> None:
    coarse = {"size": [4, 4], "orientation": "stored", "slice_axis": 0, "spacing": 3.0}
    card = card_of(prepare=coarse)
    store = stored(tmp_path, card)
    scribble = np.full(SHAPE, IGNORE, np.uint8)
    scribble[1, :, 2] = 3
    found = marked(store, card, Annotations(scribbles={"p1": scribble}), "scribbles")
    np.testing.assert_array_equal(
        found.labels[1], np.where(np.arange(4) == 1, 3, IGNORE)[None].repeat(4, 0)
    )


def test_padding_says_nothing(tmp_path: Path) -> None:
    card = card_of(prepare={"size": [12, 12], "orientation": "stored", "slice_axis": 0})
    store = stored(tmp_path, card)
    whole = np.zeros(SHAPE, np.uint8)
    found = marked(store, card, Annotations(labels={"p1": whole}), "labels")
    assert (found.labels[:5, 2:10, 2:10] == 0).all()
    assert int((found.labels == 0).sum()) == whole.size


def test_complete_labels_come_before_scribbles_and_scribbles_before_clicks(
    store: Store, card: DatasetCard
) -> None:
    scribble = np.full(SHAPE, IGNORE, np.uint8)
    scribble[2, 3, :] = 1
    partial = Partial(np.full(SHAPE, OTHER, np.uint8), ("disk", "ring"))
    given = Annotations(
        points={"p1": (Point(2, 3, 4, 2), Point(2, 5, 5, 2))},
        scribbles={"p1": scribble},
        partial={"p1": partial},
    )
    found = marked(store, card, given, "points", "scribbles", "partial")
    assert (found.labels[2, 3] == 1).all()
    assert found.labels[2, 5, 5] == 2
    assert int((found.labels[:5] == OTHER).sum()) == np.prod(SHAPE) - 9
    assert found.labelled[:5].tolist() == [[False, True, False, True]] * 5
    assert found.labelled[5:].all()
    assert found.supervision == ("target_points", "target_scribbles", "target_partial")


def test_a_box_of_a_slice_says_that_its_other_structures_are_absent(
    store: Store, card: DatasetCard
) -> None:
    given = Annotations(boxes={"p2": (Box(3, 1, 2, 1, 4, 6),)})
    found = marked(store, card, given, "boxes")
    assert {number: own.tolist() for number, own in found.boxes.items()} == {8: [[1, 2, 1, 4, 6]]}
    assert found.boxed.tolist() == [[False, n == 8, n == 8, n == 8] for n in range(10)]
    np.testing.assert_array_equal(np.flatnonzero(found.slices), [8])


def test_boxes_may_reach_beyond_the_crop_and_are_counted_where_they_lie_outside(
    tmp_path: Path,
) -> None:
    card = card_of(prepare={"size": [4, 4], "orientation": "stored", "slice_axis": 0})
    store = stored(tmp_path, card)
    given = Annotations(boxes={"p1": (Box(0, 1, 0, 0, 7, 3), Box(1, 2, 0, 0, 1, 1))})
    found = marked(store, card, given, "boxes")
    assert {n: own.tolist() for n, own in found.boxes.items()} == {0: [[1, -2, -2, 5, 1]]}
    assert found.outside == 1


def test_boxes_follow_the_turn_of_the_image(tmp_path: Path) -> None:
    """A box around a structure is the box around the structure's prepared label."""
    from uda.data.geometry import label_slices

    turned = {"size": [8, 8], "orientation": "LPI", "slice_axis": 2}
    card = card_of(prepare=turned)
    store = stored(tmp_path, card, 1)
    geometry = store.cases[0].geometry
    label = np.zeros(SHAPE, np.uint8)
    axis = geometry.file_slice_axis
    np.moveaxis(label, axis, 0)[2, 1:4, 3:8] = 1
    found = marked(store, card, Annotations(boxes={"p1": (Box(2, 1, 1, 3, 3, 7),)}), "boxes")
    prepared_label = label_slices(label, geometry)
    number, rows, columns = (np.nonzero(prepared_label)[i] for i in range(3))
    assert list(found.boxes) == [number[0]]
    assert found.boxes[number[0]].tolist() == [
        [1, rows.min(), columns.min(), rows.max(), columns.max()]
    ]


def test_chosen_cases_alone_are_used(store: Store, card: DatasetCard) -> None:
    given = Annotations(points={"p1": (Point(0, 0, 0, 1),), "p2": (Point(0, 0, 0, 1),)})
    found = prepared(given, store, card.classes, card.structures, ["points"], ["*2"])
    assert found.cases == ("p2",)
    assert int((found.labels != IGNORE).sum()) == 1


def test_a_kind_that_no_case_has_is_refused(store: Store, card: DatasetCard) -> None:
    given = Annotations(points={"p9": (Point(0, 0, 0, 1),)})
    with pytest.raises(DataError, match=r"no case to adapt to has annotations of kind 'points'"):
        marked(store, card, given, "points")


def test_a_batch_gets_labels_boxes_and_places(store: Store, card: DatasetCard) -> None:
    given = Annotations(
        points={"p1": (Point(1, 2, 3, 1),)},
        boxes={"p2": (Box(0, 1, 2, 1, 4, 6), Box(0, 3, 0, 0, 7, 7), Box(3, 2, 1, 1, 1, 1))},
    )
    found = marked(store, card, given, "points", "boxes")
    items = Slices(store)
    np.testing.assert_array_equal(found.items(items), [1, 5, 8])
    places = np.array([0, 1, 5])
    _, label = items.labelled(places, [0, 0, 0], found.labels)
    batch = found.of(items, places, label, drawn=1)
    assert batch.drawn == 1
    assert batch.label[1, 2, 3] == 1
    assert batch.boxes is not None
    assert batch.boxed is not None
    assert batch.place is not None
    assert batch.boxes[0, :, 1].tolist() == [-1, -1]
    assert batch.boxes[2].tolist() == [[0, 1, 2, 1, 4, 6], [0, 3, 0, 0, 7, 7]]
    assert batch.boxed[:, 0].tolist() == [[False] * 4, [False] * 4, [False, True, True, True]]
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    torch.testing.assert_close(batch.place, torch.stack([rows, columns])[None].repeat(3, 1, 1, 1))


def test_patches_of_volumes_get_their_part(store: Store, card: DatasetCard) -> None:
    given = Annotations(points={"p1": (Point(4, 7, 7, 1),)}, boxes={"p2": (Box(3, 1, 2, 1, 4, 6),)})
    found = marked(store, card, given, "points", "boxes")
    items = Patches(store, (2, 4, 4))
    shown = items.corners[found.items(items)]
    assert {(case, z) for case, z, *_ in shown.tolist()} == {(0, 3), (1, 2), (1, 3)}
    places = np.array([[0, 3, 4, 4], [1, 2, 2, 0]])
    _, label = items.labelled(places, [0, 0], found.labels)
    batch = found.of(items, places, label, drawn=0)
    assert batch.label[0, 1, 3, 3] == 1
    assert batch.boxes is not None
    assert batch.boxed is not None
    assert batch.place is not None
    assert batch.boxes[1, 0].tolist() == [1, 1, 2, 1, 4, 6]
    assert batch.boxed[1].any(1).tolist() == [False, True]
    torch.testing.assert_close(batch.place[1, :, 1, 0, 0], torch.tensor([1.0, 2.0, 0.0]))


@pytest.mark.parametrize("kind", ["points", "scribbles", "boxes", "partial", "labels"])
def test_a_case_alone_is_prepared_as_in_a_store(tmp_path: Path, kind: str) -> None:
    coarse = {"size": [5, 6], "orientation": "RAS", "slice_axis": 2, "spacing": 2.0}
    card = card_of(prepare=coarse)
    store = stored(tmp_path, card)
    labels = RNG.integers(0, 4, SHAPE, dtype=np.uint8)
    given = Annotations(
        points={"p2": tuple(Point(s, s, 7 - s, s % 4) for s in range(5))},
        boxes={"p2": (Box(1, 1, 2, 1, 4, 6), Box(3, 2, 0, 0, 1, 1))},
        scribbles={"p2": np.where(RNG.random(SHAPE) < 0.1, labels, IGNORE).astype(np.uint8)},
        partial={"p2": Partial(np.where(labels == 1, 1, OTHER).astype(np.uint8), ("disk",))},
        labels={"p2": labels},
    )
    whole, second = marked(store, card, given, kind), store.cases[1]
    one = OneCase("p2", second.geometry)
    alone = prepared(given, one, card.classes, card.structures, [kind])  # type: ignore[list-item]
    own = slice(second.start, second.stop)
    np.testing.assert_array_equal(alone.labels, whole.labels[own])
    np.testing.assert_array_equal(alone.labelled, whole.labelled[own])
    np.testing.assert_array_equal(alone.boxed, whole.boxed[own])
    np.testing.assert_array_equal(alone.slices, whole.slices[own])
    assert alone.outside == whole.outside
    assert {number + second.start: boxes.tolist() for number, boxes in alone.boxes.items()} == {
        number: boxes.tolist() for number, boxes in whole.boxes.items()
    }
    assert alone.slices.any()
