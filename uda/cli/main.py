"""The command line: parse, call, print, exit code: 0 done, 1 failed, 2 bad input, 3 nothing was safe and better."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from uda.cli.check import check
from uda.cli.convert import convert, tags
from uda.cli.import_model import import_
from uda.cli.options import (
    Allow,
    Device,
    Out,
    Overrides,
    Quiet,
    RecipeName,
    Restart,
    compute_on,
    recipe_of,
    run_stages,
    run_until,
    seeds_of,
    tell_fallbacks,
)
from uda.cli.predict import predict
from uda.cli.printing import print_page, print_seeds, print_table
from uda.cli.prior import prior
from uda.config.methods import DEFAULT, OWN

app = typer.Typer(
    name="uda",
    help="Adapt a trained segmentation network to images nobody has labelled.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Out = None,
    seeds: Annotated[
        str, typer.Option(help="Several seeds, e.g. 0,1,2: one run each, then mean ± sd over them.")
    ] = "",
    restart: Restart = False,
    allow_fallback: Allow = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Run a recipe: pretrain, priors, adapt, evaluate, report. What is complete is skipped."""
    from uda.pipeline.run import default_out

    base = recipe_of(recipe, [*(overrides or []), f"compute.device={device}"])
    folder = out or default_out(base)
    if not seeds:
        done = run_stages(base, folder, None, restart, quiet)
        print_table(folder)
        tell_fallbacks([one.folder for one in done], allow_fallback)
        return
    from uda.config.loading import override
    from uda.files.links import check_output

    check_output(folder)
    folders, stages = [], []
    for seed in seeds_of(seeds):
        folders.append(folder / f"seed-{seed}")
        done = run_stages(override(base, [f"seed={seed}"]), folders[-1], None, restart, quiet)
        stages += [one.folder for one in done]
    print_seeds(folders, folder / "seeds.json")
    tell_fallbacks(stages, allow_fallback)


@app.command()
def pretrain(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Out = None,
    restart: Restart = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train a recipe's network on its labelled source."""
    run_until(recipe, overrides, "pretrain", out, restart, device, quiet)


app.command()(prior)


@app.command()
def adapt(
    recipe: Annotated[str | None, typer.Argument(help="Recipe whose variants to run.")] = None,
    overrides: Overrides = None,
    only: Annotated[str, typer.Option(help="One variant of the recipe.")] = "",
    model: Annotated[
        Path | None, typer.Option(help="Your trained model, instead of a recipe.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option(help="Your unlabelled images: a folder, or a pattern in quotes.")
    ] = None,
    method: Annotated[str, typer.Option(help=f"One of {', '.join(OWN)}.")] = DEFAULT,
    prior: Annotated[
        Path | None, typer.Option(help="prior.json; default: the model's own.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Change of the method, e.g. steps=200.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    out: Out = None,
    restart: Restart = False,
    allow_fallback: Allow = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Adapt: a recipe's variants, or your own model to your own folder of images."""
    if model is None:
        if recipe is None:
            raise typer.BadParameter("give a recipe, or --model and --target")
        stage = f"adapt-{only}" if only else "adapt"
        run_until(recipe, overrides, stage, out, restart, device, quiet, allow_fallback)
        return
    if target is None:
        raise typer.BadParameter("--model needs --target, your images")
    from uda import api
    from uda.priors import Prior

    path = api.adapt(
        model,
        target,
        out or Path("checkpoints") / f"{target.resolve().name.strip('*._')}-{method}",
        method=method,
        overrides=setting or [],
        prior=None if prior is None else Prior.load(prior),
        seed=seed,
        compute=compute_on(device),
        restart=restart,
        quiet=quiet,
    )
    typer.echo(f"adapted model: {path}")
    print_page(path.parent)
    tell_fallbacks([path.parent], allow_fallback)


@app.command()
def evaluate(
    recipe: Annotated[str | None, typer.Argument(help="Recipe whose table to make.")] = None,
    overrides: Overrides = None,
    model: Annotated[Path | None, typer.Option(help="A model, instead of a recipe.")] = None,
    card: Annotated[str, typer.Option(help="Card of the labelled images to score it on.")] = "",
    root: Annotated[
        Path | None, typer.Option(help="Folder the card's root is relative to.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the card.")] = "test",
    out: Out = None,
    restart: Restart = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Score a recipe's rows, or one model, structure by structure, on labelled cases."""
    if model is None:
        if recipe is None:
            raise typer.BadParameter("give a recipe, or --model and --card")
        print_table(run_until(recipe, overrides, "evaluate", out, restart, device, quiet))
        return
    if not card:
        raise typer.BadParameter("--model needs --card")
    from uda.api import evaluate_model

    folder = out or Path("checkpoints") / f"{model.resolve().stem}-on-{Path(card).stem}"
    evaluate_model(model, card, root, folder, split=split, compute=compute_on(device))
    print_table(folder)


app.command()(predict)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folder; several seeds give mean ± sd.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the page. Default: <run>/report.")
    ] = None,
) -> None:
    """Print the table of a run and write its page; for several seeds print mean ± sd over them."""
    if len(runs) > 1:
        print_seeds(runs, None)
        return
    from uda.report.page import write_report

    write_report(runs[0], out or runs[0] / "report")
    print_table(runs[0], out)


app.command()(check)
app.command(name="import")(import_)
app.command()(convert)
app.command()(tags)


@app.command()
def show(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Print a recipe with every default and change filled in; the output is a recipe itself."""
    from uda.config.loading import show as resolved

    typer.echo(resolved(recipe_of(recipe, overrides or [])), nl=False)


@app.command(name="list")
def list_() -> None:
    """List the recipes and cards that can be used by name."""
    from uda.config.loading import available, read_yaml

    for kind in ("recipe", "card"):
        typer.echo(f"{kind}s")
        for name, path in available(kind).items():
            typer.echo(f"  {name:<24} {read_yaml(path).get('title', '')}")


def main() -> None:
    """Entry point: user errors become one message and an exit code. Of several processes the first one speaks."""
    from uda.devices.distributed import launched, repeated
    from uda.errors import UdaError
    from uda.training.signals import Stopped, heeded

    try:
        if not launched().first:
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        with heeded():
            app()
    except Stopped as stop:
        if launched().first:
            typer.echo(stop, err=True)
        sys.exit(stop.exit_code)
    except UdaError as error:
        if not repeated(error):
            typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on from the last checkpoint", err=True)
        sys.exit(130)
    except Exception as error:
        if os.environ.get("UDA_DEBUG"):
            raise
        if isinstance(error, OSError):
            typer.echo(f"error: the disk or the system refused: {error}", err=True)
            typer.echo(
                "  fix:      make room or give permission; the same command goes on", err=True
            )
            sys.exit(1)
        typer.echo(f"unexpected {type(error).__name__}: {error}", err=True)
        typer.echo("this is a fault of uda; UDA_DEBUG=1 shows where it happened", err=True)
        sys.exit(1)
