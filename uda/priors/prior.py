"""A prior of the target's class ratios: its fields, their validation, and ``prior.json``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uda.errors import PriorError, raise_all
from uda.files.atomic import read_json, write_json
from uda.files.digests import fingerprint
from uda.files.new import check_file, new_files
from uda.networks.size_distribution import SizeDistribution
from uda.priors.landmarks import Landmarks, load_landmarks, save_landmarks
from uda.priors.maps import load_maps, maps_digest, maps_fault, save_maps
from uda.priors.seeds import Seeds, load_seeds, save_seeds

SUM_TOLERANCE = 1e-4
FORMAT = "uda-prior-1"
PRIOR_FILE = "prior.json"
REMEDY = "correct the numbers, or make the prior again with `uda prior`"


@dataclass(frozen=True, eq=False)
class Prior:
    """Class ratios of the data set; optionally of each image, with sizes, maps, landmarks and seeds."""

    classes: tuple[str, ...]
    ratio: tuple[float, ...]
    supervision: tuple[str, ...]
    """ledger entries: none, source_labels, target_tags, target_sizes, anatomical or target_labels"""
    how: str
    """how the prior was made, in one sentence"""
    images: Mapping[str, Mapping[int, tuple[float, ...]]] | None = None
    """case → index along the file's own slice axis → ratio"""
    sizes: SizeDistribution | None = None
    """how often and how large each class is in the source's labelled slices"""
    maps: Tensor | None = None
    """``[k, h, w]`` float32: how often each class is at a pixel; sums to 1 over the classes"""
    landmarks: Landmarks | None = None
    """superpixels of each image, and the classes of the most confident ones"""
    seeds: Seeds | None = None
    """the class of those pixels of each image that class activation maps are sure of"""
    photos: bool = False
    """whether the images are photographs: pictures of the prior show them upright"""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Prior) and self.fingerprint() == other.fingerprint()

    def __hash__(self) -> int:
        return hash(self.fingerprint())

    def fingerprint(self) -> str:
        """SHA-256 of every field except ``photos``."""
        raw: dict[str, Any] = {
            "classes": self.classes,
            "ratio": self.ratio,
            "supervision": self.supervision,
            "how": self.how,
            "images": None
            if self.images is None
            else {case: dict(rows) for case, rows in self.images.items()},
        }
        if self.sizes is not None:
            raw["sizes"] = self.sizes.as_json()
        if self.maps is not None:
            raw["maps"] = maps_digest(self.maps)
        if self.landmarks is not None:
            raw["landmarks"] = self.landmarks.digest()
        if self.seeds is not None:
            raw["seeds"] = self.seeds.digest()
        return fingerprint(raw)

    def validate(self, classes: Sequence[str], where: Path | str = "the prior") -> Prior:
        """Return the prior itself when its values are possible for these classes.

        Raises:
            PriorError: other classes; or up to 10 faults, such as a ratio that is negative, not finite or
                does not sum to 1.
        """
        if tuple(classes) != self.classes:
            raise PriorError(
                f"the prior is for the {len(self.classes)} classes {list(self.classes)}",
                where=where,
                expected=f"the model's {len(classes)}: {list(classes)}",
                fix="estimate the prior for this model's classes",
            )
        named = [("ratio", self.ratio)]
        for case, rows in (self.images or {}).items():
            named += [(f"images.{case}.{number}", row) for number, row in rows.items()]
        faults = [f for name, row in named if (f := _fault(name, row, len(classes), where))]
        for what in self.sizes.faults(len(classes)) if self.sizes else ():
            expected = f"{len(classes)} shares in [0, 1], and as many rows of rising quantiles"
            faults.append(PriorError(what, where=where, expected=expected, fix=REMEDY))
        if self.maps is not None and (fault := maps_fault(self.maps, len(classes), where)):
            faults.append(fault)
        if self.landmarks is not None:
            faults += self.landmarks.faults(len(classes), where)
        if self.seeds is not None:
            faults += self.seeds.faults(len(classes), where)
        raise_all(faults[:10], str(where))
        return self

    def table(
        self, places: Sequence[tuple[str, int]], known: Collection[tuple[str, int]] = ()
    ) -> Tensor:
        """Ratios ``[n, k]`` of all target images.

        Args:
            places: (case, index along the file's own slice axis) of each image.
            known: further slices of the target's files that preparation leaves out; the prior may name
                them too.

        Raises:
            PriorError: the prior has ratios of single images, but lacks one of these or has one of others.
        """
        if self.images is None:
            return (
                torch.tensor(self.ratio, dtype=torch.float32).expand(len(places), -1).contiguous()
            )
        missing = [p for p in places if p[0] not in self.images or p[1] not in self.images[p[0]]]
        if missing:
            raise PriorError(
                f"the prior has no ratio for {len(missing)} of {len(places)} images: "
                f"{listed(missing)}",
                expected="a row for each target image",
                fix="add their tags, or use a prior for the whole data set",
            )
        there = {*places, *known}
        named = ((case, index) for case, rows in self.images.items() for index in rows)
        if unknown := [place for place in named if place not in there]:
            raise PriorError(
                f"the prior names {len(unknown)} images that the target does not have: "
                f"{listed(unknown)}",
                expected=f"only cases and slices of the {len(places)} target images",
                fix="correct the case names and slice numbers, and make the prior again",
            )
        return torch.tensor([self.images[case][i] for case, i in places], dtype=torch.float32)

    def save(self, path: Path) -> None:
        """Write ``prior.json``; maps, landmarks and seeds go beside it as safetensors, each with a picture.

        The JSON moves to its place last and holds their checksums, so it never describes other tensors.

        Raises:
            DataError: another file has one of these names; no file is replaced.
            RunError: the disk refuses (full, read-only, quota).
        """
        raw: dict[str, Any] = {
            "format": FORMAT,
            "classes": self.classes,
            "ratio": self.ratio,
            "supervision": self.supervision,
            "how": self.how,
            "images": None
            if self.images is None
            else {
                case: {str(i): row for i, row in rows.items()} for case, rows in self.images.items()
            },
        }
        if self.sizes is not None:
            raw["sizes"] = self.sizes.as_json()
        check_file(path)
        with new_files(path.parent) as folder:
            new = folder / path.name
            if self.maps is not None:
                raw["maps"] = save_maps(new, self.classes, self.maps, self.photos)
            if self.landmarks is not None:
                raw["landmarks"] = save_landmarks(new, self.classes, self.landmarks)
            if self.seeds is not None:
                raw["seeds"] = save_seeds(new, self.classes, self.seeds)
            if self.photos:
                raw["photos"] = True
            write_json(new, raw)

    @classmethod
    def load(cls, path: Path) -> Prior:
        """Read ``prior.json`` with its maps, landmarks and seeds; the caller validates it against its classes.

        Raises:
            ModelError: the file is not JSON.
            PriorError: no such file, missing keys, values of another type, or maps, landmarks or seeds that
                are missing or changed.
        """
        path = path / PRIOR_FILE if path.is_dir() else path
        if not path.is_file():
            raise PriorError(
                "there is no such file",
                where=path,
                fix="give the path of a prior.json; `uda prior` makes one",
            )
        raw = read_json(path)
        try:
            if raw["format"] != FORMAT:
                raise ValueError(f"format {raw['format']!r}")
            images, sizes, maps = raw.get("images"), raw.get("sizes"), raw.get("maps")
            landmarks, seeds = raw.get("landmarks"), raw.get("seeds")
            return cls(
                classes=tuple(str(c) for c in raw["classes"]),
                ratio=tuple(float(r) for r in raw["ratio"]),
                supervision=tuple(str(s) for s in raw["supervision"]),
                how=str(raw["how"]),
                images=None
                if images is None
                else {
                    str(case): {int(i): tuple(float(r) for r in row) for i, row in rows.items()}
                    for case, rows in images.items()
                },
                sizes=None if sizes is None else SizeDistribution.from_json(sizes),
                maps=None if maps is None else load_maps(path, maps),
                landmarks=None if landmarks is None else load_landmarks(path, landmarks),
                seeds=None if seeds is None else load_seeds(path, seeds),
                photos=bool(raw.get("photos", False)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PriorError(
                f"is not a prior: {error!r}",
                where=path,
                expected=f"format {FORMAT!r} with classes, ratio, supervision, how, images",
                fix="make it with `uda prior`",
            ) from error


def listed(places: Sequence[tuple[str, int]]) -> str:
    """The first few images by name."""
    return ", ".join(f"{case} slice {index}" for case, index in places[:5])


def _fault(name: str, row: Sequence[float], classes: int, where: Path | str) -> PriorError | None:
    if len(row) != classes:
        what = f"{name} has {len(row)} entries"
    elif not all(np.isfinite(r) and r >= 0 for r in row):
        what = f"{name} is {[round(r, 6) for r in row]}"
    elif abs(sum(row) - 1) > SUM_TOLERANCE:
        what = f"{name} sums to {sum(row):.6g}"
    else:
        return None
    return PriorError(
        what,
        where=where,
        expected=f"{classes} shares of the image, none negative, that sum to 1 (background included)",
        fix=REMEDY,
    )
