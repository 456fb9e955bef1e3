"""From the files of a run to one HTML page; ``table`` and ``seeds_table`` serve the terminal.

Only files are read, so a report can be made again long after the run, on another machine, without
the data. The numbers come from ``evaluate/metrics.json``; the rest is shown where it exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from uda.errors import DataError
from uda.report_files import read_metrics
from uda.report_seeds import seeds_summary, seeds_table
from uda.report_table import PUBLISHED, ordered, points, role, table

__all__ = ["read_metrics", "seeds_summary", "seeds_table", "table", "write_report"]


def write_report(run: Path, out: Path) -> Path:
    """Write ``report.html`` of the run folder ``run`` into the folder ``out``; returns its path.

    The page needs no other file, and is complete or absent. A section whose files are missing or
    damaged is left out with a sentence that says why.

    Raises:
        DataError: ``evaluate/metrics.json`` is missing or not what ``uda evaluate`` writes.
        RunError: ``out`` cannot be written to.
    """
    from uda import report_html, report_page
    from uda.checkpoint import write_text

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
    guide = report_page.HOW_TO_READ
    write_text(path, report_html.page(metrics["recipe"], _subtitle(metrics), lead, guide, sections))
    return path


def _sections(run: Path, metrics: Mapping[str, Any]) -> Iterator[tuple[str, Callable[[], str]]]:
    """Title and maker of each section, in the order of the page."""
    from uda import report_page as page
    from uda import report_papers as papers
    from uda.report_files import read_stages
    from uda.report_html import rules_list

    published = metrics.get("published", ())
    conventions = metrics.get("conventions", {})
    facts = {**metrics["environment"], **{f"data {k}": v for k, v in metrics["data"].items()}}
    yield "Results", lambda: page.results_table(metrics)
    for name, convention in conventions.items():
        yield (
            papers.convention_title(name),
            partial(papers.convention_section, convention, metrics["classes"], published),
        )
    if published and not conventions:
        yield PUBLISHED, lambda: papers.published_rows(published)
    yield "Structure by structure", lambda: page.structures_table(metrics)
    yield "Before and after", lambda: _overlays(run, metrics)
    yield "Case by case: Dice", lambda: _boxes(run, metrics, None)
    yield "Case by case: HD95", lambda: _boxes(run, metrics, metrics["distance_unit"])
    yield "Rules of the evaluation", lambda: rules_list(metrics["rules"])
    yield "Training", lambda: _curves(run)
    yield "Stages", lambda: page.stages_table(read_stages(run))
    yield "Environment", lambda: page.environment_list(facts)


def _subtitle(metrics: Mapping[str, Any]) -> str:
    parts = [f"{len(metrics['classes'])} structures", f"{len(metrics['rows'])} rows"]
    if "cases" in metrics["data"]:
        parts.insert(0, f"{metrics['data']['cases']} target cases")
    environment = metrics["environment"]
    parts += [f"{key} {environment[key]}" for key in ("seed", "uda") if key in environment]
    return " · ".join(parts)


def _boxes(run: Path, metrics: Mapping[str, Any], unit: str | None) -> str:
    """A panel per structure; HD95 when a ``unit`` is given, Dice otherwise."""
    from uda import report_figures, report_page
    from uda.report_files import read_cases

    scores = read_cases(run)
    roles = {row["name"]: role(row) for row in ordered(metrics["rows"])}
    figures = []
    for structure in metrics["classes"]:
        by_row = {
            name: [s for s in scores if (s.row, s.structure) == (name, structure)] for name in roles
        }
        text = f"{'HD95' if unit else 'Dice'} of {structure}, a box per row"
        figures.append((text, report_figures.box_plot(structure, by_row, roles, unit)))
    note = "A point is a case, the box spans the quartiles, the line is the median. " + (
        "Missed cases are counted, not drawn; their distance, the image diagonal, is in the means."
        if unit
        else "A cross is a missed or a spurious structure; both count as Dice 0."
    )
    used = {name: report_figures.ROLE_COLOURS[name] for name in dict.fromkeys(roles.values())}
    return report_page.role_legend(used) + report_page.panels(figures, note)


def _curves(run: Path) -> str:
    """A panel per training stage."""
    from uda import report_figures, report_page
    from uda.report_files import read_curves

    figures = [
        (f"Loss of {stage} over its steps", report_figures.curve(stage, columns))
        for stage, columns in read_curves(run).items()
    ]
    note = "Black: the loss, with the range of its values shaded. Thin: its terms as logged."
    return report_page.panels(figures, note)


def _overlays(run: Path, metrics: Mapping[str, Any]) -> str:
    """Worst, median and best case: the image, source_only, the ranked row, the reference."""
    from uda import report_figures, report_page
    from uda.report_files import case_dice, read_overlays

    structures, dice = metrics["classes"], case_dice(run)
    titles = {"image": "image", "source_only": "before", "reference": "reference"}
    drawn = []
    for entry, arrays in read_overlays(run):
        panes = []
        for name, labels in arrays.items():
            uri = report_figures.overlay(
                arrays["image"],
                None if name == "image" else labels,
                len(structures),
                entry["aspect"],
            )
            remark = "" if titles.get(name) == name else name
            score = dice.get((name, entry["case"]))
            remark += "" if score is None else f", Dice of the case {points(score)}"
            panes.append((titles.get(name, "after"), remark, uri))
        drawn.append(report_page.overlay_case(entry, panes))
    styles = [(name, *report_figures.structure_style(i)) for i, name in enumerate(structures)]
    return report_page.structure_legend(styles) + "".join(drawn)
