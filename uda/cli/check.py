"""``uda check``: the data set of a card, or one of nnU-Net or the Decathlon, for which it writes the card first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uda.cli.options import Root
from uda.cli.printing import print_wide

if TYPE_CHECKING:
    from uda.check.findings import CaseReport, PhotoSummary
    from uda.config.card import DatasetCard
    from uda.errors import UdaError

ROWS = 50  # with more cases, the terminal shows only splits and faulty cases
SHOWN = 100  # faults, and notes, that the terminal shows
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
        str | None, typer.Argument(help="Card: a name from `uda list`, or a .yaml file.")
    ] = None,
    root: Root = None,
    from_nnunet: Annotated[
        Path | None,
        typer.Option(help="Folder of nnU-Net or the Decathlon: write its card, then check it."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for a page with pictures; with --from-nnunet the card to write."),
    ] = None,
) -> None:
    """Read every case of a card and list every fault before training."""
    if (card is None) == (from_nnunet is None):
        raise typer.BadParameter("give either a card or --from-nnunet")
    if card is not None:
        from uda.config.loading import load_card

        _report(load_card(card), root, out)
        return
    if root is not None:
        raise typer.BadParameter("--root goes with a card; --from-nnunet is the folder itself")
    if out is not None and out.suffix not in (".yaml", ".yml"):
        raise typer.BadParameter(
            f"--out is {str(out)!r}; expected the card to write, e.g. mine.yaml"
        )
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
    """Check, draw and print; exit with 2 if there is a fault."""
    from uda.check.volumes import check_card

    page = None
    if out is None:
        reports = list(check_card(card, root, promised_by=promised_by))
    else:
        from uda.check.page import Album
        from uda.data.cases import folders_of_card
        from uda.files.output import output_folder

        with output_folder(out, folders_of_card(card, root)) as ledger:
            album = Album(out, card)

            def begin(cases: Iterable[str]) -> None:
                ledger.check(album.paths(cases))

            for report in check_card(card, root, pictures=True, begin=begin):
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
    result = f"{len(faults)} fault(s)" if faults else "no faults"
    typer.echo(f"{result}, {len(notes)} note(s)" if notes else result)
    if faults:
        raise typer.Exit(2)


def _print_cases(name: str, reports: Sequence[CaseReport]) -> None:
    """Print one line for each case; of many cases one line for each split, and the faulty cases."""
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
    if len(cases) > ROWS:
        typer.echo(f"the first {ROWS} of {len(cases)} faulty cases:")
        cases = cases[:ROWS]
    if cases:
        table = Table(*COLUMNS.values(), title=f"card {name}")
        for report in cases:
            style = "red" if report.faults else "yellow" if report.notes else ""
            cells = [Text(getattr(report, column)) for column in COLUMNS]
            table.add_row(*cells, style=style)
        print_wide(table)


def _print_summary(name: str, summary: PhotoSummary) -> None:
    """Print the sums over a set of photographs, which are too many for a line each."""
    from rich.table import Table
    from rich.text import Text

    for block in summary.tables():
        table = Table(title=f"card {name} · {block.title}")
        for column in block.head:
            table.add_column(column, justify="right" if column in block.numbers else "left")
        for row in block.rows:
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
    for number, finding in enumerate(found[:SHOWN], 1):
        typer.echo(f"{kind} {number}. {finding}", err=True)
    if len(found) > SHOWN:
        typer.echo(
            f"… and {len(found) - SHOWN} {kind}s more; the page of --out FOLDER lists all", err=True
        )
