"""What the verbs print: tables, and where a page lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from uda.errors import visible

if TYPE_CHECKING:
    from rich.table import Table


def print_table(folder: Path, out: Path | None = None) -> None:
    """Print a run's table and the path of its page."""
    from uda.report.files import read_metrics
    from uda.report.tables import class_tables, table

    metrics = read_metrics(folder)
    print_wide(table(metrics))
    for block in class_tables(metrics, _width()):
        print_wide(block)
    print_page(out or folder / "report")


def print_page(folder: Path) -> None:
    """Print the path of a folder's page, if there is one."""
    page = folder / "report.html"
    if page.is_file():
        typer.echo(f"report: {page}")


def print_wide(table: Table) -> None:
    """Print a table as wide as its cells: a wrapped line stays readable, a folded number does not.

    Control and invisible characters in it are printed as their codes.
    """
    from rich.console import Console
    from rich.measure import Measurement
    from rich.segment import Segments

    endless = Console(width=10_000)
    needed = Measurement.get(endless, endless.options, table).maximum
    console = Console(width=max(needed, Console().width))
    seen = [part._replace(text=visible(part.text)) for part in console.render(table)]
    console.print(Segments(seen), crop=False, end="")


def print_seeds(folders: Sequence[Path], path: Path | None) -> None:
    """Print mean ± sd over seeds, and write it to a file."""
    from uda.devices.distributed import on_first
    from uda.report.files import read_metrics
    from uda.report.seeds import seeds_class_tables, seeds_table

    summary, table = seeds_table([read_metrics(folder) for folder in folders])
    print_wide(table)
    for block in seeds_class_tables(summary, _width()):
        print_wide(block)
    if path is not None:
        on_first(lambda: _write(path, summary))
        typer.echo(f"over seeds: {path}")


def _write(path: Path, summary: Mapping[str, Any]) -> None:
    from uda.files.atomic import write_json
    from uda.files.output import output_folder

    with output_folder(path.parent):
        write_json(path, summary)


def _width() -> int:
    from rich.console import Console

    return Console().width
