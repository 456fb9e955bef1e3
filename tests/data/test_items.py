"""Items: slices with their neighbours, and patches that cover volumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SIZE, SLICES, Tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from uda.config.card import DatasetCard
from uda.config.loading import load_card
from uda.data.cases import cases_of
from uda.data.items import Items, Patches, Slices, items_of
from uda.data.sampling import shuffled_batches
from uda.data.store import Store, open_store
from uda.errors import DataError
from uda.types import IGNORE


def store_of(tiny: Tiny, folder: Path, **prepare: object) -> Store:
    card = load_card(str(tiny.home / "source.yaml"))
    raw = card.model_dump()
    raw["prepare"] |= prepare
    changed = DatasetCard.model_validate(raw)
    return open_store(changed, cases_of(changed, tiny.root, "train", labels=True), folder)


@pytest.fixture
def store(tiny: Tiny, tmp_path: Path) -> Store:
    return store_of(tiny, tmp_path / "store")


def test_a_slab_is_the_slice_between_its_neighbours_and_stays_in_its_case(
    tiny: Tiny, tmp_path: Path
) -> None:
    alone, slab = store_of(tiny, tmp_path / "a"), store_of(tiny, tmp_path / "b", slab=3)
    image = Slices(slab).image(np.arange(2 * SLICES)).numpy()
    assert image.shape == (2 * SLICES, 3, SIZE, SIZE)
    for number in range(2 * SLICES):
        first, last = (0, SLICES - 1) if number < SLICES else (SLICES, 2 * SLICES - 1)
        for channel, near in enumerate((max(number - 1, first), number, min(number + 1, last))):
            np.testing.assert_array_equal(image[number, channel], alone.images[near])


def test_a_slice_comes_with_its_own_label_and_number(store: Store) -> None:
    items, numbers = Slices(store), np.array([5, 2])
    places = items.places(numbers, [3, 4])
    np.testing.assert_array_equal(items.image(places)[:, 0].numpy(), store.images[numbers])
    image, label = items.labelled(places, [3, 4])
    np.testing.assert_array_equal(image.numpy(), items.seen(places, [3, 4]).numpy())
    np.testing.assert_array_equal(label.numpy(), store.labels[numbers])
    assert items.index(places).tolist() == [5, 2]


patches = st.tuples(st.integers(1, 6), st.integers(5, 40), st.integers(5, 40))


def every_place(items: Items) -> np.ndarray:
    return items.places(np.arange(len(items)))


@settings(max_examples=20, deadline=None)
@given(patch=patches)
def test_patches_cover_every_voxel_of_every_case(
    store_once: Store, patch: tuple[int, int, int]
) -> None:
    seen = np.zeros(store_once.images.shape, bool)
    for case, z, y, x in every_place(Patches(store_once, patch)):
        first = store_once.cases[case].start + z
        stop = min(first + patch[0], store_once.cases[case].stop)
        seen[first:stop, y : y + patch[1], x : x + patch[2]] = True
    assert seen.all()


@settings(max_examples=20, deadline=None)
@given(patch=patches, seed=st.integers(0, 2**40))
def test_a_drawn_patch_lies_inside_its_case_and_repeats_with_its_seed(
    store_once: Store, patch: tuple[int, int, int], seed: int
) -> None:
    items = Patches(store_once, patch)
    seeds = [seed + number for number in range(len(items))]
    places = items.places(np.arange(len(items)), seeds)
    np.testing.assert_array_equal(places, items.places(np.arange(len(items)), seeds))
    alone = [items.places(np.array([n]), [s])[0] for n, s in enumerate(seeds)]
    np.testing.assert_array_equal(places, alone)
    np.testing.assert_array_equal(places[:, 0], every_place(items)[:, 0])
    room = np.maximum(np.array([SLICES, SIZE, SIZE]) - patch, 0)
    assert (places[:, 1:] >= 0).all()
    assert (places[:, 1:] <= room).all()


@pytest.fixture(scope="module")
def store_once(tmp_path_factory: pytest.TempPathFactory) -> Store:
    from conftest import card, make_case, write_nifti

    root = tmp_path_factory.mktemp("volumes")
    for number in range(2):
        image, label = make_case(number, inverted=False)
        write_nifti(root / "s" / "images" / f"c{number}.nii.gz", image)
        write_nifti(root / "s" / "labels" / f"c{number}.nii.gz", label * np.uint8(10))
    domain = DatasetCard.model_validate(card("source", "s", {"train": ["c0", "c1"]}))
    return open_store(domain, cases_of(domain, root, "train", labels=True), root / "store")


def test_patches_move_between_draws(store_once: Store) -> None:
    items = Patches(store_once, (2, 8, 8))
    draws = {tuple(items.places(np.array([5]), [seed])[0]) for seed in range(40)}
    assert len(draws) > 20


def test_a_patch_holds_image_label_and_slice_numbers_of_its_place(store_once: Store) -> None:
    items = Patches(store_once, (2, 8, 10))
    place = np.array([[1, 1, 20, 3]])
    found, label = items.labelled(place, [0])
    first = SLICES + 1
    np.testing.assert_array_equal(found[0, 0], store_once.images[first : first + 2, 20:28, 3:13])
    np.testing.assert_array_equal(label[0], store_once.labels[first : first + 2, 20:28, 3:13])
    assert items.index(place).tolist() == [[first, first + 1]]
    assert (found.dtype, label.dtype) == (torch.float32, torch.int64)


def test_a_volume_smaller_than_the_patch_is_continued_and_counts_for_nothing_there(
    store_once: Store,
) -> None:
    items = Patches(store_once, (SLICES + 2, SIZE, SIZE + 4))
    assert len(items) == 2
    place = items.places(np.array([1]), [9])
    images, labels = items.labelled(place, [9])
    image, label = images[0, 0], labels[0]
    inside = store_once.images[SLICES:]
    np.testing.assert_array_equal(image[:SLICES, :, :SIZE], inside)
    assert (image[SLICES:] == float(inside.min())).all()
    assert (label[SLICES:] == IGNORE).all()
    assert (label[:, :, SIZE:] == IGNORE).all()
    assert items.index(place)[0].tolist() == [4, 5, 6, 7, 7, 7]


def test_every_patch_comes_once_in_shuffled_batches(store_once: Store) -> None:
    items = Patches(store_once, (2, 16, 16))
    batches = list(shuffled_batches(items, 8, seed=0))
    assert sum(len(batch) for batch in batches) == len(items)
    assert max(len(batch) for batch in batches) <= 5
    drawn = sorted(float(image.sum()) for batch in batches for image in batch)
    own = sorted(float(image.sum()) for image in items.image(every_place(items)))
    np.testing.assert_allclose(drawn, own)


def test_items_are_slices_unless_a_network_sees_patches(store: Store) -> None:
    assert isinstance(items_of(store, None), Slices)
    assert isinstance(items_of(store, (2, 8, 8)), Patches)


def test_a_3d_network_refuses_files_of_single_slices(store: Store) -> None:
    store.images = np.repeat(store.images[:, None], 3, axis=1)
    with pytest.raises(DataError, match="a 3-D network needs volumes"):
        Patches(store, (2, 8, 8))
