"""Landmarks of a prior: validated, found by image, written atomically, read back unchanged, drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from uda.errors import DataError, PriorError
from uda.priors import Landmarks, Prior

CLASSES = ("road", "sky", "car")
PLACES = (("a", 0), ("a", 1), ("b", 0))


def landmarks(**changes: Any) -> Landmarks:
    generator = torch.Generator().manual_seed(0)
    plain = Landmarks(
        PLACES,
        torch.arange(24).view(1, 4, 6).floor_divide(8).expand(3, -1, -1).short().contiguous(),
        torch.tensor([[0, 1, 255], [2, 255, 255], [255, 0, 0]], dtype=torch.uint8),
        torch.randint(255, (2, 3, 8, 12), generator=generator, dtype=torch.uint8),
        (0, 2),
    )
    return replace(plain, **changes)


def prior(known: Landmarks | None) -> Prior:
    how = ("source_labels",), "by hand"
    return Prior(CLASSES, (0.7, 0.2, 0.1), *how, landmarks=known)


def test_landmarks_are_read_back_as_they_were_with_a_picture(tmp_path: Path) -> None:
    made = prior(landmarks())
    made.validate(CLASSES).save(tmp_path / "prior.json")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["landmarks.png", "landmarks.safetensors", "prior.json"]
    found = Prior.load(tmp_path)
    assert found == made
    assert found.landmarks is not None
    assert torch.equal(found.landmarks.classes, landmarks().classes)
    assert found.landmarks.places == PLACES
    entry = json.loads((tmp_path / "prior.json").read_text())["landmarks"]
    assert entry["counts"] == {"road": 3, "sky": 1, "car": 1}
    assert entry["superpixels"] == 9
    assert entry["kept"] == pytest.approx(5 / 9)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_picture_shows_the_examples_in_the_colours_of_their_landmarks(
    tmp_path: Path, channels: int
) -> None:
    grey = torch.full((2, channels, 40, 60), 128, dtype=torch.uint8)
    prior(landmarks(examples=grey)).save(tmp_path / "prior.json")
    pixels = np.asarray(Image.open(tmp_path / "landmarks.png").convert("RGB")).reshape(-1, 3)
    coloured = np.ptp(pixels.astype(int), axis=1) > 60
    assert 0.05 < coloured.mean() < 0.8


def test_another_json_has_other_files(tmp_path: Path) -> None:
    prior(landmarks()).save(tmp_path / "mine.json")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"mine.json", "mine-landmarks.safetensors", "mine-landmarks.png"}
    assert Prior.load(tmp_path / "mine.json") == prior(landmarks())


def test_another_prior_of_this_name_is_not_replaced(tmp_path: Path) -> None:
    prior(landmarks()).save(tmp_path / "prior.json")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DataError, match="another file of this name, which would be replaced"):
        prior(None).save(tmp_path / "prior.json")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "landmarks.safetensors").write_bytes(b"mine")
    with pytest.raises(DataError, match="another file of this name, which would be replaced"):
        prior(landmarks()).save(tmp_path / "prior.json")
    assert (tmp_path / "landmarks.safetensors").read_bytes() == b"mine"
    assert not (tmp_path / "prior.json").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"places": (("a", 1), ("a", 0), ("b", 0))},
        {"shown": (0, 1)},
        {"segments": landmarks().segments.flip(1)},
        {"classes": landmarks().classes.flip(0)},
        {"examples": landmarks().examples.flip(0)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_landmarks_are_another_prior(changes: dict[str, Any]) -> None:
    assert prior(landmarks(**changes)) != prior(landmarks())
    assert prior(landmarks()) == prior(landmarks())
    assert prior(None) != prior(landmarks())


def test_landmarks_that_are_missing_or_others_are_refused(tmp_path: Path) -> None:
    prior(landmarks()).save(tmp_path / "prior.json")
    tensors = tmp_path / "landmarks.safetensors"
    prior(landmarks(classes=landmarks().classes.flip(0))).save(tmp_path / "other.json")
    tensors.write_bytes((tmp_path / "other-landmarks.safetensors").read_bytes())
    with pytest.raises(PriorError, match=r"other landmarks than those that prior\.json"):
        Prior.load(tmp_path)
    tensors.write_bytes(b"half")
    with pytest.raises(PriorError, match=r"landmarks\.safetensors"):
        Prior.load(tmp_path)
    tensors.unlink()
    with pytest.raises(PriorError, match="refers to landmarks") as caught:
        Prior.load(tmp_path)
    assert "uda prior" in str(caught.value)


def test_images_reordered_in_the_json_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "prior.json"
    prior(landmarks()).save(path)
    raw = json.loads(path.read_text())
    raw["landmarks"]["images"] = {"b": [0], "a": [0, 1]}
    path.write_text(json.dumps(raw))
    with pytest.raises(PriorError, match="other landmarks"):
        Prior.load(path)


def test_each_image_gets_its_own_superpixels_in_any_order() -> None:
    made = landmarks()
    segments, classes = made.of([("b", 0), ("a", 1)])
    assert torch.equal(segments, made.segments[[2, 1]])
    assert classes.tolist() == [[255, 0, 0], [2, 255, 255]]
    assert made.of(PLACES)[0] is made.segments
    with pytest.raises(PriorError, match="no superpixels of 1 of 2 images: c slice 7"):
        made.of([("a", 0), ("c", 7)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"places": PLACES[:2]}, "for 2 images"),
        ({"places": (("a", 0), ("a", 0), ("b", 0))}, "for 3 images"),
        ({"segments": landmarks().segments[0]}, "landmarks of shapes"),
        ({"segments": landmarks().segments.int()}, "landmarks are torch.int32"),
        ({"segments": landmarks().segments + 1}, "outside 0 to 2"),
        ({"segments": landmarks().segments - 1}, "outside 0 to 2"),
        ({"classes": torch.full((3, 3), 3, dtype=torch.uint8)}, "class number above 2"),
    ],
)
def test_what_no_superpixels_can_be_like_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PriorError, match=message):
        prior(landmarks(**changes)).validate(CLASSES)


def test_a_prior_of_which_no_superpixel_is_sure_is_sound() -> None:
    unsure = torch.full((3, 3), 255, dtype=torch.uint8)
    sound = prior(landmarks(classes=unsure))
    assert sound.validate(CLASSES) is sound
