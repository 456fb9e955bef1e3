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
    partial: Annotated[
        str, typer.Option(help="Structures that every second case has labels of, e.g. lv,aa.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed of the clicks.")] = 0,
) -> None:
    """Write points, scribbles, boxes and a few labels that somebody could have drawn, made from a card's labels.

    They show what annotations are worth before anybody draws. Training on them is supervision.
    """
    from uda.config.loading import load_card
    from uda.data.annotations.simulate import write_simulated

    names = [name.strip() for name in partial.split(",") if name.strip()]
    typer.echo(f"annotations: {write_simulated(load_card(card), root, split, out, names, seed)}")
