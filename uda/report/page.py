"""From the files of a run to one HTML page.

Only files are read, so a report can be made again long after the run, on another machine, without
the data. The numbers come from ``evaluate/metrics.json``; the rest is shown where it exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from uda.files.links import check_output
from uda.report import photos, sections, selection
from uda.report.files import map_folders, read_metrics
from uda.report.html import Section, section, write_page
from uda.report.wording import (
    KEPT_TITLE,
    PHOTOS,
    PUBLISHED,
    best,
    convention_title,
    kind_of,
    source_gain,
    whole_gain,
)


def write_report(run: Path, out: Path) -> Path:
    """Write ``report.html`` of the run folder ``run`` into the folder ``out``; returns its path.

    The page needs no other file, and is complete or absent. A section whose files are missing or
    damaged is left out with a sentence that says why.

    Raises:
        DataError: ``evaluate/metrics.json`` is missing or not what ``uda evaluate`` writes.
        RunError: ``out`` cannot be written to.
    """
    check_output(out)
    metrics = read_metrics(run)
    top = best(metrics["rows"])
    return write_page(
        out / "report.html",
        "report.html",
        list(_sections(run, metrics)),
        title=metrics["recipe"],
        subtitle=_subtitle(metrics),
        kind=kind_of(metrics),
        top=top,
        gain=whole_gain(top, metrics["rows"]) if top else None,
        trained=source_gain(top, metrics["rows"]) if top else None,
    )


def _sections(run: Path, metrics: Mapping[str, Any]) -> Iterator[Section]:
    """All sections, in the order of the page."""
    published, conventions = metrics.get("published"), metrics.get("conventions", {})
    of_photos = kind_of(metrics) is PHOTOS
    yield section("Results", sections.results, metrics)
    for name in conventions:
        yield section(convention_title(name), sections.convention, metrics, name)
    if published and not conventions:
        yield section(PUBLISHED, sections.published, metrics)
    if of_photos:
        yield section("Class by class", photos.classes, metrics)
        yield section("Before and after", photos.gallery, run, metrics)
        yield section("Image by image", photos.images, run, metrics)
    else:
        yield section("Structure by structure", sections.structures, metrics)
        yield section("Before and after", sections.overlays, run, metrics)
        for name, unit in (("Dice", "points"), ("HD95", metrics["distance_unit"])):
            yield section(f"Case by case: {name}", sections.boxes, run, metrics, name, unit)
    if any("selection" in row for row in metrics["rows"]):
        yield section(KEPT_TITLE, selection.kept, run, metrics)
    for folder in map_folders(run):
        title = f"Where classes lie: prior {folder.name.removeprefix('prior-')}"
        yield section(title, photos.maps, folder, not of_photos)
    yield section("Rules of the evaluation", sections.rules, metrics["rules"])
    yield section("Training", sections.curves, run)
    yield section("Stages", sections.stages, run)
    facts = {**metrics["environment"], **{f"data {k}": v for k, v in metrics["data"].items()}}
    yield section("Environment", sections.values, facts)


def _subtitle(metrics: Mapping[str, Any]) -> str:
    of_photos = kind_of(metrics) is PHOTOS
    count, cases = len(metrics["classes"]), metrics["data"].get("cases")
    parts = [] if cases is None else [f"{cases} target {'images' if of_photos else 'cases'}"]
    parts += [f"{count} {'classes' if of_photos else 'structures'}", f"{len(metrics['rows'])} rows"]
    environment = metrics["environment"]
    parts += [f"{key} {environment[key]}" for key in ("seed", "uda") if key in environment]
    return " · ".join(parts)
