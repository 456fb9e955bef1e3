"""What the pixel values of street labels mean: Cityscapes' label ids and colours, SYNTHIA's ids.

GTA5 shares Cityscapes' ids and colours. Sources: the label table of the Cityscapes scripts (Cordts
et al., CVPR 2016) and the read-me of SYNTHIA-RAND-CITYSCAPES (Ros et al., CVPR 2016).
"""

from __future__ import annotations

_LABELS: tuple[tuple[str, tuple[int, int, int], int], ...] = (
    ("unlabeled", (0, 0, 0), 0),
    ("ego vehicle", (0, 0, 0), 0),
    ("rectification border", (0, 0, 0), 0),
    ("out of roi", (0, 0, 0), 0),
    ("static", (0, 0, 0), 0),
    ("dynamic", (111, 74, 0), 0),
    ("ground", (81, 0, 81), 0),
    ("road", (128, 64, 128), 3),
    ("sidewalk", (244, 35, 232), 4),
    ("parking", (250, 170, 160), 13),
    ("rail track", (230, 150, 140), 0),
    ("building", (70, 70, 70), 2),
    ("wall", (102, 102, 156), 21),
    ("fence", (190, 153, 153), 5),
    ("guard rail", (180, 165, 180), 0),
    ("bridge", (150, 100, 100), 0),
    ("tunnel", (150, 120, 90), 0),
    ("pole", (153, 153, 153), 7),
    ("polegroup", (153, 153, 153), 0),
    ("traffic light", (250, 170, 30), 15),
    ("traffic sign", (220, 220, 0), 9),
    ("vegetation", (107, 142, 35), 6),
    ("terrain", (152, 251, 152), 16),
    ("sky", (70, 130, 180), 1),
    ("person", (220, 20, 60), 10),
    ("rider", (255, 0, 0), 17),
    ("car", (0, 0, 142), 8),
    ("truck", (0, 0, 70), 18),
    ("bus", (0, 60, 100), 19),
    ("caravan", (0, 0, 90), 0),
    ("trailer", (0, 0, 110), 0),
    ("train", (0, 80, 100), 20),
    ("motorcycle", (0, 0, 230), 12),
    ("bicycle", (119, 11, 32), 11),
)
"""Name, official colour and SYNTHIA's class id (0: void) of each label id."""

LABEL_NAMES = tuple(name for name, _, _ in _LABELS)
LABEL_COLORS = tuple(color for _, color, _ in _LABELS)
LABEL_ID = {name: value for value, name in enumerate(LABEL_NAMES)}
SYNTHIA_IDS = {value: synthia for value, (_, _, synthia) in enumerate(_LABELS) if synthia}

TRAIN_IDS = tuple(value for value in SYNTHIA_IDS if LABEL_NAMES[value] != "parking")
"""Label id of each of the 19 classes that are scored; every other id is ignored."""
