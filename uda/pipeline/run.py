"""Run a recipe: those of its stages that are missing or changed.

Stages exchange files. A stage's hash covers its settings, the content of the files it reads, its parents' hashes and
what they wrote, so a change reruns exactly the stages that depend on it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from uda.config.recipe import Recipe
from uda.devices.device import check_processes, make_fabric
from uda.devices.distributed import on_first
from uda.devices.global_batch import rows_of
from uda.errors import ConfigError, nearest
from uda.files.apart import check_apart
from uda.files.links import check_links
from uda.files.output import lock
from uda.files.stage_folder import check_places
from uda.pipeline.domains import Domains
from uda.pipeline.plan import plan
from uda.pipeline.stage_protocol import Done, Stage, run_stage


def default_out(recipe: Recipe) -> Path:
    """Default output folder of a recipe."""
    return Path("checkpoints") / recipe.name


def run(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    until: str | None = None,
    rows: Sequence[str] = (),
    restart: bool = False,
    quiet: bool = True,
    announce: Callable[[str, str], object] = lambda stage, state: None,
) -> list[Done]:
    """Run the stages that are missing or changed.

    A killed run resumes from its last checkpoint.

    Args:
        out: folder of the run; by default ``checkpoints/<name of the recipe>``.
        until: the last stage, or a kind of stages such as ``adapt``; only these and their parents run.
        rows: of the table; the others are left out, and so are the stages that only they need. ``source_only`` and
            ``adabn`` are always there, and those of every source training that a row starts from. Default: every row.
        restart: run the stages of ``until`` again from the start, even complete ones.
        announce: called before each stage with its name and ``"skip"`` or ``"run"``.

    Returns:
        the stages in their order, run or skipped.

    Raises:
        UdaError: a stage fails; complete stages stay as they are.
    """
    out = default_out(recipe) if out is None else Path(out)
    recipe = with_rows(recipe, rows) if rows else recipe
    stages = plan(recipe, out, quiet)
    wanted = _needed(stages, until)
    _check_shared(recipe)
    make_fabric(recipe.compute)  # refuses a missing device before anything is written
    domains = Domains(recipe, out)
    on_first(domains.check_splits)
    hashes: dict[str, str] = {}
    done: list[Done] = []
    parts = [name for stage in stages for name in (stage.name, f".{stage.name}.*")]
    with contextlib.ExitStack() as held:
        on_first(lambda: check_apart(out, domains.folders()))
        on_first(lambda: check_links(out, ["store", *parts]))
        on_first(lambda: held.enter_context(lock(out)))
        on_first(lambda: domains.check_annotations(wanted))
        on_first(lambda: check_places(out / stage.name for stage in stages if stage.name in wanted))
        for stage in stages:
            if stage.name in wanted:
                one = run_stage(
                    stage,
                    out / stage.name,
                    {name: hashes[name] for name in stage.parents},
                    recipe.compute,
                    restart=restart and stage.name in _selected(stages, until),
                    read=[out / name for name in stage.parents],
                    announce=announce,
                )
                if domains.rendered and stage is stages[0]:  # only now are patterns known to fit
                    on_first(domains.check_splits)
                hashes[stage.name] = one.hash
                done.append(one)
    return done


def with_rows(recipe: Recipe, rows: Sequence[str]) -> Recipe:
    """The recipe with these rows alone, and the priors that they use.

    Raises:
        ConfigError: the recipe has no such row.
    """
    supervised = ["target_supervised"] if recipe.target_supervised else []
    first = [f"{source}_{row}" for source in recipe.sources for row in ("source_only", "adabn")]
    known = ["source_only", "adabn", *first, *recipe.variants, *supervised]
    if unknown := [row for row in rows if row not in known]:
        off = unknown[0] == "target_supervised"
        raise ConfigError(
            f"recipe {recipe.name!r} has no row {unknown[0]!r}",
            where="--rows",
            expected=nearest(unknown[0], known),
            fix="add target_supervised=true to the command" if off else None,
        )
    adapt = {
        name: variant.model_copy(update={"source": source})
        for name, (source, variant) in recipe.variants.items()
        if name in rows
    }
    used = {variant.prior for variant in adapt.values()}
    begun = {v.source for v in adapt.values()} | {row.rpartition("_source_only")[0] for row in rows}
    begun |= {row.rpartition("_adabn")[0] for row in rows}
    return recipe.model_copy(
        update={
            "adapt": adapt,
            "sources": {name: one for name, one in recipe.sources.items() if name in begun},
            "prior": {name: spec for name, spec in recipe.prior.items() if name in used},
            "target_supervised": "target_supervised" in rows,
        }
    )


def _check_shared(recipe: Recipe) -> None:
    """Check the number of processes and that every batch splits evenly among them.

    Raises:
        ConfigError: another number of processes was requested, or a batch does not split evenly.
    """
    check_processes(recipe.compute)
    trainings = {"pretrain": recipe.pretrain.batch}
    trainings |= {f"sources.{name}": one.batch for name, one in recipe.sources.items()}
    trainings |= {f"adapt.{name}": variant.batch for name, variant in recipe.adapt.items()}
    for name, batch in trainings.items():
        rows_of(batch, f"{name}.batch")


def _selected(stages: Sequence[Stage], until: str | None) -> list[str]:
    """Names of the stage ``until``, or of all stages of that kind (``adapt`` for every variant)."""
    names = [stage.name for stage in stages]
    if until is None:
        return names
    chosen = [n for n in names if n == until or n.split("-")[0] == until]
    if not chosen:
        raise ConfigError(f"the recipe has no stage {until!r}", expected=nearest(until, names))
    return chosen


def _needed(stages: Sequence[Stage], until: str | None) -> set[str]:
    """Names of the selected stages and of all stages that they depend on."""
    needed = set(_selected(stages, until))
    for stage in reversed(stages):
        if stage.name in needed:
            needed |= set(stage.parents)
    return needed
