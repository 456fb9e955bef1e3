"""Label files: what 0, 255 and other values mean in scribbles, in labels of some classes, and in complete ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from annotated import (
    AFFINE,
    CARD,
    GRID,
    PHOTO,
    PHOTO_CARD,
    PHOTO_GRID,
    SHAPE,
    card_of,
    write_nifti,
    write_png,
)

from uda.data.annotations.label_files import read_complete, read_partial, read_scribbles
from uda.data.cases import Case
from uda.data.sources import photo_classes, prepared_stack, read_label
from uda.data.volumes import map_labels
from uda.errors import DataError
from uda.types import IGNORE, OTHER

RNG = np.random.default_rng(0)


def raw(fill: int, **marks: tuple[int, ...]) -> np.ndarray:
    """A volume of one value, with values ``v10`` and so on at places."""
    array = np.full(SHAPE, fill, dtype=np.uint8)
    for name, place in marks.items():
        array[place] = int(name[1:])
    return array


# scribbles


def test_with_255_in_the_file_0_is_background(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "p.nii.gz", raw(255, v0=(0, 0, 0), v10=(1, 2, 3), v31=(2, 0, 5)))
    found = read_scribbles(path, GRID, CARD)
    assert found.dtype == np.uint8
    assert (found[0, 0, 0], found[1, 2, 3], found[2, 0, 5]) == (0, 1, 3)
    assert (found == IGNORE).sum() == found.size - 3


def test_without_255_0_is_not_said(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "p.nii.gz", raw(0, v20=(1, 2, 3)))
    found = read_scribbles(path, GRID, CARD)
    assert found[1, 2, 3] == 2
    assert (found == IGNORE).sum() == found.size - 1


def test_the_cards_ignore_says_what_255_says(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "p.nii.gz", raw(99, v0=(0, 0, 0), v10=(1, 2, 3)))
    found = read_scribbles(path, GRID, CARD)
    assert found[0, 0, 0] == 0
    assert (found == IGNORE).sum() == found.size - 2


@pytest.mark.parametrize(
    ("unmarked", "background", "ten"), [((), 0, 1), ((0,), IGNORE, 1), ((10,), 0, IGNORE)]
)
def test_values_that_say_nothing_can_be_named(
    tmp_path: Path, unmarked: tuple[int, ...], background: int, ten: int
) -> None:
    path = write_nifti(tmp_path / "p.nii.gz", raw(0, v10=(1, 2, 3), v255=(4, 4, 4), v20=(0, 0, 1)))
    found = read_scribbles(path, GRID, CARD, unmarked)
    assert (found[0, 0, 0], found[1, 2, 3], found[4, 4, 4], found[0, 0, 1]) == (
        background,
        ten,
        IGNORE,
        2,
    )


def test_a_class_may_have_the_value_255(tmp_path: Path) -> None:
    card = card_of(
        classes=["background", "vessel"], label_values={"background": [0], "vessel": [255]}
    )
    found = read_scribbles(write_nifti(tmp_path / "p.nii.gz", raw(0, v255=(1, 2, 3))), GRID, card)
    assert found[1, 2, 3] == 1
    assert (found == IGNORE).sum() == found.size - 1


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32, np.float64])
def test_the_type_of_the_numbers_does_not_matter(tmp_path: Path, dtype: type) -> None:
    path = write_nifti(tmp_path / "p.nii.gz", raw(255, v10=(1, 2, 3)).astype(dtype))
    assert read_scribbles(path, GRID, CARD)[1, 2, 3] == 1


FAULTS = {
    "a value without a class": (
        raw(0, v10=(0, 0, 0), v11=(1, 1, 1)),
        AFFINE,
        ["11 (1 voxels)", "10"],
    ),
    "nothing is marked": (raw(0), AFFINE, ["marks nothing"]),
    "all is 255": (raw(255), AFFINE, ["marks nothing"]),
    "another shape": (raw(0)[:4], AFFINE, ["has shape (4, 7, 6)", "(5, 7, 6)"]),
    "another place": (raw(10), AFFINE + 0.1 * np.eye(4, k=3), ["affine differs"]),
    "interpolated": (raw(10) * np.float32(1.05), AFFINE, ["values that are not whole"]),
    "an image": (
        np.arange(np.prod(SHAPE), dtype=np.int32).reshape(SHAPE) * 7,
        AFFINE,
        ["label values the card 'small' does not name"],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_says_where_and_what(tmp_path: Path, name: str) -> None:
    array, affine, parts = FAULTS[name]
    path = write_nifti(tmp_path / "p.nii.gz", array, affine)
    with pytest.raises(DataError) as caught:
        read_scribbles(path, GRID, CARD)
    for part in (*parts, str(path)):
        assert part in str(caught.value)
    assert caught.value.fix


def test_an_image_of_many_values_is_no_label_map(tmp_path: Path) -> None:
    from uda.data.annotations.grids import Grid

    grid = Grid((20, 20, 20), AFFINE, 0)
    array = np.arange(8000, dtype=np.int32).reshape(20, 20, 20)
    with pytest.raises(DataError, match="is no label map: it has 8000 values"):
        read_scribbles(write_nifti(tmp_path / "p.nii.gz", array), grid, CARD)


# labels of some classes


def test_what_is_not_of_the_named_classes_is_other(tmp_path: Path) -> None:
    array = RNG.choice(np.array([0, 10, 20, 30, 31, 77, 99, 255], np.uint8), SHAPE)
    path = write_nifti(tmp_path / "p.nii.gz", array)
    found = read_partial(path, GRID, CARD, ("disk", "ring"))
    meaning = {10: 1, 30: 3, 31: 3, 99: IGNORE, 255: IGNORE}
    expected = np.vectorize(lambda value: meaning.get(value, OTHER))(array)
    assert np.array_equal(found, expected)


def test_a_named_background_is_kept(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "p.nii.gz", raw(0, v10=(0, 0, 0)))
    found = read_partial(path, GRID, CARD, ("background",))
    assert found[0, 0, 0] == OTHER
    assert (found == 0).sum() == found.size - 1


def test_a_map_without_its_classes_marks_nothing(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "p.nii.gz", raw(0, v1=(0, 0, 0)))  # drawn with 1 in place of 10
    with pytest.raises(DataError, match="marks nothing") as caught:
        read_partial(path, GRID, CARD, ("disk",))
    assert "{'disk': [10]}" in str(caught.value)


def test_a_photograph_without_the_class_is_known_to_lack_it(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", np.zeros(PHOTO, np.uint8))
    assert (read_partial(path, PHOTO_GRID, PHOTO_CARD, ("car",)) == OTHER).all()
    odd = np.zeros(PHOTO, np.uint8)
    odd[0, 0] = 9
    with pytest.raises(DataError, match="marks nothing"):
        read_partial(write_png(path, odd), PHOTO_GRID, PHOTO_CARD, ("car",))
    with pytest.raises(DataError, match="marks nothing"):
        read_partial(write_png(path, odd * 0 + 255), PHOTO_GRID, PHOTO_CARD, ("car",))


# complete labels


def test_complete_labels_are_those_of_a_data_set(tmp_path: Path) -> None:
    array = RNG.choice(np.array([0, 10, 20, 30, 31, 99], np.uint8), SHAPE)
    path = write_nifti(tmp_path / "p.nii.gz", array)
    case = Case("p", path, path)
    expected = map_labels(read_label(case, CARD).array, CARD, path)
    assert np.array_equal(read_complete(path, GRID, CARD), expected)


def test_complete_labels_of_photographs_too(tmp_path: Path) -> None:
    image = write_png(tmp_path / "a.png", RNG.integers(0, 255, (*PHOTO, 3)).astype(np.uint8))
    label = write_png(tmp_path / "l.png", RNG.integers(0, 3, PHOTO).astype(np.uint8))
    geometry = prepared_stack(Case("a", image), PHOTO_CARD)[1]
    expected = photo_classes(Case("a", image, label), geometry, PHOTO_CARD)
    assert np.array_equal(read_complete(label, PHOTO_GRID, PHOTO_CARD), expected)


def test_complete_labels_take_no_255_that_the_card_does_not_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"255 \(1 voxels\)"):
        read_complete(write_nifti(tmp_path / "p.nii.gz", raw(0, v255=(0, 0, 0))), GRID, CARD)
    with pytest.raises(DataError, match="marks nothing"):
        read_complete(write_nifti(tmp_path / "p.nii.gz", raw(99)), GRID, CARD)


# photographs


@pytest.mark.parametrize(("fill", "zero"), [(255, 0), (0, IGNORE)])
def test_scribbles_on_photographs_follow_the_same_rule(
    tmp_path: Path, fill: int, zero: int
) -> None:
    array = np.full(PHOTO, fill, np.uint8)
    array[1, 2], array[3, 4] = 0, 2
    found = read_scribbles(write_png(tmp_path / "a.png", array), PHOTO_GRID, PHOTO_CARD)
    assert (found[1, 2], found[3, 4], found[0, 0]) == (zero, 2, IGNORE)


def test_scribbles_in_colour_are_silent_where_they_are_black(tmp_path: Path) -> None:
    colors = {"road": [128, 64, 128], "car": [0, 0, 142], "sky": [70, 130, 180]}
    card = PHOTO_CARD.model_validate(PHOTO_CARD.model_dump() | {"colors": colors})
    array = np.zeros((*PHOTO, 3), np.uint8)
    array[2, 3] = colors["car"]
    path = write_png(tmp_path / "a.png", array)
    found = read_scribbles(path, PHOTO_GRID, card)
    assert found[2, 3] == 1
    assert (found == IGNORE).sum() == found.size - 1
    with pytest.raises(DataError, match=r"\(0, 0, 0\) \(95 pixels\)"):
        read_scribbles(path, PHOTO_GRID, card, ())
    assert np.array_equal(read_scribbles(path, PHOTO_GRID, card, (0,)), found)


def test_a_label_of_another_size_is_refused(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", np.ones((8, 11), np.uint8))
    with pytest.raises(DataError, match="8×11 pixels"):
        read_scribbles(path, PHOTO_GRID, PHOTO_CARD)
    unknown = np.full(PHOTO, 255, np.uint8)
    unknown[0, :3] = 7
    with pytest.raises(DataError, match=r"7 \(3 pixels\)"):
        read_scribbles(write_png(path, unknown), PHOTO_GRID, PHOTO_CARD)
