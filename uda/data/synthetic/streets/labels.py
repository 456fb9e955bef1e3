"""What the pixel values of street labels mean: Cityscapes' label ids and colours, SYNTHIA's ids.

GTA5 shares Cityscapes' ids and colours. Sources: the label table of the Cityscapes scripts (Cordts
et al., CVPR 2016) and the read-me of SYNTHIA-RAND-CITYSCAPES (Ros et al., CVPR 2016).
"""

from __future__ import annotations

from typing import TypeAlias

RGB: TypeAlias = tuple[int, int, int]

_LABELS: tuple[tuple[str, RGB], ...] = (
    ("unlabeled", (0, 0, 0)),
    ("ego vehicle", (0, 0, 0)),
    ("rectification border", (0, 0, 0)),
    ("out of roi", (0, 0, 0)),
    ("static", (0, 0, 0)),
    ("dynamic", (111, 74, 0)),
    ("ground", (81, 0, 81)),
    ("road", (128, 64, 128)),
    ("sidewalk", (244, 35, 232)),
    ("parking", (250, 170, 160)),
    ("rail track", (230, 150, 140)),
    ("building", (70, 70, 70)),
    ("wall", (102, 102, 156)),
    ("fence", (190, 153, 153)),
    ("guard rail", (180, 165, 180)),
    ("bridge", (150, 100, 100)),
    ("tunnel", (150, 120, 90)),
    ("pole", (153, 153, 153)),
    ("polegroup", (153, 153, 153)),
    ("traffic light", (250, 170, 30)),
    ("traffic sign", (220, 220, 0)),
    ("vegetation", (107, 142, 35)),
    ("terrain", (152, 251, 152)),
    ("sky", (70, 130, 180)),
    ("person", (220, 20, 60)),
    ("rider", (255, 0, 0)),
    ("car", (0, 0, 142)),
    ("truck", (0, 0, 70)),
    ("bus", (0, 60, 100)),
    ("caravan", (0, 0, 90)),
    ("trailer", (0, 0, 110)),
    ("train", (0, 80, 100)),
    ("motorcycle", (0, 0, 230)),
    ("bicycle", (119, 11, 32)),
)

LABEL_NAMES: tuple[str, ...] = tuple(name for name, _ in _LABELS)
"""Name of each label id."""

LABEL_COLORS: tuple[RGB, ...] = tuple(color for _, color in _LABELS)
"""Official colour of each label id."""

LABEL_ID: dict[str, int] = {name: value for value, name in enumerate(LABEL_NAMES)}
"""Label id of each name."""

TRAIN_IDS: tuple[int, ...] = (
    *(7, 8, 11, 12, 13, 17, 19, 20, 21, 22),
    *(23, 24, 25, 26, 27, 28, 31, 32, 33),
)
"""Label id of each of the 19 classes that are scored; every other id is ignored."""

SYNTHIA_IDS: dict[int, int] = {
    7: 3,
    8: 4,
    9: 13,
    11: 2,
    12: 21,
    13: 5,
    17: 7,
    19: 15,
    20: 9,
    21: 6,
    22: 16,
    23: 1,
    24: 10,
    25: 17,
    26: 8,
    27: 18,
    28: 19,
    31: 20,
    32: 12,
    33: 11,
}
"""SYNTHIA's class id of a label id; what is missing here is SYNTHIA's void, 0 (13: parking slot)."""
