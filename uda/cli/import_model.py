"""``uda import``: a network of one's own becomes a model file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from uda.cli.options import amounts_of


def import_(
    network: Annotated[
        Path, typer.Argument(help="Program of torch.export.save (.pt2) or torch.jit.save.")
    ],
    card: Annotated[
        str, typer.Option(help="Card of the images it was trained on: classes and preparation.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for model.safetensors.")],
    weights: Annotated[
        Path | None, typer.Option(help="State dict (.safetensors, .pt) to put into the program.")
    ] = None,
    one_logit: Annotated[
        bool, typer.Option("--one-logit", help="It answers with one logit, of class 1 of two.")
    ] = False,
    output: Annotated[
        str, typer.Option(help="Key or position of the logits among several outputs.")
    ] = "",
    ratio: Annotated[
        list[str] | None,
        typer.Option(help="Share of a structure in training images, e.g. lv=0.04; for priors."),
    ] = None,
    patch: Annotated[
        str, typer.Option(help="A 3-D network's slices, rows, columns, e.g. 32,96,96.")
    ] = "",
) -> None:
    """Turn a trained PyTorch network into a model that adapt, predict, evaluate and prior take."""
    size, shares = _patch(patch), amounts_of(ratio, "--ratio", "share, e.g. lv=0.04")
    from uda.networks.importing import import_model
    from uda.networks.model_file import load_model

    path = import_model(
        network,
        out,
        card=card,
        weights=weights,
        one_logit=one_logit,
        output=int(output) if output.isdecimal() else output or None,
        class_ratio=shares,
        spatial_dims=2 if size is None else 3,
        patch=size,
    )
    _, info = load_model(path)
    typer.echo(f"{path}: {len(info.classes)} classes ({', '.join(info.classes)})")
    typer.echo(f"weights: {info.origin['weights']}")


def _patch(text: str) -> tuple[int, ...] | None:
    parts = text.split(",") if text else []
    if parts and (len(parts) != 3 or not all(part.strip().isdecimal() for part in parts)):
        raise typer.BadParameter(f"--patch is {text!r}; expected three numbers such as 32,96,96")
    return tuple(int(part) for part in parts) or None
