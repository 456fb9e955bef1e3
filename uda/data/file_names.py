"""Names of image files: their endings, wildcards, and names that are no data."""

from __future__ import annotations

import fnmatch
import re

from uda.data.formats import READERS, SEGMENTATION

PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg")


def stem(name: str) -> str:
    """The name of a volume or photograph without its ending."""
    low = name.lower()
    ends = (end for end in (SEGMENTATION, *READERS, *PHOTO_SUFFIXES) if low.endswith(end))
    return name[: -len(next(ends, "")) or None]


def wildcard(pattern: str) -> re.Pattern[str]:
    """What a name must be: ``*`` stands for anything and ``?`` for one character; all else is plain, brackets too."""
    return re.compile(fnmatch.translate(pattern.replace("[", "[[]")))


def is_clutter(name: str) -> bool:
    """Whether a name is hidden, or of a file that systems and office programs leave behind (``._x``, ``~$x``)."""
    return name.startswith((".", "~$")) or name.lower() in ("thumbs.db", "desktop.ini")
