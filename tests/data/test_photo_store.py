"""Photographs in the store: the layouts as downloaded, every label form, what is left out, what training sees."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_photos import SIZE, card_of, write_world

from uda.config.augment import PhotoAugment
from uda.config.card import DatasetCard
from uda.data.cases import cases_of, names_of
from uda.data.items import Slices
from uda.data.store import Store, content_key, open_store
from uda.errors import DataError
from uda.types import IGNORE


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("streets"))


@pytest.fixture
def root(streets: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(streets, tmp_path / "streets"))


def store_of(card: DatasetCard, root: Path, split: str, labels: bool = True) -> Store:
    cases = cases_of(card, root, split, labels=labels)
    return open_store(card, cases, root.parent / "store", workers=2)


def test_the_downloads_are_read_as_they_are(streets: Path) -> None:
    """GTA5's pairs, Cityscapes' cities below train and val, in natural order."""
    assert names_of(card_of("gta5"), streets / "gta5", "train") == [f"{n:05d}" for n in range(1, 5)]
    cases = cases_of(card_of("cityscapes"), streets, "test", labels=True)
    assert [c.name for c in cases] == sorted(c.name for c in cases)
    for case in cases:
        city = case.name.split("_")[0]
        assert case.image.relative_to(streets / "cityscapes").as_posix() == (
            f"leftImg8bit/val/{city}/{case.name}_leftImg8bit.png"
        )
        assert case.label is not None
        assert case.label.name == f"{case.name}_gtFine_labelIds.png"
    adapted = cases_of(card_of("cityscapes"), streets, "adapt")
    assert {c.image.parents[1].name for c in adapted} == {"train"}
    assert all(c.label is None for c in adapted)


def test_images_and_labels_lie_in_the_store_as_bytes(root: Path) -> None:
    store = store_of(card_of("gta5"), root, "train")
    assert (store.images.shape, store.images.dtype) == ((4, 3, *SIZE), np.uint8)
    assert (store.labels.shape, store.labels.dtype) == ((4, *SIZE), np.uint8)
    assert set(np.unique(store.labels)) <= {*range(19), IGNORE}
    photo = np.asarray(Image.open(root / "gta5/images/00001.png")).astype(float)
    means = store.images[0].reshape(3, -1).mean(1)
    np.testing.assert_allclose(means, photo.reshape(-1, 3).mean(0), atol=1.0)


def test_what_the_network_sees_is_normalised(root: Path) -> None:
    card = card_of("gta5")
    store = store_of(card, root, "train")
    items = Slices(store)
    image = items.image(np.array([2]))[0]
    expected = (store.images[2] / 255 - np.array(card.prepare.mean)[:, None, None]) / np.array(
        card.prepare.sd
    )[:, None, None]
    np.testing.assert_allclose(image.numpy(), expected, atol=1e-5)
    assert image.dtype == torch.float32


def test_ids_train_ids_and_colours_are_one_label(root: Path) -> None:
    """The same labels as label ids, as train ids and in official colours give the same store."""
    card = card_of("cityscapes")
    ids = np.array(store_of(card, root, "test").labels)
    for case in cases_of(card, root, "test", labels=True):
        assert case.label is not None
        raw = np.asarray(Image.open(case.label))
        table = np.full(256, IGNORE, np.uint8)
        for index, name in enumerate(card.classes):
            table[list(card.label_values[name])] = index
        path = case.label.with_name(case.label.name.replace("labelIds", "labelTrainIds"))
        Image.fromarray(table[raw]).save(path)
        case.label.unlink()
    np.testing.assert_array_equal(store_of(card, root, "test").labels, ids)
    for path in (root / "cityscapes").rglob("*_labelTrainIds.png"):
        path.unlink()
    colored = np.array(store_of(card, root, "test").labels)
    np.testing.assert_array_equal(colored, ids)


def test_an_unlabelled_target_opens_no_label(root: Path) -> None:
    card = card_of("cityscapes")
    whole = content_key(card, cases_of(card, root, "adapt"))
    shutil.rmtree(root / "cityscapes/gtFine/train")
    assert content_key(card, cases_of(card, root, "adapt")) == whole
    store = store_of(card, root, "adapt", labels=False)
    with pytest.raises(DataError, match="without labels"):
        _ = store.labels


def shrink(path: Path) -> None:
    image = Image.open(path)
    image.resize((image.width // 2, image.height // 2), Image.Resampling.NEAREST).save(path)


def test_a_pair_of_two_sizes_is_left_out_and_named(root: Path) -> None:
    shrink(root / "gta5/labels/00003.png")
    store = store_of(card_of("gta5"), root, "train")
    assert [case.name for case in store.cases] == ["00001", "00002", "00004"]
    assert list(store.skipped) == ["00003"]
    assert "36×64" in store.skipped["00003"]
    assert len(store.labels) == len(store.images) == 3


def test_without_skip_every_fault_of_the_data_ends_the_run_in_one_report(root: Path) -> None:
    card = card_of("gta5").model_copy(update={"skip": ()})
    shrink(root / "gta5/labels/00003.png")
    cut = root / "gta5/images/00001.png"
    cut.write_bytes(cut.read_bytes()[:-200])
    with pytest.raises(DataError, match="2 faults") as caught:
        store_of(card, root, "train")
    assert "00003.png" in str(caught.value)
    assert "00001.png" in str(caught.value)
    assert not any((root.parent / "store").iterdir())


def test_training_draws_each_image_by_its_own_seed(root: Path) -> None:
    """The change of an image depends neither on the other images of its batch nor on the threads."""
    photo = PhotoAugment(scale=(0.5, 2.0), crop=(40, 64), mirror=True, brightness=0.3)
    store = store_of(card_of("gta5"), root, "train")
    one, many = Slices(store, photo, workers=1), Slices(store, photo, workers=3)
    numbers, seeds = np.array([0, 1, 2, 3]), [7, 8, 9, 10]
    image, label = one.labelled(numbers, seeds)
    assert (image.shape, label.shape) == ((4, 3, 40, 64), (4, 40, 64))
    again = many.labelled(numbers[::-1].copy(), seeds[::-1])
    torch.testing.assert_close(again[0].flip(0), image, rtol=0, atol=0)
    torch.testing.assert_close(again[1].flip(0), label, rtol=0, atol=0)
    other, _ = one.labelled(numbers, [1, 2, 3, 4])
    assert not torch.equal(other, image)


def test_a_target_image_meets_no_change_of_colour(root: Path) -> None:
    store = store_of(card_of("gta5"), root, "train")
    recoloured = Slices(store, PhotoAugment(brightness=0.5, contrast=0.5, hue=0.3))
    numbers, seeds = np.array([0, 1]), [1, 2]
    plain = recoloured.image(numbers)
    torch.testing.assert_close(recoloured.seen(numbers, seeds), plain, rtol=0, atol=0)
    assert not torch.equal(recoloured.labelled(numbers, seeds)[0], plain)
