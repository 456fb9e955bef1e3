"""Segments that an NRRD file names: of 3D Slicer (``.seg.nrrd``) and of MITK's multi-label segmentations.

3D Slicer writes ``Segment0_Name``, ``Segment0_LabelValue`` and ``Segment0_Layer``; older files have a layer of zeros
and ones for each segment and only its name. MITK writes its groups of labels as JSON in
``org.mitk.multilabel.segmentation.labelgroups``; older files have ``layers``, ``layer_000`` and an XML text for each
label (``label_000_00001``).
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uda.config.card import DatasetCard
from uda.data.annotations.target import class_index
from uda.data.nrrd import Header
from uda.errors import DataError, UdaError, nearest, raise_all
from uda.files.untrusted import parse_json
from uda.types import IGNORE, OTHER

MITK = "org.mitk.multilabel.segmentation.labelgroups"
OLD_MITK = "org.mitk.image.multilabel"
MOST = 10_000
"""Segments of one file."""
_SLICER = re.compile(r"Segment([0-9]{1,6})_(Name|LabelValue|Layer|ID)")
_OLD_LABEL = re.compile(r"(?:org\.mitk\.)?label_([0-9]{3})_[0-9]{5}")
_UNNAMED = re.compile(r"|segment[ _]?[0-9]*|label[ _]?[0-9]*", re.IGNORECASE)
"""Names that programs give, which say nothing."""


class Segment(NamedTuple):
    """Voxels of one value in one layer, and their name."""

    name: str
    value: int
    layer: int


def segments_of(header: Header, path: Path) -> tuple[Segment, ...]:
    """The segments that a header names; none where it is a plain volume.

    Raises:
        DataError: what it says of them cannot be read.
    """
    fields = header.fields
    try:
        found = _slicer(fields, header.layers)
        if MITK in fields:
            found = _mitk(fields[MITK])
        elif fields.get("modality") == OLD_MITK:
            found = _old_mitk(fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"what its header says of its segments cannot be read: {' '.join(str(error).split())[:200]}",
            where=path,
            expected="a segmentation of 3D Slicer or MITK",
            fix="save it again in the program that wrote it",
        ) from error
    if len(found) > MOST or any(not 0 <= segment.layer < header.layers for segment in found):
        raise DataError(
            f"its header names {len(found)} segments, and layers that it does not have",
            where=path,
            expected=f"segments in layers 0 to {header.layers - 1}",
            fix="save it again in the program that wrote it",
        )
    return tuple(found)


def _slicer(fields: Mapping[str, str], layers: int) -> list[Segment]:
    parts: dict[int, dict[str, str]] = {}
    for name, value in fields.items():
        if found := _SLICER.fullmatch(name):
            parts.setdefault(int(found[1]), {})[found[2]] = value
    return [
        Segment(
            part.get("Name", part.get("ID", "")).strip(),
            int(part.get("LabelValue", 1)),
            int(part.get("Layer", number if layers > 1 else 0)),
        )
        for number, part in sorted(parts.items())
    ]


def _mitk(text: str) -> list[Segment]:
    return [
        Segment(str(label["name"]).strip(), int(label["value"]), layer)
        for layer, group in enumerate(parse_json(text))
        for label in group.get("labels") or []
    ]


def _old_mitk(fields: Mapping[str, str]) -> list[Segment]:
    found = []
    for name, text in fields.items():
        if at := _OLD_LABEL.fullmatch(name):
            value = re.search(r'key="value"[^>]{0,200}>\s{0,200}<\w+ value="([0-9]{1,9})"', text)
            called = re.search(r'key="name"[^>]{0,200}>\s{0,200}<\w+ value="([^"]{0,1000})"', text)
            if value is None or called is None:
                raise ValueError(f"{name} has no value or no name")
            if int(value[1]):  # 0 is what is not labelled
                found.append(Segment(html.unescape(called[1]).strip(), int(value[1]), int(at[1])))
    return found


def segment_classes(
    segments: tuple[Segment, ...], card: DatasetCard, path: Path
) -> dict[tuple[int, int], int]:
    """Class of each value of each layer, ``(layer, value)``; the name says it, in any case of letters.

    A segment that no one named (``Segment_1``) has the class of its value in the card's ``label_values``. The name
    ``ignore`` says that nothing is said.

    Raises:
        DataError: lists every segment whose name is no class, and every value that two segments have.
    """
    values = {v: name for name, group in card.label_values.items() for v in group}
    found: dict[tuple[int, int], int] = {}
    faults: list[UdaError] = []
    for segment in segments:
        name = segment.name
        if _UNNAMED.fullmatch(name) and class_index(name, card) is None:
            name = values.get(segment.value, name)
        index = IGNORE if name.casefold() == "ignore" else class_index(name, card)
        if index is None:
            faults.append(
                DataError(
                    f"card {card.name!r} has no class {name!r}, the name of a segment",
                    where=path,
                    expected=nearest(name, card.classes),
                    fix="call the segment as the card calls its class",
                )
            )
        elif found.setdefault((segment.layer, segment.value), index) != index:
            faults.append(
                DataError(
                    f"two segments have the value {segment.value} in layer {segment.layer}",
                    where=path,
                    fix="save it again in the program that wrote it",
                )
            )
    raise_all(faults, str(path))
    return found


def merged(
    layers: NDArray[Any], classes: Mapping[tuple[int, int], int], card: DatasetCard, path: Path
) -> NDArray[np.uint8]:
    """Layers ``[n, i, j, k]`` as one map of classes ``[i, j, k]``; ``OTHER`` where no segment is drawn.

    Raises:
        DataError: a value without a segment, or voxels that lie in segments of two classes.
    """
    out = np.full(layers.shape[1:], OTHER, dtype=np.uint8)
    for number, layer in enumerate(layers):
        for value in np.unique(layer):
            if value == 0:
                continue
            own = layer == value
            index = classes.get((number, int(value))) if value == np.rint(value) else None
            if index is None:
                raise DataError(
                    f"{int(own.sum())} voxels have the value {value:g} in layer {number}, which no segment has",
                    where=path,
                    fix="save it again in the program that wrote it",
                )
            before = out[own]
            if (both := (before != OTHER) & (before != index)).any():
                names = f"{_called(int(before[both][0]), card)} and {_called(index, card)}"
                raise DataError(
                    f"{int(both.sum())} voxels lie in segments of two classes, {names}",
                    where=path,
                    expected="one class a voxel",
                    fix="let segments not overlap",
                )
            out[own] = index
    return out


def _called(index: int, card: DatasetCard) -> str:
    return "ignore" if index == IGNORE else card.classes[index]
