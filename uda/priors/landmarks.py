"""Landmark superpixels: the superpixels of each target image, the classes of the most confident, their files."""

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
from uda.priors.maps import METADATA, name_taken
from uda.types import IGNORE

FORMAT = "uda-prior-landmarks-1"
Place = tuple[str, int]
"""case, and index along the file's own slice axis"""


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Superpixels of the target images on a coarser grid, and the classes of some of them."""

    places: tuple[Place, ...]
    """case and slice index of each image"""
    segments: Tensor
    """``[n, h', w']`` int16: the superpixel of each pixel of the coarser grid"""
    classes: Tensor
    """``[n, s]`` uint8: the class of each superpixel; ``IGNORE`` where it is not confident enough, and as padding"""
    examples: Tensor
    """``[m, c, h, w]`` uint8: a few of the images, for the picture; three channels are red, green and blue"""
    shown: tuple[int, ...]
    """the numbers of these images among ``places``"""

    @property
    def superpixels(self) -> int:
        """Number of superpixels in all images."""
        return int((self.segments.flatten(1).amax(1).long() + 1).sum())

    def counts(self, classes: Sequence[str]) -> dict[str, int]:
        """Number of superpixels of each class."""
        table = torch.bincount(self.classes.flatten().long(), minlength=IGNORE + 1)
        return {name: int(table[number]) for number, name in enumerate(classes)}

    def of(self, places: Sequence[Place]) -> tuple[Tensor, Tensor]:
        """Segments and classes of these images, in this order.

        Raises:
            PriorError: an image without superpixels.
        """
        if tuple(places) == self.places:
            return self.segments, self.classes
        rows = rows_among(self.places, places, "superpixels")
        return self.segments[rows], self.classes[rows]

    def faults(self, classes: int, where: Path | str) -> list[PriorError]:
        """The reasons why these cannot be landmarks for this number of classes."""
        n, problems = len(self.places), []
        if self.segments.dim() != 3 or self.classes.dim() != 2:
            problems.append(f"landmarks of shapes {_shapes(self)}")
        elif not n == len(set(self.places)) == len(self.segments) == len(self.classes):
            problems.append(f"landmarks of shapes {_shapes(self)} for {n} images")
        elif self.segments.dtype != torch.int16 or self.classes.dtype != torch.uint8:
            problems.append(f"landmarks are {self.segments.dtype} and {self.classes.dtype}")
        elif not n or int(self.segments.min()) < 0 or int(self.segments.max()) >= self.most:
            problems.append(f"landmarks have superpixel numbers outside 0 to {self.most - 1}")
        elif bool(((self.classes >= classes) & (self.classes != IGNORE)).any()):
            problems.append(f"a landmark has a class number above {classes - 1}")
        expected = "int16 [n, h, w] from 0 and uint8 [n, s]: a class number, or 255 for no class"
        fix = "make the prior again with `uda prior`"
        return [PriorError(what, where=where, expected=expected, fix=fix) for what in problems]

    @property
    def most(self) -> int:
        """The largest number of superpixels of an image."""
        return int(self.classes.shape[1])

    def digest(self) -> str:
        """SHA-256 of all fields."""
        digest = hashlib.sha256(json.dumps([self.places, self.shown, _shapes(self)]).encode())
        for tensor in (self.segments, self.classes, self.examples):
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


def save_landmarks(path: Path, classes: Sequence[str], landmarks: Landmarks) -> dict[str, Any]:
    """Write landmarks and picture beside ``path`` (a prior.json); returns their entry of the JSON.

    Raises:
        PriorError: ``path`` has the name of its own landmarks or picture.
    """
    from uda.priors.picture import draw_landmarks

    tensors, picture = _files(path)
    if path in (tensors, picture):
        raise name_taken(path)
    held = {name: getattr(landmarks, name) for name in ("segments", "classes", "examples")}
    metadata = json.dumps({"format": FORMAT, "classes": list(classes)})
    save_tensors(tensors, held, {METADATA: metadata})
    counts, numbers = landmarks.counts(classes), list(landmarks.shown)
    photos = landmarks.examples.shape[1] == 3
    shown = [landmarks.places[number] for number in numbers]
    titles = [case if photos else f"{case} slice {index}" for case, index in shown]
    some = (landmarks.examples, landmarks.segments[numbers], landmarks.classes[numbers])
    draw_landmarks(picture, counts, titles, *some)
    places: dict[str, list[int]] = {}
    for case, index in landmarks.places:
        places.setdefault(case, []).append(index)
    return {
        "superpixels": landmarks.superpixels,
        "kept": sum(counts.values()) / landmarks.superpixels,
        "counts": counts,
        "shape": list(landmarks.segments.shape),
        "sha256": landmarks.digest(),
        "shown": numbers,
        "images": places,
    }


def load_landmarks(path: Path, said: Mapping[str, Any]) -> Landmarks:
    """Read the landmarks beside ``path`` (a prior.json).

    Args:
        said: their entry of the JSON.

    Raises:
        PriorError: the file is missing, or its landmarks have another SHA-256.
    """
    tensors, digest = _files(path)[0], str(said["sha256"])
    places = tuple((str(case), int(i)) for case, rows in said["images"].items() for i in rows)
    shown = tuple(int(number) for number in said["shown"])
    fix = f"copy it there together with {path.name}, or make the prior again with `uda prior`"
    if not tensors.is_file():
        what = f"{path.name} refers to landmarks, but this file does not exist"
        raise PriorError(what, where=tensors, fix=fix)
    try:
        held = load_tensors(tensors)[0]
        found = Landmarks(places, held["segments"], held["classes"], held["examples"], shown)
    except (UdaError, KeyError) as error:
        what = error.what if isinstance(error, UdaError) else f"holds no {error}"
        raise PriorError(what, where=tensors, expected="the landmarks", fix=fix) from error
    if found.digest() != digest:
        raise PriorError(
            f"holds other landmarks than those that {path.name} was written with",
            where=tensors,
            expected=f"landmarks {list(said['shape'])} with the SHA-256 in {path.name}",
            fix=fix,
        )
    return found


def rows_among(held: Sequence[Place], places: Sequence[Place], what: str) -> Tensor:
    """Where each of ``places`` stands in ``held``, ``[n]`` int64.

    Args:
        what: what the prior holds of these images, for the message.

    Raises:
        PriorError: an image that is not there.
    """
    numbers = {place: number for number, place in enumerate(held)}
    if missing := [place for place in places if place not in numbers]:
        listed = ", ".join(f"{case} slice {index}" for case, index in missing[:5])
        raise PriorError(
            f"the prior has no {what} of {len(missing)} of {len(places)} images: {listed}",
            fix="make the prior again for these images",
        )
    return torch.tensor([numbers[place] for place in places], dtype=torch.long)


def _files(path: Path) -> tuple[Path, Path]:
    """Paths of tensors and picture: ``landmarks.*`` for prior.json, ``NAME-landmarks.*`` for NAME.json."""
    stem = "landmarks" if path.stem == "prior" else f"{path.stem}-landmarks"
    return path.with_name(f"{stem}.safetensors"), path.with_name(f"{stem}.png")


def _shapes(landmarks: Landmarks) -> list[list[int]]:
    return [list(t.shape) for t in (landmarks.segments, landmarks.classes, landmarks.examples)]
