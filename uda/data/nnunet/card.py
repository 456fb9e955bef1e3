"""Write a dataset card from a ``dataset.json`` and the images' headers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from uda.config.card import DatasetCard
from uda.config.loading import parse
from uda.data.formats import read_grid
from uda.data.geometry import turn_to
from uda.data.nnunet.listing import IGNORE_NAME, Listing
from uda.errors import DataError, UdaError, one_line, raise_all
from uda.files.apart import check_apart
from uda.files.atomic import write_text
from uda.files.new import check_file, new_files

ORIENTATION, SLICE_AXIS = "RAS", 2
VALIDATE_EVERY = 5
SIZE_STEP = 32
SIZE_PERCENTILE = 95
CLIP = (0.5, 99.5)


@dataclass(frozen=True)
class Written:
    """A written card, its path, and remarks on the choices made."""

    path: Path
    card: DatasetCard
    remarks: tuple[str, ...]


def write_card(listing: Listing, path: Path | None = None) -> Written:
    """Write the card of a data set.

    Args:
        path: path of the card; default: the data set's folder name with ``.yaml``, in the current folder.

    Raises:
        DataError: an image's header cannot be used, the files follow no pattern, another file has this path,
            or it lies in the data set.
    """
    name = _file_name(listing.folder.resolve().name, "dataset")
    path = path or Path(f"{name}.yaml")
    check_apart(path, [listing.folder])
    check_file(path)
    spacing, size = _pixels(listing)
    names = _class_names(listing.labels)
    raw = _raw(listing, _file_name(path.stem, name), names, spacing, size)
    remarks = _remarks(listing, names, raw["splits"], spacing)
    card = parse(DatasetCard, raw, path)
    lines = (f"Made from {listing.source.resolve()}.", *remarks)
    head = "".join(f"# {one_line(line)}\n" for line in lines)
    body = yaml.safe_dump(
        raw, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None
    )
    with new_files(path.parent) as folder:
        write_text(folder / path.name, head + body)
    return Written(path, card, remarks)


def _raw(
    listing: Listing,
    name: str,
    names: Mapping[int, str],
    spacing: float,
    size: tuple[int, int],
) -> dict[str, Any]:
    """The card's content for YAML."""
    labelled, unlabelled = list(listing.training), list(listing.unlabelled)
    validate = labelled[VALIDATE_EVERY - 1 :: VALIDATE_EVERY]
    held = set(validate)
    values = {label: [number] for number, label in names.items()}
    if listing.ignore is not None:
        values["ignore"] = [listing.ignore]
    pairs = [*listing.training.items(), *listing.unlabelled.items()]
    splits = {"train": [case for case in labelled if case not in held]}
    if validate:
        splits["validate"] = validate
    splits["adapt"] = unlabelled or labelled
    return {
        "name": name,
        "title": listing.title,
        "root": str(listing.folder.resolve()),
        "images": _patterns([(case, pair.image) for case, pair in pairs], listing.source),
        "labels": _patterns([(c, p.label) for c, p in pairs if p.label], listing.source),
        **({"modality": listing.modality} if listing.modality else {}),
        "classes": list(names.values()),
        "label_values": values,
        "prepare": {
            "orientation": ORIENTATION,
            "slice_axis": SLICE_AXIS,
            "spacing": spacing,
            "size": list(size),
            "clip": list(CLIP),
            "normalize": "zscore",
        },
        "splits": splits,
    }


def _remarks(
    listing: Listing,
    names: Mapping[int, str],
    splits: Mapping[str, Sequence[str]],
    spacing: float,
) -> tuple[str, ...]:
    """Remarks on the choices made, for the head of the card and for the terminal."""
    count = len(listing.training) + len(listing.unlabelled)
    renamed = [(listing.labels[i], name) for i, name in names.items() if listing.labels[i] != name]
    held = (
        f"validate: every {VALIDATE_EVERY}th labelled case, chosen by position; train: the others."
        if "validate" in splits
        else f"train: all labelled cases; fewer than {VALIDATE_EVERY}, so none validate."
    )
    adapt = (
        "adapt: the cases of imagesTs, without labels."
        if listing.unlabelled
        else "adapt: the labelled cases, their images alone; there is no imagesTs."
    )
    return (
        *(f"class {old!r} is called {new} here." for old, new in renamed),
        held,
        adapt,
        f"spacing {spacing:g} mm: median pixel of {count} images; size: the {SIZE_PERCENTILE}th percentile "
        f"of their extents, up to a multiple of {SIZE_STEP}.",
        *(
            ()
            if listing.modality
            else (f"modality: not clear from the channel's name {listing.channel!r}; ct or mr?",)
        ),
    )


def _class_names(labels: Mapping[int, str]) -> dict[int, str]:
    """Id → name, valid in a card and unique."""
    names: dict[int, str] = {}
    taken = {IGNORE_NAME}
    for number, label in labels.items():
        name = "background" if number == 0 else _file_name(label, f"class_{number}")
        while name in taken:
            name = f"{name}_{number}"
        names[number] = name
        taken.add(name)
    return names


def _file_name(text: str, otherwise: str) -> str:
    """The text as a name of letters, digits and ``_ . -``; ``otherwise`` where nothing is left."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("_.-") or otherwise


def _patterns(files: Iterable[tuple[str, str]], source: Path) -> list[str]:
    """Path patterns with ``{case}`` that give each case its file; the shorter list of two readings.

    The name of a case may also occur in the folders above its file, on purpose or by chance.
    """
    files = list(files)
    everywhere = dict.fromkeys(path.replace(case, "{case}") for case, path in files)
    in_file = dict.fromkeys(_named_last(case, path) for case, path in files)
    patterns = min((everywhere, in_file), key=len)
    if strange := [pattern for pattern in patterns if "{case}" not in pattern]:
        raise DataError(
            f"the path {strange[0]} does not contain the name of its case",
            where=source,
            expected="paths such as imagesTr/CASE_0000.nii.gz",
            fix="rename the files after their cases",
        )
    return list(patterns)


def _named_last(case: str, path: str) -> str:
    head, found, tail = path.rpartition(case)
    return f"{head}{{case}}{tail}" if found else path


def _pixels(listing: Listing) -> tuple[float, tuple[int, int]]:
    """Spacing in mm, and rows and columns that hold nearly every image, from the headers alone."""
    pixels, extents = [], []
    faults: list[UdaError] = []
    for pair in [*listing.training.values(), *listing.unlabelled.values()]:
        try:
            shape, affine = read_grid(listing.folder / pair.image)
        except DataError as fault:
            faults.append(fault)
            continue
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        to = turn_to(affine, ORIENTATION)[:, 0].astype(int)
        plane = [axis for axis in np.argsort(to) if to[axis] != SLICE_AXIS]
        pixels.append(float(sizes[plane].mean()))
        extents.append([float(shape[axis] * sizes[axis]) for axis in plane])
    raise_all(faults, str(listing.source))
    spacing = max(round(float(np.median(pixels)), 2), 0.01)
    most = np.percentile(np.array(extents) / spacing, SIZE_PERCENTILE, axis=0)
    rows, columns = (max(1, int(np.ceil(round(n, 3) / SIZE_STEP))) * SIZE_STEP for n in most)
    return spacing, (rows, columns)
