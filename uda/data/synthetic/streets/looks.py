"""Two ways a street can look: as a game paints it, and as a camera on a grey day records it.

What differs is what differs between GTA5 and Cityscapes: the height and the field of view of the
camera, paint and light (the sun from one side on most days, or always an overcast sky), how often
things occur (more people, bicycles and parked cars in the older European town), and the picture
itself (:mod:`uda.data.synthetic.streets.render`). The shapes are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.random import Generator

from uda.data.synthetic.streets.canvas import Camera, Canvas, Color, Floats, Light, Paint
from uda.data.synthetic.streets.labels import LABEL_ID

StyleName: TypeAlias = Literal["game", "camera"]
Range: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Style:
    """A look, and the town it is found in.

    Attributes:
        code: tells the random draws of the styles apart.
        height, focal, horizon: camera above the ground (m), focal length (picture widths), row of
            the horizon (picture heights).
        paint: colours (0..255) of each material; things draw one of them.
        rates: share of images (lanes, slots, blocks) in which a thing occurs.
    """

    code: int
    height: Range
    focal: Range
    horizon: Range
    paint: Mapping[str, tuple[Color, ...]]
    rates: Mapping[str, float]

    def camera(self, size: tuple[int, int], offset: float, rng: Generator) -> Camera:
        """A camera of this style that drives ``offset`` metres right of the road's axis."""
        rows, cols = size
        return Camera(
            rows,
            cols,
            focal=cols * rng.uniform(*self.focal),
            horizon=rows * rng.uniform(*self.horizon),
            centre=(cols - 1) / 2,
            height=rng.uniform(*self.height),
            offset=offset + rng.uniform(-0.3, 0.3),
            heading=float(np.clip(rng.normal(0, 0.03), -0.07, 0.07)),
        )

    def light(self, rng: Generator) -> Light:
        """Sun from the left or from the right; under clouds every side is almost alike."""
        if rng.random() < self.rates["overcast"]:
            return Light(front=0.86, left=0.9, right=0.9, top=1.08)
        lit, dark = rng.uniform(1.0, 1.15), rng.uniform(0.5, 0.62)
        front = rng.uniform(0.7, 0.95)
        left, right = (lit, dark) if rng.random() < 0.5 else (dark, lit)
        return Light(front, left, right, top=1.15)

    def pick(self, material: str, rng: Generator, spread: float = 0.06) -> Color:
        """One colour (0..1) of a material, a little brighter or darker each time."""
        choices = self.paint[material]
        red, green, blue = choices[int(rng.integers(len(choices)))]
        gain = min(max(rng.normal(1, spread), 0.8), 1.2) / 255
        return red * gain, green * gain, blue * gain

    def tint(self, material: str, rng: Generator, spread: float = 0.06) -> Floats:
        """A colour as an array [3]."""
        return np.array(self.pick(material, rng, spread), np.float32)

    def coat(self, label: str, material: str, rng: Generator) -> Paint:
        """A label with one colour of a material."""
        return Paint(LABEL_ID[label], self.pick(material, rng))


@dataclass(frozen=True)
class Studio:
    """What drawing a thing needs: the canvas, the style, and random numbers of its own."""

    canvas: Canvas
    style: Style
    rng: Generator

    def coat(self, label: str, material: str) -> Paint:
        """A label with one colour of a material."""
        return self.style.coat(label, material, self.rng)


GAME = Style(
    code=1,
    height=(1.6, 2.0),
    focal=(0.85, 0.95),
    horizon=(0.44, 0.5),
    paint={
        "road": ((92, 93, 104), (84, 86, 98), (104, 102, 106)),
        "mark": ((238, 236, 226),),
        "axis": ((232, 190, 60),),
        "sidewalk": ((196, 184, 164), (182, 176, 166)),
        "parking": ((120, 116, 118),),
        "terrain": ((118, 158, 66), (132, 164, 74), (186, 166, 104)),
        "facade": (
            *((214, 122, 86), (228, 196, 128), (150, 170, 198), (188, 92, 80)),
            *((222, 214, 200), (172, 198, 160), (236, 176, 150), (120, 132, 158)),
        ),
        "glass": ((72, 108, 158), (58, 88, 130), (110, 150, 190)),
        "roof": ((150, 82, 62), (104, 100, 112), (170, 120, 84)),
        "wall": ((176, 130, 100), (200, 190, 174), (156, 112, 92)),
        "fence": ((108, 82, 60), (186, 188, 196), (70, 92, 70)),
        "rail": ((190, 192, 196),),
        "leaf": ((66, 136, 44), (84, 152, 48), (52, 118, 56), (110, 150, 44)),
        "trunk": ((120, 84, 54),),
        "pole": ((116, 118, 126), (90, 94, 98)),
        "signal": ((52, 54, 48), (196, 156, 40)),
        "sky": ((74, 134, 232), (92, 150, 236), (132, 176, 236)),
        "overcast": ((178, 196, 218), (200, 208, 220)),
        "horizon": ((178, 210, 246), (206, 222, 240)),
        "cloud": ((248, 248, 252),),
        "skin": ((224, 172, 136), (150, 100, 70), (244, 200, 168)),
        "cloth": (
            *((206, 52, 48), (52, 92, 190), (236, 210, 70), (240, 240, 240)),
            *((60, 150, 90), (150, 70, 150)),
        ),
        "trousers": ((50, 66, 118), (60, 58, 62), (170, 150, 110)),
        "body": (
            *((200, 40, 38), (44, 84, 190), (236, 236, 238), (232, 186, 44)),
            *((34, 36, 42), (60, 140, 90), (226, 120, 40), (150, 156, 168)),
        ),
        "cargo": ((236, 232, 226), (60, 110, 180), (196, 70, 52)),
        "coach": ((230, 170, 40), (60, 120, 200), (236, 236, 240)),
        "tram": ((196, 48, 50), (180, 190, 204), (40, 110, 170)),
        "cycle": ((190, 44, 48), (40, 90, 180), (40, 42, 46)),
        "tyre": ((26, 26, 30),),
        "pane": ((58, 82, 112), (40, 56, 80)),
        "bin": ((60, 90, 70), (100, 104, 112)),
        "bonnet": ((60, 62, 72), (168, 40, 40), (210, 212, 216)),
    },
    rates={
        "building": 0.84,
        "tree": 0.34,
        "verge": 0.35,
        "border": 0.6,
        "parked": 0.3,
        "traffic": 0.6,
        "people": 3.0,
        "wide": 0.55,
        "crossing": 0.4,
        "bonnet": 0.2,
        "wall": 0.36,
        "fence": 0.4,
        "signal": 0.5,
        "sign": 0.6,
        "truck": 0.3,
        "bus": 0.22,
        "train": 0.13,
        "motorcycle": 0.28,
        "bicycle": 0.3,
        "parking": 0.1,
        "guard rail": 0.15,
        "overcast": 0.35,
    },
)
"""Saturated paint, mostly in strong sun, seen from above the bonnet of a large car."""

CAMERA = Style(
    code=2,
    height=(1.2, 1.4),
    focal=(1.0, 1.12),
    horizon=(0.38, 0.44),
    paint={
        "road": ((118, 120, 118), (106, 110, 108), (128, 128, 124)),
        "mark": ((196, 200, 196),),
        "axis": ((196, 200, 196),),
        "sidewalk": ((142, 140, 134), (130, 132, 130), (150, 142, 134)),
        "parking": ((122, 118, 114),),
        "terrain": ((92, 100, 68), (104, 106, 78), (116, 108, 86)),
        "facade": (
            *((164, 154, 136), (126, 118, 108), (178, 168, 150), (138, 108, 94)),
            *((112, 116, 114), (150, 146, 142), (98, 92, 86)),
        ),
        "glass": ((70, 76, 78), (54, 58, 60), (140, 148, 148)),
        "roof": ((92, 70, 62), (74, 74, 76)),
        "wall": ((128, 120, 108), (108, 106, 102), (142, 128, 112)),
        "fence": ((84, 84, 80), (64, 72, 64), (120, 110, 98)),
        "rail": ((150, 152, 150),),
        "leaf": ((66, 80, 52), (54, 68, 46), (78, 90, 56), (72, 74, 50)),
        "trunk": ((74, 66, 58),),
        "pole": ((96, 100, 98), (120, 122, 118)),
        "signal": ((44, 46, 44), (60, 64, 56)),
        "overcast": ((222, 228, 230), (236, 240, 240)),
        "horizon": ((240, 241, 238),),
        "cloud": ((206, 211, 214),),
        "skin": ((190, 152, 130), (160, 126, 106)),
        "cloth": ((44, 46, 54), (70, 62, 58), (98, 98, 100), (60, 72, 96), (112, 50, 50)),
        "trousers": ((44, 48, 60), (36, 36, 38), (82, 78, 70)),
        "body": (
            *((38, 40, 42), (150, 154, 156), (192, 194, 192), (96, 100, 102)),
            *((50, 58, 80), (104, 44, 42)),
        ),
        "cargo": ((186, 186, 180), (116, 120, 126), (140, 80, 64)),
        "coach": ((176, 160, 108), (150, 154, 156), (124, 60, 56)),
        "tram": ((180, 172, 128), (140, 56, 52), (120, 134, 146)),
        "cycle": ((40, 42, 46), (90, 92, 96), (84, 44, 44)),
        "tyre": ((30, 31, 31),),
        "pane": ((52, 58, 60), (92, 100, 104)),
        "bin": ((72, 78, 70), (94, 94, 90)),
        "bonnet": ((62, 66, 68), (40, 42, 44)),
    },
    rates={
        "building": 0.88,
        "tree": 0.46,
        "verge": 0.35,
        "border": 0.6,
        "parked": 0.5,
        "traffic": 0.42,
        "people": 4.5,
        "wide": 0.15,
        "crossing": 0.4,
        "bonnet": 1.0,
        "wall": 0.28,
        "fence": 0.4,
        "signal": 0.5,
        "sign": 0.7,
        "truck": 0.22,
        "bus": 0.18,
        "train": 0.15,
        "motorcycle": 0.25,
        "bicycle": 0.5,
        "parking": 0.3,
        "guard rail": 0.1,
        "overcast": 1.0,
    },
)
"""Grey paint under clouds, seen from behind the windscreen of a small car."""

STYLES: dict[StyleName, Style] = {"game": GAME, "camera": CAMERA}
"""Styles by name."""
