"""``uda suggest``: which cases and slices to annotate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uda.cli.options import Device, TrustCode, compute_on
from uda.cli.printing import print_wide

if TYPE_CHECKING:
    from uda.prediction.suggestion import Opinions, Suggestion


def suggest(
    model: Annotated[Path, typer.Option(help="model.safetensors, or the folder that holds it.")],
    images: Annotated[Path, typer.Option(help="Images: a folder, or a pattern in quotes.")],
    k: Annotated[int, typer.Option("--k", help="Number of cases.")] = 3,
    slices: Annotated[int, typer.Option(help="Number of slices in each case.")] = 3,
    out: Annotated[Path, typer.Option(help="CSV to write.")] = Path("suggestions.csv"),
    other: Annotated[
        Path | None,
        typer.Option("--with", help="Another model to compare with, such as the source model."),
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Folder of `uda predict` to compare with.")
    ] = None,
    trust_code: TrustCode = False,
    device: Device = "auto",
) -> None:
    """Say which cases, and which slices of these, to annotate.

    Those where the model's predictions of changed copies of an image disagree, spread over kinds of images.
    """
    from uda import api
    from uda.errors import visible

    def told(one: Opinions) -> None:
        said = f"{one.case}: disagreement {one.doubt:.2f}"
        typer.echo(visible(said), err=True)

    found = api.suggest(
        model,
        images,
        out,
        k=k,
        slices=slices,
        other=other,
        predictions=predictions,
        compute=compute_on(device),
        trust_code=trust_code,
        done=told,
    )
    _print(found)
    typer.echo(f"suggestions: {out}")


def _print(found: Sequence[Suggestion]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="annotate first")
    for column in ("rank", "case", "slice", "score", "why"):
        numbers = column in ("rank", "slice", "score")
        table.add_column(column, justify="right" if numbers else "left")
    case = ""
    for one in found:
        of_slice, _, of_case = one.why.partition("; case: ")
        why = [of_slice.removeprefix("slice: ")] + ([of_case] if one.case != case else [])
        cells = (str(one.rank), one.case, str(one.slice), f"{one.score:.2f}", "\n".join(why))
        table.add_row(*map(Text, cells))
        case = one.case
    print_wide(table)
