"""The rules that make a finding of a data check a fault or a note: pure functions of a few numbers per case.

fault
    CT without its offset   modality ct; after `prepare.offset` the minimum is ≥ 0 and the 99th percentile > 1000
    inverted                modality set; over 20 % of the corners are bright, over 2.5 times as many as are
                            dark, and more than in the middle (files of single slices are exempt)
    picture (ct, window)    as below, where the card has a fixed window of HU
    not whole numbers       label values with a fraction
note
    picture                 modality set; whole numbers, minimum ≥ 0, 128 ≤ maximum ≤ 255
    left and right unknown  a NIfTI header with sform and qform code 0
    transforms              a NIfTI header whose sform, qform or pixel sizes cannot be used or contradict each other
    not at right angles     two axes of an image, by over 0.1°
    unit unknown            images whose headers do not name the unit of length, in one note for all
    structure absent        a labelled volume without a structure (files of single slices are exempt)
    cut by the crop         over 1 % of a structure's voxels lie outside the crop
    spacing                 along an axis over 2 times more or less than the median of at least 3 cases
    intensities             the 1st, 50th or 99th percentile lies over 3 median ranges from the median of at least
                            5 cases, or the range is below a tenth of the median (range: 1st to 99th percentile)
    several orientations    `orientation: stored`, and the files' axis codes differ
    structure nowhere       a structure in no label at all (a fault where a dataset.json names it)

Bright and dark are the upper and the lower fifth between the 1st and the 99th percentile. Corners are the outer
eighth of rows and columns in the four corners of every slice; the middle is their inner half. Air is darkest in
CT and MR, and corners show air, lungs or darker tissue even in images cropped tightly to a heart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uda.config.card import DatasetCard
from uda.data.transforms import MILLIMETRES, UNIT
from uda.data.volumes import volume_prepare
from uda.errors import DataError

CT_HIGH = 1000.0
CORNER_BRIGHT, CORNER_FACTOR = 0.2, 2.5
EIGHT_BIT = (128, 255)
CUT = 0.01
TILTED = 0.1  # degrees
SPACING_FACTOR, SPACING_CASES = 2.0, 3
FAR, FLAT, INTENSITY_CASES = 3.0, 0.1, 5
SHOWN = 5  # values in a message
SAMPLED = 1_000_000  # approximate number of voxels of a volume on which shares are counted

AXES = ("distance between slices", "height of a pixel", "width of a pixel")
PERCENTILES = (1, 50, 99)


@dataclass(frozen=True)
class Intensities:
    """Statistics of one image's stored values."""

    low: float
    high: float
    percentiles: tuple[float, float, float]
    whole: bool
    """whether all sampled values are whole numbers"""
    corners_bright: float
    """share of the corner voxels in the upper fifth"""
    corners_dark: float
    """share of the corner voxels in the lower fifth"""
    middle_bright: float
    """share of the middle voxels in the upper fifth"""

    @property
    def range(self) -> float:
        return self.percentiles[2] - self.percentiles[0]


@dataclass(frozen=True)
class Facts:
    """The numbers of a case that are kept for comparison with other cases."""

    case: str
    path: Path
    codes: str
    """axis code of the file"""
    spacing: tuple[float, float, float]
    """in mm, between slices, rows and columns after the card's reorientation"""
    intensities: Intensities
    labelled: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    """voxels of each structure in its label"""
    unit_known: bool = True
    """whether the image names the unit of its lengths"""


def intensities_of(slices: NDArray[Any]) -> Intensities:
    """Statistics of whole slices ``[s, rows, columns]``; shares are counted on a regular sample."""
    low, median, high = (float(p) for p in np.percentile(slices, PERCENTILES))
    step = max(1, round((slices.size / SAMPLED) ** 0.5))
    sample = slices[:, ::step, ::step].astype(np.float64)
    scaled = (sample - low) / max(high - low, 1e-12)
    rows, columns = scaled.shape[1:]
    ends = (slice(None, max(1, columns // 8)), slice(-max(1, columns // 8), None))
    strips = (scaled[:, : max(1, rows // 8)], scaled[:, -max(1, rows // 8) :])
    corners = np.concatenate([strip[..., end].ravel() for strip in strips for end in ends])
    middle = scaled[:, rows // 4 : rows - rows // 4, columns // 4 : columns - columns // 4]
    return Intensities(
        low=float(slices.min()),
        high=float(slices.max()),
        percentiles=(low, median, high),
        whole=bool(np.equal(np.rint(sample), sample).all()),
        corners_bright=float((corners > 0.8).mean()),
        corners_dark=float((corners < 0.2).mean()),
        middle_bright=float((middle > 0.8).mean()),
    )


def looks_like_labels(path: Path) -> DataError:
    """A note on an image with the values of a label map."""
    return DataError(
        "the image has few whole values in connected regions, as a label map has",
        where=path,
        expected="an image",
        fix="if it is a label map, correct the card's images",
    )


def lacks_offset(seen: Intensities, card: DatasetCard, path: Path) -> DataError | None:
    """A fault for a CT stored as 0…4095 that the card does not convert to HU."""
    offset = volume_prepare(card).offset
    top = seen.percentiles[2] + offset
    if card.modality != "ct" or seen.low + offset < 0 or top <= CT_HIGH:
        return None
    return DataError(
        f"a CT whose values run from {seen.low + offset:g} to {seen.high + offset:g} "
        f"(99 % below {top:.4g}): the HU offset is missing",
        where=path,
        expected="HU: air at -1000, water at 0",
        fix=f"set prepare.offset: {offset - 1024:g} in the card; if only some files are so, convert those",
    )


def inverted(seen: Intensities, card: DatasetCard, path: Path) -> DataError | None:
    """A fault for an image whose air is bright."""
    least = max(CORNER_BRIGHT, CORNER_FACTOR * seen.corners_dark, seen.middle_bright)
    if card.modality is None or seen.corners_bright <= least:
        return None
    return DataError(
        f"looks inverted: {seen.corners_bright:.0%} of its corners are bright, {seen.corners_dark:.0%} dark",
        where=path,
        expected="air darker than the body, as in CT and MR",
        fix="invert the file's values (maximum + minimum - value); if the image is correct, remove "
        "`modality` from the card",
    )


def eight_bit(seen: Intensities, card: DatasetCard, path: Path) -> DataError | None:
    """A finding for an image that looks like an exported picture."""
    least, most = EIGHT_BIT
    if card.modality is None or not seen.whole or seen.low < 0 or not least <= seen.high <= most:
        return None
    return DataError(
        f"values are whole numbers from {seen.low:g} to {seen.high:g}, as in an 8-bit picture",
        where=path,
        expected="HU" if card.modality == "ct" else "the scanner's own values",
        fix="convert the scanner's files (DICOM) again without a display window; if you have only the "
        "picture, keep `normalize: zscore` or `minmax`",
    )


def other_unit(header: Any, path: Path) -> list[DataError]:
    """A note for a NIfTI header whose unit of length is not the millimetre."""
    scale = 1.0 if header is None else MILLIMETRES[int(header["xyzt_units"]) & UNIT]
    if scale == 1:
        return []
    return [
        DataError(
            f"its header gives lengths in {'metres' if scale > 1 else 'micrometres'}; they are read as such",
            where=path,
            expected="millimetres, as most scanners write",
            fix="if the sizes below are wrong, set xyzt_units to 2 (millimetre) in the header",
        )
    ]


def without_place(path: Path) -> DataError:
    """A note for a NIfTI header without the patient's position."""
    return DataError(
        "its header has sform and qform code 0: left and right are unknown",
        where=path,
        expected="a code above 0 with an affine",
        fix="compare with the original scan, then set the code (or use `orientation: stored`)",
    )


def tilted(affine: NDArray[np.float64], path: Path) -> list[DataError]:
    """A note for an image two of whose axes are not at right angles."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    angles = [
        (float(np.degrees(np.arccos(axes[:, one] @ axes[:, other]))), f"{one + 1} and {other + 1}")
        for one, other in ((0, 1), (0, 2), (1, 2))
    ]
    odd = [
        f"{angle:.4g}° between axes {pair}" for angle, pair in angles if abs(angle - 90) > TILTED
    ]
    if not odd:
        return []
    return [
        DataError(
            f"its axes are not at right angles: {', '.join(odd)}",
            where=path,
            expected="right angles, unless the gantry was tilted",
            fix="if it was, nothing is wrong: slices keep the file's axes, and distances, areas and volumes go "
            "through the affine",
        )
    ]


def not_whole(values: Sequence[str], path: Path) -> DataError:
    """A fault for a label whose values were interpolated."""
    listed = ", ".join(values[:SHOWN])
    return DataError(
        f"{len(values)} label values are not whole numbers, e.g. {listed}",
        where=path,
        expected="one whole number per class",
        fix="the label was resampled like an image; resample the original with nearest neighbour",
    )


def absent_structures(counts: Mapping[str, int], card: DatasetCard, path: Path) -> list[DataError]:
    """A note for a label without some of the card's structures."""
    absent = [name for name in card.classes[1:] if not counts.get(name)]
    if not absent:
        return []
    return [
        DataError(
            f"the label has no voxel of {', '.join(absent)}",
            where=path,
            fix="check that they lie outside this image; the network learns an unlabelled structure "
            "as background",
        )
    ]


def cut_structures(kept: Mapping[str, float], card: DatasetCard, path: Path) -> list[DataError]:
    """A note for structures of which the card's crop cuts off over 1 %."""
    cut = {name: share for name, share in kept.items() if share < 1 - CUT}
    if not cut:
        return []
    listed = ", ".join(f"{name} {_cut_share(share)}" for name, share in cut.items())
    prepare = volume_prepare(card)
    rows, columns = prepare.size
    other = "center" if prepare.crop == "foreground" else "foreground"
    return [
        DataError(
            f"the crop cuts off labelled voxels: {listed}",
            where=path,
            expected=f"at most {CUT:.0%} of a structure outside the {rows}×{columns} pixels",
            fix=f"enlarge prepare.size, choose a coarser prepare.spacing, or try prepare.crop: {other}",
        )
    ]


def _cut_share(kept: float) -> str:
    return f"{100 * (1 - kept):.3g} %"


def data_set_notes(cases: Sequence[Facts], card: DatasetCard) -> list[DataError]:
    """Notes that compare the cases with one another."""
    notes = [*_without_unit(cases), *_odd_spacings(cases), *_odd_intensities(cases)]
    codes = Counter(case.codes for case in cases)
    if volume_prepare(card).orientation == "stored" and len(codes) > 1:
        listed = ", ".join(f"{code} ({number})" for code, number in codes.most_common())
        rare = min(codes, key=lambda code: codes[code])
        odd = next(case.path for case in cases if case.codes == rare)
        notes.append(
            DataError(
                f"files are stored in several orientations: {listed}",
                where=f"{odd} is {rare}",
                expected="one axis code, because the card keeps the axes as they are stored",
                fix="look at the overlays (--out); set prepare.orientation to a code such as RAS "
                "unless the stacks are oblique and look alike",
            )
        )
    return notes


def unused_structures(cases: Sequence[Facts], card: DatasetCard, where: Path) -> list[DataError]:
    """A finding for each structure that no label of the data set shows."""
    labelled = [case.counts for case in cases if case.labelled]
    return [
        DataError(
            f"class {name!r} occurs in none of the {len(labelled)} labels",
            where=where,
            expected=f"voxels of the value {' or '.join(map(str, card.label_values[name]))} somewhere",
            fix="remove the class, or correct its value",
        )
        for name in card.classes[1:]
        if labelled and not any(counts.get(name) for counts in labelled)
    ]


def _without_unit(cases: Sequence[Facts]) -> list[DataError]:
    unitless = [case.path for case in cases if not case.unit_known]
    if not unitless:
        return []
    return [
        DataError(
            f"{len(unitless)} of {len(cases)} images do not name the unit of their lengths: read as millimetres",
            where=unitless[0],
            expected="a unit in the header (xyzt_units)",
            fix="if they are millimetres, nothing is wrong; else set the unit",
        )
    ]


def _odd_spacings(cases: Sequence[Facts]) -> list[DataError]:
    if len(cases) < SPACING_CASES:
        return []
    median = np.median([case.spacing for case in cases], axis=0)
    return [
        DataError(
            f"the {axis} is {value:.3g} mm",
            where=case.path,
            expected=f"near the median of the {len(cases)} cases, {usual:.3g} mm",
            fix="correct the header if it is wrong; if it is right, set prepare.spacing and "
            "prepare.slice_spacing in the card, so that all cases get the same voxel size",
        )
        for case in cases
        for axis, value, usual in zip(AXES, case.spacing, median, strict=True)
        if max(value / usual, usual / value) > SPACING_FACTOR
    ]


def _odd_intensities(cases: Sequence[Facts]) -> list[DataError]:
    if len(cases) < INTENSITY_CASES:
        return []
    usual = np.median([case.intensities.percentiles for case in cases], axis=0)
    spread = float(np.median([case.intensities.range for case in cases]))
    notes = []
    for case in cases:
        seen = case.intensities
        distance = float(np.abs(np.subtract(seen.percentiles, usual)).max())
        if distance > FAR * spread or seen.range < FLAT * spread:
            notes.append(
                DataError(
                    f"intensities differ from other cases: 1/50/99 % are {_listed(seen.percentiles)}",
                    where=case.path,
                    expected=f"near the medians of the {len(cases)} cases, {_listed(usual)}",
                    fix="look at the file for another unit or scale, a single bright voxel, an empty scan",
                )
            )
    return notes


def _listed(values: Sequence[float] | NDArray[np.float64]) -> str:
    return " / ".join(f"{value:.4g}" for value in values)
