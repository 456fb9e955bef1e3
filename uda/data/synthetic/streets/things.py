"""What streets are made of, in two styles: paint, rates, and the pieces of each thing.

The styles differ as GTA5 and Cityscapes do: the camera's height and field of view, the paint, and
more people, bicycles and parked cars in the older town. The shapes are the same.
"""

from __future__ import annotations

HEIGHT, FOCAL, HORIZON = (
    ((1.6, 2.0), (1.2, 1.4)),
    ((0.85, 0.95), (1.0, 1.12)),
    ((0.44, 0.5), (0.38, 0.44)),
)
"""Of each style: camera height, focal length (picture widths), row of the horizon (picture heights)."""

PAINT = {
    "road": ("5c5d68 545662 68666a", "767876 6a6e6c 80807c"),
    "axis": ("e8be3c", "c4c8c4"),
    "sidewalk": ("c4b8a4 b6b0a6", "8e8a86 82847e 968e86"),
    "terrain": ("769e42 84a44a baa668", "5c6444 686a4e 746c56"),
    "building": ("d67a56 e4c480 96aac6 bc5c50 ded6c8 acc6a0", "a49a88 7e766c b2a896 8a6c5e 707472"),
    "roof": ("965240 686470 aa7854", "5c463e 4a4a4c"),
    "wall": ("b08264 c8beae 9c705c", "80786c 6c6a66 8e8070"),
    "fence": ("6c523c babcc4 465c46", "545450 404840 786e62"),
    "vegetation": ("42882c 549830 347638 6e962c", "425034 36442e 4e5a38 484a32"),
    "pole": ("74767e 5a5e62", "606462 787a76"),
    "case": ("343630 c49c28", "2c2e2c 3c4038"),
    "plate": ("d21a1e 1a40b2 f2cc1a", "a82c2c 2c4490 c8b03c"),
    "white": ("eeeeee", "d8d8d6"),
    "skin": ("e0ac88 966446 f4c8a8", "be9882 a07e6a"),
    "cloth": ("ce3430 345cbe ecd246 f0f0f0 3c965a", "2c2e36 463e3a 626264 3c4860 703232"),
    "trousers": ("324276 3c3a3e aa966e", "2c303c 242426 524e46"),
    "body": (
        "c82826 2c54be ececee e8ba2c 22242a 3c8c5a e27828",
        "26282a 969a9c c0c2c0 606466 323a50",
    ),
    "coach": ("e6aa28 3c78c8 ececf0 c43032", "b0a06c 969a9c 7c3c38 788692"),
    "glass": ("486c9e 3a5882 283850", "464c4e 363a3c 5c6468"),
    "tyre": ("1a1a1e", "1e1f1f"),
    "rear": ("be1a1a", "8c2020"),
}
"""Colours of each material, of which a thing draws one: in the game, before the camera."""

RATES = {
    "building": (0.84, 0.88),
    "tree": (0.34, 0.46),
    "parked": (0.3, 0.5),
    "traffic": (0.6, 0.42),
    "people": (1.5, 2.2),
    "wide": (0.55, 0.15),
    "bonnet": (0.2, 1.0),
    "wall": (0.36, 0.28),
    "fence": (0.4, 0.4),
    "signal": (0.5, 0.5),
    "sign": (0.6, 0.7),
    "truck": (0.3, 0.22),
    "bus": (0.22, 0.18),
    "train": (0.13, 0.15),
    "motorcycle": (0.28, 0.25),
    "bicycle": (0.3, 0.5),
    "overcast": (0.35, 1.0),
}
"""Share of images, lanes, slots or blocks in which a thing occurs; people: number on a side."""

_THINGS = """
car        car           block   tyre       -0.84  0.84  0.08  0.40  0.00  4.30
car        car           block   body       -0.90  0.90  0.28  0.90  0.00  4.30
car        car           windows body       -0.78  0.78  0.90  1.55  0.40  3.20
car        car           block   glass      -0.66  0.66  0.98  1.42  0.40  0.40
car        car           blocks  white       0.54  0.84  0.58  0.76  0.00  0.00
truck      truck         block   tyre       -1.20  1.20  0.40  1.00  0.00  8.50
truck      truck         block   body       -1.25  1.25  0.70  2.60  6.50  8.50
truck      truck         block   coach      -1.25  1.25  0.90  3.30  0.00  6.30
truck      truck         blocks  white       0.80  1.15  0.60  0.80  0.00  0.00
lorry      truck         block   tyre       -1.20  1.20  0.40  1.00  0.00  8.50
lorry      truck         block   coach      -1.25  1.25  0.90  3.30  2.20  8.50
lorry      truck         block   body       -1.25  1.25  0.50  2.60  0.00  2.00
lorry      truck         block   glass      -1.05  1.05  1.60  2.40  0.00  0.00
lorry      truck         blocks  white       0.80  1.15  0.70  0.95  0.00  0.00
bus        bus           windows coach      -1.30  1.30  0.30  3.10  0.00 11.50
bus        bus           block   glass      -1.10  1.10  1.30  2.60  0.00  0.00
bus        bus           blocks  white       0.80  1.15  0.60  0.85  0.00  0.00
train      train         windows coach      -1.30  1.30  0.20  3.50  0.00 26.00
train      train         block   glass      -1.10  1.10  1.50  2.90  0.00  0.00
train      train         block   white      -1.30  1.30  0.95  1.25  0.00  0.00
bicycle    bicycle       discs   tyre        0.26  0.94  0.00  0.68  0.00  0.00
bicycle    bicycle       discs   pole        0.35  0.85  0.09  0.59  0.00  0.00
bicycle    bicycle       block   body       -0.60  0.60  0.32  0.42  0.00  0.00
bicycle    bicycle       block   body       -0.35  0.45  0.70  0.80  0.00  0.00
bicycle    bicycle       block   body        0.38  0.48  0.35  1.05  0.00  0.00
motorcycle motorcycle    disc    tyre       -0.14  0.14  0.00  0.70  0.00  0.00
motorcycle motorcycle    block   body       -0.20  0.20  0.35  0.98  0.00  0.00
motorcycle motorcycle    block   tyre       -0.38  0.38  0.98  1.06  0.00  0.00
rider      rider         blocks  trousers    0.08  0.24  0.42  1.02  0.00  0.00
rider      rider         block   cloth      -0.30  0.30  1.00  1.42  0.00  0.00
rider      rider         block   cloth      -0.20  0.20  0.92  1.50  0.00  0.00
rider      rider         disc    skin       -0.13  0.13  1.46  1.76  0.00  0.00
person     person        blocks  trousers    0.06  0.22  0.00  0.88  0.00  0.00
person     person        block   cloth      -0.30  0.30  0.92  1.40  0.00  0.00
person     person        block   cloth      -0.20  0.20  0.82  1.48  0.00  0.00
person     person        disc    skin       -0.12  0.12  1.46  1.76  0.00  0.00
tree       vegetation    block   roof       -0.15  0.15  0.00  5.00  0.00  0.00
tree       vegetation    clump   vegetation -2.00  0.60  3.00  5.40  0.00  0.00
tree       vegetation    clump   vegetation -0.70  2.20  3.10  5.60  0.00  0.00
tree       vegetation    clump   vegetation -1.60  1.30  3.90  6.40  0.00  0.00
tree       vegetation    clump   vegetation -1.30  0.60  5.40  7.60  0.00  0.00
light      pole          block   pole       -0.09  0.09  0.00  7.50  0.00  0.00
light      pole          block   pole       -0.09  1.80  7.40  7.52  0.00  0.00
signal     pole          block   pole       -0.09  0.09  0.00  3.40  0.00  0.00
signal     traffic_light block   case       -0.26  0.26  2.30  3.50  0.00  0.00
signal     traffic_light disc    rear       -0.15  0.15  3.08  3.38  0.00  0.00
sign       pole          block   pole       -0.07  0.07  0.00  2.60  0.00  0.00
sign       traffic_sign  disc    plate      -0.42  0.42  2.10  2.94  0.00  0.00
sign       traffic_sign  disc    white      -0.24  0.24  2.28  2.76  0.00  0.00
bin        static        block   wall       -0.30  0.30  0.00  1.10  0.00  0.60
"""
"""Thing, label, shape, material, and extent in x, y, z (m) of each piece; plural: twice, mirrored."""

PIECES: dict[str, list[tuple[str, str, str, list[float]]]] = {}
for _thing, _label, _shape, _material, *_extent in map(str.split, _THINGS.strip().splitlines()):
    _piece = (_label.replace("_", " "), _shape, _material, [float(value) for value in _extent])
    PIECES.setdefault(_thing, []).append(_piece)

WHEEL = {"car": 0.33, "truck": 0.5, "lorry": 0.5, "bus": 0.5}
"""Radius of a vehicle's wheels."""
LENGTH = {
    thing: max(extent[-1] for *_, extent in PIECES[thing])
    for thing in ("car", "truck", "lorry", "bus", "train")
}
