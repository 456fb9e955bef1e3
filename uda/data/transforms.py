"""Where a NIfTI header puts its voxels in the world, in millimetres.

The rule is that of the NIfTI standard and of nibabel: the sform if its code is above 0, else the qform if its code is
above 0, else the pixel sizes alone. A transform that cannot be used leaves the word to the next one with a code, and
lengths in another unit become millimetres. What cannot be used, or contradicts what decides, becomes a remark.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from uda.data.geometry import unusable
from uda.errors import DataError

Affine = NDArray[np.float64]

APART = 0.1
"""Largest distance between a voxel's two places by sform and qform that is rounding, in sides of the smallest pixel."""
ROUNDING = 1e-3
"""Largest difference between pixdim and the sform's pixel sizes that is rounding, as a share."""
MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""of the unit of length, by its code: unknown, metre, millimetre, micrometre"""
UNIT = 0b111
"""bits of ``xyzt_units`` that hold the unit of length"""
PLACE = (
    "pixdim",
    "qform_code",
    "sform_code",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
    "xyzt_units",
)
"""Fields of a header that say where its voxels lie."""


class Placement(NamedTuple):
    """Where a file's voxels lie."""

    affine: Affine
    """voxel index → RAS coordinates in mm"""
    placed: bool
    """whether the file says where the patient lies"""
    unit_known: bool
    """whether it names the unit of its lengths; else they are read as millimetres"""
    remarks: tuple[DataError, ...]
    """where its transforms cannot be used or contradict each other"""


def placement(stored: Any, found: Any, path: Path) -> Placement:
    """Where a header puts its voxels, by the rule of this module.

    Args:
        stored: a nibabel header as it is in the file.
        found: the same with nibabel's repairs, such as a size of 1 for a size of 0.

    Raises:
        DataError: an unknown code of the unit, or no transform that can be used.
    """
    unit = int(stored["xyzt_units"]) & UNIT
    if unit not in MILLIMETRES:
        raise DataError(
            f"its header gives its unit of length the code {unit}",
            where=path,
            expected="1 (metre), 2 (millimetre), 3 (micrometre) or 0 (unknown, read as millimetres)",
            fix="set xyzt_units in its header",
        )
    scale = MILLIMETRES[unit]
    sizes = np.asarray(stored["pixdim"][1:4], dtype=np.float64) * scale
    readings: dict[str, Affine] = {}
    faults: dict[str, str] = {}
    codes = {name: int(found[f"{name}_code"]) for name in ("sform", "qform")}
    asked = [name for name, code in codes.items() if code > 0] or ["pixdim"]
    for name in asked:
        affine, fault = _reading(name, found, sizes, scale)
        if name == "qform" and -1 != stored["pixdim"][0] < 0:  # readers take it for 1 or for -1
            fault = f"pixdim[0] is {stored['pixdim'][0]:g}, not 1 or -1"
        if fault is None:
            readings[name] = affine
        else:
            faults[name] = fault
    if not readings:
        listed = "; ".join(f"{name}: {fault}" for name, fault in faults.items())
        raise DataError(
            f"its header says nothing of its pixels' sizes and places that can be used: {listed}",
            where=path,
            expected="a sform or a qform that can be used, with a code above 0",
            fix="take the sizes from the original scan and set pixdim, sform and qform",
        )
    decides = next(iter(readings))
    said = [
        *_undefined(stored, codes),
        *(f"its {name} cannot be used: {fault}" for name, fault in faults.items()),
        *_contradictions(readings, codes, sizes, (*found.get_data_shape(), 1, 1)[:3]),
    ]
    remarks = tuple(_remark(f"{what}. The {decides} decides", path) for what in said)
    return Placement(readings[decides], decides != "pixdim", unit != 0, remarks)


def _reading(
    name: str, found: Any, sizes: NDArray[np.float64], scale: float
) -> tuple[Affine, str | None]:
    """One transform of a header in mm, and why it cannot be used."""
    if name != "sform" and not (np.isfinite(sizes).all() and sizes.min() > 0):
        return np.eye(4), f"pixdim is {_sizes(sizes)} mm"
    try:
        read = {"sform": found.get_sform, "qform": found.get_qform}.get(name, found.get_base_affine)
        affine = np.array(read(), dtype=np.float64)
    except (HeaderDataError, ValueError) as error:
        return np.eye(4), str(error)
    if scale != 1:
        affine[:3] *= scale
    return affine, unusable(affine)


def _undefined(stored: Any, codes: dict[str, int]) -> list[str]:
    return [
        f"its {name} has the code {stored[f'{name}_code']}, which NIfTI does not define, and is left aside"
        for name, code in codes.items()
        if int(stored[f"{name}_code"]) != code
    ]


def _contradictions(
    readings: dict[str, Affine],
    codes: dict[str, int],
    sizes: NDArray[np.float64],
    shape: Sequence[int],
) -> list[str]:
    """Where the transforms of a header say two things, both readings in words."""
    if len(readings) == 2:
        sform, qform = readings["sform"], readings["qform"]
        apart = farthest(sform, qform, shape)
        if apart <= APART * float(np.linalg.norm(sform[:3, :3], axis=0).min()):
            return []
        both = "; ".join(
            f"{name} (code {codes[name]}): {_in_words(affine)}" for name, affine in readings.items()
        )
        return [f"its sform and its qform place it up to {apart:.4g} mm apart. {both}"]
    if "sform" not in readings or codes["qform"] > 0:  # a qform that cannot be used is told already
        return []
    own = np.linalg.norm(readings["sform"][:3, :3], axis=0)
    if not (np.isfinite(sizes).all() and sizes.min() > 0):
        return [f"its pixdim is {_sizes(sizes)} mm"]
    if np.abs(sizes / own - 1).max() <= ROUNDING:
        return []
    return [f"its pixels are {_sizes(sizes)} mm by pixdim, {_sizes(own)} mm by its sform"]


def farthest(one: Affine, other: Affine, shape: Sequence[int]) -> float:
    """Largest distance between the places of one voxel by two affines, in mm: a corner of the grid has it."""
    corners = [(*at, 1) for at in itertools.product(*((0, n - 1) for n in shape))]
    steps = (one - other)[:3] @ np.array(corners, dtype=np.float64).T
    return float(np.linalg.norm(steps, axis=0).max())


def _in_words(affine: Affine) -> str:
    axes = "".join(nibabel.aff2axcodes(affine))
    place = ", ".join(f"{n:.6g}" for n in affine[:3, 3])
    sizes = _sizes(np.linalg.norm(affine[:3, :3], axis=0))
    return f"axes {axes}, pixels {sizes} mm, first voxel at ({place}) mm"


def _sizes(sizes: NDArray[np.float64]) -> str:
    return "×".join(f"{n:.6g}" for n in sizes)


def _remark(what: str, path: Path) -> DataError:
    return DataError(
        what,
        where=path,
        expected="transforms with a code above 0 that agree",
        fix="compare with the original scan; keep the transform that is right and set the other to it",
    )


def copy_place(header: Any, to: Any) -> None:
    """Copy the fields that say where voxels lie."""
    for name in PLACE:
        to[name] = header[name]
