"""Check a data set before training: every case is read once and gets a report with all of its faults."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from uda.check import rules
from uda.check.annotations import AnnotationCheck, no_folder
from uda.check.findings import TAGS, WHOLE_SET, CaseReport, Picture
from uda.check.layout import Layout, layout_of, layout_of_images
from uda.check.photos import PhotoCheck
from uda.check.rules import Facts
from uda.config.card import DatasetCard, Prepare
from uda.data import geometry as grids
from uda.data.cases import Case, card_root
from uda.data.geometry import Geometry, Volume, sheared, turned_spacing
from uda.data.images import photo_geometry
from uda.data.label_maps import in_blocks, label_values
from uda.data.sources import RECORDS, read_images, read_label
from uda.data.tags import read_tags
from uda.data.volumes import (
    check_same_grid,
    exact,
    map_labels,
    prepare_image,
    prepare_label,
    volume_prepare,
)
from uda.errors import DataError, UdaError
from uda.types import IGNORE

SPREAD = 0.15  # distance between the slices of a picture, as a share of the depth
OBLIQUE = 0.5  # degrees; axes with a smaller angle count as straight


def check_card(
    card: DatasetCard,
    root: Path | None,
    *,
    annotations: Path | None = None,
    pictures: bool = False,
    promised_by: Path | None = None,
    begin: Callable[[Iterable[str]], object] = lambda cases: None,
) -> Iterator[CaseReport]:
    """Read every case of every split as training does.

    Yields one report per case, then one for the tags, one for the annotations, and one for the data set as a whole (for
    volumes only where it has findings).

    A missing label file is no fault in the ``adapt`` split, nor in a split without any label unless that is ``train``
    or ``validate``. An existing label file must be valid, but labels of photographs in ``adapt`` alone are not opened.

    Args:
        annotations: a folder of annotations, in place of the one that the card names.
        pictures: whether reports hold slices for display; each is dropped when the next report is drawn.
        promised_by: the dataset.json that names the classes; a class that no label shows is a fault of this file.
        begin: called with the names of all cases before the first is read.

    Raises:
        DataError: the root folder is missing, or the card names no case.
    """
    folder = card_root(card, root)
    if not any(card.splits.values()):
        raise DataError(
            f"card {card.name!r} names no case",
            where=folder,
            fix="list the cases of each split under `splits:`",
        )
    layout = layout_of(card, folder)
    begin(layout.cases)
    marked = annotations_folder(card, root, annotations)
    if annotations is None and marked is not None and not marked.is_dir():
        layout.notes.append(no_folder(marked))
        marked = None
    yield from _check(card, folder, layout, marked, pictures, promised_by)


def check_images(
    card: DatasetCard,
    cases: Sequence[Case],
    *,
    annotations: Path | None = None,
    pictures: bool = False,
    begin: Callable[[Iterable[str]], object] = lambda cases: None,
) -> Iterator[CaseReport]:
    """The same of images that are not the cases of a card.

    Args:
        card: what their model says of them (:func:`uda.networks.model_file.card_of`).
        annotations: folder of what is marked on them.
    """
    layout = layout_of_images(cases)
    begin(layout.cases)
    card = card.model_copy(update={"splits": {"adapt": tuple(layout.cases)}})
    yield from _check(card, Path(), layout, annotations, pictures, None)


def annotations_folder(
    card: DatasetCard, root: Path | None, given: Path | None = None
) -> Path | None:
    """The folder of a card's annotations, there or not, or the one given in its place."""
    if given is not None or card.annotations is None:
        return given
    return Path(root or ".") / card.root / card.annotations


def _check(
    card: DatasetCard,
    folder: Path,
    layout: Layout,
    marked: Path | None,
    pictures: bool,
    promised_by: Path | None,
) -> Iterator[CaseReport]:
    annotations = None if marked is None else AnnotationCheck(card, marked, layout)
    if card.photos:
        yield from _check_photos(card, folder, layout, annotations, pictures)
    else:
        yield from _check_volumes(card, folder, layout, annotations, pictures, promised_by)


def _check_volumes(
    card: DatasetCard,
    folder: Path,
    layout: Layout,
    annotations: AnnotationCheck | None,
    pictures: bool,
    promised_by: Path | None,
) -> Iterator[CaseReport]:
    facts: list[Facts] = []
    geometries: dict[str, Geometry] = {}
    for name, splits in layout.cases.items():
        report = CaseReport(", ".join(splits), name, faults=layout.of_case[name])
        case, geometry, slices = layout.files[name], None, None
        if case.image.is_file() and (found := _check_case(case, card, report, pictures)):
            slices, geometry = found
            geometries[name] = geometry
        if report.facts is not None:
            facts.append(report.facts)
        if annotations is not None:
            _check_marks(name, geometry, slices if pictures else None, annotations, report)
        yield report
        report.picture = report.marks = None
    if card.tags is not None:
        yield _check_tags(folder / card.tags, card, layout, geometries)
    if annotations is not None:
        yield annotations.report()
    whole = _whole(card, layout, facts, promised_by, folder)
    if whole.faults or whole.notes:
        yield whole


def _check_marks(
    name: str,
    geometry: Geometry | None,
    slices: NDArray[np.float32] | None,
    annotations: AnnotationCheck,
    report: CaseReport,
) -> None:
    """Add what is marked in a case to its report."""
    marks = annotations.look(name, geometry, slices)
    if marks is not None:
        annotations.add(name, marks)
        report.marked, report.marks = str(marks), marks.picture
        report.notes += marks.notes


def _check_photos(
    card: DatasetCard,
    folder: Path,
    layout: Layout,
    annotations: AnnotationCheck | None,
    pictures: bool,
) -> Iterator[CaseReport]:
    check = PhotoCheck(card, layout, pictures, annotations=annotations)
    yield from check.reports()
    if card.tags is not None:
        size = card.prepare.size
        geometries = {name: photo_geometry(shape, size) for name, shape in check.shapes.items()}
        yield _check_tags(folder / card.tags, card, layout, geometries)
    if annotations is not None:
        yield annotations.report()
    yield check.whole()


def _whole(
    card: DatasetCard,
    layout: Layout,
    facts: Sequence[Facts],
    promised_by: Path | None,
    folder: Path,
) -> CaseReport:
    """The report of the data set as a whole: findings that compare all cases."""
    unused = rules.unused_structures(facts, card, promised_by or folder)
    report = CaseReport(WHOLE_SET, card.name, faults=[*layout.faults], notes=[*layout.notes])
    (report.faults if promised_by else report.notes).extend(unused)
    report.notes += rules.data_set_notes(facts, card)
    return report


def _check_case(
    case: Case, card: DatasetCard, report: CaseReport, pictures: bool
) -> tuple[NDArray[np.float32], Geometry] | None:
    """Read, describe and prepare image and label; returns slices and geometry if the image can be prepared."""
    geometry = labels = None
    try:
        volumes = read_images(case, card)
        volume = volumes[len(volumes) // 2]
        prepare = _describe(case, volume, card, report)
        slices, geometry = prepare_image(volume, prepare, case.image)
        del volumes, volume
        through, row, column = geometry.prepared_spacing
        shape = "×".join(map(str, slices.shape))
        report.prepared = f"{shape} at {through:.3g}×{row:.3g}×{column:.3g}"
        if case.label is not None and case.label.is_file():
            labels = _check_label(case, geometry, card, report)
    except UdaError as fault:
        report.faults.append(fault)
    if geometry is None:
        return None
    if pictures:
        report.picture = _picture(slices, labels, geometry)
    return slices, geometry


def _describe(case: Case, volume: Volume, card: DatasetCard, report: CaseReport) -> Prepare:
    """Add the file's properties and the findings of the rules to the report; returns how to prepare the image."""
    prepare, path = volume_prepare(card), case.image
    affine, codes = volume.affine, "".join(nibabel.aff2axcodes(volume.affine))
    turn = grids.turn_to(affine, prepare.orientation)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    angle = float(np.degrees(nibabel.affines.obliquity(affine).max()))
    report.shape = "×".join(map(str, volume.array.shape))
    report.spacing = "×".join(f"{s:.3g}" for s in sizes)
    report.axes = f"{codes} {angle:.0f}°" if angle >= OBLIQUE else codes
    seen = rules.intensities_of(grids.turned(volume.array, turn, prepare.slice_axis))
    report.intensity = " / ".join(f"{p:.4g}" for p in seen.percentiles)
    spacing = turned_spacing(affine, turn, prepare.slice_axis)
    report.facts = Facts(case.name, path, codes, spacing, seen, unit_known=volume.unit_known)
    report.stored = volume.stored or str(volume.array.dtype)
    report.notes += [*volume.remarks, *rules.other_unit(volume.header, path)]
    if not volume.placed:
        report.notes.append(rules.without_place(path))
    if len(label_values(in_blocks(volume.array.ravel(order="K")))) > 1:
        report.notes.append(rules.looks_like_labels(path))
    if sheared(affine):
        report.notes += rules.tilted(affine, path)
    unscaled = rules.lacks_offset(seen, card, path)
    window = not isinstance(prepare.normalize, str)
    upside_down = None if path.suffix == RECORDS else rules.inverted(seen, card, path)
    report.faults += [fault for fault in (unscaled, upside_down) if fault]
    if picture := rules.eight_bit(seen, card, path):
        fatal = window and card.modality == "ct"
        (report.faults if fatal else report.notes).append(picture)
    # Without its offset a CT cannot be windowed; z-scoring lets the rest of the case be checked.
    return prepare.model_copy(update={"normalize": "zscore"}) if unscaled and window else prepare


def _check_label(
    case: Case, geometry: Geometry, card: DatasetCard, report: CaseReport
) -> NDArray[np.uint8]:
    """Count the label's values and the share inside the crop; returns the prepared label."""
    path = case.label or case.image
    label = read_label(case, card)
    check_same_grid(label, geometry, path)
    if path != case.image:
        report.notes += label.remarks
    values, counts = np.unique(label.array, return_counts=True)
    shown = zip(map(exact, values), map(float, values), counts, strict=True)
    found = dict(zip(map(float, values), map(int, counts), strict=True))
    names = {float(v): name for name, group in card.label_values.items() for v in group}
    report.values = ", ".join(f"{v} {names.get(n, '?')}: {c}" for v, n, c in shown)
    if broken := [exact(value) for value in values if value % 1]:
        raise rules.not_whole(broken, path)
    mapped = map_labels(label.array, card, path)
    kept = _kept(mapped, geometry, card)
    structures = {
        name: total
        for name in card.classes[1:]
        if (total := sum(n for v, n in found.items() if names[v] == name))
    }
    report.labels = ", ".join(f"{name} {n}" for name, n in structures.items())
    report.kept = ", ".join(f"{name} {100 * share:.3g} %" for name, share in kept.items())
    if report.facts is not None:
        report.facts = replace(report.facts, counts=structures, labelled=True)
    if path.suffix != RECORDS:
        report.notes += rules.absent_structures(structures, card, path)
    report.notes += rules.cut_structures(kept, card, path)
    return prepare_label(label, geometry, card, path)


def _kept(mapped: NDArray[np.uint8], geometry: Geometry, card: DatasetCard) -> dict[str, float]:
    """Share of each structure's voxels whose centres lie inside the crop."""
    whole = grids.turned(mapped, geometry.turn, geometry.slice_axis)
    inside = []
    for axis in (0, 1):
        full, resized = whole.shape[axis + 1], geometry.resized[axis]
        place = (np.arange(full) + 0.5) * resized / full - geometry.start[axis]
        inside.append(np.flatnonzero((place >= 0) & (place < geometry.size[axis])))
    window = whole[:, inside[0]][:, :, inside[1]]
    totals, rest = (np.bincount(a.ravel(), minlength=IGNORE + 1) for a in (whole, window))
    return {n: rest[k] / totals[k] for k, n in enumerate(card.classes) if k and totals[k]}


def _picture(
    slices: NDArray[np.float32], labels: NDArray[np.uint8] | None, geometry: Geometry
) -> Picture:
    """The slice with the most structure pixels, or else the middle one, between two others."""
    last, middle = len(slices) - 1, len(slices) // 2
    if labels is not None:
        areas = ((labels > 0) & (labels != IGNORE)).sum((1, 2))
        middle = int(areas.argmax()) if areas.any() else middle
    step = max(1, round(SPREAD * len(slices)))
    chosen = sorted({min(max(middle + k * step, 0), last) for k in (-1, 0, 1)})
    numbers = tuple(geometry.stored_slice(i) for i in chosen)
    return Picture(slices[chosen], None if labels is None else labels[chosen], numbers, geometry)


def _check_tags(
    path: Path, card: DatasetCard, layout: Layout, geometries: Mapping[str, Geometry]
) -> CaseReport:
    """Report on the tags: they must name known cases and slices, and every prepared slice of ``adapt``."""
    report = CaseReport(TAGS, path.name)
    if not path.is_file():
        report.notes.append(
            DataError(
                "the card's tags file does not exist; only a tag prior needs it",
                where=path,
                fix="write it, make it from labels with `uda tags`, or remove `tags:` from the card",
            )
        )
        return report
    try:
        tags = read_tags(path, card.structures)
    except UdaError as fault:
        report.faults.append(fault)
        return report
    slices = {n: set(map(g.own_slice, range(g.turned_shape[0]))) for n, g in geometries.items()}
    readable = {(c, i) for c, i in tags if c in slices or c not in layout.cases}
    strange = sorted((c, i) for c, i in readable if i not in slices.get(c, ()))
    adapted = {n: geometries[n] for n in layout.members("adapt") if n in geometries}
    wanted = {(n, g.stored_slice(i)) for n, g in adapted.items() for i in range(g.depth)}
    absent = sorted(wanted - set(tags))
    for what, places in (("name images that do not exist", strange), ("miss images", absent)):
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
