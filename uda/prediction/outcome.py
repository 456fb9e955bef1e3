"""What became of each case of a folder of predictions, and the small files that remember it.

``out/<case>.nii.gz`` (or ``.png``) is the label map, ``out/cases/<case>.json`` what is to be said of it,
``out/cases/<case>.jpg`` its picture. The label map is written last, so that a case that has one is complete.
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


@dataclass(frozen=True)
class Outcome:
    """What became of one case."""

    case: str
    file: Path | None
    """its label map"""
    fault: str = ""
    """why there is none"""
    skipped: bool = False
    """it was there already"""
    measures: Mapping[str, float] = field(default_factory=dict)
    """of the image, and of what was found in it"""
    flags: tuple[Flag, ...] = ()
    """reasons not to trust it as it is"""
    entropy: Path | None = None
    """its entropy map"""

    @property
    def trusted(self) -> bool:
        """It was predicted and nothing about it is unusual. That does not make it right."""
        return not self.fault and not self.flags

    @property
    def confidence(self) -> float | None:
        """Mean soft Dice confidence of the structures found: the model's own opinion. None: nothing was found."""
        return self.measures.get(MEAN)

    @property
    def structures(self) -> dict[str, dict[str, float | None]]:
        """Of each structure its confidence, None where it was not found, and its ratio in the image."""
        names = [key.removeprefix(RATIO) for key in self.measures if key.startswith(RATIO)]
        return {
            name: {
                "confidence": self.measures.get(f"{CONFIDENCE}{name}"),
                "ratio": self.measures[f"{RATIO}{name}"],
            }
            for name in names
        }

    def as_json(self) -> dict[str, Any]:
        """Names of files, not paths: the folder may be moved."""
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
        }


@dataclass(frozen=True)
class Places:
    """Where the files of a case lie.

    Args:
        photos: they are PNG; else NIfTI.
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

    def recorded(self) -> list[str]:
        """Names of the cases that something is said of."""
        return sorted(path.stem for path in (self.out / "cases").glob("*.json"))


def write_record(places: Places, outcome: Outcome) -> None:
    """Remember what became of a case, whole or not at all."""
    write_json(places.record(outcome.case), outcome.as_json())


def read_record(places: Places, case: str) -> Outcome | None:
    """What became of a case: None where it is not complete, or nothing readable is said of it."""
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
        )
    except (UdaError, KeyError, TypeError, ValueError, AttributeError):
        return None
    complete = found.case == case and (found.file is None or found.file.is_file())
    return found if complete and bool(found.fault) != bool(found.file) else None


def ordered(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """What is not to be trusted first: failed cases, flagged ones; within each the least confident first."""

    def rank(one: Outcome) -> tuple[bool, bool, float, str]:
        sure = -1.0 if one.confidence is None else one.confidence
        return one.trusted, not one.fault, sure, one.case

    return sorted(outcomes, key=rank)
