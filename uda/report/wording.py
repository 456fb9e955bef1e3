"""The words of the report: what kind of row each is, the order of rows, and numbers as text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from uda.config.postprocess import POST
from uda.config.recipe import LAST

Role = Literal["baseline", "adapted", "oracle", "supervised"]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """What a run is scored by, and the words for it."""

    main: Literal["dice", "iou"]
    """key of a row's main measure"""
    mean: str
    """name of the main measure's mean"""
    single: str
    """name of it for one structure"""
    case: str
    structure: str


VOLUMES = Kind("dice", "Dice", "Dice", "case", "structure")
PHOTOS = Kind("iou", "mIoU", "IoU", "image", "class")

ROLES: dict[Role, str] = {
    "baseline": "not adapted",
    "adapted": "adapted, no target labels",
    "oracle": "oracle: saw target labels",
    "supervised": "trained on target labels",
}
DAGGER = "† saw target labels: a bound, not an adaptation result"
CONVENTIONS = {
    "sifa": "By the convention of PnP-AdaNet and SIFA",
    "multi_scale": "Several scales and mirror images",
}
PUBLISHED = "Published, not run here"
KEPT_TITLE = "Which checkpoint was kept"
ARROW = " → "
FELL_BACK = "→ kept the model before adaptation, because no checkpoint was safe and better"
FELL_BACK_SEEDS = "→ in so many seeds kept the model before adaptation"
BEFORE = {"source": "source_only", "adabn": "adabn"}
"""what a guarded adaptation may keep in place of a checkpoint, and the row that shows the same network"""
BASELINES = ("source_only", "adabn", "views")
"""rows before adaptation; those of a further source training have its name before"""
FAIR: tuple[Role, ...] = ("baseline", "adapted")
"""rows that compete: they saw no target labels"""
FOLD = 24  # characters of a row's name in a line
NARROW = 16  # the same where subsets of classes need the room


def kind_of(metrics: Mapping[str, Any]) -> Kind:
    """Photographs have rows with an ``iou``, volumes have rows with a ``dice``."""
    return PHOTOS if any("iou" in row for row in metrics["rows"]) else VOLUMES


def score(row: Row) -> Mapping[str, Any]:
    """The main measure of a row."""
    found: Mapping[str, Any] = row["iou"] if "iou" in row else row["dice"]
    return found


def role(row: Row) -> Role:
    """What a row is to the reader; anything that saw target labels is no adaptation result."""
    name = row["name"].removesuffix(POST)
    if name.endswith(BASELINES):
        return "baseline"
    if name == "target_supervised":
        return "supervised"
    return "oracle" if "target_labels" in row["supervision"] else "adapted"


def ordered(rows: Iterable[Row]) -> list[Row]:
    """source_only, adabn, the adapted rows in file order, then whatever saw target labels.

    A row with post-processing follows the one without.
    """
    place = list(ROLES)

    def key(row: Row) -> tuple[int, int]:
        name = row["name"].removesuffix(POST)
        baseline = next((i for i, one in enumerate(BASELINES) if name.endswith(one)), 0)
        return place.index(role(row)), baseline

    return sorted(rows, key=key)


def competes(row: Row) -> bool:
    """Whether a row is compared with the others: it saw no target labels, has no post-processing, and is not the last
    step of a training of which another was kept. Of two such rows only labels would tell the better one."""
    return role(row) in FAIR and not row["name"].endswith((POST, LAST))


def best(rows: Iterable[Row]) -> Row | None:
    """The row that :func:`competes`, adapted or not, with the highest mean score."""
    fair = filter(competes, ordered(rows))  # of equals the one that did nothing
    scored = [r for r in fair if score(r)["mean"] is not None]
    return max(scored, key=lambda row: float(score(row)["mean"]), default=None)


def tops(rows: Iterable[Row], names: Sequence[str]) -> list[float | None]:
    """The highest score of each class among the rows that compete."""
    fair = [score(row)["per_class"] for row in rows if competes(row)]
    found = [[one[name]["mean"] for one in fair if one[name]["mean"] is not None] for name in names]
    return [max(values, default=None) for values in found]


def leads(row: Row, name: str, top: float | None) -> bool:
    """Whether a row has the highest score of a class, as :func:`tops` found it."""
    return bool(top) and competes(row) and score(row)["per_class"][name]["mean"] == top


def fallback(row: Row) -> str:
    """The row whose network this one kept in place of a checkpoint, or in how many seeds it did; empty otherwise."""
    said = row.get("selection", {})
    if count := said.get("fallbacks", 0):
        return f"{count} of {row['n']} seed{'s' * (row['n'] > 1)}"
    return BEFORE.get(said["kept"], str(said["kept"])) if said.get("fallback") else ""


def fell_back(rows: Iterable[Row]) -> str:
    """What the arrow beside a name means; empty where no row has one."""
    found = [row["selection"] for row in rows if fallback(row)]
    if not found:
        return ""
    return FELL_BACK_SEEDS if any("fallbacks" in one for one in found) else FELL_BACK


def upper_bound(rows: Iterable[Row]) -> str:
    """Which labels trained the row ``target_supervised``; empty where no row says it."""
    splits = dict.fromkeys(row["trained_on"] for row in rows if "trained_on" in row)
    return f"target_supervised: trained on the labels of {', '.join(splits)}" if splits else ""


def marked(row: Row) -> str:
    """The row's name, with a dagger when it saw target labels, and with an arrow to what it fell back to."""
    if role(row) in ("oracle", "supervised"):
        return f"{row['name']} †"
    kept = fallback(row)
    return f"{row['name']}{ARROW}{kept}" if kept else str(row["name"])


def steps_said(rows: Iterable[Row]) -> str:
    """The steps of the rows with post-processing; empty where there are none."""
    found = [row["postprocess"] for row in rows if row["name"].endswith(POST)]
    said = ("+ post: " + ", ".join(f"{k} {json.dumps(v)}" for k, v in one.items()) for one in found)
    return next(said, "")


def last_said(rows: Iterable[Row]) -> str:
    """What the rows of last steps are; empty where there are none."""
    found = any(row["name"].removesuffix(POST).endswith(LAST) for row in rows)
    return (
        f"…{LAST}: the last step of a training of which another was kept, not ranked"
        if found
        else ""
    )


def views_said(rows: Iterable[Row]) -> str:
    """Why there is a row ``views``; empty where there is none."""
    found = any(row["name"].endswith("views") and role(row) == "baseline" for row in rows)
    told = "views: the mean over views of an image, the baseline where adabn changes nothing for want of BatchNorm"
    return told if found else ""


def missed(row: Row, kind: Literal["missed", "spurious"] = "missed") -> int:
    """Structures of cases that were missed (or spurious), over all structures."""
    return sum(int(one[kind]) for one in score(row)["per_class"].values())


def points(fraction: float | None, sign: bool = False) -> str:
    """A fraction in points: 0.7812 -> 78.1; a dash when nothing counted."""
    return number(None if fraction is None else 100 * fraction, sign)


def number(value: float | None, sign: bool = False) -> str:
    """One decimal with a true minus; a dash when nothing counted."""
    if value is None:
        return "–"
    value = round(value, 1) + 0.0  # no minus before a zero
    return f"{value:{'+' if sign else ''}.1f}".replace("-", "−")


def mean_sd(measure: Mapping[str, Any], scale: float = 1.0) -> str:
    """``78.1 ± 3.2``; without the spread when it is unknown."""
    mean, sd = measure["mean"], measure["sd"]
    if mean is None:
        return "–"
    return number(scale * mean) + ("" if sd is None else f" ± {number(scale * sd)}")


def gain(row: Row, rows: Iterable[Row]) -> float | None:
    """What adaptation gained: the mean score minus that of the row's own source model, a fraction."""
    return _difference(row, unadapted(row, rows))


def whole_gain(row: Row, rows: Sequence[Row]) -> float | None:
    """The mean score minus that of source_only, a fraction; None for source_only itself."""
    first = next((r for r in rows if r["name"] == BASELINES[0]), None)
    return None if row is first else _difference(row, first)


def source_gain(row: Row, rows: Sequence[Row]) -> float | None:
    """What source training gained: the mean score of the row's own source model minus source_only, a fraction."""
    own = unadapted(row, rows)
    first = next((r for r in rows if r["name"] == BASELINES[0]), None)
    return None if own is None else _difference(own, first)


def unadapted(row: Row, rows: Iterable[Row]) -> Row | None:
    """The row of the source model that a row started from."""
    name = "_".join(filter(None, [row.get("source"), BASELINES[0]]))
    return next((one for one in rows if one["name"] == name), None)


def _difference(row: Row, other: Row | None) -> float | None:
    mean, less = score(row)["mean"], None if other is None else score(other)["mean"]
    return None if less is None or mean is None else float(mean - less)


def interval(measure: Mapping[str, Any]) -> str:
    """``42.1–45.3`` in points; a dash when it is unknown."""
    return "–" if measure["ci95"] is None else "–".join(points(end) for end in measure["ci95"])


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: 42 s, 3 min 5 s, 2 h 4 min."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def folded(name: str, width: int = FOLD) -> str:
    """A name in lines of ``width`` characters."""
    return "\n".join(name[i : i + width] for i in range(0, len(name), width))


def head_lines(name: str, width: int = 10) -> list[str]:
    """A name in lines of ``width`` characters, broken after underscores and at spaces where that is enough.

    An arrow and what it leads to have a line of their own.
    """
    name, arrow, kept = name.partition(ARROW)
    if arrow:
        return [*head_lines(name, width), *head_lines(f"{ARROW.strip()} {kept}", width)]
    lines = [""]
    for piece in name.replace("_", "_\0").replace(" ", " \0").split("\0"):
        for part in folded(piece, width).split("\n"):
            if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
                lines.append("")
            lines[-1] += part
    return [line.rstrip() for line in lines]


def narrow(measure: Mapping[str, Any], scale: float = 1.0) -> str:
    """``78.1 ±3.2``, which may break before the sign and nowhere else."""
    return mean_sd(measure, scale).replace("± ", "±")


def subset_names(metrics: Mapping[str, Any]) -> list[str]:
    """Labels of the subsets of classes, of which every row has a mean."""
    return list(metrics["rows"][0]["subsets"]) if metrics["rows"] else []


def convention_title(name: str) -> str:
    """Whose rules these are, or how these rows predict."""
    return CONVENTIONS.get(name, f"By the convention of {name}")


def published_score(row: Row, kind: Kind) -> str:
    """What a paper reports, in points; a dash where it says nothing of our measure."""
    return number(row.get("miou" if kind is PHOTOS else "dice"))
