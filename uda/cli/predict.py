"""The verb `uda predict`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uda.cli.options import Device, compute_on

if TYPE_CHECKING:
    from uda.prediction.outcome import Outcome


def predict(
    model: Annotated[Path, typer.Option(help="model.safetensors, or the folder that holds it.")],
    images: Annotated[Path, typer.Option(help="NIfTI images: a folder, or a pattern in quotes.")],
    out: Annotated[Path, typer.Option(help="Folder for the label maps.")],
    entropy: Annotated[
        bool, typer.Option("--entropy", help="Also write maps of where the model is unsure.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Segment a folder of images; label maps lie on each image's own grid.

    report.html in the folder shows the cases that are not to be trusted first; exit code 0 all the same.
    """
    from uda import api

    outcomes = []
    for outcome in api.predict(model, images, out, entropy=entropy, compute=compute_on(device)):
        outcomes.append(outcome)
        if outcome.fault:
            typer.echo(f"{outcome.case}: {outcome.fault}", err=True)
        else:
            typer.echo(f"{outcome.case}: {outcome.file}{' (was there)' if outcome.skipped else ''}")
    _tell(outcomes, out)


def _tell(outcomes: Sequence[Outcome], out: Path) -> None:
    """Say on stderr, last and so to be seen, which cases not to trust and why; stdout has one line a label map."""
    from uda.prediction.outcome import ordered
    from uda.prediction.page import PAGE

    doubtful = [one for one in ordered(outcomes) if one.flags]
    for one in doubtful:
        more = f"; {len(one.flags) - 1} more" if len(one.flags) > 1 else ""
        typer.echo(f"not to be trusted: {one.case}: {one.flags[0].what}{more}", err=True)
    count = f"{len(doubtful)} of {len(outcomes)} case(s) not to be trusted as they are"
    typer.echo(f"{count}; report: {out / PAGE}", err=True)
    if failed := sum(bool(one.fault) for one in outcomes):
        typer.echo(f"{failed} case(s) failed", err=True)
        raise typer.Exit(2)
