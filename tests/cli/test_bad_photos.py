"""What people hand in as street images: each fault told by file, value, expectation and remedy; nothing half-made."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer
import yaml
from PIL import Image
from typer.testing import CliRunner

from uda.cli.check import check as check_verb
from uda.cli.main import app
from uda.config.card import DatasetCard
from uda.config.loading import load_card, override
from uda.data.cases import cases_of
from uda.data.convert import convert_to_records, write_tags
from uda.data.store import Store, open_store
from uda.errors import ConfigError, DataError, MismatchError, UdaError, UnreadableError

APP = typer.Typer()
APP.command()(check_verb)
ROWS, COLUMNS = 36, 64
ROAD, CAR, SKY = (128, 64, 128), (0, 0, 142), (70, 130, 180)
BOTH = ["unreadable", "mismatched"]


def ids() -> np.ndarray:
    """Label ids of road, car, sky and unlabelled."""
    label = np.full((ROWS, COLUMNS), 7, np.uint8)
    label[:12], label[20:30, 20:40], label[-2:] = 23, 26, 0
    return label


def colored() -> np.ndarray:
    table = np.zeros((256, 3), np.uint8)
    table[[7, 26, 23]] = ROAD, CAR, SKY
    found: np.ndarray = table[ids()]
    return found


def paint(path: Path, array: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


@pytest.fixture
def gta5(tmp_path: Path) -> Path:
    """Three images and labels in the folders of GTA5; returns what its card's root is relative to."""
    rng = np.random.default_rng(0)
    for name in ("00001", "00002", "00003"):
        image = rng.integers(0, 256, (ROWS, COLUMNS, 3), dtype=np.uint8)
        paint(tmp_path / f"data/gta5/images/{name}.png", image)
        paint(tmp_path / f"data/gta5/labels/{name}.png", ids())
    return tmp_path / "data"


def card_of(*changes: str, skip: list[str] | None = None) -> DatasetCard:
    size = f"prepare.size=[{ROWS}, {COLUMNS}]"
    images = "images=['images/{case}.png', 'images/{case}.jpg']"
    return override(load_card("gta5"), [size, images, f"skip={skip or []}", *changes])


def store_of(card: DatasetCard, root: Path, workers: int = 2) -> Store:
    cases = cases_of(card, root, "train", labels=True)
    return open_store(card, cases, root.parent / "store", workers=workers)


def left_behind(root: Path) -> list[Path]:
    return [path for path in (root.parent / "store").rglob("*") if path.is_file()]


def run(card: DatasetCard, root: Path) -> tuple[int, str]:
    """Exit code of ``uda check`` and all it said."""
    path = root.parent / "card.yaml"
    path.write_text(yaml.safe_dump(card.model_dump(mode="json")))
    result = CliRunner().invoke(APP, [str(path), "--root", str(root)])
    if isinstance(result.exception, UdaError):
        return result.exception.exit_code, f"{result.output}{result.exception}"
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def image_of(root: Path, ending: str = "png") -> Path:
    return root / f"gta5/images/00002.{ending}"


def label_of(root: Path) -> Path:
    return root / "gta5/labels/00002.png"


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def as_jpeg(root: Path) -> Path:
    path = image_of(root)
    Image.open(path).save(image_of(root, "jpg"), quality=90)
    path.unlink()
    return image_of(root, "jpg")


def flipped_bit(root: Path) -> Path:
    path = image_of(root)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    return path


def deep(root: Path) -> Path:
    """16 bits a colour, which Pillow cannot write."""
    path = image_of(root)
    cv2.imwrite(str(path), np.full((ROWS, COLUMNS, 3), 40_000, np.uint16))
    return path


def unknown_color(root: Path) -> Path:
    label = colored()
    label[0, :5] = (1, 2, 3)
    return paint(label_of(root), label)


def unknown_id(root: Path) -> Path:
    label = ids()
    label[0, :7] = 200
    return paint(label_of(root), label)


def transparent(root: Path, size: int = 4) -> Path:
    label = np.concatenate([colored(), np.full((ROWS, COLUMNS, 1), 255, np.uint8)], 2)
    label[0, :size, 3] = 254
    return paint(label_of(root), label)


def without_label(root: Path) -> Path:
    label_of(root).unlink()
    return label_of(root)


BAD: dict[str, tuple[Callable[[Path], Path], str, type[DataError]]] = {
    "colour without a class": (unknown_color, r"\(1, 2, 3\) \(5 pixels\)", DataError),
    "id without a class": (unknown_id, r"200 \(7 pixels\)", DataError),
    "transparent label": (transparent, "4 of its pixels are transparent", DataError),
    "image without its label": (without_label, "no such file|has an image but no label", DataError),
    "grey image": (
        lambda r: paint(image_of(r), ids()),
        "is a PNG of grey",
        DataError,
    ),
    "16-bit grey image": (
        lambda r: paint(image_of(r), ids().astype(np.uint16) * 256),
        "is a PNG of grey",
        DataError,
    ),
    "16-bit colour image": (deep, "is a PNG of 16 bits a colour", DataError),
    "16-bit label": (
        lambda r: paint(label_of(r), ids().astype(np.uint16)),
        "is a PNG of 16 bits",
        DataError,
    ),
    "image with transparent pixels": (
        lambda r: paint(image_of(r), np.zeros((ROWS, COLUMNS, 4), np.uint8)),
        "of its pixels are transparent",
        DataError,
    ),
    "label as JPEG": (
        lambda r: paint(label_of(r), ids(), format="JPEG"),
        "is a JPEG of 8 bits",
        DataError,
    ),
    "PNG cut short": (lambda r: cut(image_of(r), 0.6), "is cut short", UnreadableError),
    "JPEG cut short": (lambda r: cut(as_jpeg(r), 0.6), "is cut short", UnreadableError),
    "label cut short": (lambda r: cut(label_of(r), 0.6), "is cut short", UnreadableError),
    "flipped bit": (flipped_bit, "its data are damaged", UnreadableError),
    "empty file": (lambda r: cut(image_of(r), 0), "is empty", UnreadableError),
    "label of another size": (
        lambda r: paint(label_of(r), ids()[:-2]),
        "34",
        MismatchError,
    ),
}
EACH = pytest.mark.parametrize(
    ("spoil", "what", "kind"), BAD.values(), ids=[name.replace(" ", "-") for name in BAD]
)


@EACH
def test_the_store_refuses_it_and_leaves_nothing(
    gta5: Path, spoil: Callable[[Path], Path], what: str, kind: type[DataError]
) -> None:
    path = spoil(gta5)
    with pytest.raises(DataError) as caught:
        store_of(card_of(), gta5)
    error = caught.value
    assert type(error) is kind
    assert error.exit_code == 2
    assert re.search(what, error.what)
    assert error.where == path
    assert error.fix
    assert error.expected or "there is no such file" in error.what
    assert left_behind(gta5) == []


@EACH
def test_uda_check_tells_it_with_file_and_remedy_and_ends_with_2(
    gta5: Path, spoil: Callable[[Path], Path], what: str, kind: type[DataError]
) -> None:
    assert run(card_of(), gta5)[0] == 0
    path = spoil(gta5)
    code, said = run(card_of(), gta5)
    assert code == 2
    assert re.search(what, said)
    assert str(path) in said
    assert said.count("expected:") >= 1
    assert "fix:" in said
    assert "1 fault(s)" in said


@EACH
def test_a_card_may_leave_out_what_cannot_be_read_or_does_not_match_and_nothing_else(
    gta5: Path, spoil: Callable[[Path], Path], what: str, kind: type[DataError]
) -> None:
    path, card = spoil(gta5), card_of(skip=BOTH)
    code, said = run(card, gta5)
    if kind is DataError:
        assert code == 2
        assert "left out, as" not in said
        with pytest.raises(DataError, match=what):
            store_of(card, gta5)
        assert left_behind(gta5) == []
        return
    assert code == 0
    assert re.search(f"note 1.*{what}.*left out", said)
    assert str(path) in said
    assert re.search(r"train\W+3\W+0\W+1\W", said)
    store = store_of(card, gta5)
    assert list(store.skipped) == ["00002"]
    assert what in store.skipped["00002"]
    assert [case.name for case in store.cases] == ["00001", "00003"]
    assert len(store) == len(store.labels) == 2


@pytest.mark.parametrize("skip", ["unreadable", "mismatched"])
def test_a_card_leaves_out_only_the_kind_it_names(gta5: Path, skip: str) -> None:
    cut(image_of(gta5), 0.5)
    paint(gta5 / "gta5/labels/00003.png", ids()[:-2])
    card = card_of(skip=[skip])
    with pytest.raises(DataError) as caught:
        store_of(card, gta5)
    assert type(caught.value) is (MismatchError if skip == "unreadable" else UnreadableError)
    code, said = run(card, gta5)
    assert code == 2
    assert "1 fault(s)" in said
    assert said.count("left out, as the card says") == 1


def test_all_faults_of_a_data_set_are_in_one_report(gta5: Path) -> None:
    paths = [cut(gta5 / "gta5/images/00001.png", 0.5), unknown_id(gta5)]
    paths.append(paint(gta5 / "gta5/labels/00003.png", ids()[:-2]))
    with pytest.raises(DataError, match="3 faults in the data of card 'gta5'") as caught:
        store_of(card_of(), gta5)
    code, said = run(card_of(), gta5)
    assert code == 2
    assert "3 fault(s)" in said
    for path in paths:
        assert str(path) in str(caught.value)
        assert str(path) in said
    assert left_behind(gta5) == []


def test_one_label_may_have_two_faults(gta5: Path) -> None:
    label = ids()[:-2]
    label[0, 0] = 200
    paint(label_of(gta5), label)
    code, said = run(card_of(), gta5)
    assert code == 2
    assert "2 fault(s)" in said
    assert "200 (1 pixels)" in said
    assert f"the image's {ROWS}×{COLUMNS}" in said


def test_when_every_image_is_left_out_there_is_no_store(gta5: Path) -> None:
    for path in sorted(gta5.glob("gta5/images/*.png")):
        cut(path, 0.5)
    with pytest.raises(DataError, match="every image of card 'gta5' was left out") as caught:
        store_of(card_of(skip=BOTH), gta5)
    assert "00001: is cut short" in str(caught.value)
    assert left_behind(gta5) == []


@pytest.mark.parametrize("form", ["palette", "colour", "opaque RGBA", "train ids", "mixed"])
def test_sound_labels_of_every_form_give_the_same_store(gta5: Path, form: str) -> None:
    expected = np.array(store_of(card_of(), gta5).labels)
    assert set(np.unique(expected)) == {0, 10, 13, 255}
    opaque = np.concatenate([colored(), np.full((ROWS, COLUMNS, 1), 255, np.uint8)], 2)
    for number, path in enumerate(sorted(gta5.glob("gta5/labels/*.png"))):
        if form == "palette" or (form == "mixed" and number == 0):
            image = Image.fromarray(ids())
            image.putpalette(list(np.random.default_rng(0).integers(0, 256, 768)))
            image.save(path)
        elif form == "train ids" or (form == "mixed" and number == 1):
            path.unlink()
            table = np.full(256, 255, np.uint8)
            table[[7, 23, 26]] = 0, 10, 13
            paint(path.with_name(f"{path.stem}_labelTrainIds.png"), table[ids()])
        else:
            paint(path, colored() if form == "colour" else opaque)
    assert run(card_of(), gta5)[0] == 0
    assert np.array_equal(store_of(card_of(), gta5).labels, expected)


def test_an_opaque_alpha_channel_of_an_image_is_left_out(gta5: Path) -> None:
    expected = np.array(store_of(card_of(), gta5).images)
    path = image_of(gta5)
    pixels = np.array(Image.open(path))
    paint(path, np.concatenate([pixels, np.full((ROWS, COLUMNS, 1), 255, np.uint8)], 2))
    assert np.array_equal(store_of(card_of(), gta5).images, expected)
    assert "PNG RGB with alpha 8 bit (1)" in run(card_of(), gta5)[1]


def test_an_empty_split_is_refused(gta5: Path) -> None:
    card = card_of("splits={train: [], test: ['*']}")
    with pytest.raises(DataError, match="split 'train' of card 'gta5' is empty"):
        store_of(card, gta5)
    code, said = run(card, gta5)
    assert code == 2
    assert "split 'train' is empty" in said
    assert "list its cases" in said
    assert "1 fault(s)" in said


def test_a_split_that_matches_no_image_is_refused(gta5: Path) -> None:
    card = card_of("splits={train: ['9*'], test: ['*']}")
    with pytest.raises(DataError, match="no image of card 'gta5' matches its split 'train'"):
        store_of(card, gta5)
    code, said = run(card, gta5)
    assert code == 2
    assert "matches its split 'train': 9*" in said


def test_a_source_without_any_label_is_refused(gta5: Path) -> None:
    for path in gta5.glob("gta5/labels/*.png"):
        path.unlink()
    with pytest.raises(DataError, match="3 faults in split 'train'"):
        store_of(card_of(), gta5)
    code, said = run(card_of(), gta5)
    assert code == 2
    assert "no case of split 'train' has a label" in said


def test_records_and_tags_are_of_volumes_only(gta5: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="are photographs, and this is for volumes only"):
        convert_to_records(card_of(), gta5, out)
    with pytest.raises(ConfigError, match="are photographs, and this is for volumes only"):
        write_tags(card_of(), gta5, "train", out)
    assert not out.exists()
    for words in (["convert", "gta5", "--out", str(out)], ["tags", "gta5", "--out", str(out)]):
        result = CliRunner().invoke(app, [*words, "--root", str(gta5)])
        assert isinstance(result.exception, ConfigError)
    assert not out.exists()


def test_photographs_of_nnunet_are_refused_by_their_ending(tmp_path: Path) -> None:
    paint(tmp_path / "d/imagesTr/a_0000.png", ids())
    paint(tmp_path / "d/labelsTr/a.png", ids())
    labels = '{"background": 0, "car": 1}'
    (tmp_path / "d/dataset.json").write_text(
        f'{{"labels": {labels}, "channel_names": {{"0": "R"}}, "file_ending": ".png", "numTraining": 1}}'
    )
    result = CliRunner().invoke(APP, ["--from-nnunet", str(tmp_path / "d")])
    assert isinstance(result.exception, DataError)
    assert "file_ending is '.png'" in str(result.exception)
    assert ".nii.gz" in str(result.exception)
