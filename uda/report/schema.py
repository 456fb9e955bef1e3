"""The shapes of what ``uda evaluate`` writes, so far as the report relies on them; other keys are free."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from typing_extensions import NotRequired, TypedDict

# ok        in the reference and in the prediction
# missed    in the reference only: Dice 0, distances = image diagonal, never less than a hit
# spurious  in the prediction only: Dice 0, distances undefined and not averaged
# n/a       in neither: the case does not count for this structure
State = Literal["ok", "missed", "spurious", "n/a"]


Measure = Literal["dice", "hd95", "assd"]


MEASURES: tuple[Measure, ...] = ("dice", "hd95", "assd")


METRICS_FILE = "metrics.json"
"""what ``uda evaluate`` writes and this room reads"""


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


class RowSelection(TypedDict):
    """Which checkpoint a guarded row kept; ``kept`` is ``source``, ``adabn`` or ``step`` and its number."""

    select: str
    kept: str
    step: int
    fallback: bool
    why: str
    ended: str


class Candidate(TypedDict):
    """A model that was judged; ``faults`` are sentences, ``rank`` is None where it could not be chosen, ``refused``
    says why it may not replace AdaBN."""

    name: str
    step: int
    safe: bool
    faults: list[str]
    rank: float | None
    refused: NotRequired[str]
    scores: dict[str, float | None]


class Selection(RowSelection):
    """What ``stage.json`` says of how a checkpoint was kept; ``rule`` names the scores that ranked, ``criteria`` are
    all settings of the rule, ``better`` says which values of a score are better."""

    rule: list[str]
    criteria: NotRequired[dict[str, Any]]
    better: NotRequired[dict[str, Literal["larger", "smaller"]]]
    candidates: list[Candidate]


class MetricsRow(TypedDict):
    """One network on volumes."""

    name: str
    supervision: list[str]
    dice: Summary
    hd95: Summary
    assd: Summary
    selection: NotRequired[RowSelection]
    trained_on: NotRequired[str]
    source: NotRequired[str]
    postprocess: NotRequired[dict[str, Any]]


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


class ClassIou(TypedDict):
    """One class over all images; its ``n``, ``missed`` and ``spurious`` are images."""

    mean: float | None
    n: int
    missed: int
    spurious: int
    share: float | None


class Iou(TypedDict):
    """IoU of the classes from one confusion matrix."""

    mean: float | None
    ci95: tuple[float, float] | None
    per_class: dict[str, ClassIou]


class PhotoRow(TypedDict):
    """One network on photographs, by our rules or by another convention."""

    name: str
    supervision: list[str]
    iou: Iou
    accuracy: float | None
    subsets: dict[str, float | None]
    selection: NotRequired[RowSelection]
    trained_on: NotRequired[str]
    source: NotRequired[str]
    postprocess: NotRequired[dict[str, Any]]


class PhotoConvention(TypedDict):
    """The same networks, predicting in another way."""

    rules: list[str]
    rows: list[PhotoRow]


class PublishedRow(TypedDict):
    """A number from a paper, in points."""

    row: str
    dice: float | None
    miou: NotRequired[float | None]
    source: str


class Common(TypedDict):
    """What every ``metrics.json`` holds."""

    recipe: str
    classes: list[str]
    environment: dict[str, Any]
    data: dict[str, Any]
    rules: list[str]
    published: NotRequired[list[PublishedRow]]


class Metrics(Common):
    """``metrics.json`` of volumes."""

    distance_unit: Literal["mm", "voxel"]
    rows: list[MetricsRow]
    conventions: NotRequired[dict[str, Convention]]


class PhotoMetrics(Common):
    """``metrics.json`` of photographs; ``colors`` are red, green and blue by class, and of ``ignore``."""

    rows: list[PhotoRow]
    conventions: NotRequired[dict[str, PhotoConvention]]
    colors: NotRequired[dict[str, tuple[int, int, int]]]


class Overlay(TypedDict):
    """One slice of ``overlays.json``; ``aspect`` is the height of a pixel over its width."""

    case: str
    slice: int
    rank: str
    row: str
    aspect: float
    key: str


class Scored(NamedTuple):
    """A line of ``cases.csv``; a value is NaN where it is undefined."""

    row: str
    case: str
    structure: str
    state: State
    values: dict[str, float]
    """by measure: ``dice``, ``hd95``, ``assd``, or ``iou``"""
