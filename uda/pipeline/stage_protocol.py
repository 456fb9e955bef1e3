"""Run one stage: hash its inputs, skip it if it is complete, work beside its folder, commit.

Recipes and :func:`uda.adapt` run their stages with it.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uda.config.recipe import Compute
from uda.devices.device import memory_for
from uda.devices.distributed import on_first, this_process
from uda.errors import DataError, RunError, UdaError
from uda.files.digests import fingerprint
from uda.files.stage_folder import StageFolder, content_of
from uda.pipeline.environment import environment


@dataclass(frozen=True)
class Stage:
    """A stage: its settings, parents, input files and work."""

    name: str
    settings: Any
    parents: tuple[str, ...]
    """names of the stages that it reads; all come before it in a plan"""
    data: Callable[[], dict[str, str]]
    """returns content hashes of the files it reads; raises DataError if they are missing, RunError if they changed"""
    body: Callable[[Path], dict[str, Any]]
    """writes the results into a folder and returns entries for ``stage.json``"""
    shared: bool = False
    """whether every process runs the body; otherwise the first process runs it alone"""
    also: dict[str, Any] = field(default_factory=dict)
    """further entries of ``stage.json`` that the hash covers"""
    page: Callable[[Path, dict[str, Any]], object] = lambda folder, record: None
    """writes a page into the finished folder from the content of ``stage.json``"""


@dataclass(frozen=True)
class Done:
    """A stage after the run: its folder, its hash, whether it ran, and its seconds (0 if it was skipped)."""

    name: str
    folder: Path
    hash: str
    ran: bool
    seconds: float


def run_stage(
    stage: Stage,
    path: Path,
    parents: dict[str, str],
    compute: Compute,
    *,
    restart: bool = False,
    read: Sequence[Path] = (),
    announce: Callable[[str, str], object] = lambda name, state: None,
) -> Done:
    """Run a stage unless its folder is complete with the same hash. The caller holds the folder's lock.

    Args:
        path: the stage's folder, complete or absent.
        parents: hashes of its parents by name.
        restart: run even if it is complete, and discard the unfinished work of a killed run.
        read: folders of other stages, whose files are compared with their recorded SHA-256. The hash covers these
            too, so a parent that was made again to other weights makes this stage run again.
        announce: called with the stage's name and ``"skip"`` or ``"run"``.

    Raises:
        UdaError: the stage fails; a complete folder stays as it was.
    """
    base = {"stage": stage.name, "settings": stage.settings, **stage.also, "parents": parents}
    inputs, hash_, work = on_first(lambda: _begin(stage, path, base, restart, read))
    here = this_process()
    if here.first:
        announce(stage.name, "skip" if work is None else "run")
    if work is None:
        return Done(stage.name, path, hash_, False, 0.0)
    started = time.monotonic()
    try:
        with memory_for(stage.name):
            entries = stage.body(work) if stage.shared else on_first(lambda: stage.body(work))
    except UdaError:
        if here.first:
            StageFolder(path, hash_).abandon()
        raise
    seconds = time.monotonic() - started
    processes = {} if here.size == 1 else {"processes": here.size}
    record = {
        **base,
        "hash": hash_,
        **inputs,
        **entries,
        "seconds": round(seconds, 2),
        "environment": {**environment(compute), **processes},
    }

    def commit() -> None:
        _check_inputs(stage, inputs["data"], read)
        stage.page(work, record)
        StageFolder(path, hash_).commit(record)

    on_first(commit)
    return Done(stage.name, path, hash_, True, seconds)


def _begin(
    stage: Stage, path: Path, base: dict[str, Any], restart: bool, read: Sequence[Path]
) -> tuple[dict[str, Any], str, Path | None]:
    """Hashes of what a stage reads, the stage's hash, and the folder to work in or None if the stage is complete."""
    recorded = StageFolder(path, "").recorded() or {}
    written = {"read": {folder.name: content_of(folder) for folder in read}} if read else {}
    older = "read" not in recorded  # stages from before parents' files were part of the hash
    try:
        data = stage.data()
    except DataError:
        same = base if older else {**base, **written}
        same_as = {key: recorded.get(key) for key in same}
        if restart or same_as != _plain(same) or not isinstance(recorded.get("data"), dict):
            raise
        data = recorded["data"]  # the files are missing, but the stage is complete and the same
    inputs = {"data": data, **written}
    if older and not restart and recorded.get("hash") == fingerprint({**base, "data": data}):
        inputs = {"data": data}
    hash_ = fingerprint({**base, **inputs})
    folder = StageFolder(path, hash_)
    complete = folder.recorded()
    if complete is not None and complete.get("hash") == hash_ and not restart:
        folder.check()
        return inputs, hash_, None
    for parent in read:
        StageFolder(parent, "").check()
    return inputs, hash_, folder.begin(restart)


def _check_inputs(stage: Stage, data: dict[str, str], read: Sequence[Path]) -> None:
    """Refuse to record a stage whose input files changed while it ran.

    Raises:
        ModelError, RunError: names the file of another stage, or the data.
    """
    for parent in read:
        StageFolder(parent, "").check()
    with contextlib.suppress(DataError):  # files that are gone after their use
        changed = [name for name, key in stage.data().items() if data.get(name) != key]
        if changed:
            raise RunError(
                f"{', '.join(changed)} changed while stage {stage.name!r} ran",
                expected="data that nobody edits during the run",
                fix="run the same command again",
            )


def _plain(value: Any) -> Any:
    """The value after a round trip through JSON."""
    return json.loads(json.dumps(value))
