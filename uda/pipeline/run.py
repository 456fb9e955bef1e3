"""Running a recipe: those of its stages that are missing or changed.

Stages talk through files. A stage's hash covers its settings, the content of the files it reads and its
parents' hashes, so a change reruns exactly what hangs on it.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uda.config.recipe import Recipe
from uda.devices.device import check_processes, make_fabric, memory_for
from uda.devices.distributed import on_first, world
from uda.devices.global_batch import rows_of
from uda.errors import ConfigError, DataError, nearest
from uda.files.atomic import fingerprint
from uda.files.links import check_links
from uda.files.stage_folder import StageFolder, lock
from uda.pipeline.environment import environment
from uda.pipeline.plan import Stage, plan


@dataclass(frozen=True)
class Done:
    """A stage after the run: its folder, and whether it had to work."""

    name: str
    folder: Path
    ran: bool
    seconds: float


def default_out(recipe: Recipe) -> Path:
    """Where a recipe's run lands unless told otherwise."""
    return Path("checkpoints") / recipe.name


def run(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    until: str | None = None,
    restart: bool = False,
    quiet: bool = True,
    announce: Callable[[str, str], object] = lambda stage, state: None,
) -> list[Done]:
    """Run what is missing or changed, up to the stages whose name starts with ``until``.

    A killed run goes on where its last checkpoint was; ``restart`` forgets everything that would be run.

    Args:
        announce: called with a stage's name and ``"skip"`` or ``"run"`` before it.

    Raises:
        UdaError: whatever a stage cannot do; complete stages stay as they are.
    """
    out = default_out(recipe) if out is None else Path(out)
    stages = plan(recipe, out, quiet)
    wanted = _needed(stages, until)
    _check_shared(recipe)
    make_fabric(recipe.compute)  # a device that is not there is refused before anything is written
    hashes: dict[str, str] = {}
    done = []
    parts = [name for stage in stages for name in (stage.name, f".{stage.name}.*")]
    with contextlib.ExitStack() as held:
        on_first(lambda: check_links(out, ["store", *parts]))
        on_first(lambda: held.enter_context(lock(out)))
        for stage in stages:
            if stage.name in wanted:
                fresh = restart and stage.name in _selected(stages, until)
                done.append(_execute(stage, out, hashes, recipe, fresh, announce))
    return done


def _check_shared(recipe: Recipe) -> None:
    """Refuse what the processes that are there cannot share.

    Raises:
        ConfigError: other processes were asked for, or a batch that they cannot share evenly.
    """
    check_processes(recipe.compute)
    trainings = {"pretrain": recipe.pretrain.batch}
    trainings |= {f"adapt.{name}": variant.batch for name, variant in recipe.adapt.items()}
    for name, batch in trainings.items():
        rows_of(batch, f"{name}.batch")


def _selected(stages: Sequence[Stage], until: str | None) -> list[str]:
    """Stages that ``until`` names: itself, or all of its kind (``adapt`` for every variant)."""
    names = [stage.name for stage in stages]
    if until is None:
        return names
    chosen = [n for n in names if n == until or n.split("-")[0] == until]
    if not chosen:
        raise ConfigError(f"the recipe has no stage {until!r}", expected=nearest(until, names))
    return chosen


def _needed(stages: Sequence[Stage], until: str | None) -> set[str]:
    """The selected stages and everything they hang on."""
    needed = set(_selected(stages, until))
    for stage in reversed(stages):
        if stage.name in needed:
            needed |= set(stage.parents)
    return needed


def _execute(
    stage: Stage,
    out: Path,
    hashes: dict[str, str],
    recipe: Recipe,
    restart: bool,
    announce: Callable[[str, str], object],
) -> Done:
    parents = {name: hashes[name] for name in stage.parents}
    base = {"stage": stage.name, "settings": stage.settings, "parents": parents}
    data, work = on_first(lambda: _begin(stage, out, base, restart))
    hashes[stage.name] = hash_ = fingerprint({**base, "data": data})
    folder = StageFolder(out / stage.name, hash_)
    here = world()
    if here.first:
        announce(stage.name, "skip" if work is None else "run")
    if work is None:
        return Done(stage.name, folder.path, False, 0.0)
    started = time.monotonic()
    with memory_for(stage.name):
        record = stage.body(work) if stage.shared else on_first(lambda: stage.body(work))
    seconds = time.monotonic() - started
    processes = {} if here.size == 1 else {"processes": here.size}
    on_first(
        lambda: folder.commit(
            {
                **base,
                "hash": hash_,
                "data": data,
                **record,
                "seconds": round(seconds, 2),
                "environment": {**environment(recipe.compute), **processes},
            }
        )
    )
    return Done(stage.name, folder.path, True, seconds)


def _begin(
    stage: Stage, out: Path, base: dict[str, Any], restart: bool
) -> tuple[dict[str, str], Path | None]:
    """The hashes of a stage's files, and the folder to work in; none where the stage is complete."""
    recorded = StageFolder(out / stage.name, "").recorded()
    try:
        data = stage.data()
    except DataError:
        if restart or recorded is None or {k: recorded.get(k) for k in base} != _plain(base):
            raise
        data = recorded["data"]  # the files are gone, but this stage was complete with them
    hash_ = fingerprint({**base, "data": data})
    folder = StageFolder(out / stage.name, hash_)
    recorded = folder.recorded()
    if recorded is not None and recorded.get("hash") == hash_ and not restart:
        return data, None
    for parent in stage.parents:
        StageFolder(out / parent, "").check()
    return data, folder.begin(restart)


def _plain(value: Any) -> Any:
    """A value as it comes back from JSON."""
    return json.loads(json.dumps(value))
