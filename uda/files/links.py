"""Symbolic links in folders that are written to. A link to somewhere else would let a folder of somebody's have files
written, replaced or deleted wherever its maker liked.

Nobody is kept from putting a link there between the look and the write: a folder that others may write to is theirs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from uda.errors import DataError


def check_output(folder: Path) -> Path:
    """Refuse a folder that is itself a link; the folders above it may be links. Returns it.

    Raises:
        DataError: names where the link leads.
    """
    if folder.is_symlink():
        raise _refused(folder, folder)
    return folder


def check_links(folder: Path, names: Iterable[str] = ("*",)) -> Path:
    """Refuse a folder that is a link, or in which some link leads out of it. Returns it.

    Args:
        names: patterns of what is written to in the folder; the rest of it is not looked at.

    Raises:
        DataError: names the link and where it leads.
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
        expected="files and folders of their own" if link != folder else "a folder",
        fix="give --out the folder itself" if link == folder else "remove the link",
    )
