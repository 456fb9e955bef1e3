"""``uda check``: a card's data set, or one of nnU-Net or the Decathlon made into a card first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uda.cli.printing import print_wide

if TYPE_CHECKING:
    from uda.check.findings import CaseReport, PhotoSummary
    from uda.config.card import DatasetCard
    from uda.errors import UdaError

ROWS = 50  # cases above which the terminal shows splits and faulty cases alone
TOLD = 100  # findings of a kind at the terminal
COLUMNS = {
    "split": "split",
    "case": "case",
    "stored": "stored",
    "shape": "shape",
    "spacing": "spacing mm",
    "axes": "axes",
    "intensity": "intensity 1/50/99 %",
    "labels": "labelled voxels",
    "prepared": "prepared",
    "kept": "inside the crop",
}


def check(
    card: Annotated[
        str | None, typer.Argument(help="Card: a name of `uda list`, or a .yaml file.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder the card's root is relative to.")
    ] = None,
    from_nnunet: Annotated[
        Path | None,
        typer.Option(help="Folder of nnU-Net or the Decathlon: write its card, then check that."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for a page with pictures; with --from-nnunet the card to write."),
    ] = None,
) -> None:
    """Read every case of a card once and list every fault, before any training."""
    if (card is None) == (from_nnunet is None):
        raise typer.BadParameter("give a card or --from-nnunet, one of the two")
    if card is not None:
        from uda.config.loading import load_card

        _report(load_card(card), root, out)
        return
    if root is not None:
        raise typer.BadParameter("--root is for a card; --from-nnunet names the folder itself")
    if out is not None and out.suffix not in (".yaml", ".yml"):
        raise typer.BadParameter(f"--out is {str(out)!r}; expected a card, such as mine.yaml")
    if from_nnunet is not None:
        _from_nnunet(from_nnunet, out)


def _from_nnunet(folder: Path, out: Path | None) -> None:
    from uda.data.nnunet import read_listing, write_card

    listing = read_listing(folder)
    written = write_card(listing, out)
    typer.echo(f"card: {written.path}")
    for remark in written.remarks:
        typer.echo(f"  {remark}")
    _report(written.card, None, None, listing.source)


def _report(
    card: DatasetCard, root: Path | None, out: Path | None, promised_by: Path | None = None
) -> None:
    """Check, draw, print; exit code 2 when there is a fault."""
    from uda.check.volumes import check_card

    found = check_card(card, root, pictures=out is not None, promised_by=promised_by)
    page = None
    if out is None:
        reports = list(found)
    else:
        from uda.check.page import Album

        album = Album(out, card)
        for report in found:
            album.add(report)
        reports, page = album.reports, album.write()
    summary = next((report.summary for report in reports if report.summary), None)
    if summary is None:
        _print_cases(card.name, reports)
    else:
        _print_summary(card.name, summary)
    faults = [fault for report in reports for fault in report.faults]
    notes = [note for report in reports for note in report.notes]
    _print_findings(notes, "note")
    _print_findings(faults, "fault")
    if page is not None:
        typer.echo(f"page: {page}")
    told = f"{len(faults)} fault(s)" if faults else "no faults"
    typer.echo(f"{told}, {len(notes)} note(s)" if notes else told)
    if faults:
        raise typer.Exit(2)


def _print_cases(name: str, reports: Sequence[CaseReport]) -> None:
    """A line a case; of many cases a line a split, and the faulty ones."""
    from rich.table import Table
    from rich.text import Text

    from uda.check.findings import WHOLE_SET

    cases = [report for report in reports if report.split != WHOLE_SET]
    if len(cases) > ROWS:
        table = Table("split", "cases", "faulty", "with notes", "shapes", "axes", title=name)
        for row in _splits(cases):
            table.add_row(*row)
        print_wide(table)
        cases = [report for report in cases if report.faults]
    if cases:
        table = Table(*COLUMNS.values(), title=f"card {name}")
        for report in cases:
            style = "red" if report.faults else "yellow" if report.notes else ""
            cells = [Text(getattr(report, column)) for column in COLUMNS]
            table.add_row(*cells, style=style)
        print_wide(table)


def _print_summary(name: str, summary: PhotoSummary) -> None:
    """Of photographs there are too many for a line each."""
    from rich.table import Table
    from rich.text import Text

    for told in summary.tables():
        table = Table(title=f"card {name} · {told.title}")
        for column in told.head:
            table.add_column(column, justify="right" if column in told.numbers else "left")
        for row in told.rows:
            table.add_row(*map(Text, row))
        print_wide(table)


def _splits(cases: Sequence[CaseReport]) -> Iterator[tuple[str, ...]]:
    """One line for each split."""
    for split in dict.fromkeys(report.split for report in cases):
        members = [report for report in cases if report.split == split]
        yield (
            split,
            str(len(members)),
            str(sum(bool(report.faults) for report in members)),
            str(sum(bool(report.notes) for report in members)),
            _kinds([report.shape for report in members]),
            _kinds([report.axes for report in members]),
        )


def _kinds(values: Sequence[str]) -> str:
    different = [value for value in dict.fromkeys(values) if value]
    more = f" and {len(different) - 3} more" if len(different) > 3 else ""
    return ", ".join(different[:3]) + more


def _print_findings(found: Sequence[UdaError], kind: str) -> None:
    for number, finding in enumerate(found[:TOLD], 1):
        typer.echo(f"{kind} {number}. {finding}", err=True)
    if len(found) > TOLD:
        typer.echo(f"… and {len(found) - TOLD} {kind}s more; --out FOLDER lists all", err=True)
