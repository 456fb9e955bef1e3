"""What the verbs share: options with one name and one meaning, and running a recipe up to a stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from uda.config.postprocess import Postprocess
    from uda.config.recipe import Compute, Recipe
    from uda.pipeline.stage_protocol import Done

RecipeName = Annotated[str, typer.Argument(help="Recipe: a name from `uda list`, or a .yaml file.")]
Result = Annotated[
    Path | None,
    typer.Option(
        help="Run folder; with --model the folder of the result. Default: one in checkpoints/."
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Changes, e.g. seed=1 or adapt.*.steps=200.")
]
CardName = Annotated[str, typer.Argument(help="Card: a name from `uda list`, or a .yaml file.")]
Root = Annotated[
    Path | None, typer.Option(help="Folder of the data; the card's root is relative to it.")
]
Out = Annotated[Path | None, typer.Option(help="Run folder. Default: checkpoints/<recipe>.")]
Restart = Annotated[bool, typer.Option("--restart", help="Do complete work again, too.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Allow = Annotated[
    bool,
    typer.Option(
        "--allow-fallback", help="Exit with 0, not 3, if no adapted model was safe and better."
    ),
]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code", help="Run a TorchScript network: code that can do whatever you can."
    ),
]
Steps = Annotated[
    list[str] | None,
    typer.Option(
        "--postprocess",
        metavar="STEP=VALUE",
        help="Post-processing: recommended, or views=5, smooth=0.8, largest=true, holes=true.",
    ),
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


def steps_of(given: Sequence[str] | None) -> Postprocess:
    """Post-processing as the command line gives it: ``recommended``, and single steps."""
    from uda.config.loading import override
    from uda.config.postprocess import NO_STEPS, steps_named

    steps = NO_STEPS
    for text in given or ():
        steps = override(steps, [text]) if "=" in text else steps_named(text)
    return steps


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
    exit_on_fallback([one.folder for one in done], allow_fallback)
    return folder


def run_stages(
    recipe: Recipe,
    out: Path,
    until: str | None,
    restart: bool,
    quiet: bool,
    rows: Sequence[str] = (),
) -> list[Done]:
    """Run a recipe and name each stage on stderr."""
    from uda.pipeline import run as pipeline

    def announce(stage: str, state: str) -> None:
        if state == "run" or not quiet:
            typer.echo(f"{stage:<24} {'complete, skipped' if state == 'skip' else '…'}", err=True)

    return pipeline.run(
        recipe, out, until=until, rows=rows, restart=restart, quiet=quiet, announce=announce
    )


UNADAPTED = {
    "source": "the source model, unchanged",
    "adabn": "AdaBN, the source model with BatchNorm statistics of the target",
}


def exit_on_fallback(stages: Sequence[Path], allowed: bool) -> None:
    """Name on stderr the stages that kept the model before adaptation; exit with 3 if there is one.

    Args:
        allowed: go on all the same.
    """
    from uda.errors import visible
    from uda.files.stage_folder import StageFolder

    found = False
    for folder in stages:
        selection = (StageFolder(folder, "").recorded() or {}).get("selection", {})
        if selection.get("fallback"):
            found = True
            model = UNADAPTED[selection["kept"]]
            typer.echo(visible(f"{folder.name}: kept {model}: {selection['why']}"), err=True)
    if found:
        fix = "use it as it is (--allow-fallback makes the exit code 0), or try another method or a prior"
        typer.echo(f"  fix:      {fix}", err=True)
    if found and not allowed:
        raise typer.Exit(3)
