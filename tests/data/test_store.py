"""The store: prepared once, keyed by content, rebuilt when damaged, complete or absent."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SIZE, SLICES, Tiny, make_case, write_nifti

from uda.config.card import DatasetCard
from uda.config.loading import load_card, override
from uda.data import sources
from uda.data.cases import Case, cases_of
from uda.data.items import Slices
from uda.data.sampling import source_batch, target_batch
from uda.data.store import INDEX, Store, content_key, open_store
from uda.data.volumes import prepare_image, prepare_label, read_volume
from uda.errors import DataError, RunError


@pytest.fixture
def card(tiny: Tiny) -> DatasetCard:
    return load_card(str(tiny.home / "source.yaml"))


@pytest.fixture
def cases(tiny: Tiny, card: DatasetCard) -> list[Case]:
    return cases_of(card, tiny.root, "train", labels=True)


def unlabelled(cases: list[Case]) -> list[Case]:
    return [Case(case.name, case.image) for case in cases]


def test_key_is_the_same_for_the_same_content_elsewhere(
    tmp_path: Path, card: DatasetCard, cases: list[Case]
) -> None:
    moved = []
    for case in cases:
        copy = tmp_path / "elsewhere" / case.image.name
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(case.image.read_bytes())
        moved.append(Case(case.name, copy))
    assert content_key(card, moved) == content_key(card, unlabelled(cases))


def test_key_changes_with_the_bytes_of_an_image_or_a_label(
    card: DatasetCard, cases: list[Case]
) -> None:
    keys = {content_key(card, cases)}
    for path in (cases[0].image, cases[1].label):
        assert path is not None
        path.write_bytes(path.read_bytes() + b"\0")
        keys.add(content_key(card, cases))
    assert len(keys) == 3


@pytest.mark.parametrize(
    "change",
    [
        "prepare.spacing=2.0",
        "prepare.normalize=minmax",
        "prepare.clip=[1, 99]",
        "prepare.size=[8,8]",
    ],
)
def test_key_changes_with_the_preprocessing(
    card: DatasetCard, cases: list[Case], change: str
) -> None:
    assert content_key(override(card, [change]), cases) != content_key(card, cases)


def test_key_changes_with_the_order_and_choice_of_cases(
    card: DatasetCard, cases: list[Case]
) -> None:
    keys = {content_key(card, chosen) for chosen in (cases, cases[::-1], cases[:1])}
    assert len(keys) == 3


def test_key_changes_with_the_label_map_only_when_labels_are_stored(
    card: DatasetCard, cases: list[Case]
) -> None:
    other = override(card, ["label_values.disk=[20]", "label_values.ring=[10]"])
    assert content_key(other, cases) != content_key(card, cases)
    assert content_key(other, unlabelled(cases)) == content_key(card, unlabelled(cases))


def test_key_ignores_what_the_arrays_do_not_depend_on(card: DatasetCard, cases: list[Case]) -> None:
    other = override(card, ["title=other", "citation=x", "distance_unit=voxel"])
    assert content_key(other, cases) == content_key(card, cases)


def test_store_holds_what_prepare_gives_case_after_case(
    tmp_path: Path, card: DatasetCard, cases: list[Case]
) -> None:
    store = open_store(card, cases, tmp_path / "store")
    assert len(store) == 2 * SLICES
    assert [c.name for c in store.cases] == ["c0", "c1"]
    for case, stored in zip(cases, store.cases, strict=True):
        assert case.label is not None
        image, geometry = prepare_image(read_volume(case.image), card.prepare, case.image)
        label = prepare_label(read_volume(case.label), geometry, card, case.label)
        np.testing.assert_array_equal(store.images[stored.start : stored.stop], image)
        np.testing.assert_array_equal(store.labels[stored.start : stored.stop], label)
        assert stored.geometry == geometry


def test_cases_of_different_slice_counts_stand_one_after_the_other(
    tmp_path: Path, card: DatasetCard
) -> None:
    image, label = make_case(0, inverted=False)
    cases, counts = [], [3, 1, 4]
    for number, count in enumerate(counts):
        folder = tmp_path / str(number)
        cases.append(
            Case(
                str(number),
                write_nifti(folder / "i.nii", image[..., :count] + np.int16(number)),
                write_nifti(folder / "l.nii", label[..., :count] * np.uint8(10)),
            )
        )
    store = open_store(card, cases, tmp_path / "store")
    assert [(c.start, c.stop) for c in store.cases] == [(0, 3), (3, 4), (4, 8)]
    assert store.images.shape == store.labels.shape == (8, SIZE, SIZE)
    np.testing.assert_array_equal(store.labels[0], store.labels[3])
    np.testing.assert_array_equal(store.labels[:3], store.labels[4:7])
    assert store.places() == [
        *[("0", i) for i in range(3)],
        ("1", 0),
        *[("2", i) for i in range(4)],
    ]


def test_places_count_along_the_files_own_axis(tmp_path: Path, card: DatasetCard) -> None:
    image, _ = make_case(0, inverted=False)
    flipped = np.diag([1.5, 1.5, -4.0, 1.0])
    case = Case("f", write_nifti(tmp_path / "f.nii", image, flipped))
    store = open_store(card, [case], tmp_path / "store")
    assert store.places() == [("f", index) for index in reversed(range(SLICES))]


def test_second_opening_reads_no_volume(
    tmp_path: Path, card: DatasetCard, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = np.array(open_store(card, cases, tmp_path / "store").images)

    def refuse(path: Path) -> Any:
        raise DataError("a volume was read", where=path)

    monkeypatch.setattr(sources, "read_volume", refuse)
    np.testing.assert_array_equal(open_store(card, cases, tmp_path / "store").images, first)
    with pytest.raises(DataError, match="a volume was read"):
        open_store(card, cases, tmp_path / "another")


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "index.json"])
@pytest.mark.parametrize("harm", [damage, cut_short, empty, Path.unlink])
def test_a_damaged_file_is_made_again(
    tmp_path: Path,
    card: DatasetCard,
    cases: list[Case],
    name: str,
    harm: Callable[[Path], None],
) -> None:
    root = tmp_path / "store"
    whole = open_store(card, cases, root)
    before = {path.name: path.read_bytes() for path in whole.folder.iterdir()}
    harm(whole.folder / name)
    again = open_store(card, cases, root)
    assert {path.name: path.read_bytes() for path in again.folder.iterdir()} == before


def test_an_index_of_another_content_is_not_taken(
    tmp_path: Path, card: DatasetCard, cases: list[Case]
) -> None:
    folder = open_store(card, cases, tmp_path / "store").folder
    index = json.loads((folder / "index.json").read_text())
    other = json.dumps({**index, "key": "0" * 64})
    (folder / "index.json").write_text(other)
    with pytest.raises(DataError, match="not of the store that this run makes"):
        open_store(card, cases, tmp_path / "store")
    assert (folder / "index.json").read_text() == other


def test_faulty_cases_are_all_listed_and_nothing_is_left_behind(
    tmp_path: Path, card: DatasetCard, cases: list[Case]
) -> None:
    good, _ = make_case(5, inverted=False)
    third = Case("c9", write_nifti(tmp_path / "c9.nii.gz", good))
    cases[0].image.write_text("no image")
    assert cases[1].label is not None
    write_nifti(cases[1].label, np.full((SIZE, SIZE, SLICES), 77, np.uint8))
    with pytest.raises(DataError, match="2 faults in the data of card 'source'") as caught:
        open_store(card, [*cases, third], tmp_path / "store")
    assert str(cases[0].image) in str(caught.value)
    assert "77" in str(caught.value)
    assert list((tmp_path / "store").iterdir()) == []


def test_a_fault_does_not_cost_the_store_that_was_there(
    tmp_path: Path, card: DatasetCard, cases: list[Case]
) -> None:
    store = open_store(card, cases, tmp_path / "store")
    content = cases[0].image.read_bytes()
    cases[0].image.write_text("no image")
    with pytest.raises(DataError):
        open_store(card, cases, tmp_path / "store")
    assert [path.name for path in (tmp_path / "store").iterdir()] == [store.folder.name]
    cases[0].image.write_bytes(content)
    assert open_store(card, cases, tmp_path / "store").folder == store.folder


@pytest.mark.parametrize("name", [INDEX, "images.npy", "labels.npy"])
def test_a_file_of_no_store_is_not_replaced(
    tmp_path: Path, card: DatasetCard, cases: list[Case], name: str
) -> None:
    there = tmp_path / "store" / content_key(card, cases)[:16] / name
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    with pytest.raises(DataError, match="not of the store") as refused:
        open_store(card, cases, tmp_path / "store")
    assert str(there) in str(refused.value)
    assert there.read_text() == "mine"
    there.rename(there.with_name("notes.txt"))
    assert open_store(card, cases, tmp_path / "store")
    assert there.with_name("notes.txt").read_text() == "mine"


@pytest.mark.parametrize("call", range(4))
def test_a_store_killed_while_its_files_move_is_made_again(
    tmp_path: Path,
    card: DatasetCard,
    cases: list[Case],
    monkeypatch: pytest.MonkeyPatch,
    call: int,
) -> None:
    folder = tmp_path / "store" / content_key(card, cases)[:16]
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    calls, replace = iter(range(call)), os.replace

    def killed(*paths: Path) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        replace(*paths)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        open_store(card, cases, tmp_path / "store")
    again = open_store(card, cases, tmp_path / "store")
    straight = open_store(card, cases, tmp_path / "straight")
    np.testing.assert_array_equal(again.images, straight.images)


def test_a_store_of_unlabelled_cases_has_no_labels_at_all(
    tmp_path: Path, card: DatasetCard, cases: list[Case]
) -> None:
    store = open_store(card, unlabelled(cases), tmp_path / "store")
    assert sorted(p.name for p in store.folder.iterdir()) == ["images.npy", "index.json"]
    with pytest.raises(DataError, match="prepared without labels"):
        _ = store.labels


def test_a_disk_that_refuses_is_said_so(
    tmp_path: Path, card: DatasetCard, cases: list[Case]
) -> None:
    (tmp_path / "store").write_text("a file where a folder should be")
    with pytest.raises(RunError, match="the store cannot be written"):
        open_store(card, cases, tmp_path / "store")


def test_arrays_are_mapped_and_not_read(
    tmp_path: Path, card: DatasetCard, cases: list[Case]
) -> None:
    store = Store(open_store(card, cases, tmp_path / "store").folder)
    assert isinstance(store.images, np.memmap)
    assert isinstance(store.labels, np.memmap)


def test_batches_hold_the_stored_slices_in_the_order_asked_for(
    tmp_path: Path, card: DatasetCard, cases: list[Case]
) -> None:
    store = open_store(card, cases, tmp_path / "store")
    indices = np.array([6, 0, 6, 3])
    source, target = (
        source_batch(Slices(store), indices, [0] * len(indices), pin=False),
        target_batch(Slices(store), indices, [0] * len(indices), pin=False),
    )
    assert source.image.shape == (4, 1, SIZE, SIZE)
    assert source.image.dtype == torch.float32
    assert source.label.dtype == torch.int64
    assert target.index.tolist() == indices.tolist()
    for row, index in enumerate(indices):
        np.testing.assert_array_equal(source.image[row, 0], store.images[index])
        np.testing.assert_array_equal(source.label[row], store.labels[index])
        np.testing.assert_array_equal(target.image[row, 0], store.images[index])
