"""MM-WHS in both forms: raw volumes and records of the same subjects give the same batches, and run a recipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Once
from typer.testing import CliRunner

from uda.cli.main import app
from uda.config.card import DatasetCard
from uda.config.loading import load_card, load_recipe
from uda.data.cases import cases_of
from uda.data.convert import convert_to_records, write_tags
from uda.data.items import items_of
from uda.data.records import read_npz, read_records, write_npz, write_records
from uda.data.sampling import batch_indices, source_batch
from uda.data.store import Store, open_store
from uda.data.synthetic.phantom.dataset import write_phantom
from uda.data.tags import read_tags
from uda.errors import ConfigError, DataError
from uda.pipeline import run as pipeline

SMALL = {"size": (64, 64), "spacing": 3.2, "slice_spacing": 10.0}
SPLITS = {
    "mr": {"train": ("1001", "1002"), "validate": ("1010",), "adapt": ("1001", "1010")},
    "ct": {"adapt": ("1001", "1002"), "test": ("1003",)},
}


@pytest.fixture(scope="module")
def raw(once: Once) -> Path:
    """Phantom volumes in the folders of the MM-WHS download."""
    people = {"mr": [1001, 1002, 1010], "ct": [1001, 1002, 1003]}
    return once("mmwhs", lambda folder: write_phantom(folder, **people))


def small(modality: str, **prepare: Any) -> DatasetCard:
    """The shipped card with fewer subjects, pixels and slices."""
    card = load_card(f"mmwhs_{modality}").model_dump()
    card["prepare"] |= {**SMALL, **prepare}
    return DatasetCard.model_validate({**card, "splits": SPLITS[modality]})


@pytest.fixture(scope="module")
def records(raw: Path, once: Once) -> Path:
    def fill(folder: Path) -> None:
        for modality in ("mr", "ct"):
            convert_to_records(small(modality), raw, folder)

    return once("records", fill)


def store_of(card: DatasetCard, root: Path, split: str, folder: Path) -> Store:
    return open_store(card, cases_of(card, root, split, labels=True), folder)


@pytest.mark.parametrize("slab", [1, 3])
@pytest.mark.parametrize(("modality", "split"), [("mr", "train"), ("ct", "adapt")])
def test_both_readers_give_the_same_training_batches(
    raw: Path, records: Path, tmp_path: Path, modality: str, split: str, slab: int
) -> None:
    written = load_card(str(records / f"mmwhs_{modality}_records.yaml")).model_dump()
    written["prepare"]["slab"] = slab
    ours = store_of(small(modality, slab=slab), raw, split, tmp_path)
    theirs = store_of(DatasetCard.model_validate(written), records, split, tmp_path)
    assert len(ours) == len(theirs) > 20
    for step in range(4):
        numbers = batch_indices(len(ours), 8, step, seed=5)
        batch = source_batch(items_of(ours, None), numbers, [step] * len(numbers), pin=False)
        other = source_batch(items_of(theirs, None), numbers, [step] * len(numbers), pin=False)
        assert batch.image.shape == (8, slab, 64, 64)
        np.testing.assert_allclose(other.image, batch.image, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(other.label, batch.label)
        assert len(np.unique(batch.label)) > 2


def test_the_test_volumes_are_the_same_after_both_readers(
    raw: Path, records: Path, tmp_path: Path
) -> None:
    written = load_card(str(records / "mmwhs_ct_records.yaml"))
    ours = store_of(small("ct"), raw, "test", tmp_path)
    theirs = store_of(written, records, "test", tmp_path)
    np.testing.assert_allclose(theirs.images, ours.images, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(theirs.labels, ours.labels)


def test_the_shipped_cards_read_what_convert_writes(records: Path, tmp_path: Path) -> None:
    for modality, split in (("mr", "train"), ("mr", "validate"), ("ct", "adapt"), ("ct", "test")):
        shipped = load_card(f"mmwhs_{modality}_records").model_dump()
        shipped["prepare"]["size"] = SMALL["size"]
        found = store_of(DatasetCard.model_validate(shipped), records, split, tmp_path)
        written = load_card(str(records / f"mmwhs_{modality}_records.yaml"))
        other = store_of(written, records, split, tmp_path)
        assert [case.name for case in found.cases] == [case.name for case in other.cases]
        np.testing.assert_array_equal(found.images, other.images)
        np.testing.assert_array_equal(found.labels, other.labels)


def test_a_case_that_validates_is_no_training_record(records: Path) -> None:
    names = sorted(path.relative_to(records).as_posix() for path in records.glob("t*/*.*s"))
    names += sorted(path.relative_to(records).as_posix() for path in records.glob("v*/*"))
    assert names == [
        "training_ct/ct_train_1001.tfrecords",
        "training_ct/ct_train_1002.tfrecords",
        "training_mr/mr_train_1001.tfrecords",
        "training_mr/mr_train_1002.tfrecords",
        "validation_mr/mr_val_1010.tfrecords",
    ]
    assert [p.name for p in records.rglob("*.npz")] == ["ct_1003.npz"]
    card = load_card(str(records / "mmwhs_mr_records.yaml"))
    assert card.splits["adapt"] == ("mr_train_1001", "mr_val_1010")


def test_label_5_is_background_because_the_card_says_so(records: Path, tmp_path: Path) -> None:
    path = next(records.rglob("mr_train_1001.tfrecords"))
    read = [(np.array(r.image), np.array(r.label)) for r in read_records(path)]
    artery = [(image, np.where(label == 2, 5, label)) for image, label in read]
    write_records(tmp_path / "training_mr" / path.name, artery)
    shipped = load_card("mmwhs_mr_records").model_dump()
    shipped["prepare"]["size"] = SMALL["size"]
    card = DatasetCard.model_validate(shipped)
    store = store_of(card, tmp_path, "train", tmp_path / "store")
    found = np.concatenate([label[None, ..., 1] for _, label in artery])
    np.testing.assert_array_equal(store.labels > 0, (found > 0) & (found < 5))

    shipped["label_values"]["background"] = (0,)
    strict = DatasetCard.model_validate(shipped)
    with pytest.raises(DataError, match="does not name: 5") as error:
        store_of(strict, tmp_path, "train", tmp_path / "strict")
    assert path.name in str(error.value)


# The recipe ---------------------------------------------------------------------------------------

FEW = [
    "network.channels=[4,8,16]",
    "network.res_units=1",
    "pretrain.steps=6",
    "pretrain.batch=4",
    "sources.*.steps=2",
    "sources.*.batch=4",
    "adapt.*.steps=2",
    "adapt.*.batch=4",
    "compute.device=cpu",
]


def recipe_on(records: Path, name: str = "cardiac_mr2ct_records") -> Any:
    cards = [f"data.source={records}/mmwhs_mr_records.yaml"]
    cards.append(f"data.target={records}/mmwhs_ct_records.yaml")
    return load_recipe(name, [*FEW, *cards, f"data.root={records}"])


def test_the_whole_records_recipe_runs(records: Path, tmp_path: Path) -> None:
    recipe = recipe_on(records)
    pipeline.run(recipe, tmp_path)
    metrics = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())
    rows = {row["name"]: row for row in metrics["rows"]}
    first = [
        f"{source}{row}" for row in ("source_only", "adabn") for source in ("", "generalised_")
    ]
    assert list(rows) == [*first, *recipe.variants]
    again = {n for n, row in rows.items() if "source_images" in row["supervision"]}
    assert again == {"advent", "generalised_advent"}
    assert metrics["distance_unit"] == "voxel"
    assert [row["row"] for row in metrics["published"]] == ["unadapted", "PnP-AdaNet"]
    theirs = {row["name"]: row for row in metrics["conventions"]["sifa"]["rows"]}
    for (
        name,
        row,
    ) in rows.items():  # one test volume of the prepared grid: nothing but the sd differs
        assert theirs[name]["dice"]["mean"] == pytest.approx(row["dice"]["mean"])
    page = (tmp_path / "report" / "report.html").read_text()
    assert "PnP-AdaNet, abstract" in page


def test_labels_in_target_records_change_nothing_but_evaluate(
    records: Path, tmp_path: Path
) -> None:
    def models(out: Path) -> dict[str, bytes]:
        recipe = recipe_on(records)
        pipeline.run(recipe, out, until="adabn")
        pipeline.run(recipe, out, until="adapt-adami_batch")
        return {p.parent.name: p.read_bytes() for p in sorted(out.glob("*/model.safetensors"))}

    records = Path(shutil.copytree(records, tmp_path / "records"))
    true = models(tmp_path / "true")
    for path in (records / "training_ct").iterdir():
        read, before = (
            [(np.array(r.image), np.array(r.label)) for r in read_records(path)],
            path.read_bytes(),
        )
        write_records(path, [(image, 4 - label) for image, label in read])
        assert path.read_bytes() != before
    assert models(tmp_path / "false") == true
    assert {"pretrain", "adabn", "adapt-adami_batch"} <= set(true)


# Tags ---------------------------------------------------------------------------------------------


def test_tags_say_which_structures_each_slice_shows(raw: Path, tmp_path: Path) -> None:
    card = small("ct", slice_spacing=None)
    tags = read_tags(write_tags(card, raw, "adapt", tmp_path / "tags.csv"), card.classes[1:])
    store = store_of(card, raw, "adapt", tmp_path / "store")
    assert set(tags) == set(store.places())
    for place, label in zip(store.places(), store.labels, strict=True):
        assert tags[place] == tuple(bool((label == k).any()) for k in range(1, 5))


def test_tags_make_the_tag_prior_of_the_tags_recipe(raw: Path, tmp_path: Path) -> None:
    home = tmp_path / "cards"
    home.mkdir()
    for modality in ("mr", "ct"):
        text = yaml.safe_dump(small(modality).model_dump(mode="json"))
        (home / f"{modality}.yaml").write_text(text)
    cards = [f"data.source={home}/mr.yaml", f"data.target={home}/ct.yaml", f"data.root={raw}"]
    made = CliRunner().invoke(app, ["tags", f"{home}/ct.yaml", "--root", str(raw)])
    assert made.exit_code == 0, made.output
    try:
        recipe = load_recipe("cardiac_mr2ct_tags", [*FEW, *cards])
        done = pipeline.run(recipe, tmp_path / "run", until="adapt-adami_tags")
    finally:
        (raw / "mmwhs_ct_tags.csv").unlink()
    stage = json.loads((done[-1].folder / "stage.json").read_text())
    assert "target_tags" in stage["supervision"]


def test_tags_need_a_place(raw: Path) -> None:
    card = load_card("phantom_ct").model_copy(update={"tags": None})
    with pytest.raises(ConfigError, match="names no tags file"):
        write_tags(card, raw, "adapt", None)


# The command line and its refusals ------------------------------------------------------------------


def test_convert_says_what_it_wrote(raw: Path, tmp_path: Path) -> None:
    path = tmp_path / "ct.yaml"
    path.write_text(yaml.safe_dump(small("ct").model_dump(mode="json")))
    out = tmp_path / "out"
    words = ["convert", str(path), "--root", str(raw), "--out", str(out)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    for name in ("ct_train_1001.tfrecords", "ct_1003.npz", "mmwhs_ct_records.yaml"):
        assert name in result.output
    image, label = read_npz(out / "test_ct" / "ct_1003.npz")
    assert image.shape == label.shape


def test_a_case_without_label_cannot_become_a_record(raw: Path, tmp_path: Path) -> None:
    card = small("ct").model_copy(update={"labels": ("nowhere/{case}.nii.gz",)})
    with pytest.raises(DataError, match="there is no such file"):
        convert_to_records(card, raw, tmp_path / "out")


def test_ignored_voxels_cannot_become_a_record(raw: Path, tmp_path: Path) -> None:
    values = {**small("ct").label_values, "ignore": (850,), "background": (0, 550, 600)}
    card = small("ct").model_copy(update={"label_values": values})
    with pytest.raises(DataError, match="ignored voxels"):
        convert_to_records(card, raw, tmp_path / "out")


def test_a_card_must_say_how_the_axes_of_an_npz_run(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(64, 64, 3)).astype(np.float32)
    write_npz(tmp_path / "a.npz", image, np.zeros_like(image))
    card = load_card("mmwhs_ct_records").model_copy(update={"axes": {}, "splits": {"test": ("a",)}})
    with pytest.raises(ConfigError, match=r"how the axes of a \.npz file run"):
        store_of(card, tmp_path, "test", tmp_path / "store")
