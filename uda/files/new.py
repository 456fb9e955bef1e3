"""Write files where none may be replaced."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from uda.errors import DataError
from uda.files.atomic import disk, scratch, sync
from uda.files.output import check_folders


@contextlib.contextmanager
def new_files(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder for finished files, which then move to ``folder``: all of them, or none.

    A file that is there already with the same content stays as it is. JSON files, which may describe others, move last.

    Raises:
        DataError: another file has one of the names.
        RunError: writing fails.
    """
    with disk(folder), scratch(folder) as unfinished:
        work = unfinished / "new"  # the folder above is locked
        work.mkdir()
        yield work
        files = [path for path in work.rglob("*") if path.is_file()]
        files = sorted(files, key=lambda path: (path.suffix == ".json", path.relative_to(work)))
        places = {path: folder / path.relative_to(work) for path in files}
        if differing := [there for path, there in places.items() if _differs(path, there)]:
            raise DataError(
                "there is another file of this name, which would be replaced",
                where=" and ".join(map(str, differing)),
                fix="give another name with --out, or move the file away",
            )
        with contextlib.ExitStack() as placed:
            for path, there in places.items():
                sync(path)
                there.parent.mkdir(parents=True, exist_ok=True)
                if _put(path, there):
                    placed.callback(there.unlink)
            for place in dict.fromkeys((folder, *(there.parent for there in places.values()))):
                sync(place)
            placed.pop_all()


def check_file(path: Path) -> None:
    """Refuse a folder in the place of a file, and a file in the place of a folder above it.

    Raises:
        DataError: there is one.
    """
    check_folders([path.parent])
    if path.is_dir():
        raise DataError(
            "is a folder, but one file is written",
            where=path,
            expected="the name of a file",
            fix="give --out the name of the file in it",
        )


def _differs(path: Path, there: Path) -> bool:
    if not os.path.lexists(there):
        return False
    return not there.is_file() or there.read_bytes() != path.read_bytes()


def _put(path: Path, there: Path) -> bool:
    """Move a file to a place where there is none, by a link, which never replaces; whether it was missing."""
    if os.path.lexists(there):
        return False
    try:
        os.link(path, there)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        os.replace(path, there)
    return True
