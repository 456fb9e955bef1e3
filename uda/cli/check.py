"""``uda check``: the data set of a card, one of nnU-Net or the Decathlon, for which it writes the card first, or the
images of a model; and what is marked on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uda.cli.options import Root
from uda.cli.printing import print_wide

if TYPE_CHECKING:
    from uda.check.findings import CaseReport
    from uda.check.findings import Table as Sums
    from uda.config.card import DatasetCard
    from uda.errors import UdaError

Begin = Callable[[Iterable[str]], object]
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
    model: Annotated[
        Path | None, typer.Option(help="Your trained model, instead of a card.")
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option(help="With --model your images: a folder, or a pattern in quotes."),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(help="Folder of what is marked on some images. Default: the card's."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for a page with pictures; with --from-nnunet the card to write."),
    ] = None,
) -> None:
    """Read every case of a card, and what is marked on it, and list every fault before training."""
    if [card, from_nnunet, model].count(None) != 2:
        raise typer.BadParameter("give a card, --from-nnunet, or --model and --target")
    if (model is None) != (target is None):
        raise typer.BadParameter("--model and --target go together: your model and your images")
    if root is not None and card is None:
        raise typer.BadParameter("--root goes with a card; other options name the folder itself")
    if card is not None:
        from uda.config.loading import load_card

        _check_card(load_card(card), root, out, annotations)
    elif model is not None and target is not None:
        _check_images(model, target, annotations, out)
    elif from_nnunet is not None:
        if annotations is not None:
            raise typer.BadParameter("--annotations goes with a card, or with --model")
        if out is not None and out.suffix not in (".yaml", ".yml"):
            raise typer.BadParameter(
                f"--out is {str(out)!r}; expected the card to write, e.g. mine.yaml"
            )
        _from_nnunet(from_nnunet, out)


def _check_card(
    card: DatasetCard,
    root: Path | None,
    out: Path | None,
    annotations: Path | None = None,
    promised_by: Path | None = None,
) -> None:
    from uda.check.volumes import annotations_folder, check_card
    from uda.data.cases import folders_of_card

    marked = annotations_folder(card, root, annotations)

    def reports(pictures: bool, begin: Begin) -> Iterator[CaseReport]:
        return check_card(
            card,
            root,
            annotations=annotations,
            pictures=pictures,
            promised_by=promised_by,
            begin=begin,
        )

    # The folders are looked for only where a page could come to lie in them.
    inputs = [] if out is None else [*folders_of_card(card, root), *([marked] if marked else [])]
    _report(card, reports, out, inputs, marked is not None)


def _check_images(model: Path, target: Path, annotations: Path | None, out: Path | None) -> None:
    from uda.check.volumes import check_images
    from uda.data.cases import cases_in, folders_of
    from uda.networks.model_file import card_of, model_path, read_info

    card = card_of(read_info(model))
    card = card.model_copy(update={"title": f"{target}, prepared as for {model}"})
    cases = cases_in(target, card.photos)

    def reports(pictures: bool, begin: Begin) -> Iterator[CaseReport]:
        return check_images(card, cases, annotations=annotations, pictures=pictures, begin=begin)

    inputs = [model_path(model), *folders_of(cases), *([annotations] if annotations else [])]
    _report(card, reports, out, inputs, annotations is not None)


def _from_nnunet(folder: Path, out: Path | None) -> None:
    from uda.data.nnunet import read_listing, write_card

    listing = read_listing(folder)
    written = write_card(listing, out)
    typer.echo(f"card: {written.path}")
    for remark in written.remarks:
        typer.echo(f"  {remark}")
    _check_card(written.card, None, None, promised_by=listing.source)


def _report(
    card: DatasetCard,
    check: Callable[[bool, Begin], Iterator[CaseReport]],
    out: Path | None,
    inputs: Sequence[Path],
    annotated: bool,
) -> None:
    """Check, draw and print; exit with 2 if there is a fault.

    Args:
        check: makes the reports, with pictures or without.
        inputs: files and folders from which the page must lie apart.
        annotated: whether there may be pictures of annotations.
    """
    page = None
    if out is None:
        reports = list(check(False, lambda cases: None))
    else:
        from uda.check.page import Album
        from uda.files.output import output_folder

        with output_folder(out, inputs) as ledger:
            album = Album(out, card)
            for report in check(True, lambda cases: ledger.check(album.paths(cases, annotated))):
                album.add(report)
            reports, page = album.reports, album.write()
    summary = next((report.summary for report in reports if report.summary), None)
    if summary is None:
        _print_cases(card.name, reports)
    else:
        _print_tables(card.name, summary.tables())
    _print_tables(card.name, [table for report in reports for table in report.tables])
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


def _print_tables(name: str, blocks: Iterable[Sums]) -> None:
    """Print sums over photographs, which are too many for a line each, or over annotations."""
    from rich.table import Table
    from rich.text import Text

    for block in blocks:
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
