"""Formats of volumes: the ending of a file's name says which function reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from uda.data.geometry import Volume
from uda.data.nifti import read_nifti

READERS: dict[str, Callable[[Path], Volume]] = {
    ".nii.gz": read_nifti,
    ".nii": read_nifti,
}
"""By the ending in lower case. A reader raises ``DataError`` for a file that it cannot read."""


def reader(path: Path) -> Callable[[Path], Volume]:
    """The reader of a file; a name without a known ending is taken for NIfTI."""
    name = path.name.lower()
    return next((read for end, read in READERS.items() if name.endswith(end)), read_nifti)
