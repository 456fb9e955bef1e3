"""The files of a run that the report reads, each checked where it enters.

A fault names the file by its place in the run, so that the sentence can stand on the page without
showing where the run lies on the reader's disk.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import numpy as np
import numpy.typing as npt
from typing_extensions import NotRequired, TypedDict

from uda.config.card import MOST_CLASSES
from uda.data.npz import read_arrays
from uda.errors import DataError, UdaError
from uda.files.csv_files import read_rows
from uda.files.untrusted import parse_json, read_text
from uda.report.schema import (
    MEASURES,
    METRICS_FILE,
    Metrics,
    Overlay,
    PhotoMetrics,
    Scored,
    Selection,
    State,
)

Bytes = npt.NDArray[np.uint8]

REMEDY = "give the folder of a run, or score the run with `uda evaluate RECIPE --out FOLDER`"
ORDER = ("phantom", "pretrain", "adabn", "prior", "adapt", "target_supervised", "evaluate")
MOST_GALLERIES = 3
"""Images with pictures: the worst, the median and the best."""
MOST_BYTES = 1 << 28
"""Most bytes of their pictures together: three times eighty of a megapixel."""
MOST_PIXELS = 1 << 23
"""Most pixels of one of them: 2896 × 2896."""


class Gallery(NamedTuple):
    """The pictures of one image, by what they show: ``image``, ``reference``, names of rows."""

    entry: Overlay
    panes: dict[str, Bytes]
    """the image, source_only, the ranked row and the reference, in this order"""
    entropy: dict[str, Bytes]
    """by row; 255 is the largest possible"""
    others: dict[str, Bytes]
    """the predictions of all other rows"""


class _Judged(TypedDict):
    """``stage.json``, so far as the guard wrote it."""

    selection: NotRequired[Selection]


class PriorMaps(NamedTuple):
    """The spatial maps of one prior, ``[k, h, w]``."""

    name: str
    classes: tuple[str, ...]
    how: str
    """one sentence on what they were made of"""
    maps: npt.NDArray[np.float32]


def read_metrics(run: Path) -> dict[str, Any]:
    """The content of ``evaluate/metrics.json`` of a run folder.

    A convention's row gets the ``selection`` of our row of the same name.

    Raises:
        DataError: the file is missing, or not what ``uda evaluate`` writes; problems are listed.
    """
    path = run / "evaluate" / METRICS_FILE
    photos = _of_photos(_json(path))
    content = cast("dict[str, Any]", _checked(path, PhotoMetrics if photos else Metrics))
    ours, papers = (("iou",), ("iou",)) if photos else (MEASURES, ("dice", "assd"))
    if len(content["classes"]) > MOST_CLASSES:
        raise _unusable(path, f"it has {len(content['classes'])} classes")
    holes = _holes(content["rows"], content["classes"], ours)
    for convention in content.get("conventions", {}).values():
        holes += _holes(convention["rows"], content["classes"], papers)
    if holes:
        raise _unusable(path, "; ".join(holes[:8]))
    chosen = {row["name"]: row["selection"] for row in content["rows"] if "selection" in row}
    for convention in content.get("conventions", {}).values():
        for row in convention["rows"]:
            if row["name"] in chosen:
                row["selection"] = chosen[row["name"]]
    return content


def _of_photos(content: Any) -> bool:
    rows = content.get("rows") if isinstance(content, dict) else None
    return isinstance(rows, list) and any(isinstance(r, dict) and "iou" in r for r in rows)


def _holes(rows: Any, structures: Sequence[str], measures: Sequence[str]) -> list[str]:
    return [
        f"row {row['name']} has no {measure} of {name}"
        for row in rows
        for measure in measures
        for name in structures
        if name not in row[measure]["per_class"]
    ]


def read_cases(run: Path, measures: Sequence[str] = MEASURES) -> list[Scored]:
    """The scores in ``evaluate/cases.csv``; an empty field is NaN."""
    path = run / "evaluate" / "cases.csv"
    scores = []
    for line, record in enumerate(_records(path), 2):
        try:
            row, case, structure, state = (record[k] for k in ("row", "case", "structure", "state"))
            values = {measure: float(record[measure] or "nan") for measure in measures}
            if state not in get_args(State):
                raise ValueError(f"state {state!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise _unusable(path, f"line {line}: {error}") from None
        scores.append(Scored(row, case, structure, cast("State", state), values))
    return scores


def case_means(run: Path, measure: str = "dice") -> dict[tuple[str, str], float]:
    """Mean over the structures that count, by (row, case); empty without ``cases.csv``."""
    if not (run / "evaluate" / "cases.csv").exists():
        return {}
    found: dict[tuple[str, str], list[float]] = {}
    for score in read_cases(run, (measure,)):
        if score.state != "n/a":
            found.setdefault((score.row, score.case), []).append(score.values[measure])
    return {key: sum(values) / len(values) for key, values in found.items()}


def read_curves(run: Path) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
    """The columns of ``metrics.csv`` of every training stage that has lines in it."""
    stages = _stage_folders(run, "metrics.csv")
    read = {stage: read_curve(run / stage / "metrics.csv") for stage in stages}
    curves = {stage: columns for stage, columns in read.items() if columns}
    if not curves:
        raise DataError(
            "no stage has a metrics.csv with a step in it", where=run, fix="run its stages"
        )
    return curves


def read_curve(path: Path) -> dict[str, npt.NDArray[np.float64]]:
    """The columns of one ``metrics.csv``, ``step`` and ``loss`` first; none where it has no lines."""
    records = _records(path)
    if not records:
        return {}
    try:
        columns = {
            name: np.array([float(record[name] or "nan") for record in records])
            for name in records[0]
        }
        return {name: columns.pop(name) for name in ("step", "loss")} | columns
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(path, f"{type(error).__name__} {error}", "the stage") from None


def read_selections(run: Path) -> dict[str, Selection]:
    """How each guarded variant's checkpoint was kept, by the variant's name."""
    found: dict[str, Selection] = {}
    for stage in _stage_folders(run, "stage.json"):
        if stage.startswith("adapt-"):
            path = run / stage / "stage.json"
            content = _checked(path, _Judged)
            if "selection" in content:
                found[stage.removeprefix("adapt-")] = content["selection"]
    return found


def read_stages(run: Path) -> list[dict[str, Any]]:
    """``stage.json`` of every stage, in the order in which stages run."""
    folders = _stage_folders(run, "stage.json")
    if not folders:
        raise DataError("no stage has a stage.json", where=run, fix="run its stages")
    # The folder's name stands in where the file does not say.
    return [
        {"stage": name, **_checked(run / name / "stage.json", dict[str, Any])} for name in folders
    ]


def read_overlays(run: Path) -> list[Gallery]:
    """The pictures of each chosen slice or photograph."""
    folder = run / "evaluate"
    entries = cast("list[Overlay]", _checked(folder / "overlays.json", list[Overlay]))
    path = folder / "overlays.npz"
    if len(entries) > MOST_GALLERIES:
        raise _unusable(folder / "overlays.json", f"it has {len(entries)} entries")
    try:
        _, arrays = read_arrays(path, most=MOST_BYTES)
        found = [_gallery(entry, arrays) for entry in entries]
    except DataError as error:
        raise (_unusable(path, error.what) if path.exists() else _missing(path)) from None
    except KeyError as error:
        raise _unusable(path, f"there is no array {error}") from None
    for one in found:
        shapes = {a.shape[:2] for part in one[1:] for a in part.values()}
        kinds = {(a.dtype, a.ndim in (2, 3)) for part in one[1:] for a in part.values()}
        if len(shapes) > 1 or kinds != {(np.dtype(np.uint8), True)} or one.entry["aspect"] <= 0:
            raise _unusable(path, f"the arrays of case {one.entry['case']} do not fit each other")
        if math.prod(shapes.pop()) > MOST_PIXELS:
            raise _unusable(path, f"the pictures of case {one.entry['case']} are too large")
    return found


def _gallery(entry: Overlay, arrays: Any) -> Gallery:
    key, row = entry["key"], entry["row"]
    shown = {"image": f"image_{key}", "source_only": f"source_only__{key}"}
    shown |= {row: f"{row}__{key}", "reference": f"reference_{key}"}
    predicted = {
        name.removesuffix(f"__{key}"): name for name in arrays if name.endswith(f"__{key}")
    }
    entropy = {name: f"{name}__entropy__{key}" for name in ("source_only", row)}
    entropy = {name: place for name, place in entropy.items() if place in arrays}
    others = {
        name: place
        for name, place in predicted.items()
        if name not in shown and not name.endswith("__entropy")
    }
    parts = ({n: arrays[place] for n, place in part.items()} for part in (shown, entropy, others))
    return Gallery(entry, *parts)


def map_folders(run: Path) -> list[Path]:
    """Stages of priors that know where classes lie."""
    return sorted(path.parent for path in run.glob("prior-*/prior.safetensors"))


def read_maps(folder: Path) -> PriorMaps:
    """The spatial maps of a prior's stage.

    Raises:
        DataError: the files of the prior are damaged or do not belong together.
    """
    from uda.priors import Prior

    try:
        prior = Prior.load(folder)
    except UdaError as error:
        raise DataError(f"{folder.name}: {error.what}", where=folder) from None
    if prior.maps is None:
        raise DataError(f"{folder.name}/prior.json speaks of no maps", where=folder)
    name = folder.name.removeprefix("prior-")
    return PriorMaps(name, prior.classes, prior.how, prior.maps.numpy())


def _stage_folders(run: Path, name: str) -> list[str]:
    """Stages that have the file ``name``: pretrain, prior, the adaptations, the rest."""

    def place(stage: str) -> tuple[int, str]:
        kind = stage.split("-")[0]
        return (ORDER.index(kind) if kind in ORDER else len(ORDER), stage)

    return sorted((path.parent.name for path in run.glob(f"*/{name}")), key=place)


def _checked(path: Path, kind: Any) -> Any:
    """JSON that has the type ``kind``; numbers are finite."""
    from pydantic import TypeAdapter, ValidationError

    content = _json(path)
    try:
        TypeAdapter(kind).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        listed = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
        raise _unusable(path, "; ".join(listed[:8])) from None
    return content


def _json(path: Path) -> Any:
    try:
        return parse_json(read_text(path))
    except FileNotFoundError:
        raise _missing(path) from None
    except (OSError, ValueError) as error:
        raise _unusable(path, str(error)) from None


def _records(path: Path) -> list[dict[str, str]]:
    try:
        rows = read_rows(path)
    except FileNotFoundError:
        raise _missing(path) from None
    except (OSError, ValueError) as error:
        raise _unusable(path, str(error)) from None
    head = rows[0][1] if rows else []
    for line, row in rows:
        if len(row) != len(head):
            raise _unusable(path, f"line {line} has {len(row)} cells for {len(head)} columns")
    return [dict(zip(head, row, strict=True)) for _, row in rows[1:]]


def _missing(path: Path) -> DataError:
    return DataError(f"{path.parent.name}/{path.name} is missing", where=path, fix=REMEDY)


def _unusable(path: Path, why: str, writer: str = "`uda evaluate`") -> DataError:
    return DataError(
        f"{path.parent.name}/{path.name} is not usable: {why}",
        where=path,
        expected=f"the file as {writer} writes it",
        fix=REMEDY if writer == "`uda evaluate`" else f"run {writer} again",
    )
