"""The files of a run that the report reads, each checked where it enters.

A fault names the file by its place in the run, so that the sentence can stand on the page without
showing where the run lies on the reader's disk.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
from typing_extensions import NotRequired, TypedDict

from uda.errors import DataError
from uda.metrics import MEASURES, CaseScore, State

REMEDY = "run `uda evaluate` on this run"
ORDER = ("phantom", "pretrain", "adabn", "prior", "adapt", "target_supervised", "evaluate")


class PerClass(TypedDict):
    """One structure over the cases that count."""

    mean: float | None
    sd: float | None
    n: int
    missed: int
    spurious: int


class Summary(TypedDict):
    """One measure over structures and cases."""

    mean: float | None
    sd: float | None
    ci95: tuple[float, float] | None
    per_class: dict[str, PerClass]


class MetricsRow(TypedDict):
    """One network."""

    name: str
    supervision: list[str]
    dice: Summary
    hd95: Summary
    assd: Summary


class ConventionClass(TypedDict):
    """One structure over the volumes, by a paper's convention."""

    mean: float | None
    sd: float | None
    n: int
    missed: int


class ConventionMeasure(TypedDict):
    """One measure by a paper's convention."""

    mean: float | None
    per_class: dict[str, ConventionClass]


class ConventionRow(TypedDict):
    """One network by a paper's convention."""

    name: str
    supervision: list[str]
    dice: ConventionMeasure
    assd: ConventionMeasure


class Convention(TypedDict):
    """The same predictions by the rules of a paper."""

    rules: list[str]
    rows: list[ConventionRow]


class PublishedRow(TypedDict):
    """A number from a paper; Dice in points."""

    row: str
    dice: float | None
    source: str


class Metrics(TypedDict):
    """What the report relies on in ``metrics.json``; other keys are free."""

    recipe: str
    classes: list[str]
    distance_unit: Literal["mm", "voxel"]
    rows: list[MetricsRow]
    environment: dict[str, Any]
    data: dict[str, Any]
    rules: list[str]
    conventions: NotRequired[dict[str, Convention]]
    published: NotRequired[list[PublishedRow]]


class Overlay(TypedDict):
    """One slice of ``overlays.json``; ``aspect`` is the height of a pixel over its width."""

    case: str
    slice: int
    rank: str
    row: str
    aspect: float
    key: str


def read_metrics(run: Path) -> dict[str, Any]:
    """The content of ``evaluate/metrics.json`` of a run folder.

    Raises:
        DataError: the file is missing, or not what ``uda evaluate`` writes; problems are listed.
    """
    path = run / "evaluate" / "metrics.json"
    content = cast("dict[str, Any]", _checked(path, Metrics))
    holes = _holes(content["rows"], content["classes"], MEASURES)
    for convention in content.get("conventions", {}).values():
        holes += _holes(convention["rows"], content["classes"], ("dice", "assd"))
    if holes:
        raise _unusable(path, "; ".join(holes[:8]))
    return content


def _holes(rows: Any, structures: Sequence[str], measures: Sequence[str]) -> list[str]:
    return [
        f"row {row['name']} has no {measure} of {name}"
        for row in rows
        for measure in measures
        for name in structures
        if name not in row[measure]["per_class"]
    ]


def read_cases(run: Path) -> list[CaseScore]:
    """The scores in ``evaluate/cases.csv``; an empty field is NaN."""
    path = run / "evaluate" / "cases.csv"
    scores = []
    for line, record in enumerate(_records(path), 2):
        try:
            row, case, structure, state = (record[k] for k in ("row", "case", "structure", "state"))
            dice, hd95, assd = (float(record[measure] or "nan") for measure in MEASURES)
            if state not in get_args(State):
                raise ValueError(f"state {state!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise _unusable(path, f"line {line}: {error}") from None
        scores.append(CaseScore(row, case, structure, dice, hd95, assd, cast("State", state)))
    return scores


def case_dice(run: Path) -> dict[tuple[str, str], float]:
    """Mean Dice over the structures that count, by (row, case); empty without ``cases.csv``."""
    if not (run / "evaluate" / "cases.csv").exists():
        return {}
    found: dict[tuple[str, str], list[float]] = {}
    for score in read_cases(run):
        if score.state != "n/a":
            found.setdefault((score.row, score.case), []).append(score.dice)
    return {key: sum(values) / len(values) for key, values in found.items()}


def read_curves(run: Path) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
    """The columns of ``metrics.csv`` of every training stage that has lines in it."""
    curves = {}
    for stage in _stage_folders(run, "metrics.csv"):
        path = run / stage / "metrics.csv"
        records = _records(path)
        if not records:
            continue
        try:
            columns = {
                name: np.array([float(record[name] or "nan") for record in records])
                for name in records[0]
            }
            curves[stage] = {name: columns.pop(name) for name in ("step", "loss")} | columns
        except (KeyError, TypeError, ValueError) as error:
            raise _unusable(path, f"{type(error).__name__} {error}", "the stage") from None
    if not curves:
        raise DataError("no stage has a metrics.csv with a step in it", where=run)
    return curves


def read_stages(run: Path) -> list[dict[str, Any]]:
    """``stage.json`` of every stage, in the order in which stages run."""
    folders = _stage_folders(run, "stage.json")
    if not folders:
        raise DataError("no stage has a stage.json", where=run)
    # The folder's name stands in where the file does not say.
    return [
        {"stage": name, **_checked(run / name / "stage.json", dict[str, Any])} for name in folders
    ]


def read_overlays(run: Path) -> list[tuple[Overlay, dict[str, npt.NDArray[np.uint8]]]]:
    """Each chosen slice with its image, source_only, the ranked row and the reference.

    The keys of the arrays are ``image``, ``source_only``, the name of the row, ``reference``.
    """
    folder = run / "evaluate"
    entries = cast("list[Overlay]", _checked(folder / "overlays.json", list[Overlay]))
    path, found = folder / "overlays.npz", []
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for entry in entries:
                key, row = entry["key"], entry["row"]
                names = {"image": f"image_{key}", "source_only": f"source_only__{key}"}
                names |= {row: f"{row}__{key}", "reference": f"reference_{key}"}
                found.append((entry, {name: arrays[place] for name, place in names.items()}))
    except FileNotFoundError:
        raise _missing(path) from None
    except (KeyError, OSError, ValueError) as error:
        raise _unusable(path, str(error)) from None
    for entry, panes in found:
        if len({pane.shape[:2] for pane in panes.values()}) > 1 or entry["aspect"] <= 0:
            raise _unusable(path, f"the arrays of case {entry['case']} do not fit each other")
    return found


def _stage_folders(run: Path, name: str) -> list[str]:
    """Stages that have the file ``name``: pretrain, prior, the adaptations, the rest."""

    def place(stage: str) -> tuple[int, str]:
        kind = stage.split("-")[0]
        return (ORDER.index(kind) if kind in ORDER else len(ORDER), stage)

    return sorted((path.parent.name for path in run.glob(f"*/{name}")), key=place)


def _checked(path: Path, kind: Any) -> Any:
    """JSON that has the type ``kind``; numbers are finite."""
    from pydantic import TypeAdapter, ValidationError

    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_not_finite)
        TypeAdapter(kind).validate_python(content)
    except FileNotFoundError:
        raise _missing(path) from None
    except ValidationError as error:
        listed = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
        raise _unusable(path, "; ".join(listed[:8])) from None
    except (OSError, ValueError) as error:
        raise _unusable(path, str(error)) from None
    return content


def _not_finite(word: str) -> float:
    raise ValueError(f"{word} is not JSON; expected null where nothing counts")


def _records(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            return list(csv.DictReader(lines))
    except FileNotFoundError:
        raise _missing(path) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unusable(path, str(error)) from None


def _missing(path: Path) -> DataError:
    return DataError(f"{path.parent.name}/{path.name} is missing", where=path, fix=REMEDY)


def _unusable(path: Path, why: str, writer: str = "`uda evaluate`") -> DataError:
    return DataError(
        f"{path.parent.name}/{path.name} is not usable: {why}",
        where=path,
        expected=f"the file as {writer} writes it",
        fix=REMEDY if writer == "`uda evaluate`" else f"run {writer} again",
    )
