"""The synthetic street: layouts of the real data, all classes, two looks, the same bytes each time."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from uda.data.synthetic.streets.canvas import Camera
from uda.data.synthetic.streets.dataset import render_street, write_streets, write_synthia
from uda.data.synthetic.streets.labels import (
    LABEL_COLORS,
    LABEL_ID,
    LABEL_NAMES,
    SYNTHIA_IDS,
    TRAIN_IDS,
)
from uda.data.synthetic.streets.scene import due
from uda.errors import DataError

SIZE = (72, 128)
STYLES = ("game", "camera")
ROAD, SIDEWALK, SKY = (LABEL_ID[name] for name in ("road", "sidewalk", "sky"))
# Share of labelled pixels (per cent): wide enough for another draw, too narrow for another picture.
SHARES = {
    "road": (20, 45),
    "sidewalk": (1, 12),
    "building": (8, 30),
    "vegetation": (8, 28),
    "sky": (2, 22),
    "car": (3, 16),
    "pole": (0.3, 4),
    "person": (0.1, 3),
    "rider": (0.1, 3),
    "traffic light": (0.05, 1.5),
    "traffic sign": (0.05, 1.5),
    "bicycle": (0.02, 2),
    "motorcycle": (0.02, 2),
    "train": (0.1, 6),
}


@cache
def streets(style: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [24, h, w, 3] and label ids [24, h, w] of streets 1..24."""
    images, ids = zip(*(render_street(k, style, SIZE) for k in range(1, 25)), strict=True)
    return np.stack(images), np.stack(ids)


def share(style: str) -> dict[str, float]:
    """Per cent of the labelled pixels that each scored class covers."""
    counts = np.bincount(streets(style)[1].ravel(), minlength=256)[list(TRAIN_IDS)]
    names = [LABEL_NAMES[value] for value in TRAIN_IDS]
    return dict(zip(names, (100 * counts / counts.sum()).tolist(), strict=True))


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streets")
    write_streets(folder, game=2, camera_train=6, camera_val=2, size=SIZE, camera_size=(64, 128))
    return folder


def test_folders_and_names_are_those_of_the_downloads(written: Path) -> None:
    train = [f"{city}/{city}_000000" for city in ("aachen", "bochum", "bremen", "cologne")]
    train += ["aachen/aachen_000001", "hamburg/hamburg_000000"]
    val = ["frankfurt/frankfurt_000000", "lindau/lindau_000000"]
    expected = {f"gta5/{kind}/{k:05d}.png" for kind in ("images", "labels") for k in (1, 2)}
    for split, stems in (("train", train), ("val", val)):
        for stem in stems:
            expected.add(f"cityscapes/leftImg8bit/{split}/{stem}_000019_leftImg8bit.png")
            for kind in ("labelIds", "color"):
                expected.add(f"cityscapes/gtFine/{split}/{stem}_000019_gtFine_{kind}.png")
    assert set(files(written)) == expected


def test_gta5_labels_are_indices_into_the_palette_of_label_ids(written: Path) -> None:
    _, ids = render_street(1, "game", SIZE)
    with Image.open(written / "gta5/labels/00001.png") as label:
        assert label.mode == "P"
        np.testing.assert_array_equal(np.asarray(label), ids)
        palette = np.array(label.getpalette()).reshape(-1, 3)
        np.testing.assert_array_equal(palette[: len(LABEL_COLORS)], LABEL_COLORS)
        colored = np.asarray(label.convert("RGB"))
    assert colored[ids == ROAD].tolist()[0] == [128, 64, 128]


def test_cityscapes_has_ids_in_grey_and_colours_with_opaque_alpha(written: Path) -> None:
    stem = written / "cityscapes/gtFine/val/frankfurt/frankfurt_000000_000019_gtFine"
    with Image.open(f"{stem}_labelIds.png") as label, Image.open(f"{stem}_color.png") as color:
        assert (label.mode, color.mode, label.size) == ("L", "RGBA", (128, 64))
        ids, colors = np.asarray(label), np.asarray(color)
    np.testing.assert_array_equal(colors[..., :3], np.array(LABEL_COLORS)[ids])
    assert (colors[..., 3] == 255).all()
    assert (ids[-1] == LABEL_ID["out of roi"]).all()


def test_pictures_are_rgb_of_the_size_that_was_asked_for(written: Path) -> None:
    sizes = set()
    for path in [*written.glob("gta5/images/*"), *written.rglob("*_leftImg8bit.png")]:
        with Image.open(path) as image:
            sizes.add((path.parts[-3 if "gta5" in path.parts else -5], image.mode, image.size))
    assert {entry[1:] for entry in sizes} == {("RGB", (128, 72)), ("RGB", (128, 64))}


def test_a_file_does_not_depend_on_how_many_are_written(written: Path, tmp_path: Path) -> None:
    write_streets(tmp_path, game=1, camera_train=5, camera_val=1, size=SIZE, camera_size=(64, 128))
    few, many = files(tmp_path), files(written)
    assert len(few) == 2 + 3 * 6
    assert all(many[name] == content for name, content in few.items())


def test_without_labels_only_the_images_are_written(tmp_path: Path) -> None:
    write_streets(
        tmp_path, game=1, camera_train=1, camera_val=1, size=SIZE, camera_size=SIZE, labels=False
    )
    assert sorted(files(tmp_path)) == [
        "cityscapes/leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png",
        "cityscapes/leftImg8bit/val/frankfurt/frankfurt_000000_000019_leftImg8bit.png",
        "gta5/images/00001.png",
    ]


@settings(max_examples=10, deadline=None)
@given(number=st.integers(0, 10**6), style=st.sampled_from(STYLES), seed=st.integers(0, 99))
def test_a_street_is_a_function_of_number_style_and_seed(
    number: int, style: str, seed: int
) -> None:
    image, ids = render_street(number, style, (48, 96), seed)
    again, same = render_street(number, style, (48, 96), seed)
    assert image.dtype == ids.dtype == np.uint8
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(ids, same)
    assert ids.max() < len(LABEL_COLORS)
    for other in ((number + 1, style, seed), (number, style, seed + 1)):
        assert (render_street(other[0], other[1], (48, 96), other[2])[1] != ids).mean() > 0.02


@pytest.mark.parametrize("style", STYLES)
def test_two_dozen_streets_show_every_class(style: str) -> None:
    ids = streets(style)[1]
    missing = [LABEL_NAMES[k] for k in TRAIN_IDS if not (ids == k).any()]
    assert missing == []


@pytest.mark.parametrize("style", STYLES)
def test_classes_cover_what_they_cover_in_real_streets(style: str) -> None:
    found = share(style)
    wrong = {n: found[n] for n, (low, high) in SHARES.items() if not low < found[n] < high}
    assert wrong == {}


@pytest.mark.parametrize("style", STYLES)
def test_some_pixels_are_void_and_most_are_not(style: str) -> None:
    scored = np.isin(streets(style)[1], TRAIN_IDS).mean()
    assert 0.85 < scored < 0.999


@pytest.mark.parametrize("style", STYLES)
def test_the_sky_is_above_the_road_and_the_road_between_the_sidewalks(style: str) -> None:
    ids = streets(style)[1]
    rows, cols = np.indices(ids.shape[1:]) / np.array(ids.shape[1:])[:, None, None]
    height = {k: np.broadcast_to(rows, ids.shape)[ids == k].mean() for k in (SKY, ROAD)}
    assert height[SKY] < 0.35 < 0.65 < height[ROAD]
    aside = {k: np.abs(np.broadcast_to(cols, ids.shape)[ids == k] - 0.5).mean() for k in (7, 8)}
    assert aside[ROAD] < 0.25 < aside[SIDEWALK]


def test_the_styles_share_the_layout() -> None:
    """Where a class lies in the one tells where it lies in the other."""
    for name in ("road", "sky", "building", "vegetation"):
        maps = [(streets(style)[1] == LABEL_ID[name]).mean(0).ravel() for style in STYLES]
        assert np.corrcoef(*maps)[0, 1] > 0.6, name


def test_the_camera_is_grey_and_noisy_where_the_game_is_colourful_and_clean() -> None:
    colour, noise = {}, {}
    for style in STYLES:
        images, ids = streets(style)
        values = images.astype(float)
        colour[style] = np.ptp(values, axis=-1).mean()
        inner = (ids == ROAD)[:, :, 1:-1] & (ids == ROAD)[:, :, 2:] & (ids == ROAD)[:, :, :-2]
        bent = values[:, :, 1:-1] - (values[:, :, 2:] + values[:, :, :-2]) / 2
        noise[style] = np.median(np.abs(bent[inner]))
    assert colour["game"] > 1.8 * colour["camera"]
    assert noise["camera"] > 1.5 * noise["game"]


def test_the_older_town_has_more_parked_cars_and_less_sky() -> None:
    game, camera = share("game"), share("camera")
    assert camera["sky"] < 0.7 * game["sky"]
    assert camera["rider"] > game["rider"]


@settings(max_examples=25, deadline=None)
@given(
    start=st.integers(0, 10**6),
    phase=st.floats(0, 1, exclude_max=True),
    rate=st.floats(0.13, 1.0),
)
def test_a_rare_thing_is_due_at_least_twice_in_two_dozen(
    start: int, phase: float, rate: float
) -> None:
    times = sum(due(start + k, rate, phase) for k in range(24))
    assert times >= 2
    assert abs(times - 24 * rate) < 3


def test_a_place_ahead_projects_by_the_pinhole_rule() -> None:
    """f = 100 px, 1.5 m up, 2 m right of the axis: the point (4, 0.5, 10) lies 2 right, 1 down."""
    camera = Camera(60, 120, 100.0, 25.0, 59.5, height=1.5, offset=2.0, heading=0.0)
    assert camera.column(4.0, 10.0) == pytest.approx(59.5 + 100 * 2 / 10)
    assert camera.row(0.5, 10.0) == pytest.approx(25 + 100 * 1 / 10)
    assert camera.row(1.5, 3.0) == camera.horizon, "eye level is the horizon at any depth"


def test_synthia_labels_are_16_bit_class_and_instance(tmp_path: Path) -> None:
    write_synthia(tmp_path, 2, SIZE)
    assert sorted(files(tmp_path)) == [
        f"synthia/{kind}/000000{k}.png" for kind in ("GT/LABELS", "RGB") for k in (0, 1)
    ]
    encoded = cv2.imread(str(tmp_path / "synthia/GT/LABELS/0000000.png"), cv2.IMREAD_UNCHANGED)
    assert encoded is not None
    assert (encoded.dtype, encoded.shape) == (np.uint16, (*SIZE, 3))
    classes, instances = encoded[..., 2], encoded[..., 1]
    _, ids = render_street(200_001, "game", SIZE)
    np.testing.assert_array_equal(classes, [[SYNTHIA_IDS.get(k, 0) for k in row] for row in ids])
    assert (instances[ids < LABEL_ID["person"]] == 0).all()
    assert (instances[ids >= LABEL_ID["person"]] > 0).all()


def test_synthia_ids_are_the_published_ones() -> None:
    """Its read-me: 1 sky, 2 building, 3 road, ... 21 wall, seen as Cityscapes train ids."""
    published = {1: 10, 2: 2, 3: 0, 4: 1, 5: 4, 6: 8, 7: 5, 8: 13, 9: 7, 10: 11, 11: 18, 12: 17}
    published |= {15: 6, 16: 9, 17: 12, 18: 14, 19: 15, 20: 16, 21: 3}
    ours = {SYNTHIA_IDS[label]: train for train, label in enumerate(TRAIN_IDS)}
    assert ours == published


@pytest.mark.parametrize(
    ("number", "style", "size", "seed"),
    [(1, "film", SIZE, 0), (-1, "game", SIZE, 0), (1, "game", (8, 128), 0), (1, "game", SIZE, -2)],
)
def test_what_cannot_be_drawn_is_refused(
    number: int, style: str, size: tuple[int, int], seed: int
) -> None:
    with pytest.raises(DataError, match="style 'game' or 'camera'"):
        render_street(number, style, size, seed)


def test_a_negative_count_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="camera_val is -1"):
        write_streets(tmp_path, game=0, camera_train=0, camera_val=-1)
    assert files(tmp_path) == {}
