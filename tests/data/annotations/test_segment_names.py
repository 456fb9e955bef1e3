"""Segmentations of 3D Slicer and MITK: names before numbers, layers, and where they lie."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
from annotated import AFFINE, CARD, GRID, SHAPE, card_of

from uda.data.annotations.label_files import read_complete, read_partial, read_scribbles
from uda.errors import DataError
from uda.types import IGNORE, OTHER

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write(
    path: Path,
    layers: np.ndarray,
    fields: dict[str, str],
    affine: np.ndarray = AFFINE,
    kind: str = "list",
) -> Path:
    """Layers ``[n, i, j, k]`` as 3D Slicer writes them: one of three axes, several as a list."""
    turned = LPS @ affine
    steps = turned[:3, :3].T.tolist()
    header: dict[str, Any] = {"space": "left-posterior-superior", "space origin": turned[:3, 3]}
    if len(layers) == 1:
        header |= {"space directions": steps, "kinds": ["domain"] * 3}
        layers = layers[0]
    else:
        header |= {
            "space directions": np.array([[np.nan] * 3, *steps]),
            "kinds": [kind, *["domain"] * 3],
        }
    nrrd.write(str(path), layers, header | {"encoding": "gzip"} | fields)
    return path


def slicer(*segments: tuple[str, int, int]) -> dict[str, str]:
    fields = {}
    for number, (name, value, layer) in enumerate(segments):
        fields |= {
            f"Segment{number}_ID": f"Segment_{number + 1}",
            f"Segment{number}_Name": name,
            f"Segment{number}_LabelValue": str(value),
            f"Segment{number}_Layer": str(layer),
            f"Segment{number}_Extent": "0 4 0 6 0 5",
        }
    return fields


def mitk(*groups: dict[str, int]) -> dict[str, str]:
    raw = [
        {
            "labels": [{"name": name, "value": value, "color": {}} for name, value in group.items()]
            or None
        }
        for group in groups
    ]
    return {
        "modality": "org.mitk.multilabel.segmentation",
        "org.mitk.multilabel.segmentation.version": "1",
        "org.mitk.multilabel.segmentation.labelgroups": json.dumps(raw).replace("\\", "\\\\"),
    }


def old_mitk(*groups: dict[str, int]) -> dict[str, str]:
    fields = {"modality": "org.mitk.image.multilabel", "layers": str(len(groups))}
    for layer, group in enumerate(groups):
        fields[f"layer_{layer:03}"] = str(len(group) + 1)
        for number, (name, value) in enumerate({"Exterior": 0, **group}.items()):
            fields[f"org.mitk.label_{layer:03}_{number:05}"] = (
                '<?xml version="1.0"?>\\n<Label>\\n  <property key="name" type="StringProperty">\\n'
                f'    <string value="{name}"/>\\n  </property>\\n  <property key="value" '
                f'type="UShortProperty">\\n    <unsigned value="{value}"/>\\n  </property>\\n</Label>'
            )
    return fields


def two() -> np.ndarray:
    array = np.zeros((1, *SHAPE), np.uint8)
    array[0, 1, 2, 3], array[0, 4, 6, 5] = 1, 2
    return array


WRITERS: dict[str, Callable[..., dict[str, str]]] = {
    "Slicer": lambda one, other: slicer((one, 1, 0), (other, 2, 0)),
    "MITK": lambda one, other: mitk({one: 1, other: 2}),
    "old MITK": lambda one, other: old_mitk({one: 1, other: 2}),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_names_say_the_class_and_values_do_not(tmp_path: Path, writer: str) -> None:
    fields = WRITERS[writer]("RING", "left_Ring")
    found = read_scribbles(write(tmp_path / "p.seg.nrrd", two(), fields), GRID, CARD)
    assert (found[1, 2, 3], found[4, 6, 5]) == (3, 2)
    assert (found == IGNORE).sum() == found.size - 2


def test_what_is_not_drawn_is_other_or_background(tmp_path: Path) -> None:
    path = write(tmp_path / "p.seg.nrrd", two(), slicer(("disk", 1, 0), ("ring", 2, 0)))
    some = read_partial(path, GRID, CARD, ("disk",))
    assert some[1, 2, 3] == 1
    assert (some == OTHER).sum() == some.size - 1
    whole = read_complete(path, GRID, CARD)
    assert (whole[1, 2, 3], whole[4, 6, 5]) == (1, 3)
    assert (whole == 0).sum() == whole.size - 2
    assert np.array_equal(read_scribbles(path, GRID, CARD, ()), whole)


def test_a_segment_may_say_background_or_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "p.seg.nrrd", two(), slicer(("Background", 1, 0), ("Ignore", 2, 0)))
    found = read_scribbles(path, GRID, CARD)
    assert (found[1, 2, 3], found[4, 6, 5], found[0, 0, 0]) == (0, IGNORE, IGNORE)


def test_a_segment_that_nobody_named_has_the_class_of_its_value(tmp_path: Path) -> None:
    array = two() * 10
    path = write(tmp_path / "p.seg.nrrd", array, slicer(("Segment_1", 10, 0), ("Segment_2", 20, 0)))
    found = read_scribbles(path, GRID, CARD)
    assert (found[1, 2, 3], found[4, 6, 5]) == (1, 2)


def test_a_plain_volume_has_the_cards_values(tmp_path: Path) -> None:
    found = read_scribbles(write(tmp_path / "p.nrrd", two() * 10, {}), GRID, CARD)
    assert (found[1, 2, 3], found[4, 6, 5], found[0, 0, 0]) == (1, 2, IGNORE)


@pytest.mark.parametrize("kind", ["list", "vector"])
def test_layers_are_laid_together(tmp_path: Path, kind: str) -> None:
    layers = np.zeros((2, *SHAPE), np.uint8)
    layers[0, 1, 2, 3] = layers[1, 4, 6, 5] = 1
    layers[0, 0, 0, 0] = layers[1, 0, 0, 0] = 2  # both say ring
    fields = slicer(("disk", 1, 0), ("ring", 2, 0), ("left_ring", 1, 1), ("ring", 2, 1))
    if kind == "vector":
        fields = mitk({"disk": 1, "ring": 2}, {"left_ring": 1, "ring": 2})
    found = read_scribbles(write(tmp_path / "p.seg.nrrd", layers, fields, kind=kind), GRID, CARD)
    assert (found[1, 2, 3], found[4, 6, 5], found[0, 0, 0]) == (1, 2, 3)


def test_old_files_of_slicer_have_a_layer_a_segment(tmp_path: Path) -> None:
    layers = np.zeros((2, *SHAPE), np.uint8)
    layers[0, 1, 2, 3] = layers[1, 4, 6, 5] = 1
    fields = {"Segment0_Name": "disk", "Segment1_Name": "ring"}
    found = read_scribbles(write(tmp_path / "p.seg.nrrd", layers, fields), GRID, CARD)
    assert (found[1, 2, 3], found[4, 6, 5]) == (1, 3)


def test_signs_in_names_are_read_as_each_format_writes_them(tmp_path: Path) -> None:
    card = card_of(classes=["background", "a-b"], label_values={"background": [0], "a-b": [1]})
    array = (two() == 1).astype(np.uint8)
    for fields in (slicer(("A-B", 1, 0)), mitk({"a-b": 1}), old_mitk({"a&#45;b": 1})):
        assert (
            read_scribbles(write(tmp_path / "p.seg.nrrd", array, fields), GRID, card)[1, 2, 3] == 1
        )


# placement


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
def test_a_cropped_turned_segmentation_finds_its_place(
    tmp_path: Path, order: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    whole = np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)
    cut = np.zeros_like(whole)
    cut[1:4, 2:7, 0:5] = whole[1:4, 2:7, 0:5]
    part, affine = cut[1:4, 2:7, 0:5], AFFINE.copy()
    affine[:3, 3] = (AFFINE @ [1, 2, 0, 1])[:3]
    for axis in flips:
        affine[:3, 3] += affine[:3, axis] * (part.shape[axis] - 1)
        affine[:3, axis] *= -1
        part = np.flip(part, axis)
    affine[:3, :3] = affine[:3, list(order)]
    path = write(
        tmp_path / "p.seg.nrrd",
        np.ascontiguousarray(part.transpose(order))[None],
        slicer(("disk", 1, 0), ("ring", 2, 0)),
        affine,
    )
    expected = np.choose(cut, [0, 1, 3])
    assert np.array_equal(read_complete(path, GRID, CARD), expected)
    assert np.array_equal(
        read_scribbles(path, GRID, CARD), np.where(expected == 0, IGNORE, expected)
    )


def test_a_cropped_plain_volume_says_nothing_beyond(tmp_path: Path) -> None:
    array = np.full((1, 2, 2, 2), 255, np.uint8)
    array[0, 0, 0, 0], array[0, 1, 1, 1] = 0, 10
    affine = AFFINE.copy()
    affine[:3, 3] = (AFFINE @ [1, 1, 1, 1])[:3]
    found = read_scribbles(write(tmp_path / "p.nrrd", array, {}, affine), GRID, CARD)
    assert (found[1, 1, 1], found[2, 2, 2]) == (0, 1)
    assert (found == IGNORE).sum() == found.size - 2


def moved(by: tuple[float, ...]) -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, 3] = (AFFINE @ [*by, 1])[:3]
    return affine


def turned(degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ AFFINE


REFUSED = {
    "half a voxel beside": (moved((0.5, 0, 0)), "affine differs"),
    "a tenth beside": (moved((0, 0.1, 0)), "affine differs"),
    "turned": (turned(10), "affine differs"),
    "turned in its plane": (turned(45), "affine differs"),
    "of another size": (AFFINE @ np.diag([1, 2, 1, 1]), "affine differs"),
    "beyond the image": (moved((-3, 0, 0)), "1 of its voxels are drawn outside the image"),
    "far away": (moved((100, 0, 0)), "2 of its voxels are drawn outside the image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_grid_is_refused(tmp_path: Path, name: str) -> None:
    affine, told = REFUSED[name]
    fields = slicer(("disk", 1, 0), ("ring", 2, 0))
    with pytest.raises(DataError, match=told) as caught:
        read_scribbles(write(tmp_path / "p.seg.nrrd", two(), fields, affine), GRID, CARD)
    assert caught.value.fix


def test_empty_room_beyond_the_image_may_be_cut(tmp_path: Path) -> None:
    fields = slicer(("disk", 1, 0), ("ring", 2, 0))
    array = np.pad(two(), ((0, 0), (2, 1), (3, 0), (0, 4)))
    path = write(tmp_path / "p.seg.nrrd", array, fields, moved((-2, -3, 0)))
    found = read_scribbles(path, GRID, CARD)
    assert (found[1, 2, 3], found[4, 6, 5]) == (1, 3)


# faults

BAD: dict[str, tuple[dict[str, str], str]] = {
    "an unknown name": (
        slicer(("dsk", 1, 0), ("ring", 2, 0)),
        "no class 'dsk', the name of a segment",
    ),
    "a name that is no class of a value that is one": (
        slicer(("lung", 1, 0), ("ring", 2, 0)),
        "no class 'lung'",
    ),
    "a value without a class": (
        slicer(("Segment_1", 1, 0), ("ring", 2, 0)),
        "no class 'Segment_1'",
    ),
    "two names for a value": (
        slicer(("disk", 1, 0), ("ring", 1, 0)),
        "two segments have the value 1",
    ),
    "voxels without a segment": (slicer(("disk", 1, 0)), "1 voxels have the value 2 in layer 0"),
    "a layer that is not there": (slicer(("disk", 1, 3)), "layers that it does not have"),
    "no number": ({"Segment0_Name": "disk", "Segment0_LabelValue": "one"}, "cannot be read"),
    "no JSON": (
        mitk({}) | {"org.mitk.multilabel.segmentation.labelgroups": "[{"},
        "cannot be read",
    ),
    "other JSON": (mitk({}) | {"org.mitk.multilabel.segmentation.labelgroups": "[1]"}, "cannot be"),
    "a label without a value": (
        mitk({})
        | {"org.mitk.multilabel.segmentation.labelgroups": '[{"labels": [{"name": "disk"}]}]'},
        "cannot be read",
    ),
    "XML without a name": (
        old_mitk({}) | {"label_000_00001": "<Label/>"},
        "has no value or no name",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_fault_of_segments_is_named(tmp_path: Path, name: str) -> None:
    fields, told = BAD[name]
    path = write(tmp_path / "p.seg.nrrd", two(), fields)
    with pytest.raises(DataError) as caught:
        read_scribbles(path, GRID, CARD)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)


def test_two_classes_on_a_voxel_are_refused(tmp_path: Path) -> None:
    layers = np.zeros((2, *SHAPE), np.uint8)
    layers[0, 1, 2:5, 3] = layers[1, 1, 4:6, 3] = 1
    path = write(tmp_path / "p.seg.nrrd", layers, slicer(("disk", 1, 0), ("ring", 1, 1)))
    with pytest.raises(DataError, match="1 voxels lie in segments of two classes, disk and ring"):
        read_scribbles(path, GRID, CARD)


def test_an_empty_segmentation_marks_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "p.seg.nrrd", two() * 0, slicer(("disk", 1, 0)))
    with pytest.raises(DataError, match="marks nothing"):
        read_scribbles(path, GRID, CARD)
    with pytest.raises(DataError, match="marks nothing"):
        read_partial(path, GRID, CARD, ("disk",))
