"""Tags and seeds of photographs: every class has a tag, there is no background, the network is another."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from tiny_photos import SIZE, card_of, write_model, write_world

from uda import api
from uda.errors import ModelError, PriorError
from uda.networks.model_file import load_model, save_model
from uda.priors import Prior
from uda.types import IGNORE


def world(folder: Path) -> tuple[Path, Path, Path, tuple[str, ...]]:
    """A model, photographs, tags of all classes that differ from image to image, and the classes."""
    write_world(folder, game=1, train=4, val=1)
    card = card_of("cityscapes")
    model = write_model(folder / "model.safetensors", card)
    images = folder / "images"
    images.mkdir()
    photos = sorted(folder.glob("cityscapes/leftImg8bit/train/*/*.png"))
    assert len(photos) == 4
    tags = folder / "tags.csv"
    with tags.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["case", "slice", *card.classes])
        for number, photo in enumerate(photos):
            (images / f"p{number}.png").write_bytes(photo.read_bytes())
            shown = [1, number % 2, *[int(number > 1)] * (len(card.classes) - 2)]
            table.writerow([f"p{number}", 0, *shown])
    return model, images, tags, card.classes


def test_photographs_have_seeds_of_shown_classes_and_no_background(tmp_path: Path) -> None:
    model, images, tags, classes = world(tmp_path)
    settings = ["min_accuracy=0", "stride=8"]
    prior = api.estimate_prior(model, cam=True, tags=tags, target=images, overrides=settings)
    assert prior.supervision == ("target_tags",)
    assert prior.seeds is not None
    assert prior.seeds.labels.shape == (4, SIZE[0] // 8, SIZE[1] // 8)
    assert prior.seeds.mapped == tuple(
        range(1, len(classes))
    )  # every photograph has the first class
    for number, found in enumerate(prior.seeds.labels):
        allowed = {IGNORE, *([1] if number % 2 else []), *(range(2, 19) if number > 1 else [])}
        assert set(found.unique().tolist()) <= allowed
        assert prior.images is not None
        row = np.array(prior.images[f"p{number}"][0])
        assert row.sum() == pytest.approx(1)
        assert (row[2:] > 0).all() == (number > 1)
    assert bool((prior.seeds.labels[1] == 1).any())
    assert prior.photos
    prior.save(tmp_path / "out" / "prior.json")
    assert Prior.load(tmp_path / "out") == prior


def test_tags_alone_make_a_prior_of_photographs(tmp_path: Path) -> None:
    model, images, tags, classes = world(tmp_path)
    network, info = load_model(model)
    info = info.__class__(**{**vars(info), "presence_ratio": tuple([0.2] * len(classes))})
    save_model(tmp_path / "known.safetensors", network, info)
    prior = api.estimate_prior(tmp_path / "known.safetensors", tags=tags, target=images)
    assert prior.supervision == ("source_labels", "target_tags")
    assert prior.images is not None
    assert prior.images["p0"][0] == (1.0, *[0.0] * (len(classes) - 1))
    assert prior.images["p1"][0][:2] == (0.5, 0.5)


def test_one_photograph_says_nothing_of_a_class(tmp_path: Path) -> None:
    model, images, tags, _ = world(tmp_path)
    for number in (1, 2, 3):
        (images / f"p{number}.png").unlink()
    tags.write_text("\n".join(tags.read_text().splitlines()[:2]) + "\n")
    with pytest.raises(PriorError, match="by all target images or by none"):
        api.estimate_prior(model, cam=True, tags=tags, target=images)


def test_a_network_whose_last_layer_is_unknown_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uda.networks import deeplab

    model, images, tags, _ = world(tmp_path)
    monkeypatch.setattr(deeplab.DeepLabNet, "head", None)
    with pytest.raises(ModelError, match="the last layer of a DeepLabNet is not known"):
        api.estimate_prior(model, cam=True, tags=tags, target=images)
