"""Priors: what is known of the target without its labels, who told us, and whether it can be true."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uda.checkpoint import read_json, write_json
from uda.data.geometry import Geometry
from uda.errors import PriorError, nearest, raise_all
from uda.models import union
from uda.types import IGNORE

SUM_TOLERANCE = 1e-4
FORMAT = "uda-prior-1"


@dataclass(frozen=True)
class Prior:
    """Class ratios: one for the data set, and where known one for each image."""

    classes: tuple[str, ...]
    ratio: tuple[float, ...]
    supervision: tuple[str, ...]
    """who told us: none, source_labels, target_tags, target_sizes, anatomical or target_labels"""
    how: str
    """one sentence on how it was made"""
    images: Mapping[str, Mapping[int, tuple[float, ...]]] | None = None
    """case → index along the file's own slice axis → ratio"""

    def validate(self, classes: Sequence[str], where: Path | str = "the prior") -> Prior:
        """Refuse what no image can have; returns itself.

        Raises:
            PriorError: lists every fault: other classes, negative or not finite, not summing to 1.
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
        raise_all(faults[:10], str(where))
        return self

    def table(self, places: Sequence[tuple[str, int]]) -> Tensor:
        """Ratios ``[n, k]`` for images given as (case, index along the file's own slice axis).

        Raises:
            PriorError: the prior knows single images but not all of these.
        """
        if self.images is None:
            return (
                torch.tensor(self.ratio, dtype=torch.float32).expand(len(places), -1).contiguous()
            )
        missing = [p for p in places if p[0] not in self.images or p[1] not in self.images[p[0]]]
        if missing:
            listed = ", ".join(f"{case} slice {index}" for case, index in missing[:5])
            raise PriorError(
                f"the prior says nothing about {len(missing)} of {len(places)} images: {listed}",
                expected="a row for each target image",
                fix="add their tags, or use a prior for the whole data set",
            )
        return torch.tensor([self.images[case][i] for case, i in places], dtype=torch.float32)

    def save(self, path: Path) -> None:
        """Write ``prior.json``, whole or not at all."""
        raw = {
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
        write_json(path, raw)

    @classmethod
    def load(cls, path: Path) -> Prior:
        """Read ``prior.json``; the caller validates it against its classes.

        Raises:
            PriorError: missing keys or values of another type.
        """
        path = path / "prior.json" if path.is_dir() else path
        raw = read_json(path)
        try:
            if raw["format"] != FORMAT:
                raise ValueError(f"format {raw['format']!r}")
            images = raw.get("images")
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
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PriorError(
                f"is not a prior: {error!r}",
                where=path,
                expected=f"format {FORMAT!r} with classes, ratio, supervision, how, images",
                fix="make it with `uda prior`",
            ) from error


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
        fix="correct the numbers, or make the prior again with `uda prior`",
    )


def label_ratios(
    labels: Iterable[NDArray[np.uint8]], classes: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean class ratio over labelled slices ``[h, w]``, and over those slices that show the class.

    IGNORE pixels count for nothing; a class that no slice shows has ratio 0 in both.
    """
    rows = []
    for label in labels:
        counts = np.bincount(label[label != IGNORE].ravel(), minlength=classes)[:classes]
        if counts.sum():
            rows.append(counts / counts.sum())
    if not rows:
        raise PriorError("no slice has a labelled pixel", fix="check the card's label_values")
    table = np.array(rows)
    shown = np.maximum((table > 0).sum(0), 1)
    return tuple(table.mean(0).tolist()), tuple((table.sum(0) / shown).tolist())


def from_source_labels(classes: Sequence[str], ratio: Sequence[float]) -> Prior:
    """The source's mean class ratio, taken to hold in the target."""
    how = "mean class ratio over the source's labelled slices"
    return Prior(tuple(classes), tuple(ratio), ("source_labels",), how)


def from_tags(
    classes: Sequence[str],
    presence_ratio: Sequence[float],
    tags: Mapping[tuple[str, int], Sequence[bool]],
) -> Prior:
    """Per-image ratios from tags: denied structures 0, shown ones their mean ratio in source slices that
    show them, background the rest.

    Source: Bateson et al., Constrained / source-free domain adaptation, 2019–2022: a prior of image tags.

    Raises:
        PriorError: there are no tags, or the structures together exceed the image.
    """
    if not tags:
        raise PriorError("the tags name no image", fix="add a line for each target image")
    foreground = np.asarray(presence_ratio[1:])
    images: dict[str, dict[int, tuple[float, ...]]] = {}
    for (case, index), shown in tags.items():
        row = foreground * np.asarray(shown, dtype=float)
        images.setdefault(case, {})[index] = (float(1 - row.sum()), *row.tolist())
    rows = [row for of_case in images.values() for row in of_case.values()]
    mean = tuple(np.mean(rows, axis=0).tolist())
    how = "image tags; a shown structure has its mean ratio in source slices that show it"
    supervision = union(("source_labels",), ("target_tags",))
    return Prior(tuple(classes), mean, supervision, how, images).validate(classes)


def from_sizes_ml(
    classes: Sequence[str],
    sizes_ml: Mapping[str, float],
    geometries: Sequence[Geometry],
    supervision: str,
) -> Prior:
    """Ratios from volumes in ml: structure volume over the physical volume of the prepared slices,
    averaged over the target volumes; background takes the rest.

    Raises:
        PriorError: an unknown or missing structure, or sizes larger than the images.
    """
    if wrong := [name for name in sizes_ml if name not in classes[1:]]:
        raise PriorError(f"sizes_ml names {wrong[0]!r}", expected=nearest(wrong[0], classes[1:]))
    if absent := [name for name in classes[1:] if name not in sizes_ml]:
        raise PriorError(f"sizes_ml says nothing about {absent}", fix="give ml for every structure")
    shares = []
    for geometry in geometries:
        slices = geometry.turned_shape[0]
        voxels = slices * geometry.size[0] * geometry.size[1]
        image_ml = voxels * float(np.prod(geometry.prepared_spacing)) / 1000
        shares.append([sizes_ml[name] / image_ml for name in classes[1:]])
    mean = np.mean(shares, axis=0)
    if mean.sum() >= 1:
        raise PriorError(
            f"the sizes fill {mean.sum():.3g} of the mean target image",
            expected="less than the image",
            fix="give ml, not mm³; check the spacing in the image headers",
        )
    how = "volumes in ml over the physical volume of the prepared target images: " + ", ".join(
        f"{name} {sizes_ml[name]:g}" for name in classes[1:]
    )
    return Prior(tuple(classes), (float(1 - mean.sum()), *mean.tolist()), (supervision,), how)
