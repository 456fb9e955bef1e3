"""Every way a file enters."""

from __future__ import annotations

import annotation_files
import nifti_places
import picture_files
import text_files
import volume_files
import weight_files
from feeding import Reader

READERS: list[Reader] = [
    *volume_files.READERS,
    *nifti_places.READERS,
    *picture_files.READERS,
    *text_files.READERS,
    *weight_files.READERS,
    *annotation_files.READERS,
]
