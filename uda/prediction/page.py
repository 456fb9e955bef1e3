"""What the reader of a folder of predictions sees: a picture of each case, and a page with the doubtful ones first."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from uda.config.colors import distinct_colors
from uda.data.geometry import grey, turned_up, upright
from uda.files.atomic import atomic_path, write_json
from uda.networks.model_file import ModelInfo
from uda.prediction import trust
from uda.prediction.confidence import RATIO, CaseStatistics, structures_of
from uda.prediction.outcome import Outcome, Places, ordered, read_record
from uda.prediction.photos import PreparedPhoto, shown_size
from uda.prediction.volumes import PreparedCase
from uda.report.figures import data_uri, outlines, overlay
from uda.report.html import write_page
from uda.report.pictures import entropy_colours

TABLE, PAGE = "predictions.json", "report.html"
SHOWN = 60
"""cases whose pictures are on the page; all lie beside it"""
COLUMNS = 8
"""structures that have a column of their own"""
OPINION = (
    "Confidence is the model's own opinion: the overlap (Dice) with the truth that it expects, 1 being all of it. It "
    "is not calibrated on these images, and a model can be sure and wrong."
)
PROOF = (
    "A case is flagged where its image is unlike those the model was last trained on or adapted to, where a structure "
    "is missing or of unusual size, or where the model is unsure. No flag is no proof: nobody compared these masks "
    "with a reference."
)
STEPPED = (
    "Label maps are those after all steps of post-processing. Entropy, confidence and shares are those of the mean "
    "probabilities over views and slices, before components are removed and holes filled."
)
SIDE = 300
"""longest side of a pane, pixels"""
GAP = 6
OPAQUE = 0.6
"""share of a class's colour over a photograph"""
QUALITY = 85
"""of JPEG"""

Bytes = NDArray[np.uint8]


def write_report(places: Places, info: ModelInfo) -> None:
    """Write ``predictions.json`` and ``report.html`` of every case that the folder remembers."""
    found = [read_record(places, case) for case in places.recorded()]
    cases = ordered(one for one in found if one is not None)
    table = {
        "classes": list(info.classes),
        "confidence": OPINION,
        "flags": PROOF,
        "not_judged": list(trust.unknown(info)),
        "expected": {
            name: {"low": one.low, "high": one.high, "usual": list(one.seen), "cases": one.cases}
            for name, one in trust.expectations(info).items()
        },
        "cases": [one.as_json() for one in cases],
    }
    write_json(places.out / TABLE, table)
    _page(places, info, cases)


def _page(places: Places, info: ModelInfo, cases: Sequence[Outcome]) -> None:
    entries = [_entry(places, one, number < SHOWN) for number, one in enumerate(cases)]
    found = structures_of(info)
    names = [info.classes[k] for k in found]
    colours = [f"rgb{colour}" for colour in distinct_colors(len(names))]
    write_page(
        places.out / PAGE,
        "prediction.html",
        title=f"Predictions in {places.out.resolve().name}",
        subtitle=f"{len(cases)} case(s) · {', '.join(names)}",
        opinion=OPINION,
        proof=PROOF,
        cases=entries,
        doubtful=[one for one in entries if not one["case"].trusted],
        trusted=[one for one in entries if one["case"].trusted],
        columns=names if len(names) <= COLUMNS else [],
        unknown=trust.unknown(info),
        expected=trust.expectations(info),
        judged=info.images is not None,
        steps=dict(Counter(one.steps for one in cases if one.steps)),
        stepped=STEPPED,
        photos=found.start == 0,
        colours=list(zip(names, colours, strict=True)),
        styles=outlines(names),
        scale=entropy_colours(8),
        RATIO=RATIO,
        NOTHING=trust.NOTHING,
        words=trust.words,
        in_words=trust.in_words,
    )


def _entry(places: Places, case: Outcome, shown: bool) -> dict[str, Any]:
    """A case, the kinds of what is unusual about it, the flags by what to do, and its picture where it is shown."""
    kinds = [kind for kind in trust.KINDS if any(flag.kind == kind for flag in case.flags)]
    path = places.picture(case.case)
    drawn = shown and not case.fault and path.is_file()
    return {
        "case": case,
        "shown": shown,
        "kinds": ["failed"] if case.fault else kinds,
        "fixes": {
            fix: [flag for flag in case.flags if flag.fix == fix]
            for fix in dict.fromkeys(flag.fix for flag in case.flags)
        },
        "uri": data_uri("image/jpeg", path.read_bytes()) if drawn else "",
    }


def volume_picture(case: PreparedCase, statistics: CaseStatistics, structures: int) -> Image.Image:
    """Of the prepared slice that shows most of the structures, head (or front) up."""
    geometry = case.geometry
    classes, entropy = (turned_up(plane, geometry) for plane in statistics.plane)
    slice_ = turned_up(grey(case.slices[statistics.number]), geometry)
    _, row, column = geometry.prepared_spacing
    aspect = column / row if upright(geometry)[0] else row / column
    bare, drawn = (
        _decoded(overlay(slice_, labels, structures, aspect)) for labels in (None, classes)
    )
    unsure = _shaded(entropy).resize(bare.size, Image.Resampling.NEAREST)
    return _row([bare, drawn, unsure])


def photo_picture(photo: PreparedPhoto, statistics: CaseStatistics, classes: int) -> Image.Image:
    """Of a photograph, its classes in the colours of the written label map."""
    rows, columns = shown_size(photo.size, SIDE)
    table = np.array(distinct_colors(classes), np.uint8)
    pixels = Image.fromarray(np.ascontiguousarray(photo.planes.transpose(1, 2, 0)))
    bare = pixels.resize((columns, rows), Image.Resampling.LANCZOS)
    colours, unsure = (
        one.resize(bare.size, Image.Resampling.NEAREST)
        for one in (Image.fromarray(table[statistics.plane[0]]), _shaded(statistics.plane[1]))
    )
    return _row([bare, Image.blend(bare, colours, OPAQUE), unsure])


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a JPEG whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        picture.save(file, format="JPEG", quality=QUALITY)


def _shaded(entropy: Bytes) -> Image.Image:
    """Dark where the model is sure, light where it is not."""
    table = np.array(entropy_colours(256), np.uint8)
    return Image.fromarray(table[entropy])


def _decoded(uri: str) -> Image.Image:
    data = base64.b64decode(uri.partition(",")[2])
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return image


def _row(panes: list[Image.Image]) -> Image.Image:
    width, height = panes[0].size
    out = Image.new("RGB", (len(panes) * (width + GAP) - GAP, height), "white")
    for number, pane in enumerate(panes):
        out.paste(pane, (number * (width + GAP), 0))
    return out
