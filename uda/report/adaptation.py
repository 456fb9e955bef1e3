"""The page of one adaptation of somebody's own model, where no label says how good the result is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from uda.config.postprocess import Postprocess
from uda.errors import DataError
from uda.report.figures import curve
from uda.report.files import read_curve
from uda.report.html import Section, section, write_page
from uda.report.sections import values
from uda.report.selection import judged, kept_words
from uda.report.wording import KEPT_TITLE

PAGE = "report.html"
SHOWN = ("steps", "batch", "lr", "batchnorm", "freeze_head", "snapshot_every", "select", "guard")
"""settings that its reader may want to change; ``stage.json`` holds all of them"""


def write_adaptation(
    folder: Path, name: str, record: Mapping[str, Any], photos: bool = False
) -> Path:
    """Write ``report.html`` into the folder of an adaptation, which needs no other file; returns its path.

    Args:
        folder: holds ``metrics.csv`` where anything was trained.
        name: of the folder as its reader will see it.
        record: what ``stage.json`` says: ``settings``, ``seed``, ``supervision``, ``selection``, ``environment``.
        photos: whether the images are photographs.
    """
    settings, selection = record["settings"], record.get("selection")
    trained = isinstance(settings, Mapping)
    used = ", ".join(record["supervision"])
    return write_page(
        folder / PAGE,
        "adaptation.html",
        list(_sections(folder, record)),
        title=name,
        subtitle=f"{_method(settings)} · seed {record['seed']} · used beyond images: {used}",
        kept=kept_words(selection) if selection else None,
        why=selection["why"] if selection else None,
        fell=selection and selection["fallback"],
        select=settings["select"] if trained else None,
        batchnorm=record.get("batchnorm", True),
        views=Postprocess.averaging(photos).views,
    )


def _method(settings: Any) -> str:
    if not isinstance(settings, Mapping):
        return str(settings)
    terms = " + ".join(f"{one['weight']:g}\u00a0{one['term']}" for one in settings["objective"])
    named = f"method {settings['preset']} · " if settings.get("preset") else ""
    return f"{named}objective {terms}"


def _sections(folder: Path, record: Mapping[str, Any]) -> Iterator[Section]:
    settings = record["settings"]
    if "selection" in record:
        yield section(
            KEPT_TITLE, judged, {"adaptation": record["selection"]}, macro="selection.kept"
        )
    if (folder / "metrics.csv").exists():
        yield section("Training", _training, folder / "metrics.csv", macro="sections.curves")
    if isinstance(settings, Mapping):
        yield section("Settings", values, {key: settings[key] for key in SHOWN})
    yield section("Environment", values, record["environment"])


def _training(path: Path) -> dict[str, Any]:
    if columns := read_curve(path):
        return {"figures": [("Loss over the steps", curve("loss", columns))]}
    raise DataError("no step was logged", where=path)
