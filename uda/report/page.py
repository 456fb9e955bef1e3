"""From the files of a run to one HTML page; ``table`` and its like serve the terminal.

Only files are read, so a report can be made again long after the run, on another machine, without
the data. The numbers come from ``evaluate/metrics.json``; the rest is shown where it exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from uda.errors import DataError
from uda.files.links import check_output
from uda.report.classes import class_tables
from uda.report.files import map_folders, read_metrics
from uda.report.seeds import seeds_class_tables, seeds_summary, seeds_table
from uda.report.tables import table
from uda.report.wording import (
    KEPT_TITLE,
    PHOTOS,
    PUBLISHED,
    convention_title,
    kind_of,
    marked,
    ordered,
    points,
    role,
)

__all__ = [
    "class_tables",
    "read_metrics",
    "seeds_class_tables",
    "seeds_summary",
    "seeds_table",
    "table",
    "write_report",
]

Section = tuple[str, Callable[[], str]]
"""title and maker"""


def write_report(run: Path, out: Path) -> Path:
    """Write ``report.html`` of the run folder ``run`` into the folder ``out``; returns its path.

    The page needs no other file, and is complete or absent. A section whose files are missing or
    damaged is left out with a sentence that says why.

    Raises:
        DataError: ``evaluate/metrics.json`` is missing or not what ``uda evaluate`` writes.
        RunError: ``out`` cannot be written to.
    """
    from uda.files.atomic import write_text
    from uda.report import html as report_html
    from uda.report import sections as report_page

    check_output(out)
    metrics = read_metrics(run)
    sections = []
    for title, build in _sections(run, metrics):
        try:
            body = build()
        except DataError as fault:
            body = report_html.absent(fault.what)
        sections.append((title, body))
    lead = report_page.headline(metrics)
    path = out / "report.html"
    guide = report_page.how_to_read(metrics)
    write_text(path, report_html.page(metrics["recipe"], _subtitle(metrics), lead, guide, sections))
    return path


def _sections(run: Path, metrics: Mapping[str, Any]) -> Iterator[Section]:
    """All sections, in the order of the page."""
    from uda.report import photos
    from uda.report import sections as page
    from uda.report.files import read_stages
    from uda.report.html import rules_list

    facts = {**metrics["environment"], **{f"data {k}": v for k, v in metrics["data"].items()}}
    of_photos = kind_of(metrics) is PHOTOS
    yield "Results", lambda: page.results_table(metrics)
    yield from _papers(metrics)
    yield from (_of_photos if of_photos else _of_volumes)(run, metrics)
    if any("selection" in row for row in metrics["rows"]):
        yield KEPT_TITLE, lambda: _selections(run, metrics)
    for folder in map_folders(run):
        title = f"Where classes lie: prior {folder.name.removeprefix('prior-')}"
        yield title, partial(photos.maps_section, folder, turned=not of_photos)
    yield "Rules of the evaluation", lambda: rules_list(metrics["rules"])
    yield "Training", lambda: _curves(run)
    yield "Stages", lambda: page.stages_table(read_stages(run))
    yield "Environment", lambda: page.environment_list(facts)


def _papers(metrics: Mapping[str, Any]) -> Iterator[Section]:
    """The same networks by other conventions, then what papers published."""
    from uda.report import papers

    published, kind = metrics.get("published", ()), kind_of(metrics)
    conventions = list(metrics.get("conventions", {}))
    for name in conventions:
        yield convention_title(name), partial(_convention, metrics, name)
    if published and not conventions:
        yield PUBLISHED, lambda: papers.published_rows(published, kind)


def _convention(metrics: Mapping[str, Any], name: str) -> str:
    """Rules, our rows by them, and the published rows under those."""
    from uda.report import papers, photos
    from uda.report.html import rules_list
    from uda.report.sections import results_table

    table, kind = metrics["conventions"][name], kind_of(metrics)
    if kind is PHOTOS:
        alike = {**metrics, "rows": table["rows"]}
        body = (
            rules_list(table["rules"]) + results_table(alike, ledger=False) + photos.heat_of(alike)
        )
    else:
        body = papers.convention_section(table, metrics["classes"])
    if published := metrics.get("published", ()):
        body += f"<h3>{PUBLISHED}</h3>{papers.published_rows(published, kind)}"
    return body


def _of_volumes(run: Path, metrics: Mapping[str, Any]) -> Iterator[Section]:
    from uda.report import sections as page

    yield "Structure by structure", lambda: page.structures_table(metrics)
    yield "Before and after", lambda: _overlays(run, metrics)
    yield "Case by case: Dice", lambda: _boxes(run, metrics, "dice", "Dice", "points")
    unit = metrics["distance_unit"]
    yield "Case by case: HD95", lambda: _boxes(run, metrics, "hd95", "HD95", unit)


def _of_photos(run: Path, metrics: Mapping[str, Any]) -> Iterator[Section]:
    from uda.report import photos

    yield "Class by class", lambda: photos.classes_section(metrics)
    yield "Before and after", lambda: photos.gallery_section(run, metrics)
    yield "Image by image", lambda: photos.images_section(run, metrics)


def _subtitle(metrics: Mapping[str, Any]) -> str:
    photos = kind_of(metrics) is PHOTOS
    count, cases = len(metrics["classes"]), metrics["data"].get("cases")
    parts = [] if cases is None else [f"{cases} target {'images' if photos else 'cases'}"]
    parts += [f"{count} {'classes' if photos else 'structures'}", f"{len(metrics['rows'])} rows"]
    environment = metrics["environment"]
    parts += [f"{key} {environment[key]}" for key in ("seed", "uda") if key in environment]
    return " · ".join(parts)


def _boxes(run: Path, metrics: Mapping[str, Any], measure: str, name: str, unit: str) -> str:
    """A panel per structure of one measure."""
    from uda.report import figures as report_figures
    from uda.report import sections as report_page
    from uda.report.files import read_cases

    scores = read_cases(run)
    roles = {row["name"]: role(row) for row in ordered(metrics["rows"])}
    figures = []
    for structure in metrics["classes"]:
        by_row = {
            row: [s for s in scores if (s.row, s.structure) == (row, structure)] for row in roles
        }
        text = f"{name} of {structure}, a box per row"
        uri = report_figures.box_plot(structure, by_row, roles, measure, f"{name}, {unit}")
        figures.append((text, uri))
    note = "A point is a case, the box spans the quartiles, the line is the median. " + (
        "Missed cases are counted, not drawn; their distance, the image diagonal, is in the means."
        if measure == "hd95"
        else "A cross is a missed or a spurious structure; both count as Dice 0."
    )
    used = {name: report_figures.ROLE_COLOURS[name] for name in dict.fromkeys(roles.values())}
    return report_page.role_legend(used) + report_page.panels(figures, note)


def _selections(run: Path, metrics: Mapping[str, Any]) -> str:
    """What the guard of each variant kept, and the adapted rows that had none."""
    from uda.report.files import read_selections
    from uda.report.selection import selection_section

    rows = ordered(metrics["rows"])
    alone = [r for r in rows if role(r) in ("adapted", "oracle") and "selection" not in r]
    found = read_selections(run)
    shown = {row["name"]: found[row["name"]] for row in rows if row["name"] in found}
    return selection_section(shown, map(marked, alone))


def _curves(run: Path) -> str:
    """A panel per training stage."""
    from uda.report import figures as report_figures
    from uda.report import sections as report_page
    from uda.report.files import read_curves

    figures = [
        (f"Loss of {stage} over its steps", report_figures.curve(stage, columns))
        for stage, columns in read_curves(run).items()
    ]
    return report_page.panels(figures, report_page.CURVES)


def _overlays(run: Path, metrics: Mapping[str, Any]) -> str:
    """Worst, median and best case: the image, source_only, the ranked row, the reference."""
    from uda.report import figures as report_figures
    from uda.report import sections as report_page
    from uda.report.files import case_means, read_overlays

    structures, dice = metrics["classes"], case_means(run)
    titles = {"image": "image", "source_only": "before", "reference": "reference"}
    drawn = []
    for one in read_overlays(run):
        panes = []
        case = one.entry["case"]
        for name, labels in one.panes.items():
            uri = report_figures.overlay(
                one.panes["image"],
                None if name == "image" else labels,
                len(structures),
                one.entry["aspect"],
            )
            remark = "" if titles.get(name) == name else name
            score = dice.get((name, case))
            remark += "" if score is None else f", Dice of the case {points(score)}"
            panes.append((titles.get(name, "after"), remark, uri))
        title = f"{one.entry['rank']}: case {case}, slice {one.entry['slice']}"
        drawn.append(report_page.overlay_case(title, panes))
    styles = [(name, *report_figures.structure_style(i)) for i, name in enumerate(structures)]
    return report_page.structure_legend(styles) + "".join(drawn)
