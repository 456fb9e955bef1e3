"""Write the phantom data set: synthetic subjects with beating hearts, scanned by MR or CT, in the files of MM-WHS.

It lets users try everything without a download: :func:`write_phantom` writes folders for the reader, the card type
and the protocol of the real data. The anatomy is in :mod:`uda.data.synthetic.phantom.heart` and
:mod:`uda.data.synthetic.phantom.thorax`; the physics of the two scanners, with the source of every constant, is in
:mod:`uda.data.synthetic.phantom.render`. The domain gap results from that physics; no number was chosen with an
adaptation method in view.

The domain gap: a small U-Net trained on 12 MR subjects reaches a mean Dice of 0.94 on other MR
subjects and, over three training seeds, 0.47-0.63 on CT, where 10 labelled CT subjects give 0.94.
Myocardium and blood of the left ventricle lose most. With one MR protocol for all it was 0.19-0.44;
the several protocols that MM-WHS mixes are the only change made after a measurement.

The MR and the CT subject of one number are different people. Every byte of a file depends on
(seed, modality, subject) alone.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from uda.data.synthetic.phantom.render import Frame, ct_image, ct_values, mr_image, mr_values
from uda.data.synthetic.phantom.shapes import Grid, Points, paint
from uda.data.synthetic.phantom.thorax import draw_subject
from uda.errors import DataError
from uda.files.atomic import atomic_path

Modality: TypeAlias = Literal["mr", "ct"]

_ORIENTATION = {"mr": "LIA", "ct": "LAS"}
"""Directions in which the stored axes run: MR files in coronal order, CT files in axial order."""

_CODE = {"mr": 1, "ct": 2}
_HEART_CENTRE = np.array([0.0, 2.0, 12.0])


@dataclass(frozen=True)
class Volume:
    """One scan in its stored axes: ``image`` and ``label`` (int16), ``affine`` (4x4, mm, RAS+)."""

    image: NDArray[np.int16]
    label: NDArray[np.int16]
    affine: NDArray[np.float64]


@dataclass(frozen=True)
class _Scan:
    """A grid, the affine of its array (axes to the right, front, head), and its frame."""

    grid: Grid
    affine: NDArray[np.float64]
    frame: Frame


def write_phantom(root: Path, *, mr: Sequence[int], ct: Sequence[int], seed: int = 0) -> list[Path]:
    """Write images and labels of the numbered subjects below ``root``, named as in MM-WHS.

    Returns:
        The paths, image before label: ``root/mr_train/mr_train_1001_image.nii.gz`` and so on.
    """
    modalities: tuple[tuple[Modality, Sequence[int]], ...] = (("mr", mr), ("ct", ct))
    written = []
    for modality, subjects in modalities:
        folder = Path(root) / f"{modality}_train"
        for subject in subjects:
            volume = render_subject(modality, subject, seed)
            for kind, array in (("image", volume.image), ("label", volume.label)):
                path = folder / f"{modality}_train_{subject}_{kind}.nii.gz"
                _write(path, array, volume.affine)
                written.append(path)
    return written


def render_subject(modality: Modality, subject: int, seed: int = 0) -> Volume:
    """Draw a subject and scan it; the same arguments give the same bytes.

    Raises:
        DataError: another modality, or a negative subject or seed.
    """
    if modality not in _CODE or subject < 0 or seed < 0:
        raise DataError(
            f"the phantom cannot draw modality {modality!r}, subject {subject}, seed {seed}",
            expected="modality 'mr' or 'ct', and numbers of at least 0",
            fix="number subjects from 1001, as in MM-WHS",
        )
    anatomy, physics = (np.random.default_rng([seed, _CODE[modality], subject, k]) for k in (0, 1))
    organs = draw_subject(anatomy)
    scan = _draw_scan(modality, anatomy)
    if modality == "mr":
        signal, label = paint(scan.grid, organs, mr_values(physics), outside=0.0)
        image = mr_image(signal, scan.frame, physics)
    else:
        values = ct_values(physics)
        signal, label = paint(scan.grid, organs, values, outside=-1000.0)
        vein = next(organ.shape for organ in organs if organ.tissue == "blood_upper_vein")
        dense = scan.grid.centres(vein)
        image = ct_image(signal, scan.frame, dense, values["blood_upper_vein"], physics)
    return _stored(modality, image, label, scan.affine)


def _draw_scan(modality: Modality, rng: Generator) -> _Scan:
    """Random voxel size, field of view and pose: protocol and positioning differ between scans."""
    if modality == "mr":
        plane, thick, width = rng.uniform(1.4, 1.9), rng.uniform(3.2, 4.8), rng.uniform(215, 250)
    else:
        plane, thick, width = rng.uniform(1.3, 1.8), rng.uniform(3.0, 4.0), rng.uniform(190, 230)
    spacing = np.array([plane, plane, thick])
    size = np.rint(np.array([width, width, rng.uniform(144, 160)]) / spacing).astype(int)
    middle = (size - 1) / 2
    heart = _HEART_CENTRE + np.clip(rng.normal(0, 5, 3), -10, 10)
    turn = Rotation.from_euler("xyz", np.clip(rng.normal(0, 3, 3), -7, 7), degrees=True).as_matrix()
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = heart - spacing * middle
    points, slack = _bend(_rigid(affine, size, turn), affine, rng)
    origin = -affine[:3, 3] / spacing
    to_index = np.column_stack([turn / spacing[:, None], origin])
    return _Scan(Grid(points, to_index, slack), affine, Frame(spacing, origin))


def _rigid(
    affine: NDArray[np.float64], size: NDArray[np.int_], turn: NDArray[np.float64]
) -> Points:
    """Positions in the subject (mm) of all voxel centres; the subject is rotated by ``turn``."""
    x, y, z = np.ogrid[: size[0], : size[1], : size[2]]
    rows = (turn.T @ affine[:3, :3]).astype(np.float32)
    start = (turn.T @ affine[:3, 3]).astype(np.float32)
    a, b, c = (rows[k, 0] * x + rows[k, 1] * y + rows[k, 2] * z + start[k] for k in range(3))
    return a.astype(np.float32), b.astype(np.float32), c.astype(np.float32)


def _bend(points: Points, affine: NDArray[np.float64], rng: Generator) -> tuple[Points, float]:
    """Smooth individual deformation: three plane waves of displacement, 1.2 mm each, 80-160 mm long."""
    shape, amplitude, slack = points[0].shape, 1.2, 0.0
    bent = [axis.copy() for axis in points]
    for _ in range(3):
        way, phase = rng.normal(size=3), rng.uniform(0, 2 * np.pi)
        wave = way / np.linalg.norm(way) * 2 * np.pi / rng.uniform(80, 160)
        push = rng.normal(size=3)
        push *= amplitude / np.linalg.norm(push)
        x, y, z = (
            np.exp(1j * wave[k] * affine[k, k] * np.arange(n)).astype(np.complex64)
            for k, n in enumerate(shape)
        )
        plane = (x[:, None] * y * np.complex64(np.exp(1j * phase)))[:, :, None]
        ripple = plane.real * z.imag + plane.imag * z.real
        for axis, amount in zip(bent, push, strict=True):
            axis += np.float32(amount) * ripple
        slack += amplitude
    return (bent[0], bent[1], bent[2]), slack


def _stored(
    modality: Modality,
    image: NDArray[np.int16],
    label: NDArray[np.int16],
    affine: NDArray[np.float64],
) -> Volume:
    """The scan in the axes of the modality's files."""
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(_ORIENTATION[modality]))
    return Volume(
        image=np.ascontiguousarray(nib.orientations.apply_orientation(image, turn)),
        label=np.ascontiguousarray(nib.orientations.apply_orientation(label, turn)),
        affine=affine @ inv_ornt_aff(turn, image.shape),
    )


def _write(path: Path, array: NDArray[np.int16], affine: NDArray[np.float64]) -> None:
    """Write a NIfTI file atomically; its gzip header names no time and no file."""
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    with atomic_path(path) as partial:
        partial.write_bytes(gzip.compress(image.to_bytes(), compresslevel=5, mtime=0))
