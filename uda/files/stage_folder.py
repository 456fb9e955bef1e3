"""Stage folders, which are complete or absent, the check of their files, and the lock of a run's folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from uda.errors import ModelError, RunError
from uda.files.atomic import HALF, disk, read_json, scratch, sha256_of, sync, write_json

STAGE_FILE = "stage.json"
UNREAD = ("tensorboard", "snapshots", "predictions")
"""Folders in a stage that no later stage reads, or whose files carry their own checksum."""


class StageFolder:
    """A folder that is complete (it holds ``stage.json``) or absent; work happens in a hidden folder beside it.

    The name of the hidden folder holds the hash, so unfinished work of another configuration is never resumed.
    """

    def __init__(self, path: Path, hash_: str) -> None:
        self.path, self.hash = path, hash_
        self.work = path.parent / f".{path.name}.{hash_[:12]}"
        self._old = path.parent / f".{path.name}.old"

    def recorded(self) -> dict[str, Any] | None:
        """Content of ``stage.json`` if the stage is complete, else None."""
        if not self.path.exists() and (self.work / STAGE_FILE).is_file():
            self._sweep()
            os.replace(self.work, self.path)  # killed between the two renames of commit()
        if not (self.path / STAGE_FILE).is_file():
            return None
        if self._old.is_dir():  # killed before commit() removed it
            shutil.rmtree(self._old, ignore_errors=True)
        recorded = read_json(self.path / STAGE_FILE)
        return recorded if isinstance(recorded, dict) else None

    def check(self) -> None:
        """Compare a complete stage's files with the SHA-256 that it recorded.

        Raises:
            ModelError: a file is missing or differs; the message names the first one.
        """
        listed = (self.recorded() or {}).get("files", {})
        for name, digest in listed.items() if isinstance(listed, dict) else ():
            path = self.path / name
            if path.is_file() and sha256_of(path) == digest:
                continue
            raise ModelError(
                f"{'has changed since' if path.is_file() else 'is missing, although'} stage "
                f"{self.path.name!r} wrote it",
                where=path,
                expected=f"the SHA-256 in {STAGE_FILE}: {digest}",
                fix=f"run stage {self.path.name!r} again: with --restart, or after deleting the folder "
                f"{self.path}; the other stages stay",
            )

    def begin(self, restart: bool) -> Path:
        """Return the folder to work in; it holds the unfinished work of a killed run unless ``restart``.

        Raises:
            ModelError: ``path`` is a folder that no stage wrote and that :meth:`commit` would replace.
            RunError: writing fails.
        """
        if self.path.exists() and not (self.path / STAGE_FILE).is_file():
            raise ModelError(
                "exists, but uda did not write it, and the run would replace it",
                where=self.path,
                fix="choose another --out, or move it away",
            )
        unfinished = re.compile(re.escape(f".{self.path.name}.") + r"([0-9a-f]{12}|old)")
        with disk(self.work), scratch(self.path.parent) as trash:
            for stale in list(self.path.parent.glob(f".{self.path.name}.*")):
                if unfinished.fullmatch(stale.name) and (restart or stale != self.work):
                    os.replace(stale, trash / stale.name)  # never left half deleted
            self._sweep()
            self.work.mkdir(parents=True, exist_ok=True)
        return self.work

    def _sweep(self) -> None:
        """Remove the unfinished files of a killed write."""
        for unfinished in list(self.work.rglob(f"{HALF}*")):
            shutil.rmtree(unfinished, ignore_errors=True)

    def commit(self, record: Mapping[str, Any]) -> None:
        """Write ``stage.json`` with the files' SHA-256, and replace an older folder by the finished one.

        Raises:
            RunError: writing fails.
        """
        with disk(self.path):
            write_json(self.work / STAGE_FILE, {**record, "files": _listed(self.work)})
            if self.path.exists():
                os.replace(self.path, self._old)
            os.replace(self.work, self.path)
            sync(self.path.parent)
        shutil.rmtree(self._old, ignore_errors=True)


def _listed(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that later stages may read."""
    names = {path: path.relative_to(folder) for path in sorted(folder.rglob("*"))}
    return {
        name.as_posix(): sha256_of(path)
        for path, name in names.items()
        if path.is_file() and name.parts[0] not in UNREAD and name.as_posix() != STAGE_FILE
    }


@contextlib.contextmanager
def lock(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Lock a run's folder for one process; remove the folder afterwards if it is empty.

    Raises:
        RunError: another process holds the lock, or writing fails.
    """
    path = folder / name
    with disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666))
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or path.stat().st_ino != os.fstat(handle.fileno()).st_ino:
                raise BlockingIOError("another process replaced the lock file")
        except OSError as error:
            raise RunError(
                "another run is writing into this folder",
                where=folder,
                fix="wait for it, or choose another --out",
            ) from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                folder.rmdir()  # fails, as intended, if the folder is not empty
