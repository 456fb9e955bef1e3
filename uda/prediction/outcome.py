"""Outcome of each case in a folder of predictions, and its JSON record.

``out/<case>.nii.gz`` (or ``.png``) is the label map, ``out/cases/<case>.json`` the record and
``out/cases/<case>.jpg`` the picture. The label map is written last, so a case with a label map is complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uda.errors import UdaError
from uda.files.atomic import read_json, write_json
from uda.prediction.confidence import CONFIDENCE, MEAN, RATIO
from uda.prediction.trust import Flag

STEPS = "postprocess"
"""key in ``made_from`` of the steps of post-processing, in words; absent without steps"""


@dataclass(frozen=True)
class Outcome:
    """The result of predicting one case."""

    case: str
    file: Path | None
    """the label map; None when the case failed"""
    fault: str = ""
    """why the case failed"""
    skipped: bool = False
    """the label map existed before this run"""
    measures: Mapping[str, float] = field(default_factory=dict)
    """measures of the image and of the prediction"""
    flags: tuple[Flag, ...] = ()
    """reasons not to trust the prediction"""
    entropy: Path | None = None
    """the entropy map"""
    made_from: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the image and of the model, and the settings that change a prediction"""
    edited: bool = False
    """the label map existed and was changed after uda wrote it"""

    @property
    def trusted(self) -> bool:
        """Whether the case was predicted and nothing is unusual. The prediction may still be wrong."""
        return not self.fault and not self.flags

    @property
    def steps(self) -> str:
        """The steps of post-processing, in words; empty without."""
        return self.made_from.get(STEPS, "")

    @property
    def confidence(self) -> float | None:
        """Mean soft Dice confidence of the structures found; None when none was found."""
        return self.measures.get(MEAN)

    @property
    def structures(self) -> dict[str, dict[str, float | None]]:
        """Confidence (None where it was not found) and ratio in the image of each structure."""
        names = [key.removeprefix(RATIO) for key in self.measures if key.startswith(RATIO)]
        return {
            name: {
                "confidence": self.measures.get(f"{CONFIDENCE}{name}"),
                "ratio": self.measures[f"{RATIO}{name}"],
            }
            for name in names
        }

    def as_json(self) -> dict[str, Any]:
        """The record; it names files without folders, because the folder may be moved."""
        return {
            "case": self.case,
            "file": self.file.name if self.file else None,
            "trusted": self.trusted,
            "fault": self.fault,
            "flags": [flag.as_json() for flag in self.flags],
            "confidence": self.confidence,
            "structures": self.structures,
            "entropy": self.entropy.name if self.entropy else None,
            "measures": dict(self.measures),
            "made_from": dict(self.made_from),
        }


@dataclass(frozen=True)
class Places:
    """Paths of the files of a case.

    Args:
        photos: whether label maps are PNG; else they are NIfTI.
    """

    out: Path
    photos: bool

    @property
    def _ending(self) -> str:
        return ".png" if self.photos else ".nii.gz"

    def labels(self, case: str) -> Path:
        return self.out / f"{case}{self._ending}"

    def entropy(self, case: str) -> Path:
        return self.out / f"{case}_entropy{self._ending}"

    def record(self, case: str) -> Path:
        return self.out / "cases" / f"{case}.json"

    def picture(self, case: str) -> Path:
        return self.out / "cases" / f"{case}.jpg"

    def maps(self, case: str, entropy: bool) -> list[Path]:
        """The label map and, on request, the entropy map."""
        return [self.labels(case), self.entropy(case)] if entropy else [self.labels(case)]

    def recorded(self) -> list[str]:
        """Names of the cases that have a record."""
        return sorted(path.stem for path in (self.out / "cases").glob("*.json"))


def write_record(places: Places, outcome: Outcome) -> None:
    """Write the record of a case atomically."""
    write_json(places.record(outcome.case), outcome.as_json())


def read_record(places: Places, case: str) -> Outcome | None:
    """The recorded outcome of a case; None where the case is incomplete or its record unreadable."""
    try:
        raw = read_json(places.record(case))
        entropy = places.entropy(case)
        found = Outcome(
            case=str(raw["case"]),
            file=places.labels(case) if raw["file"] else None,
            fault=str(raw["fault"]),
            measures={str(name): float(value) for name, value in raw["measures"].items()},
            flags=tuple(Flag(**one) for one in raw["flags"]),
            entropy=entropy if raw["entropy"] and entropy.is_file() else None,
            made_from={str(name): str(value) for name, value in raw["made_from"].items()},
        )
    except (UdaError, KeyError, TypeError, ValueError, AttributeError):
        return None
    complete = found.case == case and (found.file is None or found.file.is_file())
    return found if complete and bool(found.fault) != bool(found.file) else None


def ordered(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Failed cases first, then flagged ones, then the rest; within each group the least confident first."""

    def rank(one: Outcome) -> tuple[bool, bool, float, str]:
        confidence = -1.0 if one.confidence is None else one.confidence
        return one.trusted, not one.fault, confidence, one.case

    return sorted(outcomes, key=rank)
