"""Refuse symbolic links that lead out of an output folder.

Through such a link in a folder of unknown origin, files elsewhere would be written, replaced or deleted. A link
that appears between the check and the write is not caught: other users must not have write access to the folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from uda.errors import DataError


def check_output(folder: Path) -> Path:
    """Return ``folder`` unless it is a link itself; the folders above it may be links.

    Raises:
        DataError: ``folder`` is a link; the message names its destination.
    """
    if folder.is_symlink():
        raise _refused(folder, folder)
    return folder


def check_links(folder: Path, names: Iterable[str] = ("*",)) -> Path:
    """Return ``folder`` unless it is a link or a link in it leads out of it.

    Args:
        names: patterns of the entries that will be written; others are not checked.

    Raises:
        DataError: there is such a link; the message names it and its destination.
    """
    inside = check_output(folder).resolve()
    for top in sorted({path for name in names for path in folder.glob(name)}):
        for path in (top, *_below(top)):
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                raise _refused(path, folder)
    return folder


def _below(top: Path) -> Iterable[Path]:
    for place, folders, files in os.walk(top):
        yield from (Path(place, name) for name in (*folders, *files))


def _refused(link: Path, folder: Path) -> DataError:
    return DataError(
        f"is a link to {os.readlink(link)}, and nothing is written or deleted through links",
        where=link,
        expected="regular files and folders" if link != folder else "a folder",
        fix="give --out the folder itself" if link == folder else "remove the link",
    )
