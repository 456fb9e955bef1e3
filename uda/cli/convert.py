"""``uda convert``, ``uda tags`` and ``uda simulate``: a card's data in another form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from uda.cli.options import CardName, Root


def convert(
    card: CardName,
    out: Annotated[Path, typer.Option(help="Folder for the records and the card that reads them.")],
    root: Root = None,
) -> None:
    """Write a card's prepared slices as TFRecords and npz test volumes.

    Work on cardiac MR and CT shares its data in this form.
    """
    from uda.config.loading import load_card
    from uda.data.convert import convert_to_records

    written = convert_to_records(load_card(card), root, out, lambda path: typer.echo(str(path)))
    typer.echo(f"card: {written}")


def tags(
    card: CardName,
    root: Root = None,
    split: Annotated[str, typer.Option(help="Split of the card.")] = "adapt",
    out: Annotated[
        Path | None, typer.Option(help="CSV to write. Default: where the card looks for its tags.")
    ] = None,
) -> None:
    """Write which structures each slice shows, read from its labels.

    A prior of these tags is marked `target_tags` in every table.
    """
    from uda.config.loading import load_card
    from uda.data.convert import write_tags

    typer.echo(f"tags: {write_tags(load_card(card), root, split, out)}")


def simulate(
    card: CardName,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    root: Root = None,
    split: Annotated[str, typer.Option(help="Split of the card.")] = "adapt",
    kinds: Annotated[
        str, typer.Option(help="Any of points, scribbles, boxes, partial, labels.")
    ] = "points,scribbles,boxes",
    partial: Annotated[
        str, typer.Option(help="Structures of the partial labels. Default: the first.")
    ] = "",
    by_file: Annotated[
        bool,
        typer.Option(
            "--by-file",
            help="For `uda adapt --model`: cases called like their files, classes by index.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the clicks.")] = 0,
) -> None:
    """Write annotations that somebody could have drawn, made from a card's labels.

    They show what annotations are worth before anybody draws. Training on them is supervision.
    """
    from uda.config.annotations import kinds_named
    from uda.config.loading import load_card
    from uda.data.annotations.simulate import write_simulated

    chosen = kinds_named([word.strip() for word in kinds.split(",")])
    names = [name.strip() for name in partial.split(",") if name.strip()]
    folder = write_simulated(load_card(card), root, split, out, chosen, names, seed, by_file)
    typer.echo(f"annotations: {folder}")
