"""Seeds of a prior: validated, found by image, written atomically, read back unchanged, drawn."""

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
from uda.priors import Prior, Seeds

CLASSES = ("background", "lv", "rv")
PLACES = (("a", 0), ("a", 1), ("b", 0))
FILES = {"prior.json", "seeds.png", "seeds.safetensors"}


def seeds(**changes: Any) -> Seeds:
    generator = torch.Generator().manual_seed(0)
    labels = torch.full((3, 4, 6), 255, dtype=torch.uint8)
    labels[:, :, :2], labels[0, :, 2], labels[1:, 0, 3] = 0, 1, 2
    plain = Seeds(
        PLACES,
        labels,
        torch.randint(255, (2, 1, 8, 12), generator=generator, dtype=torch.uint8),
        torch.randint(255, (2, 2, 4, 6), generator=generator, dtype=torch.uint8),
        (1, 2),
        (0, 2),
    )
    return replace(plain, **changes)


def prior(known: Seeds | None) -> Prior:
    return Prior(CLASSES, (0.7, 0.2, 0.1), ("target_tags",), "by hand", seeds=known)


def test_seeds_are_read_back_as_they_were_with_a_picture(tmp_path: Path) -> None:
    made = prior(seeds())
    made.validate(CLASSES).save(tmp_path / "prior.json")
    assert {path.name for path in tmp_path.iterdir()} == FILES
    found = Prior.load(tmp_path)
    assert found == made
    assert found.seeds is not None
    assert torch.equal(found.seeds.labels, seeds().labels)
    assert found.seeds.places == PLACES
    entry = json.loads((tmp_path / "prior.json").read_text())["seeds"]
    assert entry["shares"] == pytest.approx({"background": 24 / 72, "lv": 4 / 72, "rv": 2 / 72})
    assert entry["images"] == {"a": [0, 1], "b": [0]}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mapped", [(), (1,), (1, 2)])
def test_the_picture_shows_the_seeds_in_the_colours_of_their_classes(
    tmp_path: Path, channels: int, mapped: tuple[int, ...]
) -> None:
    known = seeds(
        examples=torch.full((2, channels, 40, 60), 128, dtype=torch.uint8),
        maps=torch.zeros(2, len(mapped), 4, 6, dtype=torch.uint8),
        mapped=mapped,
    )
    prior(known).save(tmp_path / "prior.json")
    picture = np.asarray(Image.open(tmp_path / "seeds.png").convert("RGB")).reshape(-1, 3)
    blue, orange = (
        (np.abs(picture.astype(int) - colour).max(1) < 12).mean()
        for colour in ((65, 122, 162), (210, 127, 53))  # 0.35 grey and 0.65 of the class's colour
    )
    assert blue > 2 * orange > 0


def test_of_many_structures_those_with_the_most_seeds_are_drawn(tmp_path: Path) -> None:
    names = tuple(f"c{number}" for number in range(9))
    labels = torch.arange(9, dtype=torch.uint8).repeat(3, 4, 1)
    known = Seeds(
        PLACES,
        labels,
        torch.zeros(1, 3, 8, 18, dtype=torch.uint8),
        torch.zeros(1, 8, 4, 9, dtype=torch.uint8),
        tuple(range(1, 9)),
        (0,),
    )
    made = Prior(names, (1 / 9,) * 9, ("target_tags",), "by hand", seeds=known, photos=True)
    made.validate(names).save(tmp_path / "prior.json")
    width, height = Image.open(tmp_path / "seeds.png").size
    assert 3 < width / height < 15
    assert Prior.load(tmp_path) == made


def test_another_json_has_other_files(tmp_path: Path) -> None:
    prior(seeds()).save(tmp_path / "mine.json")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"mine.json", "mine-seeds.safetensors", "mine-seeds.png"}
    assert Prior.load(tmp_path / "mine.json") == prior(seeds())


def test_a_file_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "seeds.safetensors").write_bytes(b"mine")
    with pytest.raises(DataError, match="another file of this name, which would be replaced"):
        prior(seeds()).save(tmp_path / "prior.json")
    assert (tmp_path / "seeds.safetensors").read_bytes() == b"mine"
    assert not (tmp_path / "prior.json").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"places": (("a", 1), ("a", 0), ("b", 0))},
        {"labels": seeds().labels.flip(2)},
        {"examples": seeds().examples.flip(0)},
        {"maps": seeds().maps.flip(0)},
        {"mapped": (2, 1)},
        {"shown": (0, 1)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_seeds_are_another_prior(changes: dict[str, Any]) -> None:
    assert prior(seeds(**changes)) != prior(seeds())
    assert prior(seeds()) == prior(seeds())
    assert prior(None) != prior(seeds())


def test_seeds_that_are_missing_or_others_are_refused(tmp_path: Path) -> None:
    prior(seeds()).save(tmp_path / "prior.json")
    tensors = tmp_path / "seeds.safetensors"
    prior(seeds(labels=seeds().labels.flip(2))).save(tmp_path / "other.json")
    tensors.write_bytes((tmp_path / "other-seeds.safetensors").read_bytes())
    with pytest.raises(PriorError, match=r"other seeds than those that prior\.json"):
        Prior.load(tmp_path)
    tensors.write_bytes(b"half")
    with pytest.raises(PriorError, match=r"seeds\.safetensors"):
        Prior.load(tmp_path)
    tensors.unlink()
    with pytest.raises(PriorError, match="refers to seeds") as caught:
        Prior.load(tmp_path)
    assert "uda prior" in str(caught.value)


def test_seeds_of_another_prior_s_tensors_are_refused(tmp_path: Path) -> None:
    from uda.files.atomic import save_tensors

    prior(seeds()).save(tmp_path / "prior.json")
    save_tensors(tmp_path / "seeds.safetensors", {"maps": torch.zeros(1)}, {})
    with pytest.raises(PriorError, match="holds no 'labels'"):
        Prior.load(tmp_path)


def test_images_reordered_in_the_json_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "prior.json"
    prior(seeds()).save(path)
    raw = json.loads(path.read_text())
    raw["seeds"]["images"] = {"b": [0], "a": [0, 1]}
    path.write_text(json.dumps(raw))
    with pytest.raises(PriorError, match="other seeds"):
        Prior.load(path)


def test_each_image_gets_its_own_seeds_in_any_order() -> None:
    made = seeds()
    assert torch.equal(made.of([("b", 0), ("a", 0)]), made.labels[[2, 0]])
    assert made.of(PLACES) is made.labels
    with pytest.raises(PriorError, match="no seeds of 1 of 2 images: c slice 7"):
        made.of([("a", 0), ("c", 7)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"places": PLACES[:2]}, "for 2 images"),
        ({"places": (("a", 0), ("a", 0), ("b", 0))}, "for 3 images"),
        ({"labels": seeds().labels[0]}, "seeds of shape"),
        ({"labels": seeds().labels.int()}, r"seeds are torch\.int32"),
        ({"labels": seeds().labels[:, :0]}, "hold no pixel"),
        ({"labels": torch.full((3, 4, 6), 3, dtype=torch.uint8)}, "class number above 2"),
    ],
)
def test_what_no_seeds_can_be_like_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PriorError, match=message):
        prior(seeds(**changes)).validate(CLASSES)


def test_a_prior_without_a_seed_is_sound() -> None:
    none = prior(seeds(labels=torch.full((3, 4, 6), 255, dtype=torch.uint8)))
    assert none.validate(CLASSES) is none
