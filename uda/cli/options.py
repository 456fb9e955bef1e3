"""What the verbs share: options that read alike everywhere, and running a recipe up to a stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from uda.config.recipe import Compute, Recipe
    from uda.pipeline.stage import Done

RecipeName = Annotated[str, typer.Argument(help="Recipe: a name of `uda list`, or a .yaml file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Changes such as seed=1 or adapt.*.steps=200.")
]
Out = Annotated[Path | None, typer.Option(help="Run folder. Default: checkpoints/<recipe>.")]
Restart = Annotated[bool, typer.Option("--restart", help="Forget what was done and do it again.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Allow = Annotated[
    bool, typer.Option(help="Exit with 0 instead of 3 where nothing was safe and better.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


def recipe_of(name: str, overrides: Sequence[str]) -> Recipe:
    """The recipe of that name with its changes."""
    from uda.config.loading import load_recipe

    return load_recipe(name, overrides)


def compute_on(device: str) -> Compute:
    """Settings for a device named on the command line."""
    from uda.config.loading import parse
    from uda.config.recipe import Compute

    return parse(Compute, {"device": device}, "--device")


def run_until(
    recipe: str,
    overrides: Sequence[str] | None,
    stage: str,
    out: Path | None,
    restart: bool,
    device: str,
    quiet: bool,
    allow_fallback: bool = True,
) -> Path:
    """Run a recipe up to a stage; returns the run's folder."""
    from uda.pipeline.run import default_out

    resolved = recipe_of(recipe, [*(overrides or []), f"compute.device={device}"])
    folder = out or default_out(resolved)
    done = run_stages(resolved, folder, stage, restart, quiet)
    tell_fallbacks([one.folder for one in done], allow_fallback)
    return folder


def run_stages(
    recipe: Recipe, out: Path, until: str | None, restart: bool, quiet: bool
) -> list[Done]:
    """Run a recipe, saying on stderr what it does."""
    from uda.pipeline import run as pipeline

    def announce(stage: str, state: str) -> None:
        if state == "run" or not quiet:
            typer.echo(f"{stage:<24} {'complete, skipped' if state == 'skip' else '…'}", err=True)

    return pipeline.run(recipe, out, until=until, restart=restart, quiet=quiet, announce=announce)


def tell_fallbacks(folders: Sequence[Path], allowed: bool) -> None:
    """Say which of these stages kept what was there before adaptation; the command then ends with exit code 3.

    Args:
        allowed: end with 0 all the same.
    """
    from uda.files.stage_folder import StageFolder

    found = False
    for folder in folders:
        said = (StageFolder(folder, "").recorded() or {}).get("selection", {})
        if said.get("fallback"):
            found = True
            text = f"{folder.name}: kept {said['kept']}, the model before adaptation: {said['why']}"
            typer.echo(text, err=True)
    if found and not allowed:
        raise typer.Exit(3)


def seeds_of(text: str) -> list[int]:
    """The numbers of ``--seeds``."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise typer.BadParameter(f"--seeds is {text!r}; expected numbers such as 0,1,2")
    return [int(part) for part in parts]


def amounts_of(values: Sequence[str] | None, flag: str, unit: str) -> dict[str, float] | None:
    """The numbers of a repeated ``structure=number`` option; None when it is not given."""
    amounts = {}
    for value in values or ():
        name, equals, number = value.partition("=")
        try:
            amounts[name] = float(number)
        except ValueError:
            equals = ""
        if not equals:
            raise typer.BadParameter(f"{flag} is {value!r}; expected structure={unit}")
    return amounts or None
