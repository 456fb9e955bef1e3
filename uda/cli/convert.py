"""``uda convert`` and ``uda tags``: a card's data in another form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Card = Annotated[str, typer.Argument(help="Card: a name of `uda list`, or a .yaml file.")]
Root = Annotated[Path | None, typer.Option(help="Folder the card's root is relative to.")]


def convert(
    card: Card,
    out: Annotated[
        Path, typer.Option(help="Folder of the records, and of a card that reads them.")
    ],
    root: Root = None,
) -> None:
    """Write a card's prepared slices as TFRecords and npz test volumes, the form of the cardiac literature."""
    from uda.config.loading import load_card
    from uda.data.convert import convert_to_records

    written = convert_to_records(load_card(card), root, out, lambda path: typer.echo(str(path)))
    typer.echo(f"card: {written}")


def tags(
    card: Card,
    root: Root = None,
    split: Annotated[str, typer.Option(help="Split of the card.")] = "adapt",
    out: Annotated[
        Path | None, typer.Option(help="The CSV. Default: where the card expects its tags.")
    ] = None,
) -> None:
    """Read off labels which structures each slice shows; priors made of it say `target_tags`."""
    from uda.config.loading import load_card
    from uda.data.convert import write_tags

    typer.echo(f"tags: {write_tags(load_card(card), root, split, out)}")
