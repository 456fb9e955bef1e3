"""Seeds of a prior: the class of pixels of the target images that class activation maps are sure of; their files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uda.errors import PriorError, UdaError
from uda.files.atomic import load_tensors, save_tensors
from uda.priors.landmarks import Place, rows_among
from uda.priors.maps import METADATA
from uda.types import IGNORE

FORMAT = "uda-prior-seeds-1"


@dataclass(frozen=True, eq=False)
class Seeds:
    """The class of some pixels of each target image, on a coarser grid."""

    places: tuple[Place, ...]
    """case and slice index of each image"""
    labels: Tensor
    """``[n, h', w']`` uint8: the class of each pixel; ``IGNORE`` where it is not known"""
    examples: Tensor
    """``[m, c, h, w]`` uint8: a few of the images, for the picture; three channels are red, green and blue"""
    maps: Tensor
    """``[m, s, h', w']`` uint8: relative class activation in these images, 255 at its largest"""
    mapped: tuple[int, ...]
    """class number of each map"""
    shown: tuple[int, ...]
    """the numbers of these images among ``places``"""

    def shares(self, classes: Sequence[str]) -> dict[str, float]:
        """Share of all pixels that are seeds of each class."""
        table = torch.zeros(IGNORE + 1, dtype=torch.long)
        for one in self.labels:  # bincount makes int64 of what it counts
            table += torch.bincount(one.flatten(), minlength=IGNORE + 1)
        pixels = max(self.labels.numel(), 1)
        return {name: int(table[number]) / pixels for number, name in enumerate(classes)}

    def of(self, places: Sequence[Place]) -> Tensor:
        """Labels of these images, in this order.

        Raises:
            PriorError: an image without seeds.
        """
        if tuple(places) == self.places:
            return self.labels
        return self.labels[rows_among(self.places, places, "seeds")]

    def faults(self, classes: int, where: Path | str) -> list[PriorError]:
        """The reasons why these cannot be seeds for this number of classes."""
        n, problems = len(self.places), []
        if self.labels.dim() != 3 or not n == len(set(self.places)) == len(self.labels):
            problems.append(f"seeds of shape {list(self.labels.shape)} for {n} images")
        elif self.labels.dtype != torch.uint8:
            problems.append(f"seeds are {self.labels.dtype}")
        elif not self.labels.numel():
            problems.append("seeds hold no pixel")
        elif any(_beyond(one, classes) for one in self.labels):
            problems.append(f"a seed has a class number above {classes - 1}")
        expected = "uint8 [n, h, w]: a class number, or 255 where no class is known"
        fix = "make the prior again with `uda prior`"
        return [PriorError(what, where=where, expected=expected, fix=fix) for what in problems]

    def digest(self) -> str:
        """SHA-256 of all fields."""
        tensors = (self.labels, self.examples, self.maps)
        shapes = [list(tensor.shape) for tensor in tensors]
        head = json.dumps([self.places, self.mapped, self.shown, shapes])
        digest = hashlib.sha256(head.encode())
        for tensor in tensors:
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


def save_seeds(path: Path, classes: Sequence[str], seeds: Seeds) -> dict[str, Any]:
    """Write seeds and picture beside ``path`` (a prior.json); returns their entry of the JSON."""
    from uda.priors.picture import draw_seeds

    tensors, picture = _files(path)
    held = {name: getattr(seeds, name) for name in ("labels", "examples", "maps")}
    metadata = json.dumps({"format": FORMAT, "classes": list(classes)})
    save_tensors(tensors, held, {METADATA: metadata})
    shares, numbers = seeds.shares(classes), list(seeds.shown)
    photos = seeds.examples.shape[1] == 3
    shown = [seeds.places[number] for number in numbers]
    titles = [case if photos else f"{case} slice {index}" for case, index in shown]
    some = (seeds.examples, seeds.maps, seeds.mapped, seeds.labels[numbers])
    draw_seeds(picture, shares, titles, *some)
    places: dict[str, list[int]] = {}
    for case, index in seeds.places:
        places.setdefault(case, []).append(index)
    return {
        "shares": shares,
        "shape": list(seeds.labels.shape),
        "sha256": seeds.digest(),
        "mapped": list(seeds.mapped),
        "shown": numbers,
        "images": places,
    }


def load_seeds(path: Path, said: Mapping[str, Any]) -> Seeds:
    """Read the seeds beside ``path`` (a prior.json).

    Args:
        said: their entry of the JSON.

    Raises:
        PriorError: the file is missing, or its seeds have another SHA-256.
    """
    tensors, digest = _files(path)[0], str(said["sha256"])
    places = tuple((str(case), int(i)) for case, rows in said["images"].items() for i in rows)
    mapped, shown = (tuple(int(n) for n in said[name]) for name in ("mapped", "shown"))
    fix = f"copy it there together with {path.name}, or make the prior again with `uda prior`"
    if not tensors.is_file():
        what = f"{path.name} refers to seeds, but this file does not exist"
        raise PriorError(what, where=tensors, fix=fix)
    try:
        held = load_tensors(tensors)[0]
        found = Seeds(places, held["labels"], held["examples"], held["maps"], mapped, shown)
    except (UdaError, KeyError) as error:
        what = error.what if isinstance(error, UdaError) else f"holds no {error}"
        raise PriorError(what, where=tensors, expected="the seeds", fix=fix) from error
    if found.digest() != digest:
        raise PriorError(
            f"holds other seeds than those that {path.name} was written with",
            where=tensors,
            expected=f"seeds {list(said['shape'])} with the SHA-256 in {path.name}",
            fix=fix,
        )
    return found


def _beyond(labels: Tensor, classes: int) -> bool:
    return bool(((labels >= classes) & (labels != IGNORE)).any())


def _files(path: Path) -> tuple[Path, Path]:
    """Paths of tensors and picture: ``seeds.*`` for prior.json, ``NAME-seeds.*`` for NAME.json."""
    stem = "seeds" if path.stem == "prior" else f"{path.stem}-seeds"
    return path.with_name(f"{stem}.safetensors"), path.with_name(f"{stem}.png")
