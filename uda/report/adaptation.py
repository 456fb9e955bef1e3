"""The page of one adaptation of somebody's own model, where no label says how good the result is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from uda.errors import DataError
from uda.files.atomic import write_text
from uda.report.figures import curve
from uda.report.files import read_curve
from uda.report.html import absent, page
from uda.report.sections import CURVES, environment_list, panels
from uda.report.selection import kept_words, selection_section
from uda.report.wording import KEPT_TITLE

PAGE = "report.html"
GUIDE = (
    "This page tells how the model in this folder came to be. No mask of your images was looked at, so it "
    "cannot tell how good the model is: predict some images, look at the masks, and score them "
    "(<code>uda evaluate</code>) where you have references."
)
SHOWN = (
    "steps",
    "batch",
    "lr",
    "batchnorm",
    "freeze_head",
    "snapshot_every",
    "select",
    "guard",
)
"""settings that its reader may want to change; ``stage.json`` holds all of them"""
LOOK = (
    "header .fell{background:#fff8e5;border:1px solid #d8b24a;border-radius:8px;padding:8px 12px}"
)


def write_adaptation(folder: Path, name: str, record: Mapping[str, Any]) -> Path:
    """Write ``report.html`` into the folder of an adaptation, which needs no other file; returns its path.

    Args:
        folder: holds ``metrics.csv`` where anything was trained.
        name: of the folder as its reader will see it.
        record: what ``stage.json`` says: ``settings``, ``seed``, ``supervision``, ``selection``, ``environment``.
    """
    path = folder / PAGE
    told = ", ".join(record["supervision"])
    subtitle = f"{_method(record)} · seed {record['seed']} · told beyond images: {told}"
    write_text(path, page(name, subtitle, _lead(record), GUIDE, _sections(folder, record), LOOK))
    return path


def _method(record: Mapping[str, Any]) -> str:
    settings = record["settings"]
    if not isinstance(settings, Mapping):
        return str(settings)
    terms = " + ".join(f"{one['weight']:g} {one['term']}" for one in settings["objective"])
    return f"objective {terms}"


def _lead(record: Mapping[str, Any]) -> str:
    """What was kept, in one sentence, and why."""
    selection = record.get("selection")
    if selection is not None:
        kind = "headline fell" if selection["fallback"] else "headline"
        kept, why = escape(kept_words(selection)), escape(selection["why"])
        return f"<p class='{kind}'>Kept <b>{kept}</b>. {why[:1].upper()}{why[1:]}.</p>"
    if isinstance(record["settings"], Mapping):
        select = escape(str(record["settings"]["select"]))
        said = f"Kept <b>the last step</b>, whatever it is: nothing was judged (<code>select: {select}</code>)."
    else:
        said = (
            "The model as it came, with <b>BatchNorm statistics of the target</b> and nothing else: "
            "nothing was trained, so there was nothing to choose."
        )
    return f"<p class=headline>{said}</p>"


def _sections(folder: Path, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "selection" in record:
        yield KEPT_TITLE, selection_section({"adaptation": record["selection"]})
    if (folder / "metrics.csv").exists():
        yield "Training", _training(folder)
    if isinstance(record["settings"], Mapping):
        yield "Settings", environment_list({key: record["settings"][key] for key in SHOWN})
    yield "Environment", environment_list(record["environment"])


def _training(folder: Path) -> str:
    try:
        columns = read_curve(folder / "metrics.csv")
    except DataError as fault:
        return absent(fault.what)
    figures = [("Loss over the steps", curve("loss", columns))] if columns else []
    return panels(figures, CURVES) if figures else absent("no step was logged")
