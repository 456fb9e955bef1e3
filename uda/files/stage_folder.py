"""Stage folders: complete or absent, with every file as its stage wrote it; the lock of a run's folder."""

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
"""folders of a stage that no later stage reads, or whose files carry a checksum of their own"""


class StageFolder:
    """A folder that is complete (it holds ``stage.json``) or absent; work happens in a hidden twin.

    The twin carries the hash, so that unfinished work of another configuration is never continued.
    """

    def __init__(self, path: Path, hash_: str) -> None:
        self.path, self.hash = path, hash_
        self.work = path.parent / f".{path.name}.{hash_[:12]}"
        self._old = path.parent / f".{path.name}.old"

    def recorded(self) -> dict[str, Any] | None:
        """``stage.json`` of the complete stage, or None."""
        if not self.path.exists() and (self.work / STAGE_FILE).is_file():
            self._sweep()
            os.replace(self.work, self.path)  # killed between the two renames of commit()
        if not (self.path / STAGE_FILE).is_file():
            return None
        if self._old.is_dir():  # killed after them
            shutil.rmtree(self._old, ignore_errors=True)
        recorded = read_json(self.path / STAGE_FILE)
        return recorded if isinstance(recorded, dict) else None

    def check(self) -> None:
        """Refuse a complete stage whose files are not those that it wrote.

        Raises:
            ModelError: names the first that is missing or another.
        """
        listed = (self.recorded() or {}).get("files", {})
        for name, digest in listed.items() if isinstance(listed, dict) else ():
            path = self.path / name
            if path.is_file() and sha256_of(path) == digest:
                continue
            raise ModelError(
                f"is {'damaged' if path.is_file() else 'missing'}: it is not what stage "
                f"{self.path.name!r} wrote",
                where=path,
                expected=f"the SHA-256 in {STAGE_FILE}: {digest}",
                fix=f"run stage {self.path.name!r} again: with --restart, or after deleting the folder "
                f"{self.path}; the other stages stay",
            )

    def begin(self, restart: bool) -> Path:
        """The folder to work in, with what a killed run left there unless ``restart``.

        Raises:
            ModelError: the place is taken by a folder that no stage wrote; it would be replaced.
            RunError: the disk refuses.
        """
        if self.path.exists() and not (self.path / STAGE_FILE).is_file():
            raise ModelError(
                "there is something here that uda did not write, and it would be replaced",
                where=self.path,
                fix="choose another --out, or move it away",
            )
        unfinished = re.compile(re.escape(f".{self.path.name}.") + r"([0-9a-f]{12}|old)")
        with disk(self.work), scratch(self.path.parent) as gone:
            for stale in list(self.path.parent.glob(f".{self.path.name}.*")):
                if unfinished.fullmatch(stale.name) and (restart or stale != self.work):
                    os.replace(stale, gone / stale.name)  # never seen half deleted
            self._sweep()
            self.work.mkdir(parents=True, exist_ok=True)
        return self.work

    def _sweep(self) -> None:
        """Remove what a killed write left half done."""
        for half_written in list(self.work.rglob(f"{HALF}*")):
            shutil.rmtree(half_written, ignore_errors=True)

    def commit(self, record: Mapping[str, Any]) -> None:
        """Write ``stage.json``, which lists the files, and put the finished folder in place of an older one.

        Raises:
            RunError: the disk refuses.
        """
        with disk(self.path):
            write_json(self.work / STAGE_FILE, {**record, "files": _listed(self.work)})
            if self.path.exists():
                os.replace(self.path, self._old)
            os.replace(self.work, self.path)
            sync(self.path.parent)
        shutil.rmtree(self._old, ignore_errors=True)


def _listed(folder: Path) -> dict[str, str]:
    """SHA-256 of what later stages may read."""
    names = {path: path.relative_to(folder) for path in sorted(folder.rglob("*"))}
    return {
        name.as_posix(): sha256_of(path)
        for path, name in names.items()
        if path.is_file() and name.parts[0] not in UNREAD and name.as_posix() != STAGE_FILE
    }


@contextlib.contextmanager
def lock(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Hold a run folder for one process at a time; a folder in which nothing came to be is removed.

    Raises:
        RunError: another process holds it, or the disk refuses.
    """
    path = folder / name
    with disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666))
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or path.stat().st_ino != os.fstat(handle.fileno()).st_ino:
                raise BlockingIOError("released and taken again meanwhile")
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
                folder.rmdir()  # refused, as it should be, for a folder that holds anything
