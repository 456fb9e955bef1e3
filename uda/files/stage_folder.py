"""Stage folders, which are complete or absent, and the check of their files."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from uda.errors import MOST, DataError, ModelError, raise_all
from uda.files.atomic import disk, read_json, scratch, sync, unfinished, write_json
from uda.files.digests import fingerprint, sha256_of
from uda.files.ledger import Ledger

STAGE_FILE = "stage.json"
PAGE = "report.html"
"""page of a stage, which nothing reads: it may be edited or removed"""
STARTED = ".uda-started"
"""file that marks a hidden folder as work of a stage that has not got its place yet"""
REPLACED = ".uda-replaced"
"""file that marks the folder of a stage that another one is replacing"""
LOGS = "tensorboard"
LONGEST = 1000
"""bytes of a file's name below a stage's folder at most"""
UNREAD = (LOGS, "snapshots", "predictions")
"""Folders in a stage that no later stage reads, or whose files carry their own checksum."""


class StageFolder:
    """A folder that is complete (it holds ``stage.json``) or absent; work happens in a hidden folder beside it.

    The name of the hidden folder holds the hash, so unfinished work of another configuration is never resumed.
    ``stage.json`` holds the SHA-256 of every file of the stage. Files that it does not name, or that changed since,
    are foreign and outlive the stage.
    """

    def __init__(self, path: Path, hash_: str) -> None:
        self.path, self.hash = path, hash_
        self.work = path.parent / f".{path.name}.{hash_[:12]}"
        self._old = path.parent / f".{path.name}.old"

    def recorded(self) -> dict[str, Any] | None:
        """Content of ``stage.json`` if the stage is complete, else None.

        Raises:
            ModelError: ``stage.json`` cannot be read.
            DataError: :meth:`commit` was killed, and a foreign file is now in its way.
            RunError: writing fails.
        """
        with disk(self.path):
            self._recover()
        if not (self.path / STAGE_FILE).is_file():
            return None
        try:
            recorded = read_json(self.path / STAGE_FILE)
        except ModelError as error:
            raise ModelError(
                error.what,
                where=error.where,
                fix=f"move your own files out of {self.path}, delete it, and run the same command again",
            ) from error
        return recorded if isinstance(recorded, dict) else None

    def check(self) -> None:
        """Compare a complete stage's files with the SHA-256 that it recorded.

        Raises:
            ModelError: a file is missing or differs; the message names the first one.
        """
        if self.recorded() is not None:
            check_files(self.path)

    def begin(self, restart: bool) -> Path:
        """Return the folder to work in; it holds the unfinished work of a killed run unless ``restart``.

        Raises:
            ModelError: a folder that no stage wrote has the place of the stage or of its unfinished work.
            DataError: a file of the complete stage changed after it was written.
            RunError: writing fails.
        """
        check_places([self.path])
        check_places([self.work], STARTED)
        check_places([self._old], REPLACED)
        if (self.path / STAGE_FILE).is_file():
            self._check_changed()
        with disk(self.work), scratch(self.path.parent) as trash:
            for stale in self._started():
                if restart or stale != self.work:
                    os.replace(stale, trash / stale.name)  # never left half deleted
            _sweep(self.work)
            self.work.mkdir(parents=True, exist_ok=True)
            (self.work / STARTED).touch()
        return self.work

    def abandon(self) -> None:
        """Remove the folder of failed work if it holds no file yet."""
        with contextlib.suppress(OSError):
            _sweep(self.work)
            files = [path for path in self.work.rglob("*") if not path.is_dir()]
            if files == [self.work / STARTED]:
                shutil.rmtree(self.work)

    def _started(self) -> list[Path]:
        """The hidden folders of this stage with unfinished work."""
        name = re.compile(re.escape(f".{self.path.name}.") + r"[0-9a-f]{12}")
        return [
            path
            for path in self.path.parent.glob(f".{self.path.name}.*")
            if name.fullmatch(path.name) and (path / STARTED).is_file()
        ]

    def commit(self, record: Mapping[str, Any]) -> None:
        """Write ``stage.json`` with the files' SHA-256, and put the finished folder in the place of an older one.

        Foreign files of the older folder move into the new one.

        Raises:
            DataError: the stage has a file of the name of a foreign one; its folder is complete, and the same
                command commits it once the foreign file is away.
            RunError: writing fails.
        """
        with disk(self.path):
            write_json(self.work / STAGE_FILE, {**record, **_listed(self.work)})
            self._recover()

    def _recover(self) -> None:
        """Go on with a :meth:`commit` from wherever it is.

        Its steps: ``stage.json`` is in the work folder; the older folder is marked and has moved away; the work folder
        has its place; the older folder's foreign files have moved over, and its own are deleted; no mark is left.
        """
        self._unmark()
        finished = all((self.work / one).is_file() for one in (STAGE_FILE, STARTED))
        if finished:
            check_places([self.path])
            _sweep(self.work)
            if not (self.path / STAGE_FILE).is_file():
                os.replace(self.work, self.path)
                finished = False
        self._settle()
        if finished:
            self._check_foreign()
            check_places([self._old], REPLACED)
            (self.path / REPLACED).touch()
            os.replace(self.path, self._old)
            os.replace(self.work, self.path)
            sync(self.path.parent)
            self._settle()

    def _settle(self) -> None:
        """Empty the folder of the replaced stage, if there is one; put it back where nothing has replaced it."""
        if (self._old / REPLACED).is_file():
            if self.path.exists():
                _move_foreign(self._old, self.path)
            else:
                os.replace(self._old, self.path)
        self._unmark()

    def _unmark(self) -> None:
        """Remove the marks of a folder that has its place."""
        for mark in (STARTED, REPLACED):
            if (self.path / STAGE_FILE).is_file() and (self.path / mark).is_file():
                (self.path / mark).unlink()

    def _check_changed(self) -> None:
        """Refuse to do a stage again whose files somebody has changed: the new ones would have their names."""
        own = own_files(self.path)
        changed = [name for name, _ in recorded_files(self.path) if name not in own]
        if there := [name for name in changed if os.path.lexists(self.path / name)]:
            raise DataError(
                f"changed after uda wrote it, and would be replaced: {', '.join(there[:MOST])}",
                where=self.path,
                fix="move it away, or delete it, then run the same command again",
            )

    def _check_foreign(self) -> None:
        """Refuse to commit files whose names foreign files of the older folder have."""
        own = own_files(self.path)
        for path in _entries(self.path):
            name = path.relative_to(self.path)
            if path.is_dir() or name.as_posix() in own:
                continue
            above = [self.work / parent for parent in name.parents[:-1]]
            if os.path.lexists(self.work / name) or any(parent.is_file() for parent in above):
                raise DataError(
                    "the stage is finished and has a file of this name, but uda did not write the one that is there",
                    where=self.path / name,
                    fix="move it away, then run the same command again: nothing is computed twice",
                )


def check_places(folders: Iterable[Path], mark: str = STAGE_FILE) -> None:
    """Refuse to put stages into the place of anything but a stage or an empty folder.

    Args:
        mark: file that tells a folder of ours.

    Raises:
        ModelError: lists every other file and folder of these names.
    """
    faults = [
        ModelError(
            "exists, but uda did not write it, and the run would replace it",
            where=folder,
            fix="choose another --out, or move it away",
        )
        for folder in folders
        if os.path.lexists(folder) and not (folder / mark).is_file() and not _is_empty(folder)
    ]
    raise_all(faults, "the output folder")


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())


def recorded_hash(folder: Path) -> str | None:
    """Hash of a complete stage; None in any other folder."""
    if not (folder / STAGE_FILE).is_file():
        return None
    record = read_json(folder / STAGE_FILE)
    return str(record["hash"]) if isinstance(record, dict) and "hash" in record else None


def recorded_files(folder: Path, key: str = "files") -> list[tuple[str, str]]:
    """Names and SHA-256 of a complete stage's files; [] in any other folder.

    Args:
        key: ``"files"``, or ``"unread"`` for those that no later stage reads.
    """
    if not (folder / STAGE_FILE).is_file():
        return []
    record = read_json(folder / STAGE_FILE)
    files = record.get(key) if isinstance(record, dict) else None
    listed = files if isinstance(files, dict) else {}
    for name in listed:
        parts = Path(name).parts
        if not parts or Path(name).is_absolute() or ".." in parts or len(name.encode()) > LONGEST:
            raise ModelError(
                f"{key} names {name[:LONGEST]!r}, which no stage could have written",
                where=folder / STAGE_FILE,
                expected="files in its own folder",
                fix=f"move your own files out of {folder}, delete it, and run the same command again",
            )
    return [(name, str(digest)) for name, digest in listed.items()]


def content_of(folder: Path) -> str:
    """Hash of a complete stage's files, by its record and without its page and logs, which differ from run to run."""
    results = [
        (name, digest)
        for name, digest in _named(folder)
        if Path(name).name != PAGE and Path(name).parts[0] != LOGS
    ]
    return fingerprint(sorted(results))


def check_files(folder: Path) -> None:
    """Compare a complete stage's files with the SHA-256 in its record, or in its ledger.

    Raises:
        ModelError: a file is missing or differs; the message names the first one.
    """
    ledger = Ledger(folder)
    for name, digest in recorded_files(folder):
        path = folder / name
        if path.name == PAGE or (
            path.is_file() and (sha256_of(path) == digest or ledger.owns(path))
        ):
            continue
        raise ModelError(
            f"{'has changed since' if path.is_file() else 'is missing, although'} stage "
            f"{folder.name!r} wrote it",
            where=path,
            expected=f"the SHA-256 in {STAGE_FILE}: {digest}",
            fix=("move it away, or delete it; then " if path.is_file() else "")
            + f"run stage {folder.name!r} again: with --restart, or after deleting the folder "
            f"{folder}; the other stages stay",
        )


def own_files(folder: Path) -> set[str]:
    """Names of the files of a complete stage that are as the stage, or a later verb with a ledger, wrote them."""
    named = _named(folder)
    ledger = Ledger(folder, named)
    names = {name for name, _ in named}
    listed = [path for path in _entries(folder) if path.relative_to(folder).as_posix() in names]
    own = (path.relative_to(folder).as_posix() for path in listed if ledger.owns(path))
    return {STAGE_FILE, *own}


def _named(folder: Path) -> list[tuple[str, str]]:
    """Names and SHA-256 of every file in a stage's record."""
    return [*recorded_files(folder), *recorded_files(folder, "unread")]


def _entries(folder: Path) -> list[Path]:
    """Files, links and folders below a folder; contents before their folders."""
    return [
        Path(place, name)
        for place, folders, files in os.walk(folder, topdown=False)
        for name in (*files, *folders)
    ]


def _move_foreign(old: Path, new: Path) -> None:
    """Move the foreign files and folders of a replaced stage's folder into the new one, and delete its own.

    Raises:
        DataError: somebody has put a file of the same name into the new one since.
    """
    own = own_files(old) | {REPLACED}
    parents = {str(parent) for name, _ in _named(old) for parent in Path(name).parents}
    for path in _entries(old):
        name = path.relative_to(old).as_posix()
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):
                path.rmdir()
                if name not in parents:
                    (new / name).mkdir(parents=True, exist_ok=True)
        elif name not in own:
            if os.path.lexists(new / name):
                raise DataError(
                    f"would replace {new / name}; uda wrote neither of them",
                    where=path,
                    fix="move one of the two away, then run the same command again",
                )
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, new / name)
        elif name not in (STAGE_FILE, REPLACED):
            path.unlink()
    (old / STAGE_FILE).unlink(missing_ok=True)
    (old / REPLACED).unlink()  # last: without it the folder would be foreign
    old.rmdir()


def _sweep(folder: Path) -> None:
    """Remove the unfinished files of a killed write."""
    for place in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        for left in unfinished(place):
            shutil.rmtree(left, ignore_errors=True)


def _listed(folder: Path) -> dict[str, Any]:
    """SHA-256 of the stage's files: of those that later stages may read, and of the others."""
    names = {path: path.relative_to(folder) for path in sorted(folder.rglob("*"))}
    files = {
        path: name
        for path, name in names.items()
        if path.is_file() and str(name) not in (STAGE_FILE, STARTED)
    }
    digests = {name.as_posix(): sha256_of(path) for path, name in files.items()}
    unread = {name.as_posix() for name in files.values() if name.parts[0] in UNREAD}
    return {
        "files": {name: digest for name, digest in digests.items() if name not in unread},
        "unread": {name: digest for name, digest in digests.items() if name in unread},
    }
