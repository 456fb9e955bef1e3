"""``uda prior``: a recipe's priors, or one for a model of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uda.cli.options import (
    Device,
    Overrides,
    Quiet,
    Restart,
    amounts_of,
    compute_on,
    recipe_of,
    run_until,
)

if TYPE_CHECKING:
    from uda.priors import Prior

Amounts = list[str] | None


def prior(
    recipe: Annotated[str | None, typer.Argument(help="Recipe whose priors to make.")] = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; with --model the prior.json to write.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="A trained model, instead of a recipe.")
    ] = None,
    tags: Annotated[
        Path | None, typer.Option(help="CSV case,slice,<structures> of 0 and 1.")
    ] = None,
    ml: Annotated[Amounts, typer.Option(help="Volume of a structure, e.g. lv=120.")] = None,
    mm2: Annotated[
        Amounts, typer.Option(help="Mean area of a structure over all slices, e.g. lv=900.")
    ] = None,
    sizes: Annotated[
        Path | None, typer.Option(help="CSV val_ids,<column> of pixel counts per image.")
    ] = None,
    column: Annotated[str, typer.Option(help="Column of the CSV with the lists of counts.")] = "",
    predicted: Annotated[
        bool, typer.Option("--predicted", help="From the model's own predictions.")
    ] = False,
    nearest: Annotated[
        bool, typer.Option("--nearest", help="Per image, from the nearest source images.")
    ] = False,
    logistic: Annotated[
        bool, typer.Option("--logistic", help="Per image, by logistic regression on the source.")
    ] = False,
    ridge: Annotated[
        bool, typer.Option("--ridge", help="Per image, by ridge regression on the source.")
    ] = False,
    landmarks: Annotated[
        bool,
        typer.Option(
            "--landmarks", help="Per image, with classes (and a PNG) of the surest superpixels."
        ),
    ] = False,
    spatial: Annotated[
        bool,
        typer.Option(
            "--spatial", help="With maps (and a PNG) of where each class lies in the source."
        ),
    ] = False,
    target: Annotated[
        Path | None,
        typer.Option(help="Target images; for ml, mm2, sizes, predicted and the kinds per image."),
    ] = None,
    source: Annotated[
        str, typer.Option(help="Card of the labelled source; for spatial and the kinds per image.")
    ] = "",
    root: Annotated[
        Path | None, typer.Option(help="Folder the card's root is relative to.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Change of the kind, e.g. sigma=2.")
    ] = None,
    restart: Restart = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Make priors: a recipe's, or one for your own model (default: from its training labels)."""
    flags = {
        "--tags": tags,
        "--ml": ml,
        "--mm2": mm2,
        "--sizes": sizes,
        "--predicted": predicted,
        "--nearest": nearest,
        "--logistic": logistic,
        "--ridge": ridge,
        "--landmarks": landmarks,
        "--spatial": spatial,
    }
    asked = [flag for flag, value in flags.items() if value]
    if model is None:
        _recipes_priors(recipe, overrides, asked, out, restart, device, quiet)
        return
    if recipe is not None:
        raise typer.BadParameter("give a recipe or --model, not both")
    if len(asked) > 1:
        raise typer.BadParameter(f"one kind of prior at a time, got {' and '.join(asked)}")
    if not asked and (source or target):
        raise typer.BadParameter(f"say what to make of them: one of {', '.join(flags)}")
    image_level = {"--nearest": "nearest", "--logistic": "logistic", "--ridge": "ridge"}
    volumes, areas = amounts_of(ml, "--ml", "millilitres"), amounts_of(mm2, "--mm2", "mm²")
    from uda.api import estimate_prior
    from uda.priors import PRIOR_FILE

    made = estimate_prior(
        model,
        tags=tags,
        sizes_ml=volumes,
        areas_mm2=areas,
        sizes_csv=sizes,
        column=column or None,
        predicted=predicted,
        image_level=image_level.get(asked[0]) if asked else None,
        landmarks=landmarks,
        spatial=spatial,
        target=target,
        source=source or None,
        root=root,
        overrides=setting or (),
        compute=compute_on(device),
    )
    path = out or Path(PRIOR_FILE)
    made.save(path)
    _print(path, made)


def _recipes_priors(
    recipe: str | None,
    overrides: Sequence[str] | None,
    asked: Sequence[str],
    out: Path | None,
    restart: bool,
    device: str,
    quiet: bool,
) -> None:
    """Make and print the priors that a recipe names."""
    if recipe is None:
        raise typer.BadParameter("give a recipe, or --model")
    if asked:
        raise typer.BadParameter(f"{asked[0]} is for --model; a recipe names its priors itself")
    folder = run_until(recipe, overrides, "prior", out, restart, device, quiet)
    from uda.priors import PRIOR_FILE, Prior

    for name in recipe_of(recipe, overrides or []).prior:
        path = folder / f"prior-{name}" / PRIOR_FILE
        _print(path, Prior.load(path))


def _print(path: Path, made: Prior) -> None:
    shares = ", ".join(f"{n} {r:.4g}" for n, r in zip(made.classes, made.ratio, strict=True))
    typer.echo(f"{path}: {shares} ({', '.join(made.supervision)})")
