"""Checking a data set before any training: every case read once, every fault in one report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np

from uda.config import DatasetCard
from uda.data.cases import Case, card_root, read_tags
from uda.data.geometry import Geometry
from uda.data.volumes import map_labels, prepare_image, prepare_label, read_volume
from uda.errors import DataError, UdaError


@dataclass
class CaseReport:
    """What one case is, and what is wrong with it."""

    split: str
    case: str
    shape: str = ""
    spacing: str = ""
    axes: str = ""
    intensity: str = ""
    labels: str = ""
    faults: list[UdaError] = field(default_factory=list)


def check_card(card: DatasetCard, root: Path | None) -> Iterator[CaseReport]:
    """Read every case of every split as training would; yields one report per case, then one for the tags.

    A label file that is not there is no fault (a target has none); one that is there must be right.

    Raises:
        DataError: the root folder itself is missing, or the card has no case at all.
    """
    folder = card_root(card, root)
    if not any(card.splits.values()):
        raise DataError(
            f"card {card.name!r} names no case",
            where=folder,
            fix="list the cases of each split under `splits:`",
        )
    geometries: dict[str, Geometry] = {}
    for split, names in card.splits.items():
        for name in names:
            label = folder / card.labels.format(case=name) if card.labels else None
            case = Case(name, folder / card.images.format(case=name), label)
            report = CaseReport(split, name)
            try:
                geometries[name] = _check_image(case, card, report)
                _check_label(case, geometries[name], card, report)
            except UdaError as fault:
                report.faults.append(fault)
            yield report
    if card.tags is not None:
        yield _check_tags(folder / card.tags, card, geometries)


def _check_image(case: Case, card: DatasetCard, report: CaseReport) -> Geometry:
    volume = read_volume(case.image)
    _, geometry = prepare_image(volume, card.prepare, case.image)
    report.shape = "×".join(map(str, volume.array.shape))
    report.spacing = "×".join(f"{s:.3g}" for s in geometry.spacing)
    report.axes = "".join(nibabel.aff2axcodes(volume.affine))
    low, middle, high = np.percentile(volume.array, (1, 50, 99))
    report.intensity = f"{low:.4g} / {middle:.4g} / {high:.4g}"
    return geometry


def _check_label(case: Case, geometry: Geometry, card: DatasetCard, report: CaseReport) -> None:
    if case.label is None or not case.label.is_file():
        return
    label = read_volume(case.label)
    prepare_label(label, geometry, card, case.label)
    found = np.unique(map_labels(label.array, card, case.label))
    report.labels = ", ".join(card.classes[i] for i in found if 0 < i < len(card.classes))


def _check_tags(path: Path, card: DatasetCard, geometries: dict[str, Geometry]) -> CaseReport:
    """Tags must name known cases and slices, and every slice of the ``adapt`` split."""
    report = CaseReport("tags", path.name)
    try:
        tags = read_tags(path, card.classes[1:])
    except UdaError as fault:
        report.faults.append(fault)
        return report
    slices = {
        name: {g.stored_slice(i) for i in range(g.turned_shape[0])}
        for name, g in geometries.items()
    }
    named = {name for names in card.splits.values() for name in names}
    readable = {(c, i) for c, i in tags if c in slices or c not in named}
    strange = sorted((c, i) for c, i in readable if i not in slices.get(c, ()))
    wanted = {(c, i) for c in card.splits.get("adapt", ()) if c in slices for i in slices[c]}
    absent = sorted(wanted - set(tags))
    for what, places in (("name images that are not there", strange), ("miss images", absent)):
        if places:
            listed = ", ".join(f"{c} slice {i}" for c, i in places[:5])
            report.faults.append(
                DataError(
                    f"tags {what}: {len(places)}, e.g. {listed}",
                    where=path,
                    expected="one line for each slice, counted from 0 along the file's own axis",
                )
            )
    report.labels = f"{len(tags)} images"
    return report
