"""Output folders: one process at a time, no links that lead out, no file replaced that uda did not write."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from uda.errors import DataError, RunError
from uda.files.apart import check_apart
from uda.files.atomic import disk
from uda.files.ledger import LEDGER, Ledger, enter_files
from uda.files.links import check_links

LOCK = ".uda.lock"
"""name of a folder's lock file"""
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
"""what flock answers where another process holds the lock"""


@contextlib.contextmanager
def output_folder(
    folder: Path,
    inputs: Iterable[Path] = (),
    names: Iterable[str] = (),
    also: Iterable[tuple[str, str]] = (),
) -> Iterator[Ledger]:
    """Lock a folder for a verb that writes files into it; they enter the folder's ledger.

    Args:
        folder: it is made if it is missing, and removed again if it stays empty.
        inputs: files and folders that the verb reads (:func:`uda.files.apart.check_apart`).
        names: patterns of the folders in it that files are written to (:func:`uda.files.links.check_links`).
        also: files of uda's there that another record names (:class:`uda.files.ledger.Ledger`).

    Raises:
        DataError: the folder is a link, holds one that leads out of it, or is not apart from the inputs; or something
            else has the place of a folder, of the ledger or of the lock file.
        RunError: another process works in the folder, or writing fails.
    """
    check_apart(folder, inputs)
    names = list(names)
    check_links(folder, [*names, ".uda*"])
    check_folders(folder / name for name in names)
    _check_regular(folder / LEDGER)
    with lock(folder):
        ledger = Ledger(folder, also)
        with enter_files(ledger):
            yield ledger


@contextlib.contextmanager
def lock(folder: Path, name: str = LOCK) -> Iterator[None]:
    """Lock a folder for one process. The lock ends with the process, however it ends.

    Folders that the lock made are removed afterwards if they are empty.

    Raises:
        DataError: the folder, or one above it, is a file; or the lock file is none.
        RunError: another process holds the lock, the file system has no locks, or writing fails.
    """
    path = folder / name
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    check_folders([folder])
    _check_regular(path)
    with disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666))
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or path.stat().st_ino != os.fstat(handle.fileno()).st_ino:
                raise BlockingIOError(errno.EWOULDBLOCK, "another process replaced the lock file")
        except OSError as error:
            raise _refused(folder, error) from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                if os.fstat(handle.fileno()).st_size == 0:  # a lock file of ours is empty
                    path.unlink(missing_ok=True)
                for place in made:
                    place.rmdir()  # fails, as intended, if the folder is not empty


def check_folders(folders: Iterable[Path]) -> None:
    """Refuse a file, or a link that leads nowhere, in the place of a folder, or of one above it.

    Raises:
        DataError: names it.
    """
    for folder in folders:
        above = (folder, *folder.parents)
        there = next(place for place in above if os.path.lexists(place))
        if not there.is_dir():
            lost = there.is_symlink() and not there.exists()
            raise DataError(
                f"is {'a link that leads nowhere' if lost else 'no folder'}, but results are written into a folder "
                "of this name",
                where=there,
                fix=f"choose another --out, or {'remove the link' if lost else 'move the file away'}",
            )


def _check_regular(path: Path) -> None:
    """Refuse what is no regular file in the place of a file of uda's own."""
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        raise DataError(
            "is no regular file, but uda keeps a file of this name here",
            where=path,
            fix="choose another --out, or move it away",
        )


def _refused(folder: Path, error: OSError) -> RunError:
    if error.errno in _HELD:
        return RunError(
            "another run is writing into this folder",
            where=folder,
            fix="wait for it, or choose another --out",
        )
    return RunError(
        f"this file system refuses locks, so two runs could not be kept apart: {error.strerror or error}",
        where=folder,
        expected="a file system with flock",
        fix="choose an --out on a local disk, or mount this one with locks",
    )
