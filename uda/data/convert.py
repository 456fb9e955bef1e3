"""Convert a card's data to the records of the cardiac literature, and write image-level tags.

Both read labels, also of targets. They prepare a benchmark; no stage calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from uda.config.card import DatasetCard, Prepare
from uda.data.cases import Case, card_root, cases_of, folders_of, folders_of_card
from uda.data.records import write_npz, write_records
from uda.data.slabs import slab_of
from uda.data.sources import prepared_stack, read_label
from uda.data.volumes import prepare_label, volume_prepare
from uda.errors import ConfigError, DataError
from uda.files.apart import check_apart
from uda.files.atomic import write_text
from uda.files.csv_files import csv_text
from uda.files.new import check_file, new_files
from uda.files.output import output_folder
from uda.types import IGNORE

CHANNELS = 3
_OPPOSITE = str.maketrans("RLAPSI", "LRPAIS")
_FOLDERS = {"train": "training", "validate": "validation", "adapt": "training", "test": "test"}
_INFIX = {"train": "train_", "validate": "val_", "adapt": "train_", "test": ""}


def convert_to_records(
    card: DatasetCard,
    root: str | Path | None,
    out: Path,
    announce: Callable[[Path], object] = lambda path: None,
) -> Path:
    """Write a card's prepared slices in the format of PnP-AdaNet and SIFA, with a card that reads them.

    Training and adaptation cases become ``training_x/x_train_CASE.tfrecords``, validation cases
    ``validation_x/x_val_CASE.tfrecords`` (one record per slice, with its two neighbours), test cases
    ``test_x/x_CASE.npz`` (``arr_0`` image, ``arr_1`` label, rows × columns × slices, both flipped on the first two
    axes as in the release). Labels are class indices. ``x`` is the card's modality or name.

    Args:
        announce: called with the path of each written file.

    Returns:
        the path of the written card, ``out/<name>_records.yaml``.

    Raises:
        ConfigError: the card's images are photographs, or it has a split of another name.
        DataError: a case cannot be read, has no label, or has ignored voxels.
    """
    volume_prepare(card)
    label = card.modality or card.name
    for split in card.splits:
        if split not in _FOLDERS:
            raise ConfigError(
                f"records have no folder for a split {split!r}", expected=", ".join(_FOLDERS)
            )
    ranked = sorted(card.splits, key=_rank)
    cases = {split: cases_of(card, root, split, labels=True) for split in ranked}
    files: dict[str, Path] = {}
    for split in ranked:
        ending = ".npz" if split == "test" else ".tfrecords"
        for case in cases[split]:
            name = f"{label}_{_INFIX[split]}{case.name}"
            files.setdefault(case.name, out / f"{_FOLDERS[split]}_{label}" / f"{name}{ending}")
    everything = {case.name: case for some in cases.values() for case in some}
    path = out / f"{card.name}_records.yaml"
    splits = {split: [files[case.name].stem for case in cases[split]] for split in ranked}
    folders = {file.parent.name for file in files.values()}
    with output_folder(out, folders_of(list(everything.values())), folders) as ledger:
        ledger.check([path, *files.values()])
        for name, file in files.items():
            _write_case(everything[name], card, file)
            announce(file)
        write_text(path, _card_text(card, label, splits))
    return path


def _rank(split: str) -> int:
    """Priority of a split for cases in several splits: a validation case is not written as a training case."""
    return ("test", "validate", "train", "adapt").index(split) if split in _FOLDERS else 9


def _write_case(case: Case, card: DatasetCard, path: Path) -> None:
    slices, geometry, _ = prepared_stack(case, card)
    if case.label is None:
        raise DataError(f"case {case.name!r} has no label", where=case.image)
    labels = prepare_label(read_label(case, card), geometry, card, case.label).astype(np.float32)
    if (labels == IGNORE).any():
        raise DataError(
            "has ignored voxels, which records cannot store",
            where=case.label,
            fix="give their values a class in the card's label_values",
        )
    if path.suffix == ".npz":
        image = slices if slices.ndim == 3 else slices[:, slices.shape[1] // 2]
        flipped = [np.moveaxis(stack, 0, -1)[::-1, ::-1] for stack in (image, labels)]
        write_npz(path, flipped[0], flipped[1])
    else:
        write_records(path, _records(slices, labels))


def _records(
    slices: NDArray[np.float32], labels: NDArray[np.float32]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Image and label ``[rows, columns, 3]`` of each slice; the label repeats in all channels."""
    alone = slices.ndim == 3
    for number, label in enumerate(labels):
        image = slab_of(slices, [number], 0, len(slices), CHANNELS)[0] if alone else slices[number]
        yield np.moveaxis(image, 0, -1), np.repeat(label[..., None], image.shape[0], axis=-1)


def _card_text(card: DatasetCard, label: str, splits: dict[str, list[str]]) -> str:
    prepare = volume_prepare(card)
    code = _code(prepare)
    raw: dict[str, Any] = {
        "name": f"{card.name}_records",
        "title": f"{card.title}, as records",
        "citation": card.citation,
        "images": [
            f"training_{label}/{{case}}.tfrecords",
            f"validation_{label}/{{case}}.tfrecords",
            f"test_{label}/{{case}}.npz",
        ],
        "labels": "inside",
        "axes": {"tfrecords": code, "npz": code[:2].translate(_OPPOSITE) + code[2]},
        "classes": list(card.classes),
        "label_values": {name: [index] for index, name in enumerate(card.classes)},
        "distance_unit": "voxel",
        "prepare": {
            "orientation": code,
            "slice_axis": 2,
            "size": list(prepare.size),
            "normalize": "none",
            "slab": prepare.slab,
        },
        "splits": splits,
    }
    if card.modality is not None:
        raw["modality"] = card.modality
    head = f"# Written by `uda convert {card.name}`: prepared slices, labels are class indices.\n"
    return head + yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=100)


def _code(prepare: Prepare) -> str:
    """Axis code of a prepared case as rows, columns, slices; ``RAS`` where the card keeps the stored axes."""
    code = "RAS" if prepare.orientation == "stored" else prepare.orientation
    through = prepare.slice_axis
    return code[:through] + code[through + 1 :] + code[through]


def _inside(folder: Path, name: str) -> Path:
    """The path of a file in a folder; refuses names outside it, because cards may come from other people."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"the card's tags are {name!r}, outside its root",
            where=folder,
            fix="give the CSV with --out",
        )
    return path


def write_tags(card: DatasetCard, root: str | Path | None, split: str, path: Path | None) -> Path:
    """Write the tags of a split, i.e. which structures each slice shows, from its labels.

    Such tags are supervision; a tag prior adds them to the ledger.

    Args:
        path: path of the CSV file ``case,slice,<structures>``; default: the card's tags file.

    Raises:
        ConfigError: the card names no tags and no path is given, the tags are outside the card's root, or the
            images are photographs.
        DataError: a case cannot be read, or has no label, another file has the path, or it lies in a folder of
            images or labels.
    """
    volume_prepare(card)
    if path is None:
        if card.tags is None:
            raise ConfigError(
                f"card {card.name!r} names no tags file", fix="give one with --out, or add `tags:`"
            )
        path = _inside(card_root(card, root), card.tags)
        inputs = list[Path]()  # its place is the card's word
    else:
        inputs = folders_of_card(card, root)
    cases = cases_of(card, root, split, labels=True)
    check_apart(path, inputs)
    check_file(path)
    rows: list[list[Any]] = [["case", "slice", *card.classes[1:]]]
    for case in cases:
        _, geometry, _ = prepared_stack(case, card)
        labels = prepare_label(read_label(case, card), geometry, card, case.label or case.image)
        shown: dict[int, NDArray[np.bool_]] = {}
        for number, label in enumerate(labels):
            found = np.isin(np.arange(1, len(card.classes)), label)
            stored = geometry.stored_slice(number)
            shown[stored] = found | shown.get(stored, False)
        rows += [[case.name, stored, *shown[stored].astype(int)] for stored in sorted(shown)]
    with new_files(path.parent) as folder:
        write_text(folder / path.name, csv_text(rows))
    return path
